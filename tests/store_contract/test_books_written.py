"""What is written is what is read: every class with its largest values, and the books of a call's whole life."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import fields, replace
from enum import StrEnum
from typing import Any, get_type_hints

import pytest

from capconduit.domain import agents, deliveries, model, people, rollups
from capconduit.domain.books import Books
from capconduit.domain.needs import Needs, key_of
from capconduit.errors import DatabaseError, Refused
from capconduit.services.engine import decide
from capconduit.store.rows import mapping
from capconduit.store.sqlstore import SqlStore, SqlTransaction
from capconduit.vocab import CapMetric, CapScope, PlaceState, WindowKind
from tests.unit.estate_builder import (
    NODE,
    T0,
    TENANT,
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

MAX = 2**63 - 1
TEXT = "Ünïcodé ☎ 𝄞 \u202e '\"\\ %s %(x)s :name ? ;-- \t{}"
KINDS = [
    model.Tenant, model.Seller, model.User, people.Token, people.DidRequest, model.Account,
    model.Trunk, model.Rate, model.Schedule, model.Campaign,
    model.Did, agents.Provider, agents.Agent, model.Target, model.Rule, model.Cap, model.Block, model.Setting,
    model.Counter, model.TargetState,
    model.RuleState, model.RecentCaller, model.Call, model.Attempt, model.Place, model.Hold, model.LedgerKey,
    model.LedgerEntry, model.Cdr, model.Event, model.Audit, model.Node, model.Tombstone,
    deliveries.Webhook, deliveries.NotificationRule, deliveries.Notification, deliveries.NotificationMark,
    deliveries.Outbox, deliveries.Lane, deliveries.Delivery,
    rollups.Rollup, rollups.RollupName,
]  # fmt: skip
REFERRED = (model.Seller, model.User, model.Rate, model.Schedule, model.Trunk, agents.Agent)
# Columns that refer to another row.
REFERENCES = {
    "tenant_id": TENANT,
    "seller_id": "seller",
    "user_id": "user",
    "rate_id": "rate",
    "campaign_id": "campaign",
    "target_id": "target",
    "trunk_id": "trunk",
    "agent_id": "agent",
    "schedule_id": "schedule",
    "payout_rate_id": "rate",
}


def sample(kind: type[Any], *, full: bool, flip: bool = False) -> Any:
    """A row of `kind`: `full` with a value in everything that may be empty, else with None there."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for position, field in enumerate(fields(kind)):
        hint, name = hints[field.name], field.name
        optional = isinstance(hint, types.UnionType)
        if optional:
            hint = next(arm for arm in hint.__args__ if arm is not type(None))
        if optional and not full:
            values[name] = None
        elif hint is bool:
            values[name] = flip
        elif hint is int:
            values[name] = (-MAX - 1 + position if flip else MAX - position) if full else 10**15 + position
        elif issubclass(hint, StrEnum):
            values[name] = list(hint)[0 if flip else -1]
        else:
            values[name] = REFERENCES.get(name, f"{name}{TEXT}")
    if kind is model.Tenant:
        values["id"] = TENANT
    elif "id" in values and kind in (*REFERRED, model.Campaign, model.Target):
        values["id"] = kind.__name__.lower()
    return kind(**values)


def read_all(tx: SqlTransaction, kind: type[Any]) -> list[Any]:
    m = mapping(kind)
    return [m.load(row) for row in tx.query(m.select)]


def dump(store: SqlStore) -> dict[str, list[Any]]:
    """Everything in the store, for comparing."""
    with store.transaction(write=False) as tx:
        return {kind.__name__: sorted(map(repr, read_all(tx, kind))) for kind in KINDS}


def test_the_list_of_kinds_is_complete() -> None:
    named = [v for v in vars(model).values() if isinstance(v, type) and v.__module__ == model.__name__]
    assert {*KINDS} == {*named} - {model.Entity} | {
        deliveries.Webhook, deliveries.NotificationRule, deliveries.Notification, deliveries.NotificationMark,
        deliveries.Outbox, deliveries.Lane, deliveries.Delivery, agents.Provider, agents.Agent, people.Token,
        people.DidRequest, rollups.Rollup, rollups.RollupName,
    }  # fmt: skip


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("full", [True, False])
def test_every_class_comes_back_as_it_was_written(store: SqlStore, full: bool, flip: bool) -> None:
    written = [sample(kind, full=full, flip=flip) for kind in KINDS]
    with store.transaction(write=True) as tx:
        for row in written:
            tx.insert(row)
    with store.transaction(write=False) as tx:
        for row in written:
            kind = type(row)
            assert read_all(tx, kind) == [row]
            back = read_all(tx, kind)[0]
            assert [type(getattr(back, f.name)) for f in fields(kind)] == [
                type(getattr(row, f.name)) for f in fields(kind)
            ]
            if kind not in (model.Node, model.Tombstone):
                assert list(tx.rows(kind, TENANT)) == [row]
                key = {k: getattr(row, k) for k in mapping(kind).key if k != "tenant_id"}
                assert tx.find(kind, TENANT, **key) == row
                assert list(tx.rows(kind, "another tenant")) == []
        assert list(tx.tenants()) == [written[0]]
        assert list(tx.nodes()) == [r for r in written if isinstance(r, model.Node)]


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in (model.Tenant, model.Node, model.Tombstone)])
def test_every_class_is_replaced_and_removed_by_its_key_and_tenant(store: SqlStore, kind: type[Any]) -> None:
    with store.transaction(write=True) as tx:
        for parent in KINDS[: KINDS.index(kind)]:
            tx.insert(sample(parent, full=False))
        row = sample(kind, full=False)
        tx.insert(row)
    changed = sample(kind, full=True)
    changed = replace(changed, **{k: getattr(row, k) for k in mapping(kind).key})
    with store.transaction(write=True) as tx:
        tx.update(replace(changed, tenant_id="another tenant")) if kind is not model.Setting else None
        assert read_all(tx, kind) == [row]
        tx.update(changed)
        assert read_all(tx, kind) == [changed]
        if kind is not model.Setting:
            tx.delete(replace(changed, tenant_id="another tenant"))
            assert read_all(tx, kind) == [changed]
    if kind in (*REFERRED, model.Campaign, model.Target):
        return  # kept by what refers to them: see below
    with store.transaction(write=True) as tx:
        tx.delete(changed)
        assert read_all(tx, kind) == []


def test_rows_are_bounded_ordered_and_limited(store: SqlStore) -> None:
    base = sample(model.Event, full=False)
    with store.transaction(write=True) as tx:
        for at_ms in (30, 10, 20, 40):
            tx.insert(replace(base, id=f"e{at_ms}", at_ms=at_ms, subject=f"s{at_ms % 20}"))
    with store.transaction(write=False) as tx:
        at = [e.at_ms for e in tx.rows(model.Event, TENANT, since=("at_ms", 20), until=("at_ms", 40))]
        assert at == [20, 30]
        assert [e.at_ms for e in tx.rows(model.Event, TENANT, newest_first="at_ms", limit=3)] == [40, 30, 20]
        assert [e.id for e in tx.rows(model.Event, TENANT)] == ["e10", "e20", "e30", "e40"]
        assert {e.at_ms for e in tx.rows(model.Event, TENANT, subject="s10")} == {10, 30}
        assert tx.find(model.Event, TENANT, subject="s10") is None  # two: none is the one


# --- all or nothing --------------------------------------------------------------------------------------------------


class Broken(Exception):
    """Thrown into a transaction."""


def test_an_exception_leaves_nothing_behind(shop: Till) -> None:
    shop.ask(route_of("before"))
    before = dump(shop.store)

    def broken() -> None:
        with shop.store.transaction(write=True) as tx:
            shop.engine.work([route_of("u1"), settle_of("before", talk_ms=5_000), settle_of("never")], tx)
            tx.insert(sample(model.Node, full=False))
            tx.bump_estate()
            raise Broken

    with pytest.raises(Broken):
        broken()
    assert dump(shop.store) == before
    with shop.store.transaction(write=True) as tx:
        assert tx.estate_version() == shop.engine.estate.version  # type: ignore[union-attr]  # it has decided


def test_after_an_exception_the_connection_is_usable(shop: Till) -> None:
    seller = shop.rows(model.Seller)[0]
    for _ in range(3):
        with pytest.raises(Broken), shop.store.transaction(write=True):
            raise Broken
        with pytest.raises(Refused), shop.store.transaction(write=True) as tx:
            tx.insert(seller)
        with pytest.raises(DatabaseError), shop.store.transaction(write=False) as tx:
            tx.query("SELECT nothing FROM nowhere")
        with shop.store.transaction(write=True) as tx:
            assert tx.find(model.Seller, TENANT, name="acme") is not None


def read_tenants(store: SqlStore) -> Any:
    with store.transaction(write=False) as tx:
        return tx.tenants()


def test_a_transaction_within_a_transaction_is_refused_and_ends_nothing(shop: Till) -> None:
    """On PostgreSQL the inner COMMIT would commit the outer one's work before its end."""
    before = dump(shop.store)

    def nested() -> None:
        with shop.store.transaction(write=True) as tx:
            tx.bump_estate()
            read_tenants(shop.store)

    with pytest.raises((AssertionError, DatabaseError)):
        nested()
    assert dump(shop.store) == before


# --- keys ------------------------------------------------------------------------------------------------------------

UNIQUE = [
    (model.Seller, {"id": "other"}, "a name within a tenant"),
    (model.Trunk, {"id": "other"}, "a name within a tenant"),
    (model.Rate, {"id": "other"}, "a name within a tenant"),
    (model.Campaign, {"id": "other"}, "a name within a tenant"),
    (model.Target, {"id": "other"}, "a name within a tenant"),
    (model.Did, {"id": "other", "tenant_id": "T2"}, "a number over all tenants"),
    (model.Rule, {"id": "other"}, "a campaign-target pair"),
    (model.Cap, {"id": "other"}, "a limit of one thing"),
    (model.LedgerKey, {"ledger_id": "other"}, "an idempotency key"),
    (model.Call, {"id": "other", "tenant_id": "T2"}, "a channel of a node"),
    (model.Seller, {"name": "other"}, "an id"),
]


@pytest.mark.parametrize(("kind", "differs", "what"), UNIQUE, ids=[f"{k.__name__}: {w}" for k, _, w in UNIQUE])
def test_what_is_unique_is_refused_the_second_time(
    store: SqlStore, kind: type[Any], differs: dict[str, Any], what: str
) -> None:
    with store.transaction(write=True) as tx:
        for row in KINDS[: KINDS.index(model.Node)]:
            tx.insert(sample(row, full=False))
        tx.insert(replace(sample(model.Tenant, full=False), id="T2", name="second"))
    before = dump(store)
    with pytest.raises(Refused) as caught, store.transaction(write=True) as tx:
        tx.insert(replace(sample(kind, full=False), **differs))
    assert caught.value.slug == "exists"
    assert caught.value.hint
    assert dump(store) == before


def test_a_value_that_is_left_out_is_no_duplicate(store: SqlStore) -> None:
    with pytest.raises(DatabaseError) as caught, store.transaction(write=True) as tx:
        tx.insert(replace(sample(model.Tenant, full=False), name=None))
    assert caught.value.slug == "database-failed"


@pytest.mark.parametrize("kind", [model.Seller, model.Trunk, model.Rate, model.Target, model.User])
def test_another_tenant_may_use_the_same_name(store: SqlStore, kind: type[Any]) -> None:
    with store.transaction(write=True) as tx:
        tx.insert(sample(model.Tenant, full=False))
        tx.insert(replace(sample(model.Tenant, full=False), id="T2", name="second"))
        tx.insert(sample(kind, full=False))
        tx.insert(replace(sample(kind, full=False), id="other", tenant_id="T2"))
        assert len(tx.rows(kind, "T2")) == 1


@pytest.mark.parametrize("kind", [*REFERRED, model.Campaign, model.Target])
def test_what_others_refer_to_cannot_be_removed(store: SqlStore, kind: type[Any]) -> None:
    with store.transaction(write=True) as tx:
        for row in KINDS[: KINDS.index(model.Setting)]:
            tx.insert(sample(row, full=True))
    with pytest.raises(Refused) as caught, store.transaction(write=True) as tx:
        tx.delete(sample(kind, full=True))
    assert caught.value.slug == "in-use"


@pytest.mark.parametrize("kind", [model.Seller, model.Account, model.Campaign, model.Did, model.Rule, model.Cap])
def test_a_row_that_refers_to_nothing_is_refused(store: SqlStore, kind: type[Any]) -> None:
    with pytest.raises(Refused), store.transaction(write=True) as tx:
        tx.insert(sample(kind, full=True))


def test_a_node_finds_its_calls_and_until_when_they_are_paid_for(shop: Till) -> None:
    live, over = shop.dial(route_of("live")), shop.dial(route_of("over"))
    elsewhere = shop.dial(route_of("elsewhere", node="node-2"))
    shop.ask(settle_of("over", talk_ms=1_000))
    with shop.store.transaction(write=False) as tx:
        assert [c.uniqueid for c in tx.node_calls(NODE)] == ["live"]
        assert dict(tx.hold_ends(NODE)) == {live.call_id: T0 + (20 + 60) * 1_000}
        assert dict(tx.hold_ends("nobody")) == {}
        nodes = [tx.call_node(call_id) for call_id in (live.call_id, over.call_id, elsewhere.call_id, "unknown")]
    assert nodes == [NODE, NODE, "node-2", None]


# --- the books of a call ---------------------------------------------------------------------------------------------


def loaded(tx: SqlTransaction, like: Books, keys: list[tuple[str, str]]) -> Books:
    books = Books()
    tx.lock_calls(keys, books)
    tx.lock_accounts(like.accounts, books)
    tx.lock_counters(dict.fromkeys(like.counters, TENANT), books)
    return books


def life() -> Iterator[tuple[str, Any]]:
    """Several calls in every state, one command after the other."""
    for uniqueid in ("u1", "u2", "u3", "u4"):
        yield "route", route_of(uniqueid, caller_name=TEXT, linkedid=TEXT, channel="PJSIP/x-1", stir_verdict=TEXT)
    yield "answer", answer_of("u1", answered_ms=T0 + 5, rang_ms=T0 + 1)
    yield "extend", extend_of("u1")
    yield "attempt", attempt_of("u2")
    yield "attempt", attempt_of("u3")
    yield "attempt", attempt_of("u3", attempt=2)
    yield "settle", settle_of("u1", talk_ms=5_000)
    yield "settle", settle_of("u4")
    yield "settle", settle_of("buried")
    yield "reject", route_of("u5", dnid="+18005559999")


def test_the_books_of_a_call_are_read_back_as_they_were_written(open_shop: Any) -> None:
    builder = small_estate()
    builder.target("buyer2")
    for scope, scope_id in ((CapScope.CAMPAIGN, "solar"), (CapScope.TARGET, "buyer1"), (CapScope.RULE, "solar/buyer2")):
        builder.cap(scope, scope_id, CapMetric.BILLABLE, 50, WindowKind.DAY)
        builder.cap(scope, scope_id, CapMetric.ATTEMPTS, 50, WindowKind.HOUR)
    shop: Till = open_shop(builder)
    for _, command in life():
        key = key_of(command)
        with shop.store.transaction(write=True) as tx:
            shop.engine.work([command], tx)
        with shop.store.transaction(write=True) as tx:
            again = Books()
            tx.lock_calls([key], again)
            call = again.call_of(key)
            assert (call is not None) + (key in again.settled) + (key in again.buried) == 1, command
    books = Books()
    estate, account = builder.estate(), shop.account()
    with shop.store.transaction(write=True) as tx:
        keys = [(NODE, u) for u in ("u1", "u2", "u3", "u4", "u5", "buried", "new")]
        books = loaded(tx, Books(accounts={"acme": account}), keys)
        counters = {(c.cap_id, c.window_start_ms): TENANT for c in tx.rows(model.Counter, TENANT)}
        tx.lock_needs(Needs(counters=counters, targets={"buyer1", "buyer2"}), books)
        for command in (answer_of("u2"), extend_of("u2"), settle_of("u3"), route_of("new"), attempt_of("new")):
            _, changes = decide(command, estate, books, T0 + 9_000, shop.clock.new_id)
            books.apply(changes)
        tx.write(books)
    with shop.store.transaction(write=True) as tx:
        back = loaded(tx, books, keys)
    assert back.calls == books.calls
    assert back.call_ids == books.call_ids
    for call_id in books.calls:
        assert back.attempts[call_id] == books.attempts[call_id]
        used = {k: p for k, p in books.places[call_id].items() if p.state is not PlaceState.RELEASED or p.counted}
        assert back.places.get(call_id, {}) == used  # a place that was given back unused is gone
        assert back.holds[call_id] == books.holds[call_id]
    assert back.accounts == books.accounts
    assert back.counters == books.counters
    assert back.settled == books.settled
    assert back.buried == books.buried
    shop.verify()


@pytest.mark.parametrize("odd", [{"caller_name": "\ud800"}, {"arrived_ms": 2**63}, {"arrived_ms": -(2**63) - 1}])
def test_a_value_that_cannot_be_kept_is_refused_and_leaves_nothing(shop: Till, odd: dict[str, Any]) -> None:
    before = dump(shop.store)
    with pytest.raises(Refused) as caught:
        shop.ask(route_of(**odd))
    assert caught.value.slug == "value-invalid"
    assert dump(shop.store) == before


@pytest.mark.parametrize("text", [TEXT, "x" * 20_000, "\n\r\x1b[2J"])
def test_a_caller_s_odd_text_is_kept_as_it_came(shop: Till, text: str) -> None:
    shop.ask(route_of(caller_name=text, ani=text, linkedid=text))
    shop.ask(settle_of(talk_ms=1_000))
    cdr = shop.rows(model.Cdr)[0]
    assert (cdr.caller_name, cdr.caller, cdr.linkedid) == (text, text, text)
