"""The FastAGI server towards everyone else: health checks, floods, dawdlers, garbage; none of them costs a call."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagi.agi_server import MAX_DISCARDED_BYTES, REFUSED_AT_ONCE, AgiLimits, AgiReply, AgiRequest, Endpoint
from tests.protocol.agi_peer import (
    LATE,
    AgiPeer,
    Outcome,
    Runner,
    dial,
    environment,
    exchange,
    loops,
    reject_late,
    serving,
    until,
)

run = loops

ROUTE = {"route": Endpoint(dial, reject_late)}
DIAL = Outcome({"CC_VERDICT": "dial"})


@pytest.mark.parametrize("sent", [b"", b"agi_net", environment("route")[:-1]])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_peer_that_leaves_early_does_no_harm_and_is_no_error(
    run: Runner, sent: bytes, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def scene() -> None:
        async with serving(ROUTE) as (server, port):
            peer = await AgiPeer.connect(port)
            await peer.send(sent)
            await until(lambda: server.live_connections == 1)
            await (peer.close() if how == "close" else peer.reset())
            await until(lambda: server.live_connections == 0)
            assert server.counters.left_early == 1
            assert await exchange(port, "route") == DIAL

    run(scene())
    assert [record for record in caplog.records if record.name != "asyncio"] == []


def test_a_dawdler_is_cut_off_and_told(run: Runner) -> None:
    async def scene() -> None:
        async with serving(ROUTE, AgiLimits(header_ms=20)) as (server, port):
            peer = await AgiPeer.connect(port)
            await peer.send(b"agi_network: yes\n")
            assert await peer.rest() == b"failure: header timeout\n"
            await peer.close()
            await until(lambda: server.live_connections == 0)
            assert (server.counters.header_timeouts, server.counters.left_early) == (1, 0)

    run(scene())


def test_a_peer_that_left_is_not_timed_out(run: Runner) -> None:
    async def scene() -> None:
        async with serving(ROUTE, AgiLimits(header_ms=500)) as (server, port):
            leaver = await AgiPeer.connect(port)
            await leaver.close()
            dawdler = await AgiPeer.connect(port)
            # Its timer began later: when this one has passed, the other would have.
            await dawdler.rest()
            await dawdler.close()
            assert (server.counters.header_timeouts, server.counters.left_early) == (1, 1)

    run(scene())


def test_more_bytes_do_not_move_the_header_deadline(run: Runner) -> None:
    async def scene() -> None:
        async with serving(ROUTE, AgiLimits(header_ms=30, header_bytes=1 << 20)) as (server, port):
            peer = await AgiPeer.connect(port)

            async def drip() -> None:
                while not server.counters.header_timeouts:
                    peer.writer.write(b"x")
                    await asyncio.sleep(0)

            dripping = asyncio.create_task(drip())
            assert await peer.rest() in (b"failure: header timeout\n", b"")
            await dripping
            await peer.close()

    run(scene())


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"bad header"),
        (b"a" * 20_000, b"bad header"),
        (environment("route", "x" * 20_000), b"bad header"),
        (environment("nobody"), b"unknown script"),
        (environment("route/"), b""),
    ],
)
def test_a_header_that_cannot_be_served_gets_a_failure_line(run: Runner, header: bytes, reason: bytes) -> None:
    async def scene() -> None:
        async with serving(ROUTE) as (server, port):
            peer = await AgiPeer.connect(port)
            await peer.send(header)
            answer = await peer.rest()
            assert answer == (b"failure: " + reason + b"\n" if reason else b'EXEC MSet "CC_VERDICT=dial"\n')
            await peer.close()
            await until(lambda: server.live_connections == 0)
            assert server.counters.bad_headers == (reason == b"bad header")
            assert server.counters.unknown_scripts == (reason == b"unknown script")
            assert server.counters.requests == {"route": 0 if reason else 1}

    run(scene())


def test_a_latin_1_name_is_served(run: Runner) -> None:
    async def scene() -> None:
        async with serving(ROUTE) as (_, port):
            assert await exchange(port, "route", "u1", name="Jos\u00e9".encode("latin-1")) == DIAL

    run(scene())


def test_beyond_the_limit_peers_are_told_and_the_others_are_served(run: Runner) -> None:
    async def scene() -> None:
        async with serving(ROUTE, AgiLimits(connections=5)) as (server, port):
            holders = [await AgiPeer.connect(port) for _ in range(5)]
            await until(lambda: server.live_connections == 5)
            assert await exchange(port, "route") == Outcome(failed=True)
            assert server.counters.refused == 1
            await holders[0].send(environment("route"))
            assert await holders[0].rest() == b'EXEC MSet "CC_VERDICT=dial"\n'
            for holder in holders:
                await holder.close()
            await until(lambda: server.live_connections == 0)
            assert await exchange(port, "route") == DIAL

    run(scene())


def test_in_a_flood_everyone_gets_an_answer(run: Runner) -> None:
    async def scene() -> None:
        async with serving(ROUTE, AgiLimits(connections=20)) as (server, port):
            outcomes = await asyncio.gather(*(exchange(port, "route", str(number)) for number in range(200)))
            served = outcomes.count(DIAL)
            assert served >= 20
            assert outcomes.count(Outcome(failed=True)) == 200 - served == server.counters.refused
            await until(lambda: server.live_connections == 0)

    run(scene())


def test_refused_peers_are_bounded_too(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagi.agi_server.REFUSED_AT_ONCE", 3)
    assert REFUSED_AT_ONCE > 3

    async def scene() -> None:
        async with serving(ROUTE, AgiLimits(connections=1, header_ms=60_000, applied_wait_ms=60_000)) as (server, port):
            peers = [await AgiPeer.connect(port) for _ in range(10)]
            await until(lambda: server.counters.refused == 9)
            await until(lambda: server.live_connections == 1 + 3)
            for peer in peers[1:]:
                assert await peer.rest() == b"failure: busy\n"
            for peer in peers:
                await peer.close()

    run(scene())


def test_handlers_that_outlive_their_callers_are_bounded(run: Runner) -> None:
    async def scene() -> None:
        go = asyncio.Event()

        async def handler(request: AgiRequest) -> AgiReply:
            await go.wait()
            return AgiReply(LATE)

        endpoints = {"route": Endpoint(handler, reject_late)}
        async with serving(endpoints, AgiLimits(connections=3, deadline_ms=10)) as (server, port):
            for _ in range(3):
                assert await exchange(port, "route") == Outcome(dict(LATE))
            await until(lambda: server.live_connections == 0)
            assert await exchange(port, "route") == Outcome(failed=True)
            assert (server.counters.refused, server.handlers_at_work) == (1, 3)
            go.set()
            await until(lambda: server.handlers_at_work == 0)

    run(scene())


def test_a_refused_peer_that_keeps_sending_is_reset(run: Runner) -> None:
    async def scene() -> None:
        async with serving(ROUTE, AgiLimits(applied_wait_ms=60_000)) as (server, port):
            peer = await AgiPeer.connect(port)
            await peer.send(environment("nobody"))
            await peer.line()
            peer.writer.write(b"x" * (MAX_DISCARDED_BYTES + 1))
            await until(lambda: server.live_connections == 0)
            await peer.close()

    run(scene())


def test_a_refused_peer_that_stays_is_cut_off(run: Runner) -> None:
    async def scene() -> None:
        async with serving(ROUTE, AgiLimits(applied_wait_ms=20)) as (server, port):
            peer = await AgiPeer.connect(port)
            await peer.send(environment("nobody"))
            await peer.rest()
            await until(lambda: server.live_connections == 0)
            await peer.close()

    run(scene())


@pytest.mark.parametrize("answered", [False, True])
def test_endless_replies_are_cut_off(run: Runner, answered: bool) -> None:
    fates: list[bool] = []

    async def scene() -> None:
        go = asyncio.Event()

        async def handler(request: AgiRequest) -> AgiReply:
            await go.wait()
            return AgiReply((("CC_ACK", "1"),), on_applied=fates.append)

        limits = AgiLimits(deadline_ms=60_000, applied_wait_ms=60_000)
        async with serving({"route": Endpoint(handler, reject_late)}, limits) as (server, port):
            if answered:
                go.set()
            peer = await AgiPeer.connect(port)
            await peer.send(environment("route"))
            if answered:
                await peer.line()
            peer.writer.write(b"x" * 100_000)
            await until(lambda: server.live_connections == 0 and server.counters.connections == 1)
            go.set()
            await until(lambda: fates == [False])
            await peer.close()

    run(scene())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=300) | st.just(environment("route", "x")) | st.just(b"\n\n"), max_size=4))
def test_no_bytes_bring_the_server_down(segments: list[bytes]) -> None:
    async def scene() -> None:
        async with serving(ROUTE, AgiLimits(header_ms=2_000)) as (server, port):
            peer = await AgiPeer.connect(port)
            try:
                for segment in segments:
                    await peer.send(segment)
            except ConnectionError:
                pass  # the server may end it at any point
            await peer.close()
            await until(lambda: server.live_connections == 0)
            assert await exchange(port, "route") == DIAL

    asyncio.run(scene())
