"""`capconduit webhook`: who is given events, over HTTP or by a command."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import PeerError, UsageError
from capconduit.vocab import DeliveryState, ReceiverStatus
from capconduit_cli.names import NewName, name_argument
from capconduit_cli.office import NOTHING_CHANGED, destroy, emit_change, names_in_office, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import DryRun, Offer, Yes
from capconduit_cli.rows import ENTITY_COLUMNS, RecentOutput, emit_recent, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capconduit.domain.deliveries import Delivery
    from capconduit.domain.outgoing import Outcome
    from capconduit.services.office import Office
    from capconduit.services.webhooks import WebhookView

app = NounApp(
    "A webhook is given what happens from the moment it is added: by signed HTTP requests to a URL, or by a command"
    " that reads the event on its standard input. The daemon delivers, each event at least once and under one id, those"
    " of a call in their order; what is not taken is tried again, and parked in the end. docs/events.md describes what"
    " is sent, docs/notifications.md how to check its signature."
)

COLUMNS: Final = (
    Column("name"),
    Column("kind"),
    Column("address"),
    Column("kinds", Kind.NAMES),
    Column("status"),
    Column("waiting", Kind.INT),
    Column("parked", Kind.INT),
    Column("delivered", Kind.INT),
    Column("error"),
    Column("secrets", Kind.NAMES, shown=False),
    *ENTITY_COLUMNS,
)
DELIVERY_COLUMNS: Final = (
    Column("event"),
    Column("event_kind"),
    Column("lane"),
    Column("state"),
    Column("tries", Kind.INT),
    Column("made", Kind.INSTANT, source="made_ms"),
    Column("done", Kind.INSTANT, source="done_ms"),
    Column("answer"),
)
TEST_COLUMNS: Final = (
    Column("name"),
    Column("delivered", Kind.BOOL),
    Column("answer"),
    Column("took_ms", Kind.INT),
    Column("event"),
)


def _names(made: Office) -> Iterable[Offer]:
    from capconduit.services.webhooks import list_webhooks

    return ((view.webhook.name, view.webhook.kinds) for view in list_webhooks(made))


WEBHOOKS: Final = names_in_office(_names)
WebhookName = Annotated[str, name_argument(WEBHOOKS, "WEBHOOK", "The webhook's name.")]
Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="COMMAND", help="Instead of a URL, after --: an absolute path and its arguments."),
]
Url = Annotated[str, typer.Option("--url", metavar="URL", help="Where events are posted.")]
KINDS_HELP: Final = "Which events: call.ended, call.*, '*'; several with commas."
SECRET_HELP: Final = "Where a secret is that signs: env:NAME or file:/path, as the daemon sees it. Several all sign."


def row(view: WebhookView) -> Row:
    """A webhook as it is printed."""
    from capconduit.outward.receivers import shown

    hook = view.webhook
    return {
        "name": hook.name,
        "kind": hook.kind,
        "address": shown(hook.address),
        "kinds": hook.kinds.split(","),
        "status": hook.status,
        "waiting": view.waiting,
        "parked": view.parked,
        "delivered": view.delivered,
        "error": view.error,
        "secrets": hook.secrets.split(),
        **entity_values(hook),
    }


def delivery_row(delivery: Delivery) -> Row:
    """A delivery as it is printed."""
    return {
        "event": delivery.event_id,
        "event_kind": delivery.kind,
        "lane": delivery.lane,
        "state": delivery.state,
        "tries": delivery.tries,
        "made_ms": delivery.made_ms,
        "done_ms": delivery.done_ms,
        "answer": delivery.answer,
    }


@app.verb(
    "add",
    "capconduit webhook add crm --url https://crm.example.net/hook --kind 'call.*' --secret env:CRM_HOOK",
    "capconduit webhook add money --url https://books.example.net/in --kind balance.changed,balance.low"
    " --secret file:/etc/capconduit/books.secret",
    "capconduit webhook add pager --kind abuse.detected,target.rested -- /usr/local/bin/page --team ops",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    command: Command = None,
    kind: Annotated[list[str], typer.Option("--kind", metavar="KINDS", help=KINDS_HELP)] = [],  # noqa: B006  # Typer's form
    url: Url = "",
    secret: Annotated[list[str], typer.Option("--secret", metavar="REFERENCE", help=SECRET_HELP)] = [],  # noqa: B006
    dry_run: DryRun = False,
) -> None:
    """Give events to a URL or a command, from now on.

    Requests are signed, so a URL needs a secret. A command runs as the daemon's user, without a shell and without the
    daemon's environment.
    """
    from capconduit.outward.receivers import is_plain
    from capconduit.services.webhooks import add_webhook

    made = office(ctx, dry_run=dry_run)
    view = add_webhook(made, name, url=url, command=tuple(command or ()), kinds=kind or ["*"], secrets=secret)
    emit_change(made, row(view), COLUMNS, out)
    if url and is_plain(url):
        notice("what is posted there can be read on its way: use https")


@app.verb("list", "capconduit webhook list", "capconduit webhook list --filter status=paused --json")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the webhooks, and what waits for them."""
    from capconduit.services.webhooks import list_webhooks

    emit_rows((row(view) for view in list_webhooks(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit webhook show crm --json")
def show(ctx: typer.Context, name: WebhookName, out: ShowOutput) -> None:
    """Show one webhook."""
    from capconduit.services.webhooks import show_webhook

    emit_one(row(show_webhook(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set",
    "capconduit webhook set crm --kind call.ended,call.rejected",
    "capconduit webhook set crm --secret env:CRM_HOOK_NEW --secret env:CRM_HOOK",
)
def set_(
    ctx: typer.Context,
    name: WebhookName,
    out: ChangeOutput,
    command: Command = None,
    kind: Annotated[list[str], typer.Option("--kind", metavar="KINDS", help=KINDS_HELP)] = [],  # noqa: B006
    url: Url = "",
    secret: Annotated[list[str], typer.Option("--secret", metavar="REFERENCE", help=SECRET_HELP)] = [],  # noqa: B006
    dry_run: DryRun = False,
) -> None:
    """Change where events go, which, or what signs them; what waits goes by the new word.

    The secrets that are given replace those that were: to exchange one, give the new one and the old one, change the
    receiver, then give the new one alone.
    """
    from capconduit.services.webhooks import set_webhook

    if not (command or kind or url or secret):
        raise UsageError("nothing-to-set", f"nothing was said to change on webhook {name!r}", "see --help")
    made = office(ctx, dry_run=dry_run)
    view = set_webhook(made, name, url=url, command=tuple(command or ()), kinds=kind, secrets=secret or None)
    emit_change(made, row(view), COLUMNS, out)


@app.verb("pause", "capconduit webhook pause crm")
def pause(ctx: typer.Context, name: WebhookName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Keep its events until it is resumed, as long as webhook_keep_days says."""
    _put(ctx, name, out, dry_run, ReceiverStatus.PAUSED)


@app.verb("resume", "capconduit webhook resume crm")
def resume(ctx: typer.Context, name: WebhookName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Give it what waited, and what happens."""
    _put(ctx, name, out, dry_run, ReceiverStatus.ACTIVE)


def _put(ctx: typer.Context, name: str, out: ChangeOutput, dry_run: bool, status: ReceiverStatus) -> None:
    from capconduit.services.webhooks import set_webhook

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_webhook(made, name, status=status)), COLUMNS, out)


@app.verb("remove", "capconduit webhook remove crm --yes")
def remove(ctx: typer.Context, name: WebhookName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Give it nothing more; what waits for it is forgotten."""
    from capconduit.services.webhooks import remove_webhook

    destroy(office(ctx), f"webhook {name}", lambda made: remove_webhook(made, name), yes=yes, dry_run=dry_run)


@app.verb("test", "capconduit webhook test crm", "capconduit webhook test crm --json")
def test(ctx: typer.Context, name: WebhookName, out: ChangeOutput) -> None:
    """Send it an event of the kind webhook.test at once, from here, and say what came of it.

    Secrets are looked up in this command's environment, not in the daemon's. Exit code 4 where it was not taken.
    """
    from capconduit.services.webhooks import show_webhook, test_message

    made = office(ctx)
    hook = show_webhook(made, name).webhook
    message = test_message(made, hook)
    seconds = made.read(lambda desk: desk.settings()).webhook_timeout_s
    outcome = asyncio.run(send_now(hook.kind.value, hook.address, hook.secrets, message, seconds))
    told = {"name": name, "delivered": outcome.delivered, "answer": outcome.answer, "took_ms": outcome.took_ms}
    emit_one({**told, "event": message["id"]}, TEST_COLUMNS, out)
    if not outcome.delivered:
        raise PeerError(
            "webhook-refused", f"webhook {name!r} did not take it: {outcome.answer}", "look at the receiver"
        )


async def send_now(way: str, address: str, secrets: str, message: dict[str, object], seconds: int) -> Outcome:
    """One try, without the daemon."""
    from capconduit.outward.envelope import encode
    from capconduit.outward.receivers import HttpSender, Secrets, run_command
    from capconduit.vocab import ReceiverKind

    body = encode(message)
    if way == ReceiverKind.COMMAND.value:
        path = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL", "TZ")}
        about = {"CAPCONDUIT_EVENT_ID": str(message["id"]), "CAPCONDUIT_EVENT_KIND": str(message["kind"])}
        return await run_command(address, body, seconds, path | about | {"CAPCONDUIT_EVENT_ATTEMPT": "1"})
    sender = HttpSender(Secrets(os.environ), 1)
    try:
        return await sender.post(address, secrets, message, body, 1, seconds)
    finally:
        await sender.close()


@app.verb(
    "deliveries",
    "capconduit webhook deliveries crm",
    "capconduit webhook deliveries crm --state parked --json",
)
def deliveries(
    ctx: typer.Context,
    name: WebhookName,
    out: RecentOutput,
    state: Annotated[DeliveryState | None, typer.Option("--state", help="Only those.", show_default="all")] = None,
) -> None:
    """List what went to a webhook, waits for it, or is parked, the newest first."""
    from capconduit.services.webhooks import deliveries as find

    limit = None if out.filter or out.sort else out.limit + 1  # one more than is shown, to know of more
    emit_recent(find(office(ctx), name, state=state, limit=limit), delivery_row, DELIVERY_COLUMNS, out)


@app.verb("retry", "capconduit webhook retry crm", "capconduit webhook retry crm --event 01KAH7Z5R3M2C9W8X1Y4T6V0QN")
def retry(
    ctx: typer.Context,
    name: WebhookName,
    event: Annotated[str, typer.Option("--event", metavar="ID", help="Only the lane of this event.")] = "",
    dry_run: DryRun = False,
) -> None:
    """Send at once what is parked or waits for its next try, with all its tries again."""
    from capconduit.services.webhooks import retry_webhook

    lanes = retry_webhook(office(ctx, dry_run=dry_run), name, event_id=event.strip().upper())
    notice(f"{lanes} lanes of {name} are due now" if lanes else f"nothing of {name} was parked or waiting")
    if dry_run:
        notice(NOTHING_CHANGED)
