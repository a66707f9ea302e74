"""What one end of a call is: how it is played, what its CDR must say, and its row in docs/call-ends.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from capconduit.vocab import HungUpBy, Strategy
from lab.asterisk import Asterisk
from lab.phone import Phone

VERSIONS: Final = (22, 16)
CALLER, TARGET, SYSTEM = HungUpBy.CALLER, HungUpBy.TARGET, HungUpBy.SYSTEM
ANSWERED_S: Final = "each started second of talk"
NOTHING: Final = "nothing"

# What a target can be besides a phone that the scenario plays.
PHONE, TIGHT = "phone", "tight"  # tight: at an endpoint of its own that watches RTP and session timer
CLOSED_PORT, UNRESOLVABLE, NO_ENDPOINT = "closed-port", "unresolvable", "no-endpoint"


# The Asterisks of a version: one for all ends, one to stop and kill, one without the module for transfers.
TOGETHER, DISASTERS, WITHOUT_REFER = "together", "disasters", "without-refer"
PLACES: Final = (DISASTERS, WITHOUT_REFER, TOGETHER)


class Disaster(StrEnum):
    """What befalls all calls of a machine at once."""

    DAEMON_FROZEN = "daemon frozen"
    DAEMON_KILLED = "daemon killed"
    ASTERISK_STOPPED = "asterisk stopped"
    ASTERISK_RESTARTED = "asterisk restarted"
    ASTERISK_KILLED = "asterisk killed"


@dataclass(frozen=True, slots=True)
class Cdr:
    """What the CDR must say; several values where the end has several."""

    dialstatus: str
    cause: int | tuple[int, ...]
    sip: int | tuple[int, ...]
    by: HungUpBy | tuple[HungUpBy, ...]
    witness: str | tuple[str, ...]
    reason: str = ""
    attempts: int = 1


def answered(
    by: HungUpBy | tuple[HungUpBy, ...],
    *,
    cause: int | tuple[int, ...] = 16,
    witness: str | tuple[str, ...] = "handler+ami",
    attempts: int = 1,
) -> Cdr:
    """The CDR of a call that was connected."""
    return Cdr("ANSWER", cause, 200, by, witness, attempts=attempts)


def cancelled(*, witness: str = "handler", attempts: int = 1) -> Cdr:
    """The CDR of a call whose caller left before an answer."""
    return Cdr("CANCEL", 19, 487, CALLER, witness, attempts=attempts)


def failed(dialstatus: str, cause: int, sip: int, *, attempts: int = 1) -> Cdr:
    """The CDR of a call that no target took."""
    return Cdr(dialstatus, cause, sip, SYSTEM, "handler", "targets_all_failed", attempts)


class Play:
    """One run of a scenario: its caller, its targets, its Asterisk.

    `talker` is the phone whose talk is billed: the target that is connected.
    """

    def __init__(self, number: str, caller: Phone, targets: list[Phone], asterisk: Asterisk, ami: Ami) -> None:
        self.number, self.caller, self.targets = number, caller, targets
        self.asterisk, self.ami = asterisk, ami
        self.talker = targets[0] if targets else None
        self.others: list[Phone] = []
        self.await_disaster: Callable[[], None] = _no_disaster
        self.await_recovery: Callable[[], None] = _no_disaster
        self.struck_s = 0.0  # when the disaster was over them (monotonic)

    @property
    def target(self) -> Phone:
        """The first target."""
        return self.targets[0]

    def another_phone(self, name: str) -> Phone:
        """A third telephone, at the trunk's address."""
        self.others.append(Phone(self.asterisk.ports.sip, name))
        return self.others[-1]

    def rings(self) -> None:
        """The target rings, and the caller hears it."""
        self.caller.calls(self.number)
        self.target.is_called()
        self.target.rings()
        self.caller.hears("180")

    def talks(self) -> None:
        """The target answered, after ringing for a while."""
        self.rings()
        self.caller.keeps(RING_MS)
        self.target.answers()
        self.caller.hears("200")
        self.target.hears("ACK")

    def ends_by(self, phone: Phone, after_ms: int) -> None:
        """This side hangs up, and both see the end."""
        other = self.target if phone is self.caller else self.caller
        phone.keeps(after_ms)
        phone.hangs_up()
        phone.hears("200", of="BYE")
        other.hears("BYE")

    def give_up(self) -> None:
        """Hang up whatever is up: a scenario that failed is in nobody's way."""
        for phone in (self.caller, *self.targets, *self.others):
            if phone.up_s is not None and not phone.is_over:
                phone.hangs_up()

    def transcript(self) -> str:
        """All messages of all phones."""
        return "\n".join(phone.transcript() for phone in (self.caller, *self.targets, *self.others))


def _no_disaster() -> None:
    raise AssertionError("this scenario has no disaster")


RING_MS: Final = 300
TALK_MS: Final = 1_300

Ami = Callable[[dict[str, str]], dict[str, str]]  # one action; its answer


@dataclass(frozen=True, slots=True)
class End:
    """One end of a call. `name` is its row in the table, `what` what happens at SIP level."""

    name: str
    what: str
    play: Callable[[Play], None]
    cdr: Cdr
    told_otherwise: dict[int, Cdr] = field(default_factory=dict)  # by version
    or_else: Cdr | None = None  # the other way it may go, where two messages cross
    targets: tuple[str, ...] = (PHONE,)
    charged_s: int | None = None  # where it is not what was talked
    heard: int | tuple[int, ...] | None = None  # the caller's final code where the CDR may say another; 0: none
    note: str = ""
    funds: str = "5"
    ring_s: int = 20
    ceiling_s: int = 3_600
    strategy: Strategy = Strategy.PRIORITY
    from_watched_trunk: bool = False
    disaster: Disaster | None = None
    without_refer: bool = False
    lasts_s: int = 20
    versions: tuple[int, ...] = VERSIONS

    @property
    def place(self) -> str:
        """Which of a version's Asterisks it is played on."""
        if self.disaster is not None:
            return DISASTERS
        return WITHOUT_REFER if self.without_refer else TOGETHER

    def cdr_on(self, version: int) -> Cdr:
        """What the CDR must say on this version."""
        return self.told_otherwise.get(version, self.cdr)


ENDS: Final[dict[str, End]] = {}


def end(what: str, cdr: Cdr, **more: object) -> Callable[[Callable[[Play], None]], Callable[[Play], None]]:
    """Registers a scenario under its function's name."""

    def register(play: Callable[[Play], None]) -> Callable[[Play], None]:
        name = play.__name__.replace("_", "-")
        assert name not in ENDS, name
        ENDS[name] = End(name, what, play, cdr, **more)  # type: ignore[arg-type]
        return play

    return register
