"""Archives on the command line, exports as files, and CSV that a spreadsheet does not compute."""

from __future__ import annotations

import asyncio
import csv
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capconduit.clock import SystemClock
from capconduit.errors import ExitCode
from capconduit.services.retention import Archive, read_archive
from capconduit.services.stores import open_store
from capconduit_cli.output import Column, Kind, ListOutput, OutputFormat, emit_rows
from capconduit_cli.text import csv_plain, csv_safe, printable
from fastagi.housekeeping import Housekeeping
from tests.cli.estate import contents, database, done, engine, walk
from tests.cli.runner import clean_environment, run

DAY_MS = 86_400_000


@pytest.fixture
def old(home: Path) -> Path:
    """The walk with two calls of a hundred days ago, one of yesterday, and one that is up."""
    walk(home)
    with engine(home, SystemClock().now_ms() - 100 * DAY_MS) as calls:
        for name in ("u1", "u2"):
            calls.arrive(name)
            calls.end(name, answered_for_ms=60_000)
        calls.arrive("up")
        calls.clock.at_ms += 99 * DAY_MS
        calls.arrive("young")
        calls.end("young", answered_for_ms=60_000)
    return home


def uniqueids(home: Path) -> set[str]:
    return {row["uniqueid"] for row in done("cdr", "list", "--json", home=home).json}


def test_records_are_written_and_then_taken_away(old: Path, tmp_path: Path) -> None:
    events = contents(old)["event"]
    told = done("cdr", "prune", "--before", "-1440h", "--export-to", "archive", "--yes", "--json", home=old)
    assert {row["table"]: row["rows"] for row in told.json} == {"attempt": 2, "cdr": 2, "hold": 2}
    [file] = Path("archive").glob("*.jsonl.gz")
    assert f"{file.absolute()}: 2 rows, 0.40 in amounts" in told.err
    rows = list(read_archive(file))
    assert [row["uniqueid"] for row in rows] == ["u1", "u2"]
    assert [row["attempt_list"][0]["target_name"] for row in rows] == ["buyer1", "buyer1"]
    assert uniqueids(old) == {"young"}
    assert contents(old)["event"] == events
    [entry] = done("audit", "list", "--action", "cdr.prune", "--json", home=old).json
    assert (entry["subject"][:7], done("audit", "show", entry["id"], "--json", home=old).json["after"]["cdr"]) == (
        "before ",
        2,
    )
    assert "[audit-not-undoable]" in run("audit", "undo", entry["id"], "--yes", home=old).err
    for noun in ("balance", "cap", "db"):
        assert done(noun, "verify", home=old).out == ""


def test_nothing_is_taken_away_before_it_was_asked_for(old: Path) -> None:
    before = contents(old)
    for argv in (("--before", "-1440h"), ("--before", "-1440h", "--export-to", "archive")):
        asked = run("cdr", "prune", *argv, home=old)
        assert (asked.code, "2 records" in asked.err) == (ExitCode.USAGE, True)
        rehearsed = done("cdr", "prune", *argv, "--dry-run", "--json", home=old)
        assert {row["table"] for row in rehearsed.json} == {"cdr", "attempt", "hold"}
    assert contents(old) == before
    assert not Path("archive").exists()


def test_the_directory_of_the_configuration_is_used_by_db_prune_and_by_the_daemon(old: Path, tmp_path: Path) -> None:
    place = tmp_path / "kept"
    there = {"CAPCONDUIT_DATABASE__ARCHIVE": str(place)}
    for name in ("cdr_keep_days", "event_keep_days"):
        done("setting", "set", name, "45", home=old)
    assert run("db", "prune", home=old, env=there).code == ExitCode.DONE
    assert {file.name.split("-")[0] for file in place.iterdir() if file.suffix == ".gz"} == {"cdr", "event"}
    assert uniqueids(old) == {"young"}

    with engine(old, SystemClock().now_ms() - 90 * DAY_MS) as calls:
        calls.arrive("u3")
        calls.end("u3", answered_for_ms=60_000)
    store = open_store(f"sqlite://{database(old)}")
    house = Housekeeping(store, Archive(place))
    try:
        gone = asyncio.run(house.grow(SystemClock()))
    finally:
        house.close()
        store.close()
    assert gone["cdr"] == 1
    assert uniqueids(old) == {"young"}
    assert {row["uniqueid"] for file in place.glob("cdr-*.gz") for row in read_archive(file)} == {"u1", "u2", "u3"}


def test_a_directory_that_cannot_be_written_deletes_nothing(old: Path) -> None:
    before = contents(old)
    Path("file").write_text("in the way", "utf-8")
    result = run("cdr", "prune", "--before", "-1440h", "--export-to", "file/archive", "--yes", home=old)
    assert (result.code, "[archive-failed]" in result.err) == (ExitCode.REFUSED, True)
    after = contents(old)  # sums for reports may have been brought up to date before
    assert {n: rows for n, rows in after.items() if "rollup" not in n} == {
        n: rows for n, rows in before.items() if "rollup" not in n
    }


# Exports --------------------------------------------------------------------------------------------------------------


def test_an_export_is_of_one_seller_target_and_number(old: Path) -> None:
    for argv in (("--target", "buyer1"), ("--seller", "acme"), ("--did", "+1 800 555 0100"), ("--campaign", "solar")):
        lines = done("cdr", "export", *argv, home=old).out.splitlines()
        assert len(lines) == 1 + 3, argv
    done("target", "add", "buyer2", "--address", "sip:b@127.0.0.1:5081", home=old)
    assert len(done("cdr", "export", "--target", "buyer2", home=old).out.splitlines()) == 1
    assert "did you mean 'buyer1'" in run("cdr", "export", "--target", "buyr1", home=old).err.replace(
        " or 'buyer2'", ""
    )


class Bytes(io.StringIO):
    """A stdout that is a pipe, with the bytes beneath it."""

    def __init__(self) -> None:
        super().__init__()
        self.below = io.BytesIO()

    @property
    def buffer(self) -> io.BytesIO:
        return self.below


@contextmanager
def bytes_of(home: Path) -> Iterator[Bytes]:
    out = Bytes()
    with mock.patch.dict("os.environ", clean_environment(home), clear=True), mock.patch("sys.stdout", out):
        yield out


def test_a_parquet_export_has_typed_columns(old: Path) -> None:
    pytest.importorskip("pyarrow", reason="Parquet is an extra")
    import pyarrow.parquet  # type: ignore[import-not-found,unused-ignore]  # an extra

    from capconduit_cli.__main__ import main

    with bytes_of(old) as out:
        assert main(["cdr", "export", "-o", "parquet"]) == 0
    table = pyarrow.parquet.read_table(io.BytesIO(out.below.getvalue()))
    expected = done("cdr", "list", "--json", home=old).json
    assert table.column_names == list(expected[0])
    rows = table.to_pylist()
    assert [str(row["amount"]) for row in rows] == [row["amount"] for row in expected]
    assert [row["arrived"].isoformat(timespec="milliseconds")[:23] for row in rows] == [
        row["arrived"][:23] for row in expected
    ]


def test_without_its_library_a_parquet_export_is_refused(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    result = run("cdr", "export", "-o", "parquet", home=old)
    assert (result.code, "[parquet-missing]" in result.err, result.out) == (ExitCode.USAGE, True, "")


# CSV ------------------------------------------------------------------------------------------------------------------


def csv_of(*values: str, kind: Kind = Kind.TEXT) -> list[str]:
    out = io.StringIO()
    with mock.patch("sys.stdout", out):
        emit_rows(({"a": value} for value in values), (Column("a", kind),), ListOutput(output=OutputFormat.CSV))
    return [row[0] for row in csv.reader(io.StringIO(out.getvalue()))][1:]


@pytest.mark.parametrize(
    "text",
    ['=HYPERLINK("http://x","y")', "@SUM(1)", "+1+1", "-1-1", "=1", "+cmd|' /C calc'!A0", "'=1", "-", "+", "\t=1"],
)
def test_what_a_spreadsheet_would_compute_is_made_safe(text: str) -> None:
    [written] = csv_of(text)
    assert not written.startswith(("=", "+", "-", "@", "\t"))
    assert csv_plain(written) == printable(text)


@pytest.mark.parametrize("text", ["+18005550100", "-5", "0.20", "-0.200000", "acme", "O'Neill", "'quoted'", "", "a=b"])
def test_numbers_and_harmless_texts_stay_as_they_are(text: str) -> None:
    assert csv_of(text) == [text]


@given(st.text())
def test_what_was_made_safe_is_read_again_as_it_was(text: str) -> None:
    assert csv_plain(csv_safe(text)) == text


def test_names_of_callers_are_made_safe_in_an_export(old: Path) -> None:
    with engine(old) as calls:
        calls.arrive("evil", name="=HYPERLINK(1)")
        calls.end("evil")
    rows = list(csv.DictReader(io.StringIO(done("cdr", "export", home=old).out)))
    assert "'=HYPERLINK(1)" in {row["caller_name"] for row in rows}
    assert {row["did"] for row in rows} == {"+18005550100"}
