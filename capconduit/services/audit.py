"""The audit: who changed what, and taking a change back where that can be done."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from enum import StrEnum
from typing import Any, Final, get_type_hints

from capconduit.domain.agents import Agent, Provider
from capconduit.domain.books import Books
from capconduit.domain.model import (
    Account,
    Audit,
    Block,
    Campaign,
    Cap,
    Did,
    Entity,
    Rate,
    Rule,
    RuleState,
    Schedule,
    Seller,
    Setting,
    Target,
    Trunk,
)
from capconduit.errors import NotFound, Refused
from capconduit.services import (
    agents,
    blocks,
    campaigns,
    caps,
    dids,
    providers,
    rates,
    schedules,
    sellers,
    settings,
    targets,
    trunks,
)
from capconduit.services.caps import cap_zones, carry_over
from capconduit.services.office import Desk, Office, label

LIST_DEFAULT: Final = 100
UNDONE: Final = "audit.undo"

_KINDS: Final[Mapping[str, type[Entity]]] = {
    "rate": Rate, "schedule": Schedule, "trunk": Trunk, "seller": Seller, "target": Target, "campaign": Campaign,
    "rule": Rule, "did": Did, "block": Block, "provider": Provider, "agent": Agent,
}  # fmt: skip
_BY_HAND: Final = "change it back by its own command"
_IMPORTED: Final = "each thing has an entry of its own: `capconduit audit list --action {noun}.add`, or {noun}.set"
_INSTEAD: Final = {
    "balance": "money is corrected, not undone: `capconduit balance correct`",
    "estate": "apply the file of before: `capconduit apply -f FILE`",
    "cdr": "what was archived is in its files; nothing else brings records back",
    "db": "what was archived is in its files; nothing else brings records back",
}


def list_audit(
    office: Office,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    limit: int | None = LIST_DEFAULT,
    **where: str,
) -> Sequence[Audit]:
    """Entries, the newest first; `where`: action, subject, actor."""

    def work(desk: Desk) -> Sequence[Audit]:
        return desk.tx.rows(
            Audit,
            desk.tenant_id,
            since=("at_ms", since_ms) if since_ms is not None else None,
            until=("at_ms", until_ms) if until_ms is not None else None,
            newest_first="at_ms",
            limit=limit,
            **where,
        )

    return office.read(work)


def show_audit(office: Office, entry_id: str) -> Audit:
    """One entry. Raises NotFound."""
    return office.read(lambda desk: _entry(desk, entry_id))


def undo(office: Office, entry_id: str) -> Audit:
    """Take a change back, in one transaction, audited as a change of its own; the entry that was undone.

    What was changed again since is not overwritten. Raises NotFound, Refused (it cannot be undone, or was changed
    since, or is in use).
    """

    def work(desk: Desk) -> Audit:
        entry = _entry(desk, entry_id)
        noun, _, verb = entry.action.partition(".")
        if noun == "setting" and verb in ("set", "reset"):
            _undo_setting(desk, entry)
        elif noun == "cap" and verb in ("set", "clear"):
            _undo_cap(desk, entry)
        elif noun in _KINDS and verb in ("add", "set", "remove") and (entry.before or entry.after):
            _undo_row(desk, _KINDS[noun], noun, entry)
        else:
            hint = _IMPORTED.format(noun=noun) if verb == "import" else _INSTEAD.get(noun, _BY_HAND)
            raise Refused("audit-not-undoable", f"{entry.action} of {entry.subject!r} cannot be undone", hint)
        desk.changed(UNDONE, entry.id, None, {"action": entry.action, "subject": entry.subject}, estate=False)
        return entry

    return office.change(work)


def _entry(desk: Desk, entry_id: str) -> Audit:
    found = desk.tx.find(Audit, desk.tenant_id, id=entry_id.strip().upper())
    if found is None:
        raise NotFound("audit", entry_id)
    return found


def _undo_row(desk: Desk, kind: type[Entity], noun: str, entry: Audit) -> None:
    before, after = (_row(kind, text) if text else None for text in (entry.before, entry.after))
    if entry.action.endswith(".add"):
        before = None  # of a block that was over, and was made anew
    if before is not None:
        _check_fits(desk, before, after)
    if after is not None:
        _check_unchanged(desk, kind, after, entry)
    if before is None:
        _remove(desk, noun, after)
    elif after is None:
        _in_words(entry, lambda: _bring_back(desk, noun, before, entry.subject))
    else:
        current, zones = desk.tx.find(kind, desk.tenant_id, id=after.id), cap_zones(desk)
        assert current is not None  # looked at above
        _in_words(entry, lambda: _change_back(desk, noun, current, before, entry.subject))
        carry_over(desk, zones)  # a DID may be another seller's again, with another time zone


def _check_fits(desk: Desk, before: Entity, after: Any) -> None:
    """What a row was has to go with what others have become since, as if it were set so now. Raises Refused."""
    match before:
        case Agent():
            agents.check_chain_is_there(desk, before)
        case Trunk() if after is None or trunks.found_by_address(before) != trunks.found_by_address(after):
            trunks.check_hosts_of_others(desk, before)
        case Target():
            for rule in desk.tx.rows(Rule, desk.tenant_id, target_id=before.id):
                targets.check_currencies(desk, rule, before)
        case Rule():
            target = desk.tx.find(Target, desk.tenant_id, id=before.target_id)
            if target is not None:
                targets.check_currencies(desk, before, target)


def _check_unchanged(desk: Desk, kind: type[Entity], after: Entity, entry: Audit) -> None:
    current = desk.tx.find(kind, desk.tenant_id, id=after.id)
    if current is None or replace(current, updated_ms=0) != replace(after, updated_ms=0):
        what = "is gone" if current is None else "was changed again since"
        raise Refused(
            "changed-since", f"{entry.subject!r} {what}", f"see `capconduit audit list --subject {entry.subject}`"
        )


def _remove(desk: Desk, noun: str, row: Any) -> None:
    """What was added goes by its own service, which knows what stands in the way."""
    inner = Office.within(desk)
    match row:
        case Rule():
            campaign = desk.tx.find(Campaign, desk.tenant_id, id=row.campaign_id)
            target = desk.tx.find(Target, desk.tenant_id, id=row.target_id)
            targets.remove_rule(inner, label(campaign), label(target))
        case Did() if row.campaign_id is not None:
            dids.release_did(inner, row.number)
            dids.remove_did(inner, row.number)
        case Block():
            blocks.remove_block(inner, row.id, blocks.Where())
        case _:
            _REMOVERS[noun](inner, label(row))


_REMOVERS: Final[Mapping[str, Callable[[Office, str], None]]] = {
    "rate": rates.remove_rate,
    "schedule": schedules.remove_schedule,
    "trunk": trunks.remove_trunk,
    "seller": sellers.remove_seller,
    "target": targets.remove_target,
    "campaign": campaigns.remove_campaign,
    "did": dids.remove_did,
    "provider": providers.remove_provider,
    "agent": agents.remove_agent,
}


def _change_back(desk: Desk, noun: str, current: Any, before: Any, subject: str) -> None:
    """A row is as it was; `subject` is what the audit calls one that has no name of its own."""
    before = replace(before, updated_ms=desk.now_ms)
    if isinstance(before, (Rule, Block)):
        desk.tx.update(before)
        desk.changed(f"{noun}.set", subject, current, before)
    else:
        desk.change(noun, current, before)


def _bring_back(desk: Desk, noun: str, row: Any, subject: str) -> None:
    """What was removed comes back under its own id, with what belongs to it; its caps and blocks do not."""
    row = replace(row, updated_ms=desk.now_ms)
    if isinstance(row, (Rule, Block)):
        desk.tx.insert(row)
        desk.changed(f"{noun}.add", subject, None, row)
    else:
        desk.add(noun, row)
    match row:
        case Target():
            desk.tx.insert(Books().target(desk.tenant_id, row.id))
        case Rule():
            desk.tx.insert(RuleState(rule_id=row.id, tenant_id=desk.tenant_id, cursor=0))
        case Seller():
            desk.tx.insert(
                Account(
                    seller_id=row.id, tenant_id=desk.tenant_id, balance_micros=0, held_micros=0, credit_limit_micros=0
                )
            )


def _undo_setting(desk: Desk, entry: Audit) -> None:
    before, after = (json.loads(text) if text else None for text in (entry.before, entry.after))
    name = entry.subject
    current = desk.tx.find(Setting, desk.tenant_id, name=name)
    if (current.value if current else None) != (after["value"] if after else None):
        raise Refused(
            "changed-since", f"setting {name!r} was changed again since", f"see `capconduit setting show {name}`"
        )
    if before is None:
        settings.reset_setting(Office.within(desk), name)
    else:
        settings.set_setting(Office.within(desk), name, before["value"])


def _undo_cap(desk: Desk, entry: Audit) -> None:
    before, after = (_row(Cap, text) if text else None for text in (entry.before, entry.after))
    known = after or before
    assert known is not None  # a cap was set or taken away
    current = desk.tx.find(
        Cap, desk.tenant_id, scope=known.scope, scope_id=known.scope_id, metric=known.metric,
        window_kind=known.window_kind, window_ms=known.window_ms,
    )  # fmt: skip
    if (current.limit_value if current else None) != (after.limit_value if after else None):
        raise Refused(
            "changed-since", f"the cap on {entry.subject} was changed again since", "see `capconduit cap list`"
        )
    limit = caps.Limit(known.metric, known.window_kind, before.limit_value if before else None, known.window_ms)
    scope, _, name = entry.subject.partition(" ")
    caps.set_caps(Office.within(desk), known.scope, name if scope == known.scope else entry.subject, [limit])


def _row(kind: type[Any], text: str) -> Any:
    """A row as the audit kept it. Raises Refused where it is of a version that had other fields."""
    values, hints = json.loads(text), get_type_hints(kind)
    if values.keys() != {f.name for f in fields(kind)}:
        raise Refused("audit-outdated", "the change is of an older version of CapConduit", "change it back by hand")
    for name, hint in hints.items():
        if isinstance(hint, types.UnionType):
            hint = next(arm for arm in hint.__args__ if arm is not type(None))
        if isinstance(hint, type) and issubclass(hint, StrEnum) and values[name] is not None:
            values[name] = hint(values[name])
    return kind(**values)


def _in_words(entry: Audit, work: Callable[[], None]) -> None:
    try:
        work()
    except Refused as error:
        if error.slug != "in-use" and not error.slug.endswith("exists"):
            raise
        why = "what it referred to is gone" if error.slug == "in-use" else "another one has its name"
        hint = f"see `capconduit audit show {entry.id}`, and bring that back or rename that first"
        raise Refused("undo-conflict", f"{entry.subject!r} cannot be as it was: {why}", hint) from None


def changes(entry: Audit) -> dict[str, tuple[Any, Any]]:
    """The fields that an entry changed, each with its value before and after."""
    before, after = (json.loads(text) if text else {} for text in (entry.before, entry.after))
    if not isinstance(before, dict) or not isinstance(after, dict):
        return {}
    names = [name for name in {**before, **after} if name not in ("created_ms", "updated_ms", "tenant_id")]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def as_json(entry: Audit) -> dict[str, Any]:
    """An entry with what it kept as data, not as text."""
    told = asdict(entry)
    return told | {side: json.loads(told[side]) if told[side] else None for side in ("before", "after")}
