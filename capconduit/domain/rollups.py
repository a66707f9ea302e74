"""How settled calls are kept summed for reports: by quarter hours and days, and by what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, ClassVar, Final

from capconduit.domain.record import record
from capconduit.vocab import RollupGrain, RollupKind

QUARTER_MS: Final = 900_000  # every zone's offset is a multiple of it
DAY_MS: Final = 86_400_000
WIDTH_MS: Final[Mapping[RollupGrain, int]] = {RollupGrain.QUARTER: QUARTER_MS, RollupGrain.DAY: DAY_MS}


@record
class Rollup:
    """The sum of a tenant's settled calls that arrived in a quarter hour or day and agree in all that names them.

    `subject` is the DID's number, the trunk's name or the target's id, "" for other kinds and for calls without. Of
    kind `target` a row sums Dials: see docs/reports.md.
    """

    KEY: ClassVar[tuple[str, ...]] = (
        "tenant_id", "kind", "grain", "bucket_ms", "seller_id", "campaign_id", "subject", "currency", "reject_reason",
    )  # fmt: skip

    tenant_id: str
    kind: RollupKind
    grain: RollupGrain
    bucket_ms: int
    seller_id: str
    campaign_id: str
    subject: str
    currency: str
    reject_reason: str
    calls: int
    attempted: int
    connected: int
    billable: int
    rang: int
    pdd_ms: int
    talk_ms: int
    billed_s: int
    amount_micros: int
    payout_micros: int
    written_off_micros: int


@record
class RollupName:
    """How a seller, campaign or target was called when its calls were summed; it may be gone by now."""

    KEY: ClassVar[tuple[str, ...]] = ("tenant_id", "kind", "id")

    tenant_id: str
    kind: str
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Sums:
    """What is summed of calls, of one currency or of those without. The names are those of Rollup."""

    calls: int = 0
    attempted: int = 0
    connected: int = 0
    billable: int = 0
    rang: int = 0
    pdd_ms: int = 0
    talk_ms: int = 0
    billed_s: int = 0
    amount_micros: int = 0
    payout_micros: int = 0
    written_off_micros: int = 0
    rejected: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, name) + getattr(other, name) for name in _SUMMED))


_SUMMED: Final = tuple(field.name for field in fields(Sums))
SUM_COLUMNS: Final = _SUMMED[:-1]  # those that rollups keep; rejects are the calls with a reason


@dataclass(frozen=True, slots=True)
class Fact:
    """What is summed of the calls (or Dials) that agree in everything that any kind of rollup tells apart; `values` are
    those of SUM_COLUMNS."""

    bucket_ms: int
    seller_id: str
    campaign_id: str
    did: str
    trunk: str
    target_id: str
    currency: str
    reject_reason: str
    values: tuple[int, ...]


def rolled(tenant_id: str, facts: Iterable[Fact], kinds: Iterable[RollupKind], grain: RollupGrain) -> list[Rollup]:
    """The rollups of `kinds` that these facts sum up to; all facts are of buckets of this grain."""
    known = list(facts)
    rows: list[Rollup] = []
    for kind in kinds:
        key_of, sums = _KEYS[kind], _Sums()
        for fact in known:
            sums.add((fact.bucket_ms, *key_of(fact), fact.currency, fact.reject_reason), fact.values)
        rows += [_rollup((tenant_id, kind, grain, *key), values) for key, values in sums.items()]
    return rows


# Seller, campaign and subject of the rows of each kind.
_KEYS: Final[Mapping[RollupKind, Callable[[Fact], tuple[str, str, str]]]] = {
    RollupKind.ALL: lambda _: ("", "", ""),
    RollupKind.CAMPAIGN: lambda fact: (fact.seller_id, fact.campaign_id, ""),
    RollupKind.DID: attrgetter("seller_id", "campaign_id", "did"),
    RollupKind.TRUNK: attrgetter("seller_id", "campaign_id", "trunk"),
    RollupKind.TARGET: attrgetter("seller_id", "campaign_id", "target_id"),
}
CALL_KINDS: Final = (RollupKind.ALL, RollupKind.CAMPAIGN, RollupKind.DID, RollupKind.TRUNK)
# Of these there are quarter hours, too: of the others a row for each would be about as many as there are calls.
FINE_KINDS: Final = (RollupKind.ALL, RollupKind.CAMPAIGN)


class _Sums(dict[tuple[object, ...], list[int]]):
    """Sums of columns by key."""

    def add(self, key: tuple[object, ...], values: Sequence[int]) -> None:
        known = self.get(key)
        self[key] = list(values) if known is None else [a + b for a, b in zip(known, values, strict=True)]


_NAMES: Final = (
    "tenant_id", "kind", "grain", "bucket_ms", "seller_id", "campaign_id", "subject", "currency", "reject_reason",
)  # fmt: skip


def _rollup(key: tuple[object, ...], values: Sequence[int]) -> Rollup:
    fields: Any = dict(zip((*_NAMES, *SUM_COLUMNS), (*key, *values), strict=True))
    return Rollup(**fields)
