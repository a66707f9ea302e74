"""capconduit-estate(5), written from the schema of estate files and what the manual says of their fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capconduit.estate_file.document import MAX_BYTES
from capconduit.estate_file.manual import ABOUT, EXAMPLE, FIELDS
from capconduit.estate_file.schema import NOUNS, Field, Noun

if TYPE_CHECKING:
    from capconduit_cli.docgen import Page

NAME = "capconduit-estate"
WHAT = "a whole estate as a file"

DESCRIPTION = f"""\
A TOML file in UTF-8, {MAX_BYTES // (1024 * 1024)} MiB at most, that says what an estate is to be. `capconduit export`
writes one, `capconduit plan` tells what would change, `capconduit apply` makes the estate what the file says: all of
it, or nothing, in one transaction. Applied a second time it changes nothing, and so does an export that is applied as
it is.

What a file does not name stays as it is: a field, and a whole thing. With `--prune`, things that the file does not name
are removed, what refers to others first; `apply` tells how many and asks. What has live calls or ledger entries is not
removed: then the whole file is refused. Settings and fields are never pruned.

Names stand for ids. Every name that is used must be in the file or, without `--prune`, in the estate. A name with
anything but letters, digits, `_` and `-` is quoted: [did."+18005550100"].

Balances, calls and the ledger are not part of it; neither are users, tokens, requests for numbers, webhooks and rules
of notifications, which belong to an installation and its people: `capconduit webhook list --json` and `capconduit
notification rules --json` tell those that there are, and `capconduit db backup` keeps all of it. Secrets are in it as
references only. It is the estate of one tenant, which `--tenant` selects and the file does not name."""

VALUES = """\
Amounts are texts like "0.20", without a currency: it is that of the rate or the seller. Whole amounts may be numbers.
Other numbers with a decimal point are refused, as they are not exact. Durations are texts like "90s", "1m30s" or "2h",
instants texts like "2026-12-31T00:00:00Z" or "2026-12-31"; without an offset they are in UTC.

Caps are a list of texts, each a metric, a limit and a window, as `capconduit cap set` takes them: "concurrent 10",
"cps 5", "billable 200/day", "minutes 500/week", "spend 25.50/month", "connected 1000/total", "attempts 50/rolling:1h".
The list is all the caps that the thing has; an empty one takes them away, none leaves them."""

RENAMING = """\
`renamed_from = "OLD"` in a table says that the thing was called OLD: it keeps its id, its counters, its money and its
live calls, and whatever refers to it follows. Where the new name is there already, it was done, so the line may stay.
Rates, schedules, trunks, sellers, providers, agents, targets and campaigns can be renamed. a may become b in the same
file in which b becomes c; two names cannot be exchanged in one step. Whatever the file says elsewhere uses the new
name."""

CONFLICTS = """\
An export notes when it was written (`exported`) and the last change that is in it (`changed`). Where a thing that the
file is to change, add or remove was changed, added or removed after that, by anybody and in whatever way, `apply` is
refused and names it and who did it; only what the same user changed by an earlier apply of the same file is no
conflict. `--force` overwrites. A file without these two lines, like one written by hand, is not checked. A change
between the plan that was shown and its apply is always refused."""

COMMENTS = """\
`capconduit export --comments-of FILE` keeps the comments of FILE: those before a table or a key, and behind it. A
comment within a list comes before its key; one whose table or key is gone is gone."""


def write(page: Page) -> None:
    """All of the page but its head and SEE ALSO."""
    page.heading("DESCRIPTION")
    page.text(DESCRIPTION)
    page.subheading("Values")
    page.text(VALUES)
    page.subheading("Renaming")
    page.text(RENAMING)
    page.subheading("Changes by others")
    page.text(CONFLICTS)
    page.subheading("Comments")
    page.text(COMMENTS)
    page.heading("TABLES")
    page.subheading("At the top")
    page.item("format = 1", "The form of this file.")
    page.item("exported, changed", "Written by an export; see above. Leave them as they are.")
    page.subheading("[settings]")
    page.text("Settings by name, as texts or whole numbers. See `capconduit setting list`.")
    page.subheading("[system]")
    page.item("caps = []", "Limits on all calls.")
    for noun in NOUNS:
        _noun(page, noun)
    page.heading("EXAMPLES")
    page.literal(EXAMPLE.splitlines())


def header_of(noun: Noun) -> str:
    """How a table of a noun begins: `[rule.CAMPAIGN.TARGET]`."""
    return {
        "rule": "[rule.CAMPAIGN.TARGET]",
        "did": '[did."+NUMBER"]',
        "block": "[[block]]",
    }.get(noun.name, f"[{noun.name}.NAME]")


def _noun(page: Page, noun: Noun) -> None:
    page.subheading(header_of(noun))
    page.text(ABOUT[noun.name])
    for name, form in noun.fields.items():
        help_text, default = FIELDS[noun.name][name]
        term = name if default is None else f"{name} = {default}"
        page.item(term, f"{help_text} {_notes(form)}")


def _notes(form: Field) -> str:
    """What is expected, and what is special."""
    notes = {"a new one needs it": form.needed, "cannot be changed": form.fixed}
    return f"({'; '.join([form.form.expected, *(note for note, holds in notes.items() if holds)])})"
