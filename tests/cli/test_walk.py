"""The walk that an operator takes first, as processes with real files; and what those processes must not import."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.cli.estate import CALLER, DID, WALK, Calls, change, done, engine, walk
from tests.cli.runner import Result, run_process
from tests.cli.test_framework_nouns import modules_after

SQL_AND_MODELS = {"sqlmodel", "sqlalchemy", "pydantic", "psycopg"}


def step(home: Path, *argv: str) -> Result:
    """A command line as a process, which must succeed."""
    env = {"XDG_CONFIG_HOME": str(home / "config"), "PYTHONPATH": os.pathsep.join(sys.path)}
    result = run_process(*argv, home=home, env=env)
    assert result.code == 0, f"{argv}: {result.err}"
    return result


def test_the_walk_works_as_written(home: Path) -> None:
    for argv in WALK:
        step(home, *argv)
    assert "dial" in step(home, "route", DID, "--from", CALLER).out
    assert step(home, "call", "list", "--json").json == []
    assert step(home, "cdr", "list", "--json").json == []
    with engine(home) as calls:
        call_id = _talk(calls)
    assert [cdr["call_id"] for cdr in step(home, "cdr", "list", "--json").json] == [call_id]
    balance = step(home, "balance", "show", "acme", "--json").json
    assert (balance["balance"], balance["currency"]) == ("24.800000", "USD")
    assert "billed 60s" in step(home, "explain", call_id).out
    for argv in (("balance", "verify"), ("cap", "verify"), ("db", "verify")):
        assert step(home, *argv).out == ""


def _talk(calls: Calls) -> str:
    call_id: str = calls.arrive("1.1").call_id
    calls.answer("1.1")
    calls.clock.at_ms += 20_000
    calls.end("1.1", answered_for_ms=20_000)
    return call_id


def test_listing_numbers_imports_no_orm_no_model_library_and_no_driver_of_another_engine(home: Path) -> None:
    walk(home)
    assert "+18005550100" in done("did", "list", home=home).out
    for argv in (("did", "list"), ("seller", "list", "--json"), ("call", "list"), ("cdr", "list", "-o", "csv")):
        loaded = modules_after(home, *argv)
        assert "capconduit.store.sqlite" in loaded
        assert not loaded & SQL_AND_MODELS, argv
    assert not modules_after(home, "did", "list") & {"phonenumbers", "rich", "asyncio", "capconduit.domain.routing"}


def test_deciding_and_changing_import_no_orm_either(home: Path) -> None:
    walk(home)
    for argv in (("route", DID), ("campaign", "pause", "solar"), ("cap", "usage"), ("explain", "none")):
        assert not modules_after(home, *argv) & SQL_AND_MODELS, argv


def test_ten_thousand_numbers_are_listed(home: Path) -> None:
    walk(home)
    change(home, "DELETE FROM did")
    _fill(home, 10_000)
    assert len(done("did", "list", home=home).out.splitlines()) == 10_001
    assert len(done("did", "list", "--json", home=home).json) == 10_000


def _fill(home: Path, count: int) -> None:
    from capconduit.domain.model import Campaign, Did, Trunk
    from capconduit.services.office import Desk, Office
    from capconduit.services.stores import open_store
    from capconduit.vocab import DidStatus
    from tests.cli.estate import SetClock, database

    def work(desk: Desk) -> None:
        trunk, campaign = desk.named(Trunk, "carrier"), desk.named(Campaign, "solar")
        for number in range(count):
            desk.tx.insert(
                Did(
                    **desk.stamp(),
                    number=f"+1888{number:07d}",
                    trunk_id=trunk.id,
                    seller_id=campaign.seller_id,
                    campaign_id=campaign.id,
                    status=DidStatus.ASSIGNED,
                )
            )

    store = open_store(f"sqlite://{database(home)}")
    try:
        Office(store, SetClock(), actor="test").change(work)
    finally:
        store.close()
