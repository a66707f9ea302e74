"""The FastAGI server towards good peers: answers, deadlines, crashed handlers, what is told back, drain and close."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass, field, replace

import pytest

from fastagi.agi_server import AgiLimits, AgiReply, AgiRequest, Endpoint, _Connection
from tests.protocol.agi_peer import (
    LATE,
    AgiPeer,
    Outcome,
    Runner,
    apply_mset,
    dial,
    environment,
    exchange,
    loops,
    reject_late,
    serving,
    until,
)

run = loops


@dataclass
class Told:
    """What the server told about answers, and handlers that wait until the test lets them go."""

    applied: list[bool] = field(default_factory=list)
    late_results: list[tuple[str, AgiReply]] = field(default_factory=list)
    requests: list[AgiRequest] = field(default_factory=list)
    cancelled: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def reply(self) -> AgiReply:
        return AgiReply((("CC_DIAL", "PJSIP/buyer"), ("CC_VERDICT", "dial")), on_applied=self.applied.append)

    async def at_once(self, request: AgiRequest) -> AgiReply:
        self.requests.append(request)
        return self.reply()

    async def when_let_go(self, request: AgiRequest) -> AgiReply:
        self.requests.append(request)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.reply()

    def late_result(self, request: AgiRequest, reply: AgiReply) -> None:
        self.late_results.append((request.script, reply))

    def endpoint(self, deadline_ms: int | None = None) -> Endpoint:
        return Endpoint(self.at_once, reject_late, self.late_result, deadline_ms)

    def waiting(self, deadline_ms: int | None = None) -> Endpoint:
        return Endpoint(self.when_let_go, reject_late, self.late_result, deadline_ms)


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_request_sets_its_variables_and_is_told_so(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.endpoint()}) as (server, port):
            outcome = await exchange(port, "route?x=y%2Cz", "u1", "", "a,b")
            assert outcome == Outcome({"CC_DIAL": "PJSIP/buyer", "CC_VERDICT": "dial"})
            await until(lambda: server.live_connections == 0)
            assert told.applied == [True]
            assert [(r.script, r.query, r.args) for r in told.requests] == [("route", {"x": "y,z"}, ("u1", "", "a,b"))]
            assert (server.counters.requests, server.counters.applied) == ({"route": 1}, 1)

    run(scene())


def test_our_side_is_half_closed_right_after_the_command(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.endpoint()}) as (_, port):
            peer = await AgiPeer.connect(port)
            await peer.send(environment("route"))
            # EOF comes although Asterisk has not replied yet, and the reply is still heard after it.
            assert apply_mset(await peer.rest())["CC_VERDICT"] == "dial"
            assert told.applied == []
            await peer.send(b"200 result=0\n")
            await until(lambda: told.applied == [True])
            await peer.close()

    run(scene())


def test_our_command_waits_for_our_end_to_share_its_segment(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.waiting()}) as (server, port):
            peer = asyncio.create_task(exchange(port, "route"))
            await until(lambda: server.handlers_at_work == 1)
            (connection,) = server.connections
            ours = connection._transport.get_extra_info("socket")
            assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK)
            told.go.set()
            assert (await peer).variables["CC_VERDICT"] == "dial"

    run(scene())


def test_a_header_in_single_bytes_is_answered(run: Runner) -> None:
    async def scene() -> None:
        async with serving({"route": Endpoint(dial, reject_late)}) as (_, port):
            peer = await AgiPeer.connect(port)
            for byte in environment("route", "u1"):
                await peer.send(bytes([byte]))
            assert apply_mset(await peer.line())["CC_VERDICT"] == "dial"
            await peer.close()

    run(scene())


@pytest.mark.parametrize(
    ("replies", "applied"),
    [
        (b"200 result=0\n", True),
        (b"200 result=0\nHANGUP\n", True),
        (b"HANGUP\n200 result=0\n", True),
        (b"200 result=-2\n", False),
        (b"511 Command Not Permitted on a dead channel or intercept routine\n", False),
        (b"520-Invalid command syntax.  Proper usage follows:\n200 result=0\n520 End of proper usage.\n", False),
        (b"510 Invalid or unknown command\n200 result=0\n", False),
        (b"200 result=0", False),
        (b"", False),
    ],
)
def test_only_the_first_reply_says_whether_the_answer_was_applied(run: Runner, replies: bytes, applied: bool) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.endpoint()}) as (server, port):
            peer = await AgiPeer.connect(port)
            await peer.send(environment("route"))
            await peer.line()
            await peer.send(replies)
            await peer.close()
            await until(lambda: server.live_connections == 0)
            assert told.applied == [applied]
            assert (server.counters.applied, server.counters.not_applied) == (applied, not applied)

    run(scene())


def test_what_came_before_our_command_is_no_reply_to_it(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.waiting()}) as (_, port):
            peer = await AgiPeer.connect(port)
            await peer.send(environment("route") + b"200 result=0\nHANGUP\n")
            await until(lambda: bool(told.requests))
            told.go.set()
            await peer.line()
            await peer.close()
            await until(lambda: told.applied == [False])

    run(scene())


def test_a_reset_after_the_command_is_not_applied(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.endpoint()}) as (_, port):
            peer = await AgiPeer.connect(port)
            await peer.send(environment("route"))
            await peer.line()
            await peer.reset()
            await until(lambda: told.applied == [False])

    run(scene())


def test_a_peer_that_never_replies_is_cut_off(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.endpoint()}, AgiLimits(applied_wait_ms=20)) as (server, port):
            peer = await AgiPeer.connect(port)
            await peer.send(environment("route"))
            await until(lambda: told.applied == [False])
            await until(lambda: server.live_connections == 0)
            await peer.close()

    run(scene())


def test_a_callback_that_raises_harms_nobody(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    def broken(applied: bool) -> None:
        raise ValueError("broken callback")

    async def handler(request: AgiRequest) -> AgiReply:
        return AgiReply((("CC_ACK", "1"),), on_applied=broken)

    async def scene() -> None:
        async with serving({"settle": Endpoint(handler, reject_late)}) as (server, port):
            for _ in range(2):
                assert await exchange(port, "settle") == Outcome({"CC_ACK": "1"})
            await until(lambda: server.live_connections == 0)

    run(scene())
    assert caplog.text.count("on_applied of AGI settle failed") == 2


def test_who_listens_hears_of_each_request_and_of_each_answer_with_its_time(run: Runner) -> None:
    async def scene() -> None:
        told, heard = Told(), list[tuple[AgiReply | None, float]]()

        def listened(endpoint: Endpoint) -> Endpoint:
            return replace(
                endpoint, on_request=[lambda: asked.append(True)], on_answer=[lambda *what: heard.append(what)]
            )

        asked: list[bool] = []
        scripts = {
            "route": listened(told.endpoint()), "late": listened(told.waiting(deadline_ms=20)),
            "crash": listened(Endpoint(crash, reject_late)),
        }  # fmt: skip
        async with serving(scripts) as (_, port):
            await exchange(port, "route")
            assert (len(asked), heard[0][0]) == (1, told.reply())
            assert 0 < heard[0][1] < 5
            await exchange(port, "late")
            assert (len(asked), len(heard)) == (2, 1)
            told.go.set()
            await until(lambda: len(heard) == 2)
            assert heard[1][0] == told.reply()
            assert 0.02 <= heard[1][1] < 5
            await exchange(port, "crash")
            assert (len(asked), heard[2][0]) == (3, None)

    run(scene())


def test_a_listener_that_raises_harms_nobody(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError

    async def scene() -> None:
        told = Told()
        endpoint = replace(told.endpoint(), on_request=[explode], on_answer=[explode])
        async with serving({"route": endpoint}) as (_, port):
            assert (await exchange(port, "route")).variables["CC_VERDICT"] == "dial"
        assert "on_request of AGI route failed" in caplog.text
        assert "on_answer of AGI route failed" in caplog.text

    run(scene())


# -- deadline ---------------------------------------------------------------------------------------------------------


def test_a_handler_that_is_late_is_answered_for_and_gives_back(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.waiting()}, AgiLimits(deadline_ms=10)) as (server, port):
            assert await exchange(port, "route") == Outcome(dict(LATE))
            assert (server.counters.deadlines_missed, server.handlers_at_work, told.cancelled) == (1, 1, 0)
            told.go.set()
            await until(lambda: server.handlers_at_work == 0)
            assert [(script, reply.variables[-1]) for script, reply in told.late_results] == [
                ("route", ("CC_VERDICT", "dial"))
            ]
            assert told.applied == []

    run(scene())


def test_a_late_answer_nobody_asked_for_is_told_that_it_was_not_applied(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        endpoint = Endpoint(told.when_let_go, reject_late)
        async with serving({"route": endpoint}, AgiLimits(deadline_ms=10)) as (_, port):
            await exchange(port, "route")
            told.go.set()
            await until(lambda: told.applied == [False])

    run(scene())


def test_a_handler_that_ends_while_the_late_answer_is_on_its_way_changes_nothing(run: Runner) -> None:
    fates: list[bool] = []

    def late(request: AgiRequest) -> AgiReply:
        return AgiReply(LATE, on_applied=fates.append)

    async def scene() -> None:
        told = Told()
        endpoint = Endpoint(told.when_let_go, late)
        async with serving({"route": endpoint}, AgiLimits(deadline_ms=10)) as (server, port):
            peer = await AgiPeer.connect(port)
            await peer.send(environment("route"))
            assert apply_mset(await peer.line()) == dict(LATE)
            told.go.set()
            await until(lambda: told.applied == [False])
            assert fates == []
            await peer.send(b"200 result=0\n")
            assert await peer.rest() == b""
            await peer.close()
            await until(lambda: server.live_connections == 0)
            assert fates == [True]

    run(scene())


def test_an_endpoint_has_its_own_deadline(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        endpoints = {"settle": told.waiting(deadline_ms=60_000), "route": told.waiting()}
        async with serving(endpoints, AgiLimits(deadline_ms=10)) as (_, port):
            settle = asyncio.create_task(exchange(port, "settle"))
            await until(lambda: len(told.requests) == 1)
            assert await exchange(port, "route") == Outcome(dict(LATE))
            assert not settle.done()
            told.go.set()
            assert (await settle).variables["CC_VERDICT"] == "dial"

    run(scene())


# -- failures ---------------------------------------------------------------------------------------------------------


async def crash(request: AgiRequest) -> AgiReply:
    raise ValueError("a bug of ours")


async def cancel_itself(request: AgiRequest) -> AgiReply:
    raise asyncio.CancelledError


async def answer_nothing(request: AgiRequest) -> AgiReply:
    return AgiReply(())


async def answer_nonsense(request: AgiRequest) -> AgiReply:
    return None  # type: ignore[return-value]  # the fault under test


def raise_when_called(request: AgiRequest) -> None:
    raise ValueError("not even a coroutine")


async def inject(request: AgiRequest) -> AgiReply:
    return AgiReply((("CC_DIAL", 'PJSIP/x"\nEXEC System "id"'), ("CC_VERDICT", "dial")))


@pytest.mark.parametrize("handler", [crash, answer_nothing, answer_nonsense, raise_when_called, inject])
def test_a_handler_that_fails_is_answered_for_and_agistatus_says_so(
    run: Runner, handler: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        endpoint = Endpoint(handler, reject_late)  # type: ignore[arg-type]  # some of them are wrong on purpose
        async with serving({"route": endpoint, "ok": Endpoint(dial, reject_late)}) as (server, port):
            assert await exchange(port, "route") == Outcome(dict(LATE), failed=True)
            assert server.counters.failures == 1
            assert (await exchange(port, "ok")).variables["CC_VERDICT"] == "dial"

    run(scene())
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "lab-1700000000.1" in record.getMessage()


def test_a_handler_that_is_given_up_is_answered_for_and_is_no_error_of_ours(
    run: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with serving({"route": Endpoint(cancel_itself, reject_late)}) as (server, port):
            assert await exchange(port, "route") == Outcome(dict(LATE), failed=True)
            assert server.counters.failures == 1

    run(scene())
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.levelno == logging.WARNING
    assert "lab-1700000000.1" in record.getMessage()


def test_an_answer_that_cannot_be_sent_was_not_applied(run: Runner) -> None:
    fates: list[bool] = []

    async def handler(request: AgiRequest) -> AgiReply:
        return AgiReply((("CC_DIAL", "a\nb"),), on_applied=fates.append)

    async def scene() -> None:
        async with serving({"route": Endpoint(handler, reject_late)}) as (_, port):
            await exchange(port, "route")
            assert fates == [False]

    run(scene())


def test_a_bare_failure_line_is_left_when_the_stand_in_fails_too(run: Runner) -> None:
    def broken(request: AgiRequest) -> AgiReply:
        raise ValueError("broken stand-in")

    async def scene() -> None:
        endpoints = {"route": Endpoint(crash, broken), "slow": Endpoint(Told().when_let_go, broken, deadline_ms=10)}
        async with serving(endpoints) as (_, port):
            assert await exchange(port, "route") == Outcome(failed=True)
            assert await exchange(port, "slow") == Outcome(failed=True)

    run(scene())


def test_a_failed_reply_without_variables_is_a_failure_line(run: Runner) -> None:
    async def handler(request: AgiRequest) -> AgiReply:
        return AgiReply((), failed=True)

    async def scene() -> None:
        async with serving({"route": Endpoint(handler, reject_late)}) as (_, port):
            peer = await AgiPeer.connect(port)
            await peer.send(environment("route"))
            assert await peer.rest() == b"failure: handler failed\n"
            await peer.close()

    run(scene())


def test_a_handler_that_fails_after_its_deadline_is_logged_and_answered_once(
    run: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        go = asyncio.Event()

        async def handler(request: AgiRequest) -> AgiReply:
            await go.wait()
            raise ValueError("too late")

        async with serving({"route": Endpoint(handler, reject_late)}, AgiLimits(deadline_ms=10)) as (server, port):
            assert await exchange(port, "route") == Outcome(dict(LATE))
            go.set()
            await until(lambda: server.handlers_at_work == 0)
            assert server.counters.failures == 1

    run(scene())
    assert "too late" in caplog.text


def test_a_flood_of_failures_does_not_flood_the_log(run: Runner, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with serving({"route": Endpoint(crash, reject_late)}) as (server, port):
            for _ in range(60):
                await exchange(port, "route")
            assert server.counters.failures == 60

    run(scene())
    assert len(caplog.records) == 20


# -- the caller leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_handler_goes_on_when_the_caller_leaves_and_learns_of_it(run: Runner, how: str) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.waiting()}) as (server, port):
            peer = await AgiPeer.connect(port)
            await peer.send(environment("route"))
            await until(lambda: bool(told.requests))
            await (peer.close() if how == "close" else peer.reset())
            await until(lambda: server.live_connections == 0)
            assert (server.counters.abandoned, server.handlers_at_work, told.cancelled) == (1, 1, 0)
            told.go.set()
            await until(lambda: told.applied == [False])
            assert told.late_results == []

    run(scene())


class ClosingTransport(asyncio.Transport):
    """Between the peer's EOF and `connection_lost`: uvloop's transport raises when it is written to then."""

    closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: object) -> None:
        raise RuntimeError("the handler is closed")


@pytest.mark.parametrize("deadline_ms", [1, 60_000])
def test_nothing_is_written_to_a_transport_that_is_closing(run: Runner, deadline_ms: int) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.waiting()}, AgiLimits(deadline_ms=deadline_ms)) as (server, _):
            loop = asyncio.get_running_loop()
            connection, transport = _Connection(server, loop), ClosingTransport()
            connection.connection_made(transport)
            connection.data_received(environment("route"))
            transport.closing = True
            passed = asyncio.Event()
            loop.call_later(0.005, passed.set)  # after the shorter deadline, which began earlier
            await passed.wait()
            told.go.set()
            await until(lambda: server.handlers_at_work == 0)
            connection.connection_lost(None)
            assert told.applied == [False]
            assert (server.counters.deadlines_missed, server.counters.abandoned) == (0, 1)

    run(scene())


# -- the end ----------------------------------------------------------------------------------------------------------


def test_drain_refuses_new_peers_and_waits_for_open_exchanges(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.waiting()}, AgiLimits(deadline_ms=60_000)) as (server, port):
            open_exchange = asyncio.create_task(exchange(port, "route"))
            await until(lambda: bool(told.requests))
            assert await server.drain(0.01) is False
            with pytest.raises(OSError):
                await AgiPeer.connect(port)
            draining = asyncio.create_task(server.drain(10))
            told.go.set()
            assert (await open_exchange).variables["CC_VERDICT"] == "dial"
            assert await draining is True
            assert told.applied == [True]

    run(scene())


def test_drain_waits_for_handlers_whose_caller_has_left(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.waiting()}, AgiLimits(deadline_ms=10)) as (server, port):
            await exchange(port, "route")
            await until(lambda: server.live_connections == 0)
            assert await server.drain(0.01) is False
            told.go.set()
            assert await server.drain(10) is True
            assert len(told.late_results) == 1

    run(scene())


def test_close_ends_peers_and_handlers(run: Runner) -> None:
    async def scene() -> None:
        told = Told()
        async with serving({"route": told.waiting()}) as (server, port):
            peers = [await AgiPeer.connect(port) for _ in range(3)]
            await peers[0].send(environment("route"))
            await peers[1].send(b"agi_net")
            await until(lambda: bool(told.requests) and server.live_connections == 3)
            await server.close()
            assert (server.live_connections, server.handlers_at_work, told.cancelled) == (0, 0, 1)
            for peer in peers:
                assert await peer.rest() == b""
                await peer.close()
            await server.close()

    run(scene())


def test_close_is_bounded_when_a_handler_refuses_to_end(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagi.agi_server.CLOSE_WAIT_S", 0.01)

    async def scene() -> None:
        told = Told()

        async def stubborn(request: AgiRequest) -> AgiReply:
            try:
                return await told.when_let_go(request)
            except asyncio.CancelledError:
                await told.go.wait()
                raise

        async with serving({"route": Endpoint(stubborn, reject_late)}, AgiLimits(deadline_ms=10)) as (server, port):
            await exchange(port, "route")
            await server.close()
            assert server.handlers_at_work == 1
            told.go.set()
            await until(lambda: server.handlers_at_work == 0)

    run(scene())
