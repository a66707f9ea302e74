"""The templates' input from the configuration and the estate's trunks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from capconduit.config import Config, resolve_secret
from capconduit.domain.model import Trunk
from capconduit.errors import ConfigError
from capconduit.render.contexts import Ami, AmiUser, Fallback, RenderContext, StirSource, TrunkContext
from capconduit.vocab import CAUSE_TO_SIP, SIP_FOR_OTHER_CAUSES

# PJSIPHangup and event filters by name came to 18 to 21 in the middle of their lives; 22 has both from the start.
EVERYTHING_SINCE = 22


def render_context(config: Config, trunks: Iterable[Trunk], env: Mapping[str, str]) -> RenderContext:
    """Everything the templates need. Raises ConfigError where the AMI secret cannot be read.

    Without an AMI secret manager.conf has no user: the daemon then works without AMI.
    """
    agi_host, agi_port = config.fastagi.address
    cause = config.asterisk.fallback_cause
    modern = config.asterisk.version >= EVERYTHING_SINCE
    return RenderContext(
        node_name=config.node.name,
        ami=_ami(config, env),
        agi_host=agi_host,
        agi_port=agi_port,
        sip_listen=config.asterisk.sip_listen,
        iax_listen=config.asterisk.iax_listen,
        trunks=tuple(_trunk(trunk, env) for trunk in sorted(trunks, key=lambda t: t.name)),
        fallback=Fallback(
            cause=cause,
            sip=CAUSE_TO_SIP.get(cause, SIP_FOR_OTHER_CAUSES),
            context=config.asterisk.fallback_context,
        ),
        warn_ms=config.limits.warning_ms,
        exact_sip_codes=modern,
        stir=StirSource(config.asterisk.stir),
        stir_attestation_header=config.asterisk.stir_attestation_header,
        stir_verdict_header=config.asterisk.stir_verdict_header,
    )


def _ami(config: Config, env: Mapping[str, str]) -> Ami:
    named = config.asterisk.version >= EVERYTHING_SINCE
    if not config.ami.enabled:
        return Ami(users=(), port=config.ami.port, named_filters=named)
    user = AmiUser(username=config.ami.username, secret=resolve_secret(config.ami.secret, env))
    return Ami(users=(user,), port=config.ami.port, named_filters=named)


def _trunk(trunk: Trunk, env: Mapping[str, str]) -> TrunkContext:
    secret = resolve_secret(trunk.auth_secret_ref, env) if trunk.auth_secret_ref else ""
    if trunk.auth_username and not secret:
        raise ConfigError(
            "trunk-secret-missing", f"trunk {trunk.name!r} has a username and no secret", "set its secret reference"
        )
    return TrunkContext(
        name=trunk.name,
        kind=trunk.kind,
        hosts=tuple(trunk.hosts.split(",")),
        port=trunk.port,
        codecs=tuple(trunk.codecs.split(",")),
        username=trunk.auth_username,
        secret=secret,
    )
