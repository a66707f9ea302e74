"""Archives: what is pruned is in files before it goes; interrupted anywhere, nothing is lost and nothing is doubled."""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.model import Attempt, Cdr, Event, Setting
from capconduit.errors import Refused, UsageError
from capconduit.services import growth, retention
from capconduit.services.retention import Archive, ArchiveForm, read_archive
from tests.unit.estate_builder import T0, TENANT, Till, route_of, settle_of

DAY_MS = 86_400_000


@pytest.fixture
def old(shop: Till) -> Till:
    """Calls of two months, a reject, and a call that is up; all of them are over by the settings but the last day's."""
    with shop.store.transaction(write=True) as tx:
        tx.estate_version(for_change=True)
        for name in ("cdr_keep_days", "event_keep_days"):
            tx.insert(Setting(tenant_id=TENANT, name=name, value="45", updated_ms=T0))
        tx.bump_estate()
    for month in range(2):
        for n in range(4):
            shop.dial(route_of(f"u{month}{n}"))
            shop.ask(settle_of(f"u{month}{n}", talk_ms=60_000))
        shop.ask(route_of(f"rejected{month}", dnid="+18005559999"))
        shop.clock.pass_ms(31 * DAY_MS)
    shop.dial(route_of("up"))
    shop.clock.pass_ms(40 * DAY_MS)
    shop.dial(route_of("young"))
    shop.ask(settle_of("young", talk_ms=60_000))
    return shop


def archived(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows in the files, by kind."""
    found: dict[str, list[dict[str, Any]]] = {"cdr": [], "event": []}
    for file in sorted([*directory.glob("*.gz"), *directory.glob("*.parquet")]):
        found[file.name.split("-")[0]] += read_archive(file)
    return found


def kept(till: Till) -> dict[str, list[dict[str, Any]]]:
    """The same rows as the database has them."""
    tries = till.rows(Attempt)
    return {
        "cdr": [
            json.loads(json.dumps(asdict(c) | {"attempt_list": [asdict(a) for a in tries if a.call_id == c.call_id]}))
            for c in till.rows(Cdr)
        ],
        "event": [json.loads(json.dumps(asdict(e))) for e in till.rows(Event)],
    }


def prune(till: Till, directory: Path, form: ArchiveForm = ArchiveForm.JSONL) -> list[growth.Pruned]:
    return list(growth.prune(till.store, till.clock, archive=Archive(directory, form)))


def everywhere(till: Till, directory: Path) -> Tally[str]:
    """How often each row is in a file or, where it is in none, in the database."""
    files, rows = archived(directory), kept(till)
    keys = Tally(str(r["call_id"]) for r in files["cdr"]) + Tally(str(r["id"]) for r in files["event"])
    for one in [*(str(r["call_id"]) for r in rows["cdr"]), *(str(r["id"]) for r in rows["event"])]:
        keys[one] = keys[one] or 1
    return keys


def test_what_goes_is_in_the_files_as_it_was_kept_and_the_rest_stays(old: Till, tmp_path: Path) -> None:
    before = kept(old)
    prune(old, tmp_path / "archive")
    files, left = archived(tmp_path / "archive"), kept(old)
    for kind, key in (("cdr", "call_id"), ("event", "id")):
        together = sorted([*files[kind], *left[kind]], key=lambda row: str(row[key]))
        assert together == before[kind]
        assert files[kind]
    assert {row["uniqueid"] for row in left["cdr"]} == {"young"}
    assert all(row["attempt_list"] for row in files["cdr"] if row["target"])
    assert [p for p in (tmp_path / "archive").iterdir() if p.suffix == ".part"] == []
    assert {(p.stat().st_mode & 0o777) for p in (tmp_path / "archive").iterdir()} == {0o600}


def test_files_are_one_for_each_month_and_a_second_run_adds_none(old: Till, tmp_path: Path) -> None:
    told = [step.file for step in prune(old, tmp_path) if step.file]
    assert all(file.rows for file in told)
    assert sum(file.amount_micros for file in told) == sum(row["amount_micros"] for row in archived(tmp_path)["cdr"])
    names = sorted(p.name for p in tmp_path.glob("cdr-*"))
    assert len(names) == 2
    assert all(name.startswith("cdr-default-20") and name.endswith(".jsonl.gz") for name in names)
    assert prune(old, tmp_path) == []
    assert sorted(p.name for p in tmp_path.glob("cdr-*")) == names


class Killed(BaseException):
    """Ends a run like a signal does."""


def _dying(monkeypatch: pytest.MonkeyPatch, where: str, after: int) -> None:
    """The call number `after` of a step ends the run before it does anything."""
    owner, name = {
        "write": (retention._JsonLines, "write"),
        "close": (retention._JsonLines, "close"),
        "name": (retention._Writing, "_name"),
        "fsync": (os, "fsync"),
        "drop": (growth, "drop"),
    }[where]
    real, calls = getattr(owner, name), iter(range(10_000))

    def dies(*args: Any, **more: Any) -> Any:
        if next(calls) == after:
            raise Killed
        return real(*args, **more)

    monkeypatch.setattr(owner, name, dies)


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("where", ["write", "close", "fsync", "name", "drop"])
def test_interrupted_at_any_step_nothing_is_lost_or_doubled(
    old: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, after: int
) -> None:
    monkeypatch.setattr(growth, "CALLS_AT_ONCE", 2)
    before = everywhere(old, tmp_path)
    with monkeypatch.context() as patch:
        _dying(patch, where, after)
        with pytest.raises(Killed):
            prune(old, tmp_path)
    assert everywhere(old, tmp_path) == before
    prune(old, tmp_path)
    assert everywhere(old, tmp_path) == before
    assert {row["uniqueid"] for row in kept(old)["cdr"]} == {"young"}


def test_a_file_that_reads_back_as_something_else_deletes_nothing(
    old: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept(old)
    real = retention._lines

    def damaged(file: Path, form: ArchiveForm) -> Iterator[str]:
        yield from list(real(file, form))[:-1]

    monkeypatch.setattr(retention, "_lines", damaged)
    with pytest.raises(Refused) as caught:
        prune(old, tmp_path)
    assert caught.value.slug == "archive-damaged"
    assert kept(old) == before


def test_a_full_disk_deletes_nothing(old: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kept(old)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(retention._JsonLines, "write", full)
    with pytest.raises(Refused) as caught:
        prune(old, tmp_path)
    assert (caught.value.slug, "No space left" in caught.value.message) == ("archive-failed", True)
    assert kept(old) == before


def test_the_archive_of_another_installation_is_not_mixed_with(old: Till, tmp_path: Path) -> None:
    prune(old, tmp_path)
    [first, *_] = sorted(tmp_path.glob("cdr-*"))
    rows = list(read_archive(first))
    with old.store.transaction(write=True) as tx:
        tx.insert(Cdr(**{k: v for k, v in rows[0].items() if k != "attempt_list"} | {"talk_ms": 1}))
    with pytest.raises(Refused, match="differs"):
        prune(old, tmp_path)
    assert any(cdr.call_id == rows[0]["call_id"] for cdr in old.rows(Cdr))


def test_a_row_that_comes_late_goes_into_a_second_file_of_its_month(old: Till, tmp_path: Path) -> None:
    prune(old, tmp_path)
    [first, *_] = sorted(tmp_path.glob("cdr-*"))
    late = dict(next(read_archive(first))) | {"call_id": next(read_archive(first))["call_id"][:-1] + "Z"}
    late.pop("attempt_list")
    with old.store.transaction(write=True) as tx:
        tx.insert(Cdr(**late | {"amount_micros": 0}))
    prune(old, tmp_path)
    second = tmp_path / first.name.replace(".jsonl.gz", ".2.jsonl.gz")
    assert [row["call_id"] for row in read_archive(second)] == [late["call_id"]]


def _reads(patch: pytest.MonkeyPatch) -> Tally[str]:
    """Rows read from whole files, by their names, from now on."""
    found: Tally[str] = Tally()
    real = retention._lines

    def counting(file: Path, form: ArchiveForm) -> Iterator[str]:
        for line in real(file, form):
            if file.suffix != ".part":
                found[file.name] += 1
            yield line

    patch.setattr(retention, "_lines", counting)
    return found


def test_the_files_of_a_month_are_not_read_again_for_each_that_follows(
    old: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FILE_ROWS", 2)
    archive, read = Archive(tmp_path), _reads(monkeypatch)
    before = kept(old)
    list(growth.prune(old.store, old.clock, archive=archive))
    files = sorted(tmp_path.glob("*.gz"))
    assert len(files) > 6
    assert not read  # of this very run: its rows do not come again
    rows = {file: list(read_archive(file)) for file in files}
    read.clear()

    first = min(files, key=lambda file: str(rows[file][0].get("call_id", "z")))
    late = dict(rows[first][-1]) | {"call_id": rows[first][-1]["call_id"][:-1] + "Z", "amount_micros": 0}
    late.pop("attempt_list")
    with old.store.transaction(write=True) as tx:
        tx.insert(Cdr(**late))
    list(growth.prune(old.store, old.clock, archive=archive))
    month = first.name.removesuffix(".jsonl.gz")
    after = {f.name: len(rows[f]) for f in files if f != first and f.name.startswith(month)}
    assert after
    assert read == after  # which may have it; once, and not the one that ends before it
    read.clear()

    with old.store.transaction(write=True) as tx:
        tx.insert(Cdr(**late | {"call_id": late["call_id"][:-1] + "Y"}))
    monkeypatch.setattr(retention, "READ_AT_ONCE", 1)
    steps = list(growth.prune(old.store, old.clock, archive=Archive(tmp_path)))
    assert set(read.values()) <= {1, 2}
    assert read.total() == sum(len(rows[f]) for f in files if f.name.startswith(month)) + 1
    assert len([step for step in steps if step.rows == 0 and step.file is None]) >= read.total()  # occasions to rest
    assert sum(tally for tally in everywhere(old, tmp_path).values()) == len(before["cdr"]) + len(before["event"]) + 2


def test_rows_that_come_back_with_a_backup_are_not_archived_twice(
    old: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FILE_ROWS", 1)
    archive = Archive(tmp_path)
    list(growth.prune(old.store, old.clock, archive=archive))
    names = {file.name for file in tmp_path.glob("*.gz")}
    for again in (archive, Archive(tmp_path)):
        with old.store.transaction(write=True) as tx:
            for row in archived(tmp_path)["cdr"]:
                tries = row.pop("attempt_list")
                tx.insert(Cdr(**row))
                tx.insert_all([Attempt(**one) for one in tries])
        list(growth.prune(old.store, old.clock, archive=again))
        assert {file.name for file in tmp_path.glob("*.gz")} == names
        assert {row["uniqueid"] for row in kept(old)["cdr"]} == {"young"}


def test_what_an_interruption_left_is_cleared_away_and_what_is_somebody_elses_is_not(old: Till, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "cdr-default-2026-06.4711.part", tmp_path / "debian.iso.part"
    for file in (ours, theirs):
        file.write_bytes(b"half")
    prune(old, tmp_path)
    assert (ours.exists(), theirs.exists()) == (False, True)


def test_two_do_not_archive_into_one_directory_at_once(old: Till, tmp_path: Path) -> None:
    before = kept(old)
    with Archive(tmp_path).open(), pytest.raises(Refused) as caught:
        prune(old, tmp_path)
    assert caught.value.slug == "archive-busy"
    assert kept(old) == before


def test_the_same_rows_make_the_same_bytes(old: Till, tmp_path: Path) -> None:
    prune(old, tmp_path)
    for file in tmp_path.glob("*.gz"):
        raw = file.read_bytes()
        assert gzip.compress(gzip.decompress(raw), mtime=0)[4:8] == raw[4:8] == b"\0\0\0\0"


def test_months_that_go_as_a_whole_are_archived_first(old: Till, tmp_path: Path) -> None:
    old.store.ensure_partitions(T0)  # the months of the calls, where months have tables of their own
    before, now = kept(old), old.clock.now_ms()
    steps = list(growth.prune(old.store, old.clock, exact=False, archive=Archive(tmp_path)))
    files, left = archived(tmp_path), kept(old)
    for kind, key in (("cdr", "call_id"), ("event", "id")):
        assert sorted([*files[kind], *left[kind]], key=lambda row: str(row[key])) == before[kind]
    assert files["cdr"]
    dropped = {step.table for step in steps if step.rows is None}
    assert bool(dropped) == old.store.monthly
    assert old.clock.now_ms() == now


def test_a_month_with_rows_that_no_archive_has_is_not_dropped(
    old: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.store.ensure_partitions(T0)
    before = kept(old)
    monkeypatch.setattr(growth, "_archive", lambda *_: iter(()))  # as if all of them had come just now
    steps = list(growth.prune(old.store, old.clock, exact=False, archive=Archive(tmp_path)))
    assert not [step for step in steps if step.rows is None]
    assert kept(old)["cdr"] == before["cdr"]
    assert kept(old)["event"] == before["event"]


def test_records_of_one_tenant_go_without_events(old: Till, tmp_path: Path) -> None:
    events = old.rows(Event)
    steps = list(growth.prune_records(old.store, old.clock, "default", archive=Archive(tmp_path)))
    assert {step.table for step in steps} == {"cdr", "attempt", "hold"}
    assert old.rows(Event) == events
    assert archived(tmp_path)["event"] == []
    assert [cdr.uniqueid for cdr in old.rows(Cdr)] == ["young"]
    with pytest.raises(Refused):
        list(growth.prune_records(old.store, old.clock, "defalt"))


def test_parquet_has_the_same_rows(old: Till, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="Parquet is an extra")
    before = kept(old)
    prune(old, tmp_path, ArchiveForm.PARQUET)
    files, left = archived(tmp_path), kept(old)
    assert sorted([*files["cdr"], *left["cdr"]], key=lambda row: str(row["call_id"])) == before["cdr"]


def test_without_its_library_parquet_is_refused_before_anything_is_done(
    old: Till, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept(old)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError) as caught:
        prune(old, tmp_path / "archive", ArchiveForm.PARQUET)
    assert (caught.value.slug, "capconduit[parquet]" in caught.value.hint) == ("parquet-missing", True)
    assert kept(old) == before
    assert not (tmp_path / "archive").exists()
