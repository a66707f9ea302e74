"""The outbox and its lanes on both engines: nothing is noted for nobody, nothing is lost, nothing is in two hands."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.deliveries import Outbox
from capconduit.domain.model import Event
from capconduit.services import sellers
from capconduit.services.notifications import (
    add_rule,
    list_notifications,
    read_notifications,
    remove_rule,
    unread_counts,
)
from capconduit.services.outbox import Done, claim, forget, give_out, receivers_of, record
from capconduit.services.settings import set_setting
from capconduit.services.webhooks import list_webhooks, remove_webhook, retry_webhook, set_webhook
from capconduit.store.copying import copy_everything
from capconduit.store.open import open_store
from capconduit.store.sqlite import SqliteDialect
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import DeliveryState, EventKind, ReceiverStatus
from tests.outward.receiver import Deadline, LoopbackReceiver
from tests.outward.rig import QUICK, OutwardRig, working
from tests.store_contract.conftest import Opener, PostgresServer
from tests.unit.estate_builder import Till, answer_of, route_of, settle_of, small_estate
from tests.unit.test_house import NOT_A_TENANT_S, names_its_tenant, tables_of

URL = "http://127.0.0.1:9/hook"


def noted(rig: OutwardRig) -> list[str]:
    """Ids in the outbox, in its order."""
    with rig.store.transaction(write=False) as tx:
        return list(tx.outward.outbox(1_000))


def given_out(rig: OutwardRig) -> None:
    while noted(rig):
        rig.store.run(lambda tx: give_out(tx, rig.clock.now_ms(), rig.clock.new_id))


def test_where_nobody_wants_events_nothing_is_noted(rig: OutwardRig) -> None:
    rig.happen(EventKind.CALL_STARTED, "call1")
    assert noted(rig) == []
    rig.hook(URL)
    first = rig.happen(EventKind.CALL_ANSWERED, "call1")
    assert noted(rig) == [first.id]
    remove_webhook(rig.office, "hook")
    rig.happen(EventKind.CALL_ENDED, "call1")
    assert noted(rig) == [first.id]
    given_out(rig)
    assert rig.deliveries() == []


def test_decisions_note_what_they_tell_in_its_order(store: SqlStore) -> None:
    """Through the engine, as calls do; `settle` tells several things in one transaction."""
    till = Till(store, small_estate())
    till.ask(route_of("before"))
    rig = OutwardRig(store)
    with store.transaction(write=False) as tx:
        rig.office.tenant = tx.tenants()[0].name
    rig.hook(URL)
    with store.transaction(write=False) as tx:
        before = {row[0] for row in tx.query("SELECT id FROM event")}
    for command in (route_of("u1"), answer_of("u1"), settle_of("u1", talk_ms=70_000)):
        till.ask(command)
        till.clock.pass_ms(10)
    with store.transaction(write=False) as tx:
        told = {row[0] for row in tx.query("SELECT id FROM event")} - before
        ids = list(tx.outward.outbox(100))
        kinds = {found.id: found.kind for found in tx.outward.events(ids)}
    assert set(ids) == told
    named = [kinds[id_] for id_ in ids]
    life = [EventKind.CALL_STARTED, EventKind.CALL_ANSWERED, EventKind.CALL_ENDED]
    assert [kind for kind in named if kind in life] == life


def test_an_event_that_is_rolled_back_goes_nowhere(rig: OutwardRig) -> None:
    rig.hook(URL)

    class Oops(Exception):
        pass

    def fail(tx: object) -> None:
        rig_event = Event(
            id=rig.clock.new_id(), tenant_id=rig.tenant_id, at_ms=1, kind=EventKind.CALL_ENDED, subject="c", data="{}"
        )
        tx.insert(rig_event)  # type: ignore[attr-defined]
        raise Oops

    with pytest.raises(Oops):
        rig.store.run(fail)
    assert noted(rig) == []


@pytest.mark.postgres
def test_an_event_that_is_committed_late_is_not_lost(
    postgres_server: PostgresServer, postgres_url: str, opened: Opener
) -> None:
    """One with an older id is still under way while younger ones are given out already."""
    rig = OutwardRig(opened(postgres_url))
    rig.hook(URL)
    other = OutwardRig(opened(postgres_url))
    begun, go_on = threading.Event(), threading.Event()

    def late() -> None:
        with other.store.transaction(write=True) as tx:
            tx.insert(
                Event(
                    id=rig.clock.new_id(), tenant_id=rig.tenant_id, at_ms=rig.clock.now_ms(), kind=EventKind.CALL_ENDED,
                    subject="late", data="{}",
                )
            )  # fmt: skip
            begun.set()
            assert go_on.wait(20)

    thread = threading.Thread(target=late)
    thread.start()
    assert begun.wait(20)
    rig.happen(EventKind.CALL_ENDED, "early")
    given_out(rig)
    assert [d.lane for d in rig.deliveries()] == ["early"]
    go_on.set()
    thread.join(20)
    given_out(rig)
    assert sorted(d.lane for d in rig.deliveries()) == ["early", "late"]


def test_a_lane_is_in_one_hand_and_its_results_count_only_there(rig: OutwardRig) -> None:
    rig.hook(URL)
    rig.happen(EventKind.CALL_STARTED, "call1")
    rig.happen(EventKind.CALL_ENDED, "call1")
    rig.happen(EventKind.CALL_STARTED, "call2")
    given_out(rig)
    with rig.store.transaction(write=False) as tx:
        (receiver,) = receivers_of(tx).values()
    now_ms = rig.clock.now_ms()
    mine = rig.store.run(lambda tx: claim(tx, [(receiver, 10)], "a 1", now_ms))
    assert sorted((w.lane.lane, len(w.parcels)) for w in mine) == [("call1", 2), ("call2", 1)]
    assert rig.store.run(lambda tx: claim(tx, [(receiver, 10)], "b 1", now_ms)) == []
    theirs = rig.store.run(lambda tx: claim(tx, [(receiver, 10)], "b 1", now_ms + 60_000))  # the lease has run out
    assert len(theirs) == 2
    done = [Done(w.lane, [p.delivery for p in w.parcels]) for w in mine]
    assert rig.store.run(lambda tx: record(tx, done, "a 1", now_ms, rig.clock.new_id, {})) == 2
    assert {d.state for d in rig.deliveries()} == {DeliveryState.WAITING}


def test_what_comes_while_a_lane_ends_is_not_forgotten(rig: OutwardRig) -> None:
    rig.hook(URL)
    rig.happen(EventKind.CALL_STARTED, "call1")
    given_out(rig)
    with rig.store.transaction(write=False) as tx:
        (receiver,) = receivers_of(tx).values()
    now_ms = rig.clock.now_ms()
    (work,) = rig.store.run(lambda tx: claim(tx, [(receiver, 1)], "a 1", now_ms))
    rig.happen(EventKind.CALL_ENDED, "call1")
    given_out(rig)
    done = [Done(work.lane, [replace(p.delivery, state=DeliveryState.DELIVERED) for p in work.parcels])]
    rig.store.run(lambda tx: record(tx, done, "a 1", now_ms, rig.clock.new_id, {}))
    (more,) = rig.store.run(lambda tx: claim(tx, [(receiver, 1)], "a 1", rig.clock.now_ms()))
    assert [p.message["kind"] for p in more.parcels] == ["call.ended"]


def test_a_node_that_comes_back_takes_up_what_it_had(rig: OutwardRig) -> None:
    rig.hook(URL)
    rig.happen(EventKind.CALL_STARTED, "call1")
    given_out(rig)
    with rig.store.transaction(write=False) as tx:
        (receiver,) = receivers_of(tx).values()
    now_ms = rig.clock.now_ms()
    rig.store.run(lambda tx: claim(tx, [(receiver, 1)], "n1 old", now_ms))
    assert rig.store.run(lambda tx: tx.outward.release("n", "n new", now_ms)) == 0
    assert rig.store.run(lambda tx: tx.outward.release("n1", "n1 new", now_ms)) == 1
    assert len(rig.store.run(lambda tx: claim(tx, [(receiver, 1)], "n1 new", now_ms))) == 1


def test_a_paused_webhook_keeps_what_happens(rig: OutwardRig) -> None:
    rig.hook(URL)
    set_webhook(rig.office, "hook", status=ReceiverStatus.PAUSED)
    rig.happen(EventKind.CALL_STARTED, "call1")
    given_out(rig)
    assert [d.state for d in rig.deliveries()] == [DeliveryState.WAITING]
    with rig.store.transaction(write=False) as tx:
        assert [receiver.active for receiver in receivers_of(tx).values()] == [False]


def test_what_is_older_than_it_is_kept_goes(rig: OutwardRig) -> None:
    rig.hook(URL)
    rig.happen(EventKind.CALL_STARTED, "call1")
    given_out(rig)
    assert forget(rig.store, rig.clock) == {}
    set_setting(rig.office, "webhook_keep_days", "1")
    later = rig.clock.now_ms() + 86_400_001

    class Later:
        now_ms = staticmethod(lambda: later)

    assert forget(rig.store, Later()) == {"waiting": 1}  # type: ignore[arg-type]
    assert rig.deliveries() == []
    with rig.store.transaction(write=False) as tx:
        assert tx.query("SELECT count(*) FROM lane")[0][0] == 0
    assert forget(rig.store, Later()) == {}  # type: ignore[arg-type]


def test_an_outbox_row_whose_event_was_pruned_goes_out_of_the_way(rig: OutwardRig) -> None:
    rig.hook(URL)
    rig.store.run(lambda tx: tx.insert(Outbox(event_id="gone", tenant_id=rig.tenant_id, position=1)))
    event = rig.happen(EventKind.CALL_STARTED, "call1")
    given_out(rig)
    assert [d.event_id for d in rig.deliveries()] == [event.id]


def test_what_is_in_hand_is_kept_and_nothing_else(rig: OutwardRig) -> None:
    rig.hook(URL)
    for call in ("call1", "call2"):
        rig.happen(EventKind.CALL_STARTED, call)
    given_out(rig)
    with rig.store.transaction(write=False) as tx:
        (receiver,) = receivers_of(tx).values()
    now_ms = rig.clock.now_ms()
    rig.store.run(lambda tx: claim(tx, [(receiver, 2)], "a 1", now_ms, 1_000))
    keys = [(receiver.id, "call1"), (receiver.id, "call3")]
    assert rig.store.run(lambda tx: tx.outward.renew(keys, "b 1", now_ms + 9_000)) == 0
    assert rig.store.run(lambda tx: tx.outward.renew(keys, "a 1", now_ms + 9_000)) == 1
    assert rig.store.run(lambda tx: tx.outward.renew([], "a 1", now_ms + 9_000)) == 0
    (free,) = rig.store.run(lambda tx: claim(tx, [(receiver, 2)], "b 1", now_ms + 2_000))
    assert free.lane.lane == "call2"


def test_every_statement_names_its_tenant_or_says_that_it_serves_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: set[str] = set()
    query, many = SqliteDialect.query, SqliteDialect.many

    def tell_query(self: SqliteDialect, sql: str, values: Mapping[str, Any]) -> list[Any]:
        heard.add(sql)
        return query(self, sql, values)

    def tell_many(self: SqliteDialect, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        heard.add(sql)
        many(self, sql, rows)

    rig = OutwardRig(open_store(f"sqlite:///{tmp_path}/store.sqlite", create=True))
    monkeypatch.setattr(SqliteDialect, "query", tell_query)
    monkeypatch.setattr(SqliteDialect, "many", tell_many)
    answers = iter(["500", "500"])
    with LoopbackReceiver(lambda _: next(answers, "ok")) as receiver:
        rig.hook(receiver.url)
        add_rule(rig.office, "ops", kinds=["*"])
        sellers.add_seller(rig.office, "acme", low_balance_micros=5)
        rig.calls(3)
        with working(rig.worker(patience=replace(QUICK, tries=1))):
            Deadline().until(lambda: len(rig.deliveries(state="parked")) == 2)
            Deadline().until(lambda: list_notifications(rig.office))
            retry_webhook(rig.office, "hook", event_id=rig.deliveries(state="parked")[0].event_id)
            retry_webhook(rig.office, "hook")
            Deadline().until(lambda: rig.left() == (0, 0))
    list_webhooks(rig.office)
    read_notifications(rig.office, user="ops")
    unread_counts(rig.office)
    forget(rig.store, rig.clock)
    rig.store.run(lambda tx: (tx.outward.lag(), tx.outward.renew([("a", "b")], "c", 5)))
    remove_rule(rig.office, "ops")
    remove_webhook(rig.office, "hook")
    tenant_s = {sql for sql in heard if not tables_of(sql) <= NOT_A_TENANT_S and not sql.startswith("SELECT count")}
    assert len(tenant_s) > 30
    assert [sql for sql in sorted(tenant_s) if not names_its_tenant(sql)] == []


def test_a_copy_goes_on_with_what_was_on_its_way(rig: OutwardRig, tmp_path: Path) -> None:
    rig.hook(URL)
    rig.happen(EventKind.CALL_STARTED, "call1")
    given_out(rig)
    waiting = rig.happen(EventKind.CALL_ENDED, "call1")
    target = open_store(f"sqlite:///{tmp_path}/copy.sqlite", create=True)
    copy_everything(rig.store, target, rig.clock.now_ms(), lambda *_: None)
    copied = OutwardRig(target)
    assert noted(copied) == [waiting.id]
    assert copied.deliveries() == rig.deliveries()
    more = copied.happen(EventKind.CALL_STARTED, "call2")
    assert more.id in noted(copied)
