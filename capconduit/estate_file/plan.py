"""What would have to change so that an estate is what a file says: pure comparison of two documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from capconduit.errors import UsageError
from capconduit.estate_file.document import path_of
from capconduit.estate_file.schema import BY_NAME, NOUNS, Document, Key, Values


class Action(StrEnum):
    """What becomes of a thing."""

    ADD = "add"
    RENAME = "rename"
    SET = "set"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that changes: the fields before and after. Of `rename`, `before` has the former name."""

    action: Action
    noun: str  # or `settings`, `system`
    key: Key
    before: Values = field(default_factory=dict)
    after: Values = field(default_factory=dict)

    @property
    def path(self) -> str:
        """`campaign.solar`."""
        return path_of(self.noun, self.key) if self.key else self.noun


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes in the order they are made. `unlisted`: what the estate has and the file does not say, left as it is."""

    changes: list[Change]
    unlisted: list[str]

    def count(self, action: Action) -> int:
        """How many changes of a kind there are."""
        return sum(change.action is action for change in self.changes)


def plan(current: Document, wanted: Document, *, prune: bool = False) -> Plan:
    """What turns `current` into `wanted`. A field that `wanted` does not name stays as it is; so does a thing, unless
    `prune`. Raises UsageError for a new thing without what it needs, a fixed field that differs, a rename onto a name
    that is taken.
    """
    renames = list(_renames(current, wanted))
    current = _renamed(current, {(c.noun, c.before["name"]): c.key[0] for c in renames})
    changes: list[Change] = list(renames)
    if settings := _settings(current, wanted):
        changes.append(settings)
    for noun in NOUNS:
        for key, values in sorted(wanted.nouns[noun.name].items()):
            if change := _change(noun.name, key, current.nouns[noun.name].get(key), values):
                changes.append(change)
    if wanted.system_caps is not None and wanted.system_caps != (current.system_caps or ()):
        before, after = {"caps": current.system_caps or ()}, {"caps": wanted.system_caps}
        changes.append(Change(Action.SET, "system", (), before, after))
    unlisted = list(_unlisted(current, wanted))
    return Plan([*changes, *unlisted], []) if prune else Plan(changes, [c.path for c in unlisted])


def _renames(current: Document, wanted: Document) -> Iterator[Change]:
    for (noun, key), name in sorted(wanted.renamed.items()):
        rows = current.nouns[noun]
        if key in rows or (name,) not in rows:  # done already, or there never was one
            continue
        if (name,) in wanted.nouns[noun]:
            raise UsageError(
                "rename-conflict", f"{path_of(noun, key)} was {name!r}, which is there as well", "take one of them away"
            )
        yield Change(Action.RENAME, noun, key, {"name": name}, {"name": key[0]})


# Fields that name something else, and rules, whose keys do.
_REFERENCES = {
    "seller": "seller", "rate": "rate", "payout": "rate", "schedule": "schedule", "trunk": "trunk",
    "campaign": "campaign",
}  # fmt: skip


def _renamed(current: Document, names: dict[tuple[str, str], str]) -> Document:
    """The estate as it is after the renames: whoever refers to a thing follows it."""
    if not names:
        return current

    def name_of(noun: str, name: Any) -> Any:
        return names.get((noun, name), name)

    def key_of(noun: str, key: Key) -> Key:
        if noun == "rule":
            return (name_of("campaign", key[0]), name_of("target", key[1]))
        if noun == "block":
            scope, _, name = key[0].partition(" ")
            return (f"{scope} {name_of(scope, name)}" if name else scope, key[1])
        return (name_of(noun, key[0]),)

    nouns = {
        noun: {
            key_of(noun, key): {
                field: name_of(_REFERENCES[field], value) if field in _REFERENCES else value
                for field, value in values.items()
            }
            for key, values in rows.items()
        }
        for noun, rows in current.nouns.items()
    }
    return replace(current, nouns=nouns)


def _settings(current: Document, wanted: Document) -> Change | None:
    """A setting that is not named keeps its value, with or without `prune`: there is nothing to remove."""
    after: dict[str, Any] = {n: v for n, v in wanted.settings.items() if current.settings.get(n) != v}
    return Change(Action.SET, "settings", (), {n: current.settings.get(n, "") for n in after}, after) if after else None


def _change(noun: str, key: Key, known: Values | None, wanted: Values) -> Change | None:
    fields = BY_NAME[noun].fields
    if known is None:
        for name, form in fields.items():
            if form.needed and name not in wanted:
                raise UsageError(
                    "estate-field-missing",
                    f"{path_of(noun, key)} is new and has no {name}",
                    f"give it one: {form.form.expected}",
                )
        return Change(Action.ADD, noun, key, {}, dict(wanted))
    after = {name: value for name, value in wanted.items() if known.get(name) != value}
    if not after:
        return None
    for name in after:
        if fields[name].fixed:
            write = fields[name].form.write
            raise UsageError(
                "estate-field-fixed",
                f"{path_of(noun, key)}.{name} is {write(known[name])!r} and cannot become {write(after[name])!r}",
                f"keep it, or make another {noun}",
            )
    return Change(Action.SET, noun, key, {name: known.get(name) for name in after}, after)


def _unlisted(current: Document, wanted: Document) -> Iterator[Change]:
    """What the file does not say, in the order it can be removed: what refers to others first."""
    for noun in reversed(NOUNS):
        for key, values in sorted(current.nouns[noun.name].items()):
            if key not in wanted.nouns[noun.name]:
                yield Change(Action.REMOVE, noun.name, key, values, {})
