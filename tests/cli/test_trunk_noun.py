"""`capconduit trunk`: the three ways a carrier is known, what goes together, and `render` of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import ExitCode
from tests.cli.estate import contents, done, walk
from tests.cli.runner import run

ENV = {"CARRIER": "of-the-carrier"}


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate: trunk `carrier` at 127.0.0.1."""
    return walk(home)


def added(home: Path, *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = done("trunk", "add", *argv, "--json", home=home).json
    return found


def test_a_trunk_that_registers(estate: Path) -> None:
    trunk = added(
        estate, "reg", "--host", "sip.carrier.example", "--auth", "register", "--username", "4711",
        "--secret", "env:CARRIER", "--qualify", "60s", "--codec", "g722,ulaw", "--nat",
    )  # fmt: skip
    assert (trunk["auth"], trunk["username"], trunk["secret"]) == ("register", "4711", "env:CARRIER")
    assert (trunk["qualify_ms"], trunk["nat"], trunk["codecs"]) == (60_000, True, ["g722", "ulaw"])
    text = run("render", "pjsip.conf", home=estate, env=ENV).out
    assert "server_uri = sip:sip.carrier.example:5060\n" in text
    assert "password = of-the-carrier\n" in text


def test_a_trunk_that_proves_who_it_is_needs_no_host_and_has_its_own_name(estate: Path) -> None:
    trunk = added(estate, "roaming", "--auth", "digest", "--secret", "env:CARRIER", "--permit", "192.0.2.0/24")
    assert (trunk["hosts"], trunk["username"], trunk["permit"]) == ([], "roaming", ["192.0.2.0/24"])
    assert "auth = roaming\n" in run("render", "pjsip.conf", home=estate, env=ENV).out


def test_a_trunk_over_tls_has_its_port(estate: Path) -> None:
    trunk = added(estate, "safe", "--host", "192.0.2.5", "--transport", "tls", "--srtp")
    assert (trunk["transport"], trunk["srtp"], trunk["port"]) == ("tls", True, 5061)
    refused = run("render", "pjsip.conf", home=estate)
    assert refused.code == ExitCode.USAGE
    assert "asterisk.sip_tls_listen" in refused.err


def test_a_trunk_becomes_another_kind_of_itself_and_back(estate: Path) -> None:
    before = done("trunk", "show", "carrier", "--json", home=estate).json
    change = ("--auth", "register", "--username", "us", "--secret", "env:CARRIER", "--permit", "192.0.2.0/24")
    assert done("trunk", "set", "carrier", *change, "--json", home=estate).json["auth"] == "register"
    back = ("--auth", "ip", "--username", "none", "--secret", "none", "--permit", "none", "--qualify", "none")
    after = done("trunk", "set", "carrier", *back, "--json", home=estate).json
    assert {**after, "updated": ""} == {**before, "updated": ""}


@pytest.mark.parametrize(
    ("argv", "slug", "says"),
    [
        (("--host", "127.0.0.1"), "host-shared", "'carrier'"),
        (("--host", "192.0.2.1", "--host", "127.0.0.0/8"), "host-shared", "127.0.0.0/8"),
        (("--auth", "register", "--username", "us", "--secret", "env:X"), "host-missing", "--host"),
        (("--host", "192.0.2.1", "--auth", "register"), "auth-incomplete", "--username"),
        (("--host", "192.0.2.1", "--auth", "register", "--secret", "env:X"), "auth-incomplete", "username"),
        (("--host", "192.0.2.1", "--username", "us"), "auth-incomplete", "--secret"),
        (("--auth", "digest"), "auth-incomplete", "--secret"),
        (("--auth", "digest", "--username", "us", "--secret", "env:X"), "username-invalid", "'us'"),
        (("--host", "192.0.2.1", "--secret", "hunter2", "--username", "us"), "secret-not-a-reference", "file:"),
        (("--host", "192.0.2.1", "--secret", "file:relative", "--username", "us"), "secret-not-a-reference", "file:"),
        (("--host", "192.0.2.1", "--username", "a b", "--secret", "env:X"), "username-invalid", "'a b'"),
        (("--host", "192.0.2.1", "--codecs", "ulaw,opsu"), "codecs-invalid", "opus"),
        (("--host", "192.0.2.1", "--codecs", "ulaw,ulaw"), "codecs-invalid", "twice"),
        (("--host", "192.0.2.1", "--kind", "iax2", "--codecs", "silk8"), "codecs-invalid", "iax2"),
        (("--host", "192.0.2.1", "--kind", "iax2", "--transport", "tls"), "not-of-iax2", "--transport"),
        (("--host", "192.0.2.1", "--kind", "iax2", "--nat"), "not-of-iax2", "--nat"),
        (("--host", "192.0.2.1", "--srtp"), "srtp-without-tls", "udp"),
        (("--host", "192.0.2.1", "--permit", "192.0.2.0/24"), "permit-needless", "--permit"),
        (("--auth", "digest", "--secret", "env:X", "--permit", "home"), "permit-invalid", "'home'"),
        (("--auth", "digest", "--secret", "env:X", "--qualify", "60s"), "qualify-invalid", "--host"),
        (("--host", "192.0.2.1", "--qualify", "1s"), "qualify-invalid", "5s"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_and_changes_nothing(
    estate: Path, argv: tuple[str, ...], slug: str, says: str
) -> None:
    before = contents(estate)
    result = run("trunk", "add", "new", *argv, home=estate)
    assert result.code in (ExitCode.USAGE, ExitCode.REFUSED)
    assert f"[{slug}]" in result.err
    assert says in result.err
    assert "hunter2" not in result.err
    assert contents(estate) == before


def test_setting_a_host_that_another_trunk_has_is_refused(estate: Path) -> None:
    added(estate, "other", "--host", "192.0.2.1")
    refused = run("trunk", "set", "other", "--host", "127.0.0.1", home=estate)
    assert (refused.code, "[host-shared]" in refused.err) == (ExitCode.REFUSED, True)
    assert added(estate, "iax", "--kind", "iax2", "--host", "127.0.0.1")["hosts"] == ["127.0.0.1"]


# --- render


def test_render_writes_what_is_needed_and_all_writes_all(estate: Path, tmp_path: Path) -> None:
    done("render", "--out", str(tmp_path / "needed"), home=estate)
    done("render", "--all", "--out", str(tmp_path / "all"), home=estate)
    needed = {path.name for path in (tmp_path / "needed").iterdir()}
    more = {path.name for path in (tmp_path / "all").iterdir()} - needed
    assert more == {"rtp.conf", "logger.conf", "http.conf", "ari.conf", "cel.conf"}
    assert run("render", "--check", "--out", str(tmp_path / "needed"), home=estate).code == 0
    assert run("render", "--check", "--all", "--out", str(tmp_path / "needed"), home=estate).code == ExitCode.DRIFT


def test_templates_come_from_the_directory_of_the_key_unless_one_is_named(estate: Path, tmp_path: Path) -> None:
    for name in ("key", "named"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cdr.conf.j2").write_text(f"; {name}\n")
    env = {"CAPCONDUIT_ASTERISK__TEMPLATES_DIR": str(tmp_path / "key")}
    assert run("render", "cdr.conf", home=estate, env=env).out == "; key\n"
    named = run("render", "cdr.conf", "--templates", str(tmp_path / "named"), home=estate, env=env)
    assert named.out == "; named\n"
