"""Ends that the target makes: refusal, silence, nonsense, forwarding, BYE."""

from __future__ import annotations

from tests.asterisk.ends.scenario import (
    CALLER,
    CLOSED_PORT,
    NO_ENDPOINT,
    PHONE,
    SYSTEM,
    TALK_MS,
    TARGET,
    UNRESOLVABLE,
    Play,
    answered,
    end,
    failed,
)


@end("BYE from the target; the caller gets BYE.", answered(TARGET))
def target_hangs_up(play: Play) -> None:
    play.talks()
    play.ends_by(play.target, TALK_MS)


@end("486 from the target: the caller gets 486.", failed("BUSY", 17, 486))
def target_is_busy(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.refuses(486)
    play.caller.hears("486")


@end("486 from the first target, the second one answers.", answered(CALLER, attempts=2), targets=(PHONE, PHONE))
def target_is_busy_and_the_next_answers(play: Play) -> None:
    busy, free = play.targets
    play.caller.calls(play.number)
    busy.is_called()
    busy.refuses(486)
    free.is_called()
    free.answers()
    play.talker = free
    play.caller.hears("200")
    play.caller.keeps(TALK_MS)
    play.caller.hangs_up()
    free.hears("BYE")


@end(
    "The target rings until its ring time is over: CANCEL to it, 480 to the caller.",
    failed("NOANSWER", 19, 480),
    ring_s=5,
)
def target_does_not_answer(play: Play) -> None:
    play.rings()
    play.target.hears("CANCEL")
    play.caller.hears("480")


@end("603 from the target: the caller gets 403.", failed("CHANUNAVAIL", 21, 403))
def target_declines(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.refuses(603)
    play.caller.hears("403")


@end("503 from the target: the caller gets 503.", failed("CONGESTION", 34, 503))
def target_is_overloaded(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.refuses(503)
    play.caller.hears("503")


@end("404 from the target: the caller gets 404.", failed("CHANUNAVAIL", 1, 404))
def target_knows_no_such_number(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.refuses(404)
    play.caller.hears("404")


@end(
    "Nobody listens at the target's port: the ring time runs out.",
    failed("NOANSWER", 19, 480),
    targets=(CLOSED_PORT,),
    ring_s=2,
)
def target_is_switched_off(play: Play) -> None:
    play.caller.calls(play.number)
    play.caller.hears("480")


@end(
    "The target's host name does not resolve: the caller gets 503.",
    failed("CONGESTION", 34, 503),
    targets=(UNRESOLVABLE,),
)
def target_has_no_address(play: Play) -> None:
    play.caller.calls(play.number)
    play.caller.hears("503")


@end(
    "The target names an endpoint that Asterisk does not know: the caller gets 404.",
    failed("CHANUNAVAIL", 3, 404),
    targets=(NO_ENDPOINT,),
)
def target_has_no_endpoint(play: Play) -> None:
    play.caller.calls(play.number)
    play.caller.hears("404")


@end("The target answers with bytes that are no SIP: the ring time runs out.", failed("NOANSWER", 19, 480), ring_s=2)
def target_talks_nonsense(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.says(b"HTTP/1.1 200 OK\r\n\r\n\x00\xff\xfe")
    play.target.says(b"SIP/2.0 two hundred\r\nVia: ;;;\r\n\r\n")
    play.caller.hears("480")


@end(
    "200 without SDP from the target: Asterisk takes it for an answer and sends BYE to both.",
    answered((TARGET, SYSTEM), cause=(16, 127)),
    note="Asterisk's own view, seen on both versions; a billable threshold keeps such calls free.",
)
def target_answers_without_media(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.rings()
    play.target.answers(body="")
    play.target.hears("BYE")
    play.caller.hears("200")
    play.caller.hears("BYE")


@end(
    "200 with an SDP that cannot be read: BYE to the target, 488 to the caller (16: 200, then BYE).",
    failed("CHANUNAVAIL", 58, 488),
    told_otherwise={16: answered((TARGET, SYSTEM), cause=(16, 127))},
)
def target_answers_with_broken_media(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.rings()
    play.target.answers(body="v=0\r\no=\r\nm=audio ?\r\n")
    play.target.hears("BYE")
    if play.caller.hears("488", "200").code == 200:
        play.caller.hears("BYE")


@end(
    "200 with a codec that was not offered: BYE to the target, 488 to the caller.",
    failed("CHANUNAVAIL", 58, 488),
)
def target_answers_with_another_codec(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.rings()
    body = (
        "v=0\r\no=phone 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        "m=audio 4000 RTP/AVP 18\r\na=rtpmap:18 G729/8000\r\n"
    )
    play.target.answers(body=body)
    play.target.hears("BYE")
    play.caller.hears("488")


@end(
    "302 from the target: not followed, nobody is called there; the caller gets 480.",
    failed("BUSY", 19, 480),
)
def target_forwards_the_call(play: Play) -> None:
    play.caller.calls(play.number)
    play.target.is_called()
    play.target.refuses(302, {"Contact": "<sip:+19005550199@127.0.0.1:9>"})
    play.caller.hears("480")
