"""The simulated Asterisk runs calls as the dialplan would, tells AMI as Asterisk does, and obeys it."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable

import pytest

from asterisk_simulator.ami_server import SPOOL_FAMILY
from asterisk_simulator.behaviours import (
    Answers,
    Behaviour,
    Busy,
    CallerCancels,
    CallSpec,
    Congested,
    NoAnswer,
    Unavailable,
)
from asterisk_simulator.call import UNSAFE_FROM_CALLERS
from asterisk_simulator.world import CONTEXT, World
from capconduit.render import contexts, escape
from capconduit.render.contexts import INBOUND_CONTEXT, SPOOL_FIELDS, SPOOL_SEPARATOR
from tests.protocol.simulator_support import AmiReader, Request, Responder, run, says, simulated, told, until

SPEC = CallSpec("18005550100", "12125550147", "Ann_ _B_", "carrier", "A", "verified", "abc@x")
LONG = 60_000


def dial(target: str = "PJSIP/buyer1", *, ring_s: int = 20, funded_s: int = 600, ceiling_ms: int = LONG) -> str:
    return (
        f"CC_CALL=c1,CC_ATTEMPT=a1,CC_DIAL={target},CC_RING_S={ring_s},CC_FUNDED_S={funded_s},"
        f"CC_CEILING_MS={ceiling_ms},CC_OPTIONS=,CC_TARGET=buyer1,CC_VERDICT=dial"
    )


REJECT = "CC_REASON=targets_all_failed,CC_CAUSE=31,CC_SIP=480,CC_VERDICT=reject"


def daemon(
    route: str | Callable[[Request], str] | None = None,
    attempt: str | Callable[[Request], str] = REJECT,
    settle: str = "CC_ACK=1",
    seen: list[Request] | None = None,
) -> Responder:
    return says({"route": route or dial(), "attempt": attempt, "settle": settle}, seen)


def arguments(request: Request) -> list[str]:
    return [value for name, value in request.items() if name.startswith("agi_arg_")]


def test_route_gets_nine_arguments_and_so_does_settle() -> None:
    seen: list[Request] = []

    async def scenario() -> None:
        async with simulated(daemon(seen=seen), otherwise=Answers(5, 30)) as (world, _):
            outcome = await world.call(SPEC)
        route, settle = seen
        assert arguments(route) == [
            *[outcome.uniqueid] * 2, "18005550100", "12125550147", "Ann_ _B_", "carrier", "A", "verified", "abc@x",
        ]  # fmt: skip
        uniqueid, attempt, status, answered_ms, dialed_ms, cause, source, context, dialled = arguments(settle)
        assert (uniqueid, attempt, status, cause) == (outcome.uniqueid, "a1", "ANSWER", "16")
        assert int(answered_ms) >= outcome.talk_ms
        assert int(dialed_ms) >= int(answered_ms)
        assert source.startswith("PJSIP/carrier-")
        assert (context, dialled) == ("capconduit-inbound", "PJSIP/buyer1")
        assert (outcome.settled_ack, outcome.spooled, outcome.dialstatus) == (True, False, "ANSWER")
        assert outcome.talk_ms >= 30

    run(scenario())


@pytest.mark.parametrize(
    ("reason", "cause", "sip", "asked"),
    [("balance_exhausted", 21, 403, ["route"]), ("engine_timeout", 38, 500, ["route", "settle"])],
)
def test_a_reject_ends_with_its_cause_and_is_settled_where_it_may_have_been_decided_after_all(
    reason: str, cause: int, sip: int, asked: list[str]
) -> None:
    seen: list[Request] = []

    async def scenario() -> None:
        reject = f"CC_REASON={reason},CC_CAUSE={cause},CC_SIP={sip},CC_VERDICT=reject"
        async with simulated(daemon(reject, seen=seen)) as (world, _):
            outcome = await world.call(SPEC)
        assert (outcome.verdict, outcome.reject_reason) == ("reject", reason)
        assert (outcome.cause, outcome.sip) == (cause, sip)
        assert outcome.attempts == ()

    run(scenario())
    assert [request["agi_network_script"] for request in seen] == asked


@pytest.mark.parametrize(
    ("behaviour", "status", "cause"),
    [
        (Busy(), "BUSY", 17),
        (Congested(), "CONGESTION", 34),
        (Unavailable(), "CHANUNAVAIL", 20),
        (NoAnswer(), "NOANSWER", 0),
    ],
)
def test_a_failed_dial_asks_for_the_next_target(behaviour: Behaviour, status: str, cause: int) -> None:
    seen: list[Request] = []

    async def scenario() -> None:
        responder = daemon(dial(ring_s=1), seen=seen)
        async with simulated(responder, targets={"PJSIP/buyer1": behaviour}) as (world, _):
            outcome = await world.call(SPEC)
        assert [attempt.dialstatus for attempt in outcome.attempts] == [status]
        assert outcome.reject_reason == "targets_all_failed"

    run(scenario())
    attempt = next(request for request in seen if request["agi_network_script"] == "attempt")
    assert arguments(attempt)[1:] == ["a1", status, str(cause)]


def test_the_next_target_can_answer() -> None:
    async def scenario() -> None:
        responder = daemon(attempt=dial("PJSIP/buyer2").replace("a1", "a2"))
        targets = {"PJSIP/buyer1": Busy(), "PJSIP/buyer2": Answers(5, 20, "target")}
        async with simulated(responder, targets=targets) as (world, _):
            outcome = await world.call(SPEC)
        assert [(a.attempt, a.dialstatus) for a in outcome.attempts] == [("a1", "BUSY"), ("a2", "ANSWER")]
        assert outcome.ended_by == "target"

    run(scenario())


def test_ring_all_gives_the_call_to_the_first_that_answers() -> None:
    async def scenario() -> None:
        targets = {"PJSIP/slow": NoAnswer(), "PJSIP/busy": Busy(1), "PJSIP/quick": Answers(20, 20)}
        async with told(daemon(dial("PJSIP/slow&PJSIP/busy&PJSIP/quick")), targets=targets) as (world, reader):
            outcome = await world.call(SPEC)
            await until(lambda: len(reader.events("Hangup")) == 4, "four hangups")
        ends = {event["DestChannel"].split("-")[0]: event["DialStatus"] for event in reader.events("DialEnd")}
        assert ends == {"PJSIP/slow": "CANCEL", "PJSIP/busy": "BUSY", "PJSIP/quick": "ANSWER"}
        assert outcome.dialstatus == "ANSWER"

    run(scenario())


def test_a_script_of_behaviours_is_played_in_order_and_the_last_stays() -> None:
    async def scenario() -> None:
        async with simulated(daemon(), targets={"PJSIP/buyer1": [Busy(), Answers(1, 1)]}) as (world, _):
            statuses = [(await world.call(SPEC)).dialstatus for _ in range(3)]
        assert statuses == ["BUSY", "ANSWER", "ANSWER"]

    run(scenario())


@pytest.mark.parametrize("respond_with", ["nothing", "reset", "refused"])
def test_without_a_verdict_the_fallback_rejects_and_nothing_is_kept(respond_with: str) -> None:
    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if respond_with == "reset":
            writer.transport.abort()

    async def scenario() -> None:
        async with simulated(respond) as (world, ami):
            if respond_with == "refused":
                object.__setattr__(world.dialplan, "agi_port", 1)
            outcome = await world.call(SPEC)
            assert (outcome.fallback, outcome.cause, outcome.sip) == (True, 38, 500)
            assert (outcome.settled_ack, outcome.spooled, ami.database) == (False, False, {})

    run(scenario())


@pytest.mark.parametrize(
    "missing", ["CC_RING_S=20", "CC_FUNDED_S=600", f"CC_CEILING_MS={LONG}", "CC_DIAL=PJSIP/buyer1"]
)
def test_a_dial_verdict_without_its_limits_is_not_dialled(missing: str) -> None:
    async def scenario() -> None:
        async with simulated(daemon(dial().replace(missing, missing.split("=")[0] + "=0"))) as (world, _):
            outcome = await world.call(SPEC)
        assert outcome.fallback
        assert outcome.attempts == ()

    run(scenario())


def test_a_frozen_daemon_is_ended_by_the_guard_and_left_in_peace_until_it_answers() -> None:
    seen: list[str] = []
    frozen = [True]

    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = request["agi_network_script"]
        seen.append(script)
        if frozen[0]:
            await reader.read()
        else:
            await says({"route": dial(), "settle": "CC_ACK=1"})(request, reader, writer)

    async def scenario() -> None:
        async with simulated(respond, guard_s=3.5, quiet_s=600, otherwise=Answers(1, 1)) as (world, _):
            assert (await world.call(SPEC)).fallback
            assert seen == ["route"]
            frozen[0] = False
            outcome = await world.call(SPEC)
            assert (outcome.dialstatus, outcome.settled_ack) == ("ANSWER", True)

    run(scenario())
    assert seen == ["route", "route", "settle"]


@pytest.mark.parametrize(
    ("dnid", "ani", "refused", "told"),
    [
        ("1800;rm", "1212", "did_unknown", None),
        ("1800", "12x12", "caller_invalid", None),
        ("1800", "Anonymous", "", "anonymous"),
        ("1800", "", "", ""),
        ("+1800", "+1212", "", "+1212"),
    ],
)
def test_odd_numbers_are_refused_before_the_daemon_hears_of_them(
    dnid: str, ani: str, refused: str, told: str | None
) -> None:
    seen: list[Request] = []

    async def scenario() -> None:
        async with simulated(daemon(seen=seen), otherwise=Answers(1, 1)) as (world, _):
            outcome = await world.call(CallSpec(dnid, ani))
        assert outcome.reject_reason == refused

    run(scenario())
    assert [request["agi_arg_4"] for request in seen[:1]] == ([] if told is None else [told])


def test_a_caller_that_leaves_while_route_is_decided_is_settled_while_route_is_still_open() -> None:
    order: list[str] = []

    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        order.append(request["agi_network_script"])
        if request["agi_network_script"] == "route":
            await reader.read()
            return
        await says({"settle": "CC_ACK=1"})(request, reader, writer)

    async def scenario() -> None:
        async with simulated(respond) as (world, _):
            outcome = await world.call(CallSpec("1800", "1212", cancel_after_ms=1_000))
        assert (outcome.verdict, outcome.ended_by, outcome.settled_ack) == ("", "caller", True)
        assert not outcome.fallback

    run(scenario())
    assert order == ["route", "settle"]


def test_a_cancelled_ringing_ends_with_cause_127_and_no_further_attempt() -> None:
    seen: list[Request] = []

    async def scenario() -> None:
        async with simulated(daemon(seen=seen), otherwise=CallerCancels(10)) as (world, _):
            outcome = await world.call(SPEC)
        assert (outcome.dialstatus, outcome.ended_by) == ("CANCEL", "caller")

    run(scenario())
    assert [request["agi_network_script"] for request in seen] == ["route", "settle"]
    assert arguments(seen[1])[5] == "127"


def test_the_funded_time_is_counted_from_the_answer_and_cuts_the_talk() -> None:
    seen: list[Request] = []

    async def scenario() -> None:
        responder = daemon(dial(ring_s=3_600, funded_s=1), seen=seen)
        async with simulated(responder, otherwise=Answers(10, LONG)) as (world, _):
            outcome = await world.call(SPEC)
        assert outcome.cut_by_timeout
        assert outcome.ended_by == "system"
        assert outcome.talk_ms >= 990
        assert outcome.settled_ack

    run(scenario())
    assert arguments(seen[1])[6] == ""  # settled while the channel lives: nobody hung up yet


def test_the_ceiling_cuts_the_talk() -> None:
    async def scenario() -> None:
        async with simulated(daemon(dial(ceiling_ms=30)), otherwise=Answers(1, LONG)) as (world, _):
            outcome = await world.call(SPEC)
        assert outcome.cut_by_timeout
        assert outcome.talk_ms >= 30

    run(scenario())


def test_when_the_target_hangs_up_the_guard_still_works_on_a_daemon_that_freezes_at_settle() -> None:
    seen: list[Request] = []

    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request["agi_network_script"] == "settle":
            seen.append(request)
            await reader.read()
        else:
            await says({"route": dial()})(request, reader, writer)

    async def scenario() -> None:
        async with simulated(respond, otherwise=Answers(1, 1, "target"), guard_s=3.5) as (world, ami):
            outcome = await world.call(SPEC)
            assert (outcome.ended_by, outcome.settled_ack, outcome.spooled) == ("target", False, True)
            assert list(ami.database) == [f"/capconduit/unsettled/{outcome.uniqueid}"]

    run(scenario())
    assert len(seen) == 1
    assert arguments(seen[0])[6].startswith("PJSIP/buyer1-")


def test_a_call_is_bounded_in_its_rounds() -> None:
    async def scenario() -> None:
        responder = daemon(attempt=dial())
        async with simulated(responder, otherwise=Busy(1), max_rounds=3) as (world, _):
            outcome = await world.call(SPEC)
        assert len(outcome.attempts) == 3
        assert outcome.fallback

    run(scenario())


def test_ami_moves_the_limit_counted_from_the_action() -> None:
    async def scenario() -> None:
        async with told(daemon(dial(funded_s=600)), otherwise=Answers(1, LONG)) as (world, reader):
            task = world.start(SPEC)
            await until(lambda: len(reader.events("BridgeEnter")) == 2, "the bridge")
            channel = reader.events("Newchannel")[0]["Channel"]
            reply = await reader.ask(Action="AbsoluteTimeout", Channel=channel, Timeout="0.05")
            assert reply["Message"] == "Timeout Set"
            outcome = await task
        assert outcome.cut_by_timeout

    run(scenario())


def test_ami_hangup_ends_the_call_with_its_cause_and_channels_are_listed_until_then() -> None:
    async def scenario() -> None:
        async with told(daemon(), otherwise=Answers(1, LONG)) as (world, reader):
            task = world.start(SPEC)
            await until(lambda: len(reader.events("BridgeEnter")) == 2, "the bridge")
            await reader.ask(Action="CoreShowChannels", ActionID="1")
            await until(lambda: reader.events("CoreShowChannelsComplete"), "the list")
            rows = reader.events("CoreShowChannel")
            assert {row["Uniqueid"] for row in rows} == {e["Uniqueid"] for e in reader.events("Newchannel")}
            assert len({row["BridgeId"] for row in rows}) == 1
            assert world.live_calls == 1
            await reader.ask(Action="Hangup", Channel=rows[0]["Channel"], Cause="21")
            outcome = await task
            reply = await reader.ask(Action="Hangup", Channel=rows[0]["Channel"])
            assert reply["Message"] == "No such channel"
            assert world.live_calls == 0
        assert (outcome.cause, outcome.ended_by, outcome.cut_by_timeout) == (21, "system", False)

    run(scenario())


def names(reader: AmiReader) -> list[tuple[str, str]]:
    """Event and which side it is about."""
    sides = []
    for event in reader.events():
        if event["Event"] != "FullyBooted":
            side = "leg" if event.get("Uniqueid") != event.get("Linkedid") else "caller"
            sides.append((event["Event"], side))
    return sides


BEGIN = [
    ("Newchannel", "caller"),
    ("Newchannel", "leg"),
    ("DialBegin", "caller"),
    ("DialState", "caller"),
    ("DialEnd", "caller"),
    ("BridgeEnter", "leg"),
    ("BridgeEnter", "caller"),
]


@pytest.mark.parametrize(
    ("side", "end"),
    [
        (
            "caller",
            [
                ("HangupRequest", "caller"),
                ("BridgeLeave", "caller"),
                ("BridgeLeave", "leg"),
                ("Hangup", "leg"),
                ("SoftHangupRequest", "caller"),
                ("Hangup", "caller"),
            ],
        ),
        (
            "target",
            [
                ("HangupRequest", "leg"),
                ("BridgeLeave", "leg"),
                ("Hangup", "leg"),
                ("BridgeLeave", "caller"),
                ("SoftHangupRequest", "caller"),
                ("Hangup", "caller"),
            ],
        ),
    ],
)
def test_ami_tells_the_call_in_the_order_of_asterisk_22(side: str, end: list[tuple[str, str]]) -> None:
    async def scenario() -> None:
        behaviour = Answers(1, 10, "target" if side == "target" else "caller")
        async with told(daemon(), otherwise=behaviour) as (world, reader):
            await world.call(SPEC)
            await until(lambda: len(reader.events("Hangup")) == 2, "both hangups")
        assert names(reader) == [*BEGIN, *end]
        stamps = [event["Timestamp"] for event in reader.events() if event["Event"] != "FullyBooted"]
        assert stamps == sorted(stamps)
        assert all(len(stamp.split(".")[1]) == 6 for stamp in stamps)

    run(scenario())


def test_an_unacknowledged_settlement_is_read_and_deleted_over_ami() -> None:
    async def scenario() -> None:
        async with told(daemon(settle="CC_OTHER=1"), otherwise=Answers(1, 1)) as (world, reader):
            outcome = await world.call(SPEC)
            await reader.ask(Action="DBGetTree", Family="capconduit", Key="unsettled", ActionID="9")
            await until(lambda: reader.events("DBGetTreeComplete"), "the tree")
            (row,) = reader.events("DBGetTreeResponse")
            assert row["Key"] == f"/capconduit/unsettled/{outcome.uniqueid}"
            entry = dict(zip(SPOOL_FIELDS, row["Val"].split(SPOOL_SEPARATOR), strict=True))
            assert (entry["call"], entry["attempt"], entry["dialstatus"], entry["cause"]) == (
                "c1",
                "a1",
                "ANSWER",
                "16",
            )
            assert (entry["context"], entry["dialled"]) == (INBOUND_CONTEXT, outcome.attempts[0].dial)
            assert int(entry["answered_ms"]) >= outcome.talk_ms
            assert abs(float(entry["ended"]) - time.time()) < 60
            await reader.ask(Action="Setvar", Variable=f"DB_DELETE(capconduit/unsettled/{outcome.uniqueid})", Value="1")
            assert world.ami.database == {}

    run(scenario())


def test_closing_the_world_kills_calls_without_their_handlers() -> None:
    seen: list[Request] = []

    async def scenario() -> None:
        async with simulated(daemon(seen=seen), otherwise=Answers(1, LONG)) as (world, _):
            world.start(SPEC)
            await until(lambda: seen, "the route")
            await world.close()
            assert world.live_calls == 0

    run(scenario())
    assert [request["agi_network_script"] for request in seen] == ["route"]


def test_many_calls_run_at_once_within_the_bound() -> None:
    async def scenario() -> None:
        async with simulated(daemon(), otherwise=Answers(1, 20), max_calls=5) as (world, _):
            tasks = [world.start(SPEC) for _ in range(30)]
            peak = 0
            while not all(task.done() for task in tasks):
                peak = max(peak, world.live_calls)
                await asyncio.sleep(0.001)
            assert len(world.outcomes) == 30
            assert len({outcome.uniqueid for outcome in world.outcomes}) == 30
            assert 2 <= peak <= 5

    run(scenario())


def test_the_simulator_says_what_the_rendered_dialplan_says() -> None:
    defaults = contexts.RenderContext.__dataclass_fields__
    world = inspect.signature(World).parameters
    assert CONTEXT == INBOUND_CONTEXT
    assert SPOOL_FAMILY == contexts.SPOOL_FAMILY
    assert UNSAFE_FROM_CALLERS == escape.UNSAFE_FROM_CALLERS
    for name in ("guard_s", "quiet_s", "max_rounds"):
        assert world[name].default == defaults[name].default
