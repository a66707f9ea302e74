"""The templates' input from the configuration and the estate's trunks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from capconduit.config import Config, resolve_secret
from capconduit.config_asterisk import AsteriskConfig
from capconduit.config_rules import parse_port_range
from capconduit.domain.model import Trunk
from capconduit.errors import ConfigError
from capconduit.render.contexts import (
    AMI_WRITE_CONTROL,
    AMI_WRITE_READER,
    OWN_TRANSPORT,
    Ami,
    AmiUser,
    Fallback,
    Nat,
    RenderContext,
    RtpRange,
    StirSource,
    Tls,
    Transport,
    TrunkContext,
    Voice,
)
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import CAUSE_TO_SIP, SIP_FOR_OTHER_CAUSES, SipTransport

# PJSIPHangup and event filters by name came to 18 to 21 in the middle of their lives; 22 has both from the start.
EVERYTHING_SINCE = 22
WEBSOCKETS_SINCE = 20  # chan_websocket: 20.18, 22.8, 23.2


def render_context(config: Config, trunks: Iterable[Trunk], env: Mapping[str, str]) -> RenderContext:
    """Everything the templates need. Raises ConfigError where a secret cannot be read.

    Without an AMI secret manager.conf has no user: the daemon then works without AMI.
    """
    agi_host, agi_port = config.fastagi.address
    cause = config.asterisk.fallback_cause
    modern = config.asterisk.version >= EVERYTHING_SINCE
    asterisk = config.asterisk
    return RenderContext(
        node_name=config.node.name,
        ami=_ami(config, env),
        all_files=asterisk.files == "all",
        agi_host=agi_host,
        agi_port=agi_port,
        sip_listen=asterisk.sip_listen,
        more_transports=_transports(asterisk),
        tls=_tls(asterisk),
        nat=_nat(asterisk),
        rtp=_rtp(asterisk.rtp_range),
        rtp_timeout_s=asterisk.rtp_timeout_s,
        rtp_timeout_hold_s=asterisk.rtp_timeout_hold_s,
        session_expires_s=asterisk.session_expires_s,
        target_codecs=tuple(asterisk.target_codecs.split(",")),
        iax_listen=config.asterisk.iax_listen,
        trunks=tuple(_trunk(trunk, env) for trunk in sorted(trunks, key=lambda t: t.name)),
        fallback=Fallback(
            cause=cause,
            sip=CAUSE_TO_SIP.get(cause, SIP_FOR_OTHER_CAUSES),
            context=config.asterisk.fallback_context,
        ),
        voice=_voice(config),
        warn_ms=config.limits.warning_ms,
        exact_sip_codes=modern,
        stir=StirSource(config.asterisk.stir),
        stir_attestation_header=config.asterisk.stir_attestation_header,
        stir_verdict_header=config.asterisk.stir_verdict_header,
    )


def templates_dir(config: Config) -> Path | None:
    """The operator's own templates, or None."""
    return Path(config.asterisk.templates_dir) if config.asterisk.templates_dir else None


def _transports(asterisk: AsteriskConfig) -> tuple[Transport, ...]:
    """The operator's own transports in place of ours, and ours over TCP and TLS where they listen."""
    given = {
        SipTransport.UDP: (asterisk.udp_transport, ""),
        SipTransport.TCP: (asterisk.tcp_transport, asterisk.sip_tcp_listen),
        SipTransport.TLS: (asterisk.tls_transport, asterisk.sip_tls_listen),
    }
    transports = []
    for protocol, (name, listen) in given.items():
        if name:
            transports.append(Transport(protocol=protocol, name=name))
        elif listen:
            transports.append(Transport(protocol=protocol, name=OWN_TRANSPORT + protocol, listen=listen))
    return tuple(transports)


def _tls(asterisk: AsteriskConfig) -> Tls | None:
    if not (asterisk.tls_cert and asterisk.tls_key):
        return None
    return Tls(cert=asterisk.tls_cert, key=asterisk.tls_key, ca=asterisk.tls_ca)


def _nat(asterisk: AsteriskConfig) -> Nat | None:
    if not asterisk.external_address:
        return None
    networks = tuple(filter(None, asterisk.local_networks.split(",")))
    return Nat(external_address=asterisk.external_address, local_networks=networks)


def _voice(config: Config) -> Voice | None:
    """Where agents answer; None where nobody does, or this Asterisk cannot reach them."""
    if not config.voice.url or config.asterisk.version < WEBSOCKETS_SINCE:
        return None
    return Voice(url=config.voice.url, timeout_ms=config.voice.connect_timeout_ms, ca=config.asterisk.tls_ca)


def _rtp(text: str) -> RtpRange | None:
    if not text:
        return None
    start, end = parse_port_range(text)
    return RtpRange(start=start, end=end)


def _ami(config: Config, env: Mapping[str, str]) -> Ami:
    """One user with both rights, or a reader and one for control; none where AMI is off."""
    named = config.asterisk.version >= EVERYTHING_SINCE
    ami = config.ami
    if not ami.enabled:
        return Ami(users=(), port=ami.port, named_filters=named)
    first = AmiUser(username=ami.username, secret=resolve_secret(ami.secret, env))
    if not ami.has_control:
        return Ami(users=(first,), port=ami.port, named_filters=named)
    control = AmiUser(
        username=ami.control_username, secret=resolve_secret(ami.control_secret, env),
        read=(), write=AMI_WRITE_CONTROL, events=(),
    )  # fmt: skip
    return Ami(users=(replace(first, write=AMI_WRITE_READER), control), port=ami.port, named_filters=named)


def _trunk(trunk: Trunk, env: Mapping[str, str]) -> TrunkContext:
    try:
        secret = resolve_secret(trunk.auth_secret_ref, env) if trunk.auth_secret_ref else ""
    except ConfigError as error:
        raise ConfigError(error.slug, f"trunk {trunk.name!r}: {error.message}", error.hint) from None
    return TrunkContext(
        name=trunk.name,
        kind=trunk.kind,
        hosts=_listed(trunk.hosts),
        port=trunk.port,
        codecs=tuple(trunk.codecs.split(",")),
        username=trunk.auth_username,
        secret=secret,
        auth=trunk.auth,
        transport=trunk.transport,
        srtp=trunk.srtp,
        nat=trunk.nat,
        qualify_s=trunk.qualify_ms // MS_PER_SECOND,
        permit=_listed(trunk.permit),
    )


def _listed(joined: str) -> tuple[str, ...]:
    return tuple(joined.split(",")) if joined else ()
