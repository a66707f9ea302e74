"""Every failure an operator can meet: a stable slug, the offending value, the next step, the exit code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes; documented in capconduit(1) and stable."""

    DONE = 0
    REFUSED = 1  # not found, exists, conflict, not enough money
    USAGE = 2  # usage or configuration
    DATABASE = 3
    PEER = 4  # daemon, AMI, Asterisk, provider
    DRIFT = 5  # a check found a difference
    THRESHOLD = 6
    BUG = 70
    INTERRUPTED = 130


class CapConduitError(Exception):
    """A failed operation. `slug` is stable for scripts, `message` names the value, `hint` the next step."""

    exit_code: ExitCode = ExitCode.REFUSED

    def __init__(self, slug: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.slug = slug
        self.message = message
        self.hint = hint


class Refused(CapConduitError):
    """The request is well formed and cannot be done: not found, exists, conflict, not enough money."""


class NotFound(Refused):
    """No such thing; `near` are existing names that look like it."""

    def __init__(self, noun: str, name: str, near: tuple[str, ...] = ()) -> None:
        did_you_mean = (
            f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"see `capconduit {noun} list`"
        )
        super().__init__(f"{noun}-not-found", f"no {noun} named {name!r}", did_you_mean)
        self.near = near


class UsageError(CapConduitError):
    """A value that cannot be understood: names the value and the form that is expected."""

    exit_code = ExitCode.USAGE


class ConfigError(CapConduitError):
    """The configuration is wrong or incomplete."""

    exit_code = ExitCode.USAGE


class DatabaseError(CapConduitError):
    """The database is away, locked, full, read-only or of another version."""

    exit_code = ExitCode.DATABASE


class PeerError(CapConduitError):
    """The daemon, AMI, Asterisk or a provider did not do its part."""

    exit_code = ExitCode.PEER


class DriftError(CapConduitError):
    """A check found that two things that must be equal are not."""

    exit_code = ExitCode.DRIFT
