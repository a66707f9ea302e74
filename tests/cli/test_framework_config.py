"""`capconduit config`: what is in force, where it comes from, and changing it without losing a comment."""

from __future__ import annotations

from pathlib import Path

import pytest

from capconduit.config import KEYS, parse_config, render_example
from capconduit_cli.commands.config import edited
from tests.cli.runner import run


@pytest.fixture
def file(home: Path) -> Path:
    """A generated configuration in the working directory."""
    path = home / "work" / "capconduit.toml"
    path.write_text(render_example(), "utf-8")
    return path


def test_show_lists_every_key_with_its_source(home: Path, file: Path) -> None:
    file.write_text('[log]\nlevel = "debug"\n', "utf-8")
    rows = run("config", "show", "--json", home=home, env={"CAPCONDUIT_LOG__FORMAT": "json"}).json
    assert [row["key"] for row in rows] == list(KEYS)
    by_key = {row["key"]: (row["value"], row["source"]) for row in rows}
    assert by_key["log.level"] == ("debug", "file")
    assert by_key["log.format"] == ("json", "environment")
    assert by_key["fastagi.deadline_ms"] == (250, "default")


def test_show_takes_a_key_or_a_section(home: Path) -> None:
    assert run("config", "show", "log.level", "--fields", "value", "-o", "plain", home=home).out == "info\n"
    assert [row["key"] for row in run("config", "show", "log", "--json", home=home).json] == [
        "log.level",
        "log.format",
        "log.numbers",
    ]
    result = run("config", "show", "log.levl", home=home)
    assert (result.code, result.err.splitlines()[1]) == (2, "hint: did you mean 'log.level'?")


def test_show_never_shows_a_password_or_a_secret(home: Path) -> None:
    (home / "ami.secret").write_text("hunter3\n", "utf-8")
    env = {
        "CAPCONDUIT_DATABASE__URL": "postgresql://u:hunter2@h/x",
        "CAPCONDUIT_AMI__SECRET": f"file:{home}/ami.secret",
    }
    for form in ("table", "json", "jsonl", "csv", "plain"):
        out = run("config", "show", "-o", form, home=home, env=env).out
        assert "hunter" not in out
        assert "postgresql://u:***@h/x" in out
        assert f"file:{home}/ami.secret" in out


def test_path_tells_the_file_in_force(home: Path, file: Path) -> None:
    assert run("config", "path", home=home).out == f"{file}\n"
    places = run("config", "path", "--all", "--json", home=home).json
    assert places[0] == {"path": str(file), "found": True}
    assert [place["found"] for place in places[1:]] == [False, False]
    file.unlink()
    result = run("config", "path", home=home)
    assert (result.code, result.out) == (1, "")


def test_check_is_silent_on_stdout_and_tells_the_reason_of_a_failure(home: Path, file: Path) -> None:
    result = run("config", "check", home=home)
    assert (result.code, result.out, result.err) == (0, "", f"{file}: good\n")
    file.write_text("[fastagi]\nlisen = 1\n", "utf-8")
    result = run("config", "check", home=home)
    assert (result.code, result.out) == (2, "")
    assert "'fastagi.lisen'" in result.err
    assert "did you mean 'fastagi.listen'?" in result.err


def test_check_wants_the_ami_secret_to_be_readable(home: Path) -> None:
    env = {"CAPCONDUIT_AMI__SECRET": f"file:{home}/ami.secret"}
    assert run("config", "check", home=home, env=env).code == 2
    (home / "ami.secret").write_text("s\n", "utf-8")
    assert run("config", "check", home=home, env=env).code == 0


def test_set_changes_one_key_and_keeps_everything_else(home: Path, file: Path) -> None:
    before = file.read_text("utf-8").splitlines()
    file.chmod(0o640)
    result = run("config", "set", "fastagi.listen", "10.0.0.5:4573", home=home)
    assert (result.code, result.out) == (0, "")
    assert result.err == f'fastagi.listen is now "10.0.0.5:4573" in {file} (was "127.0.0.1:4573")\n'
    after = file.read_text("utf-8").splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [('#listen = "127.0.0.1:4573"', 'listen = "10.0.0.5:4573"')]
    assert file.stat().st_mode & 0o777 == 0o640
    assert [place.name for place in file.parent.iterdir()] == [file.name], "nothing is left behind"
    assert (
        run("config", "show", "fastagi.listen", "--fields", "value", "-o", "plain", home=home).out == "10.0.0.5:4573\n"
    )


def test_setting_every_key_to_its_default_gives_the_defaults(home: Path, file: Path) -> None:
    for key in KEYS.values():
        assert run("config", "set", key.dotted, str(key.default), home=home).code == 0, key.dotted
    assert parse_config(file.read_text("utf-8"), "file") == {key.dotted: key.default for key in KEYS.values()}


def test_a_dry_run_changes_nothing(home: Path, file: Path) -> None:
    before = file.stat().st_mtime_ns, file.read_bytes()
    result = run("config", "set", "log.level", "debug", "--dry-run", home=home)
    assert result.code == 0
    assert 'log.level would be "debug"' in result.err
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (("log.levl", "debug"), "did you mean 'log.level'?"),
        (("log.level", "debgu"), "did you mean 'debug'?"),
        (("fastagi.deadline_ms", "soon"), "deadline_ms = 250"),
        (("ami.secret", "hunter2"), "env:NAME"),
        (("ami.username", "a\nb"), "plain text"),
    ],
)
def test_a_wrong_value_leaves_the_file_as_it_is(home: Path, file: Path, argv: tuple[str, ...], word: str) -> None:
    before = file.read_bytes()
    result = run("config", "set", *argv, home=home)
    assert result.code == 2
    assert word in result.err
    assert "hunter2" not in result.err
    assert file.read_bytes() == before


def test_set_without_a_file_says_how_to_get_one(home: Path) -> None:
    result = run("config", "set", "log.level", "debug", home=home)
    assert result.code == 2
    assert "capconduit init" in result.err


def test_set_tells_when_the_environment_overrides_it(home: Path, file: Path) -> None:
    result = run("config", "set", "log.level", "debug", home=home, env={"CAPCONDUIT_LOG__LEVEL": "error"})
    assert "but $CAPCONDUIT_LOG__LEVEL is set and overrides it" in result.err


def test_set_follows_a_symbolic_link_and_keeps_it(home: Path, file: Path) -> None:
    real = home / "real.toml"
    file.rename(real)
    file.symlink_to(real)
    assert run("config", "set", "log.level", "debug", home=home).code == 0
    assert file.is_symlink()
    assert '\nlevel = "debug"\n' in real.read_text("utf-8")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '\n[log]\nlevel = "debug"\n'),
        ("[log]", '[log]\nlevel = "debug"\n'),
        ('[log]\nlevel = "info" # why\n', '[log]\nlevel = "debug" # why\n'),
        ("[log]\nlevel='error'#x\n", '[log]\nlevel = "debug"#x\n'),
        ('[log]\n# level = "info"\n[node]\n', '[log]\nlevel = "debug"\n[node]\n'),
        (
            '[log]\n#level = "info"\n  level = "error"\n',
            '[log]\n#level = "info"\nlevel = "debug"\n',
        ),
        ('[ami]\nusername = "#level = 3"\n', '[ami]\nusername = "#level = 3"\n\n[log]\nlevel = "debug"\n'),
        ('[ log ] # logs\nformat = "json"\n', '[ log ] # logs\nlevel = "debug"\nformat = "json"\n'),
        ('[log]\r\nformat = "json"\r\n', '[log]\r\nlevel = "debug"\nformat = "json"\r\n'),
    ],
)
def test_a_line_is_edited_where_it_belongs(before: str, after: str) -> None:
    assert edited(before, KEYS["log.level"], "debug", "file") == after


@pytest.mark.parametrize(
    "text",
    [
        'log = { level = "info" }\n',
        'log.level = "info"\n',
        '[log]\nlevel = """\ninfo"""\n',
        '["log"]\nlevel = "info"\n',
    ],
)
def test_what_cannot_be_edited_safely_is_refused(home: Path, file: Path, text: str) -> None:
    file.write_text(text, "utf-8")
    result = run("config", "set", "log.level", "debug", home=home)
    assert result.code == 2
    assert "error: " in result.err
    assert file.read_text("utf-8") == text
