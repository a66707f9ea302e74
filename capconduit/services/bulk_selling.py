"""Lists of rates, targets and rules: each line by the noun's own service, all in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as fields_of
from typing import Any, Final

from capconduit.domain.model import Campaign, Rate, Rule, Target
from capconduit.errors import UsageError
from capconduit.services import rates, targets
from capconduit.services.bulk import (
    Columns,
    Line,
    Outcome,
    Problems,
    Tell,
    check_count,
    each_line,
    exists_already,
    silent,
    twice,
)
from capconduit.services.office import Desk, Office
from capconduit.units import MS_PER_SECOND, parse_duration_ms, parse_money
from capconduit.vocab import TargetKind

MOST: Final = 10_000  # lines of one list: each has the whole of its noun's rules to pass
RATE_COLUMNS: Final = Columns(
    ("name",),
    ("per_minute", "connect_fee", "increment", "currency", "then_per_minute", "then_after_ms", "then_after"),
)
TARGET_COLUMNS: Final = Columns(
    ("name",),
    ("kind", "address", "agent", "ring_ms", "ring", "enabled", "schedule", "rate", "payout"),
    ("health", "active", "failures", "rested_until", "id", "created", "updated"),
)
RULE_COLUMNS: Final = Columns(("campaign", "target"), ("priority", "weight", "enabled", "rate", "payout"))
_YES: Final = frozenset({"true", "yes", "1", "on"})
_NO: Final = frozenset({"false", "no", "0", "off"})

Fields = dict[str, Any]


def import_rates(office: Office, lines: Sequence[Line], **how: Any) -> Outcome:
    """Add the rates of a list, or with `update` change them too. Raises BadLines."""

    def work(inner: Office, line: Line, update: bool) -> str:
        name = line.text("name")
        current = inner.read(lambda desk: desk.tx.find(Rate, desk.tenant_id, name=name))
        if current is None:
            fields = _rate_fields(line, line.text("currency") or "USD")
            if "per_minute_micros" not in fields:
                raise UsageError("cell-missing", f"rate {name!r} has no price", "write it in column per_minute")
            rates.add_rate(inner, name, **fields)
            return "added"
        _may_change("rate", name, update)
        if line.text("currency").upper() not in ("", current.currency):
            raise UsageError("currency-stays", f"rate {name!r} is kept in {current.currency}", "add another rate")
        fields = _rate_fields(line, current.currency) | _one_price(line, current)
        return _set(current, fields, _rate_now, lambda f: _set_rate(inner, current, f))

    return _imported(office, lines, lambda line: ("rate", line.text("name")), work, **how)


def import_targets(office: Office, lines: Sequence[Line], **how: Any) -> Outcome:
    """Add the targets of a list, or with `update` change them too. Raises BadLines."""

    def work(inner: Office, line: Line, update: bool) -> str:
        name, fields = line.text("name"), _target_fields(line)
        current = inner.read(lambda desk: desk.tx.find(Target, desk.tenant_id, name=name))
        if current is None:
            enabled = fields.pop("enabled", True)
            if "kind" not in fields:
                raise UsageError("cell-missing", f"target {name!r} has no kind", "write it in column kind")
            targets.add_target(inner, name, **fields)
            if not enabled:
                targets.set_target(inner, name, enabled=False)
            return "added"
        _may_change("target", name, update)
        view = targets.show_target(inner, name)
        now = {"schedule": view.schedule, "rate": view.rate, "payout": view.payout, "agent": view.agent}
        return _set(current, fields, lambda row: _own(row, now), lambda f: targets.set_target(inner, name, **f))

    return _imported(office, lines, lambda line: ("target", line.text("name")), work, **how)


def import_rules(office: Office, lines: Sequence[Line], **how: Any) -> Outcome:
    """Add the rules of a list, or with `update` change them too. Raises BadLines."""

    def work(inner: Office, line: Line, update: bool) -> str:
        campaign, target, fields = line.text("campaign"), line.text("target"), _rule_fields(line)
        current = inner.read(lambda desk: _rule(desk, campaign, target))
        if current is None:
            enabled = fields.pop("enabled", True)
            targets.add_rule(inner, campaign, target, **fields)
            if not enabled:
                targets.set_rule(inner, campaign, target, enabled=False)
            return "added"
        _may_change("rule", f"{campaign}/{target}", update)
        view = targets.show_rule(inner, campaign, target)
        now = {"rate": view.rate, "payout": view.payout}
        return _set(
            current, fields, lambda row: _own(row, now), lambda f: targets.set_rule(inner, campaign, target, **f)
        )

    def named(line: Line) -> tuple[str, str]:
        return "rule", f"{line.text('campaign')}/{line.text('target')}"

    return _imported(office, lines, named, work, **how)


def _imported(
    office: Office,
    lines: Sequence[Line],
    named: Callable[[Line], tuple[str, str]],
    work: Callable[[Office, Line, bool], str],
    *,
    update: bool = False,
    problems: Problems | None = None,
    tell: Tell = silent,
) -> Outcome:
    check_count(lines, MOST)
    gathered = problems or Problems()
    seen: dict[str, int] = {}

    def one(inner: Office, line: Line) -> str:
        noun, name = named(line)
        if seen.setdefault(name, line.number) != line.number:
            raise twice(noun, name, seen[name])
        return work(inner, line, update)

    return each_line(office, lines, gathered, tell, one)


def _may_change(noun: str, name: str, update: bool) -> None:
    if not update:
        raise exists_already(noun, name)


def _set(row: Any, wanted: Fields, now: Callable[[Any], Mapping[str, Any]], work: Callable[[Fields], object]) -> str:
    """Change what is wanted otherwise than it is, if anything."""
    current = now(row)
    changed = {name: value for name, value in wanted.items() if current[name] != value}
    if not changed:
        return "same"
    work(changed)
    return "changed"


def _own(row: Target | Rule, names: Mapping[str, str]) -> Fields:
    return {column.name: getattr(row, column.name) for column in fields_of(row)} | dict(names)


def _rule(desk: Desk, campaign: str, target: str) -> Rule | None:
    whose, where = desk.named(Campaign, campaign), desk.named(Target, target)
    return desk.tx.find(Rule, desk.tenant_id, campaign_id=whose.id, target_id=where.id)


def _rate_fields(line: Line, currency: str) -> Fields:
    """What a line says of a rate, as add_rate wants it. `then_…` are both there or none."""
    fields: Fields = {"currency": currency.upper()}
    for column in ("per_minute", "connect_fee", "then_per_minute"):
        if text := line.text(column):
            fields[f"{column}_micros"] = parse_money(text, currency=currency)
    if text := line.text("increment"):
        rates.parse_increment(text)
        fields["increment"] = text.strip()
    after_ms = _duration(line, "then_after")
    if after_ms is not None:
        fields["then_after_ms"] = after_ms
    return fields


def _one_price(line: Line, rate: Rate) -> Fields:
    """The cells of the second price are there and empty: there is none any more."""
    cells = [line.cells[c] for c in ("then_per_minute", "then_after", "then_after_ms") if c in line.cells]
    return {"one_price": True} if "then_per_minute" in line.cells and rate.then_after_s and not any(cells) else {}


def _rate_now(rate: Rate) -> Fields:
    return {
        "currency": rate.currency,
        "per_minute_micros": rate.per_minute_micros,
        "connect_fee_micros": rate.connect_fee_micros,
        "increment": f"{rate.first_s}/{rate.step_s}",
        "then_per_minute_micros": rate.then_per_minute_micros if rate.then_after_s else None,
        "then_after_ms": rate.then_after_s * MS_PER_SECOND if rate.then_after_s else None,
        "one_price": False,
    }


def _set_rate(office: Office, rate: Rate, fields: Fields) -> None:
    rates.set_rate(office, rate.name, **fields)


def _target_fields(line: Line) -> Fields:
    fields: Fields = {}
    if text := line.text("kind"):
        fields["kind"] = _word(text, TargetKind)
    if text := line.text("address"):
        fields["address"] = text
    ring_ms = _duration(line, "ring")
    if ring_ms is not None:
        fields["ring_ms"] = ring_ms
    names = ("schedule", "rate", "payout", "agent")
    return fields | _enabled(line) | {c: line.cells[c] for c in names if c in line.cells}


def _rule_fields(line: Line) -> Fields:
    fields: Fields = {}
    for column in ("priority", "weight"):
        if text := line.text(column):
            fields[column] = _whole(column, text)
    return fields | _enabled(line) | {c: line.cells[c] for c in ("rate", "payout") if c in line.cells}


def _enabled(line: Line) -> Fields:
    text = line.text("enabled").lower()
    if not text:
        return {}
    if text not in _YES | _NO:
        raise UsageError("value-invalid", f"enabled: {text!r} is neither true nor false", "write true or false")
    return {"enabled": text in _YES}


def _word(text: str, kind: type[TargetKind]) -> TargetKind:
    try:
        return kind(text.lower())
    except ValueError:
        words = ", ".join(kind)
        raise UsageError("value-invalid", f"{text!r} is not one of {words}", f"write one of {words}") from None


def _whole(column: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise UsageError("value-invalid", f"{column}: {text!r} is not a whole number", "write it in digits")
    return int(text)


def _duration(line: Line, column: str) -> int | None:
    """`ring` as people write it (`20s`), or `ring_ms` as exports have it; None where neither is written."""
    people, machine = line.text(column), line.text(f"{column}_ms")
    if people and machine:
        raise UsageError("cell-twice", f"{column} and {column}_ms are both written", "write one of them")
    if machine:
        return _whole(f"{column}_ms", machine)
    return parse_duration_ms(people) if people else None
