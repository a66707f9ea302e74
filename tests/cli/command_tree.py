"""The whole command tree for tests that loop over it: every command with its options and examples, and an estate in
which the names of the examples are there."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from capconduit_cli.app import NOUNS, PROGRAM, build_root, load_noun
from capconduit_cli.typer_seam import ClickCommand, Context, Group, examples_of
from tests.cli.estate import database, engine, walk
from tests.cli.runner import Result, run

# What a word of an example stands for when it is followed by this: the rest is the shell's.
_SHELL: Final = ("|", ">", "<", ">>", "2>", "&&", ";", "#")

# More of the estate than the walk has, so that examples find what they name. What a command line that is not there yet
# refuses is left out: whoever adds the noun adds its things here.
PREPARED: Final[tuple[str, ...]] = (
    "target add buyer2 --kind pjsip --address sip:buyer@127.0.0.1:5081",
    "rule add solar buyer2 --priority 2",
    "rate add pay --per-minute 0.12 --increment 1/1",
    "schedule add office --hours 'mon-fri 09:00-18:00'",
    "block add +12125550199 --reason spam",
    "user add anna",
    "provider add main --kind openai --model gpt-4o-realtime-preview --voice alloy --key env:OPENAI_API_KEY",
    "provider add local --kind ollama --model llama3.1",
    "agent add reception --provider main --instructions 'Be kind.'",
)
UNIQUEID: Final = "1763726400.17"  # the call of the examples


TALK_MS: Final = 61_000


@dataclass(frozen=True)
class Leaf:
    """One command: `seller add`, `init`."""

    noun: str
    verb: str
    command: ClickCommand

    @property
    def path(self) -> str:
        """`seller add`."""
        return f"{self.noun} {self.verb}".strip()

    @property
    def options(self) -> set[str]:
        """Names of its options."""
        return {name for param in self.command.params for name in param.opts if name.startswith("-")}

    @property
    def examples(self) -> list[list[str]]:
        """Its examples as arguments of the program, without what the shell does."""
        return [argv for line in examples_of(self.command) if (argv := _argv(line))]


def _argv(line: str) -> list[str]:
    words = shlex.split(line)
    while PROGRAM in words:  # the last of a pipe
        words = words[words.index(PROGRAM) + 1 :]
    end = next((n for n, word in enumerate(words) if word in _SHELL), len(words))
    return words[:end]


@cache
def leaves() -> tuple[Leaf, ...]:
    """Every command there is, in the order of the help."""
    return tuple(_leaves())


def _leaves() -> Iterator[Leaf]:
    root = build_root()
    context = root.make_context(PROGRAM, [], resilient_parsing=True)
    for noun in NOUNS:
        command = root.get_command(context, noun.name)
        assert command is not None
        if isinstance(command, Group):
            yield from (Leaf(noun.name, verb, one) for verb, one in command.commands.items())
        else:
            yield Leaf(noun.name, "", command)


def parsed(argv: list[str]) -> Context:
    """The context of the command that `argv` calls: values are read, nothing is run. Raises what a wrong line does."""
    root: Any = build_root()
    context = root.make_context(PROGRAM, list(argv))
    command: Any = root
    rest = [*context._protected_args, *context.args] if hasattr(context, "_protected_args") else list(context.args)
    while isinstance(command, Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        context = found.make_context(name, rest, parent=context)
        command = found
        rest = [*getattr(context, "_protected_args", []), *context.args]
    made: Context = context
    return made


@contextmanager
def at_home(home: Path) -> Iterator[None]:
    """The machine's own configuration is out of reach, and each noun is built once: that is most of a short command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capconduit.config.SYSTEM_FILE", home / "etc" / "config.toml")
        patch.setattr("capconduit_cli.app.load_noun", _built)
        yield


_built = cache(load_noun)


def prepare(home: Path) -> Path:
    """The estate of the examples in `home`."""
    walk(home)
    for line in PREPARED:
        run(*shlex.split(line), home=home)
    with engine(home) as calls:
        calls.arrive(UNIQUEID)
        calls.answer(UNIQUEID)
        calls.clock.at_ms += TALK_MS
        calls.end(UNIQUEID, answered_for_ms=TALK_MS)
    return home


class Prepared:
    """A prepared home whose database and configuration (`etc/config.toml`) are put back before each command line."""

    def __init__(self, home: Path) -> None:
        self.home = prepare(home)
        self._kept = home / "kept.sqlite"
        self._file = database(home)
        self._settle()
        shutil.copyfile(self._file, self._kept)
        self._config = home / "etc" / "config.toml"
        self._config_text = self._config.read_text("utf-8")
        self.ended: dict[str, Result] = {}  # what was run already, by the command line

    def anew(self) -> Path:
        """The home, as it was when it was prepared."""
        for suffix in ("-wal", "-shm"):
            self._file.with_name(self._file.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(self._kept, self._file)
        self._config.write_text(self._config_text, "utf-8")
        return self.home

    def _settle(self) -> None:
        """Everything is in the one file."""
        import sqlite3

        with sqlite3.connect(self._file) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
