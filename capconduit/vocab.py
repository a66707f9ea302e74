"""Every closed set of the product, in the field's own words. A word that is stored or sent stands here once."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Verdict(StrEnum):
    """What CC_VERDICT says."""

    DIAL = "dial"
    REJECT = "reject"


class DialStatus(StrEnum):
    """DIALSTATUS as app_dial sets it (Asterisk apps/app_dial.c)."""

    ANSWER = "ANSWER"
    BUSY = "BUSY"
    NOANSWER = "NOANSWER"
    CANCEL = "CANCEL"
    CONGESTION = "CONGESTION"
    CHANUNAVAIL = "CHANUNAVAIL"
    DONTCALL = "DONTCALL"
    TORTURE = "TORTURE"
    INVALIDARGS = "INVALIDARGS"

    @classmethod
    def parse(cls, text: str) -> DialStatus | None:
        """The status named by `text`, or None where Asterisk sent nothing or something unknown."""
        try:
            return cls(text.strip().upper())
        except ValueError:
            return None


# The call may go to the next target after these; after every other status it ends.
FAILOVER_STATUSES: Final = frozenset(
    {DialStatus.CHANUNAVAIL, DialStatus.CONGESTION, DialStatus.NOANSWER, DialStatus.BUSY}
)


class CallState(StrEnum):
    """Life of a call."""

    HELD = "held"  # admitted, no Dial yet known
    DIALING = "dialing"
    UP = "up"
    ENDED = "ended"


class PlaceState(StrEnum):
    """Life of a place in a cap (a slot). While it is held, its call tells how far it has come: held, dialing, up."""

    HELD = "held"
    RELEASED = "released"


class HoldState(StrEnum):
    """Life of money reserved for a live call."""

    OPEN = "open"
    POSTED = "posted"
    VOID = "void"


class CapScope(StrEnum):
    """What a cap limits."""

    SYSTEM = "system"
    SELLER = "seller"
    CAMPAIGN = "campaign"
    TARGET = "target"
    RULE = "rule"
    DID = "did"
    TRUNK = "trunk"


# Places of these scopes are taken per attempt, just before the Dial; the others per call.
ATTEMPT_SCOPES: Final = frozenset({CapScope.TARGET, CapScope.RULE})


class CapMetric(StrEnum):
    """What a cap counts."""

    CONCURRENT = "concurrent"
    ATTEMPTS = "attempts"
    CONNECTED = "connected"
    BILLABLE = "billable"
    MINUTES = "minutes"
    SPEND = "spend"
    CPS = "cps"


# Caps by these reserve what a call's funding covers, and settle to what it used.
RESERVED_METRICS: Final = frozenset({CapMetric.MINUTES, CapMetric.SPEND})


class WindowKind(StrEnum):
    """Over which time a cap counts. `none` belongs to concurrent and cps."""

    NONE = "none"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"
    ROLLING = "rolling"


class Strategy(StrEnum):
    """How a campaign orders its targets."""

    PRIORITY = "priority"
    WEIGHTED = "weighted"
    ROUND_ROBIN = "round-robin"
    PERCENTAGE = "percentage"
    LEAST_COST = "least-cost"
    HIGHEST_PAYOUT = "highest-payout"
    LONGEST_IDLE = "longest-idle"
    FEWEST_ACTIVE = "fewest-active"
    RING_ALL = "ring-all"


class Attestation(StrEnum):
    """How far a carrier vouches for the caller's number (ATIS-1000074), the best first."""

    A = "A"
    B = "B"
    C = "C"


class TargetKind(StrEnum):
    """What a call is forwarded to."""

    PJSIP = "pjsip"
    IAX2 = "iax2"
    EXTENSION = "extension"
    AGENT = "agent"


class ProviderKind(StrEnum):
    """Whose voices and models a voice agent uses."""

    OPENAI = "openai"  # or what speaks its protocol
    AZURE = "azure"
    DEEPGRAM = "deepgram"
    OLLAMA = "ollama"


class AgentTool(StrEnum):
    """What a voice agent can do by itself; besides, what MCP servers offer (`mcp:SERVER`, `mcp:SERVER/TOOL`)."""

    HANGUP = "hangup"
    TRANSFER = "transfer"
    MESSAGE = "message"


class ProviderFault(StrEnum):
    """Why a request to a provider did not do."""

    DNS = "dns"  # the host's name is not known
    REFUSED = "refused"  # nobody listens there
    UNREACHABLE = "unreachable"
    TLS = "tls"
    TIMEOUT = "timeout"
    CUT = "cut"  # the connection ended before the answer did
    REDIRECT = "redirect"
    KEY = "key"  # not accepted, missing, or not readable
    FORBIDDEN = "forbidden"
    PATH = "path"  # nothing of the kind is there
    MODEL = "model"
    QUOTA = "quota"
    SERVER = "server"
    STATUS = "status"  # another one than was expected
    ANSWER = "answer"  # too long, or not what the kind answers
    NO_TEXT = "no_text"  # the provider, or its model, has no text chat


class TargetFault(StrEnum):
    """Why a target that was tested does not take calls."""

    DNS = "dns"  # the host's name is not known
    REFUSED = "refused"  # nobody listens there
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    TRANSPORT = "transport"  # not one that is asked
    UNKNOWN = "unknown"  # Asterisk has no such endpoint, peer or extension
    CONTACT = "contact"  # an endpoint that nobody is registered at
    UNCONFIGURED = "unconfigured"  # an agent, and voice.url is empty
    VOICE = "voice"  # what speaks for agents does not answer


# Faults of the account: who asks with the same key again is told the same.
ACCOUNT_FAULTS: Final = frozenset({ProviderFault.KEY, ProviderFault.FORBIDDEN, ProviderFault.QUOTA})


class TrunkKind(StrEnum):
    """Protocol of the carrier side."""

    PJSIP = "pjsip"
    IAX2 = "iax2"


class TrunkAuth(StrEnum):
    """How we know that a call is the carrier's."""

    IP = "ip"  # it comes from one of the carrier's addresses
    DIGEST = "digest"  # the carrier proves to us that it knows the secret
    REGISTER = "register"  # we register at the carrier, which then sends calls from its addresses to where we are


class SipTransport(StrEnum):
    """What carries SIP between a trunk and us."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


# Audio codecs by Asterisk's names (main/codec_builtin.c); IAX2 knows those that have a bit of their own
# (main/format_compatibility.c).
IAX2_CODECS: Final = frozenset({
    "ulaw", "alaw", "gsm", "g722", "g723", "g726", "g726aal2", "g729", "g719", "adpcm", "ilbc", "lpc10", "opus",
    "siren7", "siren14", "slin", "slin16", "speex", "speex16",
})  # fmt: skip
CODECS: Final = IAX2_CODECS | {
    "codec2", "silk8", "silk12", "silk16", "silk24", "slin12", "slin24", "slin32", "slin44", "slin48", "slin96",
    "slin192", "speex32",
}  # fmt: skip


class Status(StrEnum):
    """Whether a seller or a user may do business."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


class CampaignStatus(StrEnum):
    """Whether a campaign takes calls."""

    ACTIVE = "active"
    PAUSED = "paused"


class DidStatus(StrEnum):
    """Whether a DID takes calls."""

    AVAILABLE = "available"
    ASSIGNED = "assigned"
    SUSPENDED = "suspended"


class UserRole(StrEnum):
    """What a user may do."""

    ADMIN = "admin"
    SELLER = "seller"


class TokenScope(StrEnum):
    """What a token of the HTTP API may do; of a seller's user only for that seller."""

    CALLS_READ = "calls:read"
    BALANCE_READ = "balance:read"
    CAPS_READ = "caps:read"
    REPORTS_READ = "reports:read"
    REQUESTS_WRITE = "requests:write"
    ADMIN = "admin"  # everything, for users who are admins


SELLER_SCOPES: Final = tuple(scope for scope in TokenScope if scope is not TokenScope.ADMIN)


class RequestStatus(StrEnum):
    """What became of a seller's request for numbers."""

    OPEN = "open"
    PARTLY = "partly"  # some numbers were given, the rest is open
    APPROVED = "approved"  # all numbers were given
    REJECTED = "rejected"
    CLOSED = "closed"  # some numbers were given, the rest was refused


class StatementGroup(StrEnum):
    """What the calls of a seller's statement are grouped by."""

    CAMPAIGN = "campaign"
    RATE = "rate"


class LedgerKind(StrEnum):
    """Why money moved."""

    ADJUSTMENT = "adjustment"
    CALL = "call"
    FEE = "fee"
    CORRECTION = "correction"


class RollupKind(StrEnum):
    """What a row of rolled-up calls is the sum of."""

    ALL = "all"  # all calls of the tenant
    CAMPAIGN = "campaign"  # by campaign
    DID = "did"  # by campaign and number
    TRUNK = "trunk"  # by campaign and trunk
    TARGET = "target"  # by campaign and target: Dials instead of calls


class RollupGrain(StrEnum):
    """Over how much time a row of rolled-up calls sums, in UTC."""

    QUARTER = "quarter"  # of an hour
    DAY = "day"


class ReportBy(StrEnum):
    """What the lines of a report are about."""

    NOTHING = "nothing"  # all calls together
    HOUR = "hour"
    DAY = "day"
    SELLER = "seller"
    CAMPAIGN = "campaign"
    TARGET = "target"
    DID = "did"
    TRUNK = "trunk"
    REASON = "reason"


class CallOutcome(StrEnum):
    """What became of a call, in one word."""

    COMPLETED = "completed"  # answered
    UNANSWERED = "unanswered"  # dialled, and the caller left or nobody answered
    REJECTED = "rejected"


class HungUpBy(StrEnum):
    """Who ended the call."""

    CALLER = "caller"
    TARGET = "target"
    SYSTEM = "system"


class EventKind(StrEnum):
    """What is told to the event table, in the transaction of what it tells of."""

    CALL_STARTED = "call.started"
    CALL_ANSWERED = "call.answered"
    CALL_ENDED = "call.ended"
    CALL_REJECTED = "call.rejected"
    CALL_ZOMBIE = "call.zombie"
    CALL_HANGUP = "call.hangup"  # somebody asked for it; the end is told when it has come
    ATTEMPT_FAILED = "attempt.failed"
    HOLD_EXTENDED = "hold.extended"
    CAP_REACHED = "cap.reached"
    BALANCE_CHANGED = "balance.changed"
    BALANCE_LOW = "balance.low"
    REQUEST_FILED = "request.filed"
    REQUEST_DECIDED = "request.decided"
    TARGET_RESTED = "target.rested"
    TARGET_REVIVED = "target.revived"
    SETTLEMENT_DISAGREED = "settlement.disagreed"
    ABUSE_DETECTED = "abuse.detected"
    ESTATE_CHANGED = "estate.changed"
    NODE_STARTED = "node.started"
    NODE_STOPPED = "node.stopped"
    DELIVERY_PARKED = "delivery.parked"


class FloorMessage(StrEnum):
    """What the daemon's stream sends to those who watch the floor (docs/control.md)."""

    SNAPSHOT = "snapshot"
    CALL = "call"
    CALL_GONE = "call-gone"
    CAP = "cap"
    BALANCE = "balance"
    TARGET = "target"
    CAMPAIGN = "campaign"
    EVENT = "event"
    HEALTH = "health"
    LOST = "lost"


class FeedKind(StrEnum):
    """How true what the terminal UI shows is."""

    WAITING = "waiting"  # nothing is known yet
    LIVE = "live"
    STALE = "stale"  # the last known: the daemon is away or silent
    REPLAY = "replay"


class ReceiverKind(StrEnum):
    """How an event leaves: a signed HTTP request, or a command that reads it."""

    HTTP = "http"
    COMMAND = "command"


class ReceiverStatus(StrEnum):
    """Whether a receiver is given what waits for it; a paused one's events wait."""

    ACTIVE = "active"
    PAUSED = "paused"


class DeliveryState(StrEnum):
    """Life of one event on its way to one receiver. Parked: given up until an operator retries it."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    PARKED = "parked"


class NoticeChannel(StrEnum):
    """How a notification reaches a user; `list`: it stands in `notification list` alone."""

    LIST = "list"
    EMAIL = "email"
    WEBHOOK = "webhook"
    COMMAND = "command"


class NoticeKind(StrEnum):
    """What a user is told of."""

    BALANCE_LOW = "balance.low"
    CAP_NEARLY = "cap.nearly"  # four fifths of it are used
    CAP_REACHED = "cap.reached"
    TARGET_RESTED = "target.rested"
    TARGET_REVIVED = "target.revived"
    REQUEST_FILED = "request.filed"
    REQUEST_DECIDED = "request.decided"
    ABUSE_DETECTED = "abuse.detected"
    DAEMON_LOST = "daemon.lost"
    AMI_DOWN = "ami.down"
    DELIVERY_PARKED = "delivery.parked"


class AbuseKind(StrEnum):
    """What `abuse.detected` tells of."""

    MANY_DIDS = "many_dids"  # one caller dials many different DIDs
    DID_SEQUENCE = "did_sequence"  # one caller dials DIDs one after the other
    REDIALLING = "redialling"  # one caller calls again and again
    SHORT_CALLS = "short_calls"  # many answered calls of one caller are very short
    JUNK = "junk"  # many calls of one caller are rejected for what they are
    CALLER_RANGE = "caller_range"  # many neighbouring callers call one DID
    TRUNK_SHORT_CALLS = "trunk_short_calls"  # a large share of a trunk's answered calls is very short
    TRUNK_JUNK = "trunk_junk"  # a large share of a trunk's calls is rejected for what it is
    TRUNK_SPIKE = "trunk_spike"  # a trunk brings many times the calls it used to


class RejectCode(StrEnum):
    """Why a call was not connected. `cap_reached` is refined as cap_reached:<scope>:<metric>:<window>."""

    DID_UNKNOWN = "did_unknown"
    DID_UNASSIGNED = "did_unassigned"
    DID_SUSPENDED = "did_suspended"
    CALLER_INVALID = "caller_invalid"
    CALLER_BLOCKED = "caller_blocked"
    DUPLICATE_CALLER = "duplicate_caller"
    CALLER_ANONYMOUS = "caller_anonymous"
    ATTESTATION_MISSING = "attestation_missing"
    ATTESTATION_INVALID = "attestation_invalid"
    SELLER_SUSPENDED = "seller_suspended"
    BALANCE_EXHAUSTED = "balance_exhausted"
    BALANCE_HELD_BY_OTHER_CALLS = "balance_held_by_other_calls"
    BALANCE_BELOW_FIRST_INCREMENT = "balance_below_first_increment"
    CAMPAIGN_PAUSED = "campaign_paused"
    CAMPAIGN_CLOSED = "campaign_closed"
    CAP_REACHED = "cap_reached"
    CPS_LIMIT = "cps_limit"
    NO_TARGET = "no_target"
    TARGETS_ALL_CAPPED = "targets_all_capped"
    TARGETS_ALL_CLOSED = "targets_all_closed"
    TARGETS_ALL_FAILED = "targets_all_failed"
    ENGINE_TIMEOUT = "engine_timeout"
    DATABASE_DOWN = "database_down"


# Hangup cause (Q.850, Asterisk include/asterisk/causes.h) and SIP code of each reject, with a sentence for operators.
REJECTS: Final[dict[RejectCode, tuple[int, int, str]]] = {
    RejectCode.DID_UNKNOWN: (1, 404, "the dialled number is not in the estate"),
    RejectCode.DID_UNASSIGNED: (1, 404, "the DID is known but assigned to no campaign"),
    RejectCode.DID_SUSPENDED: (1, 404, "the DID is suspended"),
    RejectCode.CALLER_INVALID: (28, 484, "the caller's number cannot be a telephone number"),
    RejectCode.CALLER_BLOCKED: (21, 403, "the caller is on a blocklist"),
    RejectCode.DUPLICATE_CALLER: (21, 403, "the caller called this campaign within its duplicate window"),
    RejectCode.CALLER_ANONYMOUS: (21, 433, "the caller withheld the number and the campaign takes no anonymous calls"),
    RejectCode.ATTESTATION_MISSING: (21, 428, "the call carries no STIR attestation and one is required"),
    RejectCode.ATTESTATION_INVALID: (21, 438, "the call's STIR attestation did not verify"),
    RejectCode.SELLER_SUSPENDED: (21, 403, "the seller is suspended"),
    RejectCode.BALANCE_EXHAUSTED: (21, 403, "the seller has no money left"),
    RejectCode.BALANCE_HELD_BY_OTHER_CALLS: (21, 403, "the seller's money is reserved by calls that are up"),
    RejectCode.BALANCE_BELOW_FIRST_INCREMENT: (21, 403, "the seller's money does not pay for the first increment"),
    RejectCode.CAMPAIGN_PAUSED: (31, 480, "the campaign is paused"),
    RejectCode.CAMPAIGN_CLOSED: (31, 480, "the campaign's schedule is closed at this time"),
    RejectCode.CAP_REACHED: (17, 486, "a cap is reached"),
    RejectCode.CPS_LIMIT: (31, 480, "more new calls per second than the limit allows"),
    RejectCode.NO_TARGET: (31, 480, "the campaign has no enabled target"),
    RejectCode.TARGETS_ALL_CAPPED: (17, 486, "every target that is open has reached a cap"),
    RejectCode.TARGETS_ALL_CLOSED: (31, 480, "every target is closed at this time"),
    RejectCode.TARGETS_ALL_FAILED: (31, 480, "every target that was tried failed"),
    RejectCode.ENGINE_TIMEOUT: (38, 500, "the decision was not ready in time"),
    RejectCode.DATABASE_DOWN: (38, 500, "the database cannot be reached"),
}

# What chan_pjsip answers for a hangup cause (Asterisk channels/chan_pjsip.c hangup_cause2sip); all others become 603.
CAUSE_TO_SIP: Final[dict[int, int]] = {
    1: 404, 2: 404, 3: 404, 17: 486, 18: 408, 19: 480, 20: 480, 31: 480, 21: 403, 22: 410,
    27: 502, 28: 484, 29: 501, 34: 503, 42: 503, 38: 500, 127: 500, 58: 488,
}  # fmt: skip
SIP_FOR_OTHER_CAUSES: Final = 603

CAUSE_NO_ANSWER: Final = 19  # stands for HANGUPCAUSE 0 (after a Dial timeout) and 127 (after CANCEL)
CAUSE_NORMAL: Final = 16
CAUSE_ANSWERED_ELSEWHERE: Final = 26  # a leg of ring-all that another was quicker than


class CcVariable(StrEnum):
    """Channel variables between the dialplan and the daemon; nothing else is set on a channel."""

    VERDICT = "CC_VERDICT"
    CALL = "CC_CALL"
    ATTEMPT = "CC_ATTEMPT"
    DIAL = "CC_DIAL"
    RING_S = "CC_RING_S"
    FUNDED_S = "CC_FUNDED_S"
    CEILING_MS = "CC_CEILING_MS"
    OPTIONS = "CC_OPTIONS"
    TARGET = "CC_TARGET"
    REASON = "CC_REASON"
    CAUSE = "CC_CAUSE"
    SIP = "CC_SIP"
    ACK = "CC_ACK"
