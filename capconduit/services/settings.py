"""System settings: what there is, and setting them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from capconduit.domain.abuse import LEAST_BLOCK_MS, MAX_COUNTED, MOST_BLOCK_MS
from capconduit.domain.model import Setting
from capconduit.domain.settings import Settings, setting_descriptions
from capconduit.errors import NotFound, UsageError
from capconduit.services.campaigns import ANONYMOUS_POLICIES, MAX_ATTEMPTS
from capconduit.services.caps import cap_zones, carry_over
from capconduit.services.office import Desk, Office
from capconduit.services.sellers import check_timezone
from capconduit.services.trunks import check_region
from capconduit.units import format_span, parse_duration_ms
from capconduit.vocab import Attestation


@dataclass(frozen=True, slots=True)
class SettingView:
    """A setting: its value in force, its default and what it does."""

    name: str
    type: str
    value: object
    default: object
    description: str


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in words:
            raise UsageError("setting-invalid", f"{text!r} is not possible here", f"use {' or '.join(words)}")
        return text

    return check


def _a_region(text: str) -> str:
    if not text:  # a trunk may have none of its own; without this one no national number could be read
        raise UsageError("region-invalid", "numbers need a region", "use an ISO 3166 code like US or GB")
    return check_region(text)


def _attestation_or_none(text: str) -> str:
    """A level in capitals; `none` and nothing are none."""
    level = text.strip().upper()
    return "" if level in ("", "NONE") else _one_of(*Attestation, "none")(level)


def _off_or_a_while(text: str) -> str:
    """`off`, or a duration as it is written shortest."""
    word = text.strip().lower()
    if word in ("off", "0"):
        return "off"
    duration_ms = parse_duration_ms(word)
    if not LEAST_BLOCK_MS <= duration_ms <= MOST_BLOCK_MS:
        raise UsageError(
            "setting-invalid",
            f"{text!r} is no time to block a caller for",
            f"give off, or from {format_span(LEAST_BLOCK_MS)} to {format_span(MOST_BLOCK_MS)}",
        )
    return format_span(duration_ms)


_CHECKS: Final[dict[str, Callable[[str], str]]] = {
    "timezone": check_timezone,
    "default_region": _a_region,
    "anonymous_callers": _one_of(*ANONYMOUS_POLICIES),
    "invalid_callers": _one_of(*ANONYMOUS_POLICIES),
    "min_attestation": _attestation_or_none,
    "balance_sip_code": _one_of("402", "403"),
    "abuse_block": _off_or_a_while,
    "transcripts": _one_of("on", "off"),
}
_SECONDS: Final = (1, 86_400)
_DAYS: Final = (0, 36_500)
_PERCENT: Final = (0, 100)
_ABUSE: Final = (0, MAX_COUNTED)
_BOUNDS: Final = {
    "default_max_attempts": (1, MAX_ATTEMPTS),
    "breaker_failures": (0, 1_000),
    "cdr_keep_days": _DAYS,
    "event_keep_days": _DAYS,
    "place_keep_days": _DAYS,
    "caller_max_calls": (0, MAX_COUNTED),
    "caller_window_s": (1, 3_600),
    "abuse_window_s": (10, 3_600),
    "abuse_dids": _ABUSE,
    "abuse_sequence": _ABUSE,
    "abuse_redials": _ABUSE,
    "abuse_short_s": (1, 60),
    "abuse_short_calls": _ABUSE,
    "abuse_junk": _ABUSE,
    "abuse_range": (0, 100),
    "abuse_trunk_calls": (0, 1_000_000),
    "abuse_trunk_short_percent": _PERCENT,
    "abuse_trunk_junk_percent": _PERCENT,
    "abuse_spike_factor": (0, 1_000),
    "webhook_timeout_s": (1, 60),
    "webhook_retry_s": (1, 600),
    "webhook_tries": (1, 100),
    "webhook_give_up_h": (1, 720),
    "webhook_keep_days": (1, 365),
    "notification_keep_days": (1, 3_650),
}
# A new cap counts its past from the records: of a month, or of the longest rolling window.
# Abuse is over when half of what was too much is left; of one there is no half.
_LEAST_UNLESS_ZERO: Final = {
    "cdr_keep_days": 40,
    "abuse_dids": 2,
    "abuse_sequence": 2,
    "abuse_redials": 2,
    "abuse_short_calls": 2,
    "abuse_junk": 2,
    "abuse_range": 2,
    "abuse_spike_factor": 2,
}


def list_settings(office: Office) -> Sequence[SettingView]:
    """All settings with their values in force."""
    return office.read(lambda desk: _views(desk.settings()))


def show_setting(office: Office, name: str) -> SettingView:
    """One setting. Raises NotFound."""
    _check_known(name)
    return office.read(lambda desk: _view(desk.settings(), name))


def set_setting(office: Office, name: str, value: str) -> SettingView:
    """Set a setting; in force with the next decision. Raises NotFound, UsageError."""
    checked = check_setting(name, value)

    def work(desk: Desk) -> SettingView:
        after = Setting(tenant_id=desk.tenant_id, name=name, value=checked, updated_ms=desk.now_ms)
        _put(desk, name, desk.tx.find(Setting, desk.tenant_id, name=name), after)
        return _view(desk.settings(), name)

    return office.change(work)


def reset_setting(office: Office, name: str) -> tuple[SettingView, bool]:
    """Let the default be in force again, also where a later version has another one; and whether anything else was.

    Raises NotFound.
    """
    _check_known(name)

    def work(desk: Desk) -> tuple[SettingView, bool]:
        before = desk.tx.find(Setting, desk.tenant_id, name=name)
        if before is not None:
            _put(desk, name, before, None)
        return _view(desk.settings(), name), before is not None

    return office.change(work)


def _put(desk: Desk, name: str, before: Setting | None, after: Setting | None) -> None:
    """Replace what is set by something else, or by nothing."""
    zones = cap_zones(desk) if name == "timezone" else None
    if after is None:
        desk.tx.delete(before)
    elif before is None:
        desk.tx.insert(after)
    else:
        desk.tx.update(after)
    if zones is not None:
        carry_over(desk, zones)
    desk.changed("setting.set" if after else "setting.reset", name, before, after)


def check_setting(name: str, value: str) -> str:
    """A setting's value as it is kept. Raises NotFound, UsageError."""
    _check_known(name)
    return _checked(name, setting_descriptions()[name][0], value)


def _check_known(name: str) -> None:
    known = setting_descriptions()
    if name not in known:
        raise NotFound("setting", name, tuple(get_close_matches(name, known, n=2)))


def _checked(name: str, kind: str, value: str) -> str:
    if name in _CHECKS:
        return _CHECKS[name](value)
    low, high = _BOUNDS.get(name, _SECONDS)
    if kind == "int" and not (value.isascii() and value.isdigit() and low <= int(value) <= high):
        raise UsageError(
            "setting-invalid", f"{value!r} is no value of {name}", f"give a whole number from {low} to {high}"
        )
    least, zero = _LEAST_UNLESS_ZERO.get(name, 0), "for ever" if name.endswith("_days") else "never"
    if least and 0 < int(value) < least:
        raise UsageError("setting-invalid", f"{value!r} is no value of {name}", f"give 0 ({zero}) or at least {least}")
    return value


def _views(settings: Settings) -> Sequence[SettingView]:
    return [
        SettingView(name, kind, getattr(settings, name), default, description)
        for name, (kind, default, description) in setting_descriptions().items()
    ]


def _view(settings: Settings, name: str) -> SettingView:
    return next(view for view in _views(settings) if view.name == name)
