"""What simulated callers and targets do, and what became of each simulated call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Side: TypeAlias = Literal["caller", "target"]
EndedBy: TypeAlias = Literal["caller", "target", "system"]


@dataclass(frozen=True)
class Answers:
    """Rings `after_ms`, then talks `talk_ms`, unless a limit cuts the call first; then `hung_up_by` hangs up."""

    after_ms: int = 20
    talk_ms: int = 50
    hung_up_by: Side = "caller"


@dataclass(frozen=True)
class Busy:
    """Answers 486 after `after_ms`: DIALSTATUS=BUSY, cause 17."""

    after_ms: int = 10


@dataclass(frozen=True)
class NoAnswer:
    """Rings until Dial gives up: DIALSTATUS=NOANSWER, HANGUPCAUSE=0 as in Asterisk."""


@dataclass(frozen=True)
class Congested:
    """Answers 503 after `after_ms`: DIALSTATUS=CONGESTION, cause 34."""

    after_ms: int = 5


@dataclass(frozen=True)
class Unavailable:
    """Is not registered: no leg comes to be, DIALSTATUS=CHANUNAVAIL, cause 20."""


@dataclass(frozen=True)
class CallerCancels:
    """The target rings for ever; the caller gives up `after_ms` into the ringing: DIALSTATUS=CANCEL, cause 127."""

    after_ms: int = 30


Behaviour: TypeAlias = Answers | Busy | NoAnswer | Congested | Unavailable | CallerCancels


@dataclass(frozen=True)
class CallSpec:
    """One call that comes in. Everything is text from outside and goes to the daemon as it is."""

    dnid: str
    ani: str
    caller_name: str = ""
    trunk: str = "carrier"
    attestation: str = ""
    stir_verdict: str = ""
    sip_call_id: str = ""
    cancel_after_ms: int | None = None  # the caller hangs up this long after the call came in, whatever happens then


@dataclass(frozen=True)
class AttemptOutcome:
    """One Dial, of one leg or of several at once."""

    attempt: str  # CC_ATTEMPT
    target: str  # CC_TARGET: the names of all legs, joined by &
    dial: str  # CC_DIAL
    dialstatus: str
    hangup_cause: int
    ring_ms: int
    talk_ms: int
    answered_by: str = ""  # name of the leg that answered


@dataclass(frozen=True)
class CallOutcome:
    """The truth about one simulated call, as the world itself measured it; what the daemon says is checked by it."""

    uniqueid: str
    spec: CallSpec
    verdict: str = ""  # the last CC_VERDICT; empty: none came and the fallback ran
    fallback: bool = False  # no verdict in time: the dialplan rejected on its own (cause 38, SIP 500)
    reject_reason: str = ""  # CC_REASON
    cause: int = 0  # with which the caller was hung up: CC_CAUSE on reject
    sip: int = 0  # CC_SIP on reject, 500 on fallback
    call: str = ""  # CC_CALL
    dialstatus: str = ""
    target: str = ""  # the name of the leg that answered, else CC_TARGET of the last attempt
    attempts: tuple[AttemptOutcome, ...] = field(default=())
    talk_ms: int = 0
    cut_by_timeout: bool = False  # TIMEOUT(absolute) or the L() ceiling ended the talk
    ended_by: EndedBy = "system"
    settled_ack: bool = False  # CC_ACK=1 came
    spooled: bool = False  # it did not, and the settlement is in the database of Asterisk
    route_ms: int = 0  # how long the route exchange took
    settle_ms: int = 0
