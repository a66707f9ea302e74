"""Fixtures of the tests on a real Asterisk: the tree, instances, SIPp, and their logs under a failing test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import asterisk as lab_asterisk
from lab import sipp as lab_sipp
from lab.asterisk import Asterisk
from lab.ports import LabPorts
from lab.root import DEFAULT_SUITE, asterisk_major, ensure_sipp, ensure_tree
from lab.wait import LabUnavailable

HERE = Path(__file__).parent
WAITED_IN_VAIN = ["LabError", "SippFailed"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this directory needs the lab. One whose wait ran out is tried once more, and named in the summary;
    one that found something wrong is not."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.asterisk)
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=WAITED_IN_VAIN))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Puts the logs of every living Asterisk and SIPp under a failing test."""
    report = yield
    if report.failed and item.path.is_relative_to(HERE):
        for instance in list(lab_asterisk.ALIVE):
            report.sections.append((f"Asterisk {instance.node_name} in {instance.dir}", instance.log_tail()))
        for process in list(lab_sipp.ALIVE):
            report.sections.append((f"SIPp {process.scenario}", process.trace_tail()))
    return report


def _is_ci() -> bool:
    return os.environ.get("CI") == "true"


# Suites whose tests are skipped, and why: told again at the very end, where nobody can overlook it.
MISSING: dict[str, str] = {}


def tree_of(suite: str = DEFAULT_SUITE) -> Path:
    """An unpacked Asterisk, made now if need be. Without one the test is skipped.

    It fails instead where CAPCONDUIT_REQUIRE_LAB=1, and where CI=true for the first suite. The others are old releases,
    which a mirror may have dropped, and that is no fault of a change.
    """
    try:
        ensure_sipp()
        return ensure_tree(suite)
    except LabUnavailable as error:
        MISSING[suite] = f"{error}".splitlines()[0]
        if os.environ.get("CAPCONDUIT_REQUIRE_LAB") == "1" or (_is_ci() and suite == DEFAULT_SUITE):
            pytest.fail(f"the lab is required here: {error}")
        pytest.skip(f"NO REAL ASTERISK {asterisk_major(suite)}, NOTHING OF IT IS TESTED: {error}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which Asterisks were not there."""
    for suite, why in MISSING.items():
        terminalreporter.section(f"NOT TESTED ON ASTERISK {asterisk_major(suite)}", "!", red=True)
        terminalreporter.write_line(f"Debian {suite}: {why}")
        terminalreporter.write_line(f"Try: python -m lab --suite {suite} root")


@pytest.fixture(scope="session")
def asterisk_tree() -> Path:
    """The first suite's Asterisk."""
    return tree_of()


StartAsterisk = Callable[[Callable[[LabPorts], Mapping[str, str]]], Asterisk]


@pytest.fixture(scope="module")
def start_asterisk(asterisk_tree: Path) -> Iterator[StartAsterisk]:
    """`start_asterisk(render)` starts an Asterisk with `render(ports)`; it ends with the module."""
    with ExitStack() as stack:

        def start(render: Callable[[LabPorts], Mapping[str, str]]) -> Asterisk:
            ports = LabPorts.choose()
            return stack.enter_context(Asterisk(asterisk_tree, render(ports), ports))

        yield start


@pytest.fixture(autouse=True)
def no_sipp_left() -> Iterator[None]:
    """Ends every SIPp that a test forgot."""
    yield
    for process in list(lab_sipp.ALIVE):
        process.close()
