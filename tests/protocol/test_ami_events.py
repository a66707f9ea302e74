"""AMI messages become typed events; what is hostile or incomplete becomes nothing."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone

import pytest

from capconduit.vocab import DialStatus
from fastagi.ami_events import (
    CALL_EVENT_NAMES,
    AmiEvent,
    ChannelHungUp,
    DialBegan,
    DialEnded,
    LegLeftBridge,
    RingingBegan,
    channel_list,
    live_channels,
    started_ms,
    timestamp_ms,
    translate,
)

NOW = 1_795_261_500_000
AT = 1_795_261_493_556
LEG = {
    "Timestamp": "1795261493.556147",
    "Uniqueid": "lab-1.1",
    "Linkedid": "lab-1.0",
    "Channel": "PJSIP/buyer-00000001",
}
DEST = {"DestUniqueid": "lab-1.2", "DestChannel": "PJSIP/buyer-00000002"}


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (
            {"Event": "DialBegin", "DialString": "buyer", **DEST},
            DialBegan("lab-1.1", "lab-1.2", "PJSIP/buyer-00000002", "buyer", AT),
        ),
        (
            {"Event": "DialState", "DialStatus": "RINGING", **DEST},
            RingingBegan("lab-1.1", AT),
        ),
        ({"Event": "DialState", "DialStatus": "PROCEEDING", **DEST}, None),
        (
            {"Event": "DialEnd", "DialStatus": "ANSWER", **DEST},
            DialEnded("lab-1.1", "lab-1.2", DialStatus.ANSWER, "PJSIP/buyer-00000001", AT),
        ),
        (
            {"Event": "DialEnd", "DialStatus": "SOMETHING NEW", **DEST},
            DialEnded("lab-1.1", "lab-1.2", None, "PJSIP/buyer-00000001", AT),
        ),
        ({"Event": "BridgeLeave", "BridgeUniqueid": "b"}, LegLeftBridge("lab-1.1", AT)),
        ({"Event": "Hangup", "Cause": "16", "Cause-txt": "Normal Clearing"}, ChannelHungUp("lab-1.1", 16, AT)),
        ({"Event": "Hangup", "Cause": "-1"}, ChannelHungUp("lab-1.1", 0, AT)),
        ({"Event": "Hangup", "Cause": "9" * 5_000}, ChannelHungUp("lab-1.1", 0, AT)),
    ],
)
def test_each_message_of_a_call_becomes_its_event(message: dict[str, str], event: AmiEvent) -> None:
    assert translate({**LEG, **message}, NOW) == event


@pytest.mark.parametrize("name", ["VarSet", "", "Newchannel", "hangup", "CoreShowChannel", "FullyBooted"])
def test_what_is_none_of_ours_becomes_nothing(name: str) -> None:
    assert translate({**LEG, "Event": name}, NOW) is None


@pytest.mark.parametrize("name", sorted(CALL_EVENT_NAMES))
def test_a_message_without_the_call_it_belongs_to_becomes_nothing(name: str) -> None:
    assert translate({"Event": name, "Channel": "PJSIP/x-1", **DEST}, NOW) is None


@pytest.mark.parametrize("name", ["DialBegin", "DialEnd"])
def test_a_dial_without_the_leg_it_created_becomes_nothing(name: str) -> None:
    assert translate({**LEG, "Event": name, "DialStatus": "ANSWER"}, NOW) is None


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1795261493.556147", 1_795_261_493_556),
        ("1795261493.556999", 1_795_261_493_556),
        ("1795261493.001", 1_795_261_493_001),
        ("1795261493", 1_795_261_493_000),
        ("1795261493.5", 1_795_261_493_500),
        ("1795261493.04", 1_795_261_493_040),
        ("4503599627.370497", 4_503_599_627_370),
        ("", NOW),
        ("yesterday", NOW),
        ("NaN", NOW),
        ("Infinity", NOW),
        ("-5.0", NOW),
        ("0", NOW),
        ("0.000", NOW),
        (".5", NOW),
        ("5.", NOW),
        ("5.1.2", NOW),
        ("5.1x", NOW),
        ("+5.1", NOW),
        (" 5.1", NOW),
        ("5.1 ", NOW),
        ("1_000.1", NOW),
        ("1e30", NOW),
        ("1" * 5_000, NOW),
        ("1." + "1" * 5_000, NOW),
    ],
)
def test_a_timestamp_is_cut_to_ms_without_float_error(text: str, at_ms: int) -> None:
    assert timestamp_ms(text, NOW) == at_ms


STATUS = {"CoreStartupDate": "2026-11-21", "CoreStartupTime": "11:43:57"}
STARTED_UTC = 1_795_261_437_000  # 2026-11-21 11:43:57 UTC


@pytest.mark.parametrize("hours", [-12, -3.5, 0, 5.75, 14])
@pytest.mark.parametrize("late_ms", [0, 999, 60_000])
def test_the_start_is_the_same_at_each_connect_whatever_the_zone_of_asterisk(hours: float, late_ms: int) -> None:
    true_ms = STARTED_UTC - int(hours * 3_600_000)
    for alive_s in (0, 61, 86_400):
        now_ms = true_ms + alive_s * 1_000 + late_ms
        assert started_ms(STATUS, alive_s, now_ms, UTC) == true_ms


def test_without_the_uptime_the_zone_of_this_process_is_taken() -> None:
    assert started_ms(STATUS, None, NOW, UTC) == STARTED_UTC
    assert started_ms(STATUS, None, NOW, timezone(timedelta(hours=2))) == STARTED_UTC - 7_200_000


def test_a_status_without_a_start_has_none() -> None:
    assert started_ms({"CoreStartupDate": "soon"}, 5, NOW, UTC) is None


def row(number: int) -> dict[str, str]:
    return {
        "Event": "CoreShowChannel",
        "Uniqueid": f"lab-1.{number}",
        "Linkedid": "lab-1.0",
        "Channel": f"PJSIP/x-{number}",
        "ChannelState": "6",
        "Application": "Dial",
        "BridgeId": "b",
        "Duration": "100:01:02",
    }


def end(count: int) -> dict[str, str]:
    return {"Event": "CoreShowChannelsComplete", "EventList": "Complete", "ListItems": str(count)}


def test_a_whole_list_is_complete_and_one_without_its_end_is_not() -> None:
    channels = live_channels([{"Response": "Success", "EventList": "start"}, row(1), row(2), end(2)])
    assert [channel.uniqueid for channel in channels] == ["lab-1.1", "lab-1.2"]
    assert channels[0].duration_s == 360_062
    assert channels[0].state == 6
    whole = channel_list(channels, end(2), NOW)
    assert (whole.complete, whole.at_ms, whole.channels) == (True, NOW, tuple(channels))
    assert not channel_list(channels, row(2), NOW).complete
    assert not channel_list(channels, end(3), NOW).complete
    assert not channel_list([], {}, NOW).complete
    assert channel_list([], end(0), NOW).complete
