"""What operators do while calls live: each change through the services, as the command line does it; some only tried.

What is refused, or fails with the database, changes nothing. An operator whose connection broke asks again with the
same key. All of these are happenings of `faults.FAULTS`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from capconduit.domain.model import Account, LedgerEntry, Schedule
from capconduit.errors import DatabaseError, Refused
from capconduit.services import balances, blocks, campaigns, caps, dids, rates, sellers, settings, targets
from capconduit.services.office import Desk, Office
from capconduit.vocab import CampaignStatus, Status, Strategy
from tests.simulation.estates import PATTERNS, ZONES, some_limit
from tests.simulation.faults import BOOKS, FUNDED, LIMITS, OBEYED, ONCE, happening
from tests.simulation.loop import Killed
from tests.simulation.reference import HOURS
from tests.unit.estate_builder import DOLLAR, TENANT

if TYPE_CHECKING:
    from tests.simulation.world import World

Work = Callable[[Office], Any]


def change(world: World, what: str, work: Work) -> None:
    """Carry out one change; one in ten is a dry run, after which nothing may be changed."""
    dry = world.random("dry").random() < 0.1
    world.say(f"operator: {what}{' (dry run)' if dry else ''}")
    before = world.invariants.snapshot() if dry else None
    try:
        with world.in_office(dry_run=dry) as office:
            work(office)
    except Refused as error:
        world.say(f"  refused: {error.slug}")
    except DatabaseError as error:
        world.say(f"  failed: {error.slug}")
    except Killed:
        world.say("  killed")
    if before is not None:
        assert world.invariants.snapshot() == before, "a dry run has changed something"


# --- caps -------------------------------------------------------------------------------------------------------------


@happening("an operator sets, raises or lowers a cap, with calls under it", LIMITS, 90)
def operator_sets_cap(world: World, rng: random.Random) -> None:
    scoped, limit = rng.choice(world.scopes()), some_limit(rng)
    known = [c for c in world.caps() if c.scope_id != TENANT or rng.random() < 0.5]
    if known and rng.random() < 0.5:  # another value for one that is there
        cap = rng.choice(known)
        scoped = next(s for s in world.scopes() if (s.scope, s.id) == (cap.scope, cap.scope_id))
        value = max(cap.limit_value * rng.choice([0, 1, 2, 3]) // rng.choice([1, 2]), rng.choice([0, 1]))
        limit = caps.Limit(cap.metric, cap.window_kind, value, cap.window_ms)
    what = f"cap {scoped.scope} {scoped.name} {limit.metric} {limit.value}/{limit.window} {limit.window_ms or ''}"
    change(world, what, lambda office: caps.set_caps(office, scoped.scope, scoped.name, [limit]))


@happening("an operator takes a cap away, with calls under it", BOOKS, 25)
def operator_clears_cap(world: World, rng: random.Random) -> None:
    if found := world.caps():
        cap = rng.choice(found)
        scoped = next(s for s in world.scopes() if (s.scope, s.id) == (cap.scope, cap.scope_id))
        change(world, f"caps of {cap.scope} {scoped.name} cleared",
               lambda office: caps.clear_caps(office, scoped.scope, scoped.name))  # fmt: skip


@happening("an operator changes the time zone that caps on targets, trunks and the system go by", LIMITS, 15)
def operator_changes_zone(world: World, rng: random.Random) -> None:
    zone = rng.choice([*ZONES, "UTC", "Asia/Kolkata"])
    change(world, f"time zone {zone}", lambda office: settings.set_setting(office, "timezone", zone))


# --- money ------------------------------------------------------------------------------------------------------------


@happening("an operator adds money or takes it back, all that is available or a micro more", FUNDED, 60)
def operator_adjusts_balance(world: World, rng: random.Random) -> None:
    seller = rng.choice(world.builder.sellers).name
    account: Account = world.tables.rows[Account][seller]
    everything = [-account.balance_micros or 1, -account.available_micros or 1, -account.available_micros - 1]
    amount = rng.choice([DOLLAR, 5 * DOLLAR, 100_000, 100_000, -100_000, -DOLLAR, *everything])
    key = f"k{world.next_number()}"

    def adjust(office: Office) -> None:
        balances.adjust(office, seller, amount, reason="simulated", key=key)

    change(world, f"{seller} {amount:+}", adjust)
    if rng.random() < 0.5:  # nobody knows whether it was done: again, with the same key
        change(world, f"{seller} {amount:+} again", adjust)


@happening("an operator corrects a ledger entry, of a call or of an adjustment", BOOKS, 20)
def operator_corrects(world: World, rng: random.Random) -> None:
    entries = [e for e in world.tables.rows[LedgerEntry].values() if e.id.isalnum()]
    if entries:
        entry, amount = rng.choice(entries), rng.choice([1, DOLLAR, -DOLLAR, 50_000])
        change(world, f"correction of {entry.id} by {amount:+}",
               lambda office: balances.correct(office, entry.id, amount, reason="simulated"))  # fmt: skip


@happening("an operator changes a seller's credit limit, to less than is used", BOOKS, 25)
def operator_changes_credit(world: World, rng: random.Random) -> None:
    seller, credit = rng.choice(world.builder.sellers).name, rng.choice([0, 0, 100_000, DOLLAR, 20 * DOLLAR])
    change(world, f"credit of {seller} {credit}",
           lambda office: sellers.set_seller(office, seller, credit_limit_micros=credit))  # fmt: skip


@happening("an operator changes a rate; calls that live keep theirs", ONCE, 30)
def operator_changes_rate(world: World, rng: random.Random) -> None:
    name = f"rate{rng.randrange(3)}"
    fields: dict[str, Any] = rng.choice(
        [
            {"per_minute_micros": rng.choice([0, 60, 200_000, 3 * DOLLAR])},
            {"connect_fee_micros": rng.choice([0, 70_000])},
            {"increment": rng.choice(["60/60", "1/1", "30/6", "7/3"])},
        ]
    )
    change(world, f"{name} {fields}", lambda office: rates.set_rate(office, name, **fields))


# --- who may call whom ------------------------------------------------------------------------------------------------


@happening("an operator pauses a campaign or lets it go on", OBEYED, 30)
def operator_pauses(world: World, rng: random.Random) -> None:
    name, paused = rng.choice(world.builder.campaigns).name, rng.random() < 0.4
    status = CampaignStatus.PAUSED if paused else CampaignStatus.ACTIVE
    change(world, f"{name} {status}", lambda office: campaigns.pause_campaign(office, name, paused=paused))


@happening("an operator suspends a seller or a DID, or lets it go on", OBEYED, 30)
def operator_suspends(world: World, rng: random.Random) -> None:
    suspended = rng.random() < 0.35
    if rng.random() < 0.5:
        seller = rng.choice(world.builder.sellers).name
        status = Status.SUSPENDED if suspended else Status.ACTIVE
        change(world, f"{seller} {status}", lambda office: sellers.set_seller(office, seller, status=status))
    else:
        number = rng.choice(world.builder.dids).number
        change(world, f"{number} suspended={suspended}",
               lambda office: dids.suspend_did(office, number, suspended=suspended))  # fmt: skip


@happening("an operator blocks callers, or unblocks them", OBEYED, 30)
def operator_blocks(world: World, rng: random.Random) -> None:
    where = rng.choice([blocks.Where(), blocks.Where(seller="acme"), blocks.Where(campaign="campaign2")])
    pattern = rng.choice(PATTERNS)

    if rng.random() < 0.6:
        change(world, f"block {pattern}", lambda office: blocks.add_block(office, pattern, where))
    else:
        change(world, f"unblock {pattern}", lambda office: blocks.remove_block(office, pattern, where))


@happening("an operator disables, rests or revives a target, or changes its rates, ring time or schedule", LIMITS, 50)
def operator_changes_target(world: World, rng: random.Random) -> None:
    name = rng.choice(world.builder.targets).name
    fields: dict[str, Any] = rng.choice(
        [
            {"enabled": rng.random() < 0.7},
            {"ring_ms": rng.choice([3_000, 9_000])},
            {"rate": rng.choice(["", "rate0", "rate1", "rate2"])},
            {"payout": rng.choice(["", "rate0", "rate1"])},
            {"schedule": rng.choice(["", "", *(s.name for s in world.builder.schedules)])},
        ]
    )
    choice = rng.random()
    if choice < 0.15:
        change(world, f"{name} revived", lambda office: targets.revive_target(office, name))
    elif choice < 0.25:
        change(world, f"{name} rested", lambda office: targets.rest_target(office, name, rest_ms=5_000))
    else:
        change(world, f"{name} {fields}", lambda office: targets.set_target(office, name, **fields))


@happening("an operator changes or removes a rule, or makes one, while its calls live", BOOKS, 40)
def operator_changes_rule(world: World, rng: random.Random) -> None:
    campaign, target = rng.choice(world.builder.campaigns).name, rng.choice(world.builder.targets).name
    choice = rng.random()
    if choice < 0.25:
        change(world, f"rule {campaign}/{target} removed",
               lambda office: targets.remove_rule(office, campaign, target))  # fmt: skip
    elif choice < 0.5:
        change(world, f"rule {campaign}/{target} made",
               lambda office: targets.add_rule(office, campaign, target, priority=rng.randrange(3)))  # fmt: skip
    else:
        fields: dict[str, Any] = rng.choice(
            [{"weight": rng.randrange(4)}, {"priority": rng.randrange(3)}, {"enabled": rng.random() < 0.6},
             {"rate": rng.choice(["", "rate0", "rate1"])}]
        )  # fmt: skip
        change(world, f"rule {campaign}/{target} {fields}",
               lambda office: targets.set_rule(office, campaign, target, **fields))  # fmt: skip


@happening("an operator changes a campaign: strategy, threshold, windows, schedule, policies", LIMITS, 50)
def operator_changes_campaign(world: World, rng: random.Random) -> None:
    name = rng.choice(world.builder.campaigns).name
    fields: dict[str, Any] = rng.choice(
        [
            {"strategy": rng.choice(list(Strategy))},
            {"billable_threshold_ms": rng.choice([0, 20_000])},
            {"duplicate_window_ms": rng.choice([0, 30_000])},
            {"max_duration_ms": rng.choice([30_000, 3_600_000])},
            {"max_attempts": rng.choice([1, 2, 5])},
            {"min_attestation": rng.choice(["", "", "B"])},
            {"anonymous_callers": rng.choice(["", "reject"])},
            {"rate": rng.choice(["rate0", "rate1", "rate2"])},
            {"schedule": rng.choice(["", "", *(s.name for s in world.builder.schedules)])},
        ]
    )
    change(world, f"{name} {fields}", lambda office: campaigns.set_campaign(office, name, **fields))


@happening("an operator changes opening hours or a setting", LIMITS, 40)
def operator_changes_settings(world: World, rng: random.Random) -> None:
    if rng.random() < 0.3:
        schedule, hours = rng.choice(world.builder.schedules).id, rng.choice(sorted(HOURS))

        def reschedule(office: Office) -> None:
            def work(desk: Desk) -> None:
                row = desk.tx.find(Schedule, TENANT, id=schedule)
                assert row is not None
                after = replace(row, hours=hours)
                desk.tx.update(after)
                desk.changed("schedule.set", schedule, row, after)

            office.change(work)

        change(world, f"schedule {schedule}: {hours}", reschedule)
        return
    name, value = rng.choice(
        [
            ("funding_slice_s", rng.choice(["6", "60", "600"])),
            ("breaker_failures", rng.choice(["1", "3"])),
            ("breaker_rest_s", rng.choice(["5", "60"])),
            ("anonymous_callers", rng.choice(["allow", "reject"])),
        ]
    )
    change(world, f"setting {name} {value}", lambda office: settings.set_setting(office, name, value))
