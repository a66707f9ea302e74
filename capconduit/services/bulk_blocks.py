"""Lists of blocked callers with all that a block has; those of many thousand patterns are `add_blocks`'s, in steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from capconduit.domain.blocklist import BLOCK_SCOPES, parse_pattern
from capconduit.domain.model import Block, Campaign, Seller
from capconduit.errors import UsageError
from capconduit.services.blocks import MAX_REASON
from capconduit.services.bulk import (
    Columns,
    Line,
    Outcome,
    Plan,
    Problems,
    Tell,
    carry_out,
    check_count,
    exists_already,
    known_name,
    progress,
    silent,
    twice,
)
from capconduit.services.office import Desk, Office
from capconduit.units import parse_instant
from capconduit.vocab import CapScope

MOST: Final = 10_000  # lines of one list: decisions wait while they are written
COLUMNS: Final = Columns(("pattern",), ("scope", "name", "reason", "expires"), ("expired", "id", "created", "updated"))
_SCOPES: Final[Mapping[str, CapScope]] = {scope.value: scope for scope in BLOCK_SCOPES}

_Key = tuple[str, str, str]


def import_blocks(
    office: Office,
    lines: Sequence[Line],
    *,
    update: bool = False,
    problems: Problems | None = None,
    tell: Tell = silent,
) -> Outcome:
    """Add the blocks of a list, and with `update` change the reasons and ends of those that hold already.

    A line whose end is over adds nothing; a block that is over is made anew. Raises BadLines.
    """
    check_count(lines, MOST)
    gathered = problems or Problems()
    plan = carry_out(office, lambda desk: _Look(desk, update).plan(lines, gathered, tell), _nothing)
    return plan.outcome


def _nothing(_desk: Desk, _plan: Plan) -> Callable[[], None]:
    """Of a list of callers nothing else has to be made: see carry_out."""
    return lambda: None


class _Look:
    """What a list is compared with, read once."""

    def __init__(self, desk: Desk, update: bool) -> None:
        self._desk, self._update = desk, update
        self._named: Mapping[CapScope, Mapping[str, Seller] | Mapping[str, Campaign]] = {
            CapScope.SELLER: {s.name: s for s in desk.tx.rows(Seller, desk.tenant_id)},
            CapScope.CAMPAIGN: {c.name: c for c in desk.tx.rows(Campaign, desk.tenant_id)},
        }
        self._known = {_key(block): block for block in desk.tx.rows(Block, desk.tenant_id)}
        self._region = desk.settings().default_region

    def plan(self, lines: Sequence[Line], problems: Problems, tell: Tell) -> Plan:
        """The rows that the list makes and changes. Raises BadLines."""
        plan, seen = Plan("block"), dict[_Key, int]()
        for place, line in enumerate(lines, 1):
            with problems.of(line):
                self._line(line, seen, plan)
            progress(tell, place, len(lines))
        problems.check()
        return plan

    def _line(self, line: Line, seen: dict[_Key, int], plan: Plan) -> None:
        wanted = self._wanted(line)
        if seen.setdefault(_key(wanted), line.number) != line.number:
            raise twice("block", wanted.pattern, seen[_key(wanted)])
        before = self._known.get(_key(wanted))
        if _is_over(wanted, self._desk.now_ms):
            plan.same += 1
            return
        if before is None:
            plan.added.append(wanted)
            return
        holds = not _is_over(before, self._desk.now_ms)
        if holds and not self._update:
            raise exists_already("block", wanted.pattern)
        after = replace(
            before,
            reason=wanted.reason if "reason" in line.cells or not holds else before.reason,
            expires_ms=wanted.expires_ms if "expires" in line.cells or not holds else before.expires_ms,
        )
        if after == before:
            plan.same += 1
        else:
            plan.changed.append((before, replace(after, updated_ms=self._desk.now_ms)))

    def _wanted(self, line: Line) -> Block:
        """The block that a line asks for. Raises UsageError, NotFound."""
        scope, scope_id = self._scope(line)
        reason, end = line.text("reason"), line.text("expires")
        if len(reason) > MAX_REASON:
            raise UsageError("text-too-long", f"a reason of more than {MAX_REASON} characters", "say it shorter")
        return Block(
            **self._desk.stamp(),
            scope=scope,
            scope_id=scope_id,
            pattern=parse_pattern(line.text("pattern"), self._region),
            reason=reason,
            expires_ms=parse_instant(end, now_ms=self._desk.now_ms) if end else None,
        )

    def _scope(self, line: Line) -> tuple[CapScope, str]:
        text, name = line.text("scope").lower(), line.text("name")
        scope = _SCOPES.get(text or CapScope.SYSTEM)
        if scope is None:
            words = ", ".join(_SCOPES)
            raise UsageError("value-invalid", f"scope: {text!r} is not one of {words}", f"write one of {words}")
        if scope is CapScope.SYSTEM:
            if name:
                raise UsageError(
                    "scope-missing", f"{name!r} is whose name?", "write seller or campaign in column scope"
                )
            return scope, self._desk.tenant_id
        return scope, known_name(scope.value, name, self._named[scope]).id


def _key(block: Block) -> _Key:
    return block.scope, block.scope_id, block.pattern


def _is_over(block: Block, now_ms: int) -> bool:
    return block.expires_ms is not None and block.expires_ms <= now_ms
