"""`balance correct` and `balance check`, keys of adjustments, and what tells that a balance runs low."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import ExitCode
from tests.cli.estate import change, contents, done, engine, walk
from tests.cli.runner import run


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate: acme with 25 USD."""
    return walk(home)


def ledger(home: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = done("balance", "ledger", "acme", "--json", home=home).json
    return found


def shown(home: Path, *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = done(*argv, "--json", home=home).json
    return found


# correct -------------------------------------------------------------------------------------------------------------


def test_a_correction_names_its_entry_and_leaves_it_as_it_is(estate: Path) -> None:
    (wire,) = ledger(estate)
    argv = ("balance", "correct", wire["id"].lower(), "-5", "--reason", "it was 20")
    before = contents(estate)
    rehearsed = done(*argv, "--dry-run", "--json", home=estate)
    assert (rehearsed.json["balance"], rehearsed.json["corrections"]) == ("20.000000", "-5.000000")
    assert "nothing was changed" in rehearsed.err
    assert contents(estate) == before
    correction = shown(estate, *argv)
    wanted = {
        "seller": "acme", "corrects": wire["id"], "corrected_kind": "adjustment", "corrected_amount": "25.000000",
        "amount": "-5.000000", "corrections": "-5.000000", "balance": "20.000000", "available": "20.000000",
        "currency": "USD", "reason": "it was 20",
    }  # fmt: skip
    assert {key: correction[key] for key in wanted} == wanted
    assert set(correction) == set(wanted) | {"id"}
    newest, oldest = ledger(estate)
    assert (newest["id"], newest["kind"], newest["corrects"], newest["amount"]) == (
        correction["id"], "correction", wire["id"], "-5.000000",
    )  # fmt: skip
    assert oldest == wire | {"corrections": "-5.000000"}
    assert shown(estate, "balance", "correct", wire["id"], "2 usd", "--reason", "22")["corrections"] == "-3.000000"
    assert ledger(estate)[-1]["corrections"] == "-3.000000"
    assert ledger(estate)[0]["corrections"] is None
    assert "balance.correct" in contents(estate)["audit"][-1]
    assert done("balance", "verify", home=estate).out == ""


def test_the_sum_of_corrections_is_told_where_they_are_newer_than_what_is_listed(estate: Path) -> None:
    (wire,) = ledger(estate)
    change(estate, "UPDATE ledger SET created_ms = 1000")
    done("balance", "correct", wire["id"], "-5", "--reason", "x", home=estate)
    rows = done("balance", "ledger", "acme", "--until", "2000-01-01", "--json", home=estate).json
    assert [(row["id"], row["corrections"]) for row in rows] == [(wire["id"], "-5.000000")]


def test_the_price_of_a_call_is_corrected(estate: Path) -> None:
    with engine(estate) as calls:
        calls.arrive("1.1")
        calls.end("1.1", answered_for_ms=20_000)
    charge = next(row for row in ledger(estate) if row["kind"] == "call")
    correction = shown(estate, "balance", "correct", charge["id"], "0.20", "--reason", "the target was at fault")
    assert (correction["corrected_kind"], correction["balance"]) == ("call", "25.000000")


def test_what_live_calls_hold_is_not_corrected_away(estate: Path) -> None:
    (wire,) = ledger(estate)
    with engine(estate) as calls:
        calls.arrive("1.1")
        refused = run("balance", "correct", wire["id"], "-25", "--reason", "x", home=estate)
        assert refused.code == ExitCode.REFUSED
        assert "24.80 USD available" in refused.err
        assert shown(estate, "balance", "correct", wire["id"], "-24.80", "--reason", "x")["available"] == "0.000000"


def test_a_correction_is_not_corrected(estate: Path) -> None:
    (wire,) = ledger(estate)
    correction = shown(estate, "balance", "correct", wire["id"], "-5", "--reason", "x")
    before = contents(estate)
    refused = run("balance", "correct", correction["id"], "5", "--reason", "x", home=estate)
    assert refused.code == ExitCode.REFUSED
    assert "[correction-of-correction]" in refused.err
    assert wire["id"] in refused.err
    assert contents(estate) == before


@pytest.mark.parametrize(
    ("entry", "argv", "code", "slug"),
    [
        ("01KAH7Z5R3M2C9W8X1Y4T6V0QN", ("1", "--reason", "x"), ExitCode.REFUSED, "entry-not-found"),
        ("", ("1", "--reason", "x"), ExitCode.REFUSED, "entry-not-found"),
        ("wire", ("0", "--reason", "x"), ExitCode.USAGE, "amount-invalid"),
        ("wire", ("1 EUR", "--reason", "x"), ExitCode.USAGE, "currency-mismatch"),
        ("wire", ("1",), ExitCode.USAGE, "argument-missing"),
        ("wire", ("1", "--reason", " "), ExitCode.USAGE, "reason-missing"),
        ("wire", ("1", "--reason", "x", "--key", ""), ExitCode.USAGE, "key-empty"),
        ("wire", ("999999999999", "--reason", "x"), ExitCode.DONE, ""),
        ("wire", ("-25.000001", "--reason", "x"), ExitCode.REFUSED, "correction-exceeds-entry"),
        ("wire", ("-25.000001", "--reason", "x", "--beyond"), ExitCode.REFUSED, "not-enough-money"),
    ],
)
def test_a_wrong_correction_changes_nothing(
    estate: Path, entry: str, argv: tuple[str, ...], code: int, slug: str
) -> None:
    wire = ledger(estate)[0]["id"]
    before = contents(estate)
    result = run("balance", "correct", wire if entry == "wire" else entry, *argv, home=estate)
    assert result.code == code, result.err
    if code:
        assert f"[{slug}]" in result.err
        assert contents(estate) == before


# keys ----------------------------------------------------------------------------------------------------------------


def test_corrections_undo_no_more_together_than_the_entry_did(estate: Path) -> None:
    wire = ledger(estate)[0]["id"]
    done("balance", "add", "acme", "100", "--reason", "another", home=estate)
    done("balance", "correct", wire, "-20", "--reason", "wire was 5", home=estate)
    before = contents(estate)
    refused = run("balance", "correct", wire, "-5.01", "--reason", "x", home=estate)
    assert (refused.code, "[correction-exceeds-entry]" in refused.err) == (ExitCode.REFUSED, True)
    assert "at most -5.00" in refused.err
    assert contents(estate) == before
    done("balance", "correct", wire, "-5", "--reason", "all of it", home=estate)
    done("balance", "correct", wire, "-5", "--reason", "it was taken back, not added", "--beyond", home=estate)
    assert done("balance", "verify", home=estate).out == ""


def test_a_repeated_key_says_that_nothing_was_added(estate: Path) -> None:
    add = ("balance", "add", "acme", "10", "--reason", "invoice 7", "--key", "invoice-7")
    assert "used before" not in done(*add, home=estate).err
    before = contents(estate)
    for more in ((), ("--dry-run",)):
        again = done(*add, *more, "--json", home=estate)
        assert "key 'invoice-7' was used before" in again.err
        assert "nothing was added" in again.err
        assert again.json["balance"] == "35.000000"
        assert contents(estate) == before


def test_a_key_belongs_to_one_seller_and_one_entry(estate: Path) -> None:
    done("seller", "add", "globex", home=estate)
    done("balance", "add", "acme", "10", "--reason", "x", "--key", "k", home=estate)
    wire = ledger(estate)[-1]["id"]
    done("balance", "correct", wire, "-1", "--reason", "x", "--key", "k", home=estate)  # another kind of entry
    before = contents(estate)
    for argv in (
        ("add", "globex", "10", "--reason", "x", "--key", "k"),
        ("add", "acme", "11", "--reason", "x", "--key", "k"),
        ("correct", wire, "-2", "--reason", "x", "--key", "k"),
        ("correct", ledger(estate)[1]["id"], "-1", "--reason", "x", "--key", "k"),
    ):
        refused = run("balance", *argv, home=estate)
        assert refused.code == ExitCode.REFUSED, argv
        assert "[key-used]" in refused.err
        assert contents(estate) == before
    again = done("balance", "correct", wire, "-1", "--reason", "x", "--key", "k", "--json", home=estate)
    assert "nothing was added" in again.err
    assert again.json["corrections"] == "-1.000000"
    assert contents(estate) == before


def test_a_key_is_known_although_its_entry_is_of_another_month(estate: Path) -> None:
    """Keys have a table of their own: no partition of the ledger could keep them unique over all."""
    done("balance", "add", "acme", "10", "--reason", "x", "--key", "k", home=estate)
    assert [row[1] for row in contents(estate)["ledger_key"]] == ["adjustment:k"]


# check ---------------------------------------------------------------------------------------------------------------


def test_check_is_silent_when_all_is_well(estate: Path) -> None:
    for argv in ((), ("--below", "25"), ("--below", "100 EUR")):
        result = done("balance", "check", *argv, home=estate)
        assert (result.out, result.err) == ("", "")


def test_check_lists_those_who_run_low_and_only_them(estate: Path) -> None:
    for name, amount in (("globex", "5"), ("initech", "1")):
        done("seller", "add", name, "--currency", "EUR", "--low-balance", "2", home=estate)
        done("balance", "add", name, amount, "--reason", "x", home=estate)
    own = run("balance", "check", "--json", home=estate)
    assert own.code == ExitCode.THRESHOLD
    assert "[balance-low]" in own.err
    assert own.json == [
        {"seller": "initech", "currency": "EUR", "available": "1.000000", "threshold": "2.000000",
         "balance": "1.000000", "held": "0.000000", "credit_limit": "0.000000"}
    ]  # fmt: skip

    def below(amount: str) -> list[str]:
        return [row["seller"] for row in run("balance", "check", "--below", amount, "--json", home=estate).json]

    assert below("5") == ["initech"]
    assert below("5.000001") == ["initech", "globex"]
    assert below("100") == ["initech", "globex", "acme"]
    assert below("100 USD") == ["acme"]
    done("seller", "suspend", "initech", home=estate)
    assert below("5") == [], "a suspended seller takes no calls"
    done("seller", "set", "acme", "--low-balance", "25.01", home=estate)
    assert [r["seller"] for r in run("balance", "check", "--json", home=estate).json] == ["acme"]


def test_check_goes_by_what_is_available(estate: Path) -> None:
    done("seller", "set", "acme", "--low-balance", "25", home=estate)
    assert run("balance", "check", home=estate).code == ExitCode.DONE
    with engine(estate) as calls:
        calls.arrive("1.1")
        assert run("balance", "check", home=estate).code == ExitCode.THRESHOLD
        done("seller", "set", "acme", "--credit-limit", "1", home=estate)
        assert run("balance", "check", home=estate).code == ExitCode.DONE


@pytest.mark.parametrize(("amount", "slug"), [("-1", "amount-invalid"), ("few", "amount-invalid")])
def test_a_wrong_threshold_is_told(estate: Path, amount: str, slug: str) -> None:
    result = run("balance", "check", "--below", amount, home=estate)
    assert result.code == ExitCode.USAGE
    assert f"[{slug}]" in result.err


def test_a_mark_that_is_set_above_the_balance_is_told_at_once_and_once(estate: Path) -> None:
    def told() -> int:
        return sum("balance.low" in row for row in contents(estate)["event"])

    assert "less than" not in done("seller", "set", "acme", "--low-balance", "25", home=estate).err
    assert told() == 0, "25 is not below 25"
    rehearsed = done("seller", "set", "acme", "--low-balance", "30", "--dry-run", home=estate)
    assert "less than" in rehearsed.err
    assert told() == 0
    changed = done("seller", "set", "acme", "--low-balance", "30", home=estate)
    assert "acme has 25.00 USD, less than its mark of 30.00 USD" in changed.err
    assert told() == 1
    done("seller", "set", "acme", "--low-balance", "40", home=estate)
    assert told() == 1, "it was low before"
    assert "less than" not in done("seller", "set", "acme", "--credit-limit", "20", home=estate).err


def test_taking_money_back_below_the_mark_is_told_once(estate: Path) -> None:
    done("seller", "set", "acme", "--low-balance", "20", home=estate)

    def told() -> int:
        return sum("balance.low" in row for row in contents(estate)["event"])

    done("balance", "add", "acme", "-5", "--reason", "x", home=estate)
    assert told() == 0, "20 is not below 20"
    done("balance", "add", "acme", "-1", "--reason", "x", home=estate)
    assert told() == 1
    done("balance", "add", "acme", "-1", "--reason", "x", home=estate)
    assert told() == 1


def test_a_credit_limit_that_live_calls_lean_on_is_not_lowered(estate: Path) -> None:
    done("seller", "set", "acme", "--credit-limit", "1", home=estate)
    done("balance", "add", "acme", "-25.80", "--reason", "x", home=estate)
    with engine(estate) as calls:
        calls.arrive("1.1")
        refused = run("seller", "set", "acme", "--credit-limit", "0.99", home=estate)
        assert refused.code == ExitCode.REFUSED
        assert "[credit-in-use]" in refused.err
