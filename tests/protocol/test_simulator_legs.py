"""A Dial of several legs in the simulated Asterisk: events, DIALSTATUS and causes as they were seen on Asterisk 22."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from asterisk_simulator.behaviours import (
    Answers,
    Behaviour,
    Busy,
    CallerCancels,
    CallOutcome,
    Congested,
    NoAnswer,
    Unavailable,
)
from tests.protocol.simulator_support import AmiReader, Request, run, told, until
from tests.protocol.test_simulator_world import SPEC, arguments, daemon, dial

NAMES = ("a", "b", "c")


def dial_all(*dials: str, ring_s: int = 20) -> str:
    """The verdict that rings targets named a, b, … at once."""
    targets = "&".join(NAMES[: len(dials)])
    return dial("&".join(dials), ring_s=ring_s).replace("CC_TARGET=buyer1", f"CC_TARGET={targets}")


def played(
    behaviours: Sequence[Behaviour], *, ring_s: int = 20, seen: list[Request] | None = None
) -> tuple[CallOutcome, list[dict[str, str]]]:
    """One call whose n-th leg is target a, b, … and does the n-th behaviour: its outcome, and what AMI told."""
    dials = [f"PJSIP/{name}" for name in NAMES[: len(behaviours)]]
    outcomes: list[CallOutcome] = []
    events: list[dict[str, str]] = []

    async def scenario() -> None:
        responder = daemon(dial_all(*dials, ring_s=ring_s), seen=seen)
        async with told(responder, targets=dict(zip(NAMES, behaviours, strict=False))) as (world, reader):
            outcomes.append(await world.call(SPEC))
            await until(lambda: _is_over(reader, outcomes[0]), "the caller's hangup")
            events.extend(event for event in reader.events() if event["Event"] != "FullyBooted")

    run(scenario())
    return outcomes[0], events


def _is_over(reader: AmiReader, outcome: CallOutcome) -> bool:
    return any(event["Uniqueid"] == outcome.uniqueid for event in reader.events("Hangup"))


def shape(events: Sequence[dict[str, str]]) -> list[tuple[str, str, str]]:
    """Event, the endpoint that it is about, and its DialStatus or cause."""
    return [
        (
            event["Event"],
            event.get("DestChannel", event.get("Channel", "")).split("-")[0].removeprefix("PJSIP/"),
            event.get("DialStatus", event.get("Cause", "")),
        )
        for event in events
    ]


def test_all_legs_are_created_then_called_and_the_others_end_before_the_answer_is_told() -> None:
    outcome, events = played([NoAnswer(), Answers(20, 20), Answers(10_000)])
    assert shape(events)[:15] == [
        ("Newchannel", "carrier", ""),
        ("Newchannel", "a", ""),
        ("Newchannel", "b", ""),
        ("Newchannel", "c", ""),
        ("DialBegin", "a", ""),
        ("DialBegin", "b", ""),
        ("DialBegin", "c", ""),
        ("DialState", "a", "RINGING"),
        ("DialState", "b", "RINGING"),
        ("DialState", "c", "RINGING"),
        ("DialEnd", "a", "CANCEL"),
        ("DialEnd", "c", "CANCEL"),
        ("Hangup", "a", "26"),
        ("Hangup", "c", "26"),
        ("DialEnd", "b", "ANSWER"),
    ]
    assert [name for name, *_ in shape(events)[15:17]] == ["BridgeEnter", "BridgeEnter"]
    (attempt,) = outcome.attempts
    assert (outcome.target, attempt.target, attempt.answered_by) == ("b", "a&b&c", "b")
    assert (outcome.dialstatus, attempt.dialstatus) == ("ANSWER", "ANSWER")


@pytest.mark.parametrize(
    ("behaviours", "status", "cause"),
    [
        ([Busy(1), Congested(10)], "BUSY", "34"),
        ([Congested(1), Unavailable()], "CONGESTION", "34"),
        ([Busy(1), Unavailable()], "BUSY", "17"),
        ([Unavailable(), Unavailable()], "CHANUNAVAIL", "20"),
        ([Busy(1), NoAnswer()], "NOANSWER", "17"),
        ([Unavailable(), NoAnswer()], "NOANSWER", "0"),
        ([NoAnswer(), Answers(5_000)], "NOANSWER", "0"),
    ],
)
def test_dialstatus_is_the_most_telling_and_the_cause_that_of_the_last_leg_that_failed(
    behaviours: list[Behaviour], status: str, cause: str
) -> None:
    seen: list[Request] = []
    outcome, _ = played(behaviours, ring_s=1, seen=seen)
    attempt = next(request for request in seen if request["agi_network_script"] == "attempt")
    assert arguments(attempt)[1:] == ["a1", status, cause]
    assert [(a.dialstatus, a.answered_by) for a in outcome.attempts] == [(status, "")]
    assert outcome.target == "a&b"


def test_a_caller_who_leaves_while_all_ring_ends_every_leg() -> None:
    outcome, events = played([NoAnswer(), CallerCancels(20)])
    ends = [row for row in shape(events) if row[0] in {"DialEnd", "Hangup"}]
    assert ends == [
        ("DialEnd", "a", "CANCEL"),
        ("DialEnd", "b", "CANCEL"),
        ("Hangup", "a", "127"),
        ("Hangup", "b", "127"),
        ("Hangup", "carrier", "127"),
    ]
    assert (outcome.dialstatus, outcome.ended_by) == ("CANCEL", "caller")


def test_a_leg_that_cannot_be_created_is_not_told_of() -> None:
    outcome, events = played([Unavailable(), Answers(1, 1)])
    assert {name for _, name, _ in shape(events)} == {"carrier", "b"}
    assert outcome.target == "b"


def test_channels_and_dial_strings_are_named_as_each_technology_names_them() -> None:
    dials = ("PJSIP/77@bureau", "Local/100@own/n", "IAX2/peer/200")

    async def scenario() -> None:
        async with told(daemon(dial_all(*dials)), targets={"a": Answers(10, 1)}, otherwise=NoAnswer()) as (
            world,
            reader,
        ):
            await world.call(SPEC)
            began = reader.events("DialBegin")
        assert [event["DialString"] for event in began] == ["77@bureau", "100@own/n", "peer/200"]
        names = [event["DestChannel"].rsplit("-", 1) for event in began]
        assert [name for name, _ in names] == ["PJSIP/bureau", "Local/100@own", "IAX2/peer"]
        assert [half.endswith(";1") for _, half in names] == [False, True, False]

    run(scenario())
