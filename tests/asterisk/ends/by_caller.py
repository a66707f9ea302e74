"""Ends that the caller makes: CANCEL and BYE at every moment, and silence."""

from __future__ import annotations

from tests.asterisk.ends.scenario import CALLER, TALK_MS, TARGET, Play, answered, cancelled, end


@end("CANCEL while the target has said no more than 100 Trying: the caller gets 487, the target CANCEL.", cancelled())
def caller_cancels_before_it_rings(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.rings(100)
    play.caller.keeps(200)
    play.caller.cancels()
    play.caller.hears("487")
    play.target.hears("CANCEL")


@end("CANCEL while the target rings: 487; the target gets CANCEL, too.", cancelled())
def caller_cancels_while_it_rings(play: Play) -> None:
    play.rings()
    play.caller.keeps(700)
    play.caller.cancels()
    play.caller.hears("487")
    play.target.hears("CANCEL")


@end("BYE from the caller; the target gets BYE.", answered(CALLER))
def caller_hangs_up(play: Play) -> None:
    play.talks()
    play.ends_by(play.caller, TALK_MS)


@end("BYE from the caller right after its ACK.", answered(CALLER))
def caller_hangs_up_at_once(play: Play) -> None:
    play.talks()
    play.ends_by(play.caller, 0)


@end(
    "The caller never sends ACK: the 200 is repeated for 32 s, then both sides get BYE.",
    answered(CALLER),
    lasts_s=60,
    note="Talk counts from the answer of the target, which did its part.",
)
def caller_never_acknowledges(play: Play) -> None:
    play.caller.acks = False
    play.talks()
    play.target.hears("BYE", within_s=45)


@end("BYE from the target; the caller is gone and does not answer ours.", answered(TARGET))
def caller_is_gone_when_the_target_hangs_up(play: Play) -> None:
    play.talks()
    play.caller.mute = True
    play.target.keeps(TALK_MS)
    play.target.hangs_up()
    play.target.hears("200", of="BYE")
