"""What is refused before a template sees it: numbers out of range, and trunks that do not go together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

from capconduit.domain.trunks import shared_host
from capconduit.errors import UsageError
from capconduit.render.contexts import RenderContext, TrunkContext
from capconduit.vocab import CODECS, IAX2_CODECS, SipTransport, TrunkAuth, TrunkKind

Range = tuple[str, int, int, int]


def check_context(context: RenderContext) -> None:
    """Raises UsageError naming the field and the value that Asterisk would take and that would break calls."""
    for field, number, low, high in (*_dialplan(context), *_media(context), *_voice(context), *_trunk_numbers(context)):
        if not low <= number <= high:
            raise UsageError("out-of-range", f"{field}: {number}", f"expected {low} to {high}")
    _check_transports(context)
    _check_ami(context)
    _check_codecs("target_codecs", context.target_codecs, TrunkKind.PJSIP)
    for trunk in context.trunks:
        _check_trunk(trunk, context)
    _check_together(context)


def _dialplan(context: RenderContext) -> Iterator[Range]:
    yield "agi_port", context.agi_port, 1, 65_535
    yield "guard_s", context.guard_s, 1, 60
    yield "quiet_s", context.quiet_s, 0, 3_600
    yield "warn_ms", context.warn_ms, 1, 86_400_000
    yield "repeat_ms", context.repeat_ms, 0, 86_400_000
    yield "max_rounds", context.max_rounds, 1, 1_000
    yield "fallback.cause", context.fallback.cause, 1, 127
    yield "fallback.sip", context.fallback.sip, 400, 699
    yield "ami.port", context.ami.port, 1, 65_535


def _voice(context: RenderContext) -> Iterator[Range]:
    if context.voice is not None:
        yield "voice.timeout_ms", context.voice.timeout_ms, 50, 10_000


def _media(context: RenderContext) -> Iterator[Range]:
    yield "rtp_timeout_s", context.rtp_timeout_s, 0, 86_400
    yield "rtp_timeout_hold_s", context.rtp_timeout_hold_s, 0, 86_400
    if context.session_expires_s:
        yield "session_expires_s", context.session_expires_s, 90, 86_400
    if context.rtp is not None:
        yield "rtp.start", context.rtp.start, 1_024, 65_534
        yield "rtp.end", context.rtp.end, context.rtp.start, 65_535


def _trunk_numbers(context: RenderContext) -> Iterator[Range]:
    for trunk in context.trunks:
        yield f"trunk {trunk.name} port", trunk.port, 0, 65_535
        yield f"trunk {trunk.name} qualify_s", trunk.qualify_s, 0, 3_600


def _check_transports(context: RenderContext) -> None:
    for transport in context.transports:
        if transport.listen and transport.protocol is SipTransport.TLS and context.tls is None:
            raise UsageError(
                "tls-incomplete", "SIP over TLS has no certificate", "set asterisk.tls_cert and asterisk.tls_key"
            )


def _check_ami(context: RenderContext) -> None:
    names = [user.username for user in context.ami.users]
    if len(set(names)) != len(names):
        raise UsageError(
            "ami-user-twice", f"AMI user {names[0]!r} is there twice", "give ami.control_username another name"
        )


def _check_codecs(field: str, codecs: tuple[str, ...], kind: TrunkKind) -> None:
    known = IAX2_CODECS if kind is TrunkKind.IAX2 else CODECS
    for codec in codecs:
        if codec not in known:
            raise UsageError("codecs-invalid", f"{field}: {codec!r} is no codec", f"one of {', '.join(sorted(known))}")


def _check_trunk(trunk: TrunkContext, context: RenderContext) -> None:
    if not trunk.codecs or not (trunk.hosts or trunk.auth is TrunkAuth.DIGEST):
        raise UsageError("trunk-incomplete", f"trunk {trunk.name!r} has no host or no codec", "give it one of each")
    if bool(trunk.username) != bool(trunk.secret):
        raise UsageError(
            "trunk-incomplete", f"trunk {trunk.name!r} has a username or a secret alone", "give both, or none"
        )
    if trunk.auth is not TrunkAuth.IP and not trunk.secret:
        raise UsageError("trunk-incomplete", f"trunk {trunk.name!r} has no secret", f"auth {trunk.auth} needs one")
    _check_codecs(f"codec of trunk {trunk.name!r}", trunk.codecs, trunk.kind)
    if trunk.kind is TrunkKind.PJSIP and trunk.transport not in {t.protocol for t in context.transports}:
        raise UsageError(
            "transport-missing",
            f"trunk {trunk.name!r} goes over {trunk.transport}, which is not switched on",
            f"set asterisk.sip_{trunk.transport}_listen, or asterisk.{trunk.transport}_transport to one of your own",
        )


def _check_together(context: RenderContext) -> None:
    """One section for each trunk, and one trunk for each address: a call from it must be one trunk's."""
    name, times = next(iter(Counter(trunk.name for trunk in context.trunks).most_common(1)), ("", 0))
    if times > 1:
        raise UsageError("trunk-twice", f"trunk {name!r} is there twice", "one section per trunk: rename one")
    for one, other in combinations(context.trunks, 2):
        if one.kind is not other.kind:
            continue
        shared = shared_host(_found_by(one), _found_by(other))
        if shared is not None:
            raise UsageError(
                "host-shared",
                f"trunk {one.name!r} and trunk {other.name!r} both have {shared[0]}",
                "a call from it could be either trunk's: name other hosts, or make them one trunk",
            )


def _found_by(trunk: TrunkContext) -> tuple[str, ...]:
    """The addresses by which a call is this trunk's: none where IAX2 asks for its name and secret."""
    return () if trunk.kind is TrunkKind.IAX2 and trunk.username else trunk.hosts
