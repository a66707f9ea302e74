"""`capconduit agent`: the profiles that voice agents answer by."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import PeerError, UsageError
from capconduit_cli.amounts import Amount, parse_amount
from capconduit_cli.commands.provider import hint_for
from capconduit_cli.names import PROVIDERS, AgentName, NewName
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import NONE, DryRun, Yes, completer, duration_option, parse_duration_or_none
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.agents import AgentView
    from capconduit.services.office import Office
    from capconduit.services.trying import Trial

app = NounApp(
    "Calls reach an agent by a target of kind agent (`capconduit target add NAME --kind agent --agent AGENT`), and the"
    " voice agent's process answers them ([voice] of the configuration). Where it does not, a call goes on to the next"
    " target. `capconduit agent try` says something to an agent in text, without a call."
)

COLUMNS: Final = (
    Column("name"),
    Column("providers", Kind.NAMES),
    Column("voice"),
    Column("language"),
    Column("tools", Kind.NAMES),
    Column("targets", Kind.NAMES),
    Column("instructions", shown=False),
    Column("greeting", shown=False),
    Column("max_duration_ms", Kind.DURATION, shown=False),
    Column("max_cost", Kind.MONEY, source="max_cost_micros", shown=False),
    Column("currency", shown=False),
    Column("silence_ms", Kind.DURATION, shown=False),
    Column("transcripts", Kind.BOOL, shown=False),
    Column("retention_days", Kind.INT, shown=False),
    *ENTITY_COLUMNS,
)
TRY_COLUMNS: Final = (
    Column("agent"),
    Column("provider"),
    Column("model"),
    Column("latency_ms", Kind.INT),
    Column("answer"),
    Column("turns", Kind.ANY, shown=False),
)

PROVIDER_HELP: Final = "A provider it speaks through; repeat it for those that take over, in their order."
VOICE_HELP: Final = "A voice instead of the provider's."
LANGUAGE_HELP: Final = "What it speaks, a BCP 47 tag like en-US or pt-BR."
INSTRUCTIONS_HELP: Final = "What it is told to do."
FILE_HELP: Final = "The same from a file; - reads stdin."
GREETING_HELP: Final = "What it says first; without one the caller begins."
TOOL_HELP: Final = "What it may do: hangup, transfer, message, mcp:SERVER or mcp:SERVER/TOOL. Nothing else is allowed."
DURATION_HELP: Final = "How long one conversation may last."
COST_HELP: Final = "What the provider may charge for one conversation, in USD; or none."
SILENCE_HELP: Final = "It hangs up where nobody spoke for so long; or none."
TRANSCRIPTS_HELP: Final = "Whether what is said may be kept."
RETENTION_HELP: Final = "For how many days a transcript is kept."
_TIMEOUT_MS: Final = 30_000
_MAX_BYTES: Final = 65_536  # of a file of instructions: more than they can be

Providers = Annotated[
    list[str] | None,
    typer.Option("--provider", metavar="NAME", help=PROVIDER_HELP, autocompletion=completer(PROVIDERS)),
]
InstructionsFile = Annotated[Path | None, typer.Option("--instructions-file", metavar="FILE|-", help=FILE_HELP)]


def parse_cost(text: str) -> Amount:
    """An amount; nothing for `none`. Raises UsageError."""
    return Amount(0, "") if text.strip().lower() == NONE else parse_amount(text)


def row(view: AgentView) -> Row:
    """An agent as it is printed."""
    from capconduit.domain.agents import COST_CURRENCY, listed

    agent = view.agent
    return {
        "name": agent.name,
        "providers": view.providers,
        "voice": agent.voice,
        "language": agent.language,
        "tools": listed(agent.tools),
        "targets": view.targets,
        "instructions": agent.instructions,
        "greeting": agent.greeting,
        "max_duration_ms": agent.max_duration_ms,
        "max_cost_micros": agent.max_cost_micros or None,
        "currency": COST_CURRENCY,
        "silence_ms": agent.silence_ms or None,
        "transcripts": agent.transcripts,
        "retention_days": agent.retention_days,
        **entity_values(agent),
    }


def try_row(trial: Trial) -> Row:
    """A turn with an agent, as it is printed."""
    answer = trial.answer
    return {
        "agent": trial.agent.name,
        "provider": answer.provider if answer else "",
        "model": answer.model if answer else "",
        "latency_ms": answer.latency_ms if answer else None,
        "answer": answer.text if answer else "",
        "turns": [
            {
                "provider": turn.provider,
                "model": turn.model,
                "ok": turn.fault is None,
                "reason": turn.fault or "",
                "detail": turn.text if turn.fault else "",
                "status": turn.status,
                "latency_ms": turn.latency_ms,
            }
            for turn in trial.turns
        ],
    }


def _instructions(text: str | None, file: Path | None) -> str | None:
    """The instructions, given or from a file. Raises UsageError."""
    if file is None:
        return text
    if text is not None:
        raise UsageError("instructions-twice", "instructions are given twice", "leave one of the two options out")
    try:
        if str(file) == "-":
            return sys.stdin.read(_MAX_BYTES + 1)
        with file.open(encoding="utf-8") as opened:
            return opened.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no name of a file
        raise UsageError("instructions-unreadable", f"{file}: {error}", "give a readable UTF-8 file") from None


def _micros(cost: Amount | None) -> int | None:
    from capconduit.domain.agents import COST_CURRENCY

    return None if cost is None else cost.within(COST_CURRENCY)


def _several(values: list[str] | None) -> list[str] | None:
    return [] if values == [NONE] else values or None


def _or_nothing(text: str | None) -> str | None:
    return "" if text is not None and text.lower() == NONE else text


def _emit(made: Office, view: AgentView, out: ChangeOutput) -> None:
    emit_change(made, row(view), COLUMNS, out)
    if view.agent.transcripts and not view.keeps:
        notice("the setting transcripts is off, so nothing is kept: `capconduit setting set transcripts on`")


@app.verb(
    "add",
    "capconduit agent add reception --provider main --language en-US --greeting 'Good day, Acme Solar.'",
    "capconduit agent add night --provider main --provider local --instructions-file night.txt --tool hangup"
    " --tool transfer --max-duration 10m --max-cost 1.50",
    "capconduit agent add survey --provider main --tool message --tool mcp:crm/note --transcripts --retention-days 7",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    provider: Providers = None,
    voice: Annotated[str, typer.Option("--voice", metavar="NAME", help=VOICE_HELP)] = "",
    language: Annotated[str, typer.Option("--language", metavar="TAG", help=LANGUAGE_HELP)] = "",
    instructions: Annotated[str | None, typer.Option("--instructions", metavar="TEXT", help=INSTRUCTIONS_HELP)] = None,
    instructions_file: InstructionsFile = None,
    greeting: Annotated[str, typer.Option("--greeting", metavar="TEXT", help=GREETING_HELP)] = "",
    tool: Annotated[list[str] | None, typer.Option("--tool", metavar="TOOL", help=TOOL_HELP)] = None,
    max_duration: Annotated[int, duration_option("--max-duration", help=DURATION_HELP, show_default="30m")] = 1_800_000,
    max_cost: Annotated[
        Amount | None,
        typer.Option("--max-cost", metavar="AMOUNT|none", parser=parse_cost, help=COST_HELP, show_default="none"),
    ] = None,
    silence: Annotated[
        int,
        typer.Option(
            "--silence", metavar="DURATION|none", parser=parse_duration_or_none, help=SILENCE_HELP, show_default="30s"
        ),
    ] = 30_000,
    transcripts: Annotated[bool, typer.Option("--transcripts/--no-transcripts", help=TRANSCRIPTS_HELP)] = False,
    retention_days: Annotated[int, typer.Option("--retention-days", metavar="DAYS", help=RETENTION_HELP)] = 30,
    dry_run: DryRun = False,
) -> None:
    """Add an agent."""
    from capconduit.services.agents import add_agent

    made = office(ctx, dry_run=dry_run)
    view = add_agent(
        made,
        name,
        providers=provider or (),
        voice=voice,
        language=language,
        instructions=_instructions(instructions, instructions_file) or "",
        greeting=greeting,
        tools=_several(tool) or (),
        max_duration_ms=max_duration,
        max_cost_micros=_micros(max_cost) or 0,
        silence_ms=silence,
        transcripts=transcripts,
        retention_days=retention_days,
    )
    _emit(made, view, out)


@app.verb("list", "capconduit agent list", "capconduit agent list --filter providers=main --json")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the agents with their providers, and the targets that lead to them."""
    from capconduit.services.agents import list_agents

    emit_rows((row(view) for view in list_agents(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit agent show reception", "capconduit agent show reception --fields instructions -o plain")
def show(ctx: typer.Context, name: AgentName, out: ShowOutput) -> None:
    """Show one agent, its instructions included."""
    from capconduit.services.agents import show_agent

    emit_one(row(show_agent(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set",
    "capconduit agent set reception --provider main --provider local",
    "capconduit agent set reception --instructions-file reception.txt --greeting none",
    "capconduit agent set reception --tool none --max-cost none --no-transcripts",
)
def set_(
    ctx: typer.Context,
    name: AgentName,
    out: ChangeOutput,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider", metavar="NAME", help=f"{PROVIDER_HELP} Replaces all.", autocompletion=completer(PROVIDERS)
        ),
    ] = None,
    voice: Annotated[str | None, typer.Option("--voice", metavar="NAME|none", help=VOICE_HELP)] = None,
    language: Annotated[str | None, typer.Option("--language", metavar="TAG|none", help=LANGUAGE_HELP)] = None,
    instructions: Annotated[
        str | None, typer.Option("--instructions", metavar="TEXT|none", help=INSTRUCTIONS_HELP)
    ] = None,
    instructions_file: InstructionsFile = None,
    greeting: Annotated[str | None, typer.Option("--greeting", metavar="TEXT|none", help=GREETING_HELP)] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option("--tool", metavar="TOOL|none", help=f"{TOOL_HELP} Replaces all; none: none."),
    ] = None,
    max_duration: Annotated[int | None, duration_option("--max-duration", help=DURATION_HELP)] = None,
    max_cost: Annotated[
        Amount | None, typer.Option("--max-cost", metavar="AMOUNT|none", parser=parse_cost, help=COST_HELP)
    ] = None,
    silence: Annotated[
        int | None,
        typer.Option("--silence", metavar="DURATION|none", parser=parse_duration_or_none, help=SILENCE_HELP),
    ] = None,
    transcripts: Annotated[bool | None, typer.Option("--transcripts/--no-transcripts", help=TRANSCRIPTS_HELP)] = None,
    retention_days: Annotated[int | None, typer.Option("--retention-days", metavar="DAYS", help=RETENTION_HELP)] = None,
    dry_run: DryRun = False,
) -> None:
    """Change an agent, for the conversations that begin from now on."""
    from capconduit.services.agents import set_agent

    fields = given(
        "agent",
        name,
        providers=provider or None,
        voice=_or_nothing(voice),
        language=_or_nothing(language),
        instructions=_instructions(_or_nothing(instructions), instructions_file),
        greeting=_or_nothing(greeting),
        tools=_several(tool),
        max_duration_ms=max_duration,
        max_cost_micros=_micros(max_cost),
        silence_ms=silence,
        transcripts=transcripts,
        retention_days=retention_days,
    )
    made = office(ctx, dry_run=dry_run)
    _emit(made, set_agent(made, name, **fields), out)


@app.verb(
    "try",
    "capconduit agent try reception --say 'Do you work on Saturdays?'",
    "capconduit agent try reception --say 'Hello' --json",
)
def try_(
    ctx: typer.Context,
    name: AgentName,
    out: ShowOutput,
    say: Annotated[str, typer.Option("--say", metavar="TEXT", help="What the caller says.")],
    timeout: Annotated[
        int, duration_option("--timeout", help="How long each provider may take.", show_default="30s")
    ] = _TIMEOUT_MS,
) -> None:
    """Say one thing to an agent in text and print its answer; the providers charge for it as for any text.

    The providers are asked in their order until one answers; deepgram has no text chat and is passed by. Nothing is
    kept, and no tool is used. Exit code 4 where none answers.
    """
    from capconduit.services.trying import try_agent

    trial = try_agent(office(ctx), name, say, os.environ, timeout_ms=timeout)
    for turn in trial.turns:
        if turn.fault is not None:
            notice(f"provider {turn.provider}: {turn.text}")
    emit_one(try_row(trial), TRY_COLUMNS, out)
    if trial.answer is None:
        first = next((turn for turn in trial.turns if turn.fault is not None), None)
        raise PeerError(
            "agent-no-answer", f"no provider of agent {name} answered", hint_for(first.fault if first else None)
        )


@app.verb("remove", "capconduit agent remove reception --yes")
def remove(ctx: typer.Context, name: AgentName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove an agent that no target leads to."""
    from capconduit.services.agents import remove_agent

    destroy(office(ctx), f"agent {name}", lambda made: remove_agent(made, name), yes=yes, dry_run=dry_run)
