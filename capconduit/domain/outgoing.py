"""Events on their way out: who wants them, what must stay in order, when to try again, when to leave a receiver alone.

Durations and instants in milliseconds. Chance comes in as `luck`, an integer below LUCK, so that every decision can be
made again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from capconduit.domain.deliveries import Delivery, Lane
from capconduit.domain.model import Event
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import DeliveryState, EventKind

LUCK: Final = 1 << 32
EVERYTHING: Final = "*"
MAX_PATTERNS: Final = 40
MAX_ERROR: Final = 200  # characters of what a receiver said that are kept

_PATTERN = re.compile(r"\*|[a-z][a-z_]{0,30}\.(?:\*|[a-z][a-z_]{0,30})")
# Subjects of these are calls; others name the call in their data, or have nothing to do with one.
_OF_CALLS: Final = ("call.", "attempt.", "hold.", "settlement.")


# --- who wants what ---------------------------------------------------------------------------------------------------


def is_pattern(text: str) -> bool:
    """Whether `text` is a kind, all kinds of a family (`call.*`) or all (`*`)."""
    return _PATTERN.fullmatch(text) is not None


def wants(patterns: str, kind: str) -> bool:
    """Whether one of the comma separated patterns takes in this kind."""
    family = kind.partition(".")[0]
    return any(one in (EVERYTHING, kind, f"{family}.*") for one in patterns.split(","))


def lane_of(event: Event) -> str:
    """What must stay in order with this event: its call, or else its subject.

    Money that a call moves goes with the call: a seller's would wait for each other at hundreds of calls a minute.
    """
    if event.kind.startswith(_OF_CALLS):
        return event.subject
    if event.kind is EventKind.BALANCE_CHANGED:
        try:
            call = json.loads(event.data).get("call")
        except (ValueError, AttributeError):
            call = None
        if isinstance(call, str) and call:
            return call
    return event.subject or event.id


# --- trying again -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a receiver is tried. A lane is parked after `tries`, or when its first event is `give_up_ms` old and
    fails."""

    first_ms: int = 1_000
    most_ms: int = 3_600_000
    tries: int = 15
    give_up_ms: int = 86_400_000


def wait_ms(patience: Patience, tries: int, luck: int) -> int:
    """How long to wait after the `tries`-th try in vain: anything up to twice as much each time, `most_ms` at most.

    Full jitter (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter): those that failed together do not
    come back together.
    """
    most = min(patience.first_ms << min(max(tries - 1, 0), 40), patience.most_ms)
    return most * luck // LUCK + 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one try. `blameless`: it says nothing about the event (the receiver asks to wait, or a secret is not
    there), so that it is not counted; `after_ms`: the receiver wants no more before so long."""

    delivered: bool
    answer: str
    blameless: bool = False
    after_ms: int = 0
    took_ms: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a lane goes on after a try that failed, and what became of the event that was tried."""

    lane: Lane
    delivery: Delivery
    parked: bool


def after_failure(
    lane: Lane, delivery: Delivery, outcome: Outcome, patience: Patience, now_ms: int, luck: int
) -> Verdict:
    """When the lane is due again, or that it is parked."""
    tries = lane.tries + (not outcome.blameless)
    answer = kept_answer(outcome)
    parked = tries >= patience.tries or now_ms - delivery.made_ms >= patience.give_up_ms
    state = DeliveryState.PARKED if parked else DeliveryState.WAITING
    due_ms = now_ms + max(wait_ms(patience, max(tries, 1), luck), outcome.after_ms)
    return Verdict(
        replace(lane, due_ms=due_ms, owner="", tries=tries, state=state, error=answer),
        replace(
            delivery, state=state, tries=delivery.tries + 1, answer=answer, done_ms=now_ms if parked else None
        ),
        parked,
    )  # fmt: skip


def kept_answer(outcome: Outcome) -> str:
    """What is kept of an answer: no more than so many characters, and none that no column or terminal takes."""
    return "".join(char if char.isprintable() else "?" for char in outcome.answer[:MAX_ERROR])


def after_success(delivery: Delivery, outcome: Outcome, now_ms: int) -> Delivery:
    """The delivery as it is kept."""
    return replace(
        delivery,
        state=DeliveryState.DELIVERED,
        tries=delivery.tries + 1,
        done_ms=now_ms,
        answer=kept_answer(outcome),
    )


def retry_after_ms(header: str, now_ms: int, most_ms: int) -> int:
    """What a receiver wants by Retry-After (RFC 9110, 10.2.3): seconds, or a date; 0 where it says nothing sensible."""
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return min(int(text) * MS_PER_SECOND, most_ms)
    from email.utils import parsedate_to_datetime  # few receivers send a date

    try:
        at = parsedate_to_datetime(text)
        wanted = int(at.timestamp()) * MS_PER_SECOND - now_ms
    except (TypeError, ValueError, OverflowError):
        return 0
    return min(max(wanted, 0), most_ms)


# --- the receiver as a whole ------------------------------------------------------------------------------------------

TROUBLE_LANES: Final = 5  # different lanes that failed, none delivered between them: it is the receiver
TROUBLE: Final = Patience(first_ms=2_000, most_ms=120_000)


@dataclass(frozen=True, slots=True)
class Circuit:
    """Whether a receiver is left alone. Open until `open_until_ms`; then one lane at a time tries it."""

    failing: tuple[str, ...] = ()
    opened: int = 0
    open_until_ms: int = 0

    @property
    def is_troubled(self) -> bool:
        """Open, or tried by single lanes."""
        return self.opened > 0

    def allows(self, now_ms: int) -> int:
        """How many lanes may try now; -1: as many as there are."""
        if now_ms < self.open_until_ms:
            return 0
        return 1 if self.opened else -1

    def after(self, lane: str, outcome: Outcome, now_ms: int, luck: int, trouble: Patience = TROUBLE) -> Circuit:
        """The circuit after a try of a lane."""
        if outcome.delivered:
            return self if self == _CLOSED else _CLOSED
        until_ms = max(self.open_until_ms, now_ms + outcome.after_ms if outcome.after_ms else 0)
        failing = self.failing if lane in self.failing else (*self.failing, lane)
        if len(failing) < TROUBLE_LANES and not self.opened:
            return Circuit(failing, 0, until_ms)
        if now_ms < self.open_until_ms:  # it was under way when the circuit opened
            return replace(self, open_until_ms=until_ms)
        opened = self.opened + 1
        return Circuit(failing[:TROUBLE_LANES], opened, max(until_ms, now_ms + wait_ms(trouble, opened, luck)))


_CLOSED: Final = Circuit()


# --- reading kinds ----------------------------------------------------------------------------------------------------


def known_kinds(patterns: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Those patterns that take in none of the kinds there are."""
    return [one for one in patterns if not any(wants(one, kind) for kind in kinds)]


def data_of(text: str) -> dict[str, Any]:
    """The data of an event; empty where it is none."""
    try:
        data = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
