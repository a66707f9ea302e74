"""What a check is and what it finds: severities, matters, faults, findings. Plain data, no IO."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from capconduit.errors import CapConduitError

if TYPE_CHECKING:
    from capconduit.doctor.scene import Scene


SUDO: Final = "sudo capconduit doctor"  # how a check can be done that this user may not do


class Severity(StrEnum):
    """How bad a finding is, the least first."""

    OK = "ok"
    INFO = "info"  # worth knowing, nothing to do
    UNKNOWN = "unknown"  # it could not be looked at
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """Higher is worse."""
        return list(Severity).index(self)


class Matter(StrEnum):
    """What a check is about; findings are shown in this order."""

    ASTERISK = "asterisk"
    AMI = "ami"
    DIALPLAN = "dialplan"
    MACHINE = "machine"
    DATABASE = "database"
    SECRETS = "secrets"
    NETWORK = "network"
    DAEMON = "daemon"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    `id` is stable for scripts: the slug of a fault, or of the check itself where it is well (`ok`) or could not be done
    (`unknown`). `subject` is what it is about where a check looks at several things. `fix` is the command that mends it
    (for `unknown`: that lets the check be done), empty where there is nothing to mend.
    """

    check: str
    id: str
    severity: Severity
    subject: str
    found: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of trouble: its slug, how bad it is, and why it matters."""

    id: str
    severity: Severity
    why: str

    def found(self, found: str, *, fix: str, subject: str = "") -> Finding:
        """This fault as it was found; `found` has the value, never a secret."""
        return Finding("", self.id, self.severity, subject, found, self.why, fix)


def fine(found: str, subject: str = "") -> Finding:
    """What was looked at and is as it should be."""
    return Finding("", "", Severity.OK, subject, found, "", "")


def unknown(found: str, how: str, subject: str = "") -> Finding:
    """What could not be looked at, and how it can be."""
    return Finding("", "", Severity.UNKNOWN, subject, found, "", how)


class CannotTell(Exception):
    """A check, or a part of it, cannot be done: `reason`, and `how` it can be. The others go on."""

    def __init__(self, reason: str, how: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.how = how

    @classmethod
    def of(cls, error: CapConduitError) -> CannotTell:
        """What an error of ours says; where the system denied something to this user, root can be told more."""
        return cls(error.message, SUDO if os.strerror(errno.EACCES) in error.message else error.hint)

    @property
    def is_for_root(self) -> bool:
        """Whether it says nothing of the matter, only that this user may not look."""
        return self.how == SUDO


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `run` gathers and judges; it may raise CannotTell. `faults` are all that it can find."""

    slug: str
    matter: Matter
    looks_at: str  # half a sentence, for --list and the documentation
    faults: Sequence[Fault]
    run: Callable[[Scene], Iterable[Finding]]

    def finish(self, finding: Finding) -> Finding:
        """`finding` with the check's slug. A fault that the check does not declare is a bug."""
        assert finding.severity in (Severity.OK, Severity.UNKNOWN) or finding.id in {f.id for f in self.faults}, finding
        return replace(finding, check=self.slug, id=finding.id or self.slug, why=finding.why or self.looks_at)
