"""The daemon's log: its forms, what is masked, what is withheld, and that a stalled reader holds nobody."""

from __future__ import annotations

import io
import json
import logging
import os
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from fastagi import logs
from fastagi.journald import JournalHandler, encode, leads_to_the_journal
from fastagi.log_lines import ConsoleFormatter, JsonFormatter, Masking
from fastagi.log_repeats import TOLD_PER_WINDOW, WINDOW_S, Repeats

CALL = {"call": "01KJQ6PSG0GBHFEA5MZ914GQHT", "uniqueid": "1795286301.17", "did": "+18005550100"}


def record(message: str = "route %s", *args: object, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("fastagi.test", level, __file__, 1, message, args, None)
    made.__dict__.update(extra)
    return made


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The root logger, put back afterwards, with all that is set up for the whole process."""
    for name in ("logProcesses", "logMultiprocessing", "logThreads", "_srcfile"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    logger = logging.getLogger()
    before = (logger.handlers[:], logger.level)
    yield logger
    logger.handlers[:], level = before
    logger.setLevel(level)


def test_json_has_what_a_line_is_about_as_keys() -> None:
    told = json.loads(
        JsonFormatter().format(record("call completed", **CALL, fields={"talk_ms": 1200, "amount": "0.2"}))
    )
    assert told["message"] == "call completed"
    assert (told["call"], told["did"], told["talk_ms"], told["amount"]) == (CALL["call"], CALL["did"], 1200, "0.2")
    assert (told["level"], told["logger"]) == ("info", "fastagi.test")


def test_console_leaves_out_what_is_empty() -> None:
    text = ConsoleFormatter().format(record("call rejected", **CALL, fields={"target": "", "cause": 17}))
    assert "call rejected  call=01KJ" in text
    assert text.endswith("cause=17")
    assert "target" not in text


def test_masking_leaves_the_last_digits_of_numbers_and_nothing_else_masked() -> None:
    masked = record(
        "caller %s called 8005550100 at 1795286301123 over 127.0.0.1:5060, call 01KJQ6PSG0GBHFEA5MZ914GQHT",
        "+12125550147", **CALL, fields={"caller": "+12125550147", "talk_ms": 61_000_000},
    )  # fmt: skip
    assert Masking().filter(masked)
    told = json.loads(JsonFormatter().format(masked))
    assert told["message"] == (
        "caller **********47 called ********00 at 1795286301123 over 127.0.0.1:5060, call 01KJQ6PSG0GBHFEA5MZ914GQHT"
    )
    assert (told["did"], told["caller"]) == ("**********00", "**********47")
    assert (told["uniqueid"], told["talk_ms"]) == (CALL["uniqueid"], 61_000_000)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("channel PJSIP/+12125550147-0000001a", "channel PJSIP/**********47-0000001a"),
        ("no channel to sip:+12125550147@192.0.2.1:5060", "no channel to sip:**********47@192.0.2.1:5060"),
        ("nobody knows +12125550147.", "nobody knows **********47."),
        ("+12125550147: refused", "**********47: refused"),
        ("demo-1795322939.113 at 12:00:00+0000", "demo-1795322939.113 at 12:00:00+0000"),
    ],
)
def test_a_number_with_a_plus_is_masked_wherever_it_stands(said: str, told: str) -> None:
    line = record(said)
    assert Masking().filter(line)
    assert line.getMessage() == told


def test_a_complaint_that_comes_again_and_again_is_withheld_and_counted() -> None:
    now = [0.0]
    repeats = Repeats(lambda: now[0])
    told = [repeats.filter(record("late for %s", n, level=logging.WARNING)) for n in range(TOLD_PER_WINDOW + 5)]
    assert sum(told) == TOLD_PER_WINDOW
    assert repeats.filter(record("another", level=logging.WARNING))
    assert all(
        repeats.filter(record("route %s", n)) for n in range(TOLD_PER_WINDOW + 5)
    )  # whoever asks for it wants it
    now[0] = WINDOW_S
    later = record("late for %s", "x", level=logging.WARNING)
    assert repeats.filter(later)
    assert later.getMessage() == "late for x (5 more like this were withheld)"


def test_the_journal_gets_fields_and_values_with_line_breaks_by_their_length(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        journal.settimeout(5)
        handler = JournalHandler(path, io.StringIO())
        handler.emit(record("two\nlines", level=logging.ERROR, **CALL, fields={"cause": 17}))
        data = journal.recv(65_536)
        handler.close()
    length = struct.pack("<Q", len("two\nlines"))
    assert data.startswith(b"MESSAGE\n" + length + b"two\nlines\nPRIORITY=3\nSYSLOG_IDENTIFIER=capconduit\n")
    assert b"CAPCONDUIT_CALL=01KJQ6PSG0GBHFEA5MZ914GQHT\n" in data
    assert b"CAPCONDUIT_CAUSE=17\n" in data
    assert encode({"A": "\ud800"}) == b"A=\\ud800\n"


def test_without_a_journal_the_line_goes_to_standard_error(tmp_path: Path) -> None:
    out = io.StringIO()
    handler = JournalHandler(str(tmp_path / "none"), out)
    handler.emit(record("hello"))
    handler.close()
    assert "hello" in out.getvalue()


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        told = os.fstat(out.fileno())
        assert leads_to_the_journal(out, {"JOURNAL_STREAM": f"{told.st_dev}:{told.st_ino}"})
        assert not leads_to_the_journal(out, {"JOURNAL_STREAM": "8:1"})
        assert not leads_to_the_journal(io.StringIO(), {"JOURNAL_STREAM": "8:1"})


def test_a_reader_that_stalls_holds_nobody_and_what_was_dropped_is_told(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "QUEUE_MAX", 10)
    reading, writing = os.pipe()
    os.set_blocking(writing, True)
    with os.fdopen(writing, "w") as out, os.fdopen(reading, "rb") as read:
        listener = logs.set_up_logging("info", "json", stream=out, environment={})
        for n in range(5_000):  # far more than a pipe and the queue take; nobody reads
            root.info("line %d %s", n, "x" * 200)
        told = 0
        while not told:
            line = json.loads(read.readline())["message"]
            told = int(line.split()[0]) if "were dropped" in line else 0
            root.info("meanwhile")
        listener.stop()


def test_what_was_logged_is_written_before_the_end(root: logging.Logger) -> None:
    out = io.StringIO()
    listener = logs.set_up_logging("info", "console", numbers="masked", stream=out, environment={})
    root.error("number %s", "+18005550100")
    try:
        raise ValueError("of +18005550100")
    except ValueError:
        root.exception("failed")
    listener.stop()
    assert "number **********00" in out.getvalue()
    assert "ValueError: of **********00" in out.getvalue()


def test_lines_that_come_together_are_written_together_and_never_too_many_at_once(root: logging.Logger) -> None:
    class Counting(io.StringIO):
        writes: ClassVar[list[int]] = []

        def write(self, text: str) -> int:
            self.writes.append(text.count("\n"))
            return super().write(text)

    out = Counting()
    listener = logs.set_up_logging("info", "json", stream=out, environment={})
    for n in range(250):
        root.info("line %d", n)
    listener.stop()
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == [f"line {n}" for n in range(250)]
    assert len(out.writes) < 10
    assert max(out.writes) <= logs.LINES_AT_ONCE


def test_lines_are_written_while_nothing_more_comes(root: logging.Logger) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as out, os.fdopen(reading, "rb") as read:
        listener = logs.set_up_logging("info", "json", stream=out, environment={})
        root.info("alone")
        assert select.select([read], [], [], 10)[0]
        assert json.loads(read.readline())["message"] == "alone"
        listener.stop()
