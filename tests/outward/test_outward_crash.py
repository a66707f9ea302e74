"""Daemons that die and daemons that share: nothing is lost, little comes twice, and that under the same id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from capconduit.store.open import open_store
from capconduit.vocab import EventKind
from fastagi.outwards import LANES_EACH
from tests.outward.receiver import Deadline, LoopbackReceiver
from tests.outward.rig import LIFE, SECRET, OutwardRig, working
from tests.outward.test_outward_delivery import ids_by_call, in_order
from tests.store_contract.conftest import Opener

ROOT = Path(__file__).parents[2]
CALLS = 120
SHARED_CALLS = 300


@contextmanager
def daemon(home: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """The real daemon as a process, without AMI."""
    config = home / "capconduit.toml"
    config.write_text(
        f'[database]\nurl = "{url}"\n[fastagi]\nlisten = "127.0.0.1:0"\n[node]\nname = "n1"\n'
        f'journal = "{home}/journal"\n[control]\nsocket = "{home}/c.sock"\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CAPCONDUIT_")}
    with (home / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fastagi", "--config", str(config)],
            cwd=ROOT, env={**environment, "HOOK_SECRET": SECRET}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def test_a_daemon_that_is_killed_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite"
    rig = OutwardRig(open_store(url, create=True))
    # After some it says nothing more, so that the daemon is killed in the middle.
    with LoopbackReceiver(lambda _: "ok" if len(receiver.got) < CALLS else "hang") as receiver:
        rig.hook(receiver.url)
        told = rig.calls(CALLS)
        with daemon(tmp_path, url) as first:
            Deadline().until(lambda: len(receiver.got) > CALLS)
            first.send_signal(signal.SIGKILL)
            first.wait(20)
        receiver.behave = lambda _: "ok"
        left = rig.left()
        assert left != (0, 0), "it was killed in the middle"
        with daemon(tmp_path, url):
            Deadline().until(lambda: rig.left() == (0, 0))
        starts = [got for got in receiver.taken if got.message["kind"] == EventKind.NODE_STARTED]
        came = Counter(got.message["id"] for got in receiver.taken if got not in starts)
        order = ids_by_call(receiver.taken)
    assert 1 <= len({got.message["id"] for got in starts}) <= 2, (
        "starts of the daemon are told; the last one maybe later"
    )
    assert all(in_order(order[call], ids) for call, ids in told.items())
    assert came.keys() == {id_ for ids in told.values() for id_ in ids}
    assert came.total() - len(came) <= LANES_EACH * len(LIFE)  # no more than what was in hand


@pytest.mark.postgres
def test_daemons_on_one_database_share_the_work(postgres_url: str, opened: Opener) -> None:
    rig = OutwardRig(opened(postgres_url))
    with LoopbackReceiver() as receiver:
        rig.hook(receiver.url)
        told = rig.calls(SHARED_CALLS)
        one, two = rig.worker("n1"), rig.worker("n2", store=opened(postgres_url))
        with working(one, two):
            Deadline().until(lambda: rig.left() == (0, 0))
        came = Counter(got.message["id"] for got in receiver.taken)
        order = ids_by_call(receiver.taken)
    assert all(order[call] == ids for call, ids in told.items())
    assert set(came.values()) == {1}
    assert one.counters.delivered + two.counters.delivered == came.total() == SHARED_CALLS * len(LIFE)
    assert min(one.counters.delivered, two.counters.delivered) > 0
    assert one.counters.events + two.counters.events == came.total()


@pytest.mark.postgres
def test_a_daemon_that_stops_leaves_its_work_to_the_other(postgres_url: str, opened: Opener) -> None:
    rig = OutwardRig(opened(postgres_url))
    with LoopbackReceiver() as receiver:
        rig.hook(receiver.url)
        rig.calls(40)
        with working(rig.worker("n1")):
            Deadline().until(lambda: receiver.got)
        with rig.store.transaction(write=False) as tx:
            assert tx.query("SELECT count(*) FROM lane WHERE owner <> ''")[0][0] == 0
        with working(rig.worker("n2", store=opened(postgres_url))):
            Deadline().until(lambda: rig.left() == (0, 0))
        assert {got.message["id"] for got in receiver.taken} == {d.event_id for d in rig.deliveries()}
        assert EventKind.CALL_ENDED in {got.message["kind"] for got in receiver.taken}
