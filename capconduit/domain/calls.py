"""What Asterisk asks and what we answer, as plain data: the requests and answers of a call's life."""

from __future__ import annotations

from capconduit.domain.record import record, value
from capconduit.vocab import DialStatus, RejectCode


@record
class RouteRequest:
    """A call that arrived. Texts are as received, untrusted.

    `until_mono_ms`: after this instant of our monotonic clock nobody waits for the decision any more. `caller_calls`:
    how many calls of this caller the daemon has seen within the setting `caller_window_s`, this one included; None
    where nobody counted.
    """

    node: str
    boot_id: str
    uniqueid: str
    linkedid: str = ""
    dnid: str
    ani: str = ""
    caller_name: str = ""
    trunk: str = ""
    attestation: str = ""
    stir_verdict: str = ""
    sip_call_id: str = ""
    channel: str = ""
    arrived_ms: int = 0
    until_mono_ms: int | None = None
    caller_calls: int | None = None


@record
class AttemptReport:
    """A Dial that ended without an answer; `attempt` is its number, `hangup_cause` Asterisk's HANGUPCAUSE.

    `rang_ms`: since when AMI saw it ring, None where it did not.
    """

    node: str
    uniqueid: str
    attempt: int
    dialstatus: DialStatus | None
    hangup_cause: int
    rang_ms: int | None = None


@value
class LegTimes:
    """What AMI saw of the target's leg (UTC ms); None for what it did not see.

    `clock_talk_ms`: from answer to end by our own monotonic clock, which no change of the wall clock moves.
    `dial` is what was dialled for the leg that answered, as in DialAnswer.dial; empty where AMI did not tell.
    """

    rang_ms: int | None = None
    answered_ms: int | None = None
    ended_ms: int | None = None
    clock_talk_ms: int | None = None
    dial: str = ""


@record
class SettleReport:
    """The end of a call, from the hangup handler, the spool, AMI or ourselves; `witness` names which.

    `answered_for_ms` is the caller channel's ANSWEREDTIME_MS (None where unknown), used when AMI saw nothing.
    `reject` overrides the reason of the end (an admission that came too late, say).
    """

    node: str
    uniqueid: str
    attempt: int = 0
    dialstatus: DialStatus | None = None
    answered_for_ms: int | None = None
    hangup_cause: int = 0
    hangup_source: str = ""
    channel: str = ""
    ended_ms: int | None = None
    leg: LegTimes = LegTimes()
    witness: str = "handler"
    reject: RejectCode | None = None


@record
class AnswerReport:
    """The target answered (from AMI). `leg.answered_ms` None: it is up, and nobody saw since when."""

    node: str
    uniqueid: str
    leg: LegTimes


@record
class ExtendRequest:
    """More funding is wanted for a live call, beyond the `beyond_s` seconds that it is known to have (None: any)."""

    node: str
    uniqueid: str
    beyond_s: int | None = None


@record
class DialAnswer:
    """Dial this target. `ceiling_ms` is the hard limit of the talk; `funded_s` what the hold pays for."""

    call_id: str
    attempt: int
    dial: str
    ring_s: int
    funded_s: int
    ceiling_ms: int
    target: str
    options: str = ""


@record
class RejectAnswer:
    """Do not connect. `reason` is the code with its refinement (`cap_reached:campaign:billable:day`)."""

    call_id: str
    code: RejectCode
    reason: str
    cause: int
    sip: int


@record
class SettleAnswer:
    """The end is durable. `first` is False when it had been settled before; `disagreement` tells differing numbers."""

    call_id: str | None
    first: bool
    disagreement: str = ""


@record
class ExtendAnswer:
    """The funding in force: seconds of talk from the answer. `extended` False: nothing more is to be had."""

    call_id: str
    funded_s: int
    extended: bool


@record
class AnsweredAnswer:
    """The answer is recorded: what the meter needs to keep the call funded."""

    call_id: str
    channel: str
    funded_from_ms: int
    funded_s: int
    ceiling_ms: int
    slice_s: int


RouteAnswer = DialAnswer | RejectAnswer
