"""Lists of things carried out as one change: all or nothing, every line that is wrong told, existing ones on request.

A list is looked through first, without a lock; then it is written in one transaction, as long as the estate is still
the one that was looked at (else it is looked through once more inside). Its entries of the audit are written before the
estate is locked. So decisions wait for the writing of the rows only. These are not written before: whoever has the lock
and writes the same number would wait for us, and we for the lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from capconduit.domain.model import Audit, Entity
from capconduit.errors import CapConduitError, ExitCode, NotFound, Refused, UsageError
from capconduit.services.office import NEAR_NAMES, Desk, Office, label

MAX_LINES: Final = 100_000  # of one list
SHOWN: Final = 100  # lines that are told to be wrong
TOLD_EVERY: Final = 200  # lines between two words of progress

Tell = Callable[[int, int], None]  # progress: how many lines of how many


def silent(done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What a list may say: columns it must have, those it may have, and those of an export that are passed by."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    passed_by: tuple[str, ...] = ("id", "created", "updated")

    @property
    def read(self) -> tuple[str, ...]:
        """Those that mean something."""
        return (*self.required, *self.optional)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a list: where it stands, and its cells by column; a column that the list does not have is not there."""

    number: int
    cells: Mapping[str, str]

    def text(self, column: str) -> str:
        """A cell; empty where there is none."""
        return self.cells.get(column, "")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a line."""

    line: int
    error: CapConduitError


class BadLines(CapConduitError):
    """Lines of a list are wrong, so nothing of it was carried out. `problems`: all of them, by line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(problems, key=lambda p: p.line)
        count = len(self.problems)
        super().__init__(
            "import-refused",
            f"{count} {'line is' if count == 1 else 'lines are'} wrong; nothing was imported",
            "mend the list and import it again; --dry-run only looks",
        )
        usage = any(p.error.exit_code is ExitCode.USAGE for p in self.problems)
        self.exit_code = ExitCode.USAGE if usage else ExitCode.REFUSED


@dataclass(slots=True)
class Problems:
    """Gathers what is wrong, line by line."""

    found: list[Problem] = field(default_factory=list)

    def add(self, line: int, error: CapConduitError) -> None:
        """One more."""
        self.found.append(Problem(line, error))

    @contextmanager
    def of(self, line: Line) -> Iterator[None]:
        """What is refused within belongs to `line`; a database that fails does not."""
        try:
            yield
        except (UsageError, Refused) as error:
            self.add(line.number, error)

    def check(self) -> None:
        """Raises BadLines where anything was gathered."""
        if self.found:
            raise BadLines(self.found)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a list, in lines."""

    added: int
    changed: int
    same: int

    @property
    def lines(self) -> int:
        """All of them."""
        return self.added + self.changed + self.same


@dataclass(slots=True)
class Plan:
    """Rows of one noun that a list makes and changes; `same` lines say what is there already."""

    noun: str
    added: list[Entity] = field(default_factory=list)
    changed: list[tuple[Entity, Entity]] = field(default_factory=list)
    same: int = 0
    told: list[Audit] = field(default_factory=list)

    @property
    def outcome(self) -> Outcome:
        """How many of each."""
        return Outcome(len(self.added), len(self.changed), self.same)


Beside = Callable[[Desk, Plan], Callable[[], None]]  # asked before rows are written for what is done after them


def carry_out(office: Office, make: Callable[[Desk], Plan], beside: Beside) -> Plan:
    """Write what `make` plans, audited row by row. `beside` is asked before the rows are written for what is to be done
    after them. Raises BadLines (from `make`), Refused, DatabaseError."""
    version, planned = office.read(lambda desk: (desk.tx.estate_version(), with_audit(desk, make(desk))))

    def at_once(desk: Desk) -> Plan:
        desk.tx.insert_all(planned.told)  # nobody waits for these, and they wait for nobody
        if desk.tx.estate_version(for_change=True) != version:
            raise _Outdated  # the entries go with it
        return _finished(desk, planned, beside)

    def anew(desk: Desk) -> Plan:
        plan = with_audit(desk, make(desk))
        desk.tx.insert_all(plan.told)
        return _finished(desk, plan, beside)

    try:
        return office.change(at_once, estate=False)  # its turn comes later
    except _Outdated:
        return office.change(anew)


class _Outdated(Exception):
    """The estate is another one than was looked at."""


def _finished(desk: Desk, plan: Plan, beside: Beside) -> Plan:
    write(desk, plan, beside)
    if plan.told:
        counts = f"{len(plan.added)} added, {len(plan.changed)} changed"
        desk.changed(f"{plan.noun}.import", counts, None, None)
    return plan


def write(desk: Desk, plan: Plan, beside: Beside) -> None:
    """The rows of a plan in a few statements; whoever calls writes its entries of the audit and makes the version."""
    finish = beside(desk, plan)
    desk.tx.insert_all(plan.added)
    desk.tx.update_all([after for _, after in plan.changed])
    finish()


def with_audit(desk: Desk, plan: Plan) -> Plan:
    """The plan with its entries of the audit: decisions wait less where they are made before."""
    plan.told = [desk.entry(f"{plan.noun}.add", _called(row), None, row) for row in plan.added]
    plan.told += [desk.entry(f"{plan.noun}.set", _called(after), before, after) for before, after in plan.changed]
    return plan


def _called(row: Entity) -> str:
    """How people call it; blocks have their pattern."""
    return str(getattr(row, "pattern", "")) or label(row)


def each_line(
    office: Office, lines: Sequence[Line], problems: Problems, tell: Tell, work: Callable[[Office, Line], str]
) -> Outcome:
    """Carry out `work` for each line, all in one transaction: it says `added`, `changed` or `same`, or raises.

    For nouns whose rules are many and whose lists are short. Raises BadLines, DatabaseError.
    """

    read = len(problems.found)  # those of lines that could not be read at all

    def whole(desk: Desk) -> Outcome:
        del problems.found[read:]  # the engine may ask for it again
        inner, counts = Office.within(desk), {"added": 0, "changed": 0, "same": 0}
        for place, line in enumerate(lines, 1):
            with problems.of(line):
                counts[work(inner, line)] += 1
            progress(tell, place, len(lines))
        problems.check()
        return Outcome(**counts)

    return office.change(whole)


def progress(tell: Tell, place: int, total: int) -> None:
    """A word of progress now and then, and at the end."""
    if place % TOLD_EVERY == 0 or place == total:
        tell(place, total)


def check_count(lines: Sequence[Line], most: int = MAX_LINES) -> None:
    """A list that is not too long to be one change. Raises UsageError."""
    if len(lines) > most:
        raise UsageError("list-too-long", f"{len(lines)} lines are too many", f"import {most} at a time")


def known_name(noun: str, name: str, names: Mapping[str, Entity]) -> Entity:
    """The thing of that name among `names`. Raises NotFound with the nearest."""
    if name not in names:
        raise NotFound(noun, name, tuple(get_close_matches(name, names, n=NEAR_NAMES)))
    return names[name]


def exists_already(noun: str, name: str) -> Refused:
    """What is said of a line whose thing is there, where lists do not change anything."""
    return Refused(f"{noun}-exists", f"{noun} {name!r} exists already", "--update changes what is there")


def twice(noun: str, name: str, earlier: int) -> UsageError:
    """What is said of a line whose thing an earlier line has."""
    return UsageError("line-twice", f"{noun} {name!r} is on line {earlier} too", "leave one of them out")
