"""The configuration: where it is found, what it takes, what it refuses, what it never tells."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from capconduit.config import (
    KEYS,
    MAX_FILE_BYTES,
    SECTIONS,
    Config,
    find_config,
    load_config,
    mask,
    parse_config,
    parse_listen,
    render_example,
    resolve_secret,
    state_dir,
)
from capconduit.errors import ConfigError, ExitCode
from capconduit.render.from_config import render_context

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working directory, and no configuration of the machine."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("capconduit.config.SYSTEM_FILE", tmp_path / "etc" / "config.toml")
    return tmp_path


def environment(home: Path, **more: str) -> Mapping[str, str]:
    return {"HOME": str(home), **more}


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def load(text: str, home: Path, **env: str) -> Config:
    return load_config(written(home / "some.toml", text), environment(home, **env))


def refused(text: str, home: Path, **env: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(text, home, **env)
    return caught.value


# Finding


def test_without_any_file_the_defaults_are_in_force(home: Path) -> None:
    config = load_config(None, environment(home))
    assert config.origin is None
    assert config.fastagi.listen == "127.0.0.1:4573"
    assert config.fastagi.deadline_ms == 250
    assert config.http.listen == ""
    assert set(config.sources.values()) == {"default"}


def test_files_are_looked_for_in_the_documented_order(home: Path) -> None:
    env = environment(home)
    system = written(home / "etc" / "config.toml", "")
    assert find_config(None, env) == system
    user = written(home / ".config" / "capconduit" / "config.toml", "")
    assert find_config(None, env) == user
    local = written(home / "work" / "capconduit.toml", "")
    assert find_config(None, env) == local
    by_variable = written(home / "variable.toml", "")
    assert find_config(None, {**env, "CAPCONDUIT_CONFIG": str(by_variable)}) == by_variable
    named = written(home / "named.toml", "")
    assert find_config(named, {**env, "CAPCONDUIT_CONFIG": str(by_variable)}) == named


def test_a_named_file_that_is_missing_is_an_error_and_not_a_default(home: Path) -> None:
    written(home / "work" / "capconduit.toml", "")
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_config(home / "nowhere.toml", environment(home))
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_config(None, environment(home, CAPCONDUIT_CONFIG=str(home / "nowhere.toml")))


def test_a_file_that_a_stranger_left_in_the_working_directory_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = written(home / "work" / "capconduit.toml", "")
    if os.geteuid() == 0:
        os.chown(left, 12_345, -1)
    else:
        monkeypatch.setattr("capconduit.config.os.geteuid", lambda: 12_345)
    with pytest.raises(ConfigError) as caught:
        find_config(None, environment(home))
    assert caught.value.slug == "config-owner"
    assert find_config(left, environment(home)) == left, "who names it trusts it"


def test_a_place_that_cannot_be_looked_at_is_an_error_and_not_passed_by(home: Path) -> None:
    hidden = home / ".config" / "capconduit" / "config.toml"
    hidden.parent.mkdir(parents=True)
    hidden.symlink_to(hidden)  # a loop: as unreadable for root as for anybody
    with pytest.raises(ConfigError) as caught:
        find_config(None, environment(home))
    assert caught.value.slug == "config-unreadable"


def test_a_removed_working_directory_does_not_hide_the_other_places(home: Path) -> None:
    user = written(home / ".config" / "capconduit" / "config.toml", "")
    (home / "work").rmdir()
    assert find_config(None, environment(home)) == user


# Values


def test_the_environment_goes_before_the_file_and_the_file_before_the_default(home: Path) -> None:
    config = load('[fastagi]\nlisten = "127.0.0.1:1"\ndeadline_ms = 300\n', home, CAPCONDUIT_FASTAGI__DEADLINE_MS="400")
    assert (config.fastagi.listen, config.fastagi.deadline_ms, config.ami.port) == ("127.0.0.1:1", 400, 5038)
    assert config.sources["fastagi.listen"] == "file"
    assert config.sources["fastagi.deadline_ms"] == "environment"
    assert config.sources["ami.port"] == "default"
    assert config.origin == home / "some.toml"


def test_variables_without_a_double_underscore_are_not_keys(home: Path) -> None:
    assert load("", home, CAPCONDUIT_TENANT="x", CAPCONDUIT_DEBUG="1").origin is not None


@pytest.mark.parametrize(
    ("text", "slug", "near"),
    [
        ('[fastagi]\nlisen = "x"', "config-key-unknown", "fastagi.listen"),
        ("[fastag]\n", "config-key-unknown", "fastagi"),
        ("deadline_ms = 3", "config-key-unknown", "sections"),
        ("fastagi = 3", "config-value-invalid", "[fastagi]"),
        ('[fastagi]\ndeadline_ms = "250"', "config-value-invalid", "deadline_ms = 250"),
        ("[fastagi]\ndeadline_ms = true", "config-value-invalid", "deadline_ms = 250"),
        ("[fastagi]\ndeadline_ms = 2.5", "config-value-invalid", "deadline_ms = 250"),
        ("[fastagi]\ndeadline_ms = 0", "config-value-invalid", "10"),
        ("[fastagi]\nlisten = 4573", "config-value-invalid", "quotes"),
        ('[fastagi]\nlisten = "4573"', "config-value-invalid", "127.0.0.1:4573"),
        ('[fastagi]\nlisten = ":4573"', "config-value-invalid", "0.0.0.0:4573"),
        ('[fastagi]\nlisten = "127.0.0.1:65536"', "config-value-invalid", "127.0.0.1:4573"),
        ('[fastagi]\nlisten = "[127.0.0.1]:1"', "config-value-invalid", "[::1]:4573"),
        ('[log]\nlevel = "debgu"', "config-value-invalid", "debug"),
        ('[log]\nformat = "xml"', "config-value-invalid", "console"),
        ('[database]\nurl = "mysql://h/x"', "config-value-invalid", "sqlite:///"),
        ('[database]\nurl = "postgres://h/x"', "config-value-invalid", "postgresql://"),
        ('[database]\nurl = "sqlite:relative.sqlite"', "config-value-invalid", "sqlite:///"),
        ('[database]\nurl = "sqlite://"', "config-value-invalid", "sqlite:///"),
        ('[database]\nurl = "sqlite:///x?mode=ro"', "config-value-invalid", "sqlite:///"),
        ("[ami]\nport = 0", "config-value-invalid", "1"),
        ('[ami]\nhost = "a b"', "config-value-invalid", "127.0.0.1"),
        ('[ami]\nusername = "a\\nAction: Originate"', "config-value-invalid", "plain text"),
        ('[ami]\nusername = "a\\u009b"', "config-value-invalid", "plain text"),
        ('[node]\nname = "a;b"', "config-value-invalid", "letters"),
        ('[control]\nsocket = "run/x"', "config-value-invalid", "/run/capconduit/control.sock"),
        (f'[control]\nsocket = "/{"x" * 107}"', "config-value-invalid", "shorter"),
        ('[asterisk]\nconfig_dir = "etc"', "config-value-invalid", "/etc/asterisk"),
        ("[asterisk]\nfallback_cause = 128", "config-value-invalid", "127"),
        ('[asterisk]\nfallback_context = "a,b"', "config-value-invalid", "letters"),
        ("[log\n", "config-syntax", "quotes"),
    ],
)
def test_a_wrong_setting_is_an_error_with_the_next_step(home: Path, text: str, slug: str, near: str) -> None:
    error = refused(text, home)
    assert error.slug == slug
    assert error.exit_code is ExitCode.USAGE
    assert near in error.hint
    assert "some.toml" in error.message
    assert all(line.isprintable() for line in (error.message, error.hint))


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("CAPCONDUIT_FASTAGI__LISTN", "x", "CAPCONDUIT_FASTAGI__LISTEN"),
        ("CAPCONDUIT_FASTAGI__DEADLINE_MS", "soon", "deadline_ms = 250"),
        ("CAPCONDUIT_FASTAGI__DEADLINE_MS", "", "deadline_ms = 250"),
        ("CAPCONDUIT_FASTAGI__DEADLINE_MS", "1_000", "deadline_ms = 250"),
        ("CAPCONDUIT_LOG__LEVEL", "INFO", "choose debug"),
    ],
)
def test_a_wrong_variable_is_an_error_that_names_it(home: Path, variable: str, value: str, expected: str) -> None:
    error = refused("", home, **{variable: value})
    assert variable in error.message
    assert expected in error.hint


def test_a_file_that_is_no_text_or_too_large_is_an_error(home: Path) -> None:
    latin = home / "latin.toml"
    latin.write_bytes(b'[node]\nname = "caf\xe9"\n')
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(latin, environment(home))
    large = written(home / "large.toml", "#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger"):
        load_config(large, environment(home))
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(home, environment(home))


def test_nobody_can_change_a_loaded_configuration(home: Path) -> None:
    config = load("", home)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.fastagi.deadline_ms = 1  # type: ignore[misc]  # that it is refused is what is tested


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:4573", ("127.0.0.1", 4573)),
        ("[::1]:4573", ("::1", 4573)),
        ("pbx.example.net:0", ("pbx.example.net", 0)),
    ],
)
def test_addresses_are_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


# What empty values stand for


def test_empty_values_get_what_this_machine_has(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capconduit.config.os.geteuid", lambda: 1_000)
    monkeypatch.setattr("capconduit.config.os.uname", lambda: os.uname_result(("", "pbx_1.example.net", "", "", "")))
    config = load_config(None, environment(home))
    state = home / ".local" / "state" / "capconduit"
    assert config.database.url == f"sqlite://{state}/capconduit.sqlite"
    assert config.database.sqlite_path == state / "capconduit.sqlite"
    assert config.control.socket == str(state / "control.sock")
    assert config.node.name == "pbx_1"
    assert not (home / ".local").exists(), "reading a configuration creates nothing"


def test_root_and_its_services_agree_on_the_places(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capconduit.config.os.geteuid", lambda: 0)
    service = load_config(None, {})
    login = load_config(None, environment(home, XDG_RUNTIME_DIR="/run/user/0"))
    assert service.control.socket == login.control.socket == "/run/capconduit/control.sock"
    assert service.database.url == login.database.url == "sqlite:///var/lib/capconduit/capconduit.sqlite"


def test_the_xdg_directories_are_respected_when_absolute(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capconduit.config.os.geteuid", lambda: 1_000)
    assert state_dir({"XDG_STATE_HOME": "/s"}) == Path("/s/capconduit")
    assert state_dir({"XDG_STATE_HOME": "s", "HOME": "/h"}) == Path("/h/.local/state/capconduit")
    config = load_config(None, environment(home, XDG_RUNTIME_DIR="/run/user/1000"))
    assert config.control.socket == "/run/user/1000/capconduit/control.sock"


def test_a_sqlite_url_names_one_file_however_many_slashes(home: Path) -> None:
    assert load('[database]\nurl = "sqlite:////var/x.sqlite"', home).database.sqlite_path == Path("/var/x.sqlite")
    assert load('[database]\nurl = "postgresql://h/x"', home).database.sqlite_path is None


def test_ami_is_on_only_with_a_host_and_a_secret(home: Path) -> None:
    assert not load("", home).ami.enabled
    assert load('[ami]\nsecret = "env:X"', home).ami.enabled
    assert not load('[ami]\nsecret = "env:X"\nhost = ""', home).ami.enabled


# Secrets


def test_a_plain_secret_is_refused_and_never_repeated(home: Path) -> None:
    for error in (
        refused('[ami]\nsecret = "hunter2"', home),
        refused("", home, CAPCONDUIT_AMI__SECRET="hunter2"),
        refused('[ami]\nsecret = "file:hunter2"', home),
    ):
        assert "hunter2" not in error.message + error.hint
        assert "env:NAME" in error.hint
    with pytest.raises(ConfigError) as caught:
        resolve_secret("hunter2", {})
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_secrets_are_read_from_the_environment_or_a_file(home: Path) -> None:
    assert resolve_secret("env:AMI", {"AMI": "s3cret"}) == "s3cret"
    file = written(home / "ami.secret", "s3cret \n")
    assert resolve_secret(f"file:{file}", {}) == "s3cret ", "only the final newline is no part of it"


@pytest.mark.parametrize("content", ["", "\n", "a\nAction: Command", "a\0b", "x" * 5_000])
def test_a_secret_that_would_break_ami_is_refused(home: Path, content: str) -> None:
    file = written(home / "ami.secret", content)
    with pytest.raises(ConfigError) as caught:
        resolve_secret(f"file:{file}", {})
    assert caught.value.slug in ("secret-missing", "secret-invalid")
    assert "Action" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("reference", ["", "env:", "env:NOT_SET", "file:/nowhere/at/all", "file:relative"])
def test_a_secret_that_is_not_there_is_a_configuration_error(reference: str) -> None:
    with pytest.raises(ConfigError):
        resolve_secret(reference, {})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h/x", "postgresql://u:***@h/x"),
        ("postgresql://u:p@ss/w:rd@h/x", "postgresql://u:***@h/x"),
        ("postgresql://h/x?user=u&password=p&sslmode=require", "postgresql://h/x?user=u&password=***&sslmode=require"),
        ("sqlite:///var/x.sqlite", "sqlite:///var/x.sqlite"),
        (5, 5),
    ],
)
def test_passwords_in_urls_are_starred(url: object, shown: object) -> None:
    assert mask(url) == shown


def test_an_error_about_a_url_stars_its_password(home: Path) -> None:
    assert "hunter2" not in refused('[database]\nurl = "mysql://u:hunter2@h/x"', home).message


# Declarations and the example


def test_the_example_is_generated_and_complete() -> None:
    text = (REPOSITORY / "config.example.toml").read_text("utf-8")
    assert text == render_example(), "run python -m capconduit_cli.docgen --write"
    for section in SECTIONS:
        assert f"[{section}]\n" in text
    for key in KEYS.values():
        assert f"#{key.name} = " in text, key.dotted


def test_the_example_changes_nothing_when_used(home: Path) -> None:
    assert parse_config(render_example(), "example") == {}


def test_the_example_with_its_comment_signs_removed_is_the_defaults() -> None:
    lines = [line.removeprefix("#") if line[1:2].strip() else line for line in render_example().splitlines()]
    assert parse_config("\n".join(lines), "example") == {key.dotted: key.default for key in KEYS.values()}


def test_a_written_configuration_reads_back_as_it_was(home: Path) -> None:
    before = load(
        '[ami]\nusername = "a \\"quoted\\" \\\\ name"\n[log]\nlevel = "debug"\n[limits]\nwarning_ms = 5000\n', home
    )
    after = load(render_example(before), home)
    assert {key: after.get(key) for key in KEYS} == {key: before.get(key) for key in KEYS}


def test_every_key_is_described_and_keeps_its_own_rule() -> None:
    for key in KEYS.values():
        assert key.help.endswith("."), key.dotted
        assert key.default != "" or key.empty, f"{key.dotted}: say what an empty value stands for"
        if key.check is not None:
            key.check(key.default)
    assert len({key.variable for key in KEYS.values()}) == len(KEYS)


def test_where_stir_is_read_is_configured_and_rendered(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[asterisk]\nstir = "headers"\nstir_verdict_header = "X-My-Verdict"\n')
    context = render_context(load_config(path, {}), (), {"CAPCONDUIT_AMI_SECRET": "s"})
    assert (context.stir, context.stir_verdict_header) == ("headers", "X-My-Verdict")
    path.write_text('[asterisk]\nstir_verdict_header = "X Bad:"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert "X Bad:" in str(caught.value)
