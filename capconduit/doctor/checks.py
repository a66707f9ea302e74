"""Every check of `capconduit doctor`, in the order of its report."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from capconduit.doctor import ami, asterisk, daemon, database, dialplan, machine, network, secrets, voice
from capconduit.doctor.findings import Check
from capconduit.errors import UsageError

CHECKS: Final[Sequence[Check]] = (
    *asterisk.CHECKS,
    *ami.CHECKS,
    *dialplan.CHECKS,
    *machine.CHECKS,
    *database.CHECKS,
    *secrets.CHECKS,
    *network.CHECKS,
    *voice.CHECKS,
    *daemon.CHECKS,
)


def chosen(only: Sequence[str], skip: Sequence[str]) -> Sequence[Check]:
    """The checks that are named by `only` (none: all), without those of `skip`; either by check or by matter.

    Raises UsageError with the nearest name for one that is unknown.
    """
    known = {check.slug for check in CHECKS} | {check.matter.value for check in CHECKS}
    for name in (*only, *skip):
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "see `capconduit doctor --list`"
            raise UsageError("check-unknown", f"no check {name!r}", hint)

    def named(check: Check, names: Sequence[str]) -> bool:
        return check.slug in names or check.matter.value in names

    found = [check for check in CHECKS if (not only or named(check, only)) and not named(check, skip)]
    if not found:
        raise UsageError("no-check-left", "no check is left to do", "see `capconduit doctor --list`")
    return found
