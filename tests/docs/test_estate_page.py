"""capconduit-estate(5) says every table and field of an estate file, and shows the example that a test applies."""

from __future__ import annotations

import pytest

from capconduit.estate_file.document import parse
from capconduit.estate_file.manual import EXAMPLE, FIELDS
from capconduit.estate_file.schema import NOUNS
from capconduit_cli import estate_page
from capconduit_cli.app import NOUNS as NOUNS_OF_PROGRAM
from capconduit_cli.docgen import REPOSITORY, Page, generated


@pytest.fixture(scope="module")
def page() -> str:
    made = Page(estate_page.NAME, 5, estate_page.WHAT)
    estate_page.write(made)
    return made.render()


def plain(roff: str) -> str:
    """The text of a page's source as it is read."""
    for written, read in (
        ("\\&", ""),
        ("\\-", "-"),
        ("\\(dq", '"'),
        ("\\(aq", "'"),
        ("\\(ga", "`"),
        ("\\fB", ""),
        ("\\fR", ""),
    ):
        roff = roff.replace(written, read)
    return roff


def test_the_page_of_the_repository_is_of_this_schema(page: str) -> None:
    kept = (REPOSITORY / "man/man5/capconduit-estate.5").read_text("utf-8")
    assert kept.startswith(page), "run python -m capconduit_cli.docgen --write"


def test_every_table_and_field_is_told_with_its_default_and_form(page: str) -> None:
    text = plain(page)
    for noun in NOUNS:
        start = text.index(f'.SS "{estate_page.header_of(noun)}"')
        section = text[start : text.find("\n.S", start + 1)]
        for name, form in noun.fields.items():
            default = FIELDS[noun.name][name][1]
            assert f"\n{name}\n" in section if default is None else f"\n{name} = {default}\n" in section
            assert " ".join(form.form.expected.split()[:2]) in " ".join(section.split())


def test_the_example_can_be_copied_from_the_page(page: str) -> None:
    lines = plain(page).split(".nf\n")[1].split("\n.fi")[0]
    assert parse(lines) == parse(EXAMPLE)


def test_every_option_that_the_page_names_is_one_of_the_commands() -> None:
    files = generated([noun for noun in NOUNS_OF_PROGRAM if noun.name in ("apply", "plan", "export")])
    pages = "".join(files[f"man/man1/capconduit-{noun}.1"] for noun in ("apply", "plan", "export"))
    for option in ("--prune", "--force", "--comments-of"):
        assert option.replace("-", "\\-") in pages
