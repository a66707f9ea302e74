"""`capconduit top` in a real terminal against a real daemon with calls of a simulated Asterisk."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from capconduit.domain.model import LedgerEntry
from capconduit.services import balances, calls, campaigns
from capconduit.units import format_micros
from capconduit_cli.demo import estate
from tests.tui.live_floor import LiveFloor, live_floor

DEADLINE_S = 60.0
POLL_S = 0.1
CHECKOUT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")


class Terminal:
    """A tmux of our own with one window."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def _tmux(self, *words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        process = await asyncio.create_subprocess_exec(
            "tmux", "-L", "top", "-f", "/dev/null", *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={**environment, "TMUX_TMPDIR": str(self._directory), "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"},
        )  # fmt: skip
        out, _ = await process.communicate()
        return out.decode()

    async def run(self, command: str, width: int, height: int) -> None:
        """Begin with `command`; the terminal ends with it."""
        shell = f"cd {shlex.quote(str(CHECKOUT))} && exec {command}"
        await self._tmux("new-session", "-d", "-x", str(width), "-y", str(height), shell)

    async def press(self, *keys: str) -> None:
        """Keys by tmux's names."""
        await self._tmux("send-keys", *keys)

    async def type(self, text: str) -> None:
        """Text, letter by letter as it is."""
        await self._tmux("send-keys", "-l", text)

    async def text(self) -> str:
        """What stands there; empty where the terminal has ended."""
        return await self._tmux("capture-pane", "-p")

    async def until(self, good: Callable[[str], bool], what: str) -> str:
        """Wait until the screen is as wanted."""
        text = ""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not good(text := await self.text()):  # noqa: ASYNC110  # a terminal tells no one
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            pytest.fail(f"never seen: {what}\n{text}")
        return text

    async def see(self, *words: str) -> str:
        """Wait until all of `words` are seen."""
        return await self.until(lambda text: all(word in text for word in words), " and ".join(words))

    async def close(self) -> None:
        """End the terminal and all in it."""
        await self._tmux("kill-server")


async def _play(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    async with live_floor(tmp_path / "floor") as floor:
        for did in (estate.SOLAR_DID, estate.SOLAR_DID, estate.LEGAL_DID):
            await floor.ring(did, talk_ms=600_000, name="\x1b[31mred [b]bold[/b]")
        config = floor.stage.config_file
        try:
            await terminal.run(f"{sys.executable} -m capconduit_cli --config {shlex.quote(str(config))} top", 100, 30)
            await _look(terminal)
            await _act(terminal, floor)
            await _lose_the_daemon(terminal, floor)
            await _settled_numbers(terminal, floor)
            await terminal.press("q")
            await terminal.until(lambda text: not text, "the end")
        finally:
            await terminal.close()


async def _look(terminal: Terminal) -> None:
    """Every screen shows what it is for."""
    await terminal.see("LIVE", "3 calls", "● up", estate.SOLAR_DID, "sunhaus", "zenith")
    for key, words in (
        ("2", ("campaign solar", "billable", "▒")),
        ("3", ("acme", "BURN/MIN", "● ok")),
        ("4", ("sunhaus", "● well", "extension")),
        ("5", ("call.answered", "call.started")),
        ("6", ("DAEMON", "● ready", "● live", "NEW CALLS A SECOND")),
    ):
        await terminal.press(key)
        await terminal.see(*words)
    await terminal.press("1", "Enter")
    await terminal.see("cost so far", "Decision", "decided: dial")
    await terminal.press("Escape")
    await terminal.until(lambda text: "Decision" not in text, "the table again")  # Escape and / at once are Alt-/
    await terminal.press("/")
    await terminal.type("legal")
    await terminal.press("Enter")
    await terminal.see("/legal", "1–1 of 1")
    await terminal.press("Escape")
    await terminal.see("1–3 of 3")


async def _act(terminal: Terminal, floor: LiveFloor) -> None:
    """A call is hung up, a campaign paused and resumed, a target rested, money added; the database has it."""
    office = floor.stage.office
    await terminal.press("k")
    await terminal.see("Hang up this call?")
    await terminal.press("y")
    await terminal.see("2 calls")
    await floor.until(lambda: len(calls.list_calls(office)) == 2)
    await terminal.press("p")
    await terminal.see("Pause campaign solar?")
    await terminal.press("y")
    await terminal.see("takes no more calls")
    assert campaigns.show_campaign(office, estate.SOLAR).campaign.status == "paused"
    await terminal.see("‖solar")
    await terminal.press("p")
    await terminal.see("Resume campaign solar?")
    await terminal.press("Enter")
    await terminal.see("takes calls again")
    await terminal.press("r")
    await terminal.see("Rest target sunhaus?")
    await terminal.press("y")
    await terminal.see("rests for")
    await terminal.press("4")
    await terminal.see("z resting")
    await terminal.press("3", "+")
    await terminal.see("Add balance")
    await terminal.type("25.50")
    await terminal.press("Enter")
    await terminal.type("wire 4711")
    await terminal.press("Enter")
    await terminal.see("25.50")
    await floor.until(lambda: _paid(floor) == 25_500_000)


def _paid(floor: LiveFloor) -> int:
    """What was added for that reason."""
    entries = floor.stage.office.read(lambda desk: desk.tx.rows(LedgerEntry, desk.tenant_id))
    return sum(entry.amount_micros for entry in entries if entry.reason == "wire 4711")


async def _lose_the_daemon(terminal: Terminal, floor: LiveFloor) -> None:
    """Killed, it is said; started again, it is live again."""
    await floor.kill()
    await terminal.see("■ STALE", "STALE for", "what was known at")
    await floor.start()
    await terminal.until(lambda text: "● LIVE" in text and "STALE" not in text, "live again")


async def _settled_numbers(terminal: Terminal, floor: LiveFloor) -> None:
    """When every call has ended, the balances on the screen are those of the database."""
    office = floor.stage.office
    while live := len(calls.list_calls(office)):
        await terminal.press("1", "Home", "k")
        await terminal.see("Hang up this call?")
        await terminal.press("y")
        await floor.until(lambda live=live: len(calls.list_calls(office)) < live)
        await terminal.see(f" {live - 1} calls")
    await terminal.press("3")
    for name in (estate.ACME, estate.ZENITH):
        account = balances.show_balance(office, name).account
        assert account.held_micros == 0
        money = format_micros(account.balance_micros, trim=True)
        await terminal.until(
            lambda text, name=name, money=money: any(
                line.startswith(name) and line.split()[3] == money for line in text.splitlines()
            ),
            f"{name} with {money}",
        )


def test_top_in_a_terminal_against_a_daemon(tmp_path: Path) -> None:
    asyncio.run(_play(tmp_path))
