"""System settings: what there is, and setting them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from capconduit.domain.model import Setting
from capconduit.domain.settings import Settings, setting_descriptions
from capconduit.errors import NotFound, UsageError
from capconduit.services.campaigns import MAX_ATTEMPTS
from capconduit.services.caps import cap_zones, carry_over
from capconduit.services.office import Desk, Office
from capconduit.services.sellers import check_timezone
from capconduit.services.trunks import check_region


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


_CHECKS: Final[dict[str, Callable[[str], str]]] = {
    "timezone": check_timezone,
    "default_region": check_region,
    "anonymous_callers": _one_of("allow", "reject"),
    "invalid_callers": _one_of("allow", "reject"),
    "balance_sip_code": _one_of("402", "403"),
}
_SECONDS: Final = (1, 86_400)
_BOUNDS: Final = {"default_max_attempts": (1, MAX_ATTEMPTS)}


def list_settings(office: Office) -> Sequence[SettingView]:
    """All settings with their values in force."""
    return office.read(lambda desk: _views(desk.settings()))


def show_setting(office: Office, name: str) -> SettingView:
    """One setting. Raises NotFound."""
    _check_known(name)
    return office.read(lambda desk: _view(desk.settings(), name))


def set_setting(office: Office, name: str, value: str) -> SettingView:
    """Set a setting; in force with the next decision. Raises NotFound, UsageError."""
    _check_known(name)
    checked = _checked(name, setting_descriptions()[name][0], value)

    def work(desk: Desk) -> SettingView:
        zones = cap_zones(desk)
        before = desk.tx.find(Setting, desk.tenant_id, name=name)
        after = Setting(tenant_id=desk.tenant_id, name=name, value=checked, updated_ms=desk.now_ms)
        if before is None:
            desk.tx.insert(after)
        else:
            desk.tx.update(after)
        carry_over(desk, zones)
        desk.changed("setting.set", name, before, after)
        return _view(desk.settings(), name)

    return office.change(work)


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
    return value


def _views(settings: Settings) -> Sequence[SettingView]:
    return [
        SettingView(name, kind, getattr(settings, name), default, description)
        for name, (kind, default, description) in setting_descriptions().items()
    ]


def _view(settings: Settings, name: str) -> SettingView:
    return next(view for view in _views(settings) if view.name == name)
