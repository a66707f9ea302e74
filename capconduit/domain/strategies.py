"""The order in which a campaign's targets are tried. All randomness comes from the call's id, so it can be replayed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from capconduit.domain.model import Rule, Target
from capconduit.vocab import Strategy


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target that may be dialled, with the rule that links it to the campaign."""

    rule: Rule
    target: Target


def order(strategy: Strategy, candidates: Sequence[Candidate], seed: str) -> list[Candidate]:
    """`candidates` in the order they are to be tried; every candidate appears once."""
    if strategy is Strategy.WEIGHTED:
        return _weighted(list(candidates), seed)
    by_priority = sorted(candidates, key=lambda c: (c.rule.priority, c.rule.id))
    ordered: list[Candidate] = []
    for priority, group in groupby(by_priority, key=lambda c: c.rule.priority):
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
