"""Blocklists: the callers that are refused, for everybody, a seller or a campaign."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, Final

from capconduit.domain.blocklist import BLOCK_SCOPES, parse_pattern
from capconduit.domain.model import Block, Campaign, Seller
from capconduit.errors import CapConduitError, NotFound, Refused, UsageError
from capconduit.services.office import NEAR_NAMES, Desk, Office
from capconduit.units import MAX_INSTANT_MS, format_instant
from capconduit.vocab import CapScope

MAX_REASON: Final = 500  # characters
MAX_AT_ONCE: Final = 100_000  # patterns of one list
OFFERED: Final = 3  # blocks named where a pattern fits several
STEP: Final = 200  # patterns of a list that are added in one transaction
NEAR_AMONG: Final = 10_000  # patterns that are looked through for one that was meant
_SCOPE_NAMES: Final = {CapScope.SYSTEM: "everybody", CapScope.SELLER: "seller", CapScope.CAMPAIGN: "campaign"}


@dataclass(frozen=True, slots=True)
class Where:
    """For whose calls a block holds: a seller's, a campaign's, or with neither everybody's."""

    seller: str = ""
    campaign: str = ""

    def __post_init__(self) -> None:
        if self.seller and self.campaign:
            raise UsageError(
                "scope-twice",
                f"seller {self.seller!r} and campaign {self.campaign!r} are two places to block at",
                "give one of them; the campaign is the narrower",
            )

    @property
    def is_given(self) -> bool:
        """Whether one was named."""
        return bool(self.seller or self.campaign)


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a list of callers to block, as it was written; `line` counts from 1."""

    line: int
    pattern: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BlockView:
    """A block, the name of the seller or campaign it belongs to (empty: everybody's), and whether it is over."""

    block: Block
    name: str
    expired: bool


def add_block(
    office: Office, pattern: str, where: Where, *, reason: str = "", expires_ms: int | None = None
) -> BlockView:
    """Block a caller; one that was blocked until a while ago is blocked anew. Raises UsageError, NotFound, Refused."""
    _check_reason(reason)

    def work(desk: Desk) -> BlockView:
        _check_expiry(expires_ms, desk.now_ms)
        scope, scope_id = _scope(desk, where)
        kept = parse_pattern(pattern, desk.settings().default_region)
        known = _find(desk, kept, scope, scope_id)
        if known is not None and not _is_over(known, desk.now_ms):
            raise Refused(
                "block-exists",
                f"{kept!r} is blocked already for {_whose(where)}",
                f"change it: capconduit block set {kept!r}{_flags(where)}",
            )
        if known is not None:
            desk.tx.delete(known)
        block = _block(desk, kept, scope, scope_id, reason, expires_ms)
        desk.tx.insert(block)
        desk.changed("block.add", kept, known, block)
        return _view(desk, block)

    return office.change(work)


def add_blocks(
    office: Office,
    entries: Sequence[Entry],
    where: Where,
    *,
    reason: str = "",
    expires_ms: int | None = None,
    rest: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Block the callers of a list: how many were added, and how many were blocked already.

    Every line is looked at before the first is added; then they are added STEP at a time, because nobody's call is
    decided meanwhile; between two steps `rest` is called, for calls to have their turn. A list that was interrupted can
    be given again. `reason` stands for the entries without one of their own. Raises UsageError, which names the line.
    """
    if len(entries) > MAX_AT_ONCE:
        raise UsageError("list-too-long", f"{len(entries)} patterns are too many", f"give {MAX_AT_ONCE} at a time")
    _check_reason(reason)

    def look(desk: Desk) -> dict[str, str]:
        _check_expiry(expires_ms, desk.now_ms)
        _scope(desk, where)
        region = desk.settings().default_region
        reasons: dict[str, str] = {}
        for entry in entries:
            reasons.setdefault(_pattern_of(entry, region), entry.reason or reason)
        return reasons

    wanted = list(office.read(look).items())
    added = 0
    for first in range(0, len(wanted), STEP):
        step = partial(_add_some, reasons=dict(wanted[first : first + STEP]), where=where, expires_ms=expires_ms)
        added += office.change(step)
        rest()
    return added, len(entries) - added


def _add_some(desk: Desk, *, reasons: dict[str, str], where: Where, expires_ms: int | None) -> int:
    """Block these patterns, each for its reason; how many were not blocked already."""
    scope, scope_id = _scope(desk, where)
    found = [_find(desk, pattern, scope, scope_id) for pattern in reasons]
    known = {block.pattern: block for block in found if block is not None}
    fresh = {
        kept: _block(desk, kept, scope, scope_id, reason, expires_ms)
        for kept, reason in reasons.items()
        if kept not in known or _is_over(known[kept], desk.now_ms)
    }
    for kept in fresh.keys() & known.keys():
        desk.tx.delete(known[kept])
    desk.tx.insert_all(list(fresh.values()))
    desk.tx.insert_all([desk.entry("block.add", kept, known.get(kept), block) for kept, block in fresh.items()])
    if fresh:
        desk.changed("block.import", f"{len(fresh)} patterns for {_whose(where)}", None, None)
    return len(fresh)


def _pattern_of(entry: Entry, region: str) -> str:
    try:
        _check_reason(entry.reason)
        return parse_pattern(entry.pattern, region)
    except CapConduitError as error:
        raise UsageError(error.slug, f"line {entry.line}: {error.message}", error.hint) from None


def list_blocks(office: Office, where: Where) -> Sequence[BlockView]:
    """All blocks, or those of a seller or campaign, by whose they are and pattern."""

    def work(desk: Desk) -> Sequence[BlockView]:
        names = _names(desk)
        rows = _rows(desk, *_scope(desk, where)) if where.is_given else desk.tx.rows(Block, desk.tenant_id)
        views = [BlockView(b, names.get(b.scope_id, ""), _is_over(b, desk.now_ms)) for b in rows]
        return sorted(views, key=lambda v: (BLOCK_SCOPES.index(v.block.scope), v.name, v.block.pattern))

    return office.read(work)


def show_block(office: Office, block: str, where: Where) -> BlockView:
    """One block, by pattern or id. Raises NotFound, Refused (the pattern is blocked in several places)."""
    return office.read(lambda desk: _view(desk, _named(desk, block, where)))


def set_block(office: Office, block: str, where: Where, **fields: Any) -> BlockView:
    """Change reason or expires_ms (None: never). Raises UsageError, NotFound, Refused."""
    _check_reason(fields.get("reason", ""))

    def work(desk: Desk) -> BlockView:
        _check_expiry(fields.get("expires_ms"), desk.now_ms)
        before = _named(desk, block, where)
        after = replace(before, **fields, updated_ms=desk.now_ms)
        desk.tx.update(after)
        desk.changed("block.set", before.pattern, before, after)
        return _view(desk, after)

    return office.change(work)


def remove_block(office: Office, block: str, where: Where) -> None:
    """Let a caller through again. Raises NotFound, Refused."""

    def work(desk: Desk) -> None:
        row = _named(desk, block, where)
        desk.tx.delete(row)
        desk.changed("block.remove", row.pattern, row, None)

    office.change(work)


def remove_blocks_of(desk: Desk, scope: CapScope, scope_id: str) -> None:
    """The blocks of something that is being removed go with it."""
    for block in _rows(desk, scope, scope_id):
        desk.tx.delete(block)


def _check_reason(reason: str) -> None:
    if len(reason) > MAX_REASON:
        raise UsageError("text-too-long", f"a reason of more than {MAX_REASON} characters", "say it shorter")


def _check_expiry(expires_ms: int | None, now_ms: int) -> None:
    if expires_ms is None:
        return
    if expires_ms <= now_ms:
        raise UsageError(
            "expiry-past", f"{format_instant(expires_ms)} is over", "give a time to come, like 7d or 2030-01-31"
        )
    if expires_ms >= MAX_INSTANT_MS:
        raise UsageError("expiry-invalid", "that is too far away", "leave --expires out to block for ever")


def _scope(desk: Desk, where: Where) -> tuple[CapScope, str]:
    if where.campaign:
        return CapScope.CAMPAIGN, desk.named(Campaign, where.campaign).id
    if where.seller:
        return CapScope.SELLER, desk.named(Seller, where.seller).id
    return CapScope.SYSTEM, desk.tenant_id


def _whose(where: Where) -> str:
    if where.campaign:
        return f"campaign {where.campaign!r}"
    return f"seller {where.seller!r}" if where.seller else "everybody"


def _flags(where: Where) -> str:
    if where.campaign:
        return f" --campaign {where.campaign}"
    return f" --seller {where.seller}" if where.seller else ""


def _block(desk: Desk, pattern: str, scope: CapScope, scope_id: str, reason: str, expires_ms: int | None) -> Block:
    return Block(**desk.stamp(), scope=scope, scope_id=scope_id, pattern=pattern, reason=reason, expires_ms=expires_ms)


def _is_over(block: Block, now_ms: int) -> bool:
    return block.expires_ms is not None and block.expires_ms <= now_ms


def _rows(desk: Desk, scope: CapScope, scope_id: str) -> Sequence[Block]:
    return desk.tx.rows(Block, desk.tenant_id, scope=scope.value, scope_id=scope_id)


def _find(desk: Desk, pattern: str, scope: CapScope, scope_id: str) -> Block | None:
    return desk.tx.find(Block, desk.tenant_id, scope=scope.value, scope_id=scope_id, pattern=pattern)


def _named(desk: Desk, block: str, where: Where) -> Block:
    """The block of an id, or of a pattern: in the place that is given, or in the only one that has it."""
    by_id = desk.tx.find(Block, desk.tenant_id, id=block)
    if by_id is not None and not where.is_given:
        return by_id
    pattern = parse_pattern(block, desk.settings().default_region)
    if where.is_given:
        found = [row] if (row := _find(desk, pattern, *_scope(desk, where))) is not None else []
    else:
        found = list(desk.tx.rows(Block, desk.tenant_id, pattern=pattern))
    if not found:
        raise NotFound("block", pattern, _near(desk, pattern))
    if len(found) > 1:
        names = _names(desk)
        places = ", ".join(_place(row, names) for row in sorted(found, key=lambda b: b.id)[:OFFERED])
        raise Refused(
            "block-ambiguous",
            f"{pattern!r} is blocked in {len(found)} places: {places}",
            "say which: --seller, --campaign, or its id from `capconduit block list --fields id,pattern,scope,name`",
        )
    return found[0]


def _place(block: Block, names: dict[str, str]) -> str:
    return f"{_SCOPE_NAMES[block.scope]} {names.get(block.scope_id, '')}".rstrip()


def _near(desk: Desk, pattern: str) -> tuple[str, ...]:
    patterns = {b.pattern for b in desk.tx.rows(Block, desk.tenant_id, limit=NEAR_AMONG)}
    return tuple(get_close_matches(pattern, sorted(patterns), n=NEAR_NAMES))


def _names(desk: Desk) -> dict[str, str]:
    """Names of sellers and campaigns by their ids."""
    sellers, campaigns = desk.tx.rows(Seller, desk.tenant_id), desk.tx.rows(Campaign, desk.tenant_id)
    return {s.id: s.name for s in sellers} | {c.id: c.name for c in campaigns}


def _view(desk: Desk, block: Block) -> BlockView:
    return BlockView(block, _names(desk).get(block.scope_id, ""), _is_over(block, desk.now_ms))
