"""Secrets that can be guessed are found, and none is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from capconduit.doctor import secrets
from capconduit.doctor.checks import chosen
from capconduit.doctor.conffile import parse_conf
from capconduit.doctor.findings import Severity
from capconduit.doctor.run import examine
from capconduit.doctor.secrets import KNOWN, Secret
from tests.doctor.facts import config, ids, scene

GOOD = "9f3c1ab27de84f6055aa"


@pytest.mark.parametrize(
    ("user", "value", "expected"),
    [
        ("capconduit", GOOD, []),
        ("admin", "amp111", ["secret-default"]),
        ("admin", "AMP111", ["secret-default"]),
        ("carrier-one-and-two", "carrier-one-and-two", ["secret-is-name"]),
        ("carrier", "reirrac", ["secret-is-name"]),
        ("carrier", "carrier123", ["secret-is-name"]),
        ("x", "9f3c1ab27de", ["secret-short"]),
        ("x", "9f3c1ab27de8", []),
        ("x", "384756192038475", ["secret-poor"]),
        ("x", "abababababababab", ["secret-poor"]),
        ("", "9f3c1ab27de84f6055aa", []),
    ],
)
def test_one_secret(user: str, value: str, expected: list[str]) -> None:
    assert ids(secrets.judge_secret(Secret("the thing", user, value))) == expected


def test_no_secret_is_in_a_finding_or_in_its_repr() -> None:
    for value in (*sorted(KNOWN), "zq9-short", "1029384756102938"):
        secret = Secret("the thing", "someone", value, "fix")
        shown = str(list(secrets.judge_secret(secret))) + repr(secret)
        if len(value) > 5 and value not in ("secret", "default"):  # words of our own sentences
            assert value not in shown


def test_a_password_in_the_url() -> None:
    assert ids(secrets.judge_url("postgresql://u:p@h/x")) == ["secret-in-url"]
    assert ids(secrets.judge_url("postgresql://u@h/x?password=p")) == ["secret-in-url"]
    assert ids(secrets.judge_url("postgresql://u@h/x")) == []
    assert ids(secrets.judge_url("sqlite:////var/lib/x.sqlite")) == []


def test_the_secrets_of_a_file_and_whose_they_are() -> None:
    text = "[general]\nsecret = no\n[a]\nusername = alice\npassword = one\n[b](!)\nsecret = t\n[c]\nsecret=x\n"
    found = list(secrets.secrets_of("pjsip.conf", parse_conf(text)))
    assert [(s.where, s.user, s.value) for s in found] == [
        ("pjsip.conf [a]", "alice", "one"), ("pjsip.conf [c]", "c", "x")
    ]  # fmt: skip


def test_a_hash_is_no_password() -> None:
    conf = parse_conf("[op]\npassword_format = crypt\npassword = $6$short\n")
    assert list(secrets.secrets_of("ari.conf", conf)) == []


def test_the_files_and_the_configuration_are_looked_through(tmp_path: Path) -> None:
    (tmp_path / "manager.conf").write_text("[general]\n#include more.conf\n")
    (tmp_path / "more.conf").write_text("[admin]\nsecret = amp111\n")
    (tmp_path / "ari.conf").write_text("[general]\n[asterisk]\npassword = asterisk\n")
    (tmp_path / "ami.secret").write_text("short\n")
    configuration = config(
        ami={"secret": f"file:{tmp_path}/ami.secret", "host": "127.0.0.1"}, asterisk={"config_dir": str(tmp_path)}
    )
    findings = list(examine(scene(configuration), chosen(["secrets"], [])))
    assert sorted(ids(findings)) == ["secret-default", "secret-default", "secret-short"]
    assert "amp111" not in str(findings)
    assert any("more.conf" in f.fix for f in findings)
    (weak,) = [f for f in findings if f.id == "secret-short"]
    assert weak.fix == f"openssl rand -hex 24 > {tmp_path}/ami.secret; capconduit install"


def test_a_secret_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    configuration = config(ami={"secret": "file:/nonexistent/secret"}, asterisk={"config_dir": str(tmp_path)})
    findings = list(examine(scene(configuration), chosen(["secrets"], [])))
    assert Severity.UNKNOWN in {f.severity for f in findings}
