"""`capconduit event`: what happened, and what happens."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit.errors import UsageError
from capconduit.units import format_instant, format_micros, parse_money
from capconduit_cli.app import state
from capconduit_cli.office import office
from capconduit_cli.output import Column, Kind, OutputFormat, Row, ShowOutput, emit_one, emit_rows, emit_text
from capconduit_cli.params import Offer, completer, instant_option
from capconduit_cli.rows import RecentOutput, emit_recent
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.model import Event
    from capconduit.services.events import Names, Wish
    from capconduit.services.office import Office
    from capconduit_cli.app import CliState

app = NounApp(
    "Events are written in the transaction of what they tell of: calls, attempts, caps that are reached, money,"
    " targets that rest, changes of the estate. `capconduit explain CALL` puts those of one call together. How long"
    " they are kept says the setting event_keep_days."
)

COLUMNS: Final = (
    Column("id"),
    Column("at", Kind.INSTANT, source="at_ms"),
    Column("kind"),
    Column("subject"),
    Column("name"),
    Column("data", Kind.ANY),
)
LIST_COLUMNS: Final = (*COLUMNS[:-1], Column("data", source="told"))  # in a table: as `tail` has it
BACKLOG: Final = 20
_DECIMAL: Final = re.compile(r"-?[0-9]+\.[0-9]{6}")  # money as it goes out


def _kinds(_run: CliState) -> Iterable[Offer]:
    from capconduit.vocab import EventKind

    kinds = sorted(kind.value for kind in EventKind)
    return [*sorted({f"{kind.partition('.')[0]}.*" for kind in kinds}), *kinds]


KindPatterns = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="KIND",
        autocompletion=completer(_kinds),
        help="Of this kind, like call.ended or 'call.*'; may be given again.",
    ),
]
Subject = Annotated[
    str | None, typer.Option("--subject", metavar="ID", help="About this: a call's id, a seller's name.")
]


def row(event: Event, names: Names) -> Row:
    """An event as it is printed."""
    from capconduit.outward.envelope import outward_data
    from capconduit.services.events import data_of

    data = outward_data(data_of(event))
    return {
        "id": event.id, "at_ms": event.at_ms, "kind": event.kind, "subject": event.subject,
        "name": names.of(event) or None, "data": data, "told": "  ".join(_told(data)),
    }  # fmt: skip


def line(event: Event, names: Names) -> str:
    """An event as people read it."""
    from capconduit.outward.envelope import outward_data
    from capconduit.services.events import data_of

    told = "  ".join(_told(outward_data(data_of(event))))
    return f"{format_instant(event.at_ms)}  {event.kind:18}  {names.of(event) or event.subject}  {told}".rstrip()


def _told(data: Mapping[str, Any]) -> Iterator[str]:
    """`name=value`; money without needless zeros, and nothing where there is no value.

    Whether an event came from the database or from the daemon's stream makes no difference.
    """
    for name, value in data.items():
        if value in (None, "", [], {}):
            continue
        if isinstance(value, str) and _DECIMAL.fullmatch(value):
            yield f"{name}={format_micros(parse_money(value, signed=True), trim=True)}"
        else:
            yield f"{name}={value}"


def _wish(made: Office, kinds: list[str] | None, subject: str | None) -> Wish:
    from capconduit.services.events import Wish, check_kinds, subjects_of

    return Wish(tuple(check_kinds(kinds or ())), subjects_of(made, subject) if subject else ())


@app.verb(
    "list",
    "capconduit event list --kind call.rejected --since yesterday",
    "capconduit event list --subject 01J9ZC3V9KQ5J7T1D2X8W4M6NB --json",
    "capconduit event list --kind 'target.*' --limit 20",
)
def list_(
    ctx: typer.Context,
    out: RecentOutput,
    kind: KindPatterns = None,
    subject: Subject = None,
    since: Annotated[int | None, instant_option("--since", help="Events of this time or later.")] = None,
    until: Annotated[int | None, instant_option("--until", help="Events before this time.")] = None,
) -> None:
    """List events, the newest first."""
    from capconduit.services.events import Names, list_events

    made = office(ctx)
    names = Names(made)
    found = list_events(made, _wish(made, kind, subject), since_ms=since, until_ms=until)
    columns = LIST_COLUMNS if out.format is OutputFormat.TABLE else COLUMNS
    emit_recent(found, lambda event: row(event, names), columns, out)


@app.verb("show", "capconduit event show 01J9ZC3V9KQ5J7T1D2X8W4M6NB")
def show(
    ctx: typer.Context,
    event: Annotated[str, typer.Argument(metavar="ID", help="From `capconduit event list`.")],
    out: ShowOutput,
) -> None:
    """Show one event."""
    from capconduit.services.events import Names, show_event

    made = office(ctx)
    emit_one(row(show_event(made, event), Names(made)), COLUMNS, out)


@app.verb(
    "tail",
    "capconduit event tail",
    "capconduit event tail -f --kind 'call.*'",
    "capconduit event tail -f --since -1h --json",
    "capconduit event tail -f --after 01J9ZC3V9KQ5J7T1D2X8W4M6NB --json",
)
def tail(
    ctx: typer.Context,
    out: ShowOutput,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until interrupted.")] = False,
    number: Annotated[
        int | None,
        typer.Option(
            "--number", "-n", metavar="N", min=0, help="Begin with the last N events.", show_default=str(BACKLOG)
        ),
    ] = None,
    kind: KindPatterns = None,
    subject: Subject = None,
    since: Annotated[int | None, instant_option("--since", help="Begin with the events since then.")] = None,
    after: Annotated[str | None, typer.Option("--after", metavar="ID", help="Begin behind this event.")] = None,
) -> None:
    """Show the last events, the oldest first, and with -f those that come.

    They come from the daemon as they happen; where it is away, from the database once a second, and that is said. None
    is left out or told twice, also when the daemon is started anew. --json gives one object a line; a script that was
    ended goes on with --after and the last id it has seen.
    """
    from capconduit.services.events import Names
    from capconduit_cli.control_follow import Follower

    if sum(given is not None for given in (number, since, after)) > 1:
        raise UsageError("tail-conflict", "--number, --since and --after exclude each other", "give one")
    made = office(ctx)
    wish, names = _wish(made, kind, subject), Names(made)
    last_id = _newest_id(made)
    backlog = _backlog(made, wish, BACKLOG if number is None else number, since, after)

    def events() -> Iterator[Event]:
        follower = None
        if follow:
            follower = Follower(made, state(ctx).config.control.socket, wish, (after or last_id).strip().upper())
        for event in backlog:
            if follower is not None:
                follower.told(event.id)
            yield event
        if follower is not None:
            yield from follower.follow()

    if out.format is OutputFormat.TABLE and not out.fields:
        for event in events():
            emit_text([line(event, names)])
            sys.stdout.flush()
    else:
        _emit(events(), names, out)


def _emit(events: Iterable[Event], names: Names, out: ShowOutput) -> None:
    """One line for each, written out before the next is waited for."""
    from capconduit_cli.output import ListOutput

    def flushed() -> Iterator[Row]:
        for event in events:
            yield row(event, names)
            sys.stdout.flush()

    form = OutputFormat.JSONL if out.format is OutputFormat.JSON else out.format
    emit_rows(flushed(), COLUMNS, ListOutput(output=form, fields=out.fields))


def _newest_id(made: Office) -> str:
    """Of all events there are; the instant now where there is none."""
    from capconduit.ids import ulid
    from capconduit.services.events import Wish, list_events

    newest = next(list_events(made, Wish(), page=1), None)
    return newest.id if newest else ulid(made.clock.now_ms(), 0)


def _backlog(made: Office, wish: Wish, number: int, since_ms: int | None, after: str | None) -> Iterable[Event]:
    """What to begin with, the oldest first."""
    from capconduit.ids import is_ulid, ulid
    from capconduit.services.events import each_event, list_events

    if after is not None:
        last = after.strip().upper()
        if not is_ulid(last):
            raise UsageError("event-id-invalid", f"{after!r} is no id of an event", "from `capconduit event list`")
        return (event for event in each_event(made, wish, last) if event.id != last)
    if since_ms is not None:
        return each_event(made, wish, ulid(since_ms, 0))
    return list(itertools.islice(list_events(made, wish), number))[::-1]
