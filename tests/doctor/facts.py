"""What the tests of the doctor share: findings as ids, scenes without any machine behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from capconduit.config import Config
from capconduit.doctor.findings import CannotTell, Finding, Severity
from capconduit.doctor.scene import AmiAnswer, AmiUser, Doors, Scene
from capconduit.errors import PeerError

NOW_MS = 1_800_000_000_000


class FixedClock:
    """A clock that stands."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.at_ms = now_ms

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_ms(self) -> int:
        return self.at_ms

    def new_id(self) -> str:
        return "01M7YZMHG00000000000000001"


def ids(findings: Iterable[Finding]) -> list[str]:
    """The slugs of what is not well."""
    return [f.id for f in findings if f.severity is not Severity.OK]


def away(what: str) -> Callable[..., Any]:
    """A door behind which nobody is."""

    def closed(*_: object) -> Any:
        raise PeerError(f"{what}-away", f"no {what}", f"start {what}")

    return closed


def config(**sections: Mapping[str, Any]) -> Config:
    """The defaults with other values: `config(ami={"secret": "env:X"})`; nothing that it names is there."""
    made = Config()
    nowhere: dict[str, Mapping[str, Any]] = {
        "database": {"url": "sqlite:////nonexistent/capconduit.sqlite"},
        "node": {"name": "pbx1", "journal": "/nonexistent/settlements.journal"},
        "control": {"socket": "/nonexistent/control.sock"},
        "asterisk": {"config_dir": "/nonexistent/asterisk"},
    }
    for name, values in [*nowhere.items(), *sections.items()]:
        made = replace(made, **{name: replace(getattr(made, name), **values)})
    return made


def scene(configuration: Config | None = None, **doors: Any) -> Scene:
    """A scene in which nothing answers but the doors that are given."""
    given: dict[str, Any] = {
        "config": configuration or config(),
        "env": {},
        "clock": FixedClock(),
        "ask_daemon": away("daemon"),
        "open_store": away("database"),
        "make_office": away("office"),
        "open_ami": away("AMI"),
        "console": away("console"),
        "render": away("rendering"),
        "differences": away("console"),
        "systemctl": away("systemd"),
        "proc": Path("/nonexistent-proc"),
    }
    return Scene(Doors(**{**given, **doors}))


class FakeAmi:
    """Answers actions from a table; what is not in it is denied."""

    def __init__(self, answers: Mapping[str, AmiAnswer]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Mapping[str, str]]] = []

    def user(self, name: str, secret: str) -> AmiUser:
        del secret
        return AmiUser(name, self._ask, lambda: None)

    def _ask(self, action: str, fields: Mapping[str, str]) -> AmiAnswer:
        self.asked.append((action, fields))
        return self.answers.get(action, AmiAnswer(False, "Permission denied", {}, ()))


def answer(fields: Mapping[str, str] | None = None, rows: Sequence[Mapping[str, str]] = ()) -> AmiAnswer:
    """A successful AMI answer."""
    return AmiAnswer(True, "", fields or {}, rows)


def reason(failure: CannotTell) -> str:
    """Why something cannot be told."""
    return failure.reason
