"""`capconduit demo`: a whole run adds up, an ended one leaves nothing, and its report sees what does not agree."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from capconduit.clock import SystemClock
from capconduit.domain.calls import DialAnswer, RouteRequest, SettleReport
from capconduit.domain.model import Cdr
from capconduit.errors import PeerError
from capconduit.services import balances, calls
from capconduit.services.engine import Engine
from capconduit.services.office import Office
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store
from capconduit.units import instant_ms
from capconduit.vocab import DialStatus
from capconduit_cli.demo import real, stage, traffic
from capconduit_cli.demo.estate import ACME, SOLAR, SOLAR_DID, UNKNOWN_DID, awake_zone, build_estate
from capconduit_cli.demo.report import Opening, Report, Truth, make_report, open_books, price_fault, report_text
from capconduit_cli.demo.stage import open_stage
from capconduit_cli.demo.traffic import Progress
from capconduit_cli.demo.view import look, picture

from .runner import clean_environment, run

WHOLE_S = 200
DEADLINE_S = 60


# --- as a process


class Demo:
    """`capconduit demo` as a process with a temporary directory of its own."""

    def __init__(self, home: Path, *arguments: str, env: Mapping[str, str] | None = None, **popen: Any) -> None:
        self.temp = Path(tempfile.mkdtemp(prefix="cc-"))  # short: sockets are in it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "capconduit_cli", "demo", *arguments],
            env=clean_environment(home, TMPDIR=str(self.temp), PYTHONPATH=str(Path.cwd()), **(env or {})),
            stdin=subprocess.DEVNULL,
            cwd=home,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen),
        )

    def wait(self, timeout_s: float = DEADLINE_S) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, (out or b"").decode(), (err or b"").decode()

    def daemons(self) -> list[int]:
        """Processes of this demo beside its own."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.fsencode(self.temp) in (directory / "cmdline").read_bytes():
                    found.append(int(directory.name))
        return found

    def until_calls(self) -> None:
        """Wait until calls go through it: the daemon logs each."""
        wait_for(lambda: any(b"outcome" in log.read_bytes() for log in self.temp.glob("*/daemon.log")), "settled call")

    def leaves_nothing(self) -> bool:
        return not self.daemons() and not list(self.temp.iterdir())

    def kill(self) -> None:
        for pid in [self.process.pid, *self.daemons()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.temp)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} after {DEADLINE_S} s"
        time.sleep(0.02)


StartDemo = Callable[..., Demo]


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[StartDemo]:
    """Starts a demo; it is ended with the test whatever happens."""
    started: list[Demo] = []

    def start(*arguments: str, **more: Any) -> Demo:
        started.append(Demo(tmp_path, *arguments, **more))
        return started[-1]

    yield start
    for demo in started:
        demo.kill()


def test_a_demo_meets_everything_and_adds_up(start_demo: StartDemo) -> None:
    # variables of another installation must not reach the demo's daemon
    foreign = {"CAPCONDUIT_DATABASE__URL": "sqlite:////nowhere/else.sqlite", "CAPCONDUIT_NODE__NAME": "theirs"}
    demo = start_demo("--seed", "3", "--no-live", env=foreign)
    code, out, err = demo.wait(WHOLE_S)
    assert code == 0, out + err
    assert "WRONG" not in out
    assert "not met" not in out
    assert out.count("adds up") == 2
    assert re.search(r"was cut after 4\.\d s: its money, 0\.04 EUR, was used up", out)
    for reason in traffic.EXPECTED_REJECTS:
        assert f"{reason} " in out
    assert "10/10" in err
    assert demo.leaves_nothing()


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT]],
    ids=["ctrl-c", "kill", "ctrl-c twice"],
)
def test_ended_in_the_middle_it_leaves_no_process_and_no_directory(
    start_demo: StartDemo, signals: Sequence[signal.Signals]
) -> None:
    demo = start_demo("--no-live")
    demo.until_calls()
    assert len(demo.daemons()) == 1
    for number in signals:
        demo.process.send_signal(number)
    code, out, err = demo.wait()
    assert code == 130, err
    assert out == ""
    assert demo.leaves_nothing()


def test_ctrl_c_in_the_live_picture_gives_the_terminal_back(start_demo: StartDemo) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    demo = start_demo(stderr=theirs, env={"TERM": "xterm", "COLUMNS": "80", "LINES": "24"})
    os.close(theirs)
    shown = b""
    try:
        while b"sunhaus" not in shown:
            shown += os.read(ours, 65_536)
        demo.process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: nobody writes to the terminal any more
            while piece := os.read(ours, 65_536):
                shown += piece
    finally:
        os.close(ours)
    assert demo.process.wait(DEADLINE_S) == 130
    assert shown.index(b"\x1b[?1049h") < shown.index(b"BALANCES") < shown.index(b"\x1b[?1049l")
    assert b"interrupted" in shown.partition(b"\x1b[?1049l")[2]
    assert demo.leaves_nothing()


def test_a_daemon_that_dies_is_told_with_its_last_words(start_demo: StartDemo) -> None:
    demo = start_demo("--no-live")
    demo.until_calls()
    (daemon,) = demo.daemons()
    os.kill(daemon, signal.SIGKILL)
    code, _, err = demo.wait()
    assert code == 4
    assert "ended in the middle with exit code -9 [demo-daemon]" in err
    assert "daemon: " in err
    assert "outcome" in err
    assert demo.leaves_nothing()


def test_a_directory_that_is_in_use_is_refused(home: Path) -> None:
    (home / "notes.txt").write_text("mine")
    result = run("demo", "--keep", str(home), home=home)
    assert (result.code, result.out) == (2, "")
    assert "[demo-directory]" in result.err
    assert (home / "notes.txt").read_text() == "mine"


def test_without_a_checkout_a_real_asterisk_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real, "CHECKOUT", home)
    result = run("demo", "--asterisk", home=home)
    assert (result.code, result.out) == (2, "")
    assert "[lab-missing]" in result.err


# --- the stage


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for that of a socket (107 bytes)."""
    with tempfile.TemporaryDirectory(prefix="cc-", dir="/tmp") as path:
        yield Path(path)


def test_a_kept_stage_stays_and_a_temporary_one_goes(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(short_path))

    async def see(keep: Path | None) -> Path:
        async with open_stage(keep) as made:
            config = made.configure(5038)
            assert config.database.url.startswith(f"sqlite:///{made.directory}/")
            assert (made.directory / "ami.secret").stat().st_mode & 0o777 == 0o600
            return made.directory

    assert not asyncio.run(see(None)).exists()
    assert (asyncio.run(see(short_path / "kept")) / "capconduit.sqlite").exists()


def test_a_daemon_that_cannot_start_is_a_failure_with_its_log(tmp_path: Path) -> None:
    async def start() -> None:
        async with open_stage(tmp_path / "kept") as made:
            made.configure(5038, {"fastagi": {"listen": "192.0.2.1:4573"}})  # no address of any machine
            try:
                await made.start_daemon()
            finally:
                assert any("listen-failed" in line for line in made.log_tail())

    with pytest.raises(PeerError, match="ended before it was answering with exit code 2"):
        asyncio.run(start())


def test_a_daemon_that_never_gets_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "READY_S", 3.0)

    async def start() -> None:
        async with open_stage(tmp_path / "kept") as made:
            made.configure(1)  # nobody serves AMI there
            await made.start_daemon()
            await made.wait_ready()

    with pytest.raises(PeerError, match=r"was not ready within 3 s \(ami down\)"):
        asyncio.run(start())


# --- the script and the estate


def test_a_seed_is_a_day() -> None:
    def specs(seed: int) -> list[object]:
        return [step.spec for phase in traffic.script(seed) for step in phase.steps if isinstance(step, traffic.Ring)]

    assert specs(5) == specs(5)
    assert specs(5) != specs(6)
    assert 120 <= len(specs(5)) <= 150


@pytest.mark.parametrize("hour", range(24))
def test_no_day_ends_while_the_demo_runs(hour: int) -> None:
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    at = datetime(2026, 3, 8, hour, 59, 58, tzinfo=UTC)
    zone = awake_zone(("America/New_York", "America/Los_Angeles"), instant_ms(at))
    assert at.astimezone(ZoneInfo(zone)).hour != 23


# --- the picture and the report


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """The demo's estate in a database."""
    store = open_store(f"sqlite:///{tmp_path}/demo.sqlite", create=True)
    prepare_database(store, SystemClock())
    made = Office(store, SystemClock(), actor="test")
    build_estate(made)
    yield made
    store.close()


@pytest.fixture
def engine(office: Office) -> Iterator[Engine]:
    decides = Engine(office.store, SystemClock())
    decides.start()
    yield decides
    decides.stop(DEADLINE_S)


def route(engine: Engine, uniqueid: str, did: str = SOLAR_DID, name: str = "") -> Any:
    request = RouteRequest(
        node="demo", boot_id="b", uniqueid=uniqueid, dnid=did, ani="+12125550147", caller_name=name, trunk="carrier"
    )
    return engine.ask(request, DEADLINE_S)


def settle(engine: Engine, uniqueid: str, talk_ms: int) -> None:
    """As if it had talked: the end is told to be as much later."""
    report = SettleReport(
        node="demo", uniqueid=uniqueid, attempt=1, dialstatus=DialStatus.ANSWER, answered_for_ms=talk_ms,
        ended_ms=SystemClock().now_ms() + talk_ms,
    )  # fmt: skip
    engine.ask(report, DEADLINE_S)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 22), (160, 50), (200, 30)])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_picture_fits_the_terminal_whatever_callers_are_named(
    office: Office, engine: Engine, width: int, height: int, ascii_only: bool
) -> None:
    names = ("名無しさん 電話" * 10, "\x1b[2J\x1b[31mBOO\r\n", "\u202egnirts", "x" * 300, "e\u0301" * 90)
    for number, name in enumerate(names * 2):
        assert isinstance(route(engine, f"demo-1.{number}", name=name), DialAnswer)
    route(engine, "demo-1.99", did=UNKNOWN_DID)
    progress = Progress(total=123, phases=10, phase=3, title="a title", note="the operator " + "does much " * 30)
    lines = picture(look(office, 0.0), progress, width, height, ascii_only=ascii_only)
    assert len(lines) <= height
    assert all(cell_len(line.plain) <= width for line in lines)
    whole = "\n".join(line.plain for line in lines)
    assert "\x1b" not in whole
    assert "\u202e" not in whole
    assert "10/10" in whole  # acme's cap on calls at once, its last digit included
    assert "did_unknown" in whole
    assert "held 0.20" in whole
    assert whole.isascii() or not ascii_only or width > 110  # names are shown there, in their own letters


@pytest.fixture
def told(office: Office, engine: Engine) -> tuple[Office, list[Truth], dict[str, Opening]]:
    """Two answered calls and a rejected one, as the simulated Asterisk would tell them."""
    opening = open_books(office)
    for uniqueid, talk_ms in (("demo-1.1", 1_500), ("demo-1.2", 700)):
        assert isinstance(route(engine, uniqueid), DialAnswer)
        settle(engine, uniqueid, talk_ms)
    route(engine, "demo-1.3", did=UNKNOWN_DID)
    dials = (("sunhaus", "ANSWER"),)
    truths = [
        Truth("demo-1.1", True, 1_500, "", None, dials, None),
        Truth("demo-1.2", True, 690, "", None, dials, None),
        Truth("demo-1.3", False, 0, "did_unknown", 404, (), "system"),
    ]
    return office, truths, opening


Told = tuple[Office, list[Truth], dict[str, Opening]]


def the_report(told: Told) -> Report:
    office, truths, opening = told
    return make_report(office, truths, opening, ["did_unknown"], 1.0)


def test_a_report_of_witnesses_that_agree_is_good(told: Told) -> None:
    report = the_report(told)
    assert report.good, report_text(report)
    assert report.rejects == {"did_unknown": 1}
    acme = next(sums for sums in report.money if sums.name == ACME)
    assert (acme.opening_micros, acme.ledger_calls_micros, acme.closing_micros) == (40_000_000, 20_000, 39_980_000)
    (solar,) = [sums for sums in report.campaigns if sums.name == SOLAR]
    assert (solar.calls, solar.answered, solar.talk_ms, solar.revenue_micros) == (2, 2, 2_200, 20_000)
    assert "39.980000  adds up" in report_text(report)


@pytest.mark.parametrize(
    ("number", "lie", "said"),
    [
        (0, {"talk_ms": 1_560}, "demo-1.1: 1560 ms against 1500 ms"),
        (0, {"answered": False}, "answered False against True"),
        (
            0,
            {"attempts": (("brightco", "ANSWER"),)},
            "Dials (('brightco', 'ANSWER'),) against (('sunhaus', 'ANSWER'),)",
        ),
        (2, {"reason": "did_suspended"}, "reason 'did_suspended' against 'did_unknown'"),
        (2, {"sip": 486}, "SIP code 486 against 404"),
        (2, {"hung_up_by": "caller"}, "hung up by 'caller' against 'system'"),
        (1, {"uniqueid": "demo-1.9"}, "demo-1.9 has no CDR"),
        (1, {"uniqueid": "demo-1.9"}, "demo-1.2 has a CDR too many"),
    ],
)
def test_a_call_that_two_witnesses_tell_differently_is_wrong(
    told: Told, number: int, lie: Mapping[str, Any], said: str
) -> None:
    told[1][number] = replace(told[1][number], **lie)
    report = the_report(told)
    assert not report.good
    assert said in report_text(report)


def test_a_live_call_and_held_money_are_wrong(told: Told, engine: Engine) -> None:
    route(engine, "demo-1.4")
    text = report_text(the_report(told))
    assert "call demo-1.4 is dialing" in text
    assert "acme: held 0.020000" in text


def test_what_is_paid_while_it_runs_adds_up(told: Told) -> None:
    balances.adjust(told[0], ACME, 5, reason="while it ran")
    report = the_report(told)
    assert report.good
    assert [sums.paid_micros for sums in report.money if sums.name == ACME] == [5]


def test_a_balance_that_did_not_begin_as_it_was_said_is_wrong(told: Told) -> None:
    told[2][ACME] = replace(told[2][ACME], balance_micros=39_999_999)
    assert "acme: 39.999999 + 0.000000 - 0.020000 by ledger" in report_text(the_report(told))


def test_a_ledger_entry_that_is_lost_is_wrong(told: Told) -> None:
    entry = next(entry for entry in balances.ledger(told[0], ACME)[1] if entry.call_id)
    told[0].store.run(lambda tx: tx.delete(entry))
    text = report_text(the_report(told))
    assert "ledger 0.000000, CDR 0.020000" in text
    assert "acme: balance 39.980000, rows 40.000000" in text


def test_what_was_not_met_is_said(told: Told) -> None:
    report = make_report(told[0], told[1], told[2], ["campaign_paused"], 1.0)
    assert "campaign_paused, a call that is cut when its money is used up" in report_text(report)


@pytest.mark.parametrize(
    ("talk_ms", "billed_s", "amount", "fault"),
    [
        (1_500, 2, 20_000, ""),
        (2_240, 2, 20_000, ""),  # cut at its funded time
        (2_300, 2, 20_000, "2300 ms billed as 2 s"),
        (1_500, 3, 30_000, "1500 ms billed as 3 s"),
        (1_500, 2, 20_001, "2 s cost 0.020000, charged 0.020001"),
        (999, 0, 0, ""),
        (999, 1, 10_000, "costs something"),
        (1_000, 0, 0, "1000 ms billed as 0 s"),
    ],
)
def test_prices_are_worked_out_again(told: Told, talk_ms: int, billed_s: int, amount: int, fault: str) -> None:
    cdr: Cdr = next(cdr for cdr in calls.find_cdrs(told[0]) if cdr.talk_ms == 1_500)
    doctored = replace(
        cdr,
        talk_ms=talk_ms,
        billed_seconds=billed_s,
        amount_micros=amount,
        billable=talk_ms >= cdr.billable_threshold_ms,
    )
    assert price_fault(doctored) == fault
