"""Receivers do not wait for each other: a command that hangs leaves room for another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from capconduit.services.webhooks import add_webhook, deliveries
from capconduit.store.open import open_store
from capconduit.vocab import DeliveryState, EventKind
from tests.outward.receiver import Deadline
from tests.outward.rig import OutwardRig, working

CALLS = 12


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
