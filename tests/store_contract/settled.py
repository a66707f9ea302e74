"""Random settled calls with their Dials, put into a store as they are: one seed makes the same calls."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from capconduit.domain.model import Attempt, Cdr
from capconduit.ids import ulid
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import HungUpBy
from tests.unit.estate_builder import TENANT

REASONS = ("cap_reached:campaign:billable:day", "did_unknown", "engine_timeout", "targets_all_failed:BUSY")


class Calls:
    """Makes random settled calls with their Dials; one seed makes the same calls."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.made: list[tuple[Cdr, list[Attempt]]] = []

    def call(self, arrived_ms: int, **fields: Any) -> tuple[Cdr, list[Attempt]]:
        chance = self.random
        kind = chance.choice(("talked", "talked", "talked", "short", "left", "reject"))
        reason = chance.choice(REASONS) if kind == "reject" else ""
        unknown = reason == "did_unknown"
        seller = None if unknown else chance.choice(("acme", "bolt"))
        campaign = None if seller is None else {"acme": chance.choice(("solar", "wind")), "bolt": "roof"}[seller]
        dialled = 0 if unknown or reason.startswith("cap") else chance.randint(1, 3)
        call_id = ulid(arrived_ms, chance.getrandbits(80))
        attempts = [self._attempt(call_id, number, arrived_ms) for number in range(1, dialled + 1)]
        last = attempts[-1] if attempts else None
        talk_ms = {"talked": chance.randint(30_000, 900_000), "short": chance.randint(1, 5_000)}.get(kind, 0)
        answered = arrived_ms + 9_000 if talk_ms else None
        values: dict[str, Any] = {
            "call_id": call_id, "tenant_id": TENANT, "schema_version": 1, "node": "n", "boot_id": "b",
            "uniqueid": call_id, "linkedid": "", "sip_call_id": "",
            "did": chance.choice(("+18005550100", "+18005550101")),
            "did_id": None if unknown else "d", "caller": "", "caller_e164": "", "caller_name": "",
            "trunk": chance.choice(("east", "west")), "attestation": "", "stir_verdict": "", "seller_id": seller,
            "seller": seller or "", "campaign_id": campaign, "campaign": campaign or "", "rule_id": None,
            "target_id": last.target_id if last else None, "target": last.target_name if last else "",
            "strategy": "priority", "attempts": dialled, "arrived_ms": arrived_ms, "decided_ms": arrived_ms + 3,
            "first_ring_ms": min((a.rang_ms for a in attempts if a.rang_ms is not None), default=None),
            "answered_ms": answered, "ended_ms": arrived_ms + 9_000 + talk_ms, "decision_ms": 3, "ring_ms": 5_000,
            "talk_ms": talk_ms, "billed_seconds": -(-talk_ms // 60_000) * 60 if kind == "talked" else 0,
            "dialstatus": "ANSWER" if answered else "", "hangup_cause": 16, "sip_code": 200,
            "hung_up_by": HungUpBy.CALLER, "reject_code": reason.split(":")[0], "reject_reason": reason,
            "witness": "handler", "currency": {"acme": "USD", "bolt": "EUR"}.get(seller or "", ""),
            "connect_fee_micros": 0, "per_minute_micros": 200_000, "first_s": 60, "step_s": 60,
            "billable_threshold_ms": 0, "billable": kind == "talked",
            "amount_micros": chance.randint(1, 10**9) if kind == "talked" else 0,
            "written_off_micros": chance.choice((0, 0, 7)) if kind == "talked" else 0, "balance_after_micros": None,
            "trace": "", "attempt": last.number if last else 0, "then_after_s": 0, "then_per_minute_micros": 0,
            "payout_micros": chance.randint(0, 10**8) if kind == "talked" else 0, "payout_tariff": "",
        }  # fmt: skip
        made = (Cdr(**{**values, **fields}), attempts)
        self.made.append(made)
        return made

    def _attempt(self, call_id: str, number: int, arrived_ms: int) -> Attempt:
        target, started_ms = self.random.choice(("buyer1", "buyer2")), arrived_ms + number * 1_000
        blank: dict[str, Any] = dict.fromkeys(Attempt.__dataclass_fields__, "")
        hints = {name: field.type for name, field in Attempt.__dataclass_fields__.items()}
        blank |= {name: 0 for name, hint in hints.items() if str(hint).startswith("int")}
        return Attempt(
            **{
                **blank, "call_id": call_id, "tenant_id": TENANT, "number": number, "target_id": target,
                "target_name": target, "rule_id": "r", "started_ms": started_ms, "ended_ms": started_ms + 900,
                "rang_ms": self.random.choice((None, started_ms + 400, started_ms - 5)), "answered_ms": None,
                "dialstatus": None, "hangup_cause": self.random.choice((None, 16, 17, 17)),
            }
        )  # fmt: skip

    def many(self, count: int, from_ms: int, until_ms: int) -> list[tuple[Cdr, list[Attempt]]]:
        return [self.call(self.random.randrange(from_ms, until_ms)) for _ in range(count)]


def put(store: SqlStore, calls: Iterable[tuple[Cdr, Sequence[Attempt]]]) -> None:
    known = list(calls)
    with store.transaction(write=True) as tx:
        tx.insert_all([cdr for cdr, _ in known])
        tx.insert_all([attempt for _, attempts in known for attempt in attempts])
