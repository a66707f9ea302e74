"""The complete input of every template: typed, frozen, no dictionaries. What is not here cannot be rendered."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from capconduit.vocab import SipTransport, TrunkAuth, TrunkKind

# Names that the dialplan, the daemon and an operator's own files share: the contract in docs/dialplan.md.
INBOUND_CONTEXT: Final = "capconduit-inbound"  # trunks deliver calls here
NO_CONTEXT: Final = "capconduit-none"  # does not exist: who has no business here reaches no extension
ANSWERED_CONTEXT: Final = "capconduit-answered"  # runs on the target's leg when it answers
LEFT_CONTEXT: Final = "capconduit-left"  # and when it ends
SETTLE_CONTEXT: Final = "capconduit-settle"  # the hangup handler
REJECT_HOOK_CONTEXT: Final = "capconduit-on-reject"  # the operator's, by reject reason
BEFORE_ROUTE_CONTEXT: Final = "capconduit-before-route"  # the operator's, by dialled number: before the daemon is asked
BEFORE_DIAL_CONTEXT: Final = "capconduit-before-dial"  # the operator's, by dialled number: before each Dial
OUTBOUND_ENDPOINT: Final = "capconduit-out"  # PJSIP endpoint for targets given as a SIP URI: PJSIP/capconduit-out/sip:…
CONTACT_USER: Final = "capconduit"  # what we register as; carriers that dial it have the number in To
OWN_TRANSPORT: Final = "capconduit-"  # PJSIP transports: capconduit-udp, capconduit-tcp, capconduit-tls
STIR_PROFILE: Final = "capconduit"  # the operator's, in stir_shaken.conf: how res_stir_shaken verifies trunk calls
VOICE_CONNECTION: Final = "capconduit-voice"  # websocket_client.conf: WebSocket/capconduit-voice/…
CDR_FILE: Final = "capconduit.csv"  # in Asterisk's cdr-custom directory: the second witness
CDR_FIELDS: Final = (
    "uniqueid", "linkedid", "channel", "dstchannel", "start", "answer", "end",
    "duration_s", "billsec_s", "disposition", "src", "dst",
)  # fmt: skip

# A settlement that nobody acknowledged: DB(capconduit/unsettled/<uniqueid>) = the fields joined by `|`.
# `ended` is a Unix time with milliseconds ("1767225600.123"); numbers may be empty where Asterisk set none.
SPOOL_FAMILY: Final = "capconduit/unsettled"
SPOOL_SEPARATOR: Final = "|"
SPOOL_FIELDS: Final = (
    "call", "attempt", "dialstatus", "answered_ms", "dialed_ms", "cause", "hangup_source", "context", "ended",
    "dialled",
)  # fmt: skip

# Least privilege of the daemon's AMI users (main/manager.c, main/db.c): `call` moves AbsoluteTimeout, hangs up and sets
# variables, `reporting` reads CoreShowChannels, CoreStatus, DBGetTree and ShowDialPlan; reading `system` brings
# FullyBooted and Shutdown. One user has both, or a reader and one for control share them.
AMI_READ: Final = ("system", "call")
AMI_WRITE_READER: Final = ("reporting",)
AMI_WRITE_CONTROL: Final = ("call",)
AMI_WRITE: Final = AMI_WRITE_CONTROL + AMI_WRITE_READER
AMI_EVENTS: Final = (
    "FullyBooted", "Shutdown", "DialBegin", "DialState", "DialEnd", "BridgeLeave", "Hangup",
)  # fmt: skip
# What no user of ours reads. As long as somebody is logged in, Asterisk makes each event for each line of the dialplan,
# filtered or not; when it does not keep up, its PJSIP refuses calls (taskprocessor overload; seen at 150 calls/s).
AMI_DISABLED: Final = (
    "VarSet", "Newexten", "Newchannel", "Newstate", "NewCallerid", "NewConnectedLine", "NewAccountCode", "BridgeCreate",
    "BridgeEnter", "BridgeDestroy", "LocalBridge", "AGIExecStart", "AGIExecEnd", "HangupHandlerPush",
    "HangupHandlerRun", "HangupRequest", "SoftHangupRequest", "MusicOnHoldStart", "MusicOnHoldStop",
    "DeviceStateChange", "PeerStatus", "ContactStatus", "RTCPSent", "RTCPReceived", "Cdr", "SuccessfulAuth",
    "ChallengeSent", "TestEvent",
)  # fmt: skip


class DialplanVariable(StrEnum):
    """Channel variables of the dialplan's own; the daemon never sets them (its own are `vocab.CcVariable`)."""

    DNID = "CC_DNID"
    ANI = "CC_ANI"
    TRUNK = "CC_TRUNK"
    SIP_CALL_ID = "CC_SIP_CALL_ID"
    ATTESTATION = "CC_ATTESTATION"
    VERSTAT = "CC_VERSTAT"
    STAGE = "CC_STAGE"
    ROUND = "CC_ROUND"
    LIMIT_MS = "CC_LIMIT_MS"
    LIMITS = "CC_LIMITS"
    BEEPS = "CC_BEEPS"
    ODD = "CC_ODD"
    FROZEN = "CC_FROZEN"
    QUIET_UNTIL = "CC_QUIET_UNTIL"


class StirSource(StrEnum):
    """Where the STIR attestation and verdict of a call are read."""

    NONE = "none"  # both arguments stay empty
    ASTERISK = "asterisk"  # res_stir_shaken verified the call: STIR_SHAKEN()
    HEADERS = "headers"  # the carrier verified the call and says so in two SIP headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """What happens to a call when the daemon gave no verdict.

    `cause` (Q.850) and `sip` are answered; with `context` the call goes to that context of the operator first, at the
    dialled number, if the number exists there.
    """

    cause: int = 38
    sip: int = 500
    context: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmiUser:
    """One AMI account. `permit` are networks (all others are denied); `events` are the only events it is sent."""

    username: str
    secret: str = field(repr=False)
    permit: tuple[str, ...] = ("127.0.0.1/32",)
    read: tuple[str, ...] = AMI_READ
    write: tuple[str, ...] = AMI_WRITE
    events: tuple[str, ...] = AMI_EVENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Ami:
    """Where AMI listens, and for whom. Loopback unless the daemon runs on another machine.

    named_filters: `eventfilter(name(…))` costs Asterisk least; needs 18.26, 20.11, 21.6 or 22.1. Else the regex form.
    """

    users: tuple[AmiUser, ...]
    bind: str = "127.0.0.1"
    port: int = 5038
    named_filters: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TrunkContext:
    """A carrier. `hosts` are host names or addresses (IAX2: addresses or networks); the first is where calls are sent.

    auth: by what a call is known to be the carrier's. `username` and `secret` are, for `ip`, what we answer to a
    carrier who asks us (both empty: nothing); for `digest`, what the carrier has to prove; for `register`, our account
    there. IAX2 asks for them in both directions, always. Without hosts the trunk is known by its name alone.
    `permit`: networks the calls must come from all the same.
    """

    name: str
    kind: TrunkKind
    hosts: tuple[str, ...]
    port: int = 0  # 0: the protocol's own
    codecs: tuple[str, ...] = ("ulaw", "alaw")
    auth: TrunkAuth = TrunkAuth.IP
    username: str = ""
    secret: str = field(default="", repr=False)
    transport: SipTransport = SipTransport.UDP
    srtp: bool = False
    nat: bool = False
    qualify_s: int = 0  # 0: not asked whether it is there
    permit: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """A PJSIP transport: ours, listening at `listen`, or the operator's own where only a name is given."""

    protocol: SipTransport
    name: str
    listen: str = ""  # empty: the operator's, which is not rendered


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files of SIP over TLS; without `ca` the other side's certificate is not checked."""

    cert: str
    key: str
    ca: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RtpRange:
    """UDP ports of media, both inclusive."""

    start: int = 10_000
    end: int = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Nat:
    """What the world sees of an Asterisk behind NAT; `local_networks` are talked to without translation."""

    external_address: str
    local_networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Where targets of kind agent are answered: a WebSocket server. `ca`: the authorities that its certificate is
    checked by, a PEM file; empty: those of the system."""

    url: str
    timeout_ms: int = 500
    ca: str = ""

    @property
    def tls(self) -> bool:
        """Whether it is reached over TLS."""
        return self.url.startswith("wss:")


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderContext:
    """Everything that stands in the rendered files.

    `guard_s` limits every exchange with the daemon (seconds, above the daemon's own deadline); after one was cut, the
    end of a call is not sent but kept for `quiet_s` seconds. `warn_ms` before the ceiling the caller hears a beep,
    again every `repeat_ms`. `max_rounds` bounds the attempts of one call. `exact_sip_codes` needs the PJSIPHangup
    application (18.21, 20.6, 21.1, 22); without it chan_pjsip derives the SIP code from the cause.
    """

    node_name: str
    ami: Ami
    all_files: bool = False  # also those for an Asterisk that does nothing else
    agi_host: str = "127.0.0.1"
    agi_port: int = 4573
    sip_listen: str = "0.0.0.0:5060"
    more_transports: tuple[Transport, ...] = ()  # over TCP and TLS; or the operator's over UDP, in place of sip_listen
    tls: Tls | None = None
    rtp_timeout_s: int = 0
    rtp_timeout_hold_s: int = 0
    session_expires_s: int = 1_800
    target_codecs: tuple[str, ...] = ("ulaw", "alaw")
    iax_listen: str = "0.0.0.0:4569"
    trunks: tuple[TrunkContext, ...] = ()
    rtp: RtpRange | None = None  # None leaves rtp.conf to the operator, unless all files are wanted
    nat: Nat | None = None
    voice: Voice | None = None  # None: no call goes to an agent
    fallback: Fallback = Fallback()
    stir: StirSource = StirSource.NONE
    stir_attestation_header: str = "P-Attestation-Indicator"
    stir_verdict_header: str = "X-Verstat"
    guard_s: int = 5
    quiet_s: int = 10
    warn_ms: int = 60_000
    repeat_ms: int = 30_000
    max_rounds: int = 32
    exact_sip_codes: bool = True

    @property
    def transports(self) -> tuple[Transport, ...]:
        """One for each protocol that is switched on, UDP first."""
        udp = Transport(protocol=SipTransport.UDP, name=OWN_TRANSPORT + SipTransport.UDP, listen=self.sip_listen)
        given = {transport.protocol: transport for transport in (udp, *self.more_transports)}
        return tuple(given[protocol] for protocol in SipTransport if protocol in given)
