"""What would have to change so that an estate is what a file says: pure comparison of two documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Final

from capconduit.errors import UsageError
from capconduit.estate_file.document import path_of
from capconduit.estate_file.schema import BY_NAME, NOUNS, Document, Key, Values, shown


class Action(StrEnum):
    """What becomes of a thing."""

    ADD = "add"
    RENAME = "rename"
    SET = "set"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that changes: the fields before and after. Of `rename`, `before` has the former name.

    `wanted`: all that the file says of it, what stays as it is included.
    """

    action: Action
    noun: str  # or `settings`, `system`
    key: Key
    before: Values = field(default_factory=dict)
    after: Values = field(default_factory=dict)
    wanted: Values = field(default_factory=dict, compare=False)

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
    `prune`. Raises UsageError for a new thing without what it needs, a fixed field that differs, a rename that cannot
    be, and a name that nothing has.
    """
    renames = list(_renames(current, wanted))
    current = _renamed(current, {(c.noun, c.before["name"]): c.key[0] for c in renames})
    _check_references(current, wanted, prune=prune)
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
    """Renames that are still to be made, each when its name is free: of `a` to `b` and `b` to `c`, the latter first."""
    for noun in NOUNS:
        formers = {key[0]: name for (of, key), name in sorted(wanted.renamed.items()) if of == noun.name}
        if len(set(formers.values())) < len(formers):
            twice = sorted(name for name in formers.values() if list(formers.values()).count(name) > 1)[0]
            raise UsageError(
                "rename-conflict", f"two of {noun.name} were {shown(twice)}", "say renamed_from at one of them"
            )
        names = {key[0] for key in current.nouns[noun.name]} if formers else set()
        waiting = dict(formers)
        while free := sorted(new for new, old in waiting.items() if old in names and new not in names):
            new, old = free[0], waiting.pop(free[0])
            if (old,) in wanted.nouns[noun.name] and formers.get(old) not in names:
                raise UsageError(
                    "rename-conflict",
                    f"{path_of(noun.name, (new,))} was {shown(old)}, which is there as well",
                    "take one of them away",
                )
            names = names - {old} | {new}
            yield Change(Action.RENAME, noun.name, (new,), {"name": old}, {"name": new})
        _check_circles(noun.name, {new: old for new, old in waiting.items() if new in names and old in names})


def _check_circles(noun: str, formers: dict[str, str]) -> None:
    """Names that changed places: once they have, the file looks as it did before, so nobody could tell whether."""
    for first in formers:
        seen, name = [first], formers[first]
        while name in formers and name not in seen:
            seen.append(name)
            name = formers[name]
        if name == first and len(seen) > 1:
            raise UsageError(
                "rename-circle",
                f"{' and '.join(path_of(noun, (name,)) for name in seen)} are to change names in a circle",
                "apply it in two steps: give one of them a third name first",
            )


# Fields that name something else, and rules, whose keys do.
_REFERENCES: Final = {
    "seller": "seller", "rate": "rate", "payout": "rate", "schedule": "schedule", "trunk": "trunk",
    "campaign": "campaign", "agent": "agent", "providers": "provider",
}  # fmt: skip


def _named(value: Any) -> tuple[str, ...]:
    """The names that a reference holds: one, or a list of them."""
    return value if isinstance(value, tuple) else (value,)


def _renamed(current: Document, names: dict[tuple[str, str], str]) -> Document:
    """The estate as it is after the renames: whoever refers to a thing follows it."""
    if not names:
        return current

    def name_of(noun: str, name: Any) -> Any:
        return names.get((noun, name), name)

    def renamed(noun: str, value: Any) -> Any:
        return tuple(name_of(noun, name) for name in value) if isinstance(value, tuple) else name_of(noun, value)

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
                field: renamed(_REFERENCES[field], value) if field in _REFERENCES else value
                for field, value in values.items()
            }
            for key, values in rows.items()
        }
        for noun, rows in current.nouns.items()
    }
    return replace(current, nouns=nouns)


def _check_references(current: Document, wanted: Document, *, prune: bool) -> None:
    """That everything that is named is in the file, or in the estate and stays there. Raises UsageError."""
    names = {
        noun.name: {key[0] for key in wanted.nouns[noun.name]}
        | (set() if prune else {key[0] for key in current.nouns[noun.name]})
        for noun in NOUNS
    }

    def check(path: str, noun: str, name: str) -> None:
        if name not in names[noun]:
            near = get_close_matches(name, names[noun], n=1)
            raise UsageError(
                "estate-reference-unknown",
                f"{path} = {shown(name)}: there is no such {noun}",
                f"did you mean {near[0]!r}?" if near else f"write a table [{path_of(noun, (name,))}], or another name",
            )

    for noun in NOUNS:
        for key, values in wanted.nouns[noun.name].items():
            for name in noun.fields:
                if name in _REFERENCES and name in values and (values[name] or noun.fields[name].needed):
                    for one in _named(values[name]):
                        check(f"{path_of(noun.name, key)}.{name}", _REFERENCES[name], one)
            if noun.name == "rule":
                check(path_of("rule", key), "campaign", key[0])
                check(path_of("rule", key), "target", key[1])
            scope, _, name = key[0].partition(" ")
            if noun.name == "block" and name:
                check(f"{path_of('block', key)}.{scope}", scope, name)


def _settings(current: Document, wanted: Document) -> Change | None:
    """A setting that is not named keeps its value, with or without `prune`: there is nothing to remove."""
    after: dict[str, Any] = {n: v for n, v in wanted.settings.items() if current.settings.get(n) != v}
    return Change(Action.SET, "settings", (), {n: current.settings.get(n) for n in after}, after) if after else None


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
        return Change(Action.ADD, noun, key, {}, dict(wanted), dict(wanted))
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
    return Change(Action.SET, noun, key, {name: known.get(name) for name in after}, after, dict(wanted))


def _unlisted(current: Document, wanted: Document) -> Iterator[Change]:
    """What the file does not say, in the order it can be removed: what refers to others first."""
    for noun in reversed(NOUNS):
        for key, values in sorted(current.nouns[noun.name].items()):
            if key not in wanted.nouns[noun.name]:
                yield Change(Action.REMOVE, noun.name, key, values, {})
