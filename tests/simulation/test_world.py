"""Seeds of the simulation, and proof that it can fail: faults put in on purpose are each found.

`SIM_SEEDS=n` runs n seeds, `SIM_SECONDS=n` as many as that time allows, `SIM_FIRST=n` begins at another seed than 1. A
failure prints its seed, and the same seed replays it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain import admission, attempts, books, metering, routing, settlement
from capconduit.domain.rating import Funding, round_up_to_increment
from capconduit.services import balances, caps
from capconduit.services import engine as engine_module
from capconduit.store import sqlstore
from capconduit.vocab import PlaceState, WindowKind
from tests.simulation.world import simulate

FIRST = int(os.environ.get("SIM_FIRST", "1"))
SECONDS = int(os.environ.get("SIM_SECONDS", "0"))
SEEDS = int(os.environ.get("SIM_SEEDS", str(10**9) if SECONDS else "24"))
SHARDS = 4
FOUND_WITHIN = 40  # seeds


@pytest.mark.timeout(0)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_promise_holds_after_every_step(tmp_path: Path, shard: int) -> None:
    until = time.monotonic() + SECONDS / SHARDS if SECONDS else float("inf")
    for seed in range(FIRST + shard, FIRST + SEEDS, SHARDS):
        if time.monotonic() >= until:
            break
        path = tmp_path / f"{seed}.sqlite"
        simulate(seed, path)
        path.unlink()


def test_the_same_seed_tells_the_same_story(tmp_path: Path) -> None:
    first, again = simulate(7, tmp_path / "a.sqlite"), simulate(7, tmp_path / "b.sqlite")
    assert first.log == again.log
    assert len(first.log) > 150
    assert simulate(8, tmp_path / "c.sqlite").log != first.log


def test_the_seeds_reach_what_they_are_for(tmp_path: Path) -> None:
    """A world in which nothing is ever admitted, refused or broken off proves nothing."""
    stories = "\n".join("\n".join(simulate(seed, tmp_path / f"{seed}.sqlite").log) for seed in range(1, 9))
    for word in (
        "is answered", "wants funding", "plug pulled", "lost: SettleReport", "lost: RouteRequest", "the clock jumps",
        "cap campaign", "cap target", "cleared", "refused: not-enough-money", "switched off", "it was a dry run",
        "an engine restarts", "attempt 2:",
    ):  # fmt: skip
        assert word in stories, word


# --- it can fail -----------------------------------------------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch], None]


def ignore_in_flight(patch: pytest.MonkeyPatch) -> None:
    """Admission counts only what is settled."""
    real = routing.free_caps

    class Blind:
        def __init__(self, usage: Any) -> None:
            self._usage = usage

        def counter(self, tenant_id: str, key: Any) -> Any:
            return replace(self._usage.counter(tenant_id, key), in_flight=0)

    patch.setattr(
        routing, "free_caps", lambda decision, zoned, usage, now_ms: real(decision, zoned, Blind(usage), now_ms)
    )


def keep_the_hold(patch: pytest.MonkeyPatch) -> None:
    """Settlement does not void the rest of the hold."""
    real = engine_module.settle

    def settle(*args: Any) -> Any:
        answer, changes = real(*args)
        changes.holds.clear()
        return answer, changes

    patch.setattr(engine_module, "settle", settle)


def release_again(patch: pytest.MonkeyPatch) -> None:
    """A place that was released is released again: no `where state <> 'released'`."""

    def apply_place(self: books.Books, place: Any) -> None:
        own = self.places.setdefault(place.call_id, {})
        before = own.get((place.attempt, place.cap_id))
        own[(place.attempt, place.cap_id)] = place
        self.dirty_places.add((place.call_id, place.attempt, place.cap_id))
        key = (place.cap_id, place.window_start_ms)
        counter = self.counter(place.tenant_id, key)
        released = place.state is PlaceState.RELEASED
        in_flight = counter.in_flight - (before.amount if before else 0) + (0 if released else place.amount)
        self.counters[key] = replace(counter, used=counter.used + place.counted, in_flight=in_flight)
        self.dirty_counters.add(key)

    patch.setattr(books.Books, "_apply_place", apply_place)
    patch.setattr(books.Books, "open_places", lambda self, call_id: list(self.places.get(call_id, {}).values()))


def forget_the_settled(patch: pytest.MonkeyPatch) -> None:
    """Neither CDR nor tombstone of a channel is looked for."""
    patch.setattr(sqlstore.SqlTransaction, "_load_ends", lambda self, keys, loaded: None)


def days_of_24_hours(patch: pytest.MonkeyPatch) -> None:
    """A day is 24 hours from midnight UTC."""
    real = routing.window_start_ms

    def start(kind: WindowKind, now_ms: int, zone: str) -> int:
        return now_ms // 86_400_000 * 86_400_000 if kind is WindowKind.DAY else real(kind, now_ms, zone)

    patch.setattr(routing, "window_start_ms", start)


def fund_without_money(patch: pytest.MonkeyPatch) -> None:
    """An extension takes its slice whether there is money or not."""

    def fund(tariff: Any, available: int, want_s: int, max_s: int) -> Funding:
        seconds = round_up_to_increment(tariff, min(want_s, max_s))
        minutes = -(-seconds * tariff.per_minute_micros // 60)
        return Funding(tariff.connect_fee_micros + minutes, min(seconds, max_s))

    patch.setattr(metering, "fund", fund)


def never_read_the_estate_again(patch: pytest.MonkeyPatch) -> None:
    """An engine keeps the estate that it read first."""
    real = engine_module.Engine.work

    def work(self: engine_module.Engine, commands: Any, tx: Any) -> Any:
        if self.estate is not None:
            self.estate = replace(self.estate, version=tx.estate_version())
        return real(self, commands, tx)

    patch.setattr(engine_module.Engine, "work", work)


def round_the_price_down(patch: pytest.MonkeyPatch) -> None:
    """A started increment is not charged."""
    real = settlement.charge
    patch.setattr(settlement, "charge", lambda tariff, talk_ms: real(tariff, max(talk_ms - 1_000, 0)))


def withdraw_the_balance(patch: pytest.MonkeyPatch) -> None:
    """A withdrawal sees the balance, not what is available."""
    real = balances._post

    def post(desk: Any, loaded: Any, seller: Any, amount: int, *rest: Any) -> Any:
        account = loaded.accounts[seller.id]
        loaded.accounts[seller.id] = replace(account, held_micros=0)
        entry = real(desk, loaded, seller, amount, *rest)
        with_hold = replace(loaded.accounts[seller.id], held_micros=account.held_micros)
        desk.tx.update(with_hold)
        return entry

    patch.setattr(balances, "_post", post)


def count_failed_attempts_as_nothing(patch: pytest.MonkeyPatch) -> None:
    """An attempt that failed gives back its place in caps by attempts, too."""
    patch.setattr(attempts, "counted_when_failed", lambda metric: 0)


def keep_a_failed_target_s_place(patch: pytest.MonkeyPatch) -> None:
    """A failover does not give the first target's places back."""
    patch.setattr(attempts, "_released", lambda call, loaded, estate: [])


def take_no_place_at_the_target(patch: pytest.MonkeyPatch) -> None:
    """An attempt takes no places."""
    real = admission.start_attempt
    patch.setattr(admission, "start_attempt", lambda *args: (real(*args)[0], []))


def commit_half(patch: pytest.MonkeyPatch) -> None:
    """What was written before a crash stays: accounts are written outside of the transaction's end."""
    real = sqlstore.SqlTransaction.write

    def write(self: Any, loaded: Any) -> None:
        self._update(books.Account, [loaded.accounts[i] for i in sorted(loaded.dirty_accounts)])
        self.query("COMMIT")
        self.query("BEGIN IMMEDIATE")
        real(self, loaded)

    patch.setattr(sqlstore.SqlTransaction, "write", write)


def set_caps_without_a_past(patch: pytest.MonkeyPatch) -> None:
    """A cap that is set later does not see the calls that live."""
    patch.setattr(caps, "_places_in", lambda *args: [])


FAULTS: list[Patch] = [
    ignore_in_flight,
    keep_the_hold,
    release_again,
    forget_the_settled,
    days_of_24_hours,
    fund_without_money,
    never_read_the_estate_again,
    round_the_price_down,
    withdraw_the_balance,
    count_failed_attempts_as_nothing,
    keep_a_failed_target_s_place,
    take_no_place_at_the_target,
    commit_half,
    set_caps_without_a_past,
]


def found(tmp_path: Path) -> AssertionError | None:
    """What the first seed that fails says."""
    for seed in range(1, FOUND_WITHIN + 1):
        try:
            simulate(seed, tmp_path / f"{seed}.sqlite")
        except AssertionError as error:
            return error
    return None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_fault_put_in_on_purpose_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Patch) -> None:
    fault(monkeypatch)
    error = found(tmp_path)
    assert error is not None, f"not found within {FOUND_WITHIN} seeds: {fault.__doc__}"
    assert re.match(r"seed \d+, step \d+: ", str(error))
    assert isinstance(error.__cause__, AssertionError), error  # a promise was broken, the code did not fall over
