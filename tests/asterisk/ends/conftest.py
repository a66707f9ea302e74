"""The theatre of the ends: one Asterisk with one daemon for each version, where all scenarios that are wanted run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab.root import SUITES
from lab.wait import Watch
from tests.asterisk.conftest import tree_of
from tests.asterisk.ends.scenario import TOGETHER, WITHOUT_REFER, Disaster, End
from tests.asterisk.ends.stage import Stage

SUITE_OF = {int(name.rpartition("-")[2]): suite for suite, name in SUITES.items()}


class Theatre:
    """Scenarios begin together, for all versions, when the first test asks for one; disasters have stages of their own.

    wanted: the ends that the collected tests are about, by version.
    """

    def __init__(self, wanted: dict[int, list[End]]) -> None:
        self._wanted = wanted
        self._stack = ExitStack()
        self.watch = Watch()
        self._stages: dict[tuple[int, str], Stage | str] = {}

    def __enter__(self) -> Theatre:
        self._stack.enter_context(self.watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stage(self, version: int, place: str) -> Stage:
        """Where such ends of a version are played. Skips the test where that Asterisk cannot be had."""
        if not self._stages:
            for each in sorted(self._wanted, reverse=True):
                self._open(each, TOGETHER)
        if (version, place) not in self._stages:
            self._open(version, place)
        stage = self._stages[version, place]
        if isinstance(stage, str):
            pytest.skip(stage)
        return stage

    def _open(self, version: int, place: str) -> None:
        ends = [end for end in self._wanted.get(version, ()) if end.place == place]
        try:
            tree = tree_of(SUITE_OF[version])
        except pytest.skip.Exception as skipped:
            self._stages[version, place] = str(skipped)
            return
        stage = self._stack.enter_context(Stage(tree, ends, without_refer=place == WITHOUT_REFER))
        self._stages[version, place] = stage
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
