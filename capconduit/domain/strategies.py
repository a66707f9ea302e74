"""The order in which a campaign's targets are tried, and how its rotation goes on after a Dial.

All randomness comes from the call's id, so an order can be replayed. What rotates does so by one number for each rule,
its cursor, which is kept: a restart goes on where it stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from capconduit.domain.estate import Offer
from capconduit.domain.model import Rule, Target, TargetState
from capconduit.domain.rating import SECONDS_PER_MINUTE, Tariff, price_of_seconds, round_up_to_increment
from capconduit.domain.record import value
from capconduit.vocab import Strategy

ROTATING = frozenset({Strategy.ROUND_ROBIN, Strategy.PERCENTAGE})
# A target that was closed or full for long is made up for at most so many turns' worth of calls.
CATCH_UP_TURNS = 20


@value
class Candidate:
    """A target that may be dialled, with the rule that links it to the campaign and where the two stand."""

    offer: Offer
    state: TargetState
    cursor: int = 0
    among: frozenset[str] = frozenset()  # the rules that could have taken the call with this one

    @property
    def rule(self) -> Rule:
        """The rule that leads here."""
        return self.offer.rule

    @property
    def target(self) -> Target:
        """Where the call would go."""
        return self.offer.target


def order(strategy: Strategy, candidates: Sequence[Candidate], seed: str) -> list[Candidate]:
    """`candidates` in the order they are to be tried; every candidate appears once.

    Lower priorities come first, ties are drawn by weight, except where the strategy has its own order; it then decides
    its ties the same way.
    """
    match strategy:
        case Strategy.WEIGHTED:
            return _weighted(list(candidates), seed)
        case Strategy.ROUND_ROBIN | Strategy.PERCENTAGE:
            # Weight 0 is the last resort, however far behind the others are.
            return _grouped(candidates, seed, lambda c: (c.rule.weight == 0, -(c.cursor + c.rule.weight)))
        case Strategy.LEAST_COST:
            return _grouped(candidates, seed, lambda c: _minute(c.offer.tariff))
        case Strategy.HIGHEST_PAYOUT:
            return _grouped(candidates, seed, lambda c: -_minute(c.offer.payout))
        case Strategy.LONGEST_IDLE:
            return _grouped(candidates, seed, lambda c: c.state.idle_since_ms)
        case Strategy.FEWEST_ACTIVE:
            return _grouped(candidates, seed, lambda c: c.state.active)
        case Strategy.PRIORITY | Strategy.RING_ALL:
            return _grouped(candidates, seed, lambda _: 0)


def advance(
    strategy: Strategy, rules: Iterable[tuple[Rule, int]], eligible: Iterable[str], picked: str
) -> list[tuple[Rule, int]]:
    """The cursors after a Dial of the rule `picked`, those that moved. `rules` are the campaign's enabled ones with
    their cursors, `eligible` the ids of those that could have taken the call.

    Round-robin (smooth weighted): those that could take part share the turn. Percentage: every enabled rule is owed its
    share of every call; one that could not take part is made up for later, within limits.
    """
    could = set(eligible)
    own = [(rule, cursor) for rule, cursor in rules if strategy is Strategy.PERCENTAGE or rule.id in could]
    total = sum(rule.weight for rule, _ in own)
    bound = CATCH_UP_TURNS * max(total, 1)
    moved = []
    for rule, cursor in own:
        after = cursor + rule.weight - (total if rule.id == picked else 0)
        after = max(min(after, bound), -bound)
        if after != cursor:
            moved.append((rule, after))
    return moved


def _minute(tariff: Tariff | None) -> int:
    """What tariffs are compared by: the price of one minute's call (micros); 0 where there is none."""
    if tariff is None:
        return 0
    return price_of_seconds(tariff, round_up_to_increment(tariff, SECONDS_PER_MINUTE))


def _grouped(candidates: Sequence[Candidate], seed: str, rank: Callable[[Candidate], Any]) -> list[Candidate]:
    """By rank, then priority, then drawn by weight."""
    if len(candidates) < 2:
        return list(candidates)
    ranked = sorted(candidates, key=lambda c: (rank(c), c.rule.priority, c.rule.id))
    ordered: list[Candidate] = []
    for (_, priority), group in groupby(ranked, key=lambda c: (rank(c), c.rule.priority)):
        ordered.extend(_weighted(list(group), f"{seed}:{priority}"))
    return ordered


def _weighted(candidates: list[Candidate], seed: str) -> list[Candidate]:
    """Draw without replacement in proportion to weight; those of weight 0 come last, in the order of their rules."""
    if len(candidates) < 2:
        return candidates
    rng = random.Random(seed)
    drawn: list[Candidate] = []
    left = [c for c in candidates if c.rule.weight > 0]
    while left:
        pick = rng.randrange(sum(c.rule.weight for c in left))
        for candidate in left:
            pick -= candidate.rule.weight
            if pick < 0:
                break
        drawn.append(candidate)
        left.remove(candidate)
    return drawn + [c for c in candidates if c.rule.weight == 0]
