"""Events to a command: on its standard input, without a shell, and never longer than it may last."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from capconduit.outward.receivers import check_words, run_command
from capconduit.services.webhooks import add_webhook, deliveries
from capconduit.store.open import open_store
from capconduit.vocab import EventKind
from tests.outward.receiver import Deadline
from tests.outward.rig import OutwardRig, working

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def run(words: list[str], body: bytes = b"{}", timeout_s: float = 10):  # type: ignore[no-untyped-def]
    return asyncio.run(run_command(check_words(words), body, timeout_s, ENVIRONMENT))


@pytest.fixture
def rig(tmp_path: Path) -> OutwardRig:
    return OutwardRig(open_store(f"sqlite:///{tmp_path}/store.sqlite", create=True))


def test_a_command_reads_the_events_of_a_call_in_their_order(
    rig: OutwardRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os, sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\t' + repr(sorted(os.environ)) + '\\n')"
    words = [sys.executable, "-c", script, f"{tmp_path}/told; $(x)"]
    add_webhook(rig.office, "hook", command=words, kinds=["call.*"])
    told = [rig.happen(kind, "call1").id for kind in (EventKind.CALL_STARTED, EventKind.CALL_ENDED)]
    with working(rig.worker()):
        Deadline().until(lambda: rig.left() == (0, 0))
    lines = [line.split("\t") for line in (tmp_path / "told; $(x)").read_text().splitlines()]
    assert [json.loads(body)["id"] for body, _ in lines] == told
    assert "HOOK_SECRET" not in lines[0][1]
    assert {"CAPCONDUIT_EVENT_ID", "CAPCONDUIT_EVENT_KIND", "CAPCONDUIT_EVENT_ATTEMPT", "PATH"} <= set(
        eval(lines[0][1])
    )
    assert [d.answer for d in deliveries(rig.office, "hook")] == ["exit 0", "exit 0"]


def test_a_command_that_fails_says_why() -> None:
    outcome = run(["/bin/sh", "-c", "echo no such team >&2; exit 3"])
    assert not outcome.delivered
    assert outcome.answer == "exit 3: no such team"


def test_what_a_command_says_can_be_kept_whatever_it_is(rig: OutwardRig) -> None:
    words = ["/bin/sh", "-c", "printf 'a\\0b\\377\\033[2J' >&2; exit 1"]
    add_webhook(rig.office, "hook", command=words, kinds=["*"])
    rig.happen(EventKind.CALL_ENDED, "call1")
    with working(rig.worker()):
        Deadline().until(lambda: any(delivery.answer for delivery in deliveries(rig.office, "hook")))
    (delivery,) = deliveries(rig.office, "hook")
    assert delivery.answer == "exit 1: a?b\ufffd?[2J"


def test_a_command_need_not_read_and_may_say_a_lot() -> None:
    assert run(["/bin/sh", "-c", "exit 0"], b"x" * 5_000_000).delivered
    outcome = run([sys.executable, "-c", "import sys; sys.stderr.write('a' * 3_000_000 + ' end'); sys.exit(1)"])
    assert outcome.answer.startswith("exit 1: a")
    assert len(outcome.answer) <= 200


def test_a_command_that_is_not_there_is_a_failure_like_others() -> None:
    assert "FileNotFoundError" in run(["/nowhere/hook"]).answer


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_a_command_that_hangs_is_ended_with_all_it_started(
    tmp_path: Path, trap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capconduit.outward.receivers.COMMAND_ENDS_S", 0.2)
    pids = tmp_path / "pids"
    script = f"{trap}(sleep 600 & echo $! >> {pids}); echo $$ >> {pids}; while :; do sleep 600; done"
    started: list[int] = []
    for timeout_s in (0.5, 10.0):  # where the machine is busy, the shell has hardly begun in half a second
        outcome = run(["/bin/sh", "-c", script], timeout_s=timeout_s)
        assert outcome.answer == f"did not end within {timeout_s:g} s"
        started += [int(line) for line in pids.read_text().split()] if pids.exists() else []
        if len(started) >= 2:
            break
        pids.unlink(missing_ok=True)
    assert len(started) >= 2
    Deadline().until(lambda: not any(_lives(pid) for pid in started))


def test_what_a_command_leaves_behind_is_ended_too(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    outcome = run(["/bin/sh", "-c", f"sleep 600 2>/dev/null & echo $! > {pids}"])
    assert outcome.delivered
    pid = int(pids.read_text())
    Deadline().until(lambda: not _lives(pid))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
