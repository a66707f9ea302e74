"""`capconduit target test` on a real Asterisk: OPTIONS, and what it tells of endpoints, peers and extensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from capconduit.asterisk.console import Console
from capconduit.asterisk.manager import Manager
from capconduit.asterisk.options import options
from capconduit.asterisk.standing import Doors
from capconduit.vocab import TargetFault
from lab.asterisk import Asterisk
from lab.ports import LabPorts
from lab.wait import wait_for
from tests.asterisk.test_doctor_live import console_program

SECRET = "lab-secret"
SILENT_PORT = 9
ASK_S = 30.0


def files(ports: LabPorts) -> Mapping[str, str]:
    """A PBX with endpoints that answer, do not, and are not asked; and users of AMI with and without rights."""

    def endpoint(name: str, aor: str) -> str:
        return f"[{name}]\ntype=endpoint\naors={name}\ncontext=inside\nallow=ulaw\n[{name}]\ntype=aor\n{aor}\n"

    silent = f"contact=sip:127.0.0.1:{SILENT_PORT}"
    return {
        "pjsip.conf": f"[udp]\ntype=transport\nprotocol=udp\nbind=127.0.0.1:{ports.sip}\n"
        + endpoint("itself", f"contact=sip:127.0.0.1:{ports.sip}\nqualify_frequency=1")
        + endpoint("silent", f"{silent}\nqualify_frequency=1\nqualify_timeout=0.5")
        + endpoint("unasked", silent)
        + endpoint("phone", "max_contacts=1"),
        "iax.conf": f"[general]\nbindaddr=127.0.0.1\nbindport={ports.iax}\n"
        f"[unasked]\ntype=peer\nhost=127.0.0.1\nport={SILENT_PORT}\n",
        "manager.conf": f"[general]\nenabled=yes\nbindaddr=127.0.0.1\nport={ports.ami}\n"
        f"[clerk]\nsecret={SECRET}\nwrite=all\n[reader]\nsecret={SECRET}\nwrite=reporting\n",
        "extensions.conf": "[inside]\nexten => 100,1,Answer()\nexten => _2XX,1,Answer()\ninclude => more\n"
        "[more]\nexten => 300,1,Answer()\n",
    }


@pytest.fixture(scope="module")
def pbx(asterisk_tree: Path) -> Iterator[Asterisk]:
    ports = LabPorts.choose()
    with Asterisk(asterisk_tree, files(ports), ports) as asterisk:
        yield asterisk


@pytest.fixture(params=["clerk", "reader", "console"])
def doors(request: pytest.FixtureRequest, pbx: Asterisk) -> Doors:
    """AMI with every right, AMI with our own user's (endpoints are a matter of the console then), no AMI."""
    program = console_program(pbx, pbx.dir / "program")
    console = Console(str(program), pbx.dir / "etc" / "asterisk.conf", ASK_S)
    manager = Manager("127.0.0.1", pbx.ports.ami, request.param, SECRET, ASK_S)
    return Doors(None if request.param == "console" else manager, console)


def test_a_real_asterisk_answers_options(pbx: Asterisk) -> None:
    heard = options(f"sip:buyer@127.0.0.1:{pbx.ports.sip}", ASK_S)
    assert (heard.fault, heard.status) == (None, 401)  # to whom it does not know


def test_endpoints_are_as_asterisk_has_them(doors: Doors) -> None:
    # Not only the first answer: a machine that stood still may have missed one, and asks again after a second.
    wait_for(lambda: (good := doors.endpoint("itself")).well and good.latency_ms is not None, "answer")
    wait_for(lambda: doors.endpoint("silent").well is not None, "first silence")
    assert doors.endpoint("silent").fault is TargetFault.UNREACHABLE
    assert doors.endpoint("unasked").well is None
    assert doors.endpoint("phone").fault is TargetFault.CONTACT
    assert doors.endpoint("nobody").fault is TargetFault.UNKNOWN


def test_peers_are_as_asterisk_has_them(doors: Doors) -> None:
    assert (doors.peer("unasked").well, doors.peer("unasked").state) == (None, "Unmonitored")
    assert doors.peer("nobody").fault is TargetFault.UNKNOWN


def test_extensions_are_found_by_pattern_and_include(doors: Doors) -> None:
    assert "in inside" in doors.extension("100", "inside").words
    assert doors.extension("205", "inside").well
    assert "in more" in doors.extension("300", "inside").words
    for extension, context in (("999", "inside"), ("100", "nowhere")):
        assert doors.extension(extension, context).fault is TargetFault.UNKNOWN
