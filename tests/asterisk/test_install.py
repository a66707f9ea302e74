"""Installing into a real Asterisk that runs: loaded and seen, only what changed, undone by itself, beside others' files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from capconduit.asterisk.console import Console
from capconduit.asterisk.manager import Manager
from capconduit.errors import PeerError, Refused
from capconduit.installation.install import Done, install, plan_install, rollback, rollback_target
from capconduit.installation.live import AmiLogin, LiveAsterisk
from capconduit.installation.site import Site
from capconduit.installation.versions import Versions
from capconduit.render.contexts import Ami, AmiUser, RenderContext, TrunkContext
from capconduit.render.engine import render_all
from capconduit.vocab import TrunkKind
from lab.asterisk import Asterisk
from lab.ports import LabPorts
from lab.root import asterisk_major

NOW_MS = 1_790_000_000_000
SECRET = "an-ami-secret"
CARRIER = TrunkContext(name="carrier", kind=TrunkKind.PJSIP, hosts=("192.0.2.1", "198.51.100.0/24"))
OTHER = TrunkContext(name="other", kind=TrunkKind.IAX2, hosts=("192.0.2.7",))


@dataclass
class Floor:
    """A running Asterisk, and what an install of ours needs to know of it."""

    asterisk: Asterisk
    context: RenderContext
    freepbx: bool = False
    now_ms: int = NOW_MS

    def __post_init__(self) -> None:
        self.etc = self.asterisk.dir / "etc"
        self.versions = Versions(self.etc)
        self.site = Site(self.etc, freepbx=self.freepbx)
        program = self.asterisk.dir / "asterisk"
        words = " ".join(f"'{word}'" for word in self.asterisk._program()[:-2])
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        program.chmod(0o755)
        self.console = Console(str(program), self.etc / "asterisk.conf")
        login = AmiLogin("127.0.0.1", self.asterisk.ports.ami, "capconduit", SECRET)
        self.peer = LiveAsterisk(self.console, self.etc, login)
        self.reloads: list[str] = []
        ask = LiveAsterisk.reload

        def heard(name: str) -> None:
            self.reloads.append(name)
            ask(self.peer, name)

        self.peer.reload = heard  # type: ignore[method-assign]

    def install(self, templates: Path | None = None) -> Done:
        self.site.check()
        self.peer.prepare()
        wanted = self.site.wanted(render_all(self.context, templates), needs_ami=True)
        self.reloads.clear()
        with self.versions.locked():
            plan = plan_install(self.versions, self.site, wanted)
            return install(self.versions, self.site, plan, self.peer, self.now_ms)

    def rollback(self, to: str | None = None) -> Done:
        self.reloads.clear()
        with self.versions.locked():
            return rollback(self.versions, self.site, rollback_target(self.versions, to), self.peer)

    def contexts(self) -> str:
        return self.console.ask("dialplan show capconduit-inbound")


MakeFloor = Callable[..., Floor]


@pytest.fixture
def make_floor(asterisk_tree: Path) -> Iterator[MakeFloor]:
    """`make_floor(files)` starts an Asterisk with these files and none of ours."""
    with ExitStack() as stack:

        def make(files: Mapping[str, str] | None = None, *, freepbx: bool = False) -> Floor:
            ports = LabPorts.choose()
            words = {"@AMI@": str(ports.ami), "@SIP@": f"127.0.0.1:{ports.sip}", "@IAX@": str(ports.iax)}
            made = {}
            for name, text in (files or {}).items():
                for word, value in words.items():
                    text = text.replace(word, value)
                made[name] = text
            asterisk = stack.enter_context(Asterisk(asterisk_tree, made, ports))
            modern = asterisk_major() >= 22
            user = AmiUser(username="capconduit", secret=SECRET)
            context = RenderContext(
                node_name="lab",
                ami=Ami(users=(user,), port=ports.ami, named_filters=modern),
                sip_listen=f"127.0.0.1:{ports.sip}",
                iax_listen=f"127.0.0.1:{ports.iax}",
                trunks=(CARRIER, OTHER),
                exact_sip_codes=modern,
            )
            return Floor(asterisk, context, freepbx)

        yield make


@pytest.fixture
def fresh(make_floor: MakeFloor) -> Floor:
    return make_floor()


def own_templates(asterisk: Asterisk, name: str, change: Callable[[str], str]) -> Path:
    """A directory with one template of the operator's own: ours, changed."""
    from capconduit.render.engine import templates_dir

    place = Path(tempfile.mkdtemp(dir=asterisk.dir))
    (place / f"{name}.j2").write_text(change((templates_dir() / f"{name}.j2").read_text()))
    return place


def test_a_fresh_asterisk_gets_all_of_it_and_a_second_install_does_nothing(fresh: Floor) -> None:
    assert "no existence" in fresh.contexts() or "No such command" in fresh.contexts()
    done = fresh.install()
    assert done.seen
    assert "_[+0-9]!" in fresh.contexts()
    assert "capconduit-inbound" in fresh.console.ask("pjsip show endpoint carrier")
    with Manager("127.0.0.1", fresh.asterisk.ports.ami, "capconduit", SECRET) as manager:
        assert manager.action("CoreStatus").fields["Response"] == "Success"
    assert fresh.install().reloaded == ()
    assert fresh.reloads == []


def test_a_changed_trunk_reloads_pjsip_alone(fresh: Floor) -> None:
    fresh.install()
    fresh.context = replace(fresh.context, trunks=(replace(CARRIER, hosts=("192.0.2.99",)), OTHER))
    done = fresh.install()
    assert fresh.reloads == ["pjsip.conf"] == list(done.reloaded)
    assert "192.0.2.99" in fresh.console.ask("pjsip show aor carrier")
    fresh.rollback()
    assert fresh.reloads == ["pjsip.conf"]
    assert "192.0.2.1" in fresh.console.ask("pjsip show aor carrier")


def test_a_restart_between_the_rename_and_the_reload_finds_one_whole_set(fresh: Floor) -> None:
    fresh.install()
    fresh.asterisk.restart()
    assert "_[+0-9]!" in fresh.contexts()
    assert fresh.peer.differences(fresh.versions.read(fresh.versions.in_force())) == []


def test_a_dialplan_that_asterisk_does_not_understand_is_rolled_back(fresh: Floor) -> None:
    fresh.install()
    before = fresh.contexts()
    broken = own_templates(
        fresh.asterisk, "extensions.conf", lambda text: text.replace("exten => T,1,", "exten => T,one,", 1)
    )
    with pytest.raises(PeerError) as undone:
        fresh.install(broken)
    assert undone.value.slug == "rolled-back"
    assert fresh.contexts() == before
    assert fresh.versions.is_loaded()


def test_a_pjsip_conf_that_asterisk_refuses_is_rolled_back(fresh: Floor) -> None:
    fresh.install()
    broken = own_templates(
        fresh.asterisk, "pjsip.conf", lambda text: text.replace("direct_media = no", "direct_mediaa = no")
    )
    with pytest.raises(PeerError) as undone:
        fresh.install(broken)
    assert undone.value.slug == "rolled-back"
    assert fresh.peer.differences(fresh.versions.read(fresh.versions.in_force())) == []


def test_ami_rights_that_are_not_those_written_are_rolled_back(fresh: Floor) -> None:
    fresh.install()
    broken = own_templates(fresh.asterisk, "manager.conf", lambda text: text.replace("read = ", "raed = "))
    with pytest.raises(PeerError, match="AMI user capconduit"):
        fresh.install(broken)
    assert fresh.peer.differences(fresh.versions.read(fresh.versions.in_force())) == []


def test_a_first_install_that_is_refused_leaves_the_directory_as_it_was(fresh: Floor) -> None:
    before = {p.name: p.read_text() for p in fresh.etc.glob("*.conf")}
    broken = own_templates(fresh.asterisk, "manager.conf", lambda text: text.replace("secret = ", "sceret = "))
    with pytest.raises(PeerError):
        fresh.install(broken)
    assert {p.name: p.read_text() for p in fresh.etc.glob("*.conf")} == before
    assert "_[+0-9]!" not in fresh.contexts()


def test_the_directory_of_another_asterisk_is_refused(fresh: Floor, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="not "):
        LiveAsterisk(fresh.console, tmp_path).prepare()


def test_without_ami_the_console_tells_what_is_loaded(fresh: Floor) -> None:
    fresh.install()
    files = fresh.versions.read(fresh.versions.in_force())
    blind = LiveAsterisk(fresh.console, fresh.etc)
    assert blind.differences(files) == []
    other = files["extensions.conf"].replace("Hangup(1)", "Hangup(17)")
    assert "capconduit-inbound" in blind.differences({"extensions.conf": other})[0]


OPERATORS = {
    "extensions.conf": "[general]\nstatic = yes\n\n[globals]\nTRUNK = x\n\n[office]\nexten => 100,1,Answer()\n",
    "pjsip.conf": (
        "[global]\ntype = global\nuser_agent = Office\n\n"
        "[office-udp]\ntype = transport\nprotocol = udp\nbind = @SIP@\n\n"
        "[desk]\ntype = endpoint\ncontext = office\ndisallow = all\nallow = ulaw\n"
    ),
    "iax.conf": "[general]\nbindport = @IAX@\nbindaddr = 127.0.0.1\n\n[branch]\ntype = friend\ncontext = office\n",
    "manager.conf": (
        "[general]\nenabled = yes\nport = @AMI@\nbindaddr = 127.0.0.1\n\n[boss]\nsecret = x\nread = call\nwrite = call\n"
    ),
    "cdr.conf": "[general]\nenable = yes\n",
    "cdr_custom.conf": "[mappings]\nMaster.csv => ${CDR(src)}\n",
}


@pytest.fixture
def office(make_floor: MakeFloor) -> Floor:
    """An Asterisk that has work of its own."""
    return make_floor(OPERATORS)


def test_an_existing_configuration_goes_on_beside_ours(office: Floor) -> None:
    texts = {name: (office.etc / name).read_text() for name in OPERATORS}
    office.install()
    assert "Answer" in office.console.ask("dialplan show office")
    assert "_[+0-9]!" in office.contexts()
    assert "office" in office.console.ask("pjsip show endpoint desk")
    assert "capconduit-inbound" in office.console.ask("pjsip show endpoint carrier")
    assert "Username" in office.console.ask("iax2 show peer branch")
    assert "capconduit-inbound" in office.console.ask("iax2 show peer other")
    assert "boss" in office.console.ask("manager show user boss")
    settings = office.console.ask("manager show settings")
    assert "Timestamp events:          Yes" in settings
    assert not (office.etc / "capconduit/cdr.conf").exists()
    office.rollback()
    assert {name: (office.etc / name).read_text() for name in OPERATORS} == texts
    assert "_[+0-9]!" not in office.contexts()
    assert "office" in office.console.ask("pjsip show endpoint desk")
    office.asterisk.restart()
    assert "Answer" in office.console.ask("dialplan show office")


def test_a_restart_with_both_logs_no_warning_of_ours(office: Floor) -> None:
    office.install()
    (office.asterisk.dir / "log/messages").write_text("")
    office.asterisk.restart()
    ours = [line for line in office.asterisk.log_warnings() if "capconduit" in line or "config.c" in line]
    assert ours == []
    assert office.peer.differences(office.versions.read(office.versions.in_force())) == []


def test_a_trunk_named_like_an_endpoint_of_theirs_is_refused_before_anything_changes(office: Floor) -> None:
    office.context = replace(office.context, trunks=(replace(CARRIER, name="desk"),))
    with pytest.raises(Refused, match="desk"):
        office.install()
    assert not (office.etc / "capconduit.versions").exists()


def test_an_ami_that_is_switched_off_is_not_switched_on_by_us(make_floor: MakeFloor) -> None:
    floor = make_floor(OPERATORS | {"manager.conf": "[general]\nenabled = no\n"})
    with pytest.raises(Refused, match="switched off"):
        floor.install()


# What FreePBX generates, as far as our files meet it: its files include the _custom ones.
FREEPBX = {
    "extensions.conf": (
        "[general]\nstatic=yes\n#include extensions_override_freepbx.conf\n"
        "#include extensions_additional.conf\n#include extensions_custom.conf\n"
    ),
    "extensions_override_freepbx.conf": "",
    "extensions_additional.conf": "[from-internal]\nexten => 100,1,Answer()\n",
    "extensions_custom.conf": "[from-internal-custom]\nexten => 1234,1,Hangup()\n",
    "pjsip.conf": (
        "#include pjsip_custom.conf\n#include pjsip.transports.conf\n#include pjsip.endpoint.conf\n"
        "[global]\ntype=global\nuser_agent=FPBX\n"
    ),
    "pjsip_custom.conf": "",
    "pjsip.transports.conf": "[0.0.0.0-udp]\ntype=transport\nprotocol=udp\nbind=@SIP@\n",
    "pjsip.endpoint.conf": "[100]\ntype=endpoint\ncontext=from-internal\ndisallow=all\nallow=ulaw\n",
    "iax.conf": (
        "[general]\nbindport=@IAX@\nbindaddr=127.0.0.1\n\n#include iax_custom.conf\n#include iax_additional.conf\n"
    ),
    "iax_custom.conf": "",
    "iax_additional.conf": "[200]\ntype=friend\ncontext=from-internal\n",
    "manager.conf": (
        "[general]\nenabled = yes\nport = @AMI@\nbindaddr = 127.0.0.1\n\n[admin]\nsecret = x\nread = system\n\n"
        "#include manager_additional.conf\n#include manager_custom.conf\n"
    ),
    "manager_additional.conf": "",
    "manager_custom.conf": "",
}


def test_freepbx_gets_ours_by_its_custom_files_and_nothing_else(make_floor: MakeFloor) -> None:
    floor = make_floor(FREEPBX, freepbx=True)
    texts = {p.name: p.read_text() for p in floor.etc.glob("*.conf")}
    floor.install()
    now = {p.name: p.read_text() for p in floor.etc.glob("*.conf")}
    assert {name for name in now if now[name] != texts.get(name)} == {
        "extensions_custom.conf", "pjsip_custom.conf", "iax_custom.conf", "manager_custom.conf",
    }  # fmt: skip
    assert "_[+0-9]!" in floor.contexts()
    assert "from-internal" in floor.console.ask("pjsip show endpoint 100")
    assert "capconduit-inbound" in floor.console.ask("pjsip show endpoint carrier")
    assert "from-internal" in floor.console.ask("iax2 show peer 200")
    floor.rollback()
    assert {p.name: p.read_text() for p in floor.etc.glob("*.conf")} == texts


def test_freepbx_is_noticed_and_asked_for_by_name(make_floor: MakeFloor) -> None:
    floor = make_floor(FREEPBX)
    with pytest.raises(Refused, match="--freepbx") as refused:
        floor.install()
    assert "freepbx" in refused.value.hint
    assert not shutil.which("no-such-program")
