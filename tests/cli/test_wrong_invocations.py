"""A hundred wrong invocations: each with its exit code, one clear message, no traceback, and nothing changed."""

from __future__ import annotations

import os
import resource
import shlex
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from capconduit.errors import ExitCode
from tests.cli.command_tree import Prepared, at_home
from tests.cli.estate import change, contents, database, engine
from tests.cli.runner import Result, clean_environment, run, run_process
from tests.store_contract.conftest import PostgresServer

REFUSED, USAGE, DATABASE, PEER = ExitCode.REFUSED, ExitCode.USAGE, ExitCode.DATABASE, ExitCode.PEER
HUGE = "9" * 40
LONG = "x" * 5_000

# Command lines as a shell would split them; what stands in angle brackets is replaced (see `words`).
WRONG: tuple[tuple[str, ExitCode, str], ...] = (
    # No such command, option, or number of arguments.
    ("selller list", USAGE, "command-unknown"),
    ("seller lst", USAGE, "command-unknown"),
    ("<long>", USAGE, "command-unknown"),
    ("seller list --colour", USAGE, "option-unknown"),
    ("seller list -q", USAGE, "option-unknown"),
    ("seller list --tenant default", USAGE, "option-unknown"),
    ("seller show", USAGE, "argument-missing"),
    ("seller show acme beta", USAGE, "argument-unexpected"),
    ("seller list --limit", USAGE, "option-usage"),
    ("seller add acme2 --json=yes", USAGE, "option-usage"),
    ("rule add solar", USAGE, "argument-missing"),
    ("help me", USAGE, "topic-unknown"),
    # Wrong types.
    ("seller list --limit ten", USAGE, "value-invalid"),
    ("seller list --limit 0", USAGE, "value-invalid"),
    ("seller list --limit -1", USAGE, "value-invalid"),
    ("seller list -o xml", USAGE, "value-invalid"),
    ("seller list --json -o csv", USAGE, "output-conflict"),
    ("seller list --fields name,nope", USAGE, "field-unknown"),
    ("seller list --fields ''", USAGE, "field-unknown"),
    ("seller list --sort nope", USAGE, "field-unknown"),
    ("seller list --filter name", USAGE, "filter-invalid"),
    ("seller list --filter nope=1", USAGE, "field-unknown"),
    ("seller list --filter balance=much", USAGE, "amount-invalid"),
    ("balance add acme much --reason x", USAGE, "amount-invalid"),
    ("balance add acme 1.2345678 --reason x", USAGE, "amount-invalid"),
    ("balance add acme 1,50 --reason x", USAGE, "amount-invalid"),
    ("balance add acme 0x10 --reason x", USAGE, "amount-invalid"),
    ("balance add acme <huge> --reason x", USAGE, "amount-invalid"),
    ("balance add acme '5 EUR' --reason x", USAGE, "currency-mismatch"),
    ("balance add acme 0 --reason x", USAGE, "amount-invalid"),
    ("balance add acme 5 --reason ''", USAGE, "reason-missing"),
    ("balance add acme 5 --reason <long>", USAGE, "text-too-long"),
    ("balance add acme 5", USAGE, "argument-missing"),
    ("cdr list --since yesterdy", USAGE, "time-invalid"),
    ("cdr list --since 2026-13-01", USAGE, "time-invalid"),
    ("cdr list --until 9999-01-01", USAGE, "time-out-of-range"),
    ("cdr list --reject cap_reachd", USAGE, "reject-unknown"),
    ("cdr export -o xls", USAGE, "value-invalid"),
    ("cdr prune --before -1h --yes", USAGE, "before-too-young"),
    ("db prune --before -1h --yes", USAGE, "before-too-young"),
    ("route not-a-number", USAGE, "number-invalid"),
    ("route +18005550100 --at noon", USAGE, "time-invalid"),
    ("route +18005550100 --given balance", USAGE, "given-invalid"),
    ("target add t9 --kind pjsip --address 'sip:a b@c'", USAGE, "address-invalid"),
    ("target add t9 --kind sip --address sip:a@127.0.0.1", USAGE, "value-invalid"),
    ("target add t9 --address sip:a@127.0.0.1 --ring long", USAGE, "duration-invalid"),
    ("target add t9 --address sip:a@127.0.0.1 --ring <huge>", USAGE, "duration-invalid"),
    ("trunk add t9 --kind pjsip --host 127.0.0.1 --port 99999", USAGE, "port-invalid"),
    ("trunk add t9 --kind pjsip --host 'a b'", USAGE, "host-invalid"),
    ("rate add r9 --per-minute 0.20 --increment 60", USAGE, "increment-invalid"),
    ("rate add r9 --per-minute 0.20 --increment 0/0", USAGE, "increment-invalid"),
    ("rate add r9 --per-minute -1", USAGE, "amount-invalid"),
    ("campaign add c9 --seller acme --rate std --strategy fastest", USAGE, "value-invalid"),
    ("campaign set solar", USAGE, "nothing-to-set"),
    ("rule add solar buyer1 --priority first", USAGE, "value-invalid"),
    ("rule add solar buyer1 --weight <huge>", USAGE, "value-invalid"),
    ("cap set campaign solar --billable 200", USAGE, "limit-invalid"),
    ("cap set campaign solar --billable 200/fortnight", USAGE, "limit-invalid"),
    ("cap set campaign solar --billable <huge>/day", USAGE, "limit-invalid"),
    ("cap set campaign solar --concurrent -1", USAGE, "limit-invalid"),
    ("cap set campaign solar --concurrent 5/day", USAGE, "limit-invalid"),
    ("cap set campaign solar --minutes 5/rolling:1y", USAGE, "limit-invalid"),
    ("cap set planet solar --concurrent 1", USAGE, "value-invalid"),
    ("cap set campaign solar", USAGE, "limit-missing"),
    ("schedule add s9 --hours 'someday 9-5'", USAGE, "hours-invalid"),
    ("block add <long>", USAGE, "pattern-invalid"),
    ("did add 12 --trunk carrier", USAGE, "number-invalid"),
    ("did add <long> --trunk carrier", USAGE, "number-invalid"),
    ("seller add s9 --currency DOLLARS", USAGE, "currency-invalid"),
    ("seller add s9 --timezone Mars/Olympus", USAGE, "timezone-invalid"),
    ("seller add ''", USAGE, "name-invalid"),
    ("seller add 'a b'", USAGE, "name-invalid"),
    ("seller add ../etc", USAGE, "name-invalid"),
    ("seller add <long>", USAGE, "name-invalid"),
    ("setting set cdr_keep_days many", USAGE, "setting-invalid"),
    ("setting set cdr_keep_days <huge>", USAGE, "setting-invalid"),
    ("config set log.level loud", USAGE, "config-value-invalid"),
    ("config set fastagi.listen nowhere", USAGE, "config-value-invalid"),
    ("config show nope.nope", USAGE, "config-key-unknown"),
    ("db copy --to mysql://127.0.0.1/x", USAGE, "database-url-invalid"),
    # Unicode and control characters.
    ("seller add <control>", USAGE, "value-invalid"),
    ("seller add <bidi>", USAGE, "name-invalid"),
    ("seller add Æther", USAGE, "name-invalid"),
    ("seller add <surrogate>", USAGE, "value-invalid"),
    ("balance add acme 5 --reason <newline>", USAGE, "value-invalid"),
    ("balance add acme ５ --reason x", USAGE, "amount-invalid"),
    ("did add +1８005550100 --trunk carrier", REFUSED, "did-exists"),  # the same number in other digits
    ("cap set campaign solar --concurrent ９", USAGE, "limit-invalid"),
    # Names that are not there, or are.
    ("seller show acm", REFUSED, "seller-not-found"),
    ("campaign show solr", REFUSED, "campaign-not-found"),
    ("target show buyr1", REFUSED, "target-not-found"),
    ("trunk show carier", REFUSED, "trunk-not-found"),
    ("rate show sdt", REFUSED, "rate-not-found"),
    ("schedule show nope", REFUSED, "schedule-not-found"),
    ("did show +18005550999", REFUSED, "did-not-found"),
    ("call show nope", REFUSED, "call-not-found"),
    ("cdr show nope", REFUSED, "call-not-found"),
    ("explain nope", REFUSED, "call-not-found"),
    ("audit show nope", REFUSED, "audit-not-found"),
    ("balance correct nope 1 --reason x", REFUSED, "entry-not-found"),
    ("cdr list --seller acm", REFUSED, "seller-not-found"),
    ("cdr list --target buyr1", REFUSED, "target-not-found"),
    ("route +18005550100 --trunk carier", REFUSED, "trunk-not-found"),
    ("route +18005550100 --why-not buyr1", REFUSED, "target-not-found"),
    ("campaign add c9 --seller acm --rate std", REFUSED, "seller-not-found"),
    ("did assign +18005550100 solr", REFUSED, "campaign-not-found"),
    ("rule set solar buyer9 --priority 1", REFUSED, "target-not-found"),
    ("--tenant nobody seller list", REFUSED, "tenant-not-found"),
    ("seller add acme --currency USD", REFUSED, "seller-exists"),
    ("campaign add solar --seller acme --rate std", REFUSED, "campaign-exists"),
    ("did add +18005550100 --trunk carrier", REFUSED, "did-exists"),
    ("seller remove acme --yes", REFUSED, "seller-has-ledger"),
    ("campaign remove solar --yes", REFUSED, "campaign-in-use"),
    ("target remove buyer1 --yes", REFUSED, "target-in-use"),
    ("rate remove std --yes", REFUSED, "rate-in-use"),
    ("balance add acme -1000 --reason x", REFUSED, "not-enough-money"),
    # Questions that nobody is there to answer.
    ("rule remove solar buyer2", USAGE, "confirmation-needed"),
    ("block remove +12125550199", USAGE, "confirmation-needed"),
    ("db restore /dev/null", USAGE, "confirmation-needed"),
    # Files that are not there, or cannot be read or written.
    ("--config nothing.toml seller list", USAGE, "config-missing"),
    ("--config . seller list", USAGE, "config-unreadable"),
    ("plan -f nothing.toml", USAGE, "estate-unreadable"),
    ("apply -f nothing.toml --yes", USAGE, "estate-unreadable"),
    ("db restore nothing.backup --yes", USAGE, "backup-unreadable"),
    ("db backup /nowhere/at/all.backup", DATABASE, "backup-failed"),
    ("block add --from-file nothing.csv", USAGE, "file-failed"),
    # Peers that are away.
    ("status", PEER, "daemon-unreachable"),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    home = tmp_path_factory.mktemp("shop")
    with at_home(home):
        yield Prepared(home)


@pytest.fixture
def prepared(shop: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """The prepared estate; it is put back before each test, and the working directory is empty."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    shop.anew()
    return shop


def words(line: str) -> list[str]:
    """A line of the table as arguments."""
    stand_ins = {
        "<long>": LONG, "<huge>": HUGE, "<control>": "ac\x1b]0;me", "<bidi>": "ac\u202eme", "<surrogate>": "ac\udc80me",
        "<newline>": "one\ntwo",
    }  # fmt: skip
    split = shlex.split(line)
    for name, value in stand_ins.items():
        split = [word.replace(name, value) for word in split]
    return split


def away(home: Path) -> dict[str, str]:
    """A daemon that is not there."""
    return {"CAPCONDUIT_CONTROL__SOCKET": str(home / "no.sock")}


def told(result: Result) -> tuple[str, str]:
    """The one error and its slug; everything else about a failure is looked at."""
    lines = result.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, result.err
    assert lines[-2:] == [errors[0], *lines[lines.index(errors[0]) + 1 :]][-2:] or len(lines) == 1, result.err
    assert all(line.startswith(("error: ", "hint: ")) for line in lines[lines.index(errors[0]) :]), result.err
    assert len(errors[0]) < 7_000, "clear, not endless"
    assert errors[0].endswith("]"), errors[0]
    slug = errors[0].rsplit("[", 1)[1].rstrip("]")
    assert slug != "bug", result.err
    for text in (result.err, result.out):
        assert "Traceback" not in text
        assert not any(character in text for character in "\x1b\u202e\x07")
    return errors[0], slug


@pytest.mark.parametrize(("line", "code", "slug"), WRONG, ids=[line[:60] for line, _, _ in WRONG])
def test_a_wrong_invocation_says_what_is_wrong_and_changes_nothing(
    prepared: Prepared, line: str, code: ExitCode, slug: str
) -> None:
    before = contents(prepared.home)
    result = run(*words(line), home=prepared.home, env=away(prepared.home))
    assert result.code == code, result.err
    assert told(result)[1] == slug, result.err
    assert result.out == ""
    assert contents(prepared.home) == before


def test_there_are_a_hundred_of_them() -> None:
    assert len(WRONG) >= 100
    assert len({line for line, _, _ in WRONG}) == len(WRONG)


# Configuration --------------------------------------------------------------------------------------------------------

BROKEN: tuple[tuple[str, str], ...] = (
    ("[database\n", "config-syntax"),
    ("[database]\nurl = \n", "config-syntax"),
    ("[database]\nurl = 5\n", "config-value-invalid"),
    ("[database]\nurl = 'mysql://x'\n", "config-value-invalid"),
    ("[database]\nurls = 'x'\n", "config-key-unknown"),
    ("[databas]\nurl = 'x'\n", "config-section-unknown"),
    ("url = 'x'\n", "config-key-unknown"),
    ("[fastagi]\nlisten = 'x'\n", "config-value-invalid"),
    ("[ami]\nsecret = 'plain text'\n", "config-value-invalid"),
    ("[node]\nname = 'a\\u001b'\n", "config-value-invalid"),
    ("\x00", "config-syntax"),
)


@pytest.mark.parametrize(("text", "slug"), BROKEN)
def test_a_broken_configuration_stops_every_command_before_it_begins(prepared: Prepared, text: str, slug: str) -> None:
    Path("broken.toml").write_text(text, "utf-8")
    before = contents(prepared.home)
    for argv in (("seller", "list"), ("seller", "add", "s9"), ("init", "--yes"), ("db", "verify"), ("serve",)):
        result = run("--config", "broken.toml", *argv, home=prepared.home)
        assert result.code == USAGE, result.err
        assert told(result)[1].startswith("config-"), result.err
        assert "broken.toml" in result.err
        assert result.out == ""
    assert contents(prepared.home) == before
    assert slug.startswith("config-")


def test_bytes_that_are_no_text_and_a_file_too_large_are_told(prepared: Prepared) -> None:
    for content in (b"\xff\xfe\x00", b"#" * 2_000_000):
        Path("broken.toml").write_bytes(content)
        result = run("--config", "broken.toml", "seller", "list", home=prepared.home)
        assert (result.code, told(result)[1].startswith("config-")) == (USAGE, True), result.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_configuration_that_belongs_to_somebody_else_is_not_obeyed(prepared: Prepared) -> None:
    Path("capconduit.toml").write_text("[database]\nurl = 'sqlite:///tmp/theirs.sqlite'\n", "utf-8")
    os.chown("capconduit.toml", 65_534, 65_534)
    result = run("seller", "list", home=prepared.home)
    assert result.code == USAGE
    told(result)


def test_a_variable_that_overrides_nothing_is_told(prepared: Prepared) -> None:
    for name in ("CAPCONDUIT_DATABASE__URLS", "CAPCONDUIT_NOPE__URL"):
        result = run("seller", "list", home=prepared.home, env={name: "x"})
        assert result.code == USAGE
        assert name in told(result)[0]


# The database ---------------------------------------------------------------------------------------------------------

COMMANDS = (
    ("seller", "list"), ("seller", "add", "s9"), ("balance", "add", "acme", "1", "--reason", "x"), ("db", "verify"),
    ("db", "prune"), ("cdr", "list"), ("explain", "x"), ("route", "+18005550100"), ("cap", "usage"), ("export",),
    ("audit", "list"), ("campaign", "pause", "solar"),
)  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///nowhere/at/all.sqlite", "sqlite:///dev/null/x.sqlite", "sqlite:///proc/version",
        "postgresql://nobody@127.0.0.1:1/none?connect_timeout=2", "sqlite:///tmp",
    ],
)  # fmt: skip
def test_without_a_database_every_command_says_so(prepared: Prepared, url: str) -> None:
    for argv in COMMANDS:
        result = run(*argv, home=prepared.home, env={"CAPCONDUIT_DATABASE__URL": url})
        assert result.code == DATABASE, f"{argv}: {result.err}"
        assert told(result)[1].startswith("database-")
        assert result.out == ""


def test_a_file_that_is_no_database_is_told_and_left_alone(prepared: Prepared) -> None:
    file = Path("other.sqlite").absolute()
    file.write_bytes(b"this is somebody's letter\n" * 100)
    for argv in (*COMMANDS, ("init", "--yes"), ("db", "upgrade")):
        result = run(*argv, home=prepared.home, env={"CAPCONDUIT_DATABASE__URL": f"sqlite://{file}"})
        assert result.code == DATABASE, f"{argv}: {result.err}"
        told(result)
    assert file.read_bytes() == b"this is somebody's letter\n" * 100


def test_a_database_of_a_newer_version_is_told(prepared: Prepared) -> None:
    change(prepared.home, "UPDATE schema_migration SET version = 999 WHERE version = 1")
    before = contents(prepared.home)
    for argv in COMMANDS:
        result = run(*argv, home=prepared.home)
        assert (result.code, told(result)[1]) == (DATABASE, "schema-version")
    assert contents(prepared.home) == before


def test_two_writers_at_once_wait_and_then_one_is_told(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capconduit.store.sqlite.BUSY_TIMEOUT_MS", 5)
    monkeypatch.setattr("capconduit.store.sqlstore.RETRY_PAUSE_S", 0.0)
    before = contents(prepared.home)
    with closing(sqlite3.connect(database(prepared.home), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for line in (
            "seller add s9",
            "balance add acme 1 --reason x",
            "campaign pause solar",
            "cap clear campaign solar",
        ):
            result = run(*words(line), home=prepared.home)
            assert result.code == DATABASE, f"{line}: {result.err}"
            assert told(result)[1] == "database-contention"
        assert run("seller", "list", home=prepared.home).code == ExitCode.DONE, "who only reads waits for nobody"
        other.execute("ROLLBACK")
    assert contents(prepared.home) == before


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: writing fails as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "line",
    [
        "seller add s9", "balance add acme 1 --reason x", "campaign pause solar", "db backup full.backup",
        "config set log.level debug", "render --out rendered", "cdr prune --before 2026-10-01 --export-to full --yes",
    ],
)  # fmt: skip
def test_a_full_disk_is_told_and_changes_nothing(prepared: Prepared, line: str) -> None:
    now_ms = 1_767_225_600_000  # 2026-01-01
    with engine(prepared.home, now_ms) as calls:
        calls.arrive("old")
        calls.end("old", answered_for_ms=60_000)
    before, config = contents(prepared.home), (prepared.home / "etc" / "config.toml").read_bytes()
    with full_disk(100):
        result = run(*words(line), home=prepared.home)
    assert result.code in (REFUSED, DATABASE), result.err
    told(result)
    assert contents(prepared.home) == before
    assert (prepared.home / "etc" / "config.toml").read_bytes() == config
    assert not Path("full.backup").exists()


@pytest.mark.postgres
def test_a_database_server_that_stops_is_told(prepared: Prepared) -> None:
    server = PostgresServer()
    try:
        there = {"CAPCONDUIT_DATABASE__URL": server.url(server.migrated_database())}
        assert run("seller", "add", "acme", home=prepared.home, env=there).code != ExitCode.BUG
        server.crash()
        for argv in COMMANDS:
            result = run(*argv, home=prepared.home, env=there)
            assert result.code == DATABASE, f"{argv}: {result.err}"
            assert told(result)[1].startswith("database-")
        server.start()
        assert run("db", "verify", home=prepared.home, env=there).code in (ExitCode.DONE, REFUSED)
    finally:
        server.close()


# The daemon and the output --------------------------------------------------------------------------------------------


def test_whatever_needs_the_daemon_says_that_it_is_away(prepared: Prepared) -> None:
    for line in ("status", "status --json"):
        result = run(*words(line), home=prepared.home, env=away(prepared.home))
        assert (result.code, told(result)[1]) == (PEER, "daemon-unreachable")


def test_a_socket_on_which_somebody_else_answers_is_told(prepared: Prepared, tmp_path: Path) -> None:
    place = tmp_path / "s"
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(place))
        other.listen()
        other.close()
    result = run("status", home=prepared.home, env={"CAPCONDUIT_CONTROL__SOCKET": str(place)})
    assert result.code == PEER
    told(result)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_list_that_cannot_be_written_is_told(prepared: Prepared) -> None:
    env = {"PYTHONPATH": os.pathsep.join(sys.path), "CAPCONDUIT_CONFIG": str(prepared.home / "etc" / "config.toml")}
    with Path("/dev/full").open("wb") as full:
        result = run_process("did", "list", "--json", home=prepared.home, env=env, stdout=full)
    assert (result.code, told(result)[1]) == (REFUSED, "output-failed")


def test_a_reader_that_leaves_a_list_is_no_failure(prepared: Prepared) -> None:
    config = str(prepared.home / "etc" / "config.toml")
    env = clean_environment(prepared.home, PYTHONPATH=os.pathsep.join(sys.path), CAPCONDUIT_CONFIG=config)
    with subprocess.Popen(
        [sys.executable, "-m", "capconduit_cli", "setting", "list"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == ExitCode.DONE
