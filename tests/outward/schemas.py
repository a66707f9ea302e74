"""As much of JSON Schema (draft 2020-12) as our schemas use; an unknown word is an error, so that none is passed by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

TYPES: Mapping[str, Any] = {
    "string": str, "integer": int, "object": dict, "array": list, "null": type(None), "boolean": bool,
}  # fmt: skip
WORDS = {
    "$schema", "title", "description", "type", "required", "properties", "additionalProperties", "const", "enum",
    "pattern", "items",
}  # fmt: skip


def wrong(value: Any, schema: Mapping[str, Any], where: str = "$") -> Iterator[str]:
    """What of a value breaks a schema."""
    assert not schema.keys() - WORDS, schema.keys() - WORDS
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(
        isinstance(value, TYPES[k]) and not (k == "integer" and isinstance(value, bool)) for k in kinds
    ):
        yield f"{where}: {value!r} is no {' or '.join(kinds)}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{where}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}: {value!r} is not like {schema['pattern']}"
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from wrong(item, schema["items"], f"{where}[{number}]")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        yield from (f"{where}: {name!r} is missing" for name in schema.get("required", ()) if name not in value)
        for name, item in value.items():
            if name in known:
                yield from wrong(item, known[name], f"{where}.{name}")
            elif schema.get("additionalProperties") is False:
                yield f"{where}: {name!r} is not described"
