"""`capconduit help`: topics are found, shown, quick to start, say what the program says, and their commands work."""

from __future__ import annotations

import re
import shlex
from enum import StrEnum
from pathlib import Path

import pytest

from capconduit.config import find_key
from capconduit.domain.settings import setting_descriptions
from capconduit.errors import ExitCode
from capconduit.services import retention
from capconduit.vocab import (
    REJECTS,
    CapMetric,
    CapScope,
    CcVariable,
    LedgerKind,
    RejectCode,
    Strategy,
    WindowKind,
)
from capconduit_cli.app import NOUNS
from capconduit_cli.commands.help import TOPICS, title, topics
from capconduit_cli.docgen import EXIT_STATUS
from capconduit_cli.reference import METRICS
from tests.cli.estate import done, engine, walk
from tests.cli.runner import run
from tests.cli.terminal import terminal
from tests.cli.test_framework_nouns import HEAVY, modules_after


def text_of(topic: str) -> str:
    return (TOPICS / f"{topic}.md").read_text("utf-8")


def in_code(topic: str) -> set[str]:
    """Every word that stands in backquotes."""
    return set(re.findall(r"`([^`\n]+)`", text_of(topic)))


def commands(topic: str) -> list[str]:
    return re.findall(r"^\$ capconduit (.+)$", text_of(topic), flags=re.MULTILINE)


def test_without_a_topic_all_are_listed_with_their_titles(home: Path) -> None:
    told = done("help", home=home).out
    for topic in topics():
        assert f"capconduit help {topic} " in told
        assert title(topic) in told


@pytest.mark.parametrize("topic", topics())
def test_a_topic_in_a_pipe_is_its_markdown(home: Path, topic: str) -> None:
    assert done("help", topic, home=home).out == text_of(topic)
    assert done("help", topic.upper(), home=home).out == text_of(topic)
    assert text_of(topic).startswith("# ")


def test_topics_are_listed_in_the_help_of_help_and_named_at_the_top(home: Path) -> None:
    told = " ".join(run("help", "--help", home=home).out.split())
    assert all(re.search(rf"\b{topic}\b", told) for topic in topics())
    [line] = [noun.help for noun in NOUNS if noun.name == "help"]
    named = re.findall(r"[a-z]+", line.split(":")[1])
    assert named
    assert set(named) <= set(topics())


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("mony", "'money'"),
        ("cap", "capconduit cap --help"),
        ("cap", "did you mean 'caps'?"),
        ("seller", "capconduit seller --help"),
        ("zzz", "calls, caps"),
    ],
)
def test_an_unknown_topic_offers_the_nearest_or_the_command(home: Path, word: str, hint: str) -> None:
    result = run("help", word, home=home)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert "[topic-unknown]" in result.err
    assert hint in result.err.splitlines()[1]


def test_help_needs_neither_a_database_nor_anything_heavy(home: Path) -> None:
    loaded = modules_after(home, "help", "caps")
    assert not loaded & HEAVY
    assert not {name for name in loaded if name.startswith(("capconduit.store", "capconduit.services"))}


def test_on_a_terminal_a_topic_is_drawn_within_its_width(home: Path) -> None:
    with terminal(home, "help", "caps", columns=60) as shown:
        assert shown.end() == ExitCode.DONE
    assert "# Caps" not in shown.plain
    assert "concurrent" in shown.plain
    assert max(len(line.rstrip()) for line in shown.plain.splitlines()) <= 60


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("caps", set(CapMetric)),
        ("caps", set(CapScope)),
        ("caps", {w for w in WindowKind if w not in (WindowKind.NONE, WindowKind.ROLLING)}),
        ("routing", set(Strategy)),
        ("money", set(LedgerKind)),
        ("rejects", set(RejectCode)),
        ("dialplan", set(CcVariable)),
    ],
)
def test_every_word_of_the_program_is_explained(topic: str, words: set[StrEnum]) -> None:
    assert {str(word) for word in words} <= in_code(topic)


def test_nothing_is_explained_that_the_program_has_not() -> None:
    assert {word for word in in_code("dialplan") if word.startswith("CC_")} == set(CcVariable)
    first = re.compile(r"^\| `([^`]+)` \|", flags=re.MULTILINE)
    assert set(first.findall(text_of("rejects"))) == set(RejectCode)
    assert set(first.findall(text_of("routing"))) == set(Strategy)
    assert set(first.findall(text_of("money"))) == set(LedgerKind)
    codes = re.findall(r"^\| (\d+) \|", text_of("output"), flags=re.MULTILINE)
    assert [int(code) for code in codes] == sorted(EXIT_STATUS)
    for topic in topics():
        for word in in_code(topic):
            if re.fullmatch(r"[a-z]+_[a-z_]+", word):
                known = word in setting_descriptions() or word in set(RejectCode)
                assert known, f"{topic}: {word} is neither a setting nor a reject reason"
            if re.fullmatch(r"(asterisk|database|node|ami|fastagi|control)\.[a-z_]+", word):
                find_key(word)


def test_rejects_and_metrics_are_explained_in_the_words_of_the_reference() -> None:
    for code in RejectCode:
        assert f"| `{code}` | {REJECTS[code][2]}" in text_of("rejects")
    for metric in CapMetric:
        assert f"| `{metric}` | {METRICS[metric].split(';')[0].split(':')[0]}" in text_of("caps"), metric


def test_the_window_that_looks_back_is_as_long_as_is_said() -> None:
    from capconduit.services.caps import ROLLING_MS

    assert ROLLING_MS == (10_000, 35 * 86_400_000)
    assert "from 10 seconds to 35 days" in text_of("caps")
    assert retention.FILE_ROWS  # the files that `retention` tells of


def test_topics_name_topics_that_are_there() -> None:
    for topic in topics():
        named = set(re.findall(r"`capconduit help ([a-z]+)`", text_of(topic)))
        assert named <= set(topics()), topic


@pytest.mark.parametrize("topic", topics())
def test_the_commands_of_a_topic_work(home: Path, topic: str) -> None:
    walk(home)
    with engine(home) as calls:
        call = calls.arrive("1.1").call_id
        calls.end("1.1", answered_for_ms=60_000)
    assert commands(topic), "a topic shows how"
    for line in commands(topic):
        words, _, file = line.partition(" > ")
        argv = [call if word == "CALL" else word for word in shlex.split(words)]
        result = run(*argv, home=home)
        assert result.code == ExitCode.DONE, f"{line}: {result.err}"
        if file:
            Path(file).write_text(result.out, "utf-8")
