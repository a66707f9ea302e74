"""`webhook`: from adding one to looking at what came of it, as an operator does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import ExitCode
from tests.cli.estate import done
from tests.cli.runner import Result, run
from tests.outward.receiver import LoopbackReceiver
from tests.outward.rig import SECRET

ENV = {"HOOK": SECRET}


@pytest.fixture
def made(home: Path) -> Path:
    """An installation with nothing in it."""
    done("init", "--yes", home=home)
    return home


def add(home: Path, *argv: str, name: str = "crm", url: str = "https://crm.example.net/hook") -> Result:
    return run("webhook", "add", name, "--url", url, "--secret", "env:HOOK", *argv, home=home)


def rows(home: Path, *argv: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = done("webhook", *argv, "--json", home=home).json
    return found


def test_a_webhook_is_added_changed_paused_and_removed(made: Path) -> None:
    assert add(made, "--kind", "call.*,balance.low", "--json").json["kinds"] == ["call.*", "balance.low"]
    (shown,) = rows(made, "list")
    assert (shown["status"], shown["waiting"], shown["secrets"]) == ("active", 0, ["env:HOOK"])
    changed = done(
        "webhook", "set", "crm", "--kind", "*", "--secret", "env:NEW", "--secret", "env:HOOK", "--json", home=made
    ).json
    assert (changed["kinds"], changed["secrets"]) == (["*"], ["env:NEW", "env:HOOK"])
    assert done("webhook", "pause", "crm", "--json", home=made).json["status"] == "paused"
    assert done("webhook", "resume", "crm", "--json", home=made).json["status"] == "active"
    assert "removed" in done("webhook", "remove", "crm", "--yes", home=made).err
    assert rows(made, "list") == []
    actions = [entry["action"] for entry in done("audit", "list", "--json", home=made).json]
    assert {"webhook.add", "webhook.set", "webhook.remove"} <= set(actions)


def test_a_kind_that_is_misspelt_is_told_with_the_nearest(made: Path) -> None:
    for wrong, near in (("call.endd", "call.ended"), ("cal.*", "call.*")):
        result = run("webhook", "add", "x", "--url", "https://x.example/", "--kind", wrong, home=made)
        assert result.code == ExitCode.USAGE
        assert f"hint: did you mean '{near}'?" in result.err


def test_what_is_rehearsed_is_not_kept(made: Path) -> None:
    assert add(made, "--dry-run").code == ExitCode.DONE
    assert rows(made, "list") == []


@pytest.mark.parametrize(
    ("argv", "slug"),
    [
        (["--url", "https://x.example/", "--secret", "env:H", "--kind", "cal.*"], "kind-unknown"),
        (["--url", "https://x.example/", "--secret", "env:H", "--kind", ","], "kind-unknown"),
        (["--url", "https://x.example/"], "secret-missing"),
        (["--url", "https://x.example/", "--secret", "hunter2"], "secret-invalid"),
        (["--url", "https://x.example/", "--secret", ""], "secret-missing"),
        (["--url", "ftp://x.example/", "--secret", "env:H"], "url-invalid"),
        (["--url", "https://", "--secret", "env:H"], "url-invalid"),
        (["--url", "https://x.example/ y", "--secret", "env:H"], "url-invalid"),
        (["--url", "https://a:b@x.example/", "--secret", "env:H"], "url-has-password"),
        (["--url", "https://x.example/", "--secret", "env:H", "--", "/bin/true"], "receiver-unclear"),
        ([], "receiver-unclear"),
        (["--", "true"], "command-invalid"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_kept(made: Path, argv: list[str], slug: str) -> None:
    result = run("webhook", "add", "x", *argv, home=made)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert f"[{slug}]" in result.err
    assert "hunter2" not in result.err
    assert rows(made, "list") == []


def test_a_mistyped_name_and_kind_have_a_suggestion(made: Path) -> None:
    add(made)
    assert "did you mean 'crm'?" in run("webhook", "show", "crn", home=made).err
    assert "did you mean 'call.*'?" in add(made, "--kind", "cal.*", name="y").err
    assert "[webhook-exists]" in add(made).err


def test_a_test_is_sent_at_once_and_says_what_came_of_it(made: Path) -> None:
    with LoopbackReceiver() as receiver:
        add(made, url=receiver.url)
        result = run("webhook", "test", "crm", "--json", home=made, env=ENV)
        assert result.json["delivered"] is True
        assert receiver.got[0].message["kind"] == "webhook.test"
        receiver.behave = lambda _: "500"
        refused = run("webhook", "test", "crm", "--json", home=made, env=ENV)
        without = run("webhook", "test", "crm", home=made)
    assert (refused.code, refused.json["answer"]) == (ExitCode.PEER, "HTTP 500")
    assert without.code == ExitCode.PEER
    assert "HOOK" in without.err


def test_a_command_is_tested_too(made: Path, tmp_path: Path) -> None:
    script = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())"
    done("webhook", "add", "log", "--", sys.executable, "-c", script, f"{tmp_path}/told", home=made)
    done("webhook", "test", "log", home=made)
    assert json.loads((tmp_path / "told").read_text())["data"] == {"webhook": "log"}


def test_plain_http_to_elsewhere_is_warned_of(made: Path) -> None:
    assert "use https" in add(made, url="http://crm.example.net/hook").err
    assert "use https" not in add(made, name="near", url="http://127.0.0.1:8099/hook").err


def test_deliveries_and_retries_of_one_that_got_nothing(made: Path) -> None:
    add(made)
    assert rows(made, "deliveries", "crm") == []
    assert "nothing of crm was parked" in done("webhook", "retry", "crm", home=made).err
    assert run("webhook", "retry", "crm", "--event", "01KAH7Z5R3M2C9W8X1Y4T6V0QN", home=made).code == ExitCode.REFUSED
