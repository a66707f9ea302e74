"""`call`, `cdr`, `explain` and `route`: calls that are alive, ended, rejected, and only imagined."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import ExitCode
from capconduit.services.calls import each_cdr
from capconduit.services.office import Office
from capconduit.services.stores import open_store
from capconduit.vocab import DialStatus
from tests.cli.estate import CALLER, DID, NOON_MS, Calls, SetClock, contents, database, done, engine, walk
from tests.cli.runner import run


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate, with a second target."""
    walk(home)
    done("target", "add", "buyer2", "--address", "sip:second@127.0.0.1:5081", home=home)
    done("rule", "add", "solar", "buyer2", "--priority", "2", home=home)
    return home


@pytest.fixture
def calls(estate: Path) -> Iterator[Calls]:
    with engine(estate) as running:
        yield running


def talk(calls: Calls, uniqueid: str = "1795262400.1", name: str = "") -> str:
    """A call that the first target refuses and the second answers, for 45.2 s; its id."""
    call_id: str = calls.arrive(uniqueid, name=name).call_id
    calls.clock.at_ms += 3_500
    calls.fail(uniqueid, 1)
    calls.clock.at_ms += 2_000
    calls.answer(uniqueid)
    calls.clock.at_ms += 45_200
    calls.end(uniqueid, answered_for_ms=45_200)
    return call_id


# call ----------------------------------------------------------------------------------------------------------------


def test_live_calls_are_listed_with_what_they_hold(estate: Path, calls: Calls) -> None:
    assert done("call", "list", "--json", home=estate).json == []
    call_id = calls.arrive("1.1").call_id
    (call,) = done("call", "list", "--json", home=estate).json
    assert call == {
        "call_id": call_id,
        "uniqueid": "1.1",
        "state": "dialing",
        "did": DID,
        "caller": CALLER,
        "seller": "acme",
        "campaign": "solar",
        "target": "buyer1",
        "attempt": 1,
        "arrived": "2026-11-21T12:00:00.000Z",
        "answered": None,
        "talk_ms": None,
        "funded_s": 60,
        "held": "0.200000",
        "currency": "USD",
        "node": "pbx1",
    }
    assert done("call", "show", call_id, "--json", home=estate).json == call
    calls.answer("1.1")
    call = done("call", "show", "1.1", "--json", home=estate).json
    assert call["state"] == "up"
    assert call["answered"] == "2026-11-21T12:00:00.000Z"
    assert call["talk_ms"] >= 0


def test_the_caller_is_shown_as_received_where_it_is_no_number(estate: Path, calls: Calls) -> None:
    calls.arrive("1.1", caller="42\x1b[2J")
    assert done("call", "list", "--json", home=estate).json[0]["caller"] == "42\x1b[2J"
    assert "\x1b" not in done("call", "list", home=estate).out


def test_an_ended_call_is_no_live_call_and_the_other_way_round(estate: Path, calls: Calls) -> None:
    ended = talk(calls)
    result = run("call", "show", ended, home=estate)
    assert result.code == ExitCode.REFUSED
    assert f"capconduit cdr show {ended}" in result.err
    alive = calls.arrive("1.2").call_id
    result = run("cdr", "show", alive, home=estate)
    assert result.code == ExitCode.REFUSED
    assert "capconduit call show" in result.err


@pytest.mark.parametrize("noun", [("call", "show"), ("cdr", "show"), ("explain",)])
@pytest.mark.parametrize("name", ["9", "", "zzzz", "01M7YZMHG00000000000000009"])
def test_an_unknown_call_is_not_found(estate: Path, calls: Calls, noun: tuple[str, ...], name: str) -> None:
    talk(calls)
    result = run(*noun, name, home=estate)
    assert result.code == ExitCode.REFUSED
    assert "[call-not-found]" in result.err


# cdr -----------------------------------------------------------------------------------------------------------------


def test_a_cdr_has_all_of_the_call(estate: Path, calls: Calls) -> None:
    call_id = talk(calls, name="Zoë")
    (cdr,) = done("cdr", "list", "--json", home=estate).json
    boring = {"linkedid", "sip_call_id", "boot_id", "attestation", "stir_verdict", "witness"}
    assert {key: value for key, value in cdr.items() if key not in boring} == {
        "call_id": call_id,
        "uniqueid": "1795262400.1",
        "node": "pbx1",
        "schema_version": 1,
        "arrived": "2026-11-21T12:00:00.000Z",
        "decided": "2026-11-21T12:00:00.000Z",
        "first_ring": "2026-11-21T12:00:04.500Z",
        "answered": "2026-11-21T12:00:05.500Z",
        "ended": "2026-11-21T12:00:50.700Z",
        "did": DID,
        "caller": CALLER,
        "caller_e164": CALLER,
        "caller_name": "Zoë",
        "trunk": "carrier",
        "seller": "acme",
        "campaign": "solar",
        "target": "buyer2",
        "strategy": "priority",
        "attempts": 2,
        "attempt": 2,
        "decision_ms": 0,
        "ring_ms": 1_000,
        "talk_ms": 45_200,
        "billed_seconds": 60,
        "dialstatus": "ANSWER",
        "hangup_cause": 16,
        "sip_code": 200,
        "hung_up_by": "system",
        "reject_code": "",
        "reject_reason": "",
        "billable": True,
        "amount": "0.200000",
        "written_off": "0.000000",
        "balance_after": "24.800000",
        "payout": None,
        "margin": None,
        "currency": "USD",
        "rate": {
            "connect_fee": "0.000000",
            "per_minute": "0.200000",
            "increment": "60/60",
            "billable_threshold_ms": 0,
            "then_per_minute": None,
            "then_after_ms": None,
        },
        "payout_rate": None,
    }
    whole = done("cdr", "show", call_id, "--json", home=estate).json
    trace, attempts = whole.pop("trace"), whole.pop("attempt_list")
    assert whole == cdr
    assert trace[-2:] == [
        {"check": "strategy", "ok": True, "strategy": "priority", "order": ["buyer1", "buyer2"]},
        {"check": "hold", "ok": True, "hold": "0.200000", "funded_s": 60, "rate": "std"},
    ]
    assert [(a["attempt"], a["target"], a["dialstatus"], a["hangup_cause"]) for a in attempts] == [
        (1, "buyer1", "BUSY", 17),
        (2, "buyer2", "ANSWER", 16),
    ]


def test_cdrs_are_chosen_by_time_names_number_and_reason(estate: Path, calls: Calls) -> None:
    talk(calls, "1.1")
    calls.clock.at_ms = NOON_MS + 60_000
    calls.arrive("1.2", did="+18005559999")
    done("campaign", "pause", "solar", home=estate)
    calls.clock.at_ms = NOON_MS + 120_000
    calls.arrive("1.3")

    def chosen(*argv: str) -> list[str]:
        return [cdr["uniqueid"] for cdr in done("cdr", "list", *argv, "--json", home=estate).json]

    assert chosen() == ["1.3", "1.2", "1.1"]
    assert chosen("--limit", "2") == ["1.3", "1.2"]
    assert chosen("--since", "2026-11-21T12:01:00") == ["1.3", "1.2"]
    assert chosen("--until", "2026-11-21T12:01:00Z") == ["1.1"]
    assert chosen("--seller", "acme") == ["1.3", "1.1"]
    assert chosen("--campaign", "solar", "--did", "(800) 555-0100") == ["1.3", "1.1"]
    assert chosen("--did", "8005559999") == ["1.2"]
    assert chosen("--reject", "did_unknown") == ["1.2"]
    assert chosen("--reject", "campaign_paused") == ["1.3"]
    assert chosen("--filter", "dialstatus=ANSWER") == ["1.1"]
    assert chosen("--sort", "talk_ms", "--limit", "1") == ["1.3"]
    assert chosen("--sort", "-talk_ms", "--limit", "1") == ["1.1"]


@pytest.mark.parametrize(
    ("argv", "code", "slug", "says"),
    [
        (("--seller", "acm"), ExitCode.REFUSED, "seller-not-found", "did you mean 'acme'?"),
        (("--campaign", "solr"), ExitCode.REFUSED, "campaign-not-found", "did you mean 'solar'?"),
        (("--reject", "did_unknwon"), ExitCode.USAGE, "reject-unknown", "did you mean 'did_unknown'?"),
        (("--since", "soon"), ExitCode.USAGE, "time-invalid", "soon"),
        (("--limit", "0"), ExitCode.USAGE, "value-invalid", "at least 1"),
        (("--fields", "amuont"), ExitCode.USAGE, "field-unknown", "did you mean 'amount'?"),
    ],
)
def test_a_wrong_choice_of_cdrs_is_told(estate: Path, argv: tuple[str, ...], code: int, slug: str, says: str) -> None:
    result = run("cdr", "list", *argv, home=estate)
    assert result.code == code
    assert f"[{slug}]" in result.err
    assert says in result.err


def test_more_cdrs_than_are_shown_are_told_on_stderr(estate: Path, calls: Calls) -> None:
    for number in range(3):
        calls.arrive(f"1.{number}", did="+18005559999")
    for argv in ((), ("--sort", "did"), ("--filter", "reject_code=did_unknown")):
        assert "shows more" in done("cdr", "list", "--limit", "2", *argv, home=estate).err
        assert "shows more" not in done("cdr", "list", "--limit", "3", *argv, home=estate).err


def test_an_export_has_all_calls_in_csv_or_another_form(estate: Path, calls: Calls) -> None:
    for number in range(60):
        calls.arrive(f"1.{number}", did="+18005559999")
    lines = done("cdr", "export", home=estate).out.splitlines()
    assert lines[0].startswith("call_id,uniqueid,")
    assert len(lines) == 61
    assert len(done("cdr", "export", "--limit", "2", "-o", "jsonl", home=estate).out.splitlines()) == 2
    listed = done("cdr", "list", "--json", "--limit", "100", home=estate).json
    assert done("cdr", "export", "--json", home=estate).json == listed
    assert done("cdr", "export", "--reject", "campaign_paused", home=estate).out.splitlines() == lines[:1]
    assert done("cdr", "export", "--fields", "uniqueid", "-o", "plain", home=estate).out.count("\n") == 60


def test_pages_of_cdrs_neither_lose_nor_repeat_calls_of_one_instant(estate: Path, calls: Calls) -> None:
    for number in range(7):
        calls.clock.at_ms = NOON_MS + number // 3
        calls.arrive(f"1.{number}", did="+18005559999")
    store = open_store(f"sqlite://{database(estate)}")
    office = Office(store, SetClock(), actor="test")
    try:
        for page in (4, 5, 100):
            assert sorted(cdr.uniqueid for cdr in each_cdr(office, page=page)) == [f"1.{n}" for n in range(7)]
    finally:
        store.close()


def test_a_reject_filter_takes_the_whole_reason(estate: Path, calls: Calls) -> None:
    done("cap", "set", "campaign", "solar", "--concurrent", "0", home=estate)
    calls.arrive("1.1")
    for reason, count in (("cap_reached", 1), ("cap_reached:campaign:concurrent", 1), ("cap_reached:did:cps", 0)):
        assert len(done("cdr", "list", "--reject", reason, "--json", home=estate).json) == count


# explain -------------------------------------------------------------------------------------------------------------


def test_a_call_is_explained_as_a_timeline(estate: Path, calls: Calls) -> None:
    call_id = talk(calls, name="Zoë")
    text = done("explain", call_id, home=estate).out
    for line in (
        f"call {call_id} (uniqueid 1795262400.1, node pbx1)",
        "answered by buyer2, 45.2s of talk, 0.20 USD",
        "caller    +12125550147 'Zoë'",
        "campaign  solar (priority)",
        "arrived 2026-11-21T12:00:00.000Z",
        "     +0.000s  decided: dial buyer1 (caps are used/in flight/limit)",
        "              ok    cap.campaign      solar billable/day: 0/0/200",
        "              ok    cap.target        buyer1 concurrent: 0/0/5",
        "              ok    hold              holds 0.20 USD for 60s of talk by rate std",
        "     +3.500s  attempt 1 ends: BUSY, hangup cause 17",
        "     +5.500s  attempt 2 is answered",
        "    +50.700s  ended: ANSWER, hangup cause 16, SIP 200, by the system (told by handler)",
        "              billed 60s at 0.20/min by 60/60 = 0.20 USD; balance then 24.80 USD",
        "  hold    0.20 USD posted",
        "  ledger  -0.20 USD call, balance then 24.80 USD: 60s to buyer2",
        "  campaign solar billable/day: used (settled)",
    ):
        assert f"{line}\n" in text
    assert "given back" not in text  # such places are gone when the call has ended
    assert text.index("attempt 1 ends") < text.index("attempt 2: buyer2") < text.index("ended: ANSWER")


def test_a_call_is_explained_as_json(estate: Path, calls: Calls) -> None:
    call_id = talk(calls)
    story = done("explain", call_id, "--json", home=estate).json
    assert (story["call_id"], story["state"], story["currency"], story["call"]) == (call_id, "ended", "USD", None)
    assert story["cdr"] == done("cdr", "list", "--json", home=estate).json[0]
    money = next(check for check in story["checks"] if check["check"] == "balance")
    assert (money["available"], money["minimum"]) == ("25.000000", "0.200000")
    assert [(p["name"], p["counts"], p["amount"], p["counted"], p["state"]) for p in story["places"]] == [
        ("solar", "billable/day", 1, 1, "released"),
    ]
    assert story["hold"]["state"] == "posted"
    assert [(e["amount"], e["balance_after"]) for e in story["ledger"]] == [("-0.200000", "24.800000")]
    assert [e["kind"] for e in story["events"]] == ["call.started", "attempt.failed", "call.answered", "call.ended"]
    assert story["events"][-1]["data"]["amount"] == "0.200000"


def test_a_live_call_is_explained_too(estate: Path, calls: Calls) -> None:
    call_id = calls.arrive("1.1").call_id
    text = done("explain", call_id, home=estate).out
    assert "dialing, attempt 1 to buyer1, funded for 60s of talk\n" in text
    assert "  hold    0.20 USD open until " in text
    assert "campaign solar concurrent: in flight (dialing)\n" in text
    story = done("explain", call_id, "--json", home=estate).json
    assert (story["state"], story["cdr"]) == ("dialing", None)
    assert story["call"] == done("call", "list", "--json", home=estate).json[0]


def test_a_reject_is_explained_with_the_check_that_failed(estate: Path, calls: Calls) -> None:
    done("cap", "set", "campaign", "solar", "--concurrent", "1", home=estate)
    calls.arrive("1.1")
    answer = calls.arrive("1.2")
    text = done("explain", answer.call_id, home=estate).out
    assert "rejected, cap_reached:campaign:concurrent: a cap is reached\n" in text
    assert "              FAIL  cap.campaign      solar concurrent: 0/1/1\n" in text
    assert "ended: rejected, hangup cause 17, SIP 486, by the system (told by route)\n" in text


def test_a_call_without_talk_and_one_below_the_threshold_say_so(estate: Path, calls: Calls) -> None:
    calls.arrive("1.1")
    calls.end("1.1")
    assert "not answered, CANCEL\n" in done("explain", "1.1", home=estate).out
    done("campaign", "set", "solar", "--billable-threshold", "90s", home=estate)
    calls.arrive("1.2")
    calls.end("1.2", answered_for_ms=89_999)
    text = done("explain", "1.2", home=estate).out
    assert "not billable: shorter than 1m30s\n" in text
    assert "hold    0.20 USD void\n" in text


def test_what_was_checked_again_after_a_failure_is_told_apart(estate: Path, calls: Calls) -> None:
    done("cap", "set", "target", "buyer2", "--concurrent", "3", home=estate)
    calls.arrive("1.1")
    calls.clock.at_ms += 1_000
    calls.fail("1.1", 1, DialStatus.CHANUNAVAIL, 20)
    text = done("explain", "1.1", home=estate).out
    again = text.index("checked again after attempts that failed")
    assert text.index("attempt 1 ends: CHANUNAVAIL") < again or text.index("+1.000s") < again
    assert "cap.target        buyer2 concurrent: 0/0/3" in text[again:]


def test_hostile_text_of_a_caller_stays_text(estate: Path, calls: Calls) -> None:
    calls.arrive("1.1", name="\x1b]0;owned\x07\u202e", caller="x\x1b[31m")
    text = done("explain", "1.1", home=estate).out
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\x07" not in text


def test_a_call_is_named_by_the_beginning_or_end_of_an_id(estate: Path, calls: Calls) -> None:
    first = talk(calls, "1795262400.17")
    calls.clock.at_ms += 3_600_000
    second = calls.arrive("1795266000.18").call_id
    for part, wanted in (
        (first, first), (second, second), ("1795262400.17", first), ("400.17", first), (first[-8:], first),
        (second[-8:].lower(), second), (first[:8], first),
    ):  # fmt: skip
        assert done("explain", part, "--fields", "call_id", "--json", home=estate).json == {"call_id": wanted}
    ambiguous = run("explain", "1795", home=estate)
    assert ambiguous.code == ExitCode.REFUSED
    assert "[call-ambiguous]" in ambiguous.err
    assert first in ambiguous.err
    assert second in ambiguous.err
    assert run("explain", ".17", home=estate).code == ExitCode.REFUSED, "three characters are too few"


def test_an_exact_id_wins_over_a_part_of_another(estate: Path, calls: Calls) -> None:
    whole = talk(calls, "5262.1")
    calls.clock.at_ms += 60_000
    talk(calls, "179.5262.1")
    assert done("explain", "5262.1", "--fields", "call_id", "--json", home=estate).json == {"call_id": whole}


# route ---------------------------------------------------------------------------------------------------------------


def asked(home: Path, *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = done("route", *argv, "--json", home=home).json
    return found


def test_a_call_is_tried_and_nothing_is_taken(estate: Path) -> None:
    before = contents(estate)
    answer = asked(estate, DID, "--from", CALLER)
    assert contents(estate) == before
    wanted = {
        "verdict": "dial", "did": DID, "caller": CALLER, "trunk": "carrier", "seller": "acme", "campaign": "solar",
        "strategy": "priority", "target": "buyer1", "skipped": [], "hold": "0.200000", "funded_s": 60,
        "ceiling_ms": 14_400_000, "currency": "USD", "reject_code": "", "reject_reason": "", "hangup_cause": None,
        "sip_code": None,
    }  # fmt: skip
    assert {key: answer[key] for key in wanted} == wanted
    assert [t["target"] for t in answer["targets"]] == ["buyer1", "buyer2"]
    text = done("route", DID, "--from", CALLER, home=estate).out
    assert ": dial\n" in text.splitlines(keepends=True)[0]
    assert "  1. buyer1  sip:buyer@127.0.0.1:5080  priority 1, weight 1, may ring 20s\n" in text
    assert "  holds 0.20 USD for the first 60s, no longer than 4h00m00s in all\n" in text


def test_a_reject_is_an_answer(estate: Path) -> None:
    done("campaign", "pause", "solar", home=estate)
    answer = asked(estate, DID, "--from", CALLER)
    assert (answer["verdict"], answer["reject_code"], answer["hangup_cause"], answer["sip_code"]) == (
        "reject", "campaign_paused", 31, 480,
    )  # fmt: skip
    assert (answer["target"], answer["targets"], answer["hold"], answer["funded_s"]) == ("", [], None, None)
    text = done("route", DID, "--from", CALLER, home=estate).out
    assert "  campaign_paused: the campaign is paused\n  hangup cause 31, SIP 480\n" in text
    assert "  FAIL  campaign          solar is paused\n" in text
    assert asked(estate, "+18005559999")["reject_code"] == "did_unknown"


def test_targets_that_are_passed_by_say_why(estate: Path) -> None:
    done("target", "pause", "buyer1", home=estate)
    assert asked(estate, DID)["skipped"] == [{"target": "buyer1", "why": "disabled"}]
    done("target", "resume", "buyer1", home=estate)
    done("cap", "set", "target", "buyer1", "--concurrent", "0", home=estate)
    answer = asked(estate, DID)
    assert (answer["target"], answer["skipped"]) == (
        "buyer2", [{"target": "buyer1", "why": "cap_reached:target:concurrent"}],
    )  # fmt: skip
    assert "  not buyer1: cap_reached:target:concurrent\n" in done("route", DID, home=estate).out


def test_another_instant_has_its_own_windows(estate: Path) -> None:
    done("cap", "set", "campaign", "solar", "--billable", "1/day", home=estate)
    with engine(estate) as calls:
        calls.arrive("1.1")
        calls.end("1.1", answered_for_ms=1_000)
    day = asked(estate, DID, "--at", "2026-11-21T20:00")
    assert (day["at"], day["reject_reason"]) == ("2026-11-21T20:00:00.000Z", "cap_reached:campaign:billable:day")
    assert asked(estate, DID, "--at", "2026-11-22T20:00")["verdict"] == "dial"


@pytest.mark.parametrize(
    ("argv", "code", "slug"),
    [
        (("hello",), ExitCode.USAGE, "number-invalid"),
        ((DID, "--trunk", "carier"), ExitCode.REFUSED, "trunk-not-found"),
        ((DID, "--at", "someday"), ExitCode.USAGE, "time-invalid"),
        ((), ExitCode.USAGE, "argument-missing"),
    ],
)
def test_a_wrong_question_is_told(estate: Path, argv: tuple[str, ...], code: int, slug: str) -> None:
    result = run("route", *argv, home=estate)
    assert result.code == code
    assert f"[{slug}]" in result.err
