"""Where the operator's commands are carried out: one transaction each, audited, for one tenant, by one actor.

An Office is a store, a clock, a tenant and who acts. `change` gives the work a Desk (the open transaction) and, with
`dry_run`, rolls everything back at the end: what would be refused is refused, nothing stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Final, TypeVar

from capconduit.clock import Clock
from capconduit.domain.likeness import near_numbers
from capconduit.domain.model import Audit, Campaign, Did, Entity, Rate, Schedule, Seller, Target, Tenant, Trunk
from capconduit.domain.settings import Settings, settings_of
from capconduit.errors import NotFound, Refused, UsageError
from capconduit.store.store import Store, Transaction
from capconduit.vocab import EventKind

Kind = TypeVar("Kind", bound=Entity)
Answer = TypeVar("Answer")

DEFAULT_TENANT: Final = "default"
NEAR_NAMES: Final = 2
_REMEMBERED: Final = (Trunk, Seller, Campaign, Rate, Schedule, Target)  # what much else refers to
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,62}$")


class _DryRun(Exception):
    """Carries the answer of a dry run out of the transaction that is rolled back."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer


def check_name(noun: str, name: str) -> str:
    """A name that can stand in a file, a command and a dialplan. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            "name-invalid",
            f"{name!r} cannot be the name of a {noun}",
            "use letters, digits, '.', '_' and '-', beginning with a letter or digit, 63 at most",
        )
    return name


@dataclass(frozen=True, slots=True)
class Desk:
    """One open transaction of a tenant."""

    tx: Transaction
    tenant: Tenant
    actor: str
    now_ms: int
    new_id: Callable[[], str]

    @property
    def tenant_id(self) -> str:
        """Id of the tenant all of this is about."""
        return self.tenant.id

    def settings(self) -> Settings:
        """The tenant's settings in force."""
        from capconduit.domain.model import Setting  # here, as `settings` is the only one who needs it

        return settings_of(self.tx.rows(Setting, self.tenant_id))

    def named(self, kind: type[Kind], name: str, noun: str = "") -> Kind:
        """The entity of that name. Raises NotFound with the nearest names."""
        column = "number" if kind is Did else "name"
        found = self.tx.find(kind, self.tenant_id, **{column: name})
        if found is None:
            names = [str(getattr(row, column)) for row in self.tx.rows(kind, self.tenant_id)]
            near = near_numbers(name, names) if kind is Did else tuple(get_close_matches(name, names, n=NEAR_NAMES))
            raise NotFound(noun or kind.__name__.lower(), name, near)
        return found

    def stamp(self) -> dict[str, Any]:
        """Id, tenant and instants of a new entity."""
        return {
            "id": self.new_id(),
            "tenant_id": self.tenant_id,
            "created_ms": self.now_ms,
            "updated_ms": self.now_ms,
        }

    def add(self, noun: str, row: Entity) -> None:
        """Insert a new entity of the estate, audited. Raises Refused where the name is taken."""
        name = label(row)
        try:
            self.tx.insert(row)
        except Refused as error:
            if error.slug == "exists":
                raise Refused(
                    f"{noun}-exists", f"{noun} {name!r} exists already", f"see `capconduit {noun} show {name}`"
                ) from None
            raise
        self.changed(f"{noun}.add", name, None, row)

    def change(self, noun: str, before: Entity, after: Entity) -> None:
        """Replace an entity of the estate, audited."""
        self.tx.update(after)
        self.changed(f"{noun}.set", label(before), before, after)

    def remove(self, noun: str, row: Entity, in_use: str) -> None:
        """Remove an entity of the estate, audited. Raises Refused with `in_use` where something refers to it."""
        try:
            self.tx.delete(row)
        except Refused:
            raise Refused(f"{noun}-in-use", f"{noun} {label(row)!r} is in use", in_use) from None
        self.changed(f"{noun}.remove", label(row), row, None)

    def changed(self, action: str, subject: str, before: object, after: object, *, estate: bool = True) -> None:
        """Write the audit entry; for the estate also the event and the new version."""
        self._tell(action, subject, before, after, estate=estate)
        if estate:
            self.tx.bump_estate()

    def entry(self, action: str, subject: str, before: object, after: object) -> Audit:
        """The audit entry of a change, to be inserted with it; `changed` does so by itself."""
        return Audit(
            id=self.new_id(),
            tenant_id=self.tenant_id,
            at_ms=self.now_ms,
            actor=self.actor,
            action=action,
            subject=subject,
            before=_json(before),
            after=_json(after),
        )

    def _tell(self, action: str, subject: str, before: object, after: object, *, estate: bool) -> None:
        self.tx.insert(self.entry(action, subject, before, after))
        if estate:
            from capconduit.domain.admission import event  # commands that only read start without the deciding half

            self.tx.insert(
                event(
                    self.new_id, self.tenant_id, self.now_ms, EventKind.ESTATE_CHANGED, subject,
                    action=action, actor=self.actor,
                )
            )  # fmt: skip


def label(row: object) -> str:
    """How people call an entity."""
    return str(getattr(row, "name", "") or getattr(row, "number", "") or getattr(row, "id", ""))


def _json(value: object) -> str:
    if value is None:
        return ""
    if is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    return json.dumps(value, default=asdict)


class Office:
    """Carries out commands for a tenant in the name of an actor."""

    def __init__(
        self, store: Store, clock: Clock, *, tenant: str = DEFAULT_TENANT, actor: str, dry_run: bool = False
    ) -> None:
        self.store = store
        self.clock = clock
        self.tenant = tenant
        self.actor = actor
        self.dry_run = dry_run

    def change(self, work: Callable[[Desk], Answer], *, estate: bool = True) -> Answer:
        """Carry out `work` in one transaction; `estate`: it changes configuration, so it waits for its turn first."""

        def whole(tx: Transaction) -> Answer:
            if estate:
                tx.estate_version(for_change=True)
            answer = work(self._desk(tx))
            if self.dry_run:
                raise _DryRun(answer)
            return answer

        try:
            return self.store.run(whole)
        except _DryRun as dry:
            return dry.answer  # type: ignore[no-any-return]  # it is what `work` returned

    def read(self, work: Callable[[Desk], Answer]) -> Answer:
        """`work` on one snapshot of the database; changes nothing."""
        with self.store.transaction(write=False) as tx:
            return work(self._desk(tx))

    @staticmethod
    def within(desk: Desk) -> Office:
        """An office whose commands are all carried out in the transaction of `desk`: together, or not at all.

        They are one version of the estate, which `desk.changed` makes, or the end of the transaction.
        """
        return _Within(desk)

    def _desk(self, tx: Transaction) -> Desk:
        tenants = {t.name: t for t in tx.tenants()}
        if self.tenant not in tenants:
            near = get_close_matches(self.tenant, tenants, n=NEAR_NAMES) or list(tenants)[:NEAR_NAMES]
            raise NotFound("tenant", self.tenant, tuple(near))
        return Desk(tx, tenants[self.tenant], self.actor, self.clock.now_ms(), self.clock.new_id)


class _Remembering:
    """A transaction that asks only once for a row of a kind that is not changed meanwhile; all else as it is."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._found: dict[type, dict[Any, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def find(self, kind: type[Any], tenant_id: str, /, **where: Any) -> Any:
        if kind not in _REMEMBERED:
            return self._tx.find(kind, tenant_id, **where)
        known, key = self._found.setdefault(kind, {}), (tenant_id, *sorted(where.items()))
        if key not in known:
            known[key] = self._tx.find(kind, tenant_id, **where)
        return known[key]

    def insert(self, row: object) -> None:
        self._found.pop(type(row), None)
        self._tx.insert(row)

    def update(self, row: object) -> None:
        self._found.pop(type(row), None)
        self._tx.update(row)

    def delete(self, row: object) -> None:
        self._found.pop(type(row), None)
        self._tx.delete(row)


@dataclass(frozen=True, slots=True)
class _Together(Desk):
    """The desk of many commands: each is audited and told of, the version and the settings are one for all."""

    in_force: list[Settings]  # none or one

    def settings(self) -> Settings:
        if not self.in_force:
            self.in_force.append(Desk.settings(self))
        return self.in_force[0]

    def changed(self, action: str, subject: str, before: object, after: object, *, estate: bool = True) -> None:
        self._tell(action, subject, before, after, estate=estate)
        if action.startswith("setting."):
            self.in_force.clear()


class _Within(Office):
    """See Office.within."""

    def __init__(self, desk: Desk) -> None:
        together: Any = _Remembering(desk.tx)
        self._at = _Together(together, desk.tenant, desk.actor, desk.now_ms, desk.new_id, [])
        self.tenant, self.actor, self.dry_run = desk.tenant.name, desk.actor, False

    def change(self, work: Callable[[Desk], Answer], *, estate: bool = True) -> Answer:  # noqa: ARG002  # it has its turn
        return work(self._at)

    def read(self, work: Callable[[Desk], Answer]) -> Answer:
        return work(self._at)
