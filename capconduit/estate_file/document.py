"""An estate file as text: strict reading, stable writing (TOML by tomli-w), comments of the former file kept."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

import tomli_w

from capconduit.errors import UsageError
from capconduit.estate_file.comments import Comments
from capconduit.estate_file.schema import (
    BY_NAME,
    CAPS,
    INSTANT,
    MAX_SHOWN,
    NOUNS,
    TEXT,
    Document,
    Key,
    Noun,
    Values,
    read_value,
    shown,
)
from capconduit.units import format_instant

FORMAT: Final = 1
MAX_BYTES: Final = 64 * 1024 * 1024
RENAMED: Final = "renamed_from"
EVERYBODY: Final = "everybody"
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_TOP: Final = ("format", "exported", "changed", "settings", "system", *BY_NAME)
_BLOCK_FIELDS: Final = ("pattern", "seller", "campaign", *BY_NAME["block"].fields)


def parse(text: str, name: str = "estate file") -> Document:
    """The document of a file's text. Raises UsageError: the line where it is no TOML, else the path and the value."""
    raw = _toml(text, name)
    _known(raw, _TOP, "")
    said = raw.get("format", FORMAT)
    if said != FORMAT or isinstance(said, (bool, float)):
        raise UsageError(
            "estate-format-unknown", f"format = {shown(said)}", f"this program reads format {FORMAT}; export anew"
        )
    document = Document()
    if "exported" in raw:
        document.exported_ms = read_value("exported", INSTANT, raw["exported"])
    if "changed" in raw:
        document.changed_ms = read_value("changed", INSTANT, raw["changed"])
    settings = _table("settings", raw.get("settings", {}))
    document.settings = {key: _setting(key, value) for key, value in settings.items()}
    system = _table("system", raw.get("system", {}))
    _known(system, ("caps",), "system")
    if "caps" in system:
        document.system_caps = read_value("system.caps", CAPS, system["caps"])
    for noun in NOUNS:
        if noun.name == "block":
            _blocks(raw.get("block", []), document)
        else:
            _tables(noun, raw.get(noun.name, {}), document)
    return document


def _toml(text: str, name: str) -> dict[str, Any]:
    if len(text) > MAX_BYTES:
        raise UsageError("estate-too-large", f"{name} has {len(text):,} characters", f"{MAX_BYTES:,} at most")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise UsageError(
            "estate-not-toml", f"{name}: {error}", "mend that line; `capconduit export` shows the form"
        ) from None


def _setting(name: str, value: Any) -> str:
    """Settings are kept as texts; a file may write numbers as numbers."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UsageError(
            "estate-value-invalid",
            f"{path_of('settings', (name,))} = {shown(value)}",
            "expected a text or a whole number",
        )
    return str(value)


def _tables(noun: Noun, raw: Any, document: Document) -> None:
    for first, table in _table(noun.name, raw).items():
        if noun.parts == 1:
            _one(noun, (first,), table, document)
        else:
            for second, inner in _table(path_of(noun.name, (first,)), table).items():
                _one(noun, (first, second), inner, document)


def _one(noun: Noun, key: Key, raw: Any, document: Document) -> None:
    path = path_of(noun.name, key)
    table = _table(path, raw)
    _known(table, (*noun.fields, *([RENAMED] if noun.renamed else [])), path)
    values = {
        name: read_value(f"{path}.{name}", noun.fields[name].form, table[name]) for name in table if name != RENAMED
    }
    document.nouns[noun.name][key] = values
    if RENAMED in table:
        document.renamed[(noun.name, key)] = read_value(f"{path}.{RENAMED}", TEXT, table[RENAMED])


def _blocks(raw: Any, document: Document) -> None:
    """`[[block]]` tables: a pattern, and for whose calls."""
    if not isinstance(raw, list):
        raise UsageError("estate-value-invalid", f"block = {shown(raw)}", "write each block as a table: [[block]]")
    noun = BY_NAME["block"]
    for place, entry in enumerate(raw, 1):
        path = f"block {place}"
        table = _table(path, entry)
        _known(table, _BLOCK_FIELDS, path)
        if "pattern" not in table or ("seller" in table and "campaign" in table):
            raise UsageError(
                "estate-block-invalid", f"{path} = {shown(table)}", "give a pattern, and a seller or a campaign or none"
            )
        pattern = read_value(f"{path}.pattern", TEXT, table["pattern"])
        key = (_whose(table, path), pattern)
        if key in document.nouns["block"]:
            raise UsageError(
                "estate-twice", f"{path}: {shown(pattern)} is there already for {key[0]}", "keep one of them"
            )
        document.nouns["block"][key] = {
            name: read_value(f"{path}.{name}", noun.fields[name].form, table[name])
            for name in noun.fields
            if name in table
        }


def _whose(table: Mapping[str, Any], path: str) -> str:
    for scope in ("seller", "campaign"):
        if scope in table:
            return f"{scope} {read_value(f'{path}.{scope}', TEXT, table[scope])}"
    return EVERYBODY


def _table(path: str, raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise UsageError("estate-value-invalid", f"{path} = {shown(raw)}", f"expected a table: [{path}]")
    return raw


def _known(table: Mapping[str, Any], names: Iterable[str], path: str) -> None:
    known = tuple(names)
    for name in table:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            where = f"{path}.{_part(name)}" if path else _part(name)
            hint = f"did you mean {near[0]!r}?" if near else f"it can have {', '.join(known)}"
            raise UsageError("estate-key-unknown", f"nothing is called {where}", hint)


def path_of(noun: str, key: Key) -> str:
    """How a thing is called in messages and in the file: `campaign.solar`, `rule.solar.buyer1`."""
    return ".".join((noun, *map(_part, key)))


def _part(name: str) -> str:
    """A part of a key: quoted where TOML wants it so, and never longer than a message should be."""
    brief = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…"
    return brief if _BARE.fullmatch(brief) else json.dumps(brief, ensure_ascii=False)


def render(document: Document, *, former: str = "") -> str:
    """The text of a document, always in the same order. Comments of the text `former` stay at what they stood at.

    Raises UsageError where `former` is no TOML.
    """
    top: dict[str, Any] = {"format": FORMAT}
    if document.exported_ms is not None:
        top["exported"] = format_instant(document.exported_ms)
    if document.changed_ms is not None:
        top["changed"] = format_instant(document.changed_ms)
    if document.settings:
        top["settings"] = dict(sorted(document.settings.items()))
    if document.system_caps is not None:
        top["system"] = {"caps": CAPS.write(document.system_caps)}
    for noun in NOUNS:
        rows = document.nouns[noun.name]
        if not rows or noun.name == "block":
            continue
        tables: dict[str, Any] = {}
        for key in sorted(rows):
            place = tables
            for part in key[:-1]:
                place = place.setdefault(part, {})
            place[key[-1]] = _written(noun, rows[key])
        top[noun.name] = tables
    text = "\n".join([_toml_of(top), *_block_tables(document)])
    if not former:
        return text
    _toml(former, "the file with the comments")
    return Comments.of(former).put_into(text)


def _toml_of(top: dict[str, Any]) -> str:
    """Texts of several lines as such, for people; unless one has a carriage return, which tomli-w would drop there."""
    text = tomli_w.dumps(top)
    return tomli_w.dumps(top, multiline_strings=True) if "\\n" in text and "\\r" not in text else text


def _written(noun: Noun, values: Values) -> dict[str, Any]:
    return {name: field.form.write(values[name]) for name, field in noun.fields.items() if name in values}


def _block_tables(document: Document) -> Iterator[str]:
    """Each block as a table of its own: tomli-w would put short ones into one list, before everything else."""
    noun = BY_NAME["block"]
    for (whose, pattern), values in sorted(document.nouns["block"].items(), key=lambda entry: entry[0]):
        scope, _, name = whose.partition(" ")
        table = {"pattern": pattern, **({scope: name} if name else {}), **_written(noun, values)}
        yield f"[[block]]\n{tomli_w.dumps(table)}"
