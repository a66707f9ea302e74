"""Carries out checks one after the other; one that fails or hangs never stops the others, and all of it ends in time.

**Fails open**: whatever goes wrong within a check is that check's own finding, of severity `unknown`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

from capconduit.doctor.findings import CannotTell, Check, Finding, unknown
from capconduit.doctor.scene import Scene
from capconduit.errors import CapConduitError

CHECK_S: Final = 20.0  # a check that waits longer is given up; its thread ends with the process
TOTAL_S: Final = 90.0

log = logging.getLogger(__name__)


def examine(
    scene: Scene, checks: Sequence[Check], *, check_s: float = CHECK_S, total_s: float = TOTAL_S
) -> Iterator[Finding]:
    """The findings of each check, in order, as they come; at least one for each."""
    until = time.monotonic() + total_s
    for check in checks:
        left_s = min(check_s, until - time.monotonic())
        if left_s <= 0:
            yield check.finish(
                unknown(f"there was no time left after {total_s:g} s", f"capconduit doctor --only {check.slug}")
            )
            continue
        yield from _bounded(scene, check, left_s)


def _bounded(scene: Scene, check: Check, left_s: float) -> list[Finding]:
    """One check on a thread of its own, which is left behind where it does not end in time."""
    found: list[Finding] = []
    done = threading.Event()

    def work() -> None:
        found.extend(_carry_out(scene, check))
        done.set()

    threading.Thread(target=work, name=f"doctor-{check.slug}", daemon=True).start()
    if not done.wait(left_s):
        late = unknown(f"it did not end within {left_s:.3g} s", f"capconduit doctor --only {check.slug}")
        return [check.finish(late)]
    return found


def _carry_out(scene: Scene, check: Check) -> list[Finding]:
    """What a check finds; what it found before it failed stays."""
    found: list[Finding] = []
    try:
        for finding in check.run(scene):
            found.append(check.finish(finding))  # noqa: PERF401 - those before a failure are kept
    except CannotTell as failure:
        found.append(check.finish(unknown(failure.reason, failure.how)))
    except CapConduitError as error:
        told = CannotTell.of(error)
        found.append(check.finish(unknown(told.reason, told.how)))
    except Exception as error:  # a bug in one check must not hide what the others find
        log.debug("check %s", check.slug, exc_info=True)
        text = f"the check itself failed: {type(error).__name__}: {error}"
        found.append(check.finish(unknown(text, f"capconduit --debug doctor --only {check.slug}, and report it")))
    return found
