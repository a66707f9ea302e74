"""The keys of [asterisk]: where Asterisk is, and what is rendered for it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from capconduit import config_rules as rules
from capconduit.config_keys import key
from capconduit.config_rules import Invalid, Value


def _program(value: Value) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_.+-]+|/[^\s]*[^\s/]", str(value)):
        raise Invalid(
            "is neither a program's name nor an absolute path", "write it like asterisk or /usr/sbin/asterisk"
        )


@dataclass(frozen=True)
class AsteriskConfig:
    """What `capconduit render` writes for Asterisk."""

    config_dir: str = key("/etc/asterisk", "Directory of Asterisk's configuration.", rules.directory)
    program: str = key(
        "asterisk",
        "The program that reaches Asterisk's console, as `asterisk -rx COMMAND`: a name on $PATH or an absolute path.",
        _program,
    )
    main_config: str = key(
        "",
        "Asterisk's main configuration, asterisk.conf, which says where its console is.",
        rules.absolute_file,
        empty="the one that the program was built for, /etc/asterisk/asterisk.conf",
    )
    version: int = key(
        22,
        "Major version of Asterisk. Before 22 the files do without what only newer ones have: exact SIP codes of"
        " rejects, event filters by name.",
        rules.between(16, 30),
    )
    files: str = key(
        "needed",
        "Which files are rendered: needed, those that CapConduit works by; all, also logger.conf, http.conf, ari.conf,"
        " cel.conf and rtp.conf, for an Asterisk that does nothing else.",
        rules.one_of("needed", "all"),
    )
    templates_dir: str = key(
        "",
        "Directory of templates of your own, which replace ours by name.",
        rules.directory_or_none,
        empty="ours",
    )
    sip_listen: str = key("0.0.0.0:5060", "Address and port of SIP over UDP.", rules.listen)
    sip_tcp_listen: str = key(
        "", "Address and port of SIP over TCP, for example 0.0.0.0:5060.", rules.listen_or_off, empty="no TCP"
    )
    sip_tls_listen: str = key(
        "",
        "Address and port of SIP over TLS, for example 0.0.0.0:5061; needs tls_cert and tls_key.",
        rules.listen_or_off,
        empty="no TLS",
    )
    tls_cert: str = key("", "Certificate of SIP over TLS, a PEM file.", rules.absolute_file, empty="no TLS")
    tls_key: str = key("", "Its private key, a PEM file that Asterisk can read.", rules.absolute_file, empty="no TLS")
    tls_ca: str = key(
        "",
        "Certificates of the authorities that carriers' certificates are checked by, a PEM file.",
        rules.absolute_file,
        empty="carriers' certificates are not checked",
    )
    udp_transport: str = key(
        "",
        "Name of a PJSIP transport of your own, used instead of one at sip_listen.",
        rules.section_or_none,
        empty="ours",
    )
    tcp_transport: str = key(
        "",
        "Name of a PJSIP transport of your own, used instead of one at sip_tcp_listen.",
        rules.section_or_none,
        empty="ours",
    )
    tls_transport: str = key(
        "",
        "Name of a PJSIP transport of your own, used instead of one at sip_tls_listen.",
        rules.section_or_none,
        empty="ours",
    )
    external_address: str = key(
        "",
        "Address or name by which the world reaches an Asterisk behind NAT.",
        rules.host_or_off,
        empty="it is not behind NAT",
    )
    local_networks: str = key(
        "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16",
        "Networks that Asterisk talks to directly, not through NAT; comma separated.",
        rules.networks,
    )
    rtp_range: str = key(
        "",
        "UDP ports of media, for example 10000-20000; two for each leg of a call.",
        rules.port_range_or_none,
        empty="as rtp.conf of your own says",
    )
    rtp_timeout_s: int = key(
        120,
        "A connected call is hung up when no media arrived for this long (seconds); 0 never. A caller who vanished is"
        " not charged until the funded time ends.",
        rules.between(0, 86_400),
    )
    rtp_timeout_hold_s: int = key(600, "The same while a call is on hold (seconds); 0 never.", rules.between(0, 86_400))
    session_expires_s: int = key(
        1_800,
        "SIP session timer: after this long (seconds) without a refresh a call is over (RFC 4028); 0 switches it off.",
        rules.zero_or_between(90, 86_400),
    )
    target_codecs: str = key(
        "ulaw,alaw", "Codecs of calls to targets that are given as a SIP URI, the best first.", rules.codecs
    )
    iax_listen: str = key("0.0.0.0:4569", "Address and port of IAX2.", rules.listen)
    fallback_cause: int = key(
        38,
        "Hangup cause (Q.850) of calls that the daemon did not answer; 38, network out of order, becomes SIP 500.",
        rules.between(1, 127),
    )
    fallback_context: str = key(
        "",
        "Your own dialplan context for calls that the daemon did not answer.",
        rules.dialplan_context,
        empty="such calls are hung up with fallback_cause",
    )
    stir: str = key(
        "none",
        "Where STIR attestation and verdict are read: none; headers (the carrier verified the call and tells it in the "
        "two headers below); asterisk (res_stir_shaken verified it, by your profile `capconduit` in stir_shaken.conf).",
        rules.one_of("none", "headers", "asterisk"),
    )
    stir_attestation_header: str = key(
        "P-Attestation-Indicator", "SIP header with the attestation level (A, B or C).", rules.header_name
    )
    stir_verdict_header: str = key("X-Verstat", "SIP header with the verification result.", rules.header_name)
