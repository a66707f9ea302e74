"""What the keys do: hang up over the daemon's control socket, all else by the services, audited like any command.

Every call opens the store, does one thing and closes it again, because it runs in a thread of its own: the screen goes
on meanwhile. Failure policy: fails closed; what is refused or cannot be reached raises CapConduitError and is told.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from capconduit.clock import Clock
from capconduit.config import Config
from capconduit.errors import UsageError
from capconduit.services.office import Office
from capconduit.units import MS_PER_SECOND, format_micros, format_span
from capconduit_cli.amounts import parse_amount
from capconduit_cli.office import actor
from capconduit_cli.text import printable

Answer = TypeVar("Answer")


class Actions(Protocol):
    """All block and raise CapConduitError; each returns what is told when it is done."""

    def explain(self, call_id: str) -> Sequence[str]:
        """The story of a call, as `capconduit explain` prints it."""
        ...

    def hangup(self, call_id: str) -> str:
        """End a live call."""
        ...

    def pause_campaign(self, name: str, *, paused: bool) -> str:
        """Let a campaign take no more calls, or take them again."""
        ...

    def rest_target(self, name: str) -> str:
        """Leave a target alone for a while."""
        ...

    def revive_target(self, name: str) -> str:
        """End a target's rest."""
        ...

    def add_balance(self, seller: str, amount: str, reason: str, key: str) -> str:
        """Add money to an account, once for a `key`."""
        ...

    def new_key(self) -> str:
        """A key for add_balance."""
        ...


class OfficeActions:
    """Actions on the installation of a configuration, for one tenant."""

    def __init__(self, config: Config, tenant: str, clock: Clock) -> None:
        self._config = config
        self._tenant = tenant
        self._clock = clock
        self._actor = actor(os.environ)

    def explain(self, call_id: str) -> Sequence[str]:
        from capconduit.services.calls import tell  # only when somebody asks
        from capconduit_cli.story import story_lines

        return list(story_lines(self._with_office(lambda office: tell(office, call_id))))

    def hangup(self, call_id: str) -> str:
        from capconduit_cli.control import tell_daemon

        tell_daemon(self._config.control.socket, "/hangup", {"call": call_id, "actor": self._actor})
        return f"call {printable(call_id)} is being hung up"

    def pause_campaign(self, name: str, *, paused: bool) -> str:
        from capconduit.services.campaigns import pause_campaign

        self._with_office(lambda office: pause_campaign(office, name, paused=paused))
        return f"campaign {printable(name)} {'takes no more calls' if paused else 'takes calls again'}"

    def rest_target(self, name: str) -> str:
        from capconduit.services.targets import rest_target

        now_ms = self._clock.now_ms()
        until_ms = self._with_office(lambda office: rest_target(office, name)).state.rested_until_ms
        span = format_span(max(until_ms - now_ms + MS_PER_SECOND // 2, 0) // MS_PER_SECOND * MS_PER_SECOND)
        return f"target {printable(name)} rests for {span}, then one call tries it"

    def revive_target(self, name: str) -> str:
        from capconduit.services.targets import revive_target

        _, anything = self._with_office(lambda office: revive_target(office, name))
        return f"target {printable(name)} " + ("is tried again at once" if anything else "did not rest")

    def add_balance(self, seller: str, amount: str, reason: str, key: str) -> str:
        from capconduit.services.balances import post_adjustment, show_balance

        wanted = parse_amount(amount)
        if not wanted.micros:
            raise UsageError("amount-invalid", "nothing would be added", "give an amount above zero")

        def work(office: Office) -> str:
            currency = show_balance(office, seller).seller.currency
            post_adjustment(office, seller, wanted.within(currency), reason=reason, key=key)
            return currency

        currency = self._with_office(work)
        return f"{format_micros(wanted.micros, trim=True)} {currency} added to {printable(seller)}"

    def new_key(self) -> str:
        return f"top-{self._clock.new_id()}"

    def _with_office(self, work: Callable[[Office], Answer]) -> Answer:
        from capconduit.services.stores import check_schema, open_store

        store = open_store(self._config.database.url)
        try:
            check_schema(store)
            return work(Office(store, self._clock, tenant=self._tenant, actor=self._actor))
        finally:
            store.close()
