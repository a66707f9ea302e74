"""`capconduit init`: the configuration, the AMI secret and the database of a new installation; safe twice.

On a terminal it asks for what was not given. Everything is asked before anything is written, and each step is whole or
not there at all: interrupted anywhere, a second run does what is missing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import Refused
from capconduit_cli.app import CliState, state
from capconduit_cli.office import NOTHING_CHANGED
from capconduit_cli.output import confirm, notice
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.questions import ask, can_ask
from capconduit_cli.typer_seam import single

if TYPE_CHECKING:
    from capconduit.config import Config

SECRET_NAME: Final = "ami.secret"
SECRET_BYTES: Final = 24
SECRET_MODE: Final = 0o600
CONFIG_MODE: Final = 0o644
PRIVATE_DIRECTORY: Final = 0o700
PRIVATE_UMASK: Final = 0o077


@dataclass(frozen=True)
class Plan:
    """What is to be done. An empty text or list says that it is there already."""

    config_path: Path
    config_text: str
    secret_path: Path | None
    database_url: str
    migrations: list[str]
    needs_tenant: bool

    def steps(self) -> list[str]:
        """The plan in words."""
        from capconduit.config import mask

        words = []
        if self.secret_path is not None:
            words.append(f"write a random AMI secret to {self.secret_path}")
        if self.config_text:
            words.append(f"write the configuration to {self.config_path}")
        if self.migrations or self.needs_tenant:
            words.append(f"prepare the database {mask(self.database_url)}: {', '.join(self.migrations) or 'a tenant'}")
        return words


@single(
    "capconduit init",
    "capconduit init --yes",
    "capconduit init --database-url postgresql://capconduit@db.example.net/capconduit --node pbx1 --yes",
    "capconduit init --ami-secret env:CAPCONDUIT_AMI_SECRET --asterisk-dir /etc/asterisk --yes",
)
def app(
    ctx: typer.Context,
    database_url: Annotated[
        str | None,
        typer.Option(
            "--database-url",
            metavar="URL",
            help="sqlite:///file or postgresql://user@host/name.",
            show_default="a SQLite file in the state directory",
        ),
    ] = None,
    node: Annotated[
        str | None,
        typer.Option("--node", metavar="NAME", help="Name of this machine.", show_default="from the host name"),
    ] = None,
    ami_secret: Annotated[
        str | None,
        typer.Option(
            "--ami-secret",
            metavar="REF",
            help="Where the secret for AMI is: env:NAME, or file:/path, which is made where it is not there.",
            show_default="a random one in the state directory",
        ),
    ] = None,
    asterisk_dir: Annotated[
        str | None,
        typer.Option(
            "--asterisk-dir", metavar="DIR", help="Directory of Asterisk's configuration.", show_default="/etc/asterisk"
        ),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Write a commented configuration, make a secret for AMI, and create or upgrade the database.

    On a terminal it asks for what no option says, and once more before it does anything; --yes asks nothing and takes
    the defaults. What is there already is never overwritten, so it is safe to run it again. The configuration goes to
    the file that --config or $CAPCONDUIT_CONFIG names, else to /etc/capconduit/config.toml for root and to
    ~/.config/capconduit/config.toml for others.
    """
    run = state(ctx)
    asked = {
        "database.url": database_url, "node.name": node, "ami.secret": ami_secret, "asterisk.config_dir": asterisk_dir
    }  # fmt: skip
    answers = not (yes or dry_run) and can_ask() and not _config_place(run, os.environ)[1]
    if answers:
        asked = _questions(asked, os.environ)
    plan = make_plan(run, os.environ, asked)
    steps = plan.steps()
    for step in steps:
        notice(f"would {step}" if dry_run else step)
    if not steps:
        notice(f"everything is there: {plan.config_path}")
    elif dry_run:
        notice(NOTHING_CHANGED)
    else:
        confirm("Do this?", yes=yes, default=answers)  # who answered wants it: Enter throughout does it
        carry_out(plan)
        notice("done")
    if not dry_run:
        _tell_what_is_next(run)


_QUESTIONS: Final = (
    ("database.url", "Database (sqlite:///file, or postgresql://user@host/name for several machines)"),
    ("node.name", "Name of this machine"),
    ("ami.secret", "Where AMI's secret is (env:NAME or file:/path; made where it is not there)"),
    ("asterisk.config_dir", "Directory of Asterisk's configuration"),
)


def _questions(asked: Mapping[str, str | None], env: Mapping[str, str]) -> dict[str, str | None]:
    """What was given, and for the rest the answers. Raises Refused at the end of the input."""
    from capconduit.config import check_text, find_key, load_config, mask

    defaults = load_config(Path(os.devnull), env)
    answers = dict(asked)
    for name, question in _QUESTIONS:
        if asked[name]:
            continue
        default = _own_secret(env) if name == "ami.secret" else str(defaults.get(name))
        key = find_key(name)
        answer = ask(question, default, lambda text, key=key: check_text(key, text, "the answer"), str(mask(default)))  # type: ignore[misc]  # bound now
        answers[name] = None if answer == default else answer
    return answers


def _own_secret(env: Mapping[str, str]) -> str:
    """The reference to the secret that we make."""
    from capconduit.config import state_dir

    return f"file:{state_dir(env) / SECRET_NAME}"


def make_plan(run: CliState, env: Mapping[str, str], asked: Mapping[str, str | None]) -> Plan:
    """What is missing; `asked` are keys of the configuration with the values that they shall have.

    Raises ConfigError for wrong values, Refused where the configuration says otherwise, DatabaseError where a database
    cannot be asked.
    """
    from capconduit.config import check_text, find_key, load_config

    given = {key: str(check_text(find_key(key), text, "the arguments")) for key, text in asked.items() if text}
    path, exists = _config_place(run, env)
    reference = given.get("ami.secret") or _own_secret(env)
    if exists:
        config, text = load_config(path, env), ""
        _refuse_other_values(config, given, path)
        wants_secret = config.ami.secret == reference
    else:
        config, text = load_config(Path(os.devnull), env), _new_config(given, reference)
        wants_secret = True
    secret = Path(reference.removeprefix("file:")) if wants_secret and reference.startswith("file:") else None
    url = (
        given.get("database.url", config.database.url)
        if config.sources["database.url"] == "default"
        else config.database.url
    )
    migrations, needs_tenant = _missing_in_database(url)
    return Plan(path, text, secret if secret and not secret.exists() else None, url, migrations, needs_tenant)


def _config_place(run: CliState, env: Mapping[str, str]) -> tuple[Path, bool]:
    """The configuration file, and whether it is there. Raises ConfigError."""
    from capconduit import config

    named = run.config_path or (Path(env[config.CONFIG_VARIABLE]) if env.get(config.CONFIG_VARIABLE) else None)
    if named is not None:
        return named.absolute(), named.exists()
    found = config.find_config(None, env)
    if found is not None:
        return found, True
    own = [
        place for place in config.search_path(env) if place.name != config.LOCAL_NAME and place != config.SYSTEM_FILE
    ]
    if not own or (os.geteuid() == 0 and not env.get("XDG_CONFIG_HOME")):
        return config.SYSTEM_FILE, False
    return own[0], False


def _new_config(given: Mapping[str, str], secret_reference: str) -> str:
    from capconduit.config import AmiConfig, Config, DatabaseConfig, NodeConfig, render_example
    from capconduit.config_asterisk import AsteriskConfig

    directory = given.get("asterisk.config_dir")
    return render_example(
        Config(
            database=DatabaseConfig(url=given.get("database.url", "")),
            node=NodeConfig(name=given.get("node.name", "")),
            ami=AmiConfig(secret=secret_reference),
            asterisk=AsteriskConfig(config_dir=directory) if directory else AsteriskConfig(),
        )
    )


def _refuse_other_values(config: Config, given: Mapping[str, str], path: Path) -> None:
    """An existing configuration is never overwritten: it must say the same as the options."""
    from capconduit.config import mask

    for key, value in given.items():
        if config.get(key) != value:
            raise Refused(
                "config-exists",
                f"{path} is there and has {key} = {mask(config.get(key))}, not {mask(value)}",
                f"change it with `capconduit config set {key} ...`, or leave the option away",
            )


def _missing_in_database(url: str) -> tuple[list[str], bool]:
    """The migrations that are missing, and whether the first tenant is. A missing SQLite file is not made."""
    from capconduit.services.setup import tenant_names
    from capconduit.services.stores import open_store, pending_migrations

    store = open_store(url)
    try:
        pending = pending_migrations(store)
        return pending, not pending and not tenant_names(store)
    finally:
        store.close()


def carry_out(plan: Plan) -> None:
    """Do it: the secret first, then the configuration that refers to it, then the database. Raises Refused,
    DatabaseError."""
    if plan.secret_path is not None:
        write_new(plan.secret_path, secrets.token_urlsafe(SECRET_BYTES) + "\n", SECRET_MODE)
    if plan.config_text:
        from capconduit.config import mask

        plain = mask(plan.database_url) == plan.database_url
        write_new(plan.config_path, plan.config_text, CONFIG_MODE if plain else SECRET_MODE)
    if plan.migrations or plan.needs_tenant:
        _prepare(plan.database_url)


def _prepare(url: str) -> None:
    from capconduit.clock import SystemClock
    from capconduit.config import DatabaseConfig
    from capconduit.services.setup import prepare_database
    from capconduit.services.stores import open_store

    file = DatabaseConfig(url=url).sqlite_path
    if file is not None:
        _make_directory(file.parent)
    before = os.umask(PRIVATE_UMASK)  # calls and money are nobody else's business
    try:
        store = open_store(url, create=True)
        try:
            prepare_database(store, SystemClock())
        finally:
            store.close()
    finally:
        os.umask(before)


def _make_directory(path: Path) -> None:
    path.mkdir(mode=PRIVATE_DIRECTORY, parents=True, exist_ok=True)


def write_new(path: Path, text: str, mode: int) -> None:
    """Write a file that is not there yet, whole or not at all. Raises Refused where it appeared meanwhile."""
    if mode == SECRET_MODE:
        _make_directory(path.parent)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    except FileExistsError:
        raise Refused("file-exists", f"{path} was written meanwhile by somebody else", "run it again") from None
    except OSError as error:  # it would name the hidden file, or none
        raise Refused("file-failed", f"{path}: {error.strerror}", "make room, and run it again") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def _tell_what_is_next(run: CliState) -> None:
    program = f"capconduit --config {run.config_path}" if run.config_path else "capconduit"
    notice("next:")
    notice(f"  {program} seller add acme --currency USD --timezone America/New_York")
    notice(f"  {program} balance add acme 25 --reason 'first payment'")
    notice(f"  {program} rate add std --per-minute 0.20 --increment 60/60")
