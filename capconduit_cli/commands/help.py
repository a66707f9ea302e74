"""`capconduit help`: a matter explained in the terminal, from the Markdown files in capconduit_cli/topics."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import typer

from capconduit.errors import UsageError
from capconduit_cli.app import NOUNS, PROGRAM, CliState
from capconduit_cli.params import Offer, completer
from capconduit_cli.typer_seam import single

TOPICS: Final = Path(__file__).resolve().parent.parent / "topics"
SUFFIX: Final = ".md"
WIDTH: Final = 100  # columns that are pleasant to read; a narrower terminal gets its own


def topics() -> list[str]:
    """The names of the topics."""
    return sorted(file.stem for file in TOPICS.glob(f"*{SUFFIX}"))


def title(topic: str) -> str:
    """The heading of a topic."""
    with (TOPICS / f"{topic}{SUFFIX}").open(encoding="utf-8") as text:
        return text.readline().removeprefix("#").strip()


def _names(_: CliState) -> Iterable[Offer]:
    return [(topic, title(topic)) for topic in topics()]


@single("capconduit help", "capconduit help caps", "capconduit help money | less")
def app(
    topic: Annotated[
        str,
        typer.Argument(
            metavar="[TOPIC]", help="One of those that `capconduit help` lists.", autocompletion=completer(_names)
        ),
    ] = "",
) -> None:
    """Explain a topic, or list the topics.

    Topics are calls, caps, dialplan, estate, money, output, rejects, retention, routing and times. In a pipe the text
    is Markdown.
    """
    if not topic:
        _list()
        return
    name = topic.strip().lower()
    if name not in topics():
        raise UsageError("topic-unknown", f"no topic {topic!r}", _hint(name))
    _show((TOPICS / f"{name}{SUFFIX}").read_text("utf-8"))


def _list() -> None:
    names = topics()
    width = max(map(len, names))
    lines = [f"  {PROGRAM} help {name.ljust(width)}  {title(name)}" for name in names]
    sys.stdout.write("\n".join(["Topics:", *lines, "", f"Commands: `{PROGRAM} --help`, `{PROGRAM} NOUN --help`.", ""]))


def _hint(name: str) -> str:
    """The nearest topic, or the command that was meant."""
    near = difflib.get_close_matches(name, topics(), 1)
    if any(noun.name == name for noun in NOUNS):
        topic = f"did you mean {near[0]!r}? " if near else ""
        return f"{topic}of commands see `{PROGRAM} {name} --help`"
    return f"did you mean {near[0]!r}?" if near else f"the topics are {', '.join(topics())}"


def _show(text: str) -> None:
    """Drawn on a terminal, as it is everywhere else."""
    if not sys.stdout.isatty():
        sys.stdout.write(text)
        return
    from rich.console import Console  # 60 ms, and only people on a terminal need it
    from rich.markdown import Markdown
    from rich.theme import Theme

    console = Console(file=sys.stdout, highlight=False, theme=Theme(_STYLES))
    console.width = min(console.width, WIDTH)
    console.print(Markdown(text, code_theme=_CODE, hyperlinks=False))


# The terminal's own colours: a background of ours is unreadable on somebody's screen.
_STYLES: Final = {"markdown.code": "bold", "markdown.h1": "bold", "markdown.table.header": "bold"}
_CODE: Final = "ansi_dark"
