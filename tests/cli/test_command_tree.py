"""Habits that hold for every command there is: a command that is added without them fails here."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from capconduit.errors import ExitCode
from capconduit_cli.app import NOUNS
from capconduit_cli.output import Column
from tests.cli.command_tree import Leaf, Prepared, at_home, leaves, parsed
from tests.cli.estate import contents
from tests.cli.runner import Result, clean_environment, run
from tests.cli.test_json_keys import EVERYWHERE, sections

ALL: Final = {leaf.path: leaf for leaf in leaves()}

# Verbs that change nothing. Every other one has --dry-run.
READING: Final = {
    "list", "show", "path", "check", "usage", "verify", "ledger", "statement", "export", "tail", "watch", "backup",
    "test", "try", "rules", "deliveries",
}  # fmt: skip
# Commands of their own that change nothing of the estate, or are no matter of rehearsing; with the reason.
NO_DRY_RUN: Final = {
    "demo": "works in a directory of its own",
    "doctor": "reads",
    "help": "reads",
    "explain": "reads",
    "route": "reads",
    "find": "reads",
    "export": "reads",
    "plan": "is a dry run",
    "render": "has --check and --diff",
    "serve": "is the daemon",
    "reload": "makes the daemon read again what is there",
    "status": "reads",
    "top": "is a screen; what it changes is asked for there",
    "db copy": "writes another database, which must be empty",
}
# Not run here: they do not end by themselves, or speak with what is not there.
NOT_RUN: Final = {
    "demo", "serve", "top", "install", "rollback", "call watch", "event tail", "provider test", "agent try",
    "notification test", "webhook test", "target test", "drain", "reload", "doctor", "call hangup", "status",
}  # fmt: skip
MUST_ASK: Final = {"remove", "prune", "restore", "undo", "revoke"}
REHEARSED: Final = 2  # examples of a command that are carried out once more as a dry run
LIST_OPTIONS: Final = {"--output", "--json", "--fields", "--sort", "--filter", "--limit"}
HEAVY: Final = {
    "textual", "sqlalchemy", "sqlmodel", "panoramisk", "psycopg", "httpx", "pydantic", "rich", "jinja2", "pyarrow",
    "phonenumbers", "sqlite3",
}  # fmt: skip
# The names of the prepared estate by what an argument calls them, and how they are mistyped.
TYPOS: Final = {
    "SELLER": ("acme", "acm"), "RATE": ("std", "sdt"), "TRUNK": ("carrier", "carier"), "CAMPAIGN": ("solar", "solr"),
    "TARGET": ("buyer1", "buyr1"), "SCHEDULE": ("office", "ofice"),
}  # fmt: skip
# An absolute path of the machine, alone or behind a reference or URL: examples name such.
MACHINE: Final = re.compile(r"^((?:file:|sqlite://)?)(/(?:var|etc|srv|tmp|root|home|opt|run|usr)/)")
USAGE_ERRORS: Final = re.compile(r"\[(option-|argument-|command-|value-invalid|usage)")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The prepared estate; the machine's own configuration is out of reach while there is one."""
    home = tmp_path_factory.mktemp("shop")
    with at_home(home):
        yield Prepared(home)


@pytest.fixture
def prepared(shop: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """The prepared estate, and a working directory that nothing else is in."""
    monkeypatch.chdir(tmp_path)
    return shop


def carried_out(prepared: Prepared, argv: list[str]) -> Result:
    """A command line on the estate as it was prepared; Asterisk's files and the daemon's socket are nobody's, and the
    machine's directories are not touched."""
    home = prepared.anew()
    Path("estate.toml").write_text("", "utf-8")
    env = {
        "CAPCONDUIT_ASTERISK__CONFIG_DIR": str(home / "asterisk"),
        "CAPCONDUIT_CONTROL__SOCKET": str(home / "no.sock"),
        "CAPCONDUIT_MAIL__SENDMAIL": "/bin/false",
    }
    moved = [MACHINE.sub(rf"\1{home}\2", word).replace("db.example.net", "127.0.0.1:1") for word in argv]
    for word, before in zip(moved, argv, strict=True):
        if word != before and word.startswith("/"):
            Path(word).parent.mkdir(parents=True, exist_ok=True)
    return run(*moved, home=home, env=env)


def shown(prepared: Prepared, argv: list[str]) -> Result:
    """The same for an example, which is run once for all tests that look at it."""
    line = " ".join(argv)
    if line not in prepared.ended:
        prepared.ended[line] = carried_out(prepared, argv)
    return prepared.ended[line]


def rehearsed(leaf: Leaf, argv: list[str]) -> list[str]:
    """The same with --dry-run, which stands before what `--` ends the options with."""
    if "--dry-run" in argv:
        return argv
    at = argv.index(leaf.noun) + (2 if leaf.verb else 1)
    return [*argv[:at], "--dry-run", *argv[at:]]


def reads(leaf: Leaf) -> bool:
    """Whether it changes nothing."""
    return leaf.verb in READING or leaf.noun == "report"


def every(*, runs: bool = False) -> list[object]:
    return [pytest.param(leaf, id=path) for path, leaf in ALL.items() if not (runs and path in NOT_RUN)]


@pytest.mark.parametrize("leaf", every())
def test_every_example_is_a_command_line_that_can_be_read(leaf: Leaf) -> None:
    assert leaf.examples, "there is no example"
    for argv in leaf.examples:
        context = parsed(argv)
        called = [leaf.noun, leaf.verb] if leaf.verb else [leaf.noun]
        assert context.command_path.split()[1:] == called, argv


@pytest.mark.parametrize("leaf", every(runs=True))
def test_every_example_runs_on_an_estate_that_has_its_names(prepared: Prepared, leaf: Leaf) -> None:
    for argv in leaf.examples:
        result = shown(prepared, argv)
        assert not USAGE_ERRORS.search(result.err), f"{argv}: {result.err}"
        assert result.code != ExitCode.BUG, f"{argv}: {result.err}"
        assert result.code != ExitCode.DATABASE or leaf.path == "db copy", f"{argv}: {result.err}"
        assert "Traceback" not in result.err
        if result.code == ExitCode.DONE and "--json" in argv:
            json.loads(result.out)


def test_most_examples_do_what_they_show(prepared: Prepared) -> None:
    told: dict[str, Result] = {}
    for leaf in leaves():
        if leaf.path not in NOT_RUN:
            told |= {" ".join(argv): shown(prepared, argv) for argv in leaf.examples}
    failed = [f"{line}\n   {result.err}" for line, result in told.items() if result.code not in (0, 6)]
    # Some add what is there, remove what is in use, or name a call, an entry or a file of their reader's.
    assert len(failed) < len(told) * 0.3, "\n".join(failed)


@pytest.mark.parametrize("leaf", every())
def test_every_verb_that_changes_something_has_a_dry_run(leaf: Leaf) -> None:
    if leaf.path not in NO_DRY_RUN and not reads(leaf):
        assert "--dry-run" in leaf.options


@pytest.mark.parametrize("leaf", every(runs=True))
def test_a_dry_run_and_a_verb_that_reads_change_nothing(prepared: Prepared, leaf: Leaf) -> None:
    if "--dry-run" in leaf.options:
        lines = [rehearsed(leaf, argv) for argv in leaf.examples[:REHEARSED]]
    elif reads(leaf) and "--fix" not in leaf.options:
        lines = leaf.examples[:REHEARSED]
    else:
        return
    before = contents(prepared.anew())
    for argv in lines:
        result = carried_out(prepared, argv)
        assert contents(prepared.home) == before, argv
        assert result.code != ExitCode.BUG, result.err


@pytest.mark.parametrize("leaf", every(runs=True))
def test_what_asks_is_refused_without_a_terminal_and_changes_nothing(prepared: Prepared, leaf: Leaf) -> None:
    if leaf.verb in MUST_ASK:
        assert "--yes" in leaf.options
    if "--yes" not in leaf.options:
        return
    before = contents(prepared.anew())
    for argv in leaf.examples:
        bare = [word for word in argv if word not in ("--yes", "-y", "--dry-run")]
        result = carried_out(prepared, bare)
        if "[confirmation-needed]" in result.err:
            assert result.code == ExitCode.USAGE
            assert contents(prepared.home) == before, bare


def test_every_verb_that_must_ask_is_seen_to_ask(prepared: Prepared) -> None:
    asked = set()
    for leaf in leaves():
        if leaf.verb in MUST_ASK and leaf.path not in NOT_RUN:
            for argv in leaf.examples:
                bare = [word for word in argv if word not in ("--yes", "-y", "--dry-run")]
                if "[confirmation-needed]" in carried_out(prepared, bare).err:
                    asked.add(leaf.path)
    assert {"seller remove", "target remove", "db prune"} & asked


@pytest.mark.parametrize("leaf", [p for p in every() if p.values[0].verb == "list"])  # type: ignore[attr-defined]
def test_every_list_is_sorted_filtered_cut_and_limited_alike(leaf: Leaf) -> None:
    assert leaf.options >= LIST_OPTIONS


def test_every_noun_that_prints_json_is_documented_with_all_of_its_keys() -> None:
    nouns = {leaf.noun for leaf in leaves() if "--json" in leaf.options}
    assert nouns <= set(sections()), "docs/json.md has no section for them"
    for noun in nouns:
        module = importlib.import_module(f"capconduit_cli.commands.{noun}")
        tables = [value for name, value in vars(module).items() if name.endswith("COLUMNS")]
        keys = {column.key for table in tables for column in table if isinstance(column, Column)} - EVERYWHERE
        assert tables, f"{noun} declares no columns"
        missing = {key for key in keys if f"`{key}`" not in sections()[noun]}
        assert not missing, f"docs/json.md does not tell of {noun}: {missing}"


def _typed(argv: list[str]) -> list[tuple[list[str], str]]:
    """The same command line with each name of the estate mistyped in turn, and the name that was meant."""
    context = parsed(argv)
    lines = []
    for param in context.command.params:
        right, wrong = TYPOS.get(param.metavar or "", ("", ""))
        if right and context.params.get(param.name or "") == right and param.param_type_name == "argument":
            lines.append(([wrong if word == right else word for word in argv], right))
    return lines


@pytest.mark.parametrize("leaf", every(runs=True))
def test_a_mistyped_name_offers_the_nearest(prepared: Prepared, leaf: Leaf) -> None:
    if leaf.verb == "add":
        return  # its name is a new one
    first = {right: argv for example in reversed(leaf.examples) for argv, right in _typed(example)}
    for right, argv in first.items():
        result = carried_out(prepared, argv)
        assert result.code == ExitCode.REFUSED, f"{argv}: {result.err}"
        assert f"did you mean '{right}'" in result.err.splitlines()[1], f"{argv}: {result.err}"


@pytest.mark.parametrize("leaf", every())
def test_a_mistyped_option_offers_the_nearest(tmp_path: Path, leaf: Leaf) -> None:
    option = max((o for o in leaf.options if o.startswith("--")), key=len, default="")
    if len(option) < 6:
        return
    typed = option[:-2] + option[-1]
    if typed in leaf.options:
        return
    result = run(*leaf.path.split(), typed, home=tmp_path)
    assert result.code == ExitCode.USAGE
    assert "did you mean '--" in result.err, result.err


def test_no_help_imports_anything_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, io, contextlib; from capconduit_cli.__main__ import main\n"
        f"heavy = {sorted(HEAVY)!r}\n"
        "for line in sys.argv[1:]:\n"
        "    with contextlib.redirect_stdout(io.StringIO()): code = main([*line.split(), '--help'])\n"
        "    loaded = sorted(m for m in heavy if m in sys.modules)\n"
        "    if code or loaded: sys.exit(f'{line}: {code} {loaded}')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *ALL], env=clean_environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_every_noun_is_in_the_loops() -> None:
    assert {leaf.noun for leaf in leaves()} == {noun.name for noun in NOUNS}
    assert set(NO_DRY_RUN) | NOT_RUN, "the exceptions are few"
    assert len(ALL) > 100
