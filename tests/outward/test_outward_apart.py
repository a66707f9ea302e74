"""Receivers are apart: a command that hangs leaves room for another one. What an operator says of one holds at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from capconduit.domain.outgoing import Patience
from capconduit.services.webhooks import add_webhook, deliveries, remove_webhook, retry_webhook, set_webhook
from capconduit.store.open import open_store
from capconduit.vocab import DeliveryState, EventKind, ReceiverStatus
from fastagi import outwards
from tests.outward.receiver import Deadline, Got, LoopbackReceiver
from tests.outward.rig import OutwardRig, working

CALLS = 12
EVENTS = 8


@pytest.fixture
def rig(tmp_path: Path) -> OutwardRig:
    return OutwardRig(open_store(f"sqlite:///{tmp_path}/store.sqlite", create=True))


def test_a_command_that_hangs_does_not_hold_up_another_one(rig: OutwardRig) -> None:
    add_webhook(rig.office, "hangs", command=["/bin/sleep", "600"], kinds=["*"])
    for number in range(CALLS):
        rig.happen(EventKind.CALL_ENDED, f"call{number:02}")
    worker = rig.worker(timeout_ms=600_000)
    with working(worker):
        Deadline().until(lambda: worker.status()["in_hand"] > 0)
        add_webhook(rig.office, "good", command=["/bin/true"], kinds=["*"])
        rig.happen(EventKind.CALL_ENDED, "another")
        Deadline().until(lambda: deliveries(rig.office, "good", state=DeliveryState.DELIVERED))
        assert worker.counters.failed == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda rig: set_webhook(rig.office, "hook", status=ReceiverStatus.PAUSED),
        lambda rig: remove_webhook(rig.office, "hook"),
    ],
    ids=["paused", "removed"],
)
def test_who_is_paused_or_removed_is_sent_nothing_more_of_what_was_in_hand(
    rig: OutwardRig, monkeypatch: pytest.MonkeyPatch, change: Callable[[OutwardRig], object]
) -> None:
    monkeypatch.setattr(outwards, "RECEIVERS_FRESH_MS", 0)
    go_on = threading.Event()

    def behave(_: Got) -> str:
        assert go_on.wait(60)
        return "ok"

    with LoopbackReceiver(behave) as receiver:
        rig.hook(receiver.url)
        for _ in range(EVENTS):
            rig.happen(EventKind.HOLD_EXTENDED, "call")
        worker = rig.worker(timeout_ms=60_000)
        with working(worker):
            Deadline().until(lambda: worker.status()["in_hand"] == 1)
            change(rig)
            Deadline().until(lambda: not any(known.active for known in worker._receivers.values()))
            go_on.set()
            Deadline().until(lambda: worker.status()["in_hand"] == 0)
        assert len(receiver.got) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda rig, _: retry_webhook(rig.office, "hook"),
        lambda rig, url: set_webhook(rig.office, "hook", url=f"{url}/new"),
    ],
    ids=["retry", "set"],
)
def test_a_receiver_that_is_mended_is_left_alone_no_longer_when_that_is_said(
    rig: OutwardRig, change: Callable[[OutwardRig, str], object]
) -> None:
    bad = [True]
    long = Patience(first_ms=2_000_000, most_ms=2_000_000)
    with LoopbackReceiver(lambda _: "500" if bad else "ok") as receiver:
        rig.hook(receiver.url)
        for number in range(CALLS):
            rig.happen(EventKind.CALL_ENDED, f"call{number:02}")
        with working(worker := rig.worker(trouble=long)):
            Deadline().until(lambda: worker.status()["left_alone_ms"] and all(one.tries for one in rig.deliveries()))
            bad.clear()
            change(rig, receiver.url)
            Deadline().until(lambda: rig.left() == (0, 0))
        assert len(receiver.taken) == CALLS
