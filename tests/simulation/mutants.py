"""The product broken on purpose, one promise at a time: each variant must be found by the simulation.

A variant replaces a function of the product wherever it is known by its name. Its docstring says what is broken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from capconduit.domain import (
    admission,
    attempts,
    books,
    estate,
    metering,
    rating,
    reconcile,
    routing,
    settlement,
    stir,
    strategies,
    targets,
    usage,
    ways,
    windows,
)
from capconduit.domain.model import Account
from capconduit.domain.rating import Funding, round_up_to_increment
from capconduit.domain.usage import Room
from capconduit.services import caps
from capconduit.services import engine as engine_module
from capconduit.store import sqltransaction
from capconduit.vocab import CapMetric, CapScope, PlaceState, WindowKind
from fastagi import journal, meter, reconciler
from tests.simulation.daemons import Link
from tests.simulation.estates import Wide

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A broken variant. `store`, `faults` and `wide` caps: what there must be for it to matter soon."""

    break_it: Patch
    area: str
    store: str = "memory"
    faults: frozenset[str] = frozenset()
    wide: Sequence[Wide] = ()

    @property
    def name(self) -> str:
        """Its name."""
        return self.break_it.__name__

    @property
    def what(self) -> str:
        """What is broken."""
        return " ".join((self.break_it.__doc__ or "").split())


MUTANTS: dict[str, Mutant] = {}
DAYS: Wide = (CapScope.SELLER, CapMetric.ATTEMPTS, WindowKind.DAY)
WEEKS: Wide = (CapScope.SELLER, CapMetric.BILLABLE, WindowKind.WEEK)
MINUTES: Wide = (CapScope.CAMPAIGN, CapMetric.MINUTES, WindowKind.HOUR)
TRUNKS: Wide = (CapScope.TRUNK, CapMetric.CONNECTED, WindowKind.TOTAL)
LEGS: Wide = (CapScope.TARGET, CapMetric.ATTEMPTS, WindowKind.TOTAL)


def mutant(area: str, *faults: str, store: str = "memory", wide: Sequence[Wide] = ()) -> Callable[[Patch], Patch]:
    """Register a broken variant."""

    def register(break_it: Patch) -> Patch:
        MUTANTS[break_it.__name__] = Mutant(break_it, area, store, frozenset(faults), wide)
        return break_it

    return register


def everywhere(patch: pytest.MonkeyPatch, original: Any, broken: Any) -> None:
    """Put `broken` in the place of a function in every module that knows it."""
    known = 0
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] in ("capconduit", "fastagi") and module is not None:
            for attribute, value in list(vars(module).items()):
                if value is original:
                    patch.setattr(module, attribute, broken)
                    known += 1
    assert known, f"nobody knows {original}"


# --- admission --------------------------------------------------------------------------------------------------------


@mutant("admission")
def only_what_is_settled_counts(patch: pytest.MonkeyPatch) -> None:
    """Calls in flight are not counted against caps."""
    real = usage.taken
    everywhere(patch, real, lambda *args: (real(*args)[0], 0))


@mutant("admission")
def one_more_than_the_limit(patch: pytest.MonkeyPatch) -> None:
    """A cap lets one more through than its limit."""
    real = usage.taken

    def taken(*args: Any) -> tuple[int, int]:
        used, in_flight = real(*args)
        return used - 1, in_flight

    everywhere(patch, real, taken)


@mutant("admission")
def no_place_at_the_target(patch: pytest.MonkeyPatch) -> None:
    """A Dial takes no places in caps on targets and rules."""
    real = admission.start_dial

    def start_dial(*args: Any) -> Any:
        legs, changes = real(*args)
        changes.places.clear()
        return legs, changes

    everywhere(patch, real, start_dial)


@mutant("admission", wide=(LEGS,))
def a_place_for_the_first_leg_only(patch: pytest.MonkeyPatch) -> None:
    """Of targets that ring at once only the first takes places."""
    real = admission.start_dial

    def start_dial(*args: Any) -> Any:
        legs, changes = real(*args)
        first = min(leg.number for leg in legs)
        changes.places = [p for p in changes.places if p.attempt == first]
        return legs, changes

    everywhere(patch, real, start_dial)


@mutant("admission", wide=(TRUNKS,))
def trunks_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    """Caps on trunks are forgotten."""
    real = ways.caps_of_call
    everywhere(
        patch, real, lambda *args: [(scope, found) for scope, found in real(*args) if scope is not CapScope.TRUNK]
    )


@mutant("admission")
def money_of_others(patch: pytest.MonkeyPatch) -> None:
    """A hold is made whether the money is available or not."""

    def fund(tariff: Any, available: int, want_s: int, max_s: int) -> Funding:
        seconds = round_up_to_increment(tariff, min(want_s, max_s))
        return Funding(rating.price_of_seconds(tariff, seconds), min(seconds, max_s))

    everywhere(patch, rating.fund, fund)
    everywhere(patch, rating.minimum_micros, lambda tariff: 0)


@mutant("admission")
def the_caller_again(patch: pytest.MonkeyPatch) -> None:
    """Callers are not remembered for the duplicate window."""
    everywhere(patch, admission._remembered, lambda *args: [])


@mutant("admission")
def nobody_is_blocked_by_a_prefix(patch: pytest.MonkeyPatch) -> None:
    """Blocklists find whole numbers only."""
    from capconduit.domain import blocklist

    everywhere(patch, blocklist._prefix, lambda *args: None)
    everywhere(patch, blocklist._wild, lambda *args: None)


@mutant("admission")
def anybody_is_vouched_for(patch: pytest.MonkeyPatch) -> None:
    """A STIR attestation that is missing or failed is let in."""
    everywhere(patch, stir.gate, lambda *args: None)


@mutant("admission")
def paused_campaigns_take_calls(patch: pytest.MonkeyPatch) -> None:
    """The status and the schedule of a campaign are not looked at."""
    everywhere(patch, routing._campaign_open, lambda *args: True)


# --- windows ----------------------------------------------------------------------------------------------------------


@mutant("windows", wide=(DAYS,))
def days_of_24_hours(patch: pytest.MonkeyPatch) -> None:
    """A day is 24 hours from midnight UTC, wherever the seller is."""
    real = windows.window_start_ms

    def start(kind: WindowKind, now_ms: int, zone: str) -> int:
        return now_ms // 86_400_000 * 86_400_000 if kind is WindowKind.DAY else real(kind, now_ms, zone)

    everywhere(patch, real, start)


@mutant("windows", wide=(WEEKS,))
def weeks_begin_on_sunday(patch: pytest.MonkeyPatch) -> None:
    """A week begins on Sunday."""
    real = windows._first_date

    def first(kind: WindowKind, day: Any) -> Any:
        return day - timedelta(days=(day.weekday() + 1) % 7) if kind is WindowKind.WEEK else real(kind, day)

    patch.setattr(windows, "_first_date", first)
    patch.setattr(windows, "_recent", {})


@mutant("windows")
def rolling_windows_do_not_roll(patch: pytest.MonkeyPatch) -> None:
    """A rolling window, or a second of calls per second, begins anew at each multiple of its length."""
    real = usage.taken

    def taken(zoned: Any, key: Any, used: Any, now_ms: int) -> tuple[int, int]:
        if not zoned.bucket_ms:
            return real(zoned, key, used, now_ms)
        begun_ms = now_ms // zoned.rolling_ms * zoned.rolling_ms
        counted: tuple[int, int] = used.looking_back(zoned.cap.id, begun_ms - 1, now_ms)
        return counted

    everywhere(patch, real, taken)


@mutant("windows")
def the_oldest_bucket_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A bucket that lies in the rolling window in part is not counted."""
    real = usage.taken

    def taken(zoned: Any, key: Any, used: Any, now_ms: int) -> tuple[int, int]:
        if not zoned.bucket_ms:
            return real(zoned, key, used, now_ms)
        counted: tuple[int, int] = used.looking_back(zoned.cap.id, now_ms - zoned.rolling_ms + zoned.bucket_ms, now_ms)
        return counted

    everywhere(patch, real, taken)


@mutant("windows", wide=(MINUTES,))
def minutes_are_calls(patch: pytest.MonkeyPatch) -> None:
    """A call reserves one second of a cap by minutes, not what it is funded for."""
    real = usage.amount_of

    def amount(metric: CapMetric, funded_s: int, hold_micros: int) -> int:
        return 1 if metric is CapMetric.MINUTES else real(metric, funded_s, hold_micros)

    everywhere(patch, real, amount)


# --- release ----------------------------------------------------------------------------------------------------------


@mutant("release", wide=(LEGS,))
def failed_targets_stay_taken(patch: pytest.MonkeyPatch) -> None:
    """A failover does not give the failed target's places back."""
    everywhere(patch, attempts._released, lambda *args: [])


@mutant("release")
def losers_stay_taken(patch: pytest.MonkeyPatch) -> None:
    """Legs that another was quicker than keep their places, and go on ringing."""
    everywhere(patch, metering._end_losers, lambda *args: None)


@mutant("release", wide=(LEGS,))
def released_twice(patch: pytest.MonkeyPatch) -> None:
    """A place that was given back is given back again."""

    def apply_places(self: books.Books, places: Any) -> None:
        for place in places:
            own = self.places.setdefault(place.call_id, {})
            key = (place.attempt, place.cap_id)
            before = own.get(key)
            if before is None:
                self.new_places.add((place.call_id, *key))
            own[key] = place
            self.dirty_places.add((place.call_id, *key))
            held = before.amount if before else 0
            released = place.state is PlaceState.RELEASED
            self._count(
                place.tenant_id,
                (place.cap_id, place.window_start_ms),
                place.counted if released else 0,
                -held if released else place.amount - held,
            )

    patch.setattr(books.Books, "_apply_places", apply_places)
    patch.setattr(books.Books, "open_places", lambda self, call_id: list(self.places.get(call_id, {}).values()))


@mutant("release", wide=(LEGS,))
def failed_attempts_count_for_nothing(patch: pytest.MonkeyPatch) -> None:
    """A Dial that failed gives back its place in caps by attempts, too."""
    everywhere(patch, attempts.counted_when_failed, lambda metric: 0)


@mutant("release")
def targets_are_never_free(patch: pytest.MonkeyPatch) -> None:
    """The end of a call does not make its target free again."""
    everywhere(patch, targets.ended, lambda state, *args, **kwargs: state)


@mutant("release", "applied_unheard")
def a_living_call_is_given_back(patch: pytest.MonkeyPatch) -> None:
    """An admission that was told is given back all the same when somebody says that it came too late."""
    everywhere(patch, settlement._has_dialled, lambda *args: False)
    real = meter.Meter.knows_undialled
    patch.setattr(meter.Meter, "knows_undialled", lambda self, uniqueid: real(self, uniqueid) or True)


# --- settlement -------------------------------------------------------------------------------------------------------


@mutant("settlement")
def the_hold_stays(patch: pytest.MonkeyPatch) -> None:
    """The rest of the hold is not given back."""
    real = settlement.settle

    def settle(*args: Any) -> Any:
        answer, changes = real(*args)
        changes.holds.clear()
        return answer, changes

    everywhere(patch, real, settle)


@mutant("settlement")
def a_second_is_given_away(patch: pytest.MonkeyPatch) -> None:
    """The last begun second is not charged."""
    real = rating.charge
    everywhere(patch, real, lambda tariff, talk_ms: real(tariff, max(talk_ms - 1_000, 0)))


@mutant("settlement")
def the_second_price_is_the_first(patch: pytest.MonkeyPatch) -> None:
    """Two-step rates cost their first price throughout."""
    real = rating.price_of_seconds
    everywhere(patch, real, lambda tariff, seconds: real(replace(tariff, then_after_s=0), seconds))


@mutant("settlement")
def charged_beyond_the_money(patch: pytest.MonkeyPatch) -> None:
    """What overran its funding is charged whether there is money or not."""
    real = settlement._bill

    def bill(*args: Any) -> Any:
        made = real(*args)
        price = made.price.price_micros + (50_000_000 if made.price.price_micros else 0)
        return replace(
            made,
            price=replace(made.price, price_micros=price),
            amount_micros=price,
            balance_after_micros=made.balance_after_micros + made.amount_micros - price,
        )

    everywhere(patch, real, bill)


@mutant("settlement")
def talk_lasts_until_it_is_told(patch: pytest.MonkeyPatch) -> None:
    """The end of a talk is when its settlement comes, not when it ended."""
    real = settlement.outcome_of

    def outcome(report: Any, *args: Any) -> Any:
        leg = replace(report.leg, ended_ms=None, clock_talk_ms=None)
        return real(replace(report, leg=leg, ended_ms=None, answered_for_ms=None), *args)

    everywhere(patch, real, outcome)


@mutant("settlement")
def the_end_before_the_beginning_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """A call whose end was told before its beginning is admitted when the beginning comes."""
    real = admission.admit

    def admit(request: Any, known: Any, loaded: Any, *rest: Any) -> Any:
        loaded.buried.clear()
        return real(request, known, loaded, *rest)

    everywhere(patch, real, admit)


@mutant("settlement")
def a_call_is_admitted_again(patch: pytest.MonkeyPatch) -> None:
    """A channel that asks twice is admitted twice."""
    real = admission.admit

    def admit(request: Any, known: Any, loaded: Any, *rest: Any) -> Any:
        loaded.call_ids.pop((request.node, request.uniqueid), None)
        loaded.settled.pop((request.node, request.uniqueid), None)
        return real(request, known, loaded, *rest)

    everywhere(patch, real, admit)


@mutant("settlement")
def answered_by_another(patch: pytest.MonkeyPatch) -> None:
    """Of targets that rang at once the first is taken to have answered."""
    everywhere(patch, metering.winning_leg, lambda legs, dial: next((g for g in legs if g.ended_ms is None), None))


# --- metering ---------------------------------------------------------------------------------------------------------


@mutant("metering")
def an_extension_without_a_hold(patch: pytest.MonkeyPatch) -> None:
    """An extension reserves no money."""
    real = metering.extend

    def extend(*args: Any) -> Any:
        answer, changes = real(*args)
        changes.holds.clear()
        return answer, changes

    everywhere(patch, real, extend)


@mutant("metering")
def an_extension_beyond_the_caps(patch: pytest.MonkeyPatch) -> None:
    """Caps by minutes and spend do not bound extensions."""
    everywhere(patch, usage.room_around, lambda *args: Room())


@mutant("metering")
def the_limit_before_the_money(patch: pytest.MonkeyPatch) -> None:
    """Asterisk's limit is moved by a slice more than is funded."""
    real = meter.Meter._left_s

    def left_s(self: Any, watch: Any) -> float:
        return real(self, watch) + (watch.meter.slice_s if watch.meter else 0)

    patch.setattr(meter.Meter, "_left_s", left_s)


@mutant("metering")
def funded_from_now(patch: pytest.MonkeyPatch) -> None:
    """A daemon that finds a living call counts its funded time from then on."""
    real = meter.Meter._record_answer

    async def record(self: Any, watch: Any) -> bool:
        known = await real(self, watch)
        watch.funded_from_s = self._loop.time()
        return known

    patch.setattr(meter.Meter, "_record_answer", record)


# --- engine, journal, reconciliation ----------------------------------------------------------------------------------


@mutant("engine")
def the_estate_is_read_once(patch: pytest.MonkeyPatch) -> None:
    """An engine keeps the estate that it read first."""
    real = engine_module.Engine.work

    def work(self: Any, commands: Any, tx: Any, **how: Any) -> Any:
        if self.estate is not None:
            self.estate = replace(self.estate, version=tx.estate_version())
        return real(self, commands, tx, **how)

    patch.setattr(engine_module.Engine, "work", work)


@mutant("engine", store="sqlite")
def half_is_committed(patch: pytest.MonkeyPatch) -> None:
    """Accounts are written and committed before the rest of a transaction."""
    real = sqltransaction.SqlTransaction.write

    def write(self: Any, loaded: Any) -> None:
        self._change(Account, [loaded.accounts[i] for i in sorted(loaded.dirty_accounts)])
        self.query("COMMIT")
        self.query("BEGIN IMMEDIATE")
        real(self, loaded)

    patch.setattr(sqltransaction.SqlTransaction, "write", write)


@mutant("engine", store="sqlite")
def holds_are_not_written(patch: pytest.MonkeyPatch) -> None:
    """A changed hold stays in the database as it was."""
    real = sqltransaction.SqlTransaction.write

    def write(self: Any, loaded: Any) -> None:
        loaded.dirty_holds = set()
        real(self, loaded)

    patch.setattr(sqltransaction.SqlTransaction, "write", write)


@mutant("journal", "database_restarted")
def acknowledged_and_not_kept(patch: pytest.MonkeyPatch) -> None:
    """The journal says that an end is kept, and keeps nothing."""

    async def append(self: Any, report: Any) -> None:
        pass

    patch.setattr(journal.Journal, "append", append)


@mutant("journal", "database_restarted")
def emptied_and_not_replayed(patch: pytest.MonkeyPatch) -> None:
    """The journal is emptied without telling the engine what was in it."""

    async def replay(self: Any, entries: Any) -> list[Any]:
        return []

    patch.setattr(reconciler.Reconciler, "_replay_some", replay)


@mutant("reconciliation", "channel_list_cut", "daemon_killed")
def a_cut_list_is_believed(patch: pytest.MonkeyPatch) -> None:
    """A list of channels that came incomplete counts as complete."""
    real = Link.core_show_channels

    async def show(self: Any) -> Any:
        return replace(await real(self), complete=True)

    patch.setattr(Link, "core_show_channels", show)


@mutant("reconciliation")
def over_when_the_lease_is(patch: pytest.MonkeyPatch) -> None:
    """Without a witness a call is over when its lease is, whatever its hold pays for."""
    everywhere(patch, reconcile.expired, lambda calls, ends, now_ms: [c for c in calls if c.lease_until_ms < now_ms])


# --- routing ----------------------------------------------------------------------------------------------------------


@mutant("routing")
def the_same_target_again(patch: pytest.MonkeyPatch) -> None:
    """A target that failed is tried again for the same call."""
    real: Any = routing.open_candidates
    everywhere(patch, real, lambda *args: real(*args[:-1], frozenset()))


@mutant("routing")
def disabled_targets_are_dialled(patch: pytest.MonkeyPatch) -> None:
    """Rules and targets that are disabled take calls."""
    patch.setattr(estate.Offer, "enabled", property(lambda self: True))


@mutant("routing")
def resting_targets_are_dialled(patch: pytest.MonkeyPatch) -> None:
    """The circuit breaker never opens."""
    everywhere(patch, routing.rest_reason, lambda *args: "")


@mutant("routing")
def the_dearest_first(patch: pytest.MonkeyPatch) -> None:
    """Least cost dials the dearest target, highest payout the poorest."""
    real = strategies._minute
    everywhere(patch, real, lambda tariff: -real(tariff))


@mutant("routing")
def the_campaign_s_rate_always(patch: pytest.MonkeyPatch) -> None:
    """Rates of rules and targets are passed by."""
    real = estate._make_offer

    def make(known: Any, campaign: Any, rule: Any) -> Any:
        return real(known, campaign, replace(rule, rate_id=campaign.rate_id))

    everywhere(patch, real, make)


# --- operators --------------------------------------------------------------------------------------------------------


@mutant("operators")
def withdrawals_see_the_balance(patch: pytest.MonkeyPatch) -> None:
    """A withdrawal may take what living calls hold."""
    patch.setattr(
        Account, "available_micros", property(lambda a: a.balance_micros + a.credit_limit_micros), raising=True
    )


@mutant("operators")
def a_new_cap_has_no_past(patch: pytest.MonkeyPatch) -> None:
    """A cap that is set does not see the calls that live under it."""
    everywhere(patch, caps._places_in, lambda *args: [])
