"""What is done about abuse: it is told as an event, and a caller is blocked for a while where the operator says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.clock import Clock
from capconduit.domain.abuse import Fact, Finding
from capconduit.domain.blocklist import parse_pattern
from capconduit.domain.events import event
from capconduit.domain.model import Block, Cdr
from capconduit.domain.routing import caller_of
from capconduit.errors import UsageError
from capconduit.services.office import Desk, Office
from capconduit.store.store import Store
from capconduit.units import format_instant
from capconduit.vocab import CapScope, EventKind

ACTOR: Final = "capconduit"
REASON: Final = "abuse: "  # what the reason of a block of ours begins with
FORGOTTEN_AT_ONCE: Final = 200  # blocks that are over, in one transaction: decisions wait for it


@dataclass(frozen=True, slots=True)
class Told:
    """A finding as it was told; `blocked_until_ms` None: nobody was blocked for it."""

    finding: Finding
    blocked_until_ms: int | None


def fact_of(cdr: Cdr) -> Fact:
    """What the record of a call tells."""
    return Fact(
        caller=caller_of(cdr.caller_e164, cdr.caller),
        did=cdr.did,
        trunk=cdr.trunk,
        answered=cdr.answered_ms is not None,
        talk_ms=cdr.talk_ms,
        reject=cdr.reject_code,
    )


def office_of(store: Store, clock: Clock, tenant: str) -> Office:
    """Where CapConduit itself acts for a tenant."""
    return Office(store, clock, tenant=tenant, actor=ACTOR)


def tell(office: Office, findings: Sequence[Finding], *, block_ms: int = 0, most: int = 0) -> Sequence[Told]:
    """Write an event for each finding, and block the callers among them for `block_ms`, `most` at most, all at once.

    A caller who is blocked already stays so; a trunk or a range of callers is never blocked. Raises DatabaseError.
    """
    wanted = {f.caller for f in findings if f.caller} if block_ms and most else set()

    def work(desk: Desk) -> Sequence[Told]:
        told = []
        blocked = 0
        region = desk.settings().default_region if wanted else ""
        for finding in findings:
            until_ms = None
            if finding.caller in wanted and blocked < most:
                until_ms = _block(desk, finding, region, desk.now_ms + block_ms)
                blocked += until_ms is not None
            told.append(Told(finding, until_ms))
            desk.tx.insert(
                event(
                    desk.new_id, desk.tenant_id, desk.now_ms, EventKind.ABUSE_DETECTED, finding.subject,
                    abuse=finding.kind, count=finding.count, limit=finding.limit, window_s=finding.window_s,
                    **finding.detail, blocked_until=format_instant(until_ms) if until_ms else None,
                )
            )  # fmt: skip
        return told

    return office.change(work, estate=bool(wanted))


def _block(desk: Desk, finding: Finding, region: str, until_ms: int) -> int | None:
    """Until when the caller is blocked for everybody now; None where that caller cannot be blocked, or is already."""
    pattern = _pattern(finding.caller, region)
    if pattern is None:
        return None
    where = {"scope": CapScope.SYSTEM.value, "scope_id": desk.tenant_id, "pattern": pattern}
    known = desk.tx.find(Block, desk.tenant_id, **where)
    if known is not None:
        if known.expires_ms is None or known.expires_ms > desk.now_ms:
            return None
        desk.tx.delete(known)
    reason = f"{REASON}{finding.kind}, {finding.count} in {finding.window_s} s"
    block = Block(
        **desk.stamp(), scope=CapScope.SYSTEM, scope_id=desk.tenant_id, pattern=pattern, reason=reason,
        expires_ms=until_ms,
    )  # fmt: skip
    desk.tx.insert(block)
    desk.changed("block.add", pattern, known, block)
    return until_ms


def _pattern(caller: str, region: str) -> str | None:
    """The pattern that is this caller and nobody else. What came as a caller's number may be written like a prefix: one
    call from `+1*` must not block a country."""
    if "*" in caller or "?" in caller:
        return None
    try:
        pattern = parse_pattern(caller, region)
    except UsageError:
        return None
    return pattern if caller.startswith("+") or pattern == caller.lower() else None  # else another region's number


def over(blocks: Iterable[Block], now_ms: int) -> list[Block]:
    """The blocks of ours that are over. Those of operators stay for them to see."""
    return [b for b in blocks if b.expires_ms is not None and b.expires_ms <= now_ms and b.reason.startswith(REASON)]


def forget(office: Office, blocks: Sequence[Block]) -> int:
    """Take away blocks that are over, some at a time; how many. Raises DatabaseError."""

    def work(desk: Desk) -> int:
        gone = 0
        for old in over(blocks, desk.now_ms)[:FORGOTTEN_AT_ONCE]:
            row = desk.tx.find(Block, desk.tenant_id, id=old.id)
            if row == old:  # an operator may have changed it meanwhile
                desk.tx.delete(row)
                desk.changed("block.remove", row.pattern, row, None, estate=False)
                gone += 1
        if gone:
            desk.changed("block.expire", f"{gone} patterns for everybody", None, None)
        return gone

    return office.change(work)
