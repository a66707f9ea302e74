"""AMI messages translated into typed, frozen events; pure: no socket, no clock, nothing raised.

Fields and meanings: Asterisk main/manager_channels.c (DialBegin, DialState, DialEnd, Hangup) and
main/manager_bridges.c (BridgeLeave); compared with what Asterisk 22.10 sends. Each kind of event costs Asterisk and us
time for every call: there are no more of them than somebody reads. Messages are hostile text: what lacks a field that
is needed, or is not one of ours, becomes None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final, TypeAlias

from capconduit.domain.record import value
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import DialStatus

SECONDS_CHARS: Final = 11  # of a timestamp; today it has ten digits of seconds, a point, and six of micros
FRACTION_CHARS: Final = 9
NUMBER_CHARS: Final = 9
_RINGING: Final = frozenset({"RINGING", "PROGRESS"})  # of DialState: main/dial.c, apps/app_dial.c
ZONE_STEP_MS: Final = 15 * 60 * MS_PER_SECOND  # every time zone is a multiple of a quarter of an hour from UTC


@value
class DialBegan:
    """Dial sent a call to a target: `uniqueid` is the caller's, `dest_*` the leg that was created.

    `at_ms` is UTC ms here and below, from AMI's Timestamp where there is one.
    """

    uniqueid: str
    dest_uniqueid: str
    dest_channel: str
    dial_string: str
    at_ms: int


@value
class RingingBegan:
    """A leg that the call dialled rings (SIP 180, or early media with 183). A target may answer without."""

    uniqueid: str
    at_ms: int


@value
class DialEnded:
    """What became of one dialled leg. ANSWER: the target's leg answered now. None: a status that is unknown here."""

    uniqueid: str
    dest_uniqueid: str
    status: DialStatus | None
    channel: str
    at_ms: int


@value
class LegLeftBridge:
    """A channel no longer talks in a bridge."""

    uniqueid: str
    at_ms: int


@value
class ChannelHungUp:
    """A channel is gone. `cause` is Q.850; 0 after a Dial that timed out. AMI does not say who hung up."""

    uniqueid: str
    cause: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The link stands: logged in, Asterisk fully booted.

    `asterisk_started_ms`: when this Asterisk started, None where it may not be asked. `restarted`: it is not the one
    that was known before; what lived there then has ended without a word.
    """

    asterisk_started_ms: int | None
    restarted: bool


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link is lost; events are missed from here to the next LinkUp and its ChannelList."""

    reason: str


@dataclass(frozen=True, slots=True)
class LiveChannel:
    """One row of CoreShowChannels. `state` is Asterisk's (6 is up); `duration_s` counts from its creation."""

    uniqueid: str
    linkedid: str
    channel: str
    state: int
    application: str
    bridge_id: str
    duration_s: int
    context: str = ""


@dataclass(frozen=True, slots=True)
class ChannelList:
    """The channels that lived at some moment after `at_ms` (when they were asked for).

    Not `complete`: it may not be asked, was cut or too long; then absence proves nothing.
    """

    channels: tuple[LiveChannel, ...]
    complete: bool
    at_ms: int


@dataclass(frozen=True, slots=True)
class ResyncNeeded:
    """Events were lost here; ask for the channels again. `reason` says why."""

    reason: str


CallEvent: TypeAlias = DialBegan | RingingBegan | DialEnded | LegLeftBridge | ChannelHungUp
LinkEvent: TypeAlias = LinkUp | LinkDown | ChannelList | ResyncNeeded
AmiEvent: TypeAlias = CallEvent | LinkEvent


def translate(message: Mapping[str, str], received_ms: int) -> CallEvent | None:
    """The CallEvent of an AMI message, or None where it is none of ours or lacks what it needs."""
    make = _TRANSLATIONS.get(message.get("Event", ""))
    if make is None or not message.get("Uniqueid"):
        return None
    return make(message, timestamp_ms(message.get("Timestamp", ""), received_ms))


def timestamp_ms(text: str, otherwise_ms: int) -> int:
    """UTC ms of AMI's Timestamp (`1795261493.556147`, seconds), cut to ms; `otherwise_ms` where it is not one."""
    seconds, point, fraction = text.partition(".")
    if len(seconds) > SECONDS_CHARS or len(fraction) > FRACTION_CHARS:
        return otherwise_ms
    if not seconds.isdecimal() or (point and not fraction.isdecimal()):
        return otherwise_ms
    return int(seconds + fraction[:3].ljust(3, "0")) or otherwise_ms


def started_ms(core_status: Mapping[str, str], uptime_s: int | None, now_ms: int, local: tzinfo | None) -> int | None:
    """When Asterisk started, in UTC ms with a whole second, from CoreStatus; None where it does not say.

    CoreStatus gives Asterisk's local time without its zone. With the uptime of FullyBooted the zone follows (so the
    value is the same at each connect, whatever the zones of the two processes); without it `local` is taken, the zone
    of this process where None.
    """
    text = f"{core_status.get('CoreStartupDate', '')} {core_status.get('CoreStartupTime', '')}"
    try:
        naive = datetime.strptime(text, "%Y-%m-%d %H:%M:%S")  # noqa: DTZ007 - the zone is found below
    except ValueError:
        return None
    if uptime_s is None:
        zoned = naive.astimezone() if local is None else naive.replace(tzinfo=local)
        return int(zoned.timestamp()) * MS_PER_SECOND
    as_utc_ms = int(naive.replace(tzinfo=UTC).timestamp()) * MS_PER_SECOND
    about_ms = now_ms - uptime_s * MS_PER_SECOND
    steps = (as_utc_ms - about_ms + ZONE_STEP_MS // 2) // ZONE_STEP_MS
    return as_utc_ms - steps * ZONE_STEP_MS


def live_channel(row: Mapping[str, str]) -> LiveChannel | None:
    """The channel of one CoreShowChannel event, or None where it is not one."""
    if row.get("Event") != "CoreShowChannel" or not row.get("Uniqueid"):
        return None
    return LiveChannel(
        uniqueid=row["Uniqueid"],
        linkedid=row.get("Linkedid", ""),
        channel=row.get("Channel", ""),
        state=whole_number(row.get("ChannelState", "")),
        application=row.get("Application", ""),
        bridge_id=row.get("BridgeId", ""),
        duration_s=_duration_s(row.get("Duration", "")),
        context=row.get("Context", ""),
    )


def live_channels(rows: Iterable[Mapping[str, str]]) -> list[LiveChannel]:
    """The channels among these parts of a CoreShowChannels reply."""
    return [channel for row in rows if (channel := live_channel(row)) is not None]


def channel_list(channels: Sequence[LiveChannel], last: Mapping[str, str], at_ms: int) -> ChannelList:
    """The list of a CoreShowChannels reply; complete only where its `last` part is its end and the counts agree."""
    complete = last.get("Event") == "CoreShowChannelsComplete" and last.get("ListItems") == str(len(channels))
    return ChannelList(tuple(channels), complete, at_ms)


def whole_number(text: str) -> int:
    """A small whole number of AMI; 0 where there is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= NUMBER_CHARS else 0


def _duration_s(text: str) -> int:
    """Seconds of `HH:MM:SS`; hours may have more than two digits."""
    parts = text.split(":")
    if len(parts) != 3:
        return 0
    hours, minutes, seconds = (whole_number(part) for part in parts)
    return hours * 3600 + minutes * 60 + seconds


def _dial_began(message: Mapping[str, str], at_ms: int) -> CallEvent | None:
    dest_uniqueid = message.get("DestUniqueid", "")
    if not dest_uniqueid:
        return None
    dest_channel, dial_string = message.get("DestChannel", ""), message.get("DialString", "")
    return DialBegan(message["Uniqueid"], dest_uniqueid, dest_channel, dial_string, at_ms)


def _dial_state(message: Mapping[str, str], at_ms: int) -> CallEvent | None:
    if message.get("DialStatus", "") not in _RINGING:
        return None
    return RingingBegan(message["Uniqueid"], at_ms)


def _dial_ended(message: Mapping[str, str], at_ms: int) -> CallEvent | None:
    dest_uniqueid = message.get("DestUniqueid", "")
    if not dest_uniqueid:
        return None
    status = DialStatus.parse(message.get("DialStatus", ""))
    return DialEnded(message["Uniqueid"], dest_uniqueid, status, message.get("Channel", ""), at_ms)


def _left(message: Mapping[str, str], at_ms: int) -> CallEvent | None:
    return LegLeftBridge(message["Uniqueid"], at_ms)


def _hung_up(message: Mapping[str, str], at_ms: int) -> CallEvent | None:
    return ChannelHungUp(message["Uniqueid"], whole_number(message.get("Cause", "")), at_ms)


# What is read of each event that manager.conf's eventfilter lines let through, beside its name; the last two are about
# Asterisk itself.
FIELDS_READ: Final[Mapping[str, tuple[str, ...]]] = {
    "DialBegin": ("Timestamp", "Uniqueid", "DestUniqueid", "DestChannel", "DialString"),
    "DialState": ("Timestamp", "Uniqueid", "DialStatus"),
    "DialEnd": ("Timestamp", "Uniqueid", "Channel", "DestUniqueid", "DialStatus"),
    "BridgeLeave": ("Timestamp", "Uniqueid"),
    "Hangup": ("Timestamp", "Uniqueid", "Cause"),
    "FullyBooted": ("Uptime",),
    "Shutdown": (),
}
_TRANSLATIONS: Final[Mapping[str, Callable[[Mapping[str, str], int], CallEvent | None]]] = {
    "DialBegin": _dial_began,
    "DialState": _dial_state,
    "DialEnd": _dial_ended,
    "BridgeLeave": _left,
    "Hangup": _hung_up,
}

CALL_EVENT_NAMES: Final = frozenset(_TRANSLATIONS)
FILTERED_EVENT_NAMES: Final = tuple(FIELDS_READ)
