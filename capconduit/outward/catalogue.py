"""What each kind of event says, field by field: the source of the JSON Schemas, and of the tables in docs/events.md.

`python -m capconduit.outward.catalogue` writes both; a test fails when they drift, and when the code tells something
that does not stand here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from capconduit.outward.envelope import NOTICE_PREFIX, SCHEMA, TEST_KIND
from capconduit.vocab import AbuseKind, EventKind, NoticeKind

ROOT: Final = Path(__file__).parents[2]
SCHEMAS: Final = Path(__file__).parents[1] / "schemas"
DOCUMENT: Final = ROOT / "docs" / "events.md"
BEGIN: Final = "<!-- made from capconduit/outward/catalogue.py: begin -->"
END: Final = "<!-- made from capconduit/outward/catalogue.py: end -->"

_INSTANT: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"
_MONEY: Final = r"^-?\d+\.\d{6}$"
_ULID: Final = r"^[0-9A-HJKMNP-TV-Z]{26}$"
_TYPES: Final[dict[str, dict[str, Any]]] = {
    "text": {"type": "string"},
    "integer": {"type": "integer"},
    "money": {"type": "string", "pattern": _MONEY},
    "instant": {"type": "string", "pattern": _INSTANT},
    "texts": {"type": "array", "items": {"type": "string"}},
    "object": {"type": "object"},
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the data. `kind`: of _TYPES; `optional`: it may be missing; `nullable`: it may be null."""

    name: str
    kind: str
    about: str
    optional: bool = False
    nullable: bool = False
    words: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """One kind of event: when it is told, what its subject is, its data."""

    when: str
    subject: str
    fields: Sequence[Field] = ()


def _text(name: str, about: str, **more: Any) -> Field:
    return Field(name, "text", about, **more)


def _number(name: str, about: str, **more: Any) -> Field:
    return Field(name, "integer", about, **more)


def _money(name: str, about: str, **more: Any) -> Field:
    return Field(name, "money", about, **more)


_CALL: Final = "the call's id"
_SELLER: Final = "the seller's id"
_TARGET: Final = "the target's id"

EVENTS: Final[dict[EventKind, Told]] = {
    EventKind.CALL_STARTED: Told(
        "A call was admitted: it has its places and its hold, and is about to be dialled.", _CALL,
        (
            _text("did", "the number that was called"), _text("caller", "in E.164, or as received"),
            _text("seller", "its name"), _text("campaign", "its name"), _text("target", "the first that is dialled"),
            _money("hold", "reserved of the seller's balance"), _number("funded_s", "seconds of talk that it pays for"),
        ),
    ),
    EventKind.CALL_ANSWERED: Told("A target answered.", _CALL, (_text("target", "who"),)),
    EventKind.CALL_ENDED: Told(
        "A call is over and settled.", _CALL,
        (
            _text("dialstatus", "DIALSTATUS of the last Dial"), _text("target", "who answered, or was dialled last"),
            _number("talk_ms", "how long they talked"), _money("amount", "what the seller pays"),
            _money("written_off", "what it could not pay"), _text("hung_up_by", "caller, target or system"),
            _text("reason", "why it was rejected in the end; empty: it was not"),
        ),
    ),
    EventKind.CALL_REJECTED: Told(
        "A call was not admitted.", _CALL,
        (
            _text("did", "the number that was called"), _text("caller", "in E.164, or as received"),
            _text("reason", "the reject code with its details"), _number("sip", "the SIP code it is rejected with"),
            _text("seller", "its name, as far as it was known"), _text("campaign", "its name, likewise"),
        ),
    ),
    EventKind.CALL_ZOMBIE: Told(
        "A channel without a call, or a call without a channel, was found.", "the call's id, or the channel's uniqueid",
        (
            _text("node", "where"), _text("lacks", "what there is none of", words=("call", "channel")),
            _text("uniqueid", "of the channel"), _text("channel", "its name"),
        ),
    ),
    EventKind.CALL_HANGUP: Told(
        "Somebody asked for a call to be hung up; its end is told when it has come.", _CALL,
        (_text("actor", "who"), _text("node", "where the call is")),
    ),
    EventKind.ATTEMPT_FAILED: Told(
        "A Dial failed; the next target may be tried.", _CALL,
        (
            _number("attempt", "its number within the call"), _text("target", "who was dialled"),
            _text("dialstatus", "DIALSTATUS"), _number("cause", "the hangup cause (Q.850)"),
        ),
    ),
    EventKind.HOLD_EXTENDED: Told(
        "A live call's hold was extended.", _CALL,
        (_money("hold", "reserved now"), _number("funded_s", "seconds of talk that it pays for")),
    ),
    EventKind.CAP_REACHED: Told(
        "A cap that counts in a window is full.", "the cap's id",
        (
            _text("scope", "of what"), _text("limited", "the name of that"), _text("metric", "what it counts"),
            _text("window", "over which time"), _number("limit", "how much; micros for spend, seconds for minutes"),
        ),
    ),
    EventKind.BALANCE_CHANGED: Told(
        "Money moved.", _SELLER,
        (
            _money("amount", "by how much"), _money("balance", "after it"),
            _text("call", "the call that moved it", optional=True),
            _text("reason", "why somebody moved it", optional=True),
        ),
    ),
    EventKind.BALANCE_LOW: Told(
        "A balance fell below the seller's low-balance mark.", _SELLER,
        (_text("seller", "its name"), _money("balance", "what it is"), _money("threshold", "the mark")),
    ),
    EventKind.REQUEST_FILED: Told(
        "A seller asks for numbers.", "the request's id",
        (
            _text("seller", "its name"), _text("seller_id", "its id"), _text("area", "where; empty: anywhere"),
            _number("quantity", "how many"), _text("status", "of the request"), _text("actor", "who filed it"),
            _text("note", "in the seller's words", optional=True),
        ),
    ),
    EventKind.REQUEST_DECIDED: Told(
        "A request for numbers was decided.", "the request's id",
        (
            _text("seller", "its name"), _text("seller_id", "its id"), _text("area", "where; empty: anywhere"),
            _number("quantity", "how many were asked for"), _text("status", "what became of it"),
            _text("actor", "who decided"), _number("given", "how many were given in all", optional=True),
            Field("numbers", "texts", "those that were given now", optional=True),
            _text("reason", "why", optional=True),
        ),
    ),
    EventKind.TARGET_RESTED: Told(
        "A target failed so often that it is rested.", _TARGET,
        (
            _text("target", "its name"), _number("failures", "in a row"),
            Field("until", "instant", "when one call tries it again"),
        ),
    ),
    EventKind.TARGET_REVIVED: Told(
        "A rested target takes calls again.", _TARGET,
        (_text("target", "its name"), _number("failures", "that there were")),
    ),
    EventKind.SETTLEMENT_DISAGREED: Told(
        "A call's end was told a second time with other numbers; nothing was charged for it.", _CALL,
        (
            _text("witness", "who told it now"), _text("settled_by", "who told it first"),
            _text("difference", "in which numbers"),
        ),
    ),
    EventKind.ABUSE_DETECTED: Told(
        "An attack or misuse began.", "the caller, the trunk's name, or a pattern of callers",
        (
            _text("abuse", "of which sort", words=tuple(AbuseKind)), _number("count", "of what there was"),
            _number("limit", "from which on it is told"), _number("window_s", "within so many seconds"),
            Field("blocked_until", "instant", "the caller is blocked so long", nullable=True),
            _text("did", "the number that was called last", optional=True), _text("trunk", "where from", optional=True),
            _number("of", "of so many calls", optional=True),
            _number("percent", "the share that is told", optional=True),
            _number("average", "of the windows before", optional=True),
            _number("factor", "times which it is told", optional=True),
        ),
    ),
    EventKind.ESTATE_CHANGED: Told(
        "The configuration was changed.", "the name of what was changed",
        (_text("action", "like campaign.set"), _text("actor", "who")),
    ),
    EventKind.NODE_STARTED: Told(
        "A daemon runs, for the first time or again.", "the node's name",
        (
            _text("boot", "the id of this run"),
            _text("before", "how the run before ended; lost: without a last word", words=("none", "stopped", "lost")),
        ),
    ),
    EventKind.NODE_STOPPED: Told(
        "A daemon ended as it should. One that is killed tells nothing: see the notification `daemon.lost`.",
        "the node's name", (_text("boot", "the id of the run that ended"),),
    ),
    EventKind.DELIVERY_PARKED: Told(
        "A webhook did not take an event after all its tries: that one and those behind it in its lane wait for"
        " `capconduit webhook retry`. Not told to the webhook itself.", "the webhook's id",
        (
            _text("webhook", "its name"), _text("lane", "the call, or other subject"), _text("event", "the event's id"),
            _text("event_kind", "its kind"), _number("tries", "in vain"), _text("answer", "the last one"),
        ),
    ),
}  # fmt: skip


# --- schemas ----------------------------------------------------------------------------------------------------------


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every kind of payload with its JSON Schema (draft 2020-12)."""
    for kind, told in EVENTS.items():
        yield kind.value, _schema(kind.value, told.when, told.subject, told.fields)
    about = (
        _text("user", "who is told"), _text("text", "in words"), Field("about", "object", "in numbers; kinds differ"),
    )  # fmt: skip
    for notice in (*NoticeKind, "test"):
        name = NOTICE_PREFIX + notice
        yield name, _schema(name, "A notification, to a webhook or command of its rule.", "what it is about", about)
    test = (_text("webhook", "its name"),)
    yield TEST_KIND, _schema(TEST_KIND, "Sent by `capconduit webhook test`.", "the webhook's name", test)


def _schema(kind: str, when: str, subject: str, fields: Sequence[Field]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind,
        "description": when,
        "type": "object",
        "required": ["schema", "id", "kind", "at", "tenant", "subject", "data"],
        "properties": {
            "schema": {"const": SCHEMA},
            "id": {"type": "string", "pattern": _ULID, "description": "the same on every try"},
            "kind": {"const": kind},
            "at": {"type": "string", "pattern": _INSTANT, "description": "when it happened, UTC"},
            "tenant": {"type": "string", "description": "name of the tenant"},
            "subject": {"type": "string", "description": subject},
            "data": {
                "type": "object",
                "required": [field.name for field in fields if not field.optional],
                "properties": {field.name: _property(field) for field in fields},
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    }


def _property(field: Field) -> dict[str, Any]:
    found = dict(_TYPES[field.kind])
    if field.nullable:
        found["type"] = [found["type"], "null"]
    if field.words:
        found["enum"] = [*map(str, field.words)]
    return {**found, "description": field.about}


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as its file has it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


# --- the document -----------------------------------------------------------------------------------------------------


def tables() -> str:
    """The part of docs/events.md that is made from this file."""
    parts = []
    for kind, told in EVENTS.items():
        lines = [f"### {kind}", "", told.when, f"Subject: {told.subject}."]
        if told.fields:
            lines += ["", "| data | type | what |", "|---|---|---|", *map(_line, told.fields)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _line(field: Field) -> str:
    kind = field.kind + (" or null" if field.nullable else "") + (", may be missing" if field.optional else "")
    words = f": {', '.join(f'`{word}`' for word in field.words)}" if field.words else ""
    return f"| `{field.name}` | {kind} | {field.about}{words} |"


def document(text: str) -> str:
    """docs/events.md with its made part as it has to be."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables()}\n\n{END}{tail}"


def write() -> None:
    """Write the schemas and the document."""
    SCHEMAS.mkdir(exist_ok=True)
    wanted = {f"{name}.json": schema_text(schema) for name, schema in schemas()}
    for file in SCHEMAS.glob("*.json"):
        if file.name not in wanted:
            file.unlink()
    for name, text in wanted.items():
        (SCHEMAS / name).write_text(text, "utf-8")
    DOCUMENT.write_text(document(DOCUMENT.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    write()
    sys.exit(0)
