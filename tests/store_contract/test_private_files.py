"""Who may read the SQLite file that a command makes: its owner, whatever the umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store_contract.conftest import Opener
from tests.unit.estate_builder import T0


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0o000)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_open_umask")
def test_a_new_file_and_those_beside_it_are_their_owners_alone(opened: Opener, tmp_path: Path) -> None:
    made = opened(f"sqlite:///{tmp_path}/copy.sqlite")
    made.upgrade(T0)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert "copy.sqlite-wal" in modes
    assert set(modes.values()) == {0o600}


def test_a_file_that_is_there_keeps_its_mode(opened: Opener, tmp_path: Path) -> None:
    file = tmp_path / "shared.sqlite"
    file.touch()
    file.chmod(0o660)
    opened(f"sqlite:///{file}").upgrade(T0)
    assert file.stat().st_mode & 0o777 == 0o660
