"""The complete rendered set on a real Asterisk: it loads without a warning, and trunks of every kind bring calls.

A second Asterisk is the carrier: it takes our registrations and calls us, by address, by password, over TLS, by IAX2.
"""

from __future__ import annotations

import re
import secrets
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from capconduit.render.contexts import (
    AMI_WRITE_CONTROL,
    AMI_WRITE_READER,
    Ami,
    AmiUser,
    Fallback,
    Nat,
    RenderContext,
    RtpRange,
    StirSource,
    Tls,
    Transport,
    TrunkContext,
    Voice,
)
from capconduit.render.engine import FILES, render_all
from capconduit.render.files import BY_NAME, CONF_FILES
from capconduit.vocab import CODECS, IAX2_CODECS, SipTransport, TrunkAuth, TrunkKind
from lab.asterisk import ETC, Asterisk
from lab.ports import LOOPBACK, LabPorts, free_port
from lab.root import asterisk_major
from lab.scripted_agi import Answer, ScriptedAgi
from lab.wait import wait_for

MODERN = asterisk_major() >= 20
NUMBER = "+18005550100"
SECRET = "lab-secret"
CONTEXT = RenderContext(node_name="lab", ami=Ami(users=()))
# The carrier's addresses: a trunk that is known by its address has one of its own.
BY_IP, REGISTRAR, NOWHERE, IAX_CARRIER = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
STRANGER = "127.0.0.77"
MORE_MODULES = ("res_pjsip_outbound_registration", "res_pjsip_registrar", "res_srtp", "res_pjsip_acl")
ARI_MODULES = (
    "res_http_websocket", *(("res_websocket_client", "res_ari_model") if MODERN else ()), "res_stasis", "res_ari",
)  # fmt: skip


@dataclass(frozen=True)
class TlsFiles:
    """A certificate for loopback, good for this test only."""

    cert: Path
    key: Path


@pytest.fixture(scope="module")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    directory = tmp_path_factory.mktemp("tls")
    files = TlsFiles(directory / "cert.pem", directory / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", str(files.key), "-out", str(files.cert)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return files


def _modules(more: tuple[str, ...]) -> str:
    lines = "".join(f"load = {name}.so\n" for name in (*MORE_MODULES, *more))
    text = (ETC / "modules.conf").read_text() + lines
    return text if MODERN else text.replace("load = res_cdrel_custom.so\n", "")


def everything(
    ports: LabPorts, agi_port: int, carrier: LabPorts, tls: TlsFiles, tcp: int, tls_port: int
) -> RenderContext:
    """Every option that there is, switched on."""
    reader = AmiUser(username="reader", secret=SECRET, write=AMI_WRITE_READER)
    control = AmiUser(username="control", secret=SECRET, read=(), write=AMI_WRITE_CONTROL, events=())
    sip, iax = carrier.sip, carrier.iax
    return RenderContext(
        node_name="lab",
        all_files=True,
        agi_port=agi_port,
        ami=Ami(port=ports.ami, users=(reader, control), named_filters=MODERN),
        exact_sip_codes=MODERN,
        sip_listen=f"{LOOPBACK}:{ports.sip}",
        more_transports=(
            Transport(protocol=SipTransport.TCP, name="capconduit-tcp", listen=f"{LOOPBACK}:{tcp}"),
            Transport(protocol=SipTransport.TLS, name="capconduit-tls", listen=f"{LOOPBACK}:{tls_port}"),
        ),
        tls=Tls(cert=str(tls.cert), key=str(tls.key), ca=str(tls.cert)),
        voice=Voice(url="wss://127.0.0.1:8765/media") if MODERN else None,
        nat=Nat(external_address="198.51.100.7", local_networks=("127.0.0.0/8", "10.0.0.0/8")),
        iax_listen=f"{LOOPBACK}:{ports.iax}",
        rtp=RtpRange(start=ports.rtp_start, end=ports.rtp_end),
        rtp_timeout_s=60,
        rtp_timeout_hold_s=300,
        guard_s=4,  # a machine may stand still for three seconds before our answer is there
        fallback=Fallback(context="operator"),
        stir=StirSource.HEADERS,
        trunks=(
            TrunkContext(
                name="by-ip", kind=TrunkKind.PJSIP, hosts=(BY_IP,), port=sip,
                codecs=("ulaw", *sorted(CODECS - {"ulaw"})), username="us", secret="p=#1", nat=True, qualify_s=60,
            ),
            TrunkContext(
                name="registered", kind=TrunkKind.PJSIP, hosts=(REGISTRAR,), port=sip, auth=TrunkAuth.REGISTER,
                username="us", secret=SECRET, permit=("127.0.0.0/8",),
            ),
            TrunkContext(
                name="by-digest", kind=TrunkKind.PJSIP, hosts=(), auth=TrunkAuth.DIGEST, username="by-digest",
                secret=SECRET, permit=(LOOPBACK,),
            ),
            TrunkContext(
                name="by-tcp", kind=TrunkKind.PJSIP, hosts=("127.0.0.8",), auth=TrunkAuth.DIGEST, username="somebody",
                secret=SECRET, transport=SipTransport.TCP,
            ),
            TrunkContext(
                name="by-tls", kind=TrunkKind.PJSIP, hosts=(), auth=TrunkAuth.DIGEST, username="by-tls", secret=SECRET,
                transport=SipTransport.TLS, srtp=True,
            ),
            TrunkContext(
                name="elsewhere", kind=TrunkKind.PJSIP, hosts=(), auth=TrunkAuth.DIGEST, username="elsewhere",
                secret=SECRET, permit=(NOWHERE,),
            ),
            TrunkContext(
                name="iax-ip", kind=TrunkKind.IAX2, hosts=("127.0.0.9",), port=iax, qualify_s=60,
                codecs=("ulaw", *sorted(IAX2_CODECS - {"ulaw"})),
            ),
            TrunkContext(
                name="iax-registered", kind=TrunkKind.IAX2, hosts=(LOOPBACK,), port=iax, auth=TrunkAuth.REGISTER,
                username="iax-us", secret=SECRET,
            ),
            TrunkContext(
                name="iax-digest", kind=TrunkKind.IAX2, hosts=(), auth=TrunkAuth.DIGEST, username="iax-digest",
                secret=SECRET,
            ),
        ),
    )  # fmt: skip


CARRIER_PJSIP = """
[from-2]
type = transport
protocol = udp
bind = {by_ip}:{sip}
[from-3]
type = transport
protocol = udp
bind = {registrar}:{sip}
[by-ip]
type = endpoint
transport = from-2
disallow = all
allow = ulaw
from_user = +12125550147
[us]
type = endpoint
transport = from-3
auth = us
aors = us
disallow = all
allow = ulaw
from_user = +12125550147
[us]
type = auth
auth_type = userpass
username = us
password = {secret}
[us]
type = aor
max_contacts = 1
[digest]
type = endpoint
transport = capconduit-udp
outbound_auth = digest
disallow = all
allow = ulaw
from_user = +12125550147
[digest]
type = auth
auth_type = userpass
username = by-digest
password = {secret}
[wrong]
type = endpoint
transport = capconduit-udp
outbound_auth = wrong
disallow = all
allow = ulaw
from_user = +12125550147
[wrong]
type = auth
auth_type = userpass
username = by-digest
password = guessed
[elsewhere]
type = endpoint
transport = capconduit-udp
outbound_auth = elsewhere
disallow = all
allow = ulaw
from_user = +12125550147
[elsewhere]
type = auth
auth_type = userpass
username = elsewhere
password = {secret}
[tls]
type = transport
protocol = tls
bind = {loopback}:{tls}
cert_file = {cert}
priv_key_file = {key}
method = tlsv1_2
[tls]
type = endpoint
transport = tls
outbound_auth = tls
media_encryption = sdes
disallow = all
allow = ulaw
from_user = +12125550147
[tls]
type = auth
auth_type = userpass
username = by-tls
password = {secret}
"""

CARRIER_IAX = """
[iax-us]
type = friend
host = dynamic
secret = {secret}
auth = md5
disallow = all
allow = ulaw
"""


@pytest.fixture(scope="module")
def served() -> Iterator[ScriptedAgi]:
    server = ScriptedAgi()
    yield server
    server.close()


@dataclass(frozen=True)
class Pair:
    """Our Asterisk and the carrier's."""

    us: Asterisk
    carrier: Asterisk
    tls_port: int

    @property
    def us_address(self) -> tuple[str, int]:
        """Where we listen."""
        return LOOPBACK, self.us.ports.sip

    def call(self, dial: str) -> None:
        """The carrier calls; it hangs up by itself."""
        self.carrier.cli(f"channel originate {dial} application Wait 1")


@pytest.fixture(scope="module")
def pair(start_asterisk: Any, served: ScriptedAgi, tls_files: TlsFiles) -> Pair:
    tls_port = free_port()

    def carrier_files(ports: LabPorts) -> dict[str, str]:
        context = RenderContext(
            node_name="carrier",
            ami=Ami(port=ports.ami, users=(), named_filters=MODERN),
            exact_sip_codes=MODERN,
            sip_listen=f"{LOOPBACK}:{ports.sip}",
            iax_listen=f"{LOOPBACK}:{ports.iax}",
            rtp=RtpRange(start=ports.rtp_start, end=ports.rtp_end),
        )
        words = {
            "by_ip": BY_IP, "registrar": REGISTRAR, "sip": ports.sip, "secret": SECRET, "loopback": LOOPBACK,
            "tls": free_port(), "cert": tls_files.cert, "key": tls_files.key,
        }  # fmt: skip
        return {
            **render_all(context),
            "modules.conf": _modules(()),
            "capconduit.d/pjsip/carrier.conf": CARRIER_PJSIP.format(**words),
            "capconduit.d/iax/carrier.conf": CARRIER_IAX.format(**words),
        }

    carrier: Asterisk = start_asterisk(carrier_files)

    def our_files(ports: LabPorts) -> dict[str, str]:
        context = everything(ports, served.port, carrier.ports, tls_files, free_port(), tls_port)
        files = render_all(context)
        assert tuple(files) == tuple(name for name in FILES if MODERN or name != "websocket_client.conf")
        assert render_all(context) == files
        return {**files, "modules.conf": _modules(ARI_MODULES)}

    us: Asterisk = start_asterisk(our_files)
    return Pair(us, carrier, tls_port)


@pytest.fixture
def agi(served: ScriptedAgi) -> ScriptedAgi:
    served.reset()
    served.on = {
        "route": Answer({"CC_REASON": "no_target", "CC_CAUSE": "31", "CC_SIP": "480", "CC_VERDICT": "reject"}),
        "settle": Answer({"CC_ACK": "1"}),
    }
    return served


def test_everything_that_can_be_rendered_loads_without_a_warning(pair: Pair) -> None:
    assert pair.us.log_warnings() == []
    endpoints = pair.us.cli("pjsip show endpoints")
    for name in ("by-ip", "registered", "by-digest", "by-tcp", "by-tls", "elsewhere", "capconduit-out"):
        assert f"Endpoint:  {name}" in endpoints
    assert re.search(r"capconduit-tls +tls", pair.us.cli("pjsip show transports"))
    users = pair.us.cli("manager show user reader") + pair.us.cli("manager show user control")
    assert re.findall(r"(?:read|write) perm: (.*)", users) == ["system,call", "reporting", "<none>", "call"]


def test_every_file_is_read_again_by_the_command_that_it_names(pair: Pair) -> None:
    for file in CONF_FILES:
        said = pair.us.cli(file.reload)
        assert not re.search(
            r"No such (module|command)|not loaded|does not support reload|error", said, re.IGNORECASE
        ), said
    # Before 18 each transport says that it stays as it is, which it does.
    assert [line for line in pair.us.log_warnings() if "is not fully reloadable" not in line] == []


def test_a_new_trunk_is_known_after_the_reloads_of_its_files(pair: Pair) -> None:
    """Last of `res_pjsip`'s: endpoints, addresses, registrations, each kept by a module of its own."""
    sip = TrunkContext(
        name="later", kind=TrunkKind.PJSIP, hosts=(NOWHERE,), auth=TrunkAuth.REGISTER, username="us", secret=SECRET
    )
    iax = TrunkContext(name="later-iax", kind=TrunkKind.IAX2, hosts=(NOWHERE,))
    etc = pair.us.dir / "etc"
    before = {name: (etc / name).read_text() for name in ("pjsip.conf", "iax.conf")}
    more = render_all(replace(CONTEXT, trunks=(sip, iax)))
    try:
        for name, text in before.items():
            ours = more[name][more[name].index("\n[later") :]
            pair.us.put(name, text + ours)
            pair.us.cli(BY_NAME[name].reload)
        for words, command in (
            ("Endpoint:  later", "pjsip show endpoints"),
            (f"Match: {NOWHERE}", "pjsip show identifies"),
            ("later/sip:", "pjsip show registrations"),
            ("later-iax", "iax2 show peers"),
        ):
            wait_for(lambda words=words, command=command: words in pair.us.cli(command), f"{words!r} in `{command}`")
    finally:
        for name, text in before.items():
            pair.us.put(name, text)
            pair.us.cli(BY_NAME[name].reload)
    for command in ("pjsip show identifies", "pjsip show registrations"):
        wait_for(lambda command=command: "later" not in pair.us.cli(command), f"end of what came later in `{command}`")


def test_a_call_is_the_trunks_whose_address_it_comes_from(pair: Pair, agi: ScriptedAgi) -> None:
    pair.call(f"PJSIP/by-ip/sip:{NUMBER}@{LOOPBACK}:{pair.us.ports.sip}")
    assert agi.arguments("route")[5] == "by-ip"


def test_we_register_and_get_the_carriers_calls(pair: Pair, agi: ScriptedAgi) -> None:
    wait_for(lambda: "Registered" in pair.us.cli("pjsip show registrations"), "registration")
    wait_for(lambda: "us/sip:" in pair.carrier.cli("pjsip show contacts"), "our contact at the carrier")
    pair.call(f"PJSIP/us/sip:{NUMBER}@{LOOPBACK}:{pair.us.ports.sip}")
    assert agi.arguments("route")[2:6:3] == (NUMBER, "registered")


@pytest.mark.parametrize(
    ("to", "number"),
    [
        (f"<sip:{NUMBER}@here>", NUMBER),
        (f'"Sales" <sip:{NUMBER}@here;user=phone>', NUMBER),
        ("<sip:18005550100@here>", "18005550100"),
        ("<sip:capconduit@here>", None),
        ("<sip:1%22)$%7bEPOCH%7d@here>", None),
        ("<sip:here>", None),
    ],
)
def test_a_carrier_that_dials_what_we_registered_has_the_number_in_to(
    pair: Pair, agi: ScriptedAgi, to: str, number: str | None
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as carrier:
        carrier.bind((REGISTRAR, 0))
        carrier.settimeout(10)
        carrier.sendto(invite("capconduit", to, carrier.getsockname()[1], pair.us.ports.sip), pair.us_address)
        statuses = [carrier.recv(4096).split(b" ", 2)[1]]
        while statuses[-1] == b"100":
            statuses.append(carrier.recv(4096).split(b" ", 2)[1])
    pair.us.wait_idle()
    assert statuses[-1] == (b"480" if number else b"404")
    assert [call.arguments[2] for call in agi.calls if call.script == "route"] == ([number] if number else [])


def invite(user: str, to: str, port: int, us: int) -> bytes:
    """An INVITE of the registrar's; its final answer is not acknowledged, which harms nobody."""
    tag = secrets.token_hex(4)
    lines = (
        f"INVITE sip:{user}@{LOOPBACK}:{us} SIP/2.0",
        f"Via: SIP/2.0/UDP {REGISTRAR}:{port};branch=z9hG4bK{tag}",
        "Max-Forwards: 70",
        f"From: <sip:+12125550147@{REGISTRAR}>;tag={tag}",
        f"To: {to}",
        f"Call-ID: {tag}",
        "CSeq: 1 INVITE",
        f"Contact: <sip:carrier@{REGISTRAR}:{port}>",
        "Content-Length: 0",
        "",
        "",
    )
    return "\r\n".join(lines).encode()


def test_a_carrier_without_a_fixed_address_proves_who_it_is(pair: Pair, agi: ScriptedAgi) -> None:
    pair.call(f"PJSIP/digest/sip:{NUMBER}@{LOOPBACK}:{pair.us.ports.sip}")
    assert agi.arguments("route")[2:6:3] == (NUMBER, "by-digest")


@pytest.mark.parametrize("endpoint", ["wrong", "elsewhere"])
def test_whoever_guesses_or_comes_from_elsewhere_is_not_heard(pair: Pair, agi: ScriptedAgi, endpoint: str) -> None:
    pair.call(f"PJSIP/{endpoint}/sip:{NUMBER}@{LOOPBACK}:{pair.us.ports.sip}")
    pair.carrier.wait_idle()
    pair.us.wait_idle()
    assert agi.calls == []


def test_a_scanner_is_asked_for_a_password_that_does_not_exist(pair: Pair, agi: ScriptedAgi) -> None:
    """What is answered does not tell whether there is such a user."""
    answers = set()
    for user in ("by-digest", "by-ip", "1000", "asterisk"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as scanner:
            scanner.bind((STRANGER, 0))
            scanner.settimeout(10)
            said = invite(NUMBER, f"<sip:{NUMBER}@here>", scanner.getsockname()[1], pair.us.ports.sip)
            said = said.replace(b"+12125550147", user.encode()).replace(REGISTRAR.encode(), STRANGER.encode())
            scanner.sendto(said, pair.us_address)
            answer = scanner.recv(4096).decode()
        answers.add(
            (answer.split(" ", 2)[1], re.sub(r'(nonce|opaque)="[^"]*"', "", _header(answer, "WWW-Authenticate")))
        )
    assert {status for status, _ in answers} == {"401"}
    assert len(answers) == 1
    assert agi.calls == []


def _header(message: str, name: str) -> str:
    return next(line for line in message.splitlines() if line.startswith(f"{name}:"))


def test_a_carrier_calls_over_tls_with_encrypted_media(pair: Pair, agi: ScriptedAgi) -> None:
    pair.call(f"PJSIP/tls/sip:{NUMBER}@{LOOPBACK}:{pair.tls_port}\\;transport=tls")
    assert agi.arguments("route")[5] == "by-tls"


def test_iax2_registers_and_takes_calls_by_address_and_by_secret(pair: Pair, agi: ScriptedAgi) -> None:
    wait_for(lambda: "Registered" in pair.us.cli("iax2 show registry"), "IAX2 registration")
    pair.call(f"IAX2/iax-digest:{SECRET}@{LOOPBACK}:{pair.us.ports.iax}/{NUMBER}")
    assert agi.arguments("route")[5] == "iax-digest"
