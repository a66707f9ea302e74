"""`capconduit top` as a command: what it refuses before anything is shown, and --once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.runner import run

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, with a configuration and a database of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("capconduit.config.SYSTEM_FILE", tmp_path / "etc" / "config.toml")
    monkeypatch.delenv("TEXTUAL_DRIVER", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        ((), "terminal-missing"),
        (("--record", "a", "--replay", "b"), "options-conflict"),
        (("--once", "--serve"), "options-conflict"),
        (("--once", "--record", "a"), "options-conflict"),
        (("-o", "json"), "output-without-once"),
        (("--once", "-o", "csv"), "output-not-possible"),
        (("--port", "8000"), "port-without-serve"),
        (("--speed", "2"), "replay-missing"),
        (("--from", "yesterday"), "replay-missing"),
        (("--replay", "x", "--speed", "-1"), "speed-invalid"),
        (("--replay", "x", "--speed", "fast"), "speed-invalid"),
        (("--theme", "pink"), "value-invalid"),
    ],
)
def test_options_that_make_no_sense_are_refused(home: Path, words: tuple[str, ...], slug: str) -> None:
    result = run("top", *words, home=home)
    assert f"[{slug}]" in result.err
    assert result.code == 2
    assert result.out == ""


@pytest.mark.parametrize("words", [("--once", "--replay"), ("--once", "--record"), ("--record", "--replay")])
def test_options_that_exclude_each_other_are_named(home: Path, words: tuple[str, str]) -> None:
    argv = [part for word in words for part in ([word] if word == "--once" else [word, "x"])]
    assert f"{words[0]} and {words[1]} exclude each other" in run("top", *argv, home=home).err


def test_once_without_a_daemon_is_the_database_and_says_so(home: Path) -> None:
    assert run("init", "--yes", home=home).code == 0
    assert run("seller", "add", "acme", home=home).code == 0
    result = run("top", "--once", "-o", "json", home=home)
    assert result.code == 0
    assert result.json["stale"] is True
    assert "-o, --output json" in run("top", "--help", home=home).out
    assert [balance["seller"] for balance in result.json["balances"]] == ["acme"]
    assert "not live" in result.err


def test_help_and_refusals_import_no_textual() -> None:
    code = (
        "import sys; from capconduit_cli.__main__ import main; main(['top', '--help']); main(['top', '--port', '9']);"
        "sys.exit('textual' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, check=False).returncode == 0
