"""`init`: what it writes, that it never overwrites, and that it is safe twice."""

from __future__ import annotations

import os
import stat
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from capconduit.config import load_config
from capconduit.errors import ExitCode, Refused
from capconduit_cli.app import CliState
from capconduit_cli.commands.init import Plan, carry_out, make_plan, write_new
from tests.cli.estate import contents, database, done
from tests.cli.runner import Result, clean_environment, run
from tests.cli.terminal import END_OF_FILE, INTERRUPT, Terminal, terminal


def config_file(home: Path) -> Path:
    return home / "chosen" / "config.toml"


def init(home: Path, *argv: str) -> Result:
    return run("--config", str(config_file(home)), "init", *argv, home=home)


def files(home: Path) -> dict[str, bytes]:
    return {str(p.relative_to(home)): p.read_bytes() for p in home.rglob("*") if p.is_file()}


def test_init_writes_a_config_that_loads_a_secret_and_a_database(home: Path) -> None:
    result = init(home, "--yes")
    assert result.code == ExitCode.DONE, result.err
    assert result.out == ""
    text = config_file(home).read_text("utf-8")
    assert "# Address and port on which Asterisk reaches the daemon." in text
    config = load_config(config_file(home), clean_environment(home))
    secret = home / "state" / "capconduit" / "ami.secret"
    assert config.ami.secret == f"file:{secret}"
    assert len(secret.read_text("ascii").strip()) >= 24
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(config_file(home).stat().st_mode) == 0o644
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(database(home).stat().st_mode) == 0o600
    assert [row[1] for row in contents(home)["tenant"]] == ["default"]
    run_check = run("--config", str(config_file(home)), "config", "check", home=home)
    assert run_check.code == ExitCode.DONE, run_check.err


def test_init_ends_with_three_commands_that_work(home: Path) -> None:
    told = init(home, "--yes").err
    next_commands = [line.strip() for line in told.splitlines() if line.startswith("  capconduit")]
    assert len(next_commands) == 3
    for line in next_commands:
        argv = line.replace("'first payment'", "payment").split()[1:]
        assert run(*argv, home=home).code == ExitCode.DONE, line


def test_a_second_init_changes_nothing(home: Path) -> None:
    init(home, "--yes")
    before, rows = files(home), contents(home)
    again = init(home)
    assert again.code == ExitCode.DONE, again.err
    assert "everything is there" in again.err
    assert {name: text for name, text in files(home).items() if "sqlite" not in name} == {
        name: text for name, text in before.items() if "sqlite" not in name
    }
    assert contents(home) == rows


def test_a_config_that_is_there_is_kept_and_only_what_it_needs_is_made(home: Path) -> None:
    config_file(home).parent.mkdir()
    config_file(home).write_text('# mine\n[log]\nlevel = "debug"\n', "utf-8")
    result = init(home, "--yes")
    assert result.code == ExitCode.DONE, result.err
    assert config_file(home).read_text("utf-8") == '# mine\n[log]\nlevel = "debug"\n'
    assert database(home).exists()
    assert not (home / "state" / "capconduit" / "ami.secret").exists(), "its configuration has no AMI secret"


def test_a_secret_that_was_lost_is_made_again(home: Path) -> None:
    init(home, "--yes")
    secret = home / "state" / "capconduit" / "ami.secret"
    secret.unlink()
    assert init(home, "--yes").code == ExitCode.DONE
    assert secret.exists()


def test_a_secret_that_is_there_is_kept(home: Path) -> None:
    secret = home / "state" / "capconduit" / "ami.secret"
    secret.parent.mkdir(parents=True)
    secret.write_text("kept\n", "ascii")
    assert init(home, "--yes").code == ExitCode.DONE
    assert secret.read_text("ascii") == "kept\n"


def test_a_file_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "config.toml"
    place.write_text("mine\n", "utf-8")
    with pytest.raises(Refused, match="meanwhile"):
        write_new(place, "theirs\n", 0o644)
    assert place.read_text("utf-8") == "mine\n"
    assert list(tmp_path.iterdir()) == [place]


def test_a_password_in_the_database_url_makes_the_config_private(home: Path) -> None:
    plan = make_plan(CliState(config_file(home)), clean_environment(home), {})
    url = "postgresql://capconduit:secret@127.0.0.1/x"  # never asked: only what is written about it
    carry_out(replace(plan, database_url=url, migrations=[], needs_tenant=False))
    assert stat.S_IMODE(config_file(home).stat().st_mode) == 0o600
    assert "postgresql://capconduit:***@" in " ".join(plan_of(plan, url))


def plan_of(plan: Plan, url: str) -> list[str]:
    """What a person is told of a plan with another database."""
    return replace(plan, database_url=url).steps()


def test_without_a_terminal_and_without_yes_nothing_is_written(home: Path) -> None:
    result = init(home)
    assert result.code == ExitCode.USAGE
    assert "[confirmation-needed]" in result.err
    assert files(home) == {}


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(home: Path) -> None:
    result = init(home, "--dry-run")
    assert result.code == ExitCode.DONE, result.err
    for word in (str(config_file(home)), "ami.secret", "0001_initial", "nothing was changed"):
        assert word in result.err
    assert files(home) == {}


def test_options_go_into_the_config(home: Path) -> None:
    url = f"sqlite://{home}/data/mine.sqlite"
    assert init(home, "--yes", "--database-url", url, "--node", "pbx7").code == ExitCode.DONE
    config = load_config(config_file(home), clean_environment(home))
    assert (config.database.url, config.node.name) == (url, "pbx7")
    assert (home / "data" / "mine.sqlite").exists()
    assert not database(home).exists()
    assert init(home, "--database-url", url, "--node", "pbx7").code == ExitCode.DONE, "the same again is no conflict"


def test_options_that_the_config_contradicts_are_refused(home: Path) -> None:
    init(home, "--yes", "--node", "pbx7")
    before = files(home)
    result = init(home, "--yes", "--node", "pbx8")
    assert result.code == ExitCode.REFUSED
    assert "[config-exists]" in result.err
    assert "pbx7" in result.err
    assert "capconduit config set node.name" in result.err
    assert files(home) == before


@pytest.mark.parametrize(
    ("option", "value"),
    [("--database-url", "mysql://db"), ("--database-url", "sqlite:///"), ("--node", "a b"), ("--node", "x" * 33)],
)
def test_wrong_options_are_refused_before_anything_is_written(home: Path, option: str, value: str) -> None:
    result = init(home, "--yes", option, value)
    assert result.code == ExitCode.USAGE
    assert "[config-value-invalid]" in result.err
    assert files(home) == {}


def test_a_database_that_cannot_be_asked_leaves_nothing_behind(home: Path) -> None:
    result = init(home, "--yes", "--database-url", "postgresql://nobody@127.0.0.1:1/none?connect_timeout=2")
    assert result.code == ExitCode.DATABASE, result.err
    assert files(home) == {}


def test_without_a_named_file_the_config_goes_to_the_users_place(home: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(home / "xdg")}
    assert run("init", "--yes", home=home, env=env).code == ExitCode.DONE
    assert (home / "xdg" / "capconduit" / "config.toml").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="root's place is only root's")
def test_roots_config_goes_to_etc(home: Path) -> None:
    assert done("init", "--yes", home=home).code == ExitCode.DONE
    assert (home / "etc" / "config.toml").exists()  # where the fixture moved /etc/capconduit/config.toml


def test_a_config_in_the_working_directory_is_the_one_in_force(home: Path) -> None:
    Path("capconduit.toml").write_text('[node]\nname = "here"\n', "utf-8")
    assert done("init", "--yes", home=home).code == ExitCode.DONE
    assert not (home / "etc").exists()
    assert not (home / ".config").exists()


def test_the_database_is_where_the_config_says_whatever_the_working_directory_is(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init(home, "--yes")
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert run("--config", str(config_file(home)), "seller", "list", home=home).code == ExitCode.DONE
    assert list(elsewhere.iterdir()) == []


# On a terminal --------------------------------------------------------------------------------------------------------


def asked(home: Path, *argv: str) -> AbstractContextManager[Terminal]:
    return terminal(home, "--config", str(config_file(home)), "init", *argv, columns=200)


def test_on_a_terminal_it_asks_for_what_it_needs_and_ends_with_the_next_commands(home: Path) -> None:
    with asked(home) as shown:
        shown.expect(f"Database (sqlite:///file, or postgresql://user@host/name for several machines) [sqlite://{home}")
        shown.type("mysql://x\n")
        shown.expect("'mysql://x'")
        shown.type(f"sqlite://{home}/data/mine.sqlite\n")
        shown.expect("Name of this machine [")
        shown.type("pbx7\n")
        shown.expect("Where AMI's secret is")
        shown.type("plain text\n")
        shown.expect("Where AMI's secret is")
        shown.type(f"file:{home}/keys/ami\n")
        shown.expect("Directory of Asterisk's configuration [/etc/asterisk]")
        shown.type("\n")
        shown.expect("Do this? [Y/n]")
        assert files(home) == {}, "everything is asked before anything is written"
        shown.type("y\n")
        assert shown.end() == ExitCode.DONE
    config = load_config(config_file(home), clean_environment(home))
    assert (config.database.url, config.node.name) == (f"sqlite://{home}/data/mine.sqlite", "pbx7")
    assert (config.ami.secret, config.asterisk.config_dir) == (f"file:{home}/keys/ami", "/etc/asterisk")
    assert stat.S_IMODE((home / "keys" / "ami").stat().st_mode) == 0o600
    assert (home / "data" / "mine.sqlite").exists()
    assert shown.plain.count("  capconduit --config") == 3


def test_what_an_option_says_is_not_asked_and_yes_asks_nothing(home: Path) -> None:
    with asked(home, "--node", "pbx7", "--database-url", f"sqlite://{home}/m.sqlite", "--ami-secret", "env:X") as shown:
        shown.expect("Directory of Asterisk's configuration")
        shown.type("\n")
        shown.expect("Do this?")
        assert "Name of this machine" not in shown.plain
        shown.type("n\n")
        assert shown.end() == ExitCode.REFUSED
    assert files(home) == {}
    with asked(home, "--yes") as shown:
        assert shown.end() == ExitCode.DONE
    assert "?" not in shown.plain
    with asked(home) as again:
        assert again.end() == ExitCode.DONE, "what is there needs no answer"


def test_enter_throughout_does_it(home: Path) -> None:
    with asked(home) as shown:
        for question in ("Database", "Name of", "Where AMI", "Directory of", "Do this? [Y/n]"):
            shown.expect(question)
            shown.type("\n")
        assert shown.end() == ExitCode.DONE, shown.plain
    assert config_file(home).exists()


@pytest.mark.parametrize("key", [INTERRUPT, END_OF_FILE])
@pytest.mark.parametrize("question", ["Database", "Name of", "Directory of", "Do this?"])
def test_leaving_at_any_question_leaves_nothing(home: Path, question: str, key: str) -> None:
    with asked(home) as shown:
        for one in ("Database", "Name of", "Where AMI", "Directory of", "Do this?"):
            shown.expect(one)
            if one == question:
                shown.type(key)
                break
            shown.type("\n")
        assert shown.end() == (ExitCode.INTERRUPTED if key == INTERRUPT else ExitCode.REFUSED), shown.plain
    assert files(home) == {}
    assert "Traceback" not in shown.plain


@pytest.mark.parametrize("step", ["capconduit_cli.commands.init.write_new", "capconduit_cli.commands.init._prepare"])
def test_interrupted_between_two_steps_a_second_run_does_what_is_missing(
    home: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    with monkeypatch.context() as patch:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(step, interrupted)
        assert init(home, "--yes").code == ExitCode.INTERRUPTED
    assert not [name for name in files(home) if Path(name).name.startswith(".")], "nothing half is left"
    assert init(home, "--yes").code == ExitCode.DONE
    assert run("--config", str(config_file(home)), "config", "check", home=home).code == ExitCode.DONE
    assert contents(home)["tenant"]


def test_a_secret_that_a_reference_names_is_made_and_one_of_the_environment_is_not(home: Path) -> None:
    assert init(home, "--yes", "--ami-secret", "env:MY_SECRET").code == ExitCode.DONE
    assert load_config(config_file(home), clean_environment(home)).ami.secret == "env:MY_SECRET"
    assert not [name for name in files(home) if name.endswith("ami.secret")]
    refused = init(home, "--yes", "--ami-secret", f"file:{home}/other")
    assert (refused.code, "[config-exists]" in refused.err) == (ExitCode.REFUSED, True)


@pytest.mark.parametrize("option", [("--ami-secret", "hunter2"), ("--asterisk-dir", "etc")])
def test_a_secret_itself_and_a_relative_directory_are_refused(home: Path, option: tuple[str, str]) -> None:
    result = init(home, "--yes", *option)
    assert result.code == ExitCode.USAGE
    assert "hunter2" not in result.err
    assert files(home) == {}
