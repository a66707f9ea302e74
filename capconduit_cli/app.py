"""The command line's root: the table of nouns, loaded when used, and the global options."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit import __version__
from capconduit_cli.typer_seam import (
    CONTEXT_SETTINGS,
    ClickCommand,
    Context,
    Group,
    NounApp,
    build_group,
    build_single,
)

if TYPE_CHECKING:
    from capconduit.config import Config

PROGRAM: Final = "capconduit"
DEBUG_VARIABLE: Final = "CAPCONDUIT_DEBUG"
DEFAULT_TENANT: Final = "default"
ABOUT: Final = "Caps, prepaid balances and routing for inbound calls on Asterisk."


@dataclass(frozen=True)
class Noun:
    """One row of the top-level help. Its module is capconduit_cli.commands.<name>, imported only when it is used."""

    name: str
    help: str
    section: str

    @property
    def module(self) -> str:
        """Where its `app` is."""
        return f"capconduit_cli.commands.{self.name}"


# One line makes a noun known to --help, completion and man pages. Sections appear in the order of their first noun.
NOUNS: Final[Sequence[Noun]] = (
    Noun("init", "Write a commented configuration and create the database; safe twice.", "Start"),
    Noun("demo", "Show a working installation with invented calls, without Asterisk.", "Start"),
    Noun("help", "Explain a topic: calls, caps, money, routing, dialplan, rejects, output …", "Start"),
    Noun("doctor", "What is wrong with this installation, and how to mend it.", "Start"),
    Noun("config", "See and change the configuration.", "Start"),
    Noun("setting", "Settings of the tenant, in force on every node.", "Start"),
    Noun("db", "Bring the database up to date, verify, prune and move it.", "Start"),
    Noun("seller", "The prepaid accounts of sellers.", "People"),
    Noun("user", "Who signs in: admins, and people of sellers.", "People"),
    Noun("token", "Keys to the HTTP API.", "People"),
    Noun("did", "The numbers that calls arrive on.", "Numbers"),
    Noun("request", "Numbers that sellers ask for.", "Numbers"),
    Noun("trunk", "The carriers that send calls.", "Numbers"),
    Noun("campaign", "A seller's stream of calls, and how it chooses targets.", "Selling"),
    Noun("target", "Where calls are forwarded: SIP and IAX2 endpoints, extensions, voice agents.", "Selling"),
    Noun("rule", "Which targets a campaign forwards to, in which order.", "Selling"),
    Noun("rate", "What a call costs its seller, and what its target is paid.", "Selling"),
    Noun("schedule", "Opening hours of campaigns and targets.", "Selling"),
    Noun("block", "Callers that are refused.", "Selling"),
    Noun("provider", "Whose voices and models agents use: OpenAI, Azure, Deepgram, Ollama.", "Agents"),
    Noun("agent", "Voice agents that answer calls: instructions, voice, tools, limits.", "Agents"),
    Noun("cap", "Limits on calls at once, calls, minutes, money and calls per second.", "Limits and money"),
    Noun("balance", "Prepaid money: add, take back, correct, look at the ledger, check, verify.", "Limits and money"),
    Noun("call", "Calls that are up.", "Calls"),
    Noun("cdr", "The settled records of calls.", "Calls"),
    Noun("explain", "Why a call was decided as it was.", "Calls"),
    Noun("route", "Try a call before it happens.", "Calls"),
    Noun("find", "Anything by its name, number or id, or a part of it.", "Insight"),
    Noun("event", "What happened, and what happens just now.", "Insight"),
    Noun("report", "What calls came to: ASR, ACD, minutes, revenue, margin; for people and cron.", "Insight"),
    Noun("notification", "What users should know, and how they are told.", "Insight"),
    Noun("webhook", "Who is given events, over HTTP or by a command.", "Insight"),
    Noun("audit", "Who changed what, and taking it back.", "Insight"),
    Noun("export", "Print the whole estate as a file.", "Whole estate"),
    Noun("plan", "What a file would change of the estate.", "Whole estate"),
    Noun("apply", "Make the estate what a file says.", "Whole estate"),
    Noun("render", "Write Asterisk's configuration files from the estate.", "Asterisk"),
    Noun("install", "Put the rendered files in force in a running Asterisk, whole or not at all.", "Asterisk"),
    Noun("rollback", "Put what was in force before the last install in force again.", "Asterisk"),
    Noun("serve", "Run the daemon that answers Asterisk.", "Daemon"),
    Noun("status", "Whether the daemon is well, and what it is doing.", "Daemon"),
    Noun("drain", "Let the daemon finish what it has begun, and end.", "Daemon"),
    Noun("reload", "Let the daemon read the estate anew.", "Daemon"),
    Noun("top", "Watch the floor live, and act on it.", "Live"),
)


class Shell(StrEnum):
    """Shells with completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@dataclass
class CliState:
    """What the global options said. One per run, reached through `state(ctx)`."""

    config_path: Path | None = None
    tenant: str = DEFAULT_TENANT
    debug: bool = False

    @functools.cached_property
    def config(self) -> Config:
        """The effective configuration, read when first asked for. Raises ConfigError."""
        from capconduit.config import load_config  # --help does not need it

        return load_config(self.config_path, os.environ)


def state(ctx: typer.Context | Context) -> CliState:
    """The state of this run. While a shell completes, no command ran yet: then it is made from the options so far."""
    root = ctx.find_root()
    if not isinstance(root.obj, CliState):
        given = root.params
        root.obj = CliState(given.get("config"), given.get("tenant") or DEFAULT_TENANT, bool(given.get("debug")))
    found: CliState = root.obj
    return found


def load_noun(noun: Noun) -> ClickCommand:
    """Import a noun's module and build its command; the table's line heads its help."""
    app: typer.Typer = importlib.import_module(noun.module).app
    if isinstance(app, NounApp):
        command: ClickCommand = build_group(app)
        command.help = f"{noun.help}\n\n{command.help or ''}".strip()
    else:
        command = build_single(app)
    command.name = noun.name
    return command


class Root(Group):
    """The top level: knows its nouns from the table and imports only the one that is used."""

    metavar_of_one = "NOUN"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.nouns: dict[str, Noun] = {}

    def list_commands(self, ctx: Context) -> list[str]:  # noqa: ARG002  # Typer's call
        return list(self.nouns)

    def get_command(self, ctx: Context, cmd_name: str) -> ClickCommand | None:  # noqa: ARG002  # Typer's call
        if cmd_name not in self.nouns:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = load_noun(self.nouns[cmd_name])
        return self.commands[cmd_name]

    def command_rows(self, ctx: Context) -> list[tuple[str, list[tuple[str, str]]]]:  # noqa: ARG002  # Typer's call
        rows: dict[str, list[tuple[str, str]]] = {}
        for noun in self.nouns.values():
            rows.setdefault(noun.section, []).append((noun.name, noun.help))
        return list(rows.items())

    def shell_complete(self, ctx: Context, incomplete: str) -> list[Any]:
        """Nouns from the table, so that completing one imports none."""
        from typer._click.shell_completion import CompletionItem  # only when a shell asks

        items = [CompletionItem(n.name, help=n.help) for n in self.nouns.values() if n.name.startswith(incomplete)]
        return items + ClickCommand.shell_complete(self, ctx, incomplete)


def _print_version(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _print_completion(ctx: typer.Context, value: Shell | None) -> None:
    if value and not ctx.resilient_parsing:
        from capconduit_cli.completion import script

        typer.echo(script(value.value), nl=False)
        raise typer.Exit


def _root(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The configuration to use (or $CAPCONDUIT_CONFIG)."),
    ] = None,
    tenant: Annotated[
        str,
        typer.Option("--tenant", metavar="NAME", envvar="CAPCONDUIT_TENANT", help="The tenant to work for."),
    ] = DEFAULT_TENANT,
    debug: Annotated[bool, typer.Option("--debug", help=f"Show tracebacks of bugs (or ${DEBUG_VARIABLE}=1).")] = False,
    completion: Annotated[
        Shell | None,
        typer.Option(
            "--completion",
            help="Print the completion script of a shell and exit.",
            is_eager=True,
            callback=_print_completion,
        ),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    del completion, version  # their callbacks have ended the run already
    ctx.obj = CliState(config, tenant, debug)


_root.__dict__["__examples__"] = (
    "capconduit init",
    "capconduit seller add acme --currency USD",
    "capconduit --config /etc/capconduit/config.toml status",
)


def build_root(nouns: Sequence[Noun] = NOUNS) -> Root:
    """The command line, with no noun imported yet."""
    app = typer.Typer(
        cls=Root,
        help=ABOUT,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings=dict(CONTEXT_SETTINGS),
    )
    app.callback()(_root)
    root = build_group(app)
    assert isinstance(root, Root)
    root.name = PROGRAM
    root.nouns = {noun.name: noun for noun in nouns}
    return root
