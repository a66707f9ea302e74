"""`notification`: rules and what they told, as an operator sees them."""

from __future__ import annotations

from pathlib import Path

import pytest

from capconduit.clock import SystemClock
from capconduit.domain.notices import low_balance
from capconduit.errors import ExitCode
from capconduit.services.outbox import tell
from capconduit.store.open import open_store
from tests.cli.estate import done
from tests.cli.runner import run
from tests.outward.receiver import LoopbackReceiver
from tests.outward.rig import SECRET


@pytest.fixture
def made(home: Path) -> Path:
    """An installation with a seller."""
    done("init", "--yes", home=home)
    done("seller", "add", "acme", home=home)
    return home


def tell_of(home: Path, *sellers: str) -> None:
    """As the daemon does."""
    store, clock = open_store(_url(home)), SystemClock()
    with store.transaction(write=False) as tx:
        (tenant,) = tx.tenants()
    findings = [low_balance(tenant.id, seller, seller, "USD", 5_000_000, 10_000_000) for seller in sellers]
    store.run(lambda tx: tell(tx, tx.outward.rules(), findings, clock.now_ms(), clock.new_id))
    store.close()


def _url(home: Path) -> str:
    (file,) = home.rglob("*.sqlite")
    return f"sqlite:///{file}"


def test_rules_are_added_changed_and_removed(made: Path) -> None:
    rule = done("notification", "add", "ops", "--kind", "cap.*,balance.low", "--json", home=made).json
    assert (rule["user"], rule["channel"], rule["kinds"]) == ("ops", "list", ["cap.*", "balance.low"])
    mail = ("--channel", "email", "--to", "ops@example.net")
    done("notification", "add", "ops-mail", "--user", "ops", "--seller", "acme", *mail, home=made)
    changed = done("notification", "set", "ops-mail", "--to", "noc@example.net", "--json", home=made).json
    assert (changed["address"], changed["seller"], changed["kinds"]) == ("noc@example.net", "acme", ["*"])
    assert [row["name"] for row in done("notification", "rules", "--json", home=made).json] == ["ops", "ops-mail"]
    done("notification", "remove", "ops-mail", "--yes", home=made)
    assert len(done("notification", "rules", "--json", home=made).json) == 1


def test_a_user_of_the_installation_is_mailed_at_its_own_address(made: Path) -> None:
    done("user", "add", "ann", "--role", "seller", "--seller", "acme", "--email", "ann@acme.example", home=made)
    rule = done("notification", "add", "ann", "--kind", "balance.low", "--channel", "email", "--json", home=made).json
    assert (rule["address"], rule["seller"]) == ("ann@acme.example", "acme")


def test_what_was_told_is_listed_shown_and_read(made: Path) -> None:
    done("notification", "add", "ops", home=made)
    tell_of(made, "acme", "globex")
    tell_of(made, "acme")
    listed = done("notification", "list", "--json", home=made)
    assert sorted(row["text"] for row in listed.json) == [
        "seller acme has 5.00 USD left, less than 10.00",
        "seller globex has 5.00 USD left, less than 10.00",
    ]
    assert "unread: ops 2" in listed.err
    first = listed.json[0]
    assert (first["data"]["available"], first["data"]["threshold"]) == ("5.000000", "10.000000")
    assert not [key for key in first["data"] if key.endswith("_micros")]
    assert done("notification", "show", first["id"][-8:], "--json", home=made).json == first
    assert "1 notification is read" in done("notification", "read", first["id"], home=made).err
    assert len(done("notification", "list", "--unread", "--json", home=made).json) == 1
    assert "1 notification is read" in done("notification", "read", "--all", "--user", "ops", home=made).err
    assert done("notification", "rules", "--json", home=made).json[0]["unread"] == 0


def test_a_user_who_is_nearly_another_one_is_asked_about(made: Path) -> None:
    assert "did you mean" not in done("notification", "add", "ops", home=made).err
    assert "did you mean" not in done("notification", "add", "night", home=made).err
    result = done("notification", "add", "pager", "--user", "opps", home=made)
    assert "no user 'opps' was known before: did you mean 'ops'?" in result.err
    assert "did you mean" not in done("notification", "add", "again", "--user", "opps", home=made).err


def test_a_rule_is_tested_by_its_channel(made: Path) -> None:
    with LoopbackReceiver() as receiver:
        how = ("--channel", "webhook", "--to", receiver.url, "--secret", "env:HOOK")
        done("notification", "add", "hook", *how, home=made)
        assert run("notification", "test", "hook", home=made, env={"HOOK": SECRET}).code == ExitCode.DONE
        assert receiver.got[0].message["kind"] == "notification.test"
        receiver.behave = lambda _: "500"
        assert run("notification", "test", "hook", home=made, env={"HOOK": SECRET}).code == ExitCode.PEER
    done("notification", "add", "ops", home=made)
    assert "nothing is sent" in done("notification", "test", "ops", home=made).out


@pytest.mark.parametrize(
    ("argv", "code", "slug"),
    [
        (["add", "x", "--kind", "balance.lo"], ExitCode.USAGE, "kind-unknown"),
        (["add", "x", "--channel", "email"], ExitCode.USAGE, "address-missing"),
        (["add", "x", "--channel", "email", "--to", "nobody"], ExitCode.USAGE, "mail-address-invalid"),
        (["add", "x", "--channel", "webhook", "--to", "https://x.example/"], ExitCode.USAGE, "secret-missing"),
        (["add", "x", "--channel", "command"], ExitCode.USAGE, "command-invalid"),
        (["add", "x", "--", "/bin/true"], ExitCode.USAGE, "receiver-unclear"),
        (["add", "x", "--seller", "acne"], ExitCode.REFUSED, "seller-not-found"),
        (["add", "x", "--channel", "pigeon"], ExitCode.USAGE, "value-invalid"),
        (["set", "x", "--kind", "*"], ExitCode.REFUSED, "notification-not-found"),
        (["set", "x"], ExitCode.USAGE, "nothing-to-set"),
        (["show", "01KAH7"], ExitCode.REFUSED, "notification-not-found"),
        (["read"], ExitCode.USAGE, "notification-unclear"),
        (["read", "01KAH7", "--all"], ExitCode.USAGE, "notification-unclear"),
        (["test", "x"], ExitCode.REFUSED, "notification-not-found"),
    ],
)
def test_what_makes_no_sense_is_refused(made: Path, argv: list[str], code: ExitCode, slug: str) -> None:
    result = run("notification", *argv, home=made)
    assert (result.code, result.out) == (code, "")
    assert f"[{slug}]" in result.err
    assert done("notification", "rules", "--json", home=made).json == []
