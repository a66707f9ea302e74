"""What a world may be forgiven: where nobody could see what happened, by how much, and why; see docs/simulation.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from capconduit.domain.model import Cdr

if TYPE_CHECKING:
    from tests.simulation.asterisk import Line
    from tests.simulation.world import World

# Faults whose names begin so may keep a daemon from seeing an event, or from telling the books of it.
HIDING = (
    "ami", "daemon", "killed", "database", "transaction", "commit", "contention", "command", "request", "answer",
    "machine", "asterisk", "applied", "journal", "engine",
)  # fmt: skip
TELLING = ("handler", "journal", "spool")  # witnesses that were told the end of a call
FAR = float("inf")


@dataclass(frozen=True)
class Untold:
    """How far a record may be from what happened: milliseconds of talk more or less."""

    more_ms: float
    less_ms: float
    exact: bool  # whether it was answered, and by whom, was seen


class Forgiven:
    """Knows what was done to a call."""

    def __init__(self, world: World) -> None:
        self._world = world

    def funded_ms(self, line: Line) -> int:
        """What is durably funded of a call, in milliseconds of talk."""
        return self._world.invariants.funded_s(line) * 1_000

    def slack_ms(self, line: Line) -> float:
        """How much longer than funded a call may talk, by what was done to it."""
        return FAR if line.forgiven else line.slack_ms + 0.002 * line.talk_ms()

    def untold(self, line: Line, cdr: Cdr) -> Untold:
        """How far a call's record may be from what happened."""
        witness = cdr.witness.partition("+")[0]
        drift_ms = 0.002 * line.talk_ms() + 5
        if line.forgiven:
            return Untold(FAR, FAR, exact=False)
        if line.killed or witness not in TELLING:
            # Nobody has told the end: it is put at the last known life, never beyond what was funded.
            over_ms = max(self.funded_ms(line) - line.talk_ms(), 0) + 2_000
            return Untold(drift_ms + over_ms, FAR, exact=False)
        set_ms = line.clock_ms
        return Untold(drift_ms + set_ms, drift_ms + set_ms + line.slack_ms, exact=True)

    def saw_everything(self, line: Line) -> bool:
        """Whether the daemon could see every event of this call: nothing that hides one is among the faults."""
        return line.asterisk.machine.with_ami and not any(name.startswith(HIDING) for name in self._world.enabled)

    def concluded_by(self, cdr: Cdr) -> str:
        """Who concluded a call's end without having been told of it; empty where somebody was told."""
        witness = cdr.witness.partition("+")[0]
        return "" if witness in TELLING else witness

    def was_put_aside(self, line: Line) -> bool:
        """Whether its end left the journal for a person to look at."""
        return f'"{line.uniqueid}"'.encode() in line.asterisk.machine.disk.aside

    def is_doubled(self, line: Line) -> bool:
        """Whether another daemon goes, or went, by the name of this call's node."""
        return any(m.node == line.node and m is not line.asterisk.machine for m in self._world.machines)

    def forgives(self, line: Line, cdr: Cdr) -> bool:
        """Whether a living call may be taken for dead: what is known not to be seen, see docs/simulation.md."""
        witness = self.concluded_by(cdr)
        blind = witness == "undelivered" and any(name.startswith("ami") for name in self._world.enabled)
        line.forgiven = line.forgiven or bool(
            witness and (self.is_doubled(line) or self._world.clocks_were_set or blind)
        )
        return line.forgiven
