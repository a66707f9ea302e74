"""Reads Asterisk's configuration files as Asterisk does (main/config.c): sections, templates, comments, includes.

The outside dependency is the file system. **Fails closed**: what cannot be read raises CannotTell; what is larger or
deeper than Asterisk's own files ever are is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from capconduit.doctor.findings import SUDO, CannotTell

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_FILES: Final = 500
MAX_DEPTH: Final = 10

_SECTION: Final = re.compile(r"\[([^\]]+)\]\s*(?:\(([^)]*)\))?")
_INCLUDE: Final = re.compile(r"#\s*(include|tryinclude)\s+[\"<']?([^\"'>]+?)[\"'>]?\s*$")
_TRUE: Final = frozenset({"yes", "true", "y", "t", "1", "on"})


@dataclass(slots=True)
class Section:
    """One `[name]` with what its templates gave it first."""

    name: str
    pairs: list[tuple[str, str]] = field(default_factory=list)
    is_template: bool = False
    file: str = ""

    def all(self, key: str) -> list[str]:
        """Every value of `key`, in order."""
        return [value for name, value in self.pairs if name == key.lower()]

    def get(self, key: str, default: str = "") -> str:
        """The value that counts: the last one."""
        values = self.all(key)
        return values[-1] if values else default

    def is_true(self, key: str, default: bool = False) -> bool:
        """Whether `key` says yes."""
        value = self.get(key)
        return value.lower() in _TRUE if value else default


@dataclass(slots=True)
class ConfFile:
    """A file with all that it includes; sections in order, several may have the same name."""

    path: Path
    sections: list[Section]

    def named(self, name: str) -> Section:
        """All sections of that name as one; empty where there is none."""
        whole = Section(name)
        for section in self.sections:
            if section.name.lower() == name.lower() and not section.is_template:
                whole.pairs += section.pairs
                whole.file = whole.file or section.file
        return whole

    def real(self) -> Iterator[Section]:
        """The sections that are no templates."""
        return (section for section in self.sections if not section.is_template)


def read_conf(path: Path) -> ConfFile | None:
    """The file and what it includes; None where there is none. Raises CannotTell where it cannot be read."""
    if not _exists(path):
        return None
    reader = _Reader(path.parent)
    reader.file(path, 0)
    return ConfFile(path, reader.sections)


def parse_conf(text: str, name: str = "") -> ConfFile:
    """A text as a file; its includes are not followed."""
    reader = _Reader(None)
    reader.text(text, name, 0)
    return ConfFile(Path(name), reader.sections)


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise CannotTell(f"{path} cannot be looked at: {error.strerror}", SUDO) from None


def _check_open(directory: Path) -> None:
    """pathlib's glob finds nothing where it may not look, which would pass for nothing there. Raises CannotTell."""
    try:
        os.scandir(directory).close()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a pattern, or nothing that is there
        return
    except OSError as error:
        raise CannotTell(f"{directory} cannot be looked into: {error.strerror}", SUDO) from None


class _Reader:
    def __init__(self, root: Path | None) -> None:
        self._root = root
        self._files = 0
        self._templates: dict[str, Section] = {}
        self.sections: list[Section] = []

    def file(self, path: Path, depth: int) -> None:
        self._files += 1
        if self._files > MAX_FILES or depth > MAX_DEPTH:
            raise CannotTell(f"{path}: more than {MAX_FILES} files, or included too deeply", f"look at {path}")
        try:
            with path.open("rb") as source:
                raw = source.read(MAX_BYTES + 1)
        except OSError as error:
            raise CannotTell(f"{path} cannot be read: {error.strerror}", SUDO) from None
        if len(raw) > MAX_BYTES:
            raise CannotTell(f"{path} is larger than {MAX_BYTES} bytes", f"look at {path}")
        self.text(raw.decode("utf-8", "replace"), str(path), depth)

    def text(self, text: str, name: str, depth: int) -> None:
        for line in _uncommented(text):
            if line.startswith("#"):
                self._include(line, depth)
            elif match := _SECTION.match(line):
                self._begin(match[1].strip(), match[2] or "", name)
            elif self.sections:
                key, equals, value = line.partition("=")
                if equals:
                    value = value.removeprefix(">").strip()
                    self.sections[-1].pairs.append((key.strip().lower(), value))

    def _begin(self, name: str, options: str, file: str) -> None:
        section = Section(name, file=file)
        for option in (part.strip() for part in options.split(",")):
            if option == "!":
                section.is_template = True
            elif option and option != "+" and option in self._templates:
                section.pairs += self._templates[option].pairs
        self.sections.append(section)
        self._templates.setdefault(name, section)  # any section may be a base (main/config.c inherit_category)

    def _include(self, line: str, depth: int) -> None:
        match = _INCLUDE.match(line)
        if match is None or self._root is None:
            return
        wanted = self._root / match[2]  # an absolute one stays as it is
        _check_open(wanted.parent)
        try:
            found = sorted(
                wanted.parent.glob(wanted.name) if Path(match[2]).is_absolute() else self._root.glob(match[2])
            )
        except (ValueError, NotImplementedError):  # no pattern at all: Asterisk finds nothing by it, either
            found = []
        except OSError as error:
            raise CannotTell(f"{wanted} cannot be looked for: {error.strerror}", SUDO) from None
        for path in found:
            if _exists(path):
                self.file(path, depth + 1)


def _uncommented(text: str) -> Iterator[str]:
    """Lines without comments (`;`, `;-- … --;`) and blanks; `\\;` is a semicolon."""
    text = re.sub(r";--.*?--;", "", text, flags=re.DOTALL)
    for line in text.splitlines():
        bare = re.sub(r"(?<!\\);.*", "", line).replace("\\;", ";").strip()
        if bare:
            yield bare
