"""Many deliveries: whatever is done to all of them is done in steps, and each step touches only what it changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.deliveries import Delivery, Lane
from capconduit.domain.model import Audit
from capconduit.errors import DatabaseError
from capconduit.services import outbox, webhooks
from capconduit.services.notifications import add_rule, remove_rule
from capconduit.services.outbox import forget
from capconduit.services.settings import set_setting
from capconduit.services.webhooks import remove_webhook, retry_webhook, show_webhook
from capconduit.store.open import open_store
from capconduit.store.sqlite import SqliteDialect
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import DeliveryState, NoticeChannel
from tests.outward.rig import OutwardRig

URL = "http://127.0.0.1:9/hook"
AT_ONCE = 2
DAY_MS = 86_400_000
Said = list[tuple[str, Mapping[str, Any]]]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "RETRIED_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(webhooks, "FORGOTTEN_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(outbox, "FORGOTTEN_AT_ONCE", AT_ONCE)
    monkeypatch.setattr(webhooks, "REST_S", 0)


def filled(rig: OutwardRig, receiver_id: str, lanes: int, state: DeliveryState = DeliveryState.PARKED) -> None:
    """So many lanes of a receiver with one delivery in `state` each, and one that waits behind it."""
    now_ms = rig.clock.now_ms()
    rows: list[object] = []
    for lane in (f"lane{number}" for number in range(lanes)):
        rows.append(
            Lane(
                receiver_id=receiver_id, lane=lane, tenant_id=rig.tenant_id, due_ms=now_ms + DAY_MS, owner="", tries=15,
                state=state, error="HTTP 500",
            )
        )  # fmt: skip
        rows += [
            Delivery(
                receiver_id=receiver_id, event_id=rig.clock.new_id(), tenant_id=rig.tenant_id, lane=lane,
                position=number, kind="call.ended", state=each, tries=15, made_ms=now_ms, done_ms=now_ms, answer="",
            )
            for number, each in enumerate((state, DeliveryState.WAITING))
        ]  # fmt: skip
    with rig.store.transaction(write=True) as tx:
        for row in rows:
            tx.insert(row)


def lanes_of(rig: OutwardRig) -> Sequence[Lane]:
    with rig.store.transaction(write=False) as tx:
        return tx.rows(Lane, rig.tenant_id)


def after_each_commit(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch, look: Callable[[], int]
) -> tuple[list[int], Callable[[], None]]:
    """What `look` finds after every transaction that writes from now on, and how to end that."""
    found: list[int] = []
    run = store.run

    def told(work: Callable[[Any], Any], **more: Any) -> Any:
        try:
            return run(work, **more)
        finally:
            found.append(look())

    monkeypatch.setattr(store, "run", told)
    return found, lambda: monkeypatch.setattr(store, "run", run)


def test_many_parked_lanes_are_retried_in_several_transactions(
    rig: OutwardRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(rig, rig.hook(URL), 5)
    parked, done = after_each_commit(rig.store, monkeypatch, lambda: len(rig.deliveries(state="parked")))
    rig.office.dry_run = True
    assert retry_webhook(rig.office, "hook") == 5
    assert parked == [5, 5, 5]
    rig.office.dry_run = False
    assert retry_webhook(rig.office, "hook") == 5
    done()
    assert parked == [5, 5, 5, 3, 1, 0]
    view = show_webhook(rig.office, "hook")
    assert (view.waiting, view.parked) == (10, 0)
    assert {(lane.state, lane.tries) for lane in lanes_of(rig)} == {(DeliveryState.WAITING, 0)}
    assert all(lane.due_ms <= rig.clock.now_ms() for lane in lanes_of(rig))
    with rig.store.transaction(write=False) as tx:
        assert len(tx.rows(Audit, rig.tenant_id, action="webhook.retry")) == 3


def test_of_one_event_its_lane_alone_is_retried(rig: OutwardRig) -> None:
    filled(rig, rig.hook(URL), 5)
    chosen = rig.deliveries(state="parked")[2]
    assert retry_webhook(rig.office, "hook", event_id=chosen.event_id) == 1
    assert [lane.lane for lane in lanes_of(rig) if lane.state is DeliveryState.WAITING] == [chosen.lane]
    assert len(rig.deliveries(state="parked")) == 4


@pytest.mark.parametrize("what", ["webhook", "rule"])
def test_a_receiver_goes_with_its_lanes_at_once_and_its_deliveries_in_steps(
    rig: OutwardRig, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    other = rig.hook(URL, "other")
    filled(rig, other, 1)
    if what == "webhook":
        receiver_id = rig.hook(URL)
    else:
        rule = add_rule(rig.office, "ops", kinds=["*"], channel=NoticeChannel.WEBHOOK, to=URL, secrets=["env:S"]).rule
        receiver_id = rule.id

    def remove() -> None:
        if what == "webhook":
            remove_webhook(rig.office, "hook")
        else:
            remove_rule(rig.office, "ops")

    filled(rig, receiver_id, 3)
    left, done = after_each_commit(rig.store, monkeypatch, lambda: len(rig.deliveries(receiver_id=receiver_id)))
    rig.office.dry_run = True
    remove()
    assert left == [6]
    assert len(lanes_of(rig)) == 4
    rig.office.dry_run = False
    remove()
    done()
    assert left == [6, 6, 4, 2, 0, 0]  # after the rehearsal, the removal, and each step
    assert {lane.receiver_id for lane in lanes_of(rig)} == {other}
    assert len(rig.deliveries()) == 2


def test_what_a_removal_left_the_daemon_takes_away(rig: OutwardRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what was given out to it by somebody who had read, before it went, that it is there."""
    other = rig.hook(URL, "other")
    filled(rig, other, 1)
    gone = {name: rig.hook(URL, name) for name in ("hook", "hook2")}
    for receiver_id in gone.values():
        filled(rig, receiver_id, 2)
    run, runs = rig.store.run, 0

    def fails(work: Callable[[Any], Any], **more: Any) -> Any:
        nonlocal runs
        runs += 1
        if runs % 2 == 0:
            raise DatabaseError("database-busy", "somebody else", "try again")
        return run(work, **more)

    monkeypatch.setattr(rig.store, "run", fails)
    for name in gone:
        remove_webhook(rig.office, name)
    monkeypatch.setattr(rig.store, "run", run)
    assert len(rig.deliveries()) == 10
    late = rig.deliveries(receiver_id=gone["hook"])[0]
    rig.store.run(lambda tx: tx.outward.add([late]))
    steps = []
    while went := forget(rig.store, rig.clock):
        steps.append(went)
    assert steps == [{"removed": 2}] * 4
    assert {d.receiver_id for d in rig.deliveries()} == {lane.receiver_id for lane in lanes_of(rig)} == {other}


# --- how SQLite goes about it -----------------------------------------------------------------------------------------


@pytest.fixture
def sqlite_rig(tmp_path: Path) -> OutwardRig:
    return OutwardRig(open_store(f"sqlite:///{tmp_path}/store.sqlite", create=True))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    """Every statement on deliveries, lanes and the outbox, with its values, and each run of a written one."""
    heard: Said = []
    query, many = SqliteDialect.query, SqliteDialect.many

    def tell_query(self: SqliteDialect, sql: str, values: Mapping[str, Any]) -> list[Any]:
        heard.append((sql, values))
        return query(self, sql, values)

    def tell_many(self: SqliteDialect, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        heard.append((re.sub(r"\?", "''", sql), {}))
        many(self, sql, rows)

    monkeypatch.setattr(SqliteDialect, "query", tell_query)
    monkeypatch.setattr(SqliteDialect, "many", tell_many)
    return heard


def plans(rig: OutwardRig, said: Said, begin: str) -> list[list[str]]:
    """How each statement that begins so is carried out."""
    chosen = [one for one in said if one[0].startswith(begin)]
    with rig.store.transaction(write=False) as tx:
        return [[str(row[3]) for row in tx.query(f"EXPLAIN QUERY PLAN {sql}", values)] for sql, values in chosen]


def test_a_retry_says_as_much_for_many_lanes_as_for_one(
    sqlite_rig: OutwardRig, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "RETRIED_AT_ONCE", 500)
    counts = []
    for lanes in (1, 40):
        filled(sqlite_rig, sqlite_rig.hook(URL, f"hook{lanes}"), lanes)
        said.clear()
        assert retry_webhook(sqlite_rig.office, f"hook{lanes}") == lanes
        counts.append(len(said))
    assert counts[0] == counts[1]
    key = "SEARCH delivery USING PRIMARY KEY (receiver_id=? AND event_id=?)"
    assert plans(sqlite_rig, said, "UPDATE delivery") == [[key]]
    (found, *_) = plans(sqlite_rig, said, "SELECT event_id, lane FROM delivery")
    assert "delivery_lane (receiver_id=? AND state=? AND lane>? AND lane<?)" in found[0]
    assert plans(sqlite_rig, said, "SELECT lane FROM lane") == [
        ["SEARCH lane USING PRIMARY KEY (receiver_id=? AND lane>?)"]
    ]


def test_forgetting_walks_only_what_is_old(sqlite_rig: OutwardRig, said: Said) -> None:
    filled(sqlite_rig, sqlite_rig.hook(URL), 2)
    set_setting(sqlite_rig.office, "webhook_keep_days", "1")
    said.clear()
    forget(sqlite_rig.store, sqlite_rig.clock)
    (plan,) = plans(sqlite_rig, said, "DELETE FROM delivery")
    walks = [step for step in plan if "delivery_made" in step]
    assert walks
    assert all("(tenant_id=? AND made_ms<?)" in step for step in walks)
    assert not [step for step in plan if step.startswith("SCAN delivery")]


def test_the_first_of_the_outbox_are_found_without_sorting_all(sqlite_rig: OutwardRig, said: Said) -> None:
    with sqlite_rig.store.transaction(write=False) as tx:
        tx.outward.outbox(10)
    (plan,) = plans(sqlite_rig, said, "SELECT event_id, position FROM outbox")
    assert plan == ["SCAN outbox USING COVERING INDEX outbox_position"]


def test_what_is_left_of_a_removed_receiver_is_found_by_its_key(sqlite_rig: OutwardRig, said: Said) -> None:
    filled(sqlite_rig, sqlite_rig.hook(URL), 3)
    said.clear()
    remove_webhook(sqlite_rig.office, "hook")
    for plan in plans(sqlite_rig, said, "SELECT event_id FROM delivery"):
        assert plan == ["SEARCH delivery USING PRIMARY KEY (receiver_id=?)"]
    with sqlite_rig.store.transaction(write=False) as tx:
        tx.outward.removed()
    (plan,) = plans(sqlite_rig, said, "WITH RECURSIVE receiver")
    on_deliveries = [step for step in plan if "delivery" in step]
    assert on_deliveries
    assert all(step.startswith("SEARCH delivery") for step in on_deliveries)
