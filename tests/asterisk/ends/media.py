"""Ends that have to do with media and session timers: early media, one-way talk, silence, refreshes that fail."""

from __future__ import annotations

from lab.wait import wait_for
from tests.asterisk.ends.scenario import (
    CALLER,
    SYSTEM,
    TALK_MS,
    TARGET,
    TIGHT,
    Play,
    answered,
    cancelled,
    end,
    failed,
)

SHORTEST_S = 90  # the least session timer that RFC 4028 and Asterisk allow


@end("183 with SDP, media flows, then 200: talk counts from the 200.", answered(CALLER))
def early_media_then_answer(play: Play) -> None:
    _early_media(play)
    play.target.answers()
    play.caller.hears("200")
    play.target.hears("ACK")
    play.ends_by(play.caller, TALK_MS)


@end("183 with SDP, then 486.", failed("BUSY", 17, 486))
def early_media_then_busy(play: Play) -> None:
    _early_media(play)
    play.target.refuses(486)
    play.caller.hears("486")


@end("183 with SDP, then the caller cancels.", cancelled())
def early_media_then_cancel(play: Play) -> None:
    _early_media(play)
    play.caller.cancels()
    play.caller.hears("487")
    play.target.hears("CANCEL")


def _early_media(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.rings(183, early_media=True)
    play.caller.hears("183")
    play.target.media.talk()
    play.caller.media.talk()
    wait_for(lambda: play.caller.media.heard, "early media")
    play.caller.keeps(1_200)


@end("Only the caller sends media; BYE from the caller.", answered(CALLER))
def only_the_caller_talks(play: Play) -> None:
    play.talks()
    play.caller.media.talk()
    play.ends_by(play.caller, TALK_MS)


@end(
    "Media of both sides stops; the target's endpoint has `rtp_timeout = 2`: both get BYE.",
    answered(SYSTEM, cause=(16, 44)),
    targets=(TIGHT,),
)
def target_falls_silent(play: Play) -> None:
    _falls_silent(play)


@end(
    "Media of both sides stops; the trunk's endpoint has `rtp_timeout = 2`: both get BYE.",
    answered(SYSTEM, cause=(16, 44)),
    from_watched_trunk=True,
)
def caller_falls_silent(play: Play) -> None:
    _falls_silent(play)


def _falls_silent(play: Play) -> None:
    play.talks()
    for phone in (play.caller, play.target):
        phone.media.talk()
    play.caller.keeps(TALK_MS)
    for phone in (play.caller, play.target):
        phone.media.fall_silent()
    play.target.hears("BYE")
    play.caller.hears("BYE")


@end(
    "The target asked for a session timer of 90 s and answers our refresh, after 45 s, with 481.",
    answered(TARGET),
    lasts_s=75,
)
def target_refuses_the_session_refresh(play: Play) -> None:
    play.target.on = {"UPDATE": 481, "INVITE": 481}
    play.rings()
    play.target.answers(
        headers={"Supported": "timer", "Require": "timer", "Session-Expires": f"{SHORTEST_S};refresher=uac"}
    )
    play.caller.hears("200")
    play.target.hears("BYE", within_s=60)
    play.caller.hears("BYE")


@end(
    "The caller promised to refresh a session timer of 90 s and does not: BYE to both after 60 s.",
    answered(CALLER),
    lasts_s=90,
)
def caller_does_not_refresh_the_session(play: Play) -> None:
    timer = {"Supported": "timer", "Session-Expires": f"{SHORTEST_S};refresher=uac", "Min-SE": str(SHORTEST_S)}
    play.caller.calls(play.number, headers=timer)
    play.target.is_called()
    play.target.answers()
    play.caller.hears("200")
    play.target.hears("BYE", within_s=80)
    play.caller.hears("BYE")
