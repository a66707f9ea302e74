"""docs/install.md and docs/freepbx.md: their slugs, options and files are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from capconduit.installation.site import FREEPBX_HOSTS
from capconduit.render.files import BY_NAME

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = {name: (REPOSITORY / "docs" / name).read_text() for name in ("install.md", "freepbx.md")}


def sources() -> str:
    files = [
        *(REPOSITORY / "capconduit/installation").glob("*.py"),
        *(REPOSITORY / "capconduit/asterisk").glob("*.py"),
    ]
    return "\n".join(path.read_text() for path in files)


@pytest.mark.parametrize("page", PAGES)
def test_every_slug_is_one_that_the_code_has(page: str) -> None:
    code = sources()
    for slug in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", PAGES[page]):
        if slug.startswith("capconduit-"):
            continue
        assert f'"{slug}"' in code, slug


def test_every_refusal_of_an_install_is_explained() -> None:
    slugs = set(re.findall(r'Refused\(\s*"([a-z-]+)"', sources()))
    explained = {"section-taken", "ami-switched-off", "rendered-in-place", "freepbx-found"}
    assert explained <= slugs
    assert all(f"`{slug}`" in PAGES["install.md"] for slug in explained)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_the_options_that_are_shown(page: str) -> None:
    lines = re.findall(r"^capconduit (\w+)(?: (?:add|show))?(.*?)(?: *#.*| > .*)?$", PAGES[page], re.MULTILINE)
    assert lines
    for noun, rest in lines:
        verb = ["add"] if noun == "trunk" else []
        text = subprocess.run(
            [sys.executable, "-m", "capconduit_cli", noun, *verb, "--help"],
            cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in text, (noun, option)


def test_the_files_of_freepbx_are_those_of_the_table() -> None:
    rows = dict(re.findall(r"^\| `([a-z]+\.conf)` \| `([a-z_]+\.conf)` \|$", PAGES["freepbx.md"], re.MULTILINE))
    assert rows == dict(FREEPBX_HOSTS)


def test_the_files_that_are_left_to_the_operator_are_named() -> None:
    left = {name for name, file in BY_NAME.items() if not file.includable}
    row = next(line for line in PAGES["install.md"].splitlines() if "the whole file" in line)
    assert set(re.findall(r"`([a-z]+\.conf)`", row)) == left
