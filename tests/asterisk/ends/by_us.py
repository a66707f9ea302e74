"""Ends that our side makes: money, ceilings, and the operator through AMI."""

from __future__ import annotations

import re

from tests.asterisk.ends.scenario import SYSTEM, TALK_MS, Cdr, Play, answered, end


def _callers_channel(play: Play) -> str:
    """The channel whose extension is the number that was called."""
    rows = (line.split("!") for line in play.asterisk.cli("core show channels concise").splitlines())
    (name,) = (row[0] for row in rows if row[1] == "capconduit-inbound" and row[2] == play.number)
    return name


def _targets_channel(play: Play) -> str:
    """The channel in the same bridge as the caller's."""
    told = play.asterisk.cli(f"core show channel {_callers_channel(play)}")
    peer = re.search(r"^\s*DIALEDPEERNAME=(\S+)$", told, re.MULTILINE)
    assert peer, told
    return peer[1]


@end(
    "The funded three seconds are over: TIMEOUT(absolute) ends the call, both get BYE.",
    answered(SYSTEM),
    funds="0.03",
    charged_s=3,
)
def money_ends(play: Play) -> None:
    play.talks()
    play.caller.hears("BYE")
    play.target.hears("BYE")


@end(
    "The campaign's longest duration of 2 s is over: L() ends the call, both get BYE.",
    answered(SYSTEM),
    ceiling_s=2,
    charged_s=2,
)
def ceiling_is_reached(play: Play) -> None:
    play.talks()
    play.caller.hears("BYE")
    play.target.hears("BYE")


@end("AMI `AbsoluteTimeout` of 1 s on the caller's channel: both get BYE.", answered(SYSTEM))
def operator_sets_an_absolute_timeout(play: Play) -> None:
    play.talks()
    play.caller.keeps(TALK_MS)
    play.ami({"Action": "AbsoluteTimeout", "Channel": _callers_channel(play), "Timeout": "1"})
    play.caller.hears("BYE")
    play.target.hears("BYE")


@end("AMI `Hangup` of the caller's channel: both get BYE.", answered(SYSTEM))
def operator_hangs_up_the_caller(play: Play) -> None:
    play.talks()
    play.caller.keeps(TALK_MS)
    play.ami({"Action": "Hangup", "Channel": _callers_channel(play)})
    play.caller.hears("BYE")
    play.target.hears("BYE")


@end("AMI `Hangup` of the target's channel: both get BYE.", answered(SYSTEM))
def operator_hangs_up_the_target(play: Play) -> None:
    play.talks()
    play.caller.keeps(TALK_MS)
    play.ami({"Action": "Hangup", "Channel": _targets_channel(play)})
    play.caller.hears("BYE")
    play.target.hears("BYE")


@end(
    "AMI `Hangup` of the caller's channel while the target rings: 603 to the caller, CANCEL to the target.",
    Cdr("CANCEL", 19, 603, SYSTEM, "handler"),
)
def operator_hangs_up_while_it_rings(play: Play) -> None:
    play.rings()
    play.caller.keeps(300)
    play.ami({"Action": "Hangup", "Channel": _callers_channel(play)})
    play.target.hears("CANCEL")
    play.caller.hears("487", "603", "480", "500")
