"""The lab's trees: what is missing is skipped loudly or fails, as the place asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import root
from lab.wait import LabUnavailable
from tests.asterisk import conftest

GONE = "mmdebstrap bullseye ended with 25: the mirror has no such suite"


@pytest.fixture
def without_bullseye(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A new machine whose mirror has dropped bullseye."""

    def refuse(suite: str, tree: Path) -> None:
        raise LabUnavailable(GONE)

    monkeypatch.setattr(root, "LAB_DIR", tmp_path / "lab")
    monkeypatch.setattr(root, "_unpack", refuse)
    monkeypatch.setattr(conftest, "ensure_sipp", lambda: Path("sipp"))
    monkeypatch.setattr(conftest, "MISSING", {})
    monkeypatch.delenv("CAPCONDUIT_REQUIRE_LAB", raising=False)


@pytest.mark.parametrize("ci", ["true", ""])
def test_an_old_suite_that_is_gone_is_skipped_and_told_at_the_end(
    without_bullseye: None, monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(pytest.skip.Exception, match=r"NO REAL ASTERISK 16.*no such suite"):
        conftest.tree_of("bullseye")
    assert conftest.MISSING == {"bullseye": GONE}


@pytest.mark.parametrize(("name", "suite"), [("CI", root.DEFAULT_SUITE), ("CAPCONDUIT_REQUIRE_LAB", "bullseye")])
def test_what_is_required_and_cannot_be_had_fails(
    without_bullseye: None, monkeypatch: pytest.MonkeyPatch, name: str, suite: str
) -> None:
    monkeypatch.setenv(name, "true" if name == "CI" else "1")
    with pytest.raises(pytest.fail.Exception, match="the lab is required here"):
        conftest.tree_of(suite)


def test_an_incomplete_tree_never_stands_under_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(root, "LAB_DIR", tmp_path)
    monkeypatch.setattr(root, "_ensure_program", lambda *_: Path("/bin/false"))
    monkeypatch.setattr(root, "_mirror", lambda: "http://mirror.invalid/debian")
    with pytest.raises(LabUnavailable):
        root.ensure_tree("bullseye")
    assert not root.tree_dir("bullseye").exists()
