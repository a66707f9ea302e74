"""Rows that are found by pairs: whatever stands in a pair, and only those rows are looked at."""

from __future__ import annotations

import itertools
from pathlib import Path

from capconduit.domain.books import Books
from capconduit.domain.model import Counter, Tombstone
from capconduit.store.sqlstore import SqlStore
from tests.store_contract.conftest import Opener
from tests.unit.estate_builder import T0

ODD = ("", "a", '"', "\\", "a\nb", "\t\x01", "é", "\u2028", "😀", "'", "[1]", '{"a":1}', "null", "1")


def test_every_text_that_can_be_kept_is_found_in_a_pair(store: SqlStore) -> None:
    known = [(node, uniqueid) for node, uniqueid in itertools.product(ODD, ODD) if node != uniqueid]
    with store.transaction(write=True) as tx:
        tx.insert_all([Tombstone(node=node, uniqueid=uniqueid, created_ms=T0) for node, uniqueid in known])
    books = Books()
    with store.transaction(write=False) as tx:
        tx.lock_calls(list(itertools.product(ODD, ODD)), books)
    assert books.buried == set(known)


def test_several_windows_of_one_cap_are_found_at_once(store: SqlStore) -> None:
    counters = [
        Counter(tenant_id="T", cap_id=cap, window_start_ms=start_ms, used=0, in_flight=0, base=0)
        for cap in ("a", "b")
        for start_ms in range(5)
    ]
    with store.transaction(write=True) as tx:
        tx.insert_all(counters)
    books = Books()
    with store.transaction(write=True) as tx:
        tx.lock_counters({("a", 1): "T", ("a", 3): "T", ("b", 4): "T"}, books)
    assert set(books.counters) == {("a", 1), ("a", 3), ("b", 4)}


def test_sqlite_searches_a_counter_by_its_whole_key(opened: Opener, tmp_path: Path) -> None:
    """A cap has a counter for each of its windows, thousands after a year: the others are not looked at."""
    store = opened(f"sqlite:///{tmp_path}/store.sqlite")
    store.upgrade(T0)
    with store.transaction(write=False) as tx:
        where, keys = tx._db.any_pair(("cap_id", "window_start_ms"), "keys"), tx._db.pair_values("keys", [("a", 1)])
        plan = tx.query(f"EXPLAIN QUERY PLAN SELECT * FROM counter WHERE {where}", keys)
    assert any("(cap_id=? AND window_start_ms=?)" in row[3] for row in plan), plan
