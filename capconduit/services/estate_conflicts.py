"""Whether what a file is to change was changed by others after it was exported; read from the audit trail.

Time is that of the audit entries: changes of the estate are made one after the other, so all that is later than the
last change that a file has in it was made after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from capconduit.domain.model import Audit
from capconduit.errors import Refused
from capconduit.estate_file.plan import Action, Change, Plan
from capconduit.estate_file.schema import BY_NAME, Document
from capconduit.services.office import Desk
from capconduit.vocab import CapScope

APPLIED: Final = "estate.apply"  # of the audit entry that tells of an apply as a whole
MAX_NAMED: Final = 5
LOOKED_AT: Final = 500  # audit entries that are looked through for the last change
_UNDONE: Final = "audit.undo"  # its subject is the entry that was undone, which it repeats
_NOUNS: Final = frozenset({*BY_NAME, "cap", "setting", "estate", "audit"})
_NO_CHANGE: Final = frozenset({"target.rest", "target.revive", "block.expire", "cap.verify"})

Subject = tuple[str, str]  # noun (`cap` for caps), and the subject as the audit trail has it


def last_change_ms(desk: Desk) -> int | None:
    """When the estate was changed last; None where the audit trail does not say."""
    newest = desk.tx.rows(Audit, desk.tenant_id, newest_first="at_ms", limit=LOOKED_AT)
    return next((entry.at_ms for entry in newest if _is_change(entry)), None)


def summary(wanted: Document, found: Plan) -> dict[str, int | None]:
    """What the audit entry of an apply says; by it a later one knows its own."""
    return {"exported_ms": wanted.exported_ms, "changes": len(found.changes)}


def check_conflicts(desk: Desk, found: Plan, wanted: Document) -> None:
    """Nothing that is to change was changed by others after the file was written; nor is anything added again that they
    removed. What the same actor changed by an apply of this same file is no conflict. Raises Refused.
    """
    if wanted.exported_ms is None:
        return
    since_ms = wanted.exported_ms if wanted.changed_ms is None else wanted.changed_ms
    entries = [e for e in desk.tx.rows(Audit, desk.tenant_id, since=("at_ms", since_ms + 1)) if _is_change(e)]
    own = {entry.at_ms for entry in entries if _is_own(entry, wanted.exported_ms, desk.actor)}
    by_others = {_subject(entry): entry for entry in entries if entry.at_ms not in own}
    touched = {
        f"{change.path} ({by_others[subject].actor})": None
        for change in found.changes
        for subject in _subjects(change)
        if subject in by_others
    }
    if touched:
        raise Refused(
            "estate-conflict",
            f"changed since the file was exported: {_some(list(touched))}",
            "export again and carry your changes over, or --force to overwrite those",
        )


def _is_change(entry: Audit) -> bool:
    return _noun(entry) in _NOUNS and entry.action not in _NO_CHANGE


def _is_own(entry: Audit, exported_ms: int, actor: str) -> bool:
    if entry.action != APPLIED or entry.actor != actor:
        return False
    return bool(json.loads(entry.after).get("exported_ms") == exported_ms)


def _subject(entry: Audit) -> Subject:
    if entry.action == _UNDONE:
        undone = json.loads(entry.after)
        return str(undone["action"]).partition(".")[0], str(undone["subject"])
    return _noun(entry), entry.subject


def _noun(entry: Audit) -> str:
    return entry.action.partition(".")[0]


def _subjects(change: Change) -> Iterator[Subject]:
    """Where the audit trail would have somebody else's change of the same thing."""
    if change.noun == "settings":
        yield from (("setting", name) for name in change.after)
        return
    if change.noun == "system":
        yield "cap", CapScope.SYSTEM.value
        return
    if change.noun == "block":
        yield "block", change.key[1]
        return
    name = "/".join(change.key)
    names = [change.before["name"], name] if change.action is Action.RENAME else [name]
    for known in names:
        yield change.noun, known
        if change.action is not Action.SET or "caps" in change.after:
            yield "cap", f"{change.noun} {known}"


def _some(paths: Iterable[str]) -> str:
    known = list(paths)
    more = len(known) - MAX_NAMED
    return ", ".join(known[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
