"""Installing into a real Asterisk that runs: loaded and seen, only what changed, undone by itself, beside others."""

from __future__ import annotations

import itertools
import re
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
from capconduit.render.contexts import Ami, AmiUser, Nat, RenderContext, Transport, TrunkContext
from capconduit.render.engine import render_all
from capconduit.vocab import SipTransport, TrunkAuth, TrunkKind
from lab.asterisk import Asterisk
from lab.ports import LabPorts, free_port
from lab.root import asterisk_major
from tests.cli.runner import Result, run

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
        program = self.asterisk.dir / "console-program"  # not "asterisk": the lab has a link to its tree there
        words = " ".join(f"'{word}'" for word in self.asterisk._program()[:-2])
        with program.open("x") as script:  # never through a link
            script.write(f'#!/bin/sh\nexec {words} "$@"\n')
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

    def install(self, templates: Path | None = None, step: Callable[[str], None] = lambda _: None) -> Done:
        self.site.check()
        self.peer.prepare()
        wanted = self.site.wanted(render_all(self.context, templates), needs_ami=True)
        self.reloads.clear()
        with self.versions.locked():
            plan = plan_install(self.versions, self.site, wanted)
            return install(self.versions, self.site, plan, self.peer, self.now_ms, step)

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
    ours = (templates_dir() / f"{name}.j2").read_text()
    assert change(ours) != ours
    (place / f"{name}.j2").write_text(change(ours))
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


def every_kind_of_trunk() -> tuple[TrunkContext, ...]:
    """One trunk for each way to be known and each thing that a trunk can be told."""
    account = {"username": "account", "secret": "Secret-1"}
    more = [
        TrunkContext(name=f"{kind}-{auth}", kind=kind, auth=auth, hosts=(f"127.0.1.{number}",), port=9, **account)
        for number, (kind, auth) in enumerate(itertools.product(TrunkKind, TrunkAuth), 1)
    ]
    anywhere = TrunkContext(
        name="anywhere", kind=TrunkKind.PJSIP, hosts=(), auth=TrunkAuth.DIGEST, permit=("192.0.2.0/24",), **account
    )
    told = replace(
        CARRIER, name="told", transport=SipTransport.TCP, nat=True, srtp=True, qualify_s=60, hosts=("127.0.0.3",)
    )
    return (CARRIER, OTHER, *more, anywhere, told)


def test_every_kind_of_trunk_is_seen_as_it_was_written(fresh: Floor) -> None:
    with (fresh.etc / "modules.conf").open("a") as modules:
        modules.write("load = res_pjsip_outbound_registration.so\n")
    fresh.console.ask("module load res_pjsip_outbound_registration.so")
    port = free_port()
    fresh.context = replace(
        fresh.context,
        trunks=every_kind_of_trunk(),
        more_transports=(Transport(protocol=SipTransport.TCP, name="capconduit-tcp", listen=f"127.0.0.1:{port}"),),
        nat=Nat(external_address="198.51.100.1", local_networks=("10.0.0.0/8", "127.0.0.0/8")),
        rtp_timeout_s=120,
        rtp_timeout_hold_s=600,
    )
    fresh.install()
    assert fresh.peer.notices == []
    fresh.asterisk.restart()
    assert fresh.peer.differences(fresh.versions.read(fresh.versions.in_force())) == []


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


class Killed(BaseException):
    """An install ends here as a kill -9 would end it: nothing of ours runs any more."""


def test_cut_off_at_any_step_a_restarted_asterisk_has_the_old_or_the_new_and_the_next_install_repairs(
    fresh: Floor,
) -> None:
    fresh.install()
    old = fresh.versions.read(fresh.versions.in_force())
    seen = set()
    for fatal in range(1, 50):
        fresh.context = replace(fresh.context, guard_s=5 + fatal, trunks=(replace(CARRIER, port=6000 + fatal), OTHER))
        new = fresh.site.wanted(render_all(fresh.context)).files
        steps: list[str] = []

        def step(name: str, fatal: int = fatal, steps: list[str] = steps) -> None:
            steps.append(name)
            if len(steps) == fatal:
                raise Killed

        try:
            fresh.install(step=step)
        except Killed:
            fresh.asterisk.restart()
            has = [files for files in (old, new) if fresh.peer.differences(files) == []]
            assert len(has) == 1, steps
            seen.add(has[0] is new)
        else:
            break
        fresh.install()
        assert fresh.peer.differences(new) == []
        assert fresh.versions.is_loaded()
        old = dict(new)
    assert fatal > 7
    assert seen == {False, True}


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
    broken = own_templates(fresh.asterisk, "pjsip.conf", lambda text: text.replace("\ndisallow = ", "\ndisallowed = "))
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
    with pytest.raises(PeerError) as undone:
        fresh.install(broken)
    assert undone.value.slug == "rolled-back", undone.value.message
    assert {p.name: p.read_text() for p in fresh.etc.glob("*.conf")} == before
    assert "_[+0-9]!" not in fresh.contexts()


def test_an_asterisk_of_our_own_user_needs_no_group(fresh: Floor) -> None:
    assert fresh.peer.group() is None


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
        "[general]\nenabled = yes\nport = @AMI@\nbindaddr = 127.0.0.1\n\n[boss]\nsecret = x\nread = call\n"
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


def test_what_a_distribution_ships_goes_on_beside_ours(make_floor: MakeFloor, asterisk_tree: Path) -> None:
    """Debian's own configuration, whole, but for what says where this lab's Asterisk is and listens."""
    shipped = asterisk_tree / "etc/asterisk"
    ours = {"asterisk.conf", "modules.conf", "logger.conf", "http.conf", "rtp.conf"}
    files = {
        str(path.relative_to(shipped)): path.read_text(errors="replace")
        for path in (*shipped.glob("*.conf"), *shipped.glob("manager.d/*"))
        if path.name not in ours
    }
    files["manager.conf"] = re.sub(r"^port = .*$", "port = @AMI@", files["manager.conf"], flags=re.MULTILINE)
    listens = "[general]\nbindport = @IAX@\nbindaddr = 127.0.0.1"
    files["iax.conf"] = re.sub(r"^\[general\]", listens, files["iax.conf"], count=1, flags=re.MULTILINE)
    floor = make_floor(files)
    before = {path.name: path.read_text() for path in floor.etc.glob("*.conf")}
    floor.install()
    assert floor.peer.notices == []
    floor.asterisk.restart()
    assert floor.peer.differences(floor.versions.read(floor.versions.in_force())) == []
    assert "demo" in floor.console.ask("dialplan show demo")
    floor.rollback("none")
    assert {path.name: path.read_text() for path in floor.etc.glob("*.conf")} == before


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
    with pytest.raises(Refused, match="FreePBX") as refused:
        floor.install()
    assert "--freepbx" in refused.value.hint


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(fresh: Floor, tmp_path: Path) -> Callable[..., Result]:
    """`command("install", "--yes")`: with a configuration and a database for the fresh Asterisk."""
    ports = fresh.asterisk.ports
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    file = tmp_path / "cc.toml"
    file.write_text(
        f'[database]\nurl = "sqlite://{tmp_path}/cc.sqlite"\n'
        f'[ami]\nport = {ports.ami}\nsecret = "file:{secret}"\n'
        f'[asterisk]\nconfig_dir = "{fresh.etc}"\nversion = {asterisk_major()}\nprogram = "{fresh.console.program}"\n'
        f'main_config = "{fresh.etc}/asterisk.conf"\nsip_listen = "127.0.0.1:{ports.sip}"\n'
        f'iax_listen = "127.0.0.1:{ports.iax}"\n'
    )

    def call(*argv: str) -> Result:
        return run("--config", str(file), *argv, home=tmp_path)

    assert call("init", "--yes").code == 0
    assert call("trunk", "add", "carrier", "--kind", "pjsip", "--host", "192.0.2.1").code == 0
    return call


def test_the_commands_install_change_and_roll_back(fresh: Floor, command: Callable[..., Result]) -> None:
    rehearsed = command("install", "--dry-run")
    assert rehearsed.code == 0
    assert "+exten => _[+0-9]!,1," in rehearsed.out
    assert SECRET not in rehearsed.out
    assert not (fresh.etc / "capconduit.versions").exists()

    unasked = command("install")
    assert unasked.code == 2
    assert "--yes" in unasked.err
    assert fresh.versions.in_force() is None

    assert command("install", "--check").code == 5
    first = command("install", "--yes")
    assert first.code == 0, first.err
    checked = command("install", "--check")
    assert (checked.code, checked.out, checked.err) == (0, "", "")
    fresh.console.ask("dialplan remove extension T@capconduit-inbound")
    checked = command("install", "--check")
    assert checked.code == 5
    assert "capconduit-inbound,T,1 is not in Asterisk" in checked.err
    fresh.console.ask("dialplan reload")
    assert "loaded and compared" in first.err
    again = command("install", "--yes")
    assert again.code == 0
    assert again.out == ""
    assert "nothing to do" in again.err

    assert command("trunk", "set", "carrier", "--host", "192.0.2.2").code == 0
    second = command("install", "--yes")
    assert second.code == 0
    assert "compared: pjsip.conf\n" in second.err
    assert "-match = 192.0.2.1" in second.out.replace(" ", "").replace("match=", "match = ")
    listed = command("rollback", "--list").out.splitlines()
    assert [line.partition("-")[0] for line in listed] == ["0001", "0002"]
    assert "before it" in listed[0]
    assert "in force" in listed[1]

    assert command("rollback").code == 2
    assert command("rollback", "--yes").code == 0
    assert "192.0.2.1" in fresh.console.ask("pjsip show aor carrier")
    assert command("rollback", "--to", "none", "--yes").code == 0
    assert fresh.versions.in_force() is None
    nothing = command("rollback", "--yes")
    assert nothing.code == 1
    assert "nothing-installed" in nothing.err


def test_an_asterisk_that_is_away_is_told_before_anything_changes(fresh: Floor, command: Callable[..., Result]) -> None:
    fresh.asterisk.stop()
    done = command("install", "--yes")
    assert done.code == 4
    assert "asterisk-unreachable" in done.err
    assert not (fresh.etc / "capconduit.versions").exists()
    assert command("install", "--yes", "--no-reload").code == 0
    fresh.asterisk.start()
    assert "_[+0-9]!" in fresh.contexts()
    assert command("install", "--yes").code == 0
    assert fresh.versions.is_loaded()
