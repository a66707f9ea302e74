"""The system settings: name, default, what it does. An operator's values come from the database and are parsed here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from capconduit.domain.model import Setting


def _setting(default: Any, description: str) -> Any:
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True, slots=True)
class Settings:
    """The values in force for a tenant. Durations are in seconds where the name says `_s`."""

    timezone: str = _setting("UTC", "time zone of caps on the system, trunks and targets (IANA name)")
    default_region: str = _setting("US", "region of numbers that come without a country code (ISO 3166)")
    funding_slice_s: int = _setting(60, "seconds of talk that are reserved at a time from the seller's balance")
    default_max_attempts: int = _setting(5, "targets tried for one call, where the campaign says nothing else")
    anonymous_callers: str = _setting("allow", "callers without a number: allow or reject")
    invalid_callers: str = _setting("allow", "callers whose number is no telephone number: allow or reject")
    min_attestation: str = _setting("", "least STIR attestation of calls: A, B or C; empty: none is needed")
    breaker_failures: int = _setting(5, "failed Dials in a row after which a target is rested; 0: never")
    breaker_rest_s: int = _setting(60, "seconds a failing target is rested before one call tries it again")
    balance_sip_code: int = _setting(403, "SIP code of calls rejected for want of money: 403 or 402")
    lease_dial_extra_s: int = _setting(
        15, "added to the ring time: how long a dialing call is not given up without news"
    )
    lease_up_s: int = _setting(
        120, "how long an answered call is not given up without news; and never before its funded time is over"
    )
    cdr_keep_days: int = _setting(0, "days that the records of settled calls are kept, at least 40; 0: for ever")
    event_keep_days: int = _setting(0, "days that events are kept; 0: for ever")
    place_keep_days: int = _setting(
        35, "days that what a settled call used of each cap is kept to recount it; 0: for ever"
    )
    caller_max_calls: int = _setting(
        0, "calls of one caller within caller_window_s that are let through, as each daemon counts them; 0: any number"
    )
    caller_window_s: int = _setting(10, "seconds over which the calls of one caller are counted")
    abuse_window_s: int = _setting(300, "seconds over which calls are looked at for abuse")
    abuse_dids: int = _setting(10, "different DIDs that one caller dials in the window and is told of; 0: never")
    abuse_sequence: int = _setting(5, "DIDs in a row that one caller dials in the window and is told of; 0: never")
    abuse_redials: int = _setting(30, "calls of one caller in the window that are told of; 0: never")
    abuse_short_s: int = _setting(6, "seconds of talk below which an answered call is short")
    abuse_short_calls: int = _setting(10, "short calls of one caller in the window that are told of; 0: never")
    abuse_junk: int = _setting(
        20, "calls of one caller in the window, rejected for what they are, that are told of; 0: never"
    )
    abuse_range: int = _setting(
        10, "callers who differ in their last two digits and call one DID in the window that are told of; 0: never"
    )
    abuse_trunk_calls: int = _setting(
        200, "calls of a trunk in the window from which on the trunk is looked at for abuse; 0: never"
    )
    abuse_trunk_short_percent: int = _setting(
        60, "percent of a trunk's answered calls that are short and are told of; 0: never"
    )
    abuse_trunk_junk_percent: int = _setting(
        50, "percent of a trunk's calls, rejected for what they are, that are told of; 0: never"
    )
    abuse_spike_factor: int = _setting(
        5, "times the average of the twelve windows before that a trunk's calls are told of; 0: never"
    )
    abuse_block: str = _setting("off", "how long a caller found in abuse is blocked, like 1h; off: never")
    webhook_timeout_s: int = _setting(10, "seconds a receiver of events has to answer, and a command to end")
    webhook_retry_s: int = _setting(
        1, "seconds before an event that was not taken is sent again, at most; each time twice as long, up to an hour"
    )
    webhook_tries: int = _setting(15, "times an event is sent in vain before it is parked, with those that follow it")
    webhook_give_up_h: int = _setting(24, "hours after which an event that is not taken is parked, however often tried")
    webhook_keep_days: int = _setting(3, "days that deliveries are kept, and that events wait for a receiver")
    notification_keep_days: int = _setting(90, "days that notifications are kept")
    transcripts: str = _setting("off", "whether agents that are told to may keep what is said: on or off")


def setting_descriptions() -> dict[str, tuple[str, object, str]]:
    """name → (type, default, description), for help and man pages."""
    hints = get_type_hints(Settings)
    return {f.name: (hints[f.name].__name__, f.default, f.metadata["description"]) for f in fields(Settings)}


def settings_of(rows: Iterable[Setting]) -> Settings:
    """The settings in force given the operator's rows; unknown names are ignored (an older program reads a newer base).

    Raises ValueError for an integer setting that is none: rows are validated before they are stored.
    """
    hints = get_type_hints(Settings)
    known: dict[str, Any] = {
        row.name: int(row.value) if hints[row.name] is int else row.value for row in rows if row.name in hints
    }
    return Settings(**known)
