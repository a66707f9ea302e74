"""Blocklists: the patterns of callers that an operator writes, and the index that finds the one a caller is on.

A pattern is a number (`+12125550147`), a prefix (`+1212*`), a number with `?` for any one digit (`+1212555????`), or a
caller as received that is no number (`1001`, `anonymous`: every caller who withheld the number).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from capconduit.domain.numbers import is_anonymous, parse_number, to_e164
from capconduit.errors import UsageError
from capconduit.vocab import CapScope

MIN_DIGITS: Final = 7  # of an E.164 number, as numbers.to_e164 takes them
MAX_DIGITS: Final = 15
MAX_RECEIVED_CHARS: Final = 80
ANONYMOUS: Final = "anonymous"  # the pattern of all withheld numbers, whatever word came in place of one
BLOCK_SCOPES: Final = (CapScope.SYSTEM, CapScope.SELLER, CapScope.CAMPAIGN)  # in the order they are asked

_PUNCTUATION = re.compile(r"[\s().\-/]")
_WILD = re.compile(r"\+[1-9?][0-9?]*\*?")
_NUMERIC = re.compile(r"[+0-9\s().\-/]*")
_RECEIVED = re.compile(r"[!-)+->@-~]+")  # visible ASCII without `*` and `?`
_FOREVER_MS: Final = 1 << 62


class BlockRow(Protocol):
    """A row of a blocklist. `scope_id` is the id of the seller or campaign, or the tenant's for `system`."""

    @property
    def id(self) -> str:
        """Public id."""
        ...

    @property
    def tenant_id(self) -> str:
        """Whose list it is."""
        ...

    @property
    def scope(self) -> CapScope:
        """One of BLOCK_SCOPES."""
        ...

    @property
    def scope_id(self) -> str:
        """For whose calls it holds."""
        ...

    @property
    def pattern(self) -> str:
        """As parse_pattern writes it."""
        ...

    @property
    def reason(self) -> str:
        """Why, in the operator's words."""
        ...

    @property
    def expires_ms(self) -> int | None:
        """From this instant on it holds no more; None: it holds for ever."""
        ...


RowT = TypeVar("RowT", bound=BlockRow)


# --- patterns --------------------------------------------------------------------------------------------------------


def parse_pattern(text: str, region: str) -> str:
    """The canonical pattern of what a person writes; `region` (ISO 3166) is that of national numbers.

    Raises UsageError, also for a pattern that everybody or nobody would be on.
    """
    word = text.strip()
    if "*" in word or "?" in word:
        return _parse_wild(text)
    number = to_e164(_PUNCTUATION.sub("", word), region)
    if number is not None:
        return number
    if word.startswith("+") or (_NUMERIC.fullmatch(word) and not word.isdigit()):
        return parse_number(text, region)  # which says what is wrong
    if len(word) > MAX_RECEIVED_CHARS or not _RECEIVED.fullmatch(word):
        raise UsageError(
            "pattern-invalid",
            f"{_shown(text)} is no caller",
            "write a number (+12125550147), a prefix (+1212*), +1212555???? or a caller as received (anonymous, 1001)",
        )
    return _as_received(word)


def _parse_wild(text: str) -> str:
    """A prefix, or a number with `?`: the country code is written, because a caller's number has it."""
    pattern = _PUNCTUATION.sub("", text)
    if not pattern.strip("+?*"):
        raise UsageError(
            "pattern-invalid",
            f"{_shown(text)} names no digit and is too wide",
            "give at least one, like +1*; to refuse every caller pause the campaign",
        )
    if not _WILD.fullmatch(pattern):
        raise UsageError(
            "pattern-invalid",
            f"{_shown(text)} is no pattern of numbers",
            "write + and the country code, then digits, ? for one digit, and * only at the end: +1212*, +1212555????",
        )
    digits = pattern.strip("+*")
    if len(digits) > MAX_DIGITS or (len(digits) < MIN_DIGITS and not pattern.endswith("*")):
        raise UsageError(
            "pattern-invalid",
            f"{_shown(text)} can match no number",
            f"a number has {MIN_DIGITS} to {MAX_DIGITS} digits; end the pattern with * where more may follow",
        )
    return pattern


def _as_received(received: str) -> str:
    """The key of a caller that is no number: capitals do not count, nor the word for a withheld number."""
    return ANONYMOUS if is_anonymous(received) else received.strip().lower()


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_RECEIVED_CHARS else text[:MAX_RECEIVED_CHARS] + "…")


# --- the index -------------------------------------------------------------------------------------------------------


class _List(Generic[RowT]):
    """The rows of one scope, indexed; of rows with the same pattern only the one that holds longest is kept."""

    def __init__(self, rows: Iterable[RowT]) -> None:
        longest: dict[str, RowT] = {}
        for row in sorted(rows, key=lambda r: (-_until_ms(r), r.id)):
            longest.setdefault(row.pattern, row)
        self.exact: dict[str, RowT] = {}
        self.prefixes: dict[str, RowT] = {}
        wild: list[RowT] = []
        for pattern, row in longest.items():
            if "?" in pattern or "*" in pattern[:-1]:
                wild.append(row)
            elif pattern.endswith("*"):
                self.prefixes[pattern[:-1]] = row
            else:
                self.exact[pattern] = row
        self.lengths = sorted({len(prefix) for prefix in self.prefixes}, reverse=True)
        wild.sort(key=lambda r: (-sum(map(str.isdigit, r.pattern)), r.pattern))
        self.wild = [(_regex(row.pattern), row) for row in wild]


class Blocklist(Generic[RowT]):
    """All blocklists of an estate; built once, never changed.

    A look-up costs the same for one number or prefix and for a million; only patterns with `?` are tried one by one.
    """

    def __init__(self, rows: Iterable[RowT] = ()) -> None:
        grouped: dict[CapScope, dict[tuple[str, str], list[RowT]]] = {scope: {} for scope in BLOCK_SCOPES}
        for row in rows:
            grouped[row.scope].setdefault((row.tenant_id, row.scope_id), []).append(row)
        system, seller, campaign = (
            {owner: _List(of_owner) for owner, of_owner in grouped[scope].items()} for scope in BLOCK_SCOPES
        )
        self._system, self._seller, self._campaign = system, seller, campaign
        self._empty = not (system or seller or campaign)

    def match(
        self, tenant_id: str, seller_id: str, campaign_id: str, e164: str, received: str, now_ms: int
    ) -> RowT | None:
        """The row that blocks a caller, or None: exact before prefix (the longest) before `?` (the most digits).

        `e164` is the caller's number, empty where it is none; `received` is what came, untrusted. Of several lists the
        system's is asked first, then the seller's, then the campaign's.
        """
        if self._empty:
            return None
        found = (
            self._system.get((tenant_id, tenant_id)),
            self._seller.get((tenant_id, seller_id)),
            self._campaign.get((tenant_id, campaign_id)),
        )
        lists = [one for one in found if one is not None]
        if not lists:
            return None
        row = _exact(lists, (e164, _as_received(received)), now_ms)
        if row is None and e164:
            row = _prefix(lists, e164, now_ms) or _wild(lists, e164, now_ms)
        return row


def _exact(lists: Sequence[_List[RowT]], keys: Iterable[str], now_ms: int) -> RowT | None:
    for key in keys:
        for one in lists:
            row = one.exact.get(key)
            if row is not None and now_ms < _until_ms(row):
                return row
    return None


def _prefix(lists: Sequence[_List[RowT]], e164: str, now_ms: int) -> RowT | None:
    """The row of the longest prefix over all lists."""
    best: tuple[int, RowT] | None = None
    for one in lists:
        for length in one.lengths:
            if best is not None and length <= best[0]:
                break
            row = one.prefixes.get(e164[:length])
            if row is not None and now_ms < _until_ms(row):
                best = length, row
                break
    return best[1] if best else None


def _wild(lists: Sequence[_List[RowT]], e164: str, now_ms: int) -> RowT | None:
    """The row of the first list that has one; in it the one with the most digits."""
    for one in lists:
        for regex, row in one.wild:
            if now_ms < _until_ms(row) and regex.fullmatch(e164):
                return row
    return None


def _until_ms(row: BlockRow) -> int:
    return _FOREVER_MS if row.expires_ms is None else row.expires_ms


def _regex(pattern: str) -> re.Pattern[str]:
    wild = {"?": "[0-9]", "*": "[0-9]*"}
    return re.compile("".join(wild.get(char) or re.escape(char) for char in pattern))
