"""`capconduit notification`: what users should know, and how they are told."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import PeerError, UsageError
from capconduit.vocab import NoticeChannel, NoticeKind
from capconduit_cli.app import state
from capconduit_cli.names import SELLERS, NewName, name_argument, name_option
from capconduit_cli.office import NOTHING_CHANGED, destroy, emit_change, names_in_office, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import DryRun, Offer, Yes
from capconduit_cli.rows import ENTITY_COLUMNS, RecentOutput, emit_recent, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from capconduit.domain.deliveries import Notification, NotificationRule
    from capconduit.domain.outgoing import Outcome
    from capconduit.services.notifications import RuleView
    from capconduit.services.office import Office

app = NounApp(
    "A rule says of which kinds a user is told, and how: by e-mail, a signed HTTP request, a command, or in the list"
    " alone. `add`, `set`, `remove` and `test` are about rules, `list`, `show` and `read` about what was told. Each"
    " occasion is told once: a low balance until it has risen, a cap once in its window. The kinds:"
    f" {', '.join(NoticeKind)}."
)

COLUMNS: Final = (
    Column("id"),
    Column("at", Kind.INSTANT, source="at_ms"),
    Column("user"),
    Column("kind"),
    Column("text"),
    Column("read", Kind.BOOL),
    Column("subject", shown=False),
    Column("read_at", Kind.INSTANT, source="read_ms", shown=False),
    Column("data", Kind.ANY, shown=False),
)
RULE_COLUMNS: Final = (
    Column("name"),
    Column("user"),
    Column("kinds", Kind.NAMES),
    Column("channel"),
    Column("address"),
    Column("seller"),
    Column("unread", Kind.INT),
    Column("secrets", Kind.NAMES, shown=False),
    *ENTITY_COLUMNS,
)
TEST_COLUMNS: Final = (
    Column("name"),
    Column("channel"),
    Column("delivered", Kind.BOOL),
    Column("answer"),
    Column("took_ms", Kind.INT),
)
KINDS_HELP: Final = "Of what: balance.low, cap.*, '*'; several with commas."
TO_HELP: Final = "An e-mail address, or a URL. Without it an e-mail goes to the user's own address."
SECRET_HELP: Final = "Where the secret is that signs: env:NAME or file:/path, as the daemon sees it."


def _rules(made: Office) -> Iterable[Offer]:
    from capconduit.services.notifications import list_rules

    return ((view.rule.name, f"{view.rule.channel} {view.rule.kinds}") for view in list_rules(made))


def _users(made: Office) -> Iterable[Offer]:
    from capconduit.services.notifications import list_rules

    return dict.fromkeys(view.rule.user_name for view in list_rules(made))


RULES: Final = names_in_office(_rules)
USERS: Final = names_in_office(_users)
RuleName = Annotated[str, name_argument(RULES, "RULE", "The rule's name.")]
Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="COMMAND", help="Of --channel command, after --: an absolute path and its arguments."),
]
Channel = Annotated[NoticeChannel | None, typer.Option("--channel", help="How the user is told.", show_default="list")]
To = Annotated[str, typer.Option("--to", metavar="ADDRESS", help=TO_HELP)]


def row(told: Notification) -> Row:
    """A notification as it is printed."""
    from capconduit.domain.outgoing import data_of
    from capconduit.outward.envelope import outward_data

    return {
        "id": told.id,
        "at_ms": told.at_ms,
        "user": told.user_name,
        "kind": told.kind,
        "text": told.text,
        "read": told.read_ms is not None,
        "subject": told.subject,
        "read_ms": told.read_ms,
        "data": outward_data(data_of(told.data)),
    }


def rule_row(view: RuleView, unread: int = 0) -> Row:
    """A rule as it is printed."""
    from capconduit.outward.receivers import shown

    rule = view.rule
    return {
        "name": rule.name,
        "user": rule.user_name,
        "kinds": rule.kinds.split(","),
        "channel": rule.channel,
        "address": shown(rule.address),
        "seller": view.seller,
        "unread": unread,
        "secrets": rule.secrets.split(),
        **entity_values(rule),
    }


@app.verb("list", "capconduit notification list", "capconduit notification list --unread --user ops --json")
def list_(
    ctx: typer.Context,
    out: RecentOutput,
    user: Annotated[str | None, name_option("--user", USERS, "Only those of this user.")] = None,
    unread: Annotated[bool, typer.Option("--unread", help="Only those that were not read.")] = False,
) -> None:
    """List what users were told, the newest first, and how much of it is unread."""
    from capconduit.services.notifications import list_notifications, unread_counts

    made = office(ctx)
    limit = None if out.filter or out.sort else out.limit + 1  # one more than is shown, to know of more
    found = list_notifications(made, user=user or "", unread=unread, limit=limit)
    emit_recent(found, row, COLUMNS, out)
    counts = {name: count for name, count in unread_counts(made).items() if not user or name == user}
    if counts:
        notice("unread: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))


@app.verb("show", "capconduit notification show 01KAH7Z5R3M2C9W8X1Y4T6V0QN")
def show(
    ctx: typer.Context,
    notification: Annotated[str, typer.Argument(metavar="ID", help="Its id; the end of one is enough.")],
    out: ShowOutput,
) -> None:
    """Show one notification; it stays unread."""
    from capconduit.services.notifications import show_notification

    emit_one(row(show_notification(office(ctx), notification)), COLUMNS, out)


@app.verb(
    "read",
    "capconduit notification read 01KAH7Z5R3M2C9W8X1Y4T6V0QN",
    "capconduit notification read --all --user ops",
)
def read(
    ctx: typer.Context,
    notification: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Their ids; the end of one is enough.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them, or all of --user.")] = False,
    user: Annotated[str | None, name_option("--user", USERS, "With --all: those of this user.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Say that notifications were read."""
    from capconduit.services.notifications import read_notifications

    if bool(notification) == all_:
        raise UsageError("notification-unclear", "give ids, or --all", "see `capconduit notification list --unread`")
    made = office(ctx, dry_run=dry_run)
    count = read_notifications(made, tuple(notification or ()), user=(user or "") if all_ else "")
    notice("1 notification is read now" if count == 1 else f"{count} notifications are read now")
    if dry_run:
        notice(NOTHING_CHANGED)


@app.verb("rules", "capconduit notification rules", "capconduit notification rules --json")
def rules(ctx: typer.Context, out: ListOutput) -> None:
    """List who is told of what, and how, with how much of it each user has not read."""
    from capconduit.services.notifications import list_rules, unread_counts

    made = office(ctx)
    unread = unread_counts(made)
    emit_rows((rule_row(view, unread.get(view.rule.user_name, 0)) for view in list_rules(made)), RULE_COLUMNS, out)


@app.verb(
    "add",
    "capconduit notification add ops --kind '*'",
    "capconduit notification add ops-mail --user ops --kind 'cap.*,daemon.lost,ami.down' --channel email"
    " --to ops@example.net",
    "capconduit notification add acme-low --user acme --seller acme --kind balance.low --channel email"
    " --to owner@acme.example",
    "capconduit notification add pager --user ops --kind daemon.lost --channel command -- /usr/local/bin/page ops",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    command: Command = None,
    kind: Annotated[list[str], typer.Option("--kind", metavar="KINDS", help=KINDS_HELP)] = [],  # noqa: B006  # Typer's form
    user: Annotated[
        str,
        typer.Option(
            "--user",
            metavar="NAME",
            help="Who is told; several rules may tell one user.",
            show_default="the rule's name",
        ),
    ] = "",
    channel: Channel = None,
    to: To = "",
    secret: Annotated[list[str], typer.Option("--secret", metavar="REFERENCE", help=SECRET_HELP)] = [],  # noqa: B006
    seller: Annotated[str | None, name_option("--seller", SELLERS, "Only what concerns this seller.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Tell a user of something.

    A user of a seller is told of that seller alone. Without --channel it stands in the list, and nothing is sent.
    """
    from capconduit.services.notifications import add_rule, near_user

    made = office(ctx, dry_run=dry_run)
    near = near_user(made, user or name)
    view = add_rule(
        made, name, kinds=kind or ["*"], user=user, channel=channel or NoticeChannel.LIST, to=to,
        command=tuple(command or ()), secrets=secret, seller=seller or "",
    )  # fmt: skip
    emit_change(made, rule_row(view), RULE_COLUMNS, out)
    if near:
        notice(f"no user {user or name!r} was known before: did you mean {near!r}?")


@app.verb(
    "set", "capconduit notification set ops-mail --to noc@example.net", "capconduit notification set ops --kind 'cap.*'"
)
def set_(
    ctx: typer.Context,
    name: RuleName,
    out: ChangeOutput,
    command: Command = None,
    kind: Annotated[list[str], typer.Option("--kind", metavar="KINDS", help=KINDS_HELP)] = [],  # noqa: B006
    channel: Channel = None,
    to: To = "",
    secret: Annotated[list[str], typer.Option("--secret", metavar="REFERENCE", help=SECRET_HELP)] = [],  # noqa: B006
    dry_run: DryRun = False,
) -> None:
    """Change of what, or how, a rule tells."""
    from capconduit.services.notifications import set_rule

    if not (command or kind or channel or to or secret):
        raise UsageError("nothing-to-set", f"nothing was said to change on notification {name!r}", "see --help")
    made = office(ctx, dry_run=dry_run)
    view = set_rule(
        made, name, kinds=kind, channel=channel, to=to, command=tuple(command or ()), secrets=secret or None
    )  # fmt: skip
    emit_change(made, rule_row(view), RULE_COLUMNS, out)


@app.verb("remove", "capconduit notification remove ops-mail --yes")
def remove(ctx: typer.Context, name: RuleName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Tell no more by a rule; what was told stays in the list."""
    from capconduit.services.notifications import remove_rule

    destroy(office(ctx), f"notification rule {name}", lambda made: remove_rule(made, name), yes=yes, dry_run=dry_run)


@app.verb("test", "capconduit notification test ops-mail")
def test(ctx: typer.Context, name: RuleName, out: ChangeOutput) -> None:
    """Send a notification that tells of nothing by a rule's channel, at once, and say what came of it.

    Secrets are looked up in this command's environment, not in the daemon's. Exit code 4 where it was not taken.
    """
    from capconduit.services.notifications import show_rule

    made = office(ctx)
    rule = show_rule(made, name).rule
    seconds = made.read(lambda desk: desk.settings()).webhook_timeout_s
    outcome = _send(ctx, made, rule, seconds)
    told = {"name": name, "channel": rule.channel, "delivered": outcome.delivered, "answer": outcome.answer}
    emit_one({**told, "took_ms": outcome.took_ms}, TEST_COLUMNS, out)
    if not outcome.delivered:
        raise PeerError(
            "notification-refused",
            f"{rule.channel} of {name!r} did not take it: {outcome.answer}",
            "look at the receiver",
        )


def _send(ctx: typer.Context, made: Office, rule: NotificationRule, seconds: int) -> Outcome:
    from capconduit.domain.outgoing import Outcome
    from capconduit.mail import mail_settings
    from capconduit.outward.envelope import NOTICE_PREFIX, payload
    from capconduit.outward.receivers import send_notice
    from capconduit_cli.commands.webhook import send_now

    now_ms, id_ = made.clock.now_ms(), made.clock.new_id()
    text = f"this is a test of the notification rule {rule.name}"
    if rule.channel is NoticeChannel.LIST:
        return Outcome(True, "nothing is sent: it would stand in the list")
    if rule.channel is NoticeChannel.EMAIL:
        settings = mail_settings(state(ctx).config, os.environ)
        return send_notice(settings, rule.address, f"CapConduit: {text}", f"{text}.\n", now_ms, id_)
    data = {"user": rule.user_name, "text": text, "about": {}}
    message = payload(id_, f"{NOTICE_PREFIX}test", now_ms, made.tenant, rule.name, data)
    way = "command" if rule.channel is NoticeChannel.COMMAND else "http"
    return asyncio.run(send_now(way, rule.address, rule.secrets, message, seconds))
