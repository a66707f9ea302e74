"""The order of targets: priorities first, weights in their proportion, and the same call always the same order."""

from __future__ import annotations

from collections import Counter as Tally

from hypothesis import given
from hypothesis import strategies as st

from capconduit.domain.books import Books
from capconduit.domain.strategies import Candidate, order
from capconduit.vocab import Strategy
from tests.unit.estate_builder import EstateBuilder


def candidates(*numbers: tuple[int, int]) -> list[Candidate]:
    """Candidates with these (priority, weight), named t0, t1, …"""
    builder = EstateBuilder()
    builder.seller()
    builder.rate()
    campaign = builder.campaign()
    for position, (priority, weight) in enumerate(numbers):
        builder.target(f"t{position}", rule={"priority": priority, "weight": weight})
    offers = {o.target.name: o for o in builder.estate().offers(campaign).all}
    return [Candidate(offers[t.name], Books().target(t.tenant_id, t.id)) for t in builder.targets]


def names(ordered: list[Candidate]) -> list[str]:
    return [c.target.name for c in ordered]


RULES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=8)


@given(st.sampled_from(Strategy), RULES, st.text(max_size=8))
def test_every_candidate_appears_exactly_once(strategy: Strategy, rules: list[tuple[int, int]], seed: str) -> None:
    given_ones = candidates(*rules)
    assert sorted(names(order(strategy, given_ones, seed))) == sorted(names(given_ones))


@given(st.sampled_from(Strategy), RULES, st.text(max_size=8))
def test_the_same_seed_gives_the_same_order(strategy: Strategy, rules: list[tuple[int, int]], seed: str) -> None:
    given_ones = candidates(*rules)
    before = list(given_ones)
    assert names(order(strategy, given_ones, seed)) == names(order(strategy, given_ones, seed))
    assert given_ones == before


@given(RULES, st.text(max_size=8))
def test_a_lower_priority_number_always_comes_first(rules: list[tuple[int, int]], seed: str) -> None:
    priorities = [c.rule.priority for c in order(Strategy.PRIORITY, candidates(*rules), seed)]
    assert priorities == sorted(priorities)


@given(RULES, st.text(max_size=8))
def test_weight_zero_is_the_last_resort(rules: list[tuple[int, int]], seed: str) -> None:
    weights = [c.rule.weight for c in order(Strategy.WEIGHTED, candidates(*rules), seed)]
    assert 0 not in weights[: len([w for w in weights if w > 0])]


def test_weights_draw_the_first_in_their_proportion() -> None:
    three = candidates((1, 1), (1, 3), (1, 6))
    first = Tally(names(order(Strategy.WEIGHTED, three, f"call-{i}"))[0] for i in range(5_000))
    assert 400 < first["t0"] < 600
    assert 1_350 < first["t1"] < 1_650
    assert 2_800 < first["t2"] < 3_200


def test_ties_of_priority_are_drawn_by_weight() -> None:
    four = candidates((2, 1), (1, 9), (1, 1), (2, 1))
    orders = [names(order(Strategy.PRIORITY, four, f"call-{i}")) for i in range(1_000)]
    assert all(set(o[:2]) == {"t1", "t2"} for o in orders)
    assert 850 < sum(o[0] == "t1" for o in orders) < 950
    assert 400 < sum(o[2] == "t0" for o in orders) < 600


def test_no_candidates_and_one_need_no_draw() -> None:
    assert order(Strategy.WEIGHTED, [], "x") == []
    assert names(order(Strategy.WEIGHTED, candidates((1, 0)), "x")) == ["t0"]
