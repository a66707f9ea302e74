"""The man pages and the example configuration are what the commands and declarations say now."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from capconduit.config import KEYS
from capconduit.errors import ExitCode
from capconduit_cli import docgen
from capconduit_cli.app import NOUNS
from capconduit_cli.docgen import EXIT_STATUS, REPOSITORY, Page, differing, generated

PRESENT = [noun for noun in NOUNS if importlib.util.find_spec(noun.module)]


@pytest.fixture(scope="module")
def files() -> Mapping[str, str]:
    return generated(PRESENT)


def lint(place: Path) -> str:
    mandoc = shutil.which("mandoc")
    if mandoc is None:
        pytest.skip("needs mandoc")
    ended = subprocess.run([mandoc, "-Tlint", str(place)], capture_output=True, text=True, timeout=30, check=False)
    return ended.stdout + ended.stderr


def test_the_generated_files_are_those_in_the_repository(files: Mapping[str, str]) -> None:
    assert differing(files, REPOSITORY) == [], "run python -m capconduit_cli.docgen --write"


def test_the_pages_are_clean(files: Mapping[str, str], tmp_path: Path) -> None:
    for path, text in files.items():
        if path.startswith("man/"):
            place = tmp_path / Path(path).name
            place.write_text(text, "utf-8")
            assert lint(place) == "", path


def test_the_lint_finds_what_is_wrong(tmp_path: Path) -> None:
    place = tmp_path / "bad.1"
    place.write_text('.TH BAD 1 ""\n.SH NAME\nbad \\- bad\n.SH EXAMPLES\n.PP\n.XX\n', "utf-8")
    assert lint(place) != ""


def test_every_exit_code_is_in_the_first_page(files: Mapping[str, str]) -> None:
    assert set(EXIT_STATUS) == set(ExitCode)
    for code in ExitCode:
        assert f"\\fB{int(code)}\\fR\n" in files["man/man1/capconduit.1"]


def test_every_noun_and_verb_and_option_is_in_a_page(files: Mapping[str, str]) -> None:
    for noun in NOUNS:
        assert f"\\fB{noun.name}\\fR\n" in files["man/man1/capconduit.1"]
    page = files["man/man1/capconduit-config.1"]
    for part in ("capconduit config set", "SECTION.KEY", "\\-\\-dry\\-run", "\\-o, \\-\\-output", ".SH EXAMPLES"):
        assert part in page


def test_every_key_is_in_the_configuration_page(files: Mapping[str, str]) -> None:
    for key in KEYS.values():
        assert f"\\fB{key.name} = " in files["man/man5/capconduit.toml.5"], key.dotted


def test_the_pages_do_not_depend_on_the_terminal_or_the_day(
    files: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("HOME", "/somewhere/else")
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    assert generated(PRESENT) == files


def test_hostile_text_makes_no_macros(tmp_path: Path) -> None:
    page = Page("capconduit-x", 1, ".SH `FAKE` 'quoted' \\fBbold")
    page.heading("DESCRIPTION")
    page.text(".so /etc/passwd\n\n'ab `unbalanced " + "word " * 30 + "` -x \\n")
    page.subheading('a "quoted" title')
    page.item("--option 'x'|.y", "")
    page.heading("EXAMPLES")
    page.literal([".so x", "'br", 'echo "a\\b"', "capconduit " + "--long-option value " * 9])
    place = tmp_path / "x.1"
    place.write_text(page.render(), "utf-8")
    assert lint(place) == ""
    for line in page.render().splitlines():
        assert not line.startswith((".so", "'", ".SH `", ".y"))


@pytest.fixture
def only_present(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    monkeypatch.setattr(docgen, "NOUNS", PRESENT)
    monkeypatch.setattr(docgen.generated, "__defaults__", (PRESENT,))
    return lambda: None


@pytest.mark.usefixtures("only_present")
def test_check_finds_a_changed_a_missing_and_a_left_over_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--directory", str(tmp_path)]
    assert docgen.main(["--write", *at]) == ExitCode.DONE
    assert docgen.main(["--check", *at]) == ExitCode.DONE
    capsys.readouterr()
    (tmp_path / "man/man1/capconduit.1").write_text("changed", "utf-8")
    (tmp_path / "man/man5/capconduit.toml.5").unlink()
    (tmp_path / "man/man1/capconduit-gone.1").write_text("left over", "utf-8")
    assert docgen.main(["--check", *at]) == ExitCode.DRIFT
    out = capsys.readouterr().out.split()
    assert out == ["man/man5/capconduit.toml.5", "man/man1/capconduit.1", "man/man1/capconduit-gone.1"]
    assert docgen.main(["--write", *at]) == ExitCode.DONE
    assert docgen.main(["--check", *at]) == ExitCode.DONE
