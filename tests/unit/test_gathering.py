"""The queue before the engine: order is kept, a crowd does not wait, what can wait rides with what cannot."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from capconduit.services import gathering
from capconduit.services.gathering import (
    BUSY_S,
    CALLER_WAITS_S,
    CHANNEL_WAITS_S,
    CROWD,
    NOBODY_WAITS_S,
    RUSH_BATCHES,
    RUSH_FACTOR,
    RUSH_S,
    Gathering,
    QueueFull,
)

LONG_S = 3_600.0  # nobody waits so long in a test
SOON_S = 30.0


def taken_by_another_thread(queue: Gathering[str]) -> Callable[[], list[str]]:
    """Begins to take a batch; the answer waits for it."""
    found: list[list[str]] = []
    thread = threading.Thread(target=lambda: found.append(queue.take()), daemon=True)
    thread.start()

    def batch() -> list[str]:
        thread.join(SOON_S)
        assert not thread.is_alive(), "nothing was handed out"
        return found[0]

    return batch


def test_without_patience_all_that_is_there_is_handed_out_at_once() -> None:
    queue: Gathering[str] = Gathering(patient=False)
    for name in "abc":
        queue.put(name, LONG_S)
    assert queue.take() == ["a", "b", "c"]


def test_what_can_wait_rides_with_what_cannot() -> None:
    queue: Gathering[str] = Gathering(patient=True)
    batch = taken_by_another_thread(queue)
    queue.put("answer", LONG_S)
    queue.put("settle", LONG_S)
    queue.put("route", 0.0)
    assert batch() == ["answer", "settle", "route"]


def test_patience_ends() -> None:
    queue: Gathering[str] = Gathering(patient=True)
    queue.put("answer", NOBODY_WAITS_S)
    assert taken_by_another_thread(queue)() == ["answer"]


def test_a_crowd_does_not_wait() -> None:
    queue: Gathering[str] = Gathering(patient=True)
    batch = taken_by_another_thread(queue)
    names = [str(n) for n in range(CROWD)]
    for name in names:
        queue.put(name, LONG_S)
    assert batch() == names


def test_callers_wait_only_where_others_have_just_been_decided() -> None:
    now_s = 100.0
    queue: Gathering[str] = Gathering(patient=True, now_s=lambda: now_s)
    queue.put("first", CALLER_WAITS_S)
    assert queue.take() == ["first"]  # the clock stands still: it was due at once
    now_s += BUSY_S / 2
    queue.put("second", CALLER_WAITS_S)
    assert queue._wait_s() == pytest.approx(CALLER_WAITS_S)
    now_s += CALLER_WAITS_S
    assert queue._wait_s() <= 0


def test_long_after_the_last_batch_nobody_waits_for_others() -> None:
    now_s = 100.0
    queue: Gathering[str] = Gathering(patient=True, now_s=lambda: now_s)
    queue.put("first", CALLER_WAITS_S)
    queue.take()
    now_s += BUSY_S * 2
    queue.put("second", CALLER_WAITS_S)
    assert queue._wait_s() == 0


def test_one_that_waited_does_not_make_the_next_one_wait() -> None:
    now_s = 100.0
    queue: Gathering[str] = Gathering(patient=True, now_s=lambda: now_s)
    for waited_s in (CHANNEL_WAITS_S, 0.0):
        began_s = now_s
        queue.put("settle", CHANNEL_WAITS_S)
        now_s += waited_s
        queue.take()
        now_s = began_s + 2 * BUSY_S  # a regular, leisurely stream
        assert queue._due(CHANNEL_WAITS_S) == now_s


@pytest.mark.parametrize(("share", "waits_s"), [(0.9, CALLER_WAITS_S * RUSH_FACTOR), (1.5, 0.0)])
def test_where_batches_follow_each_other_closely_callers_wait_longer(share: float, waits_s: float) -> None:
    now_s = 100.0
    queue: Gathering[str] = Gathering(patient=True, now_s=lambda: now_s)
    for _ in range(RUSH_BATCHES):
        queue.put("route", 0.0)
        assert queue.take() == ["route"]
        now_s += share * RUSH_S / RUSH_BATCHES  # more than BUSY_S
    queue.put("route", CALLER_WAITS_S)
    assert queue._wait_s() == pytest.approx(waits_s)


def test_after_a_pause_nobody_waits_because_of_what_was_before() -> None:
    now_s = 100.0
    queue: Gathering[str] = Gathering(patient=True, now_s=lambda: now_s)
    for _ in range(100):
        queue.put("route", 0.0)
        queue.take()
        now_s += BUSY_S
    now_s += RUSH_S
    queue.put("route", CALLER_WAITS_S)
    assert queue._wait_s() == 0


def test_a_batch_has_a_bound_and_the_rest_follows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "BATCH_MAX", 2)
    queue: Gathering[str] = Gathering(patient=True)
    for name in "abc":
        queue.put(name, LONG_S)
    queue.put("d", 0.0)
    assert queue.take() == ["a", "b"]
    assert queue.take() == ["c", "d"]


def test_a_full_queue_takes_nothing_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "QUEUE_MAX", 2)
    queue: Gathering[str] = Gathering(patient=False)
    queue.put("a", 0.0)
    queue.put("b", 0.0)
    with pytest.raises(QueueFull):
        queue.put("c", 0.0)
    assert queue.take() == ["a", "b"]


def test_a_closed_queue_hands_out_what_waits_and_then_nothing() -> None:
    queue: Gathering[str] = Gathering(patient=True)
    queue.put("a", LONG_S)
    queue.close()
    with pytest.raises(QueueFull):
        queue.put("b", 0.0)
    assert queue.take() == ["a"]
    assert queue.take() == []


def test_closing_wakes_who_waits() -> None:
    queue: Gathering[str] = Gathering(patient=True)
    batch = taken_by_another_thread(queue)
    queue.close()
    assert batch() == []
