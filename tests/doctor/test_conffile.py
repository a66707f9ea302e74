"""Asterisk's files are read as Asterisk reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from capconduit.doctor.conffile import MAX_BYTES, parse_conf, read_conf
from capconduit.doctor.findings import CannotTell


def test_values_comments_and_semicolons() -> None:
    conf = parse_conf(
        "[a] ; one\nkey = value ; not this\nsecret => x\\;y\n;-- gone = yes\nstill = gone --;\nkey=last\n"
    )
    (section,) = conf.sections
    assert section.pairs == [("key", "value"), ("secret", "x;y"), ("key", "last")]
    assert section.get("key") == "last"
    assert section.all("KEY") == ["value", "last"]


def test_templates_give_what_they_have_and_are_no_sections_themselves() -> None:
    conf = parse_conf("[base](!)\ntype = endpoint\ncontext = one\n[a](base)\ncontext = two\n[b](base)\n")
    assert [s.name for s in conf.real()] == ["a", "b"]
    assert conf.named("a").get("context") == "two"
    assert conf.named("b").get("type") == "endpoint"


def test_includes_are_followed_and_globs_too(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/one.conf").write_text("[one]\nx=1\n")
    (tmp_path / "d/two.conf").write_text("[two]\nx=2\n#tryinclude nowhere.conf\n")
    (tmp_path / "main.conf").write_text('[general]\n#include "d/*.conf"\n#include absent.conf\n')
    conf = read_conf(tmp_path / "main.conf")
    assert conf is not None
    assert [(s.name, Path(s.file).name) for s in conf.sections] == [
        ("general", "main.conf"), ("one", "one.conf"), ("two", "two.conf")
    ]  # fmt: skip


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    assert read_conf(tmp_path / "absent.conf") is None


def test_files_that_include_each_other_come_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("#include b.conf\n")
    (tmp_path / "b.conf").write_text("#include a.conf\n")
    with pytest.raises(CannotTell, match="too deeply"):
        read_conf(tmp_path / "a.conf")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_bytes(b";" * (MAX_BYTES + 1))
    with pytest.raises(CannotTell, match="larger than"):
        read_conf(tmp_path / "a.conf")


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("TRUE", True), ("1", True), ("no", False), ("", None)])
def test_what_is_true(text: str, value: bool | None) -> None:
    section = parse_conf(f"[a]\nkey = {text}\n").named("a")
    assert section.is_true("key", default=True) is (True if value is None else value)


@pytest.mark.parametrize(
    "line", ['#include "closed/*.conf"', "#tryinclude closed/a.conf", '#include "{}/closed/*.conf"']
)
def test_what_lies_in_a_closed_directory_is_not_taken_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """pathlib's glob finds nothing where it may not look; a check would call that well."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "pjsip.conf").write_text(line.format(tmp_path) + "\n")
    real = os.scandir

    def closed(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(CannotTell, match="closed"):
        read_conf(tmp_path / "pjsip.conf")


@pytest.mark.parametrize("line", ['#include "missing/*.conf"', "#tryinclude missing/a.conf", '#include "**.conf"'])
def test_an_include_that_finds_nothing_is_nothing(tmp_path: Path, line: str) -> None:
    (tmp_path / "pjsip.conf").write_text(f"{line}\n[a]\nb = c\n")
    found = read_conf(tmp_path / "pjsip.conf")
    assert found is not None
    assert [section.name for section in found.sections] == ["a"]
