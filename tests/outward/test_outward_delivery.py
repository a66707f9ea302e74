"""Ten thousand events through a receiver that fails in every way: all arrive, in order, under one id each."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from capconduit.vocab import DeliveryState
from tests.outward.receiver import Deadline, Got, LoopbackReceiver, flaky
from tests.outward.rig import LIFE, OutwardRig, working


def ids_by_call(taken: list[Got]) -> dict[str, list[str]]:
    """The ids of events in the order they came, by call."""
    found: dict[str, list[str]] = defaultdict(list)
    for got in taken:
        message = got.message
        found[message["subject"]].append(message["id"])
    return found


def in_order(arrived: list[str], told: list[str]) -> bool:
    """Whether each event came, and none before one that was told earlier had come."""
    first = list(dict.fromkeys(arrived))
    return first == told


@pytest.mark.parametrize(
    ("store", "calls"),
    [pytest.param("sqlite", 2_000), pytest.param("postgres", 300, marks=pytest.mark.postgres)],
    indirect=["store"],
)
def test_every_event_arrives_in_order_through_a_flaky_receiver(rig: OutwardRig, calls: int) -> None:
    with LoopbackReceiver(flaky(seed=7)) as receiver:
        rig.hook(receiver.url)
        worker = rig.worker(timeout_ms=400)
        told = rig.calls(calls)
        with working(worker):
            Deadline(240).until(lambda: worker.counters.delivered >= calls * len(LIFE) and rig.left() == (0, 0))
        came, taken = ids_by_call(receiver.got), ids_by_call(receiver.taken)
        assert all(in_order(taken[call], ids) for call, ids in told.items())
        assert {id_ for ids in came.values() for id_ in ids} == {id_ for ids in told.values() for id_ in ids}
        tries = Counter(got.headers["capconduit-event-id"] for got in receiver.got)
        assert max(tries.values()) > 1  # the receiver was as bad as it was meant to be
        assert len({got.answer for got in receiver.got}) >= 6
    assert Counter(d.state for d in rig.deliveries()) == {DeliveryState.DELIVERED: calls * len(LIFE)}
