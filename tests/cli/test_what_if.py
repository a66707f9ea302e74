"""`route --given` supposes numbers and changes none; `--why-not` names what rules a target out and what would help."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import ExitCode
from capconduit.services import why_not
from capconduit_cli.app import PROGRAM, build_root
from tests.cli.estate import DID, contents, done, engine, walk
from tests.cli.runner import run


@pytest.fixture
def two(home: Path) -> Path:
    """The walk with a second target of the campaign, a third that no rule leads to, and caps of every kind."""
    walk(home)
    for name, port in (("buyer2", 5081), ("buyer3", 5082)):
        done("target", "add", name, "--kind", "pjsip", "--address", f"sip:b@127.0.0.1:{port}", home=home)
    done("rule", "add", "solar", "buyer2", "--priority", "2", home=home)
    done("cap", "set", "system", "--cps", "5", home=home)
    done("cap", "set", "seller", "acme", "--spend", "20/day", "--minutes", "100/rolling:1h", home=home)
    done("cap", "set", "rule", "solar/buyer2", "--attempts", "3/total", home=home)
    return home


def asked(home: Path, target: str, *given: str) -> dict[str, Any]:
    """What is said about a target."""
    options = [word for text in given for word in ("--given", text)]
    answer: dict[str, Any] = done("route", DID, "--why-not", target, *options, "--json", home=home).json
    assert answer["given"] == list(given)
    fate: dict[str, Any] = answer["why_not"]
    return fate


@pytest.mark.parametrize(
    ("target", "given", "outcome", "check", "change"),
    [
        ("buyer1", (), "dialled", None, None),
        ("buyer2", (), "later", "strategy", "rule set solar buyer2 --priority 0"),
        ("buyer3", (), "no-rule", "rule", "rule add solar buyer3"),
        ("buyer2", ("target:buyer1=rested",), "dialled", None, None),
        ("buyer1", ("target:buyer1=rested",), "skipped", "target.rest", "target revive buyer1"),
        ("buyer1", ("cap:target:buyer1:concurrent=5",), "skipped", "cap.target", "--concurrent N"),
        ("buyer1", ("cap:target:buyer1:concurrent=4",), "dialled", None, None),
        ("buyer2", ("cap:rule:solar/buyer2:attempts=3",), "skipped", "cap.rule", "cap set rule solar/buyer2"),
        ("buyer1", ("cap:system:cps=5",), "rejected", "cap.system", "cap set system --cps N"),
        ("buyer1", ("cap:seller:acme:spend=20",), "rejected", "cap.seller", "--spend N/day"),
        ("buyer1", ("cap:seller:acme:minutes/rolling:1h=100",), "rejected", "cap.seller", "--minutes N/rolling:1h"),
        ("buyer1", ("cap:campaign:solar:billable=200",), "rejected", "cap.campaign", "--billable N/day"),
        ("buyer1", ("balance:acme=0.19",), "rejected", "balance", "balance add acme"),
        ("buyer1", ("balance:acme=0.19", "balance:acme=0.20 USD"), "dialled", None, None),
    ],
)
def test_what_rules_a_target_out_is_named_with_what_would_help(
    two: Path, target: str, given: tuple[str, ...], outcome: str, check: str | None, change: str | None
) -> None:
    before = contents(two)
    fate = asked(two, target, *given)
    assert (fate["target"], fate["outcome"]) == (target, outcome)
    assert (fate["check"] or {}).get("check") == check
    assert change is None or any(change in text for text in fate["change"])
    text = run("route", DID, "--why-not", target, *(w for g in given for w in ("--given", g)), home=two)
    assert f"\n{target}: " in text.out
    assert contents(two) == before


def test_what_an_operator_switched_off_is_told_with_how_to_switch_it_on(two: Path) -> None:
    for verb, words, change in (
        ("target", ("buyer1",), "target resume buyer1"),
        ("rule", ("solar", "buyer1"), "rule resume solar buyer1"),
    ):
        done(verb, "pause", *words, home=two)
        assert change in asked(two, "buyer1")["change"][0]
        done(verb, "resume", *words, home=two)
    done("schedule", "add", "never", "--hours", "mon 00:00-00:01", home=two)
    done("target", "set", "buyer1", "--schedule", "never", home=two)
    closed = done("route", DID, "--why-not", "buyer1", "--at", "2026-11-21T12:00", "--json", home=two).json["why_not"]
    assert closed["check"]["check"] == "target.schedule"
    assert closed["check"]["opens"].startswith("2026-11-2")
    done("campaign", "pause", "solar", home=two)
    assert "campaign resume solar" in asked(two, "buyer1")["change"][0]


@pytest.mark.parametrize(
    ("given", "code", "slug"),
    [
        ("nothing", ExitCode.USAGE, "given-invalid"),
        ("money:acme=5", ExitCode.USAGE, "given-invalid"),
        ("balance:acme=much", ExitCode.USAGE, "amount-invalid"),
        ("balance:acme=5 EUR", ExitCode.USAGE, "currency-mismatch"),
        ("balance:acm=5", ExitCode.REFUSED, "seller-not-found"),
        ("target:buyer1=ill", ExitCode.USAGE, "given-invalid"),
        ("target:buyr1=well", ExitCode.REFUSED, "target-not-found"),
        ("cap:campain:solar:concurrent=1", ExitCode.USAGE, "given-invalid"),
        ("cap:campaign:solar:minutes=1", ExitCode.REFUSED, "cap-not-found"),
        ("cap:campaign:solar:billable/week=1", ExitCode.REFUSED, "cap-not-found"),
        ("cap:campaign:solar:concurrent=-1", ExitCode.USAGE, "given-invalid"),
        ("cap:campaign:solar:concurrent=9999999999999999999999", ExitCode.USAGE, "given-invalid"),
    ],
)
def test_a_supposition_that_cannot_be_understood_is_refused(two: Path, given: str, code: int, slug: str) -> None:
    result = run("route", DID, "--given", given, home=two)
    assert (result.code, f"[{slug}]" in result.err, result.out) == (code, True, "")


def test_a_call_that_is_up_does_not_matter_to_what_is_supposed(two: Path) -> None:
    with engine(two) as calls:
        calls.arrive("u1")
        assert asked(two, "buyer1", "cap:target:buyer1:concurrent=4")["outcome"] == "dialled"
        held = done("route", DID, "--given", "balance:acme=0.20", home=two).out
    assert "available 0.20 USD = 0.20 - held 0.00" in held


def test_every_command_that_is_advised_exists() -> None:
    words = {
        "did": DID,
        "seller": "acme",
        "campaign": "solar",
        "pattern": "+1800",
        "cap": "campaign solar",
        "metric": "billable",
        "limit": "9/day",
        "unsigned": "`capconduit setting set min_attestation none`",
    }
    source = Path(str(why_not.__file__)).read_text("utf-8")
    advised = [text.format(**words) for text in why_not._REJECTED.values()]
    commands = re.findall(r"`capconduit ([^`{]+)", "\n".join([*advised, source]))
    assert len(commands) > 25
    root = build_root()
    context = root.make_context(PROGRAM, [], resilient_parsing=True)
    for line in commands:
        noun, verb, *options = shlex.split(line)
        command = root.get_command(context, noun)
        assert command is not None, line
        known = command.commands  # type: ignore[attr-defined]  # all of them are groups
        assert verb in known, line
        taken = {option for param in known[verb].params for option in param.opts}
        assert {word for word in options if word.startswith("--")} <= taken, line


def test_what_lets_a_call_in_goes_by_the_attestation_it_has(two: Path) -> None:
    done("setting", "set", "min_attestation", "B", home=two)
    asked_for = ("route", DID, "--why-not", "buyer1", "--json")

    def change(*more: str) -> str:
        (said,) = done(*asked_for, *more, home=two).json["why_not"]["change"]
        return str(said).removeprefix("the carrier signs it, or ")

    of_all = "`capconduit setting set min_attestation none`"
    assert change() == of_all
    assert change("--attestation", "C") == "`capconduit campaign set solar --min-attestation C`"
    done("campaign", "set", "solar", "--min-attestation", "A", home=two)
    assert change() == f"`capconduit campaign set solar --min-attestation default` and {of_all}"


def test_route_supposes_the_attestation_of_the_call(two: Path) -> None:
    done("campaign", "set", "solar", "--min-attestation", "B", home=two)
    asked_for = ("route", DID, "--from", "+12125550147", "--json")
    assert done(*asked_for, home=two).json["reject_code"] == "attestation_missing"
    assert done(*asked_for, "--attestation", "C", home=two).json["reject_code"] == "attestation_missing"
    assert done(*asked_for, "--attestation", "B", home=two).json["verdict"] == "dial"
