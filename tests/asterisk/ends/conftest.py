"""The theatre of the ends: one Asterisk with one daemon for each version, where all scenarios that are wanted run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab.root import SUITES
from tests.asterisk.conftest import tree_of
from tests.asterisk.ends.scenario import Disaster, End
from tests.asterisk.ends.stage import Stage

SUITE_OF = {int(name.rpartition("-")[2]): suite for suite, name in SUITES.items()}


class Theatre:
    """Scenarios begin together, for all versions, when the first test asks for one; disasters have stages of their own.

    wanted: the ends that the collected tests are about, by version.
    """

    def __init__(self, wanted: dict[int, list[End]]) -> None:
        self._wanted = wanted
        self._stack = ExitStack()
        self._stages: dict[tuple[int, bool], Stage | str] = {}

    def __enter__(self) -> Theatre:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stage(self, version: int, *, disasters: bool) -> Stage:
        """Where such ends of a version are played. Skips the test where that Asterisk cannot be had."""
        if not self._stages:
            for each in sorted(self._wanted, reverse=True):
                self._open(each, disasters=False)
        if (version, disasters) not in self._stages:
            self._open(version, disasters=disasters)
        stage = self._stages[version, disasters]
        if isinstance(stage, str):
            pytest.skip(stage)
        return stage

    def _open(self, version: int, *, disasters: bool) -> None:
        ends = [end for end in self._wanted[version] if (end.disaster is not None) is disasters]
        try:
            tree = tree_of(SUITE_OF[version])
        except pytest.skip.Exception as skipped:
            self._stages[version, disasters] = str(skipped)
            return
        stage = self._stack.enter_context(Stage(tree, ends))
        self._stages[version, disasters] = stage
        stage.begin()
        for disaster in Disaster:
            if any(end.disaster is disaster for end in ends):
                stage.strike(disaster)


@pytest.fixture(scope="session")
def theatre(request: pytest.FixtureRequest) -> Iterator[Theatre]:
    wanted: dict[int, list[End]] = {}
    for item in request.session.items:
        parameters = getattr(item, "callspec", None)
        if parameters is not None and isinstance(end := parameters.params.get("end"), End):
            wanted.setdefault(parameters.params["version"], []).append(end)
    with Theatre(wanted) as theatre:
        yield theatre
