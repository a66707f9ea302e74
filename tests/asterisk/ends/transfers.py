"""Transfers by either side: refused, and the call goes on where it is counted and paid."""

from __future__ import annotations

from lab.phone import Phone
from lab.wait import wait_for
from tests.asterisk.ends.scenario import CALLER, SYSTEM, TALK_MS, TARGET, Play, answered, end

ELSEWHERE = "sip:+19005550199@127.0.0.1:9"
CODE = "#1200"  # see FEATURES in stage.py


def _is_refused(play: Play, phone: Phone, refer_to: str) -> None:
    """This side sends REFER, is refused, and can go on talking."""
    phone.keeps(400)
    phone.sends("REFER", {"Refer-To": refer_to, "Referred-By": f"<{phone.uri}>"})
    answer = phone.hears("202", "403", "405", "501", "603", of="REFER")
    assert answer.code != 202, play.transcript()
    phone.keeps(400)


def _replacing(phone: Phone) -> str:
    """Refer-To of an attended transfer to the dialog of another phone."""
    dialog = f"{phone.call_id}%3Bto-tag%3D{phone.remote_tag}%3Bfrom-tag%3D{phone.tag}"
    return f"<{ELSEWHERE}?Replaces={dialog}>"


@end("REFER from the caller: refused, the call goes on until its BYE.", answered(CALLER))
def caller_transfers_blind(play: Play) -> None:
    play.talks()
    _is_refused(play, play.caller, f"<{ELSEWHERE}>")
    play.ends_by(play.caller, TALK_MS)


@end("REFER from the target: refused, the call goes on until its BYE.", answered(TARGET))
def target_transfers_blind(play: Play) -> None:
    play.talks()
    _is_refused(play, play.target, f"<{ELSEWHERE}>")
    play.ends_by(play.target, TALK_MS)


@end("REFER with Replaces from the caller: refused, the call goes on.", answered(CALLER))
def caller_transfers_attended(play: Play) -> None:
    play.talks()
    _is_refused(play, play.caller, _replacing(play.caller))
    play.ends_by(play.caller, TALK_MS)


@end("REFER with Replaces from the target: refused, the call goes on.", answered(TARGET))
def target_transfers_attended(play: Play) -> None:
    play.talks()
    _is_refused(play, play.target, _replacing(play.target))
    play.ends_by(play.target, TALK_MS)


def _presses(play: Play, phone: Phone, other: Phone) -> None:
    """The code of a blind transfer in features.conf, and a number, while both talk: the other side hears every key."""
    for each in (play.caller, play.target):
        each.media.talk()
    phone.media.press(CODE)
    wait_for(lambda: other.media.keys_heard == CODE, f"keys; there are {other.media.keys_heard!r}")
    phone.keeps(400)


@end("The caller presses the code of a blind transfer: keys for the target, nothing more.", answered(CALLER))
def caller_presses_a_transfer_code(play: Play) -> None:
    play.talks()
    _presses(play, play.caller, play.target)
    play.ends_by(play.caller, 0)


@end("The target presses the code of a blind transfer: keys for the caller, nothing more.", answered(TARGET))
def target_presses_a_transfer_code(play: Play) -> None:
    play.talks()
    _presses(play, play.target, play.caller)
    play.ends_by(play.target, 0)


def _takes_over(play: Play, known: Phone) -> None:
    """A third telephone, at the trunk's address, wants the place of one that told it its dialog, and is refused."""
    play.caller.keeps(400)
    dialog = f"{known.call_id};to-tag={known.remote_tag};from-tag={known.tag}"
    third = play.another_phone("+12125559999")
    third.calls(play.number, headers={"Replaces": dialog, "Require": "replaces", "Supported": "replaces"})
    answer = third.hears("200", "403", "420", "481", "486", "488", "500", "603")
    if answer.code == 200:
        play.caller.keeps(400)
        third.hangs_up()
    assert answer.code != 200, "INVITE with Replaces was accepted"


def _takes_the_place(play: Play, known: Phone) -> Phone:
    """A third telephone, at the trunk's address, takes the place of one that told it its dialog: Asterisk lets it."""
    play.caller.keeps(400)
    dialog = f"{known.call_id};to-tag={known.remote_tag};from-tag={known.tag}"
    third = play.another_phone("+12125559999")
    third.calls(play.number, headers={"Replaces": dialog, "Supported": "replaces"})
    third.hears("200")
    return third


@end(
    "INVITE with Replaces of the caller's dialog: the call ends at once for all, and is charged until then.",
    answered(SYSTEM),
)
def caller_is_replaced(play: Play) -> None:
    play.talks()
    third = _takes_the_place(play, play.caller)
    play.caller.hears("BYE")
    play.target.hears("BYE")
    third.hears("BYE")


@end("INVITE with Replaces of the target's dialog: the call ends within the guard time for all.", answered(SYSTEM))
def target_is_replaced(play: Play) -> None:
    play.talks()
    third = _takes_the_place(play, play.target)
    play.target.hears("BYE")
    play.caller.hears("BYE")
    third.hears("BYE")


@end(
    "The same where `res_pjsip_refer` is not loaded: 420, the call goes on.",
    answered(CALLER),
    without_refer=True,
)
def caller_is_not_replaced_without_the_module(play: Play) -> None:
    play.talks()
    _takes_over(play, play.caller)
    play.ends_by(play.caller, TALK_MS)


@end(
    "The same where `res_pjsip_refer` is not loaded: 420, the call goes on.",
    answered(CALLER),
    without_refer=True,
)
def target_is_not_replaced_without_the_module(play: Play) -> None:
    play.talks()
    _takes_over(play, play.target)
    play.ends_by(play.caller, TALK_MS)


@end(
    "REFER where `res_pjsip_refer` is not loaded: nobody answers it, the call goes on.",
    answered(TARGET),
    without_refer=True,
)
def nobody_transfers_without_the_module(play: Play) -> None:
    play.talks()
    play.target.sends("REFER", {"Refer-To": f"<{ELSEWHERE}>"})
    play.ends_by(play.target, TALK_MS)
