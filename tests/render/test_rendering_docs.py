"""docs/rendering.md tells of every rendered file what files.py says of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from capconduit.render.files import CONF_FILES, ConfFile, Need
from capconduit.vocab import TrunkAuth

TEXT = (Path(__file__).parents[2] / "docs" / "rendering.md").read_text()
RENDERED = {
    Need.ALWAYS: "always",
    Need.RTP_RANGE: "with `asterisk.rtp_range`, or `--all`",
    Need.OWN: "with `--all`",
    Need.VOICE: "with `voice.url`, and `asterisk.version` 20 or newer",
}


@pytest.mark.parametrize("file", CONF_FILES, ids=lambda file: file.name)
def test_every_file_is_documented_as_it_is(file: ConfFile) -> None:
    assert f"| `{file.name}` | {file.purpose} | `{file.reload}` | {RENDERED[file.need]} |\n" in TEXT


def test_no_file_is_documented_that_is_not_rendered() -> None:
    assert re.findall(r"^\| `(\w+\.conf)`", TEXT, re.MULTILINE) == [file.name for file in CONF_FILES]


def test_the_files_that_nobody_includes_are_named() -> None:
    sentence = TEXT[TEXT.index("The files about Asterisk as a whole") :].partition(")")[0]
    assert set(re.findall(r"`(\w+\.conf)`", sentence)) == {file.name for file in CONF_FILES if not file.includable}


@pytest.mark.parametrize("auth", list(TrunkAuth))
def test_every_way_to_know_a_carrier_is_documented(auth: TrunkAuth) -> None:
    assert f"| `{auth}` | " in TEXT
