"""`capconduit block`: callers that are refused."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit.errors import UsageError
from capconduit_cli.bulk.importing import ListFile, Update, carry_out
from capconduit_cli.names import CAMPAIGNS, SELLERS, BlockName, name_option
from capconduit_cli.office import NOTHING_CHANGED, destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import DryRun, Expiry, Yes, expiry_option
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.blocks import BlockView, Entry, Where

REST_S: Final = 0.02  # between the steps of a list: calls are decided meanwhile
app = NounApp(
    "A pattern is a number in any notation, a prefix (+1212*), a number with ? for any one digit (+1212555????), or a"
    " caller as received that is no number (1001; anonymous: whoever withheld the number). It holds for the calls of"
    " everybody, or of one seller or campaign. A blocked caller is rejected with caller_blocked."
)

COLUMNS: Final = (
    Column("pattern"),
    Column("scope"),
    Column("name"),
    Column("reason"),
    Column("expires", Kind.INSTANT),
    Column("expired", Kind.BOOL),
    *ENTITY_COLUMNS,
)

SELLER_HELP: Final = "For the calls of this seller."
CAMPAIGN_HELP: Final = "For the calls of this campaign."
REASON_HELP: Final = "Why, in your words; `explain` says it."
MAX_LINE: Final = 1_000  # characters
OfSeller = Annotated[str | None, name_option("--seller", SELLERS, SELLER_HELP)]
OfCampaign = Annotated[str | None, name_option("--campaign", CAMPAIGNS, CAMPAIGN_HELP)]


def row(view: BlockView) -> Row:
    """A block as it is printed."""
    block = view.block
    return {
        "pattern": block.pattern,
        "scope": block.scope,
        "name": view.name,
        "reason": block.reason,
        "expires": block.expires_ms,
        "expired": view.expired,
        **entity_values(block),
    }


def _where(seller: str | None, campaign: str | None) -> Where:
    from capconduit.services.blocks import Where

    return Where(seller or "", campaign or "")


@app.verb(
    "add",
    "capconduit block add +12125550147 --reason 'rings and hangs up'",
    "capconduit block add '+1212555????' --campaign solar --expires 7d",
    "capconduit block add anonymous --seller acme",
    "capconduit block add --from-file robocallers.csv --reason 'list of May'",
)
def add(
    ctx: typer.Context,
    out: ChangeOutput,
    pattern: Annotated[str | None, typer.Argument(metavar="PATTERN", help="Whom to refuse; see above.")] = None,
    seller: OfSeller = None,
    campaign: OfCampaign = None,
    expires: Annotated[
        Expiry | None, expiry_option("--expires", help="Until when it holds.", show_default="never")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help=REASON_HELP)] = "",
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from-file", metavar="FILE|-", help="Patterns one a line, each with a reason after a comma if it has one."
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Block a caller, or a list of them: all or nothing, what is blocked already stays as it is.

    In a list empty lines and those that begin with # are passed by; all are looked at before the first is added.
    Prints the pattern as it is kept.
    """
    from capconduit.services.blocks import add_block, add_blocks

    where = _where(seller, campaign)
    made = office(ctx, dry_run=dry_run)
    more: dict[str, Any] = {"reason": reason, "expires_ms": (expires or Expiry(None)).at(made.clock.now_ms())}
    if (pattern is None) == (from_file is None):
        raise UsageError(
            "pattern-missing" if pattern is None else "pattern-twice",
            "whom to block?" if pattern is None else f"{pattern!r} and a file are too much at once",
            "give a pattern like +12125550147 or +1212*, or --from-file",
        )
    if pattern is not None:
        emit_change(made, row(add_block(made, pattern, where, **more)), COLUMNS, out)
        return
    assert from_file is not None  # one of both, as was looked at above
    added, there = add_blocks(made, list(_entries(from_file)), where, rest=lambda: time.sleep(REST_S), **more)
    notice(f"{added} are blocked now, {there} were already")
    if dry_run:
        notice(NOTHING_CHANGED)


def _entries(source: Path) -> Iterator[Entry]:
    """The lines of a file, or of standard input for `-`. Raises UsageError for what is no text."""
    from capconduit_cli.bulk.reader import read_text

    yield from _read(io.StringIO(read_text(source)))


def _read(lines: Iterable[str]) -> Iterator[Entry]:
    from capconduit.services.blocks import Entry

    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if len(text) > MAX_LINE or not text.isprintable():
            raise UsageError("file-invalid", f"line {number} is no pattern", "write one pattern a line")
        pattern, *rest = next(csv.reader([text], skipinitialspace=True))
        yield Entry(number, pattern.strip(), ",".join(rest).strip())


@app.verb(
    "import",
    "capconduit block import blocks.csv --dry-run",
    "capconduit block import blocks.csv --update",
)
def import_(
    ctx: typer.Context, source: ListFile, out: ChangeOutput, update: Update = False, dry_run: DryRun = False
) -> None:
    """Add the blocks of a list: pattern, and if wanted scope with name (seller, campaign), reason, expires.

    The first line names the columns, in any order; a list that `block list -o csv` wrote is one. All or nothing: where
    any line is wrong, all that are wrong are told and nothing changes. With --update the reason and the end of those
    that hold already become what their line says. Many thousand patterns are better added by `add --from-file`.
    """
    from capconduit.services.bulk_blocks import COLUMNS as LISTED
    from capconduit.services.bulk_blocks import import_blocks

    carry_out(ctx, source, LISTED, import_blocks, out, update=update, dry_run=dry_run)


@app.verb("list", "capconduit block list", "capconduit block list --campaign solar --filter expired=no --json")
def list_(ctx: typer.Context, out: ListOutput, seller: OfSeller = None, campaign: OfCampaign = None) -> None:
    """List the blocks: all, or those of one seller or campaign. Expired ones hold no more."""
    from capconduit.services.blocks import list_blocks

    emit_rows((row(view) for view in list_blocks(office(ctx), _where(seller, campaign))), COLUMNS, out)


@app.verb("show", "capconduit block show +12125550147", "capconduit block show '+1212*' --campaign solar")
def show(
    ctx: typer.Context, block: BlockName, out: ShowOutput, seller: OfSeller = None, campaign: OfCampaign = None
) -> None:
    """Show one block, named by its pattern."""
    from capconduit.services.blocks import show_block

    emit_one(row(show_block(office(ctx), block, _where(seller, campaign))), COLUMNS, out)


@app.verb(
    "set",
    "capconduit block set +12125550147 --expires 30d",
    "capconduit block set +12125550147 --expires never --reason 'did it again'",
)
def set_(
    ctx: typer.Context,
    block: BlockName,
    out: ChangeOutput,
    seller: OfSeller = None,
    campaign: OfCampaign = None,
    expires: Annotated[Expiry | None, expiry_option("--expires", help="Until when it holds.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help=REASON_HELP)] = None,
    dry_run: DryRun = False,
) -> None:
    """Change until when a block holds, or its reason."""
    from capconduit.services.blocks import set_block

    fields = given("block", block, expires=expires, reason=reason)
    made = office(ctx, dry_run=dry_run)
    if expires is not None:
        fields["expires_ms"] = fields.pop("expires").at(made.clock.now_ms())
    emit_change(made, row(set_block(made, block, _where(seller, campaign), **fields)), COLUMNS, out)


@app.verb("remove", "capconduit block remove +12125550147 --yes")
def remove(
    ctx: typer.Context,
    block: BlockName,
    seller: OfSeller = None,
    campaign: OfCampaign = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Remove a block: the caller gets through again."""
    from capconduit.services.blocks import remove_block

    where = _where(seller, campaign)
    destroy(office(ctx), f"block {block}", lambda made: remove_block(made, block, where), yes=yes, dry_run=dry_run)
