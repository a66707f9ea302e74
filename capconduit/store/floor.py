"""What whoever looks at the floor reads again and again: live calls, counters, what happened, what ended.

Small reads of one tenant that lock nothing; see services/floor.py, which puts them together. Traces of calls are left
out: they are most of a row, and are read with the story of a call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from capconduit.domain.model import Attempt, Call, Cdr, Counter, Event, Hold
from capconduit.store.rows import RowMapping, mapping

if TYPE_CHECKING:
    from capconduit.domain.books import CounterKey
    from capconduit.store.dialect import Dialect

# What of a live call tells that it changed; its hold changes with one of them.
MARKS: Final = ("state", "attempt", "leg", "funded_s", "answered_ms", "per_minute_micros")

Mark = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CallParts:
    """Live calls, without their traces, with all their attempts and their open holds."""

    calls: Sequence[Call]
    attempts: Sequence[Attempt]
    holds: Sequence[Hold]


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the Dials of one target: those that were tried, those that were answered, and their talk."""

    dials: int = 0
    answered: int = 0
    talk_ms: int = 0


class FloorReads(Protocol):
    """The reads of one transaction."""

    def marks(self, tenant_id: str, but_of: str) -> Mapping[str, Mark]:
        """MARKS of the live calls by id, but for those of one node ("": of none)."""
        ...

    def calls(self, tenant_id: str, ids: Collection[str] | None) -> CallParts:
        """Live calls; None: all of them."""
        ...

    def call(self, call_id: str) -> Call | None:
        """A live call of any tenant, without its trace."""
        ...

    def counters(
        self, tenant_id: str, keys: Collection[CounterKey], buckets: Mapping[int, Collection[str]]
    ) -> Sequence[Counter]:
        """Counters by key; and of caps that look back, by the instant after which their buckets count."""
        ...

    def event_ids(self, tenant_id: str, since_id: str, limit: int) -> Sequence[str]:
        """Ids of the newest events from `since_id` on, at most `limit`, the newest first."""
        ...

    def events(self, tenant_id: str, ids: Collection[str]) -> Sequence[Event]:
        """Events by id, the oldest first."""
        ...

    def ended(self, tenant_id: str, ids: Collection[str]) -> tuple[Sequence[Cdr], Sequence[Attempt]]:
        """Records of calls, without their traces, and their attempts."""
        ...

    def tallies(self, tenant_id: str, since_ms: int) -> Mapping[str, Tally]:
        """What became of the Dials of the settled calls that arrived since, by target id."""
        ...

    def ended_since(self, tenant_id: str, arrived_ms: int, ended_ms: int) -> Sequence[str]:
        """Ids of the settled calls that arrived since the one instant and ended since the other."""
        ...


class FloorSql(FloorReads):
    """The reads in SQL that both engines speak."""

    def __init__(self, db: Dialect) -> None:
        self._db = db

    def marks(self, tenant_id: str, but_of: str) -> Mapping[str, Mark]:
        rows = self._db.query(
            f"SELECT id, {', '.join(MARKS)} FROM call WHERE tenant_id = :tenant_id AND node <> :node",  # noqa: S608
            {"tenant_id": tenant_id, "node": but_of},
        )
        return {row[0]: tuple(row[1:]) for row in rows}

    def calls(self, tenant_id: str, ids: Collection[str] | None) -> CallParts:
        values: dict[str, Any] = {"tenant_id": tenant_id}
        if ids is None:
            own, parts = "", " AND call_id IN (SELECT id FROM call WHERE tenant_id = :tenant_id)"
        else:
            own, parts = f" AND {self._db.any_of('id', 'ids')}", f" AND {self._db.any_of('call_id', 'ids')}"
            values["ids"] = self._db.list_value(sorted(ids))
        found = self._db.queries([
            (f"{_light(mapping(Call))} WHERE tenant_id = :tenant_id{own} ORDER BY id", values),
            (f"{mapping(Attempt).select} WHERE tenant_id = :tenant_id{parts}", values),
            (f"{mapping(Hold).select} WHERE tenant_id = :tenant_id AND state = 'open'{parts}", values),
        ])  # fmt: skip
        calls, attempts, holds = (
            [mapping(kind).load(row) for row in rows] for kind, rows in zip((Call, Attempt, Hold), found, strict=True)
        )
        return CallParts(calls, attempts, holds)

    def call(self, call_id: str) -> Call | None:
        rows = self._db.query(f"{_light(mapping(Call))} WHERE id = :id /* all tenants */", {"id": call_id})
        return mapping(Call).load(rows[0]) if rows else None

    def counters(
        self, tenant_id: str, keys: Collection[CounterKey], buckets: Mapping[int, Collection[str]]
    ) -> Sequence[Counter]:
        m = mapping(Counter)
        statements: list[tuple[str, Mapping[str, Any]]] = []
        if keys:
            where = f"tenant_id = :tenant_id AND {self._db.any_pair(('cap_id', 'window_start_ms'), 'keys')}"
            values = {"tenant_id": tenant_id, **self._db.pair_values("keys", sorted(keys))}
            statements.append((f"{m.select} WHERE {where}", values))
        for after_ms, cap_ids in sorted(buckets.items()):
            where = f"tenant_id = :tenant_id AND {self._db.any_of('cap_id', 'ids')} AND window_start_ms > :after"
            wanted = self._db.list_value(sorted(cap_ids))
            statements.append((f"{m.select} WHERE {where}", {"tenant_id": tenant_id, "ids": wanted, "after": after_ms}))
        return [m.load(row) for rows in (self._db.queries(statements) if statements else ()) for row in rows]

    def event_ids(self, tenant_id: str, since_id: str, limit: int) -> Sequence[str]:
        rows = self._db.query(
            "SELECT id FROM event WHERE tenant_id = :tenant_id AND id >= :since ORDER BY id DESC LIMIT :row_limit",
            {"tenant_id": tenant_id, "since": since_id, "row_limit": limit},
        )
        return [row[0] for row in rows]

    def events(self, tenant_id: str, ids: Collection[str]) -> Sequence[Event]:
        m = mapping(Event)
        where = f"tenant_id = :tenant_id AND {self._db.any_of('id', 'ids')}"
        values = {"tenant_id": tenant_id, "ids": self._db.list_value(sorted(ids))}
        return [m.load(row) for row in self._db.query(f"{m.select} WHERE {where} ORDER BY id", values)]

    def ended(self, tenant_id: str, ids: Collection[str]) -> tuple[Sequence[Cdr], Sequence[Attempt]]:
        where = f"tenant_id = :tenant_id AND {self._db.any_of('call_id', 'ids')}"
        values = {"tenant_id": tenant_id, "ids": self._db.list_value(sorted(ids))}
        cdrs, attempts = self._db.queries([
            (f"{_light(mapping(Cdr))} WHERE {where}", values),
            (f"{mapping(Attempt).select} WHERE {where}", values),
        ])  # fmt: skip
        return [mapping(Cdr).load(row) for row in cdrs], [mapping(Attempt).load(row) for row in attempts]

    def tallies(self, tenant_id: str, since_ms: int) -> Mapping[str, Tally]:
        """One that was taken and never dialled does not count: it has ended without a cause, or came too late."""
        talked = "CASE WHEN cdr.answered_ms IS NOT NULL AND cdr.attempt = attempt.number THEN {} ELSE 0 END"
        rows = self._db.query(
            f"SELECT attempt.target_id, count(*), sum({talked.format('1')}), sum({talked.format('cdr.talk_ms')})"  # noqa: S608
            " FROM cdr JOIN attempt ON attempt.call_id = cdr.call_id AND attempt.tenant_id = cdr.tenant_id"
            " WHERE cdr.tenant_id = :tenant_id AND cdr.arrived_ms >= :since AND attempt.hangup_cause IS NOT NULL"
            " AND NOT (cdr.reject_code = 'engine_timeout' AND cdr.attempt = attempt.number)"
            " GROUP BY attempt.target_id",
            {"tenant_id": tenant_id, "since": since_ms},
        )
        return {row[0]: Tally(int(row[1]), int(row[2]), int(row[3])) for row in rows}

    def ended_since(self, tenant_id: str, arrived_ms: int, ended_ms: int) -> Sequence[str]:
        rows = self._db.query(
            "SELECT call_id FROM cdr WHERE tenant_id = :tenant_id AND arrived_ms >= :arrived AND ended_ms >= :ended",
            {"tenant_id": tenant_id, "arrived": arrived_ms, "ended": ended_ms},
        )
        return [row[0] for row in rows]


def _light(m: RowMapping) -> str:
    """All columns but the trace, which is read as empty."""
    columns = ", ".join("'' AS trace" if name == "trace" else name for name in m.columns)
    return f"SELECT {columns} FROM {m.table}"  # noqa: S608 - names from our own classes
