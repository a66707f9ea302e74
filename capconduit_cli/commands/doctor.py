"""`capconduit doctor`: what is wrong with this installation, why it matters, and the command that mends it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import DriftError
from capconduit_cli.app import CliState, state
from capconduit_cli.output import Column, Kind, ListOutput, OutputFormat, Row, emit_rows, emit_text, notice
from capconduit_cli.params import completer
from capconduit_cli.typer_seam import single

if TYPE_CHECKING:
    from capconduit.config import Config
    from capconduit.doctor.findings import Check, Finding
    from capconduit.doctor.scene import Doors
    from capconduit.store.sqlstore import SqlStore

MAX_CALLS: Final = 100_000
SEVERITY_WIDTH: Final = 8

COLUMNS: Final = (
    Column("matter"),
    Column("check"),
    Column("id"),
    Column("severity"),
    Column("subject"),
    Column("found"),
    Column("why"),
    Column("fix"),
)
CHECK_COLUMNS: Final = (Column("matter"), Column("check"), Column("looks_at"), Column("faults", Kind.NAMES))


class Least(StrEnum):
    """From which severity on a finding makes the exit code 5."""

    UNKNOWN = "unknown"
    WARNING = "warning"
    ERROR = "error"


def _check_names(_: CliState) -> Iterator[tuple[str, str]]:
    from capconduit.doctor.checks import CHECKS

    return ((check.slug, check.looks_at) for check in CHECKS)


@single(
    "capconduit doctor",
    "capconduit doctor --calls 400",
    "capconduit doctor --only dialplan --only fastagi",
    "capconduit doctor --skip machine --severity error --json",
    "capconduit doctor --list",
)
def app(
    ctx: typer.Context,
    out: ListOutput,
    only: Annotated[
        list[str],
        typer.Option(
            "--only",
            metavar="CHECK",
            help="Only this check, or all of a matter.",
            autocompletion=completer(_check_names),
        ),
    ] = [],  # noqa: B006 - Typer's way of saying "none given"
    skip: Annotated[
        list[str],
        typer.Option("--skip", metavar="CHECK", help="Not this one.", autocompletion=completer(_check_names)),
    ] = [],  # noqa: B006
    least: Annotated[
        Least, typer.Option("--severity", help="Exit code 5 for findings that are at least so bad.")
    ] = Least.WARNING,
    calls: Annotated[
        int | None,
        typer.Option(
            "--calls",
            metavar="N",
            min=1,
            max=MAX_CALLS,
            help="Calls that are to be up at the same time; the system's concurrent cap where not given, else 100.",
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the checks and what each looks at; do none.")] = False,
) -> None:
    """Look for what is wrong with this installation, and tell how to mend it.

    Looks at Asterisk, AMI, the dialplan in force, the machine, the database, secrets, who may come in, and the daemon;
    changes nothing. Each finding has a severity (ok, info, unknown, warning, error), the reason why it matters, and the
    command that mends it. What cannot be looked at is unknown, with the way to let it be; root sees most. The exit code
    is 5 where something is wrong. A run ends within two minutes, whatever hangs. docs/doctor.md describes each check.
    """
    from capconduit.doctor.checks import CHECKS, chosen

    checks = chosen(only, skip)
    if list_:
        emit_rows((_check_row(check) for check in CHECKS if check in checks), CHECK_COLUMNS, out)
        return
    findings = list(_examine(state(ctx), checks, calls))
    matters = {check.slug: check.matter.value for check in CHECKS}
    if out.format is OutputFormat.TABLE and not (out.fields or out.sort or out.filter or out.limit):
        _show(findings, matters)
    else:
        emit_rows((_row(finding, matters) for finding in findings), COLUMNS, out)
    _judge(findings, least)


def _examine(run: CliState, checks: Sequence[Check], calls: int | None) -> Iterator[Finding]:
    """The findings as they come."""
    from capconduit.doctor.run import examine
    from capconduit.doctor.scene import Scene

    opened: list[SqlStore] = []
    scene = Scene(doors(run.config, run.tenant, calls, opened))
    try:
        yield from examine(scene, checks)
    finally:
        scene.close()
        for store in opened:
            store.close()


def doors(config: Config, tenant: str, calls: int | None, opened: list[SqlStore]) -> Doors:
    """The real ways to Asterisk, the daemon and the database, which is put into `opened` for who has to close it."""
    from capconduit.clock import SystemClock
    from capconduit.doctor import peers
    from capconduit.doctor.scene import Doors
    from capconduit.services.office import Office
    from capconduit.services.stores import open_store
    from capconduit_cli.control import ask_daemon
    from capconduit_cli.office import actor

    clock = SystemClock()

    def open_once() -> SqlStore:
        opened.append(open_store(config.database.url))
        return opened[-1]

    return Doors(
        config=config,
        env=os.environ,
        clock=clock,
        ask_daemon=lambda resource: ask_daemon(config.control.socket, resource),
        open_store=open_once,
        make_office=lambda store: Office(store, clock, tenant=tenant, actor=actor(os.environ)),
        open_ami=lambda name, secret: peers.open_ami(config, name, secret),
        console=peers.console_of(config).ask,
        render=lambda made: peers.render(config, made, os.environ),
        differences=lambda files: peers.differences(config, files),
        systemctl=peers.systemctl,
        calls=calls,
    )


def _row(finding: Finding, matters: dict[str, str]) -> Row:
    return {
        "matter": matters[finding.check],
        "check": finding.check,
        "id": finding.id,
        "severity": finding.severity.value,
        "subject": finding.subject,
        "found": finding.found,
        "why": finding.why,
        "fix": finding.fix,
    }


def _check_row(check: Check) -> Row:
    return {
        "matter": check.matter.value,
        "check": check.slug,
        "looks_at": check.looks_at,
        "faults": [fault.id for fault in check.faults],
    }


def _judge(findings: Sequence[Finding], least: Least) -> None:
    """Exit code 5 where something is at least so bad. Raises DriftError."""
    from capconduit.doctor.findings import Severity

    unseen = sum(f.severity is Severity.UNKNOWN for f in findings)
    if unseen:
        notice(f"{unseen} could not be looked at")
    wrong = [f for f in findings if f.severity.rank >= Severity(least.value).rank and f.severity is not Severity.OK]
    if wrong:
        counted = [
            f"{count} {level.value}{'s' if count > 1 and level is not Severity.UNKNOWN else ''}"
            for level in reversed(Severity)
            if (count := sum(f.severity is level for f in wrong))
        ]
        raise DriftError(
            "doctor-findings", ", ".join(counted), "the line `fix` under each is the command that mends it"
        )


# For people ----------------------------------------------------------------------------------------------------------


def _show(findings: Sequence[Finding], matters: dict[str, str]) -> None:
    """Grouped by matter; what is wrong with its reason and its fix. Coloured on a terminal only."""
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        _draw(findings, matters)
    else:
        emit_text(_lines(findings, matters))


def _lines(findings: Iterable[Finding], matters: dict[str, str]) -> Iterator[str]:
    matter = ""
    for finding in findings:
        if matters[finding.check] != matter:
            if matter:
                yield ""
            matter = matters[finding.check]
            yield matter
        yield f"  {finding.severity.value:<{SEVERITY_WIDTH}}{finding.id}: {finding.found}"
        for name, text in _more(finding):
            yield f"{'':{SEVERITY_WIDTH + 2}}{name}: {text}"


def _more(finding: Finding) -> Iterator[tuple[str, str]]:
    """What is said below a finding."""
    severity = finding.severity.value
    if severity not in ("ok", "unknown"):
        yield "why", finding.why
    if finding.fix:
        yield ("how" if severity == "unknown" else "fix"), finding.fix


_STYLES: Final = {"ok": "green", "info": "cyan", "unknown": "magenta", "warning": "yellow", "error": "bold red"}


def _draw(findings: Sequence[Finding], matters: dict[str, str]) -> None:
    from rich.console import Console  # only people on a terminal need it
    from rich.table import Table
    from rich.text import Text

    from capconduit_cli.text import printable

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    for matter in dict.fromkeys(matters[finding.check] for finding in findings):
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, width=SEVERITY_WIDTH)
        table.add_column(overflow="fold")
        for finding in findings:
            if matters[finding.check] != matter:
                continue
            severity = Text(finding.severity.value, style=_STYLES[finding.severity.value])
            table.add_row(severity, Text(printable(f"{finding.id}: {finding.found}")))
            for name, text in _more(finding):
                table.add_row("", Text(printable(f"{name}: {text}"), style="dim" if name == "why" else ""))
        console.print(Text(matter, style="bold"))
        console.print(table)
