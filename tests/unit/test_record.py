"""Records made in numbers, from values or from each other, are those that the class itself makes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from capconduit.domain import model
from capconduit.domain.model import Event, Place, Target
from capconduit.domain.rating import Funding
from capconduit.domain.record import from_values, maker, replace
from capconduit.vocab import EventKind, PlaceState

KINDS = [kind for kind in vars(model).values() if dataclasses.is_dataclass(kind) and isinstance(kind, type)]
PLACE = Place(
    call_id="c1", attempt=1, cap_id="cap", tenant_id="T", window_start_ms=0, amount=1, state=PlaceState.HELD,
    counted=0, reason="", node="n", boot_id="b",
)  # fmt: skip


def names(kind: type[Any]) -> list[str]:
    return [f.name for f in dataclasses.fields(kind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_values_in_the_order_of_the_fields_make_what_the_class_makes(kind: type[Any]) -> None:
    values = [f"value {number}" for number in range(len(names(kind)))]
    assert from_values(kind)(values) == kind(**dict(zip(names(kind), values, strict=True)))
    assert from_values(kind)(tuple(values)) == from_values(kind)(values)


@pytest.mark.parametrize("wrong", [[], ["one"], ["one", "two", "three"]])
def test_too_few_or_too_many_values_make_nothing(wrong: list[str]) -> None:
    with pytest.raises(ValueError, match="values to unpack"):
        from_values(Funding)(wrong)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_copy_differs_in_what_was_changed_and_in_nothing_else(kind: type[Any]) -> None:
    old = from_values(kind)([f"value {number}" for number in range(len(names(kind)))])
    last = names(kind)[-1]
    before = dataclasses.asdict(old)
    new = replace(old, **{last: "changed"})
    assert type(new) is kind
    assert dataclasses.asdict(new) == before | {last: "changed"}
    assert dataclasses.asdict(old) == before


def test_a_field_that_a_record_does_not_have_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        replace(PLACE, nothing=1)  # type: ignore[call-arg]  # what mypy sees, and somebody without it is told


def test_what_a_maker_makes_is_what_the_class_makes() -> None:
    assert maker(Place)(**dataclasses.asdict(PLACE)) == PLACE
    kind = {"id": "e", "tenant_id": "T", "at_ms": 1, "kind": EventKind.CALL_ENDED, "subject": "s", "data": "{}"}
    assert maker(Event)(**kind) == Event(**kind)  # type: ignore[arg-type]  # of one dict for both


def test_a_maker_wants_every_field() -> None:
    with pytest.raises(TypeError, match="boot_id"):
        maker(Place)(**{name: 1 for name in names(Place) if name != "boot_id"})  # type: ignore[arg-type]
    assert Target.__dataclass_fields__["agent_id"].default is None  # so it is none for a maker


def test_values_of_one_content_are_one_key() -> None:
    assert {Funding(1, 60): "known"}[Funding(hold_micros=1, funded_s=60)] == "known"
    assert Funding(1, 60) != Funding(2, 60)
