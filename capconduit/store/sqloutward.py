"""What goes out, in SQL: the outbox, lanes that are claimed for a while, deliveries, and what a user was told of.

An event is noted in the outbox in the transaction that writes it, so none is lost to a crash or to another daemon that
commits late, whatever their clocks and ids say. Where nobody wants events, nothing is noted: whether somebody does
stands in the estate's version row, which every decision reads anyway.

**Lock order**: the outbox (one at a time gives out what is in it) → lanes by (receiver, lane). None of them is held
together with locks on the way of a call. A lane is claimed by moving its `due_ms` to the end of a lease; who claims
passes by the lanes that another one is at (SKIP LOCKED), and what it did counts only while it is still the owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from capconduit.domain.deliveries import Delivery, Lane, Notification, NotificationMark, NotificationRule, Webhook
from capconduit.domain.model import Event
from capconduit.store.dialect import OUTBOX_LOCK, Dialect, insert_sql
from capconduit.store.notes import FEEDING
from capconduit.store.rows import mapping
from capconduit.vocab import DeliveryState

Row = TypeVar("Row")
Key = tuple[str, str]  # receiver, lane

MOST_COUNTED: Final = 10_000
_LANE: Final = ("receiver_id", "lane")
_WAITING: Final = DeliveryState.WAITING.value


class Outward:
    """The verbs of one transaction on what goes out; they serve all tenants where they serve a daemon."""

    def __init__(self, db: Dialect) -> None:
        self._db = db

    # --- receivers ----------------------------------------------------------------------------------------------------

    def feeding(self) -> bool:
        """Whether events are noted in the outbox."""
        return bool(self._db.query(FEEDING, {})[0][0])

    def decide_feeding(self) -> bool:
        """Note events from now on if anybody wants them; to be called, with the estate locked for a change, when a
        receiver came or went. Whether somebody does."""
        wanted = "EXISTS (SELECT 1 FROM webhook) OR EXISTS (SELECT 1 FROM notification_rule)"
        sql = f"UPDATE estate_version SET feeding = ({wanted}) WHERE id = 1 RETURNING feeding /* all tenants */"
        return bool(self._db.query(sql, {})[0][0])

    def webhooks(self) -> Sequence[Webhook]:
        """Those of all tenants."""
        return self._all(Webhook)

    def rules(self) -> Sequence[NotificationRule]:
        """Those of all tenants."""
        return self._all(NotificationRule)

    def _all(self, kind: type[Row]) -> list[Row]:
        m = mapping(kind)
        return [m.load(row) for row in self._db.query(f"{m.select} /* all tenants */ ORDER BY id", {})]

    def drop_receiver(self, tenant_id: str, receiver_id: str) -> None:
        """Take away the lanes of a receiver that goes: nobody claims what waits for it any more.

        Its deliveries, of which there may be very many, go in steps (`forget_removed`), so that no call waits for them.
        """
        sql = "DELETE FROM lane WHERE tenant_id = :tenant_id AND receiver_id = :receiver_id RETURNING 1"
        self._db.query(sql, {"tenant_id": tenant_id, "receiver_id": receiver_id})

    def removed(self) -> Sequence[tuple[str, str]]:
        """Receivers that are no longer there and have deliveries still, with the tenants that had them.

        From one receiver to the next by the key, so that this costs as much as there are receivers, not deliveries.
        """
        sql = (
            "WITH RECURSIVE receiver (id) AS (SELECT min(receiver_id) FROM delivery UNION ALL"
            " SELECT (SELECT min(receiver_id) FROM delivery WHERE receiver_id > receiver.id) FROM receiver"
            " WHERE receiver.id IS NOT NULL)"
            " SELECT (SELECT tenant_id FROM delivery WHERE receiver_id = receiver.id LIMIT 1), receiver.id"
            " FROM receiver WHERE receiver.id IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM webhook WHERE webhook.id = receiver.id)"
            " AND NOT EXISTS (SELECT 1 FROM notification_rule WHERE notification_rule.id = receiver.id)"
            " /* all tenants */"
        )
        return [(row[0], row[1]) for row in self._db.query(sql, {})]

    # --- from the outbox to the lanes ---------------------------------------------------------------------------------

    def lock_outbox(self) -> None:
        """Wait for whoever else gives out what is in the outbox: two at once would change the order of a lane."""
        for sql, values in self._db.name_locks(OUTBOX_LOCK, [("outbox", "")]):
            self._db.query(sql, values)

    def outbox(self, limit: int) -> Mapping[str, int]:
        """The first events of the outbox, in their order: their ids and positions."""
        sql = "SELECT event_id, position FROM outbox /* all tenants */ ORDER BY position, event_id LIMIT :row_limit"
        return {row[0]: int(row[1]) for row in self._db.query(sql, {"row_limit": limit})}

    def events(self, ids: Sequence[str]) -> Sequence[Event]:
        """These events, of whatever tenant, in no order."""
        return self._by_id(Event, ids)

    def notifications(self, ids: Sequence[str]) -> Sequence[Notification]:
        """These notifications, of whatever tenant, in no order."""
        return self._by_id(Notification, ids)

    def _by_id(self, kind: type[Row], ids: Sequence[str]) -> list[Row]:
        if not ids:
            return []
        m = mapping(kind)
        # The range leads to the months that the ids lie in; the list alone would search them all (PostgreSQL).
        where = f"id >= :first AND id <= :last AND {self._db.any_of('id', 'ids')} /* all tenants */"
        values = {"first": min(ids), "last": max(ids), "ids": self._db.list_value(list(ids))}
        return [m.load(row) for row in self._db.query(f"{m.select} WHERE {where}", values)]

    def take_out(self, event_ids: Sequence[str]) -> None:
        """Take these events out of the outbox."""
        sql = f"DELETE FROM outbox WHERE {self._db.any_of('event_id', 'ids')} /* all tenants */ RETURNING 1"
        self._db.query(sql, {"ids": self._ids(event_ids)})

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Put events into their lanes; one that is there already stays as it is.

        Lanes come first: whoever is about to take an empty lane away waits for us, or we for it and make it again.
        """
        if not deliveries:
            return
        lanes = {(d.receiver_id, d.lane): d for d in deliveries}
        m = mapping(Lane)
        fresh = [
            Lane(
                receiver_id=receiver_id, lane=lane, tenant_id=first.tenant_id, due_ms=first.made_ms, owner="", tries=0,
                state=DeliveryState.WAITING, error="",
            )
            for (receiver_id, lane), first in sorted(lanes.items())
        ]  # fmt: skip
        self._db.many(
            f"{insert_sql(m.table, m.columns)}"
            " ON CONFLICT (receiver_id, lane) DO UPDATE SET tenant_id = excluded.tenant_id",
            [m.values(lane) for lane in fresh],
        )
        m = mapping(Delivery)
        self._db.many(
            f"{insert_sql(m.table, m.columns)} ON CONFLICT DO NOTHING", [m.values(delivery) for delivery in deliveries]
        )

    # --- lanes --------------------------------------------------------------------------------------------------------

    def has_outbox(self) -> bool:
        """Whether something is in the outbox."""
        return bool(self._db.query("SELECT 1 FROM outbox /* all tenants */ LIMIT 1", {}))

    def due_receivers(self, now_ms: int) -> Sequence[str]:
        """The receivers of which a lane is due."""
        due = "EXISTS (SELECT 1 FROM lane WHERE receiver_id = id AND lane.state = :state AND due_ms <= :now)"
        sql = (
            f"SELECT id FROM webhook WHERE {due} /* all tenants */"
            f" UNION ALL SELECT id FROM notification_rule WHERE {due} /* all tenants */"
        )
        return [str(row[0]) for row in self._db.query(sql, {"state": _WAITING, "now": now_ms})]

    def claim(self, receiver_id: str, owner: str, now_ms: int, until_ms: int, limit: int) -> Sequence[Lane]:
        """Take lanes of a receiver that are due, the most overdue first, until `until_ms`; they are as they were."""
        skip = f"{self._db.for_update} SKIP LOCKED" if self._db.for_update else ""
        due = (
            "SELECT lane FROM lane WHERE receiver_id = :receiver_id AND state = :state AND due_ms <= :now"
            f" /* all tenants */ ORDER BY due_ms LIMIT :row_limit{skip}"
        )
        m = mapping(Lane)
        columns = ", ".join(f"lane.{name}" for name in m.columns)
        sql = (
            f"WITH due AS MATERIALIZED ({due}) UPDATE lane SET due_ms = :until, owner = :owner FROM due"
            f" WHERE lane.receiver_id = :receiver_id AND lane.lane = due.lane RETURNING {columns}"
        )
        values = {
            "receiver_id": receiver_id, "state": _WAITING, "now": now_ms, "row_limit": limit, "until": until_ms,
            "owner": owner,
        }  # fmt: skip
        return [m.load(row) for row in self._db.query(sql, values)]

    def waiting(self, receiver_id: str, lanes: Sequence[str], each: int) -> Sequence[Delivery]:
        """What waits in these lanes, in its order, at most `each` of a lane."""
        m = mapping(Delivery)
        columns = ", ".join(m.columns)
        numbered = (
            f"SELECT {columns}, row_number() OVER (PARTITION BY lane ORDER BY position, event_id) AS place"
            " FROM delivery"
            f" WHERE receiver_id = :receiver_id AND state = :state AND {self._db.any_of('lane', 'lanes')}"
        )
        sql = (
            f"SELECT {columns} FROM ({numbered}) AS numbered WHERE place <= :each /* all tenants */"
            " ORDER BY lane, position, event_id"
        )
        values = {
            "receiver_id": receiver_id, "state": _WAITING, "lanes": self._db.list_value(list(lanes)), "each": each,
        }  # fmt: skip
        return [m.load(row) for row in self._db.query(sql, values)]

    def still_owned(self, keys: Sequence[Key], owner: str) -> set[Key]:
        """Those of these lanes that `owner` has still, locked."""
        if not keys:
            return set()
        where = f"{self._db.any_pair(_LANE, 'keys')} AND owner = :owner /* all tenants */"
        sql = f"SELECT receiver_id, lane FROM lane WHERE {where} ORDER BY receiver_id, lane{self._db.for_update}"
        values = {**self._db.pair_values("keys", sorted(keys)), "owner": owner}
        return {(row[0], row[1]) for row in self._db.query(sql, values)}

    def put_deliveries(self, rows: Sequence[Delivery]) -> None:
        """Write what became of deliveries."""
        sql = (
            "UPDATE delivery SET state = ?, tries = ?, done_ms = ?, answer = ?"
            " WHERE receiver_id = ? AND event_id = ? AND tenant_id = ?"
        )
        values = [(d.state, d.tries, d.done_ms, d.answer, d.receiver_id, d.event_id, d.tenant_id) for d in rows]
        if values:
            self._db.many(sql, values)

    def put_lanes(self, rows: Sequence[Lane]) -> None:
        """Write how lanes stand."""
        sql = (
            "UPDATE lane SET due_ms = ?, owner = ?, tries = ?, state = ?, error = ?"
            " WHERE receiver_id = ? AND lane = ? AND tenant_id = ?"
        )
        values = [(l.due_ms, l.owner, l.tries, l.state, l.error, l.receiver_id, l.lane, l.tenant_id) for l in rows]  # noqa: E741
        if values:
            self._db.many(sql, values)

    def drop_empty(self, keys: Sequence[Key]) -> None:
        """Take away those of these lanes, which are locked, in which nothing waits."""
        if keys:
            waits = (
                "SELECT 1 FROM delivery WHERE delivery.receiver_id = lane.receiver_id AND delivery.lane = lane.lane"
                " AND delivery.state = :state"
            )
            sql = (
                f"DELETE FROM lane WHERE {self._db.any_pair(_LANE, 'keys')} AND NOT EXISTS ({waits})"
                " /* all tenants */ RETURNING 1"
            )
            self._db.query(sql, {**self._db.pair_values("keys", sorted(keys)), "state": _WAITING})

    def renew(self, keys: Sequence[Key], owner: str, until_ms: int) -> int:
        """Keep those of these lanes that `owner` has still until then; how many."""
        mine = sorted(self.still_owned(keys, owner))
        if mine:
            where = f"{self._db.any_pair(_LANE, 'keys')} /* all tenants */"
            sql = f"UPDATE lane SET due_ms = :until WHERE {where} RETURNING 1"
            self._db.query(sql, {**self._db.pair_values("keys", mine), "until": until_ms})
        return len(mine)

    def release(self, node: str, owner: str, now_ms: int) -> int:
        """Give back the lanes that earlier daemons of `node` had; owners are named `node boot`. How many."""
        sql = (
            "UPDATE lane SET due_ms = :now, owner = '' WHERE owner <> '' AND owner <> :owner"
            " AND substr(owner, 1, :length) = :begin /* all tenants */ RETURNING 1"
        )
        values = {"now": now_ms, "owner": owner, "length": len(node) + 1, "begin": f"{node} "}
        return len(self._db.query(sql, values))

    def let_go(self, owner: str, now_ms: int) -> int:
        """Give back all lanes of `owner`, for others to go on with; how many."""
        sql = "UPDATE lane SET due_ms = :now, owner = '' WHERE owner = :owner /* all tenants */ RETURNING 1"
        return len(self._db.query(sql, {"now": now_ms, "owner": owner}))

    # --- the operator's side ------------------------------------------------------------------------------------------

    def retry(
        self, tenant_id: str, receiver_id: str, now_ms: int, limit: int, *, after: str = "", event_id: str = ""
    ) -> Sequence[str]:
        """What is parked at a receiver (of one event's lane) waits again, with all its tries; which lanes these are.

        So many lanes at most, by name behind `after`: who wants all comes again with the last of them.
        """
        lanes = "lane.tenant_id = :tenant_id AND lane.receiver_id = :receiver_id AND lane.owner = ''"
        values: dict[str, Any] = {"tenant_id": tenant_id, "receiver_id": receiver_id}
        if event_id:
            lanes += (
                " AND lane.lane IN (SELECT d.lane FROM delivery AS d WHERE d.tenant_id = :tenant_id"
                " AND d.receiver_id = :receiver_id AND d.event_id = :event_id)"
            )
            values["event_id"] = event_id
        sql = f"SELECT lane FROM lane WHERE {lanes} AND lane.lane > :after ORDER BY lane LIMIT :row_limit"
        found = self._db.query(f"{sql}{self._db.for_update}", {**values, "after": after, "row_limit": limit})
        names = [str(row[0]) for row in found]
        if not names:
            return names
        # By a range of lanes, as a list of them leads SQLite through all of the receiver's deliveries each time; few in
        # it were not found: those that are in somebody's hands.
        sql = (
            "SELECT event_id, lane FROM delivery WHERE tenant_id = :tenant_id AND receiver_id = :receiver_id"
            " AND state = :parked AND lane >= :first AND lane <= :last"
        )
        values = {
            "tenant_id": tenant_id, "receiver_id": receiver_id, "parked": DeliveryState.PARKED.value,
            "first": names[0], "last": names[-1],
        }  # fmt: skip
        these = set(names)
        parked = sorted(row[0] for row in self._db.query(sql, values) if row[1] in these)
        self._db.many(
            "UPDATE lane SET state = ?, due_ms = ?, tries = 0 WHERE receiver_id = ? AND lane = ? AND tenant_id = ?",
            [(_WAITING, now_ms, receiver_id, name, tenant_id) for name in names],
        )
        if parked:
            self._db.many(
                "UPDATE delivery SET state = ?, done_ms = NULL"
                " WHERE receiver_id = ? AND event_id = ? AND tenant_id = ?",
                [(_WAITING, receiver_id, event_id, tenant_id) for event_id in parked],
            )
        return names

    def counts(self, tenant_id: str, receiver_id: str) -> dict[str, int]:
        """How many deliveries of a receiver there are in each state; MOST_COUNTED means so many or more."""
        some = (
            "SELECT 1 FROM delivery WHERE receiver_id = :receiver_id AND state = :state AND tenant_id = :tenant_id"
            " LIMIT :most"
        )
        values = {"tenant_id": tenant_id, "receiver_id": receiver_id, "most": MOST_COUNTED}
        sql = f"SELECT count(*) FROM ({some}) AS counted"
        return {state: int(self._db.query(sql, {**values, "state": state.value})[0][0]) for state in DeliveryState}

    def errors(self, tenant_id: str) -> dict[str, str]:
        """An error that is in the way of each receiver that has one."""
        sql = (
            "SELECT receiver_id, max(error) FROM lane WHERE tenant_id = :tenant_id AND error <> '' GROUP BY receiver_id"
        )
        return {row[0]: row[1] for row in self._db.query(sql, {"tenant_id": tenant_id})}

    def lag(self) -> tuple[int, int | None]:
        """How many events are in the outbox, and when the oldest delivery that waits was made."""
        waiting = int(self._db.query("SELECT count(*) FROM outbox /* all tenants */", {})[0][0])
        sql = "SELECT min(made_ms) FROM delivery WHERE state = :state /* all tenants */"
        oldest = self._db.query(sql, {"state": _WAITING})[0][0]
        return waiting, None if oldest is None else int(oldest)

    # --- what a user was told of --------------------------------------------------------------------------------------

    def mark(self, mark: NotificationMark) -> bool:
        """Remember that a user is told; False where that was so already. A mark that has run out counts no more."""
        m = mapping(NotificationMark)
        sql = (
            f"INSERT INTO {m.table} ({', '.join(m.columns)}) VALUES"
            " (:tenant_id, :user_name, :occasion, :told_ms, :until_ms)"
            " ON CONFLICT (tenant_id, user_name, occasion) DO UPDATE"
            " SET told_ms = excluded.told_ms, until_ms = excluded.until_ms"
            f" WHERE {m.table}.until_ms > 0 AND {m.table}.until_ms <= excluded.told_ms RETURNING 1"
        )
        return bool(self._db.query(sql, dict(zip(m.columns, m.values(mark), strict=True))))

    def marks(self) -> Sequence[NotificationMark]:
        """Those of all tenants."""
        m = mapping(NotificationMark)
        return [m.load(row) for row in self._db.query(f"{m.select} /* all tenants */ ORDER BY occasion", {})]

    def unmark(self, marks: Sequence[NotificationMark]) -> None:
        """Forget them: the next time they are told again. One that was renewed meanwhile stays."""
        if marks:
            self._db.many(
                "DELETE FROM notification_mark WHERE tenant_id = ? AND user_name = ? AND occasion = ? AND told_ms = ?",
                [(m.tenant_id, m.user_name, m.occasion, m.told_ms) for m in marks],
            )

    def read(self, tenant_id: str, now_ms: int, *, user_name: str = "", ids: Sequence[str] = ()) -> int:
        """Unread notifications (of a user, of these ids) are read now; how many."""
        where, values = "tenant_id = :tenant_id AND read_ms IS NULL", {"tenant_id": tenant_id, "now": now_ms}
        if user_name:
            where, values = f"{where} AND user_name = :user_name", {**values, "user_name": user_name}
        if ids:
            where, values = f"{where} AND {self._db.any_of('id', 'ids')}", {**values, "ids": self._ids(ids)}
        sql = f"UPDATE notification SET read_ms = :now WHERE {where} RETURNING 1"
        return len(self._db.query(sql, values))

    def unread(self, tenant_id: str) -> dict[str, int]:
        """How many notifications each user has not read."""
        sql = (
            "SELECT user_name, count(*) FROM notification WHERE tenant_id = :tenant_id AND read_ms IS NULL"
            " GROUP BY user_name"
        )
        return {row[0]: int(row[1]) for row in self._db.query(sql, {"tenant_id": tenant_id})}

    def _ids(self, ids: Sequence[str]) -> Any:
        return self._db.list_value(list(ids))

    # --- growth -------------------------------------------------------------------------------------------------------

    def forget_deliveries(self, tenant_id: str, before_ms: int, limit: int) -> dict[str, int]:
        """Take away the oldest deliveries made before then, with lanes that are empty; how many of each state."""
        chosen = (
            "SELECT receiver_id, event_id FROM delivery WHERE tenant_id = :tenant_id AND made_ms < :before"
            " ORDER BY made_ms LIMIT :row_limit"
        )
        sql = (
            "DELETE FROM delivery WHERE tenant_id = :tenant_id AND made_ms < :before"  # or it walks all of the tenant
            f" AND (receiver_id, event_id) IN ({chosen}) RETURNING state, receiver_id, lane"
        )
        values = {"tenant_id": tenant_id, "before": before_ms, "row_limit": limit}
        gone = self._db.query(sql, values)
        counted: dict[str, int] = {}
        for state, _, _ in gone:
            counted[state] = counted.get(state, 0) + 1
        self.drop_empty(sorted({(row[1], row[2]) for row in gone if row[0] != DeliveryState.DELIVERED}))
        return counted

    def forget_removed(self, tenant_id: str, receiver_id: str, limit: int) -> int:
        """Take away some deliveries of a receiver that is no longer there; how many. Two who do so take others each."""
        self.drop_receiver(tenant_id, receiver_id)  # events that were just given out as it went made lanes again
        skip = f"{self._db.for_update} SKIP LOCKED" if self._db.for_update else ""
        # Written so that no index leads to the tenant: the key leads to the rows, all of the tenant's are a detour.
        sql = (
            "SELECT event_id FROM delivery WHERE receiver_id = :receiver_id AND tenant_id || '' = :tenant_id"
            f" ORDER BY event_id LIMIT :row_limit{skip}"
        )
        values = {"tenant_id": tenant_id, "receiver_id": receiver_id, "row_limit": limit}
        ids = [row[0] for row in self._db.query(sql, values)]
        if ids:
            self._db.many(
                "DELETE FROM delivery WHERE receiver_id = ? AND event_id = ? AND tenant_id = ?",
                [(receiver_id, id_, tenant_id) for id_ in ids],
            )
        return len(ids)

    def forget_notifications(self, tenant_id: str, before_ms: int, limit: int) -> int:
        """Take away the oldest notifications of before then; how many."""
        chosen = (
            "SELECT id FROM notification WHERE tenant_id = :tenant_id AND at_ms < :before ORDER BY id LIMIT :row_limit"
        )
        sql = f"DELETE FROM notification WHERE tenant_id = :tenant_id AND id IN ({chosen}) RETURNING 1"
        return len(self._db.query(sql, {"tenant_id": tenant_id, "before": before_ms, "row_limit": limit}))
