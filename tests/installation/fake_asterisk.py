"""A stand-in for the Asterisk that reads the files: it loads what is included when it is told to, and may refuse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from capconduit.errors import PeerError
from capconduit.installation.parts import has_include


class FakeAsterisk:
    """Keeps the text of each of our files as it was when that file was last reloaded."""

    def __init__(self, config_dir: Path) -> None:
        self.config_dir = config_dir
        self.loaded: dict[str, str] = {}
        self.reloads: list[str] = []
        self.refuses = ""  # a file with this text in it is not loaded
        self.dies = ""  # a reload of this file is not answered

    def prepare(self) -> None:
        pass

    def read(self) -> dict[str, str]:
        """What a start of Asterisk would find: our files that exist and are included."""
        found = {}
        for host in self.config_dir.glob("*.conf"):
            for ours in (self.config_dir / "capconduit").glob("*.conf"):
                if has_include(host.read_text(), ours.name):
                    found[ours.name] = ours.read_text()
        return found

    def reload(self, name: str) -> None:
        self.reloads.append(name)
        if name == self.dies:
            raise PeerError("asterisk-unreachable", "gone", "start it")
        text = self.read().get(name)
        if text is None:
            self.loaded.pop(name, None)
        elif not self.refuses or self.refuses not in text:
            self.loaded[name] = text

    def differences(self, files: Mapping[str, str]) -> list[str]:
        return [f"{name} differs" for name, text in files.items() if self.loaded.get(name) != text]
