"""Finding anything by its name, number or id, or by a part of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from typing import Any, Final

from capconduit.domain.agents import Agent, Provider
from capconduit.domain.model import (
    Block,
    Call,
    Campaign,
    Cdr,
    Did,
    Rate,
    Schedule,
    Seller,
    Target,
    Trunk,
    User,
)
from capconduit.domain.numbers import to_e164
from capconduit.domain.people import DidRequest, Token
from capconduit.domain.settings import setting_descriptions
from capconduit.errors import Refused, UsageError
from capconduit.services.office import NEAR_NAMES, Desk, Office
from capconduit.units import format_instant

PER_KIND: Final = 20  # things of one kind that are shown
RECENT_CALLS: Final = 1_000  # ended calls that are looked through for a part of a number or id
SHORTEST_NUMBER: Final = 3  # digits that are looked for in numbers
SHORTEST_ID: Final = 4  # characters that are looked for in ids
_AS_A_NUMBER: Final = re.compile(r"[+0-9\s().\-/]+")
_UNIQUEID: Final = re.compile(r"[\w.\-]+\.[0-9]+")  # Asterisk's: the instant, a dot, a count, behind a system's name
# Kinds by their noun, with what besides the name is looked through.
_NAMED: Final[Mapping[str, tuple[type[Any], tuple[str, ...]]]] = {
    "seller": (Seller, ()),
    "campaign": (Campaign, ()),
    "target": (Target, ("address",)),
    "trunk": (Trunk, ("hosts", "auth_username")),
    "rate": (Rate, ()),
    "schedule": (Schedule, ()),
    "user": (User, ("email",)),
    "token": (Token, ()),
    "agent": (Agent, ()),
    "provider": (Provider, ()),
}


@dataclass(frozen=True, slots=True)
class Hit:
    """A thing that was found: its kind (the noun), its name, in words what it is, and the command that shows it.

    `rank`: 0 where the text is the whole of the name, 1 where it begins it, else 2.
    """

    kind: str
    name: str
    detail: str
    command: str
    rank: int


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, the best first, and how many more of a kind there are than are shown."""

    hits: Sequence[Hit]
    more: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is looked for: as it was written, without regard to capitals, its digits where it may be a number, and the
    number it is where it is one."""

    written: str
    text: str
    digits: str
    number: str

    def rank(self, name: str, *others: str) -> int | None:
        """How well it fits a name, or what else is looked through; None where it does not."""
        folded = name.casefold()
        if folded == self.text:
            return 0
        if folded.startswith(self.text):
            return 1
        return 2 if self.text in folded or any(self.text in other.casefold() for other in others) else None

    def number_rank(self, number: str) -> int | None:
        """The same of a telephone number, whatever its notation."""
        if self.number and number == self.number:
            return 0
        if not self.digits or self.digits not in number:
            return None
        return 1 if number.removeprefix("+").startswith(self.digits) else 2

    def id_rank(self, *ids: str) -> int | None:
        """The same of ids, by their beginning or end."""
        if any(self.text == one.casefold() for one in ids):
            return 0
        if len(self.text) < SHORTEST_ID:
            return None
        fits = any(one.casefold().startswith(self.text) or one.casefold().endswith(self.text) for one in ids)
        return 2 if fits else None


def find(office: Office, text: str) -> Found:
    """Everything whose name, number or id is `text` or has it in it, of all kinds. Raises UsageError, Refused (nothing
    was found)."""
    if not text.strip():
        raise UsageError("text-missing", "what is to be found?", "give a name, number or id, or a part of it")

    def work(desk: Desk) -> Found:
        wanted = _wanted(desk, text)
        found: dict[str, list[Hit]] = {}
        for hit in chain(
            _dids(desk, wanted), _named(desk, wanted), _settings(wanted), _requests(desk, wanted),
            _blocks(desk, wanted), _calls(desk, wanted), _cdrs(desk, wanted),
        ):  # fmt: skip
            found.setdefault(hit.kind, []).append(hit)
        if not found:
            raise Refused("nothing-found", f"nothing has {text!r} in its name, number or id", _hint(desk, text))
        kept = [hit for hits in found.values() for hit in sorted(hits, key=lambda h: h.rank)[:PER_KIND]]
        more = {kind: len(hits) - PER_KIND for kind, hits in found.items() if len(hits) > PER_KIND}
        return Found(sorted(kept, key=lambda h: h.rank), more)

    return office.read(work)


def _wanted(desk: Desk, text: str) -> _Wanted:
    plain = text.strip()
    digits = re.sub(r"[^0-9]", "", plain) if _AS_A_NUMBER.fullmatch(plain) else ""
    number = (to_e164(re.sub(r"[\s().\-/]", "", plain), desk.settings().default_region) or "") if digits else ""
    return _Wanted(plain, plain.casefold(), digits if len(digits) >= SHORTEST_NUMBER else "", number)


def _dids(desk: Desk, wanted: _Wanted) -> Iterator[Hit]:
    if not wanted.digits:
        return
    campaigns = {c.id: c.name for c in desk.tx.rows(Campaign, desk.tenant_id)}
    for did in sorted(desk.tx.rows(Did, desk.tenant_id), key=lambda d: d.number):
        rank = wanted.number_rank(did.number)
        if rank is not None:
            campaign = campaigns.get(did.campaign_id or "", "")
            yield _hit("did", did.number, f"{did.status} {campaign}".rstrip(), did.number, rank)


def _named(desk: Desk, wanted: _Wanted) -> Iterator[Hit]:
    for noun, (kind, columns) in _NAMED.items():
        rows: Sequence[Any] = desk.tx.rows(kind, desk.tenant_id)
        for row in sorted(rows, key=lambda r: str(r.name)):
            others = [str(getattr(row, column)) for column in columns]
            rank = wanted.rank(row.name, *others)
            if rank is None:
                rank = wanted.id_rank(row.id)
            if rank is not None:
                words = [str(getattr(row, c)) for c in ("status", "kind", "role", "currency") if hasattr(row, c)]
                yield _hit(noun, row.name, " ".join([*words, *others]).strip(), row.name, rank)


def _settings(wanted: _Wanted) -> Iterator[Hit]:
    for name, (_, _, description) in setting_descriptions().items():
        rank = wanted.rank(name)
        if rank is not None:
            yield _hit("setting", name, description, name, rank)


def _requests(desk: Desk, wanted: _Wanted) -> Iterator[Hit]:
    sellers = {s.id: s.name for s in desk.tx.rows(Seller, desk.tenant_id)}
    for row in desk.tx.rows(DidRequest, desk.tenant_id, newest_first="created_ms"):
        rank = wanted.id_rank(row.id)
        if rank is None:
            rank = wanted.rank(sellers.get(row.seller_id, ""), row.note)
            rank = None if rank is None else 2
        if rank is not None:
            what = f"{row.status}, {sellers.get(row.seller_id, '')} wants {row.quantity} {row.area}".rstrip()
            yield _hit("request", row.id, what, row.id, rank)


def _blocks(desk: Desk, wanted: _Wanted) -> Iterator[Hit]:
    for row in sorted(desk.tx.rows(Block, desk.tenant_id), key=lambda b: b.pattern):
        rank = wanted.number_rank(row.pattern)
        if rank is None:
            rank = wanted.rank(row.pattern, row.reason)
        if rank is not None:
            yield _hit("block", row.pattern, f"{row.scope} {row.reason}".rstrip(), row.pattern, rank)


def _calls(desk: Desk, wanted: _Wanted) -> Iterator[Hit]:
    for call in desk.tx.rows(Call, desk.tenant_id):
        numbers = (call.did_number, call.ani_e164 or call.ani)
        rank = _call_rank(wanted, (call.id, call.uniqueid), numbers)
        if rank is not None:
            what = f"{call.state} {call.ani_e164 or call.ani} to {call.did_number}"
            yield _hit("call", call.id, what, call.id, rank)


def _cdrs(desk: Desk, wanted: _Wanted) -> Iterator[Hit]:
    """Of the newest calls any part; of older ones the whole id, or Asterisk's."""
    recent = desk.tx.rows(Cdr, desk.tenant_id, newest_first="arrived_ms", limit=RECENT_CALLS)
    older = list(desk.tx.rows(Cdr, desk.tenant_id, call_id=wanted.text.upper()))
    if _UNIQUEID.fullmatch(wanted.written):
        older += desk.tx.rows(Cdr, desk.tenant_id, uniqueid=wanted.written, limit=PER_KIND)
    for cdr in {each.call_id: each for each in [*recent, *older]}.values():
        numbers = (cdr.did, cdr.caller_e164 or cdr.caller)
        rank = _call_rank(wanted, (cdr.call_id, cdr.uniqueid), numbers)
        if rank is not None:
            end = cdr.reject_code or cdr.dialstatus
            what = f"{format_instant(cdr.arrived_ms)[:19]}Z {numbers[1]} to {cdr.did} {end}".rstrip()
            yield _hit("cdr", cdr.call_id, what, cdr.call_id, rank)


def _call_rank(wanted: _Wanted, ids: Iterable[str], numbers: Iterable[str]) -> int | None:
    ranks = [wanted.id_rank(*ids), *(wanted.number_rank(number) for number in numbers)]
    known = [rank for rank in ranks if rank is not None]
    return min(known) if known else None


def _hit(kind: str, name: str, detail: str, argument: str, rank: int) -> Hit:
    return Hit(kind, name, detail, f"capconduit {kind} show {shlex.quote(argument)}", rank)


def _hint(desk: Desk, text: str) -> str:
    """The nearest names of all kinds."""
    names = {str(row.name) for kind, _ in _NAMED.values() for row in desk.tx.rows(kind, desk.tenant_id)}
    near = get_close_matches(text, sorted(names), n=NEAR_NAMES)
    return f"did you mean {' or '.join(repr(name) for name in near)}?" if near else "a shorter part finds more"
