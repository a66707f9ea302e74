"""Which modules of Asterisk the rendered files need, read from the files themselves: applications, functions, options.

The names are Asterisk's own; where each lives was read in its source and is held true by tests, against the modules of
a real Asterisk and against every form of the templates: a name that is in neither table fails a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from capconduit.doctor.conffile import ConfFile, parse_conf

CORE: Final = ""  # in Asterisk itself (main/pbx_builtins.c, main/pbx_variables.c)

APPLICATIONS: Final[Mapping[str, str]] = {
    "AGI": "res_agi.so", "Answer": CORE, "BackGround": CORE, "Busy": CORE, "Congestion": CORE, "Dial": "app_dial.so",
    "ExecIf": "app_exec.so", "Gosub": "app_stack.so", "GosubIf": "app_stack.so", "Goto": CORE, "GotoIf": CORE,
    "Hangup": CORE, "MSet": CORE, "MixMonitor": "app_mixmonitor.so", "NoOp": CORE, "PJSIPHangup": "chan_pjsip.so",
    "Playback": "app_playback.so", "Proceeding": CORE, "Progress": CORE, "Return": "app_stack.so", "Ringing": CORE,
    "Set": CORE, "SoftHangup": "app_softhangup.so", "StackPop": "app_stack.so", "StopMixMonitor": "app_mixmonitor.so",
    "TryExec": "app_exec.so",
    "Verbose": "app_verbose.so", "Wait": CORE, "WaitExten": CORE,
}  # fmt: skip

FUNCTIONS: Final[Mapping[str, str]] = {
    "CALLERID": "func_callerid.so", "CDR": "func_cdr.so", "CDR_PROP": "func_cdr.so", "CHANNEL": "func_channel.so",
    "CONNECTEDLINE": "func_callerid.so", "CUT": "func_cut.so", "DB": "func_db.so", "DB_DELETE": "func_db.so",
    "DB_EXISTS": "func_db.so", "DIALPLAN_EXISTS": "func_dialplan.so", "EVAL": "func_strings.so",
    "EXISTS": "func_logic.so", "FIELDQTY": "func_strings.so", "FILTER": "func_strings.so", "GLOBAL": "func_global.so",
    "HASH": "func_strings.so", "IF": "func_logic.so", "IFMODULE": "func_module.so", "IFTIME": "func_logic.so",
    "ISNULL": "func_logic.so", "LEN": "func_strings.so", "MASTER_CHANNEL": "func_channel.so", "MATH": "func_math.so",
    "PJSIP_CONTACT": "func_pjsip_contact.so", "PJSIP_HEADER": "res_pjsip_header_funcs.so",
    "REDIRECTING": "func_callerid.so", "REGEX": "func_strings.so", "REPLACE": "func_strings.so", "SET": "func_logic.so",
    "STACK_PEEK": "app_stack.so", "STIR_SHAKEN": "res_stir_shaken.so", "STRFTIME": "func_strings.so",
    "STRREPLACE": "func_strings.so", "TIMEOUT": "func_timeout.so", "TOLOWER": "func_strings.so",
    "TOUPPER": "func_strings.so",
}  # fmt: skip

# Other modules that a file needs as soon as it is there at all.
DIALPLAN: Final = ("pbx_config.so", "bridge_simple.so")
PJSIP: Final = (
    "res_sorcery_config.so", "res_pjsip.so", "res_pjsip_session.so", "res_pjsip_sdp_rtp.so", "res_rtp_asterisk.so",
    "chan_pjsip.so",
)  # fmt: skip

# By `key = value` of pjsip.conf (an empty value: any), what is needed for it.
PJSIP_OPTIONS: Final[tuple[tuple[str, str, str], ...]] = (
    ("type", "identify", "res_pjsip_endpoint_identifier_ip.so"),
    ("type", "registration", "res_pjsip_outbound_registration.so"),
    ("type", "acl", "res_pjsip_acl.so"),
    ("auth", "", "res_pjsip_authenticator_digest.so"),
    ("outbound_auth", "", "res_pjsip_outbound_authenticator_digest.so"),
    ("max_contacts", "", "res_pjsip_registrar.so"),
    ("media_encryption", "", "res_srtp.so"),
    ("stir_shaken_profile", "", "res_pjsip_stir_shaken.so"),
)
PJSIP_WANTED: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("type", "endpoint", "res_pjsip_rfc3326.so", "tells and reads hangup causes in SIP"),
    ("type", "endpoint", "res_pjsip_nat.so", "answers to where requests came from"),
    ("trust_id_inbound", "", "res_pjsip_caller_id.so", "reads the caller's number from P-Asserted-Identity"),
)
BEEP: Final = "bridge_builtin_interval_features.so"
RECORDS: Final = "cdr_custom.so"
VOICE: Final = ("res_http_websocket.so", "res_websocket_client.so", "chan_websocket.so")

# A whole line of dialplan: what comes after `exten => name,priority` or `same => n(label)`.
_LINE: Final = re.compile(r"^(?:exten\s*=>?\s*[^,]+,|same\s*=>?\s*)\s*[^,(]+(?:\([^)]*\))?\s*,(.*)$")
_CALLED: Final = re.compile(r"(?<![\w-])([A-Z][A-Za-z_]+)\(")
_COMMENT: Final = re.compile(r"(?<!\\);.*")


def module_needs(files: Mapping[str, str]) -> Mapping[str, tuple[str, bool]]:
    """Module → (what for, whether calls do not work without it), of rendered files by name."""
    needs: dict[str, tuple[str, bool]] = {}
    of_all = (*_of_dialplan(files), *_of_pjsip(files), *_of_iax(files), *_of_records(files), *_of_voice(files))
    for module, why, vital in of_all:
        needs.setdefault(module, (why, vital))
    return needs


def used_names(dialplan: str) -> list[str]:
    """Every application and function that a dialplan names, in order, each once."""
    names: dict[str, None] = {}
    for line in dialplan.splitlines():
        if match := _LINE.match(_COMMENT.sub("", line).strip()):
            names.update(dict.fromkeys(_CALLED.findall(match[1])))
    return list(names)


def _of_dialplan(files: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    text = files.get("extensions.conf", "")
    if not text:
        return
    for module in DIALPLAN:
        yield module, "the dialplan needs it", True
    for name in used_names(text):
        module = APPLICATIONS.get(name) or FUNCTIONS.get(name, CORE)
        if module:
            yield module, f"the dialplan uses {name}", True
    if BEEP in text:
        yield BEEP, "callers hear no beep before their money ends", False


def _of_pjsip(files: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    text = files.get("pjsip.conf", "")
    if not text:
        return
    conf = parse_conf(text)
    for module in PJSIP:
        yield module, "pjsip.conf needs it", True
    for key, value, module in PJSIP_OPTIONS:
        if _has(conf, key, value):
            yield module, f"pjsip.conf has {key} = {value or '…'}", True
    for key, value, module, why in PJSIP_WANTED:
        if _has(conf, key, value):
            yield module, why, False


def _has(conf: ConfFile, key: str, value: str) -> bool:
    found = [one for section in conf.sections for one in section.all(key)]
    return any(one.lower() == value if value else one.lower() not in ("", "no") for one in found)


def _of_iax(files: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    trunks = [s.name for s in parse_conf(files.get("iax.conf", "")).sections if s.name.lower() != "general"]
    if trunks:
        yield "chan_iax2.so", f"iax.conf has {trunks[0]}", True


def _of_records(files: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    if files.get("cdr_custom.conf"):
        yield RECORDS, "there is no second record of calls in Asterisk's cdr-custom directory", False


def _of_voice(files: Mapping[str, str]) -> Iterator[tuple[str, str, bool]]:
    if files.get("websocket_client.conf"):
        for module in VOICE:
            yield module, "without it no agent answers, and calls to agents go on to the next target", False
