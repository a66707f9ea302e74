"""Ends that befall all calls of a machine at once: Asterisk or the daemon stop, restart, freeze or are killed."""

from __future__ import annotations

from lab.wait import wait_for
from tests.asterisk.ends.scenario import (
    CALLER,
    SYSTEM,
    TALK_MS,
    TARGET,
    Cdr,
    Disaster,
    Play,
    answered,
    cancelled,
    end,
)

WHICH_FIRST = (
    "Asterisk ends the legs in any order: the caller's first is a CANCEL to it, the target's first CHANUNAVAIL."
)


def _is_asking(play: Play) -> bool:
    """Whether the caller's channel waits for the daemon: 100 Trying comes before the dialplan begins."""
    rows = (line.split("!") for line in play.asterisk.cli("core show channels concise").splitlines())
    return any(row[2:3] == [play.number] and row[5:6] == ["AGI"] for row in rows)


@end(
    "CANCEL while the daemon, which was asked, is frozen: 487. It decides and settles when it goes on.",
    Cdr("", 19, 487, CALLER, "handler"),
    disaster=Disaster.DAEMON_FROZEN,
)
def caller_cancels_while_the_daemon_is_frozen(play: Play) -> None:
    play.await_disaster()
    play.caller.calls(play.number)
    play.caller.hears("100")
    wait_for(lambda: _is_asking(play), f"question of {play.number}")
    play.caller.keeps(300)
    play.caller.cancels()
    play.caller.hears("487")


@end("The daemon is killed, then the caller cancels.", cancelled(witness="spool"), disaster=Disaster.DAEMON_KILLED)
def daemon_killed_while_it_rings(play: Play) -> None:
    play.rings()
    play.await_disaster()
    play.caller.cancels()
    play.caller.hears("487")
    play.target.hears("CANCEL")


@end(
    "The daemon is killed, then the target answers, and BYE comes before the daemon is back.",
    answered(CALLER, witness="spool"),
    disaster=Disaster.DAEMON_KILLED,
)
def daemon_killed_before_the_answer(play: Play) -> None:
    play.rings()
    play.await_disaster()
    play.target.answers()
    play.caller.hears("200")
    play.target.hears("ACK")
    play.ends_by(play.caller, TALK_MS)


@end(
    "The daemon is killed while they talk, BYE from the target comes before it is back.",
    answered(TARGET, witness="spool+ami"),
    disaster=Disaster.DAEMON_KILLED,
)
def daemon_killed_while_they_talk(play: Play) -> None:
    play.talks()
    play.caller.keeps(TALK_MS)
    play.await_disaster()
    play.ends_by(play.target, 300)


@end(
    "The daemon is killed while they talk, and is back before the caller's BYE.",
    answered(CALLER),
    disaster=Disaster.DAEMON_KILLED,
)
def daemon_back_before_the_end(play: Play) -> None:
    play.talks()
    play.caller.keeps(TALK_MS)
    play.await_disaster()
    play.await_recovery()
    play.ends_by(play.caller, 300)


@end(
    "`core stop now` while the target rings: CANCEL to it.",
    Cdr("CANCEL", 19, 603, SYSTEM, "handler"),
    or_else=Cdr("CHANUNAVAIL", 19, 603, SYSTEM, "handler"),
    note=WHICH_FIRST,
    disaster=Disaster.ASTERISK_STOPPED,
)
def asterisk_stops_while_it_rings(play: Play) -> None:
    play.rings()
    play.await_disaster()
    play.target.hears("CANCEL")


@end("`core stop now` while they talk: BYE to both.", answered(SYSTEM), disaster=Disaster.ASTERISK_STOPPED)
def asterisk_stops_while_they_talk(play: Play) -> None:
    play.talks()
    play.caller.keeps(TALK_MS)
    play.await_disaster()
    play.target.hears("BYE")
    play.caller.hears("BYE")


@end(
    "`core restart now` while the target rings: CANCEL to it.",
    Cdr("CANCEL", 19, 603, SYSTEM, "handler"),
    or_else=Cdr("CHANUNAVAIL", 19, 603, SYSTEM, "handler"),
    note=WHICH_FIRST,
    disaster=Disaster.ASTERISK_RESTARTED,
)
def asterisk_restarts_while_it_rings(play: Play) -> None:
    play.rings()
    play.await_disaster()
    play.target.hears("CANCEL")


@end("`core restart now` while they talk: BYE to both.", answered(SYSTEM), disaster=Disaster.ASTERISK_RESTARTED)
def asterisk_restarts_while_they_talk(play: Play) -> None:
    play.talks()
    play.caller.keeps(TALK_MS)
    play.await_disaster()
    play.target.hears("BYE")
    play.caller.hears("BYE")


@end(
    "Asterisk is killed while the target rings: nobody is told anything.",
    Cdr("", 19, (480, 603), SYSTEM, "asterisk-restart"),
    heard=0,
    disaster=Disaster.ASTERISK_KILLED,
)
def asterisk_killed_while_it_rings(play: Play) -> None:
    play.rings()
    play.await_disaster()
    play.await_recovery()


@end(
    "Asterisk is killed while they talk: nobody is told anything.",
    answered(SYSTEM, witness="asterisk-restart+ami"),
    disaster=Disaster.ASTERISK_KILLED,
    note="Talk counts until the AMI link was lost.",
)
def asterisk_killed_while_they_talk(play: Play) -> None:
    play.talks()
    play.caller.keeps(TALK_MS)
    play.await_disaster()
    play.target.over_s = play.struck_s
    play.await_recovery()
