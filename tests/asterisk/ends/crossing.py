"""Ends where two messages cross, and targets that answer at once."""

from __future__ import annotations

from capconduit.vocab import Strategy
from lab.wait import wait_for
from tests.asterisk.ends.scenario import CALLER, PHONE, TALK_MS, TARGET, Play, answered, cancelled, end


@end("Both sides send BYE at the same moment; each gets 200 for its own.", answered((CALLER, TARGET)))
def both_hang_up_at_once(play: Play) -> None:
    play.talks()
    play.caller.keeps(TALK_MS)
    play.caller.hangs_up()
    play.target.hangs_up()
    play.caller.hears("200", of="BYE")
    play.target.hears("200", "481", of="BYE")


@end("The target confirms the CANCEL and answers 200 all the same: Asterisk sends it ACK and BYE.", cancelled())
def target_answers_after_the_caller_left(play: Play) -> None:
    play.rings()
    play.target.stubborn = True
    play.caller.cancels()
    play.caller.hears("487")
    play.target.hears("CANCEL")
    play.target.answers()
    play.target.hears("BYE")


@end(
    "The caller's CANCEL and the target's 200 cross.",
    cancelled(),
    or_else=answered((CALLER, TARGET)),
    heard=(487, 200),
    note="Whichever Asterisk reads first decides. Where it took the answer, the call was connected, if only for a"
    " millisecond, and the caller may hear 487 all the same.",
)
def target_answers_as_the_caller_cancels(play: Play) -> None:
    play.rings()
    play.target.stubborn = True
    play.target.answers()
    play.caller.cancels()
    if play.caller.hears("487", "200").code == 200:
        play.caller.hangs_up()
    play.target.hears("BYE")


@end(
    "ring-all: both targets answer at the same moment. One is connected, the other gets BYE.",
    answered(CALLER, attempts=2),
    targets=(PHONE, PHONE),
    strategy=Strategy.RING_ALL,
)
def two_targets_answer_at_once(play: Play) -> None:
    play.caller.calls(play.number)
    for target in play.targets:
        target.stubborn = True
        target.is_called()
        target.rings()
    for target in play.targets:
        target.answers()
    play.caller.hears("200")
    play.caller.keeps(TALK_MS)
    wait_for(lambda: any(target.is_over for target in play.targets), "end of the slower target's leg")
    (play.talker,) = (target for target in play.targets if not target.is_over)
    play.caller.hangs_up()
    for target in play.targets:
        target.hears("BYE")


@end(
    "ring-all: the caller cancels while both ring. Both get CANCEL.",
    cancelled(attempts=2),
    targets=(PHONE, PHONE),
    strategy=Strategy.RING_ALL,
)
def caller_cancels_while_two_ring(play: Play) -> None:
    play.caller.calls(play.number)
    for target in play.targets:
        target.is_called()
        target.rings()
    play.caller.hears("180")
    play.caller.cancels()
    play.caller.hears("487")
    for target in play.targets:
        target.hears("CANCEL")
