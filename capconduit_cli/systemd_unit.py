"""The daemon's systemd unit with this machine's paths: which program, which configuration, what it may write."""

from __future__ import annotations

import re
import sys
from importlib import resources
from pathlib import Path
from typing import Final

from capconduit.config import Config
from capconduit.errors import ConfigError
from capconduit_cli.app import PROGRAM

UNIT: Final = "capconduit.service"
EXEC: Final = "ExecStart=/usr/local/bin/capconduit --config /etc/capconduit/config.toml serve\n"
# What StateDirectory= and RuntimeDirectory= give it anyway.
GIVEN: Final = (Path("/var/lib/capconduit"), Path("/run/capconduit"))


def units_dir() -> Path:
    """Where the units that come with CapConduit are: in the installed package, or beside it in a checkout."""
    packaged = Path(str(resources.files("capconduit"))) / "_data" / "systemd"
    checkout = Path(__file__).parents[1] / "packaging" / "systemd"
    for candidate in (packaged, checkout):
        if candidate.is_dir():
            return candidate
    raise ConfigError("units-missing", f"no units in {packaged} or {checkout}", "install CapConduit again")


def this_program() -> Path:
    """The `capconduit` that runs; beside the interpreter where it was started as a module (`python -m`)."""
    called = Path(sys.argv[0])
    return called if called.name == PROGRAM else Path(sys.executable).with_name(PROGRAM)


def unit(config: Config, program: Path) -> str:
    """The unit's text. Raises ConfigError for a path that systemd would read otherwise than it is written."""
    text = (units_dir() / UNIT).read_text("utf-8")
    assert EXEC in text
    origin = f" --config {_quoted(config.origin)}" if config.origin is not None else ""
    text = text.replace(EXEC, f"ExecStart={_quoted(program)}{origin} serve\n")
    places = [Path(config.control.socket).parent, Path(config.node.journal).parent]
    if config.database.sqlite_path is not None:
        places.append(config.database.sqlite_path.parent)
    more = [place for place in dict.fromkeys(places) if not any(place.is_relative_to(given) for given in GIVEN)]
    lines = "".join(f"ReadWritePaths={_quoted(place)}\n" for place in more)
    return text.replace("ProtectSystem=strict\n", f"ProtectSystem=strict\n{lines}")


def _quoted(path: Path) -> str:
    """A path as a unit has it: `%` begins a specifier, blanks and quotes would end the word."""
    text = str(path.absolute())
    if not re.fullmatch(r"[A-Za-z0-9/._+@%:,=~-]+", text):
        raise ConfigError("unit-path", f"{text!r} cannot stand in a systemd unit", "use a path without blanks")
    return text.replace("%", "%%")
