"""Attacks on a real Asterisk with the real daemon: dialplan, AGI and AMI injection, scanners, broken SIP.

Whatever came, afterwards nothing was dialled but the target of our DID, nothing is held or occupied, both programs
live, and no log has a secret or a stack trace. Sources: Asterisk's README-SERIOUSLY.bestpractices; RFC 4475.
"""

from __future__ import annotations

import csv
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import pytest

from capconduit.services import calls, caps
from capconduit.vocab import CapMetric
from lab.floor import NUMBER, PATIENT_DEADLINE_MS, PATIENT_GUARD_S, SECRET, Floor
from lab.ports import LOOPBACK, free_port
from lab.sipp import Scenario, Sipp
from lab.wait import wait_for

CARRIER, STRANGER = "127.0.0.1", "127.0.0.9"
# Asterisk reports an unknown address from its fifth request on, but only within 5 s of its first, and forgets it up to
# 40 s later (unidentified_request_* of pjsip.conf; res_pjsip/pjsip_distributor.c): what is to be reported is a new one.
UNSEEN = "127.0.1"
CALLER = b"+12125550147"
UNREADABLE = (0, 400)  # what no SIP parser takes is dropped or refused
ANSWER_S = 15.0  # an answer comes in milliseconds, but a machine may stand still for seconds
DROPPED_S = 2.0  # for what may get no answer at all
SCAN_S = 90.0  # the most that a scanner may take
INSTALL_S = 60.0
CDR_COLUMNS = 12  # docs/dialplan.md, CDR
_SERIAL = count(1)


class Attacker:
    """A SIP speaker that writes what it likes, from an address of its own."""

    def __init__(self, floor: Floor, address: str) -> None:
        self.port = floor.ports.sip
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.socket.settimeout(ANSWER_S)
        self.me = f"{address}:{self.socket.getsockname()[1]}".encode()

    def __enter__(self) -> Attacker:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendto(data, (LOOPBACK, self.port))

    def request(self, method: bytes, user: bytes, sender: bytes, more: Sequence[bytes] = ()) -> tuple[bytes, bytes]:
        """A request and its ACK. `sender` is all of From's value but the tag."""
        serial = next(_SERIAL)
        uri = b"sip:" + user + b"@127.0.0.1:%d" % self.port
        sdp = b"v=0\r\no=x 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n"
        body = sdp if method == b"INVITE" else b""

        def lines(method: bytes, more: Sequence[bytes], body: bytes) -> bytes:
            head = [
                method + b" " + uri + b" SIP/2.0",
                b"Via: SIP/2.0/UDP " + self.me + b";branch=z9hG4bK-attack-%d;rport" % serial,
                b"From: " + sender + b";tag=a%d" % serial,
                b"To: <" + uri + b">",
                b"Call-ID: attack-%d@" % serial + self.me,
                b"CSeq: 1 " + method,
                b"Contact: <sip:x@" + self.me + b">",
                b"Max-Forwards: 70",
                *more,
            ]
            if body:
                head.append(b"Content-Type: application/sdp")
            return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", body])

        return lines(method, more, body), lines(b"ACK", (), b"")

    def invite(
        self,
        user: bytes,
        sender: bytes = b"<sip:" + CALLER + b"@x>",
        more: Sequence[bytes] = (),
        wait_s: float = ANSWER_S,
    ) -> int:
        """The final code of a call, acknowledged; 0 where nobody answered at all. The target answers none with 200."""
        request, ack = self.request(b"INVITE", user, sender, more)
        code = self.answer(request, wait_s)
        if code:
            self.send(ack)
        return code

    def answer(self, request: bytes, wait_s: float = ANSWER_S) -> int:
        """Send a request; the first final code. What cannot be read as SIP is dropped without an answer."""
        wanted = re.search(rb"branch=([^;\s]+)", request)
        self.socket.settimeout(wait_s)
        self.send(request)
        while True:
            try:
                data = self.socket.recv(65_535)
            except TimeoutError:
                return 0
            status = re.match(rb"SIP/2.0 (\d{3})", data)
            if status and int(status[1]) >= 200 and (wanted is None or wanted[1] in data):
                return int(status[1])


class Field:
    """A floor under attack, with a target that is always busy: a call to our DID ends with 486."""

    def __init__(self, floor: Floor, target: Sipp) -> None:
        self.floor = floor
        self.target = target
        self.marker = floor.dir / "owned"

    def attacker(self, address: str = CARRIER) -> Attacker:
        return Attacker(self.floor, address)

    def requests(self) -> dict[str, int]:
        """How often the daemon was asked what."""
        return dict(self.floor.status()["fastagi"]["requests"])

    def records(self) -> int:
        """How many CDRs there are."""
        return len(calls.find_cdrs(self.floor.office))

    def assert_unharmed(self) -> None:
        floor = self.floor
        with self.attacker() as caller:
            assert caller.invite(NUMBER.encode()) == 486, "a good call still gets its answer"
        floor.asterisk.wait_idle()
        wait_for(lambda: not floor.live(), "end of all calls")
        account = floor.balance().account
        assert (account.held_micros, account.available_micros) == (0, 10_000_000)
        assert floor.drift() == []
        assert [view.in_flight for view in caps.cap_usage(floor.office)] == [0]
        status = floor.status()
        assert (status["ready"], status["ami"]["up"]) == (True, True)
        assert not self.marker.exists()
        self._nothing_else_was_dialled()
        for log in (floor.asterisk.log(), (floor.dir / "daemon.log").read_text(errors="replace")):
            assert SECRET not in log
            assert "Traceback" not in log
            assert "uid=0" not in log

    def _nothing_else_was_dialled(self) -> None:
        """By what the target heard, by Asterisk's records and by ours."""
        uris = set(re.findall(r"^INVITE (\S+) SIP/2.0", self.target.messages(), re.MULTILINE))
        assert uris <= {self.target.uri}
        for cdr in self.floor.cdrs(1):
            assert cdr.did == NUMBER or cdr.attempts == 0, cdr.did
        for row in csv.reader(self.floor.asterisk.cdr_rows("capconduit.csv")):
            assert len(row) == CDR_COLUMNS, row
            channel, dialled = (re.sub(r"-[0-9a-f]{8}$", "", name) for name in row[2:4])
            assert (channel, dialled) in {("PJSIP/carrier", "PJSIP/capconduit-out"), ("PJSIP/carrier", "")}


@pytest.fixture(scope="module")
def field(asterisk_tree: Path) -> Iterator[Field]:
    with (
        Floor(asterisk_tree, deadline_ms=PATIENT_DEADLINE_MS, guard_s=PATIENT_GUARD_S) as floor,
        Sipp.uas(Scenario.UAS_REFUSE, code=486, timeout_s=600) as target,
    ):
        floor.fund("10")
        floor.target(target.uri)
        floor.cap(CapMetric.CONCURRENT, "100")
        yield Field(floor, target)


@pytest.fixture(autouse=True)
def no_sipp_left() -> None:
    """The target of this module lives longer than a test."""


def escaped(text: bytes) -> bytes:
    """Every byte as a SIP URI may carry it."""
    return b"".join(bytes([b]) if bytes([b]).isalnum() or b in b"+-_.!~*'()" else b"%%%02X" % b for b in text)


def shell(field: Field) -> bytes:
    """What would leave a file behind where the dialplan reads it."""
    return b"${SHELL(id > " + str(field.marker).encode() + b")}"


# --- the dialled number ----------------------------------------------------------------------------------------------

DIALLED = [
    b"500&SIP/itsp/14165551212",
    b"18005550100&PJSIP/capconduit-out/sip:owned@127.0.0.1:9",
    b"+18005550100&Local/s@capconduit-inbound",
    b"+18005550100,1",
    b"+18005550100|1",
    b"+18005550100@capconduit-settle",
    b"${EXTEN}",
    b"${GLOBAL(CC_BEEPS)}",
    b"$[1+1]",
    b"+1800555010${LEN(a)}",
    b"+18005550100)&System(id",
    b'+18005550100"',
    b"+18005550100\r\nX-Evil: yes",
    b"+18005550100\n200 result=1",
    b"+18005550100;phone-context=evil",
    b"s",
    b"h",
    b"i",
    b"t",
    b"T",
    b"_X.",
    b"_[+0-9]!",
    b"\xe9\xfc\xff",
    b"\xf0\x9f\x92\xb0",
    b"9" * 79,
    b"9" * 2_000,
    b"+" * 50,
    b"+18005550100" * 100,
]


@pytest.mark.parametrize("dialled", DIALLED, ids=lambda d: ascii(d[:30]))
def test_what_is_no_number_of_ours_is_not_dialled(field: Field, dialled: bytes) -> None:
    with field.attacker() as attacker:
        code = attacker.invite(escaped(dialled))
    assert 400 <= code < 500
    assert code != 486
    field.assert_unharmed()


def test_a_nul_ends_a_dialled_number(field: Field) -> None:
    """PJSIP itself ends the text there: what is left is dialled, and nothing behind it is looked at."""
    with field.attacker() as attacker:
        assert attacker.invite(escaped(NUMBER.encode() + b"\x00&PJSIP/evil")) == 486
        assert 400 <= attacker.invite(escaped(b"\x00" + NUMBER.encode())) < 486
    field.assert_unharmed()


def test_a_dialled_number_that_is_a_command_runs_nothing(field: Field) -> None:
    with field.attacker() as attacker:
        for text in (shell(field), NUMBER.encode() + shell(field), b"$" + shell(field), b"\\" + shell(field)):
            assert 400 <= attacker.invite(escaped(text)) < 500
            assert attacker.answer(attacker.request(b"INVITE", text, b"<sip:x@x>")[0], 0.3) in (0, 400, 404, 416)
    field.assert_unharmed()


# --- the caller ------------------------------------------------------------------------------------------------------

NAMES = [
    b'"a \\"quoted\\" , name | with $ { } ; things"',
    b'"${SHELL(id)} ${CHANNEL(name)} $[1+1] ${DB_DELETE(capconduit)}"',
    b'"x,y,+19995550199,z,w,v,u,t,s,r"',
    b'"),1,System(id)"',
    b'"x\\\r\n CC_VERDICT=dial"',
    b'"x%0a200 result=1%0aagi_uniqueid: 1"',
    b'"x%0d%0a%0d%0aAction: Originate%0d%0aApplication: System%0d%0a"',
    b'"x\r\n Action: Originate\r\n Application: System"',
    b'"x\x01\x02\x1b[31m\x7f\x85"',
    b'"Caf\xe9 M\xfcller \xff\xfe"',
    b'"' + b"n" * 3_000 + b'"',
    b'"' + b"\\\\" * 500 + b'"',
    b'"CC_VERDICT=dial,CC_DIAL=PJSIP/evil"',
    b'"\\"\\\\\\""',
    b'"(((((((("',
    b'"[[[[ ]] {{"',
]


@pytest.mark.parametrize("name", NAMES, ids=lambda n: ascii(n[:30]))
@pytest.mark.parametrize("header", ["From", "P-Asserted-Identity"])
def test_a_caller_name_is_only_a_name(field: Field, header: str, name: bytes) -> None:
    before = field.records()
    plain = b"<sip:" + CALLER + b"@x>"
    may_be_unreadable = b"\x01" in name or b"\r\n" in name
    wait_s = DROPPED_S if may_be_unreadable else ANSWER_S
    with field.attacker() as attacker:
        if header == "From":
            code = attacker.invite(NUMBER.encode(), name + b" " + plain, wait_s=wait_s)
        else:
            named = [b"P-Asserted-Identity: " + name + b" " + plain]
            code = attacker.invite(NUMBER.encode(), plain, named, wait_s)
    if code in UNREADABLE:
        assert may_be_unreadable
        field.assert_unharmed()
        return
    cdr = field.floor.cdrs(before + 1)[-1]
    assert (code, cdr.did, cdr.caller_e164, cdr.attempts) == (486, NUMBER, CALLER.decode(), 1)
    assert not re.search(r"[\x00-\x1f\x7f]", cdr.caller_name)
    assert len(cdr.caller_name) <= 256
    field.assert_unharmed()


NUMBERS = [
    b"1001&PJSIP/evil",
    b"+12125550147,1,2",
    b'+12125550147"',
    b"+12125550147\n200 result=1",
    b"+12125550147\r\n\r\nAction: Logoff\r\n\r\n",
    b"+12125550147|x",
    b"${CALLERID(num)}",
    b"$[1/0]",
    b"\x00",
    b"\xe9\xe9\xe9",
    b"1" * 1_000,
    b"alice;drop",
    b"+1*",
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: ascii(n[:30]))
def test_a_caller_number_that_is_none_is_refused_or_goes_on_as_text(field: Field, number: bytes) -> None:
    with field.attacker() as attacker:
        code = attacker.invite(NUMBER.encode(), b"<sip:" + escaped(number) + b"@x>")
    assert code in (484, 486), code
    field.assert_unharmed()


def test_a_caller_number_that_is_a_command_runs_nothing(field: Field) -> None:
    command = shell(field)
    with field.attacker() as attacker:
        assert attacker.invite(NUMBER.encode(), b"<sip:" + escaped(command) + b"@x>") == 484
        assert attacker.invite(NUMBER.encode(), b'"' + command + b'" <sip:' + CALLER + b"@x>") == 486
        diverted = [b"Diversion: <sip:" + escaped(command) + b'@x>;reason="' + command + b'"']
        assert attacker.invite(NUMBER.encode(), more=diverted) == 486
    field.assert_unharmed()


HEADERS = [
    b"Diversion: <sip:%0aagi_uniqueid%3a%201%0a@x>",
    b'Diversion: "x\\"${SHELL(id)}" <sip:+1%0d%0a%0d%0a@x>;reason=unconditional',
    b"P-Asserted-Identity: <sip:%0a%0aagi_arg_1@x>",
    b"Remote-Party-ID: <sip:${EXTEN}@x>;party=calling",
    b"Privacy: id",
    b"X-Capconduit-Trunk: other",
    b"Identity: ${SHELL(id)}",
    b"P-Attestation-Indicator: A,B,C\\",
    b"P-Attestation-Indicator: ${SHELL(id)}",
    b"P-Attestation-Indicator: " + b"A" * 2_000,
    b"User-Agent: friendly-scanner${SHELL(id)}",
    b"Replaces: 1@x;to-tag=1;from-tag=2",
]


@pytest.mark.parametrize("header", HEADERS, ids=lambda h: ascii(h[:50]))
def test_no_header_leads_a_call_elsewhere(field: Field, header: bytes) -> None:
    with field.attacker() as attacker:
        code = attacker.invite(NUMBER.encode(), more=[header])
    # Replaces names a call that does not exist; a caller's number in a header may be none.
    assert code in (486, 484) or (header.startswith(b"Replaces") and code == 481), code
    field.assert_unharmed()


def test_a_call_id_is_only_text(field: Field) -> None:
    with field.attacker() as attacker:
        for hostile in (b"${SHELL(id)}", b"a,b,c", b'"quoted"', b"x%0a200", b"\\" * 20, b"c" * 1_000, b"\xff\xfe"):
            request, ack = attacker.request(b"INVITE", NUMBER.encode(), b"<sip:" + CALLER + b"@x>")
            code = attacker.answer(re.sub(rb"Call-ID: attack", lambda _, h=hostile: b"Call-ID: " + h, request), 1.0)
            attacker.send(ack)
            assert code in (0, 400, 486), hostile
    field.assert_unharmed()


# --- who may call ----------------------------------------------------------------------------------------------------


def test_a_call_from_an_unknown_address_reaches_nothing_and_costs_the_daemon_nothing(field: Field) -> None:
    asked, records = field.requests(), field.records()
    rows = len(field.floor.asterisk.cdr_rows("capconduit.csv"))
    before = {cdr.uniqueid for cdr in calls.find_cdrs(field.floor.office)}
    with field.attacker(STRANGER) as stranger:
        for user in (NUMBER.encode(), b"100", b"s", b"capconduit-out"):
            for sender in (CALLER, b"carrier", b"capconduit-out", b"anonymous"):
                assert stranger.invite(user, b"<sip:" + sender + b"@127.0.0.1>") in (401, 403, 404)
        for method in (b"REGISTER", b"SUBSCRIBE", b"PUBLISH", b"MESSAGE", b"REFER", b"NOTIFY", b"BYE", b"OPTIONS"):
            request, _ = stranger.request(method, b"carrier", b"<sip:carrier@127.0.0.1>")
            assert stranger.answer(request, 1.0) != 200, method
    assert field.requests() == asked
    assert field.records() == records
    # Asterisk writes the record of a call after its end: one of an earlier call may have come since.
    later = field.floor.asterisk.cdr_rows("capconduit.csv")[rows:]
    assert [row for row in later if not any(uniqueid in row for uniqueid in before)] == []
    field.assert_unharmed()


def test_a_carrier_can_do_nothing_but_call(field: Field) -> None:
    """No registration, no text, no transfer from outside a dialog."""
    with field.attacker() as carrier:
        for method in (b"REGISTER", b"SUBSCRIBE", b"PUBLISH", b"MESSAGE", b"REFER", b"NOTIFY"):
            request, _ = carrier.request(method, b"carrier", b"<sip:carrier@127.0.0.1>")
            assert not 200 <= carrier.answer(request, 1.0) < 300, method
    field.assert_unharmed()


# --- scanners --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sipvicious(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scanners, in a directory of their own."""
    place = tmp_path_factory.mktemp("sipvicious")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    try:
        done = subprocess.run(
            [*command, "--target", str(place), "sipvicious==0.3.8"],
            capture_output=True, text=True, timeout=INSTALL_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip("sipvicious could not be had in time")
    if done.returncode != 0:
        pytest.skip(f"sipvicious cannot be had: {done.stderr[-300:]}")
    return place


# Two of the three tools forget the address that they are told to bind to.
LAUNCH = """
import runpy, socket, sys
address, tool, real = sys.argv[1], sys.argv[2], socket.socket.bind
socket.socket.bind = lambda self, at: real(self, (address, *at[1:]))
del sys.argv[1:3]
runpy.run_module("sipvicious." + tool, run_name="__main__")
"""


def scanned(place: Path, address: str, tool: str, *arguments: str) -> str:
    """What a scanner at `address` says; it is ended after a while. What was not acknowledged comes again to the port of
    an earlier one, so each has its own."""
    local = free_port(socket.SOCK_DGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LAUNCH, address, tool, "-P", str(local), *arguments],
        cwd=place, capture_output=True, text=True, timeout=SCAN_S, check=False, stdin=subprocess.DEVNULL,
        env={"HOME": str(place), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(place)},
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("address", [STRANGER, CARRIER])
def test_scanners_find_a_device_and_nothing_on_it(field: Field, sipvicious: Path, address: str) -> None:
    port, asked = str(field.floor.ports.sip), field.requests()
    assert "CapConduit" in scanned(sipvicious, address, "svmap", "-p", port, "-m", "OPTIONS", LOOPBACK)
    for method in ("REGISTER", "INVITE"):
        told = scanned(
            sipvicious, address, "svwar", "-p", port, "-m", method, "-e100-130", "--force", "--maximumtime=2", LOOPBACK
        )
        assert "noauth" not in told
    told = scanned(sipvicious, address, "svcrack", "-p", port, "-u", "carrier", "-r1-30", "--maximumtime=2", LOOPBACK)
    assert not re.search(r"\| *carrier *\|", told), "a password was found"
    if address == STRANGER:
        assert field.requests() == asked, "the daemon hears nothing of strangers"
    else:
        wait_for(lambda: field.requests()["route"] >= asked["route"] + 30, "the scanner's calls as far as the decision")
    field.assert_unharmed()


# --- RFC 4475 --------------------------------------------------------------------------------------------------------

_HEAD = (
    b"Via: SIP/2.0/UDP @ME@;branch=z9hG4bK-@N@;rport\r\nMax-Forwards: 70\r\nFrom: <sip:+12125550147@x>;tag=@N@\r\n"
    b"To: <sip:+18005550100@x>\r\nCall-ID: torture-@N@\r\nCSeq: @N@ INVITE\r\nContact: <sip:x@@ME@>\r\n"
)
TORTURE: dict[str, bytes] = {
    "3.1.1.1 a short tortuous INVITE": (
        b"INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\r\n"
        b"TO :\r\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\r\n"
        b'from   : "J Rosenberg \\\\\\""       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8\r\n'
        b"MaX-fOrWaRdS: 0068\r\nCall-ID: wsinv.ndaksdj@192.0.2.1\r\nContent-Length   : 150\r\n"
        b"cseq: 0009\r\n  INVITE\r\n"
        b"Via  : SIP  /   2.0\r\n /UDP\r\n    @ME@;branch=390skdjuw\r\ns :\r\nNewFangledHeader:   newfangled value\r\n"
        b" continued newfangled value\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n"
    ),
    "3.1.1.4 an escaped null": b"REGISTER sip:example.com SIP/2.0\r\n" + _HEAD.replace(b"+1212", b"null-%00-"),
    "3.1.1.6 an unusual method": b"!interesting-Method0123456789_*+`.%indeed'~ sip:x@x SIP/2.0\r\n" + _HEAD,
    "3.1.2.1 separators without parameters": (
        b"INVITE sip:+18005550100@x SIP/2.0\r\n" + _HEAD.replace(b";rport", b";;,;,,") + b"Contact: ;;;;\r\n"
    ),
    "3.1.2.2 more Content-Length than message": (
        b"INVITE sip:+18005550100@x SIP/2.0\r\n" + _HEAD + b"Content-Length: 9999\r\n\r\nv=0"
    ),
    "3.1.2.3 a negative Content-Length": b"INVITE sip:+18005550100@x SIP/2.0\r\n" + _HEAD + b"Content-Length: -999\r\n",
    "3.1.2.4 overlarge numbers": (
        b"REGISTER sip:x SIP/2.0\r\n"
        + _HEAD.replace(b"CSeq: @N@", b"CSeq: 36893488147419103232").replace(b"70", b"3000000000000")
        + b"Expires: 1"
        + b"0" * 100
        + b"\r\nContact: <sip:x@x>;expires=280297596632815\r\n"
    ),
    "3.1.2.6 an unterminated quote": (
        b"INVITE sip:+18005550100@x SIP/2.0\r\n" + _HEAD.replace(b"To: <", b'To: "Mr. J. User <')
    ),
    "3.1.2.7 angle brackets around the Request-URI": b"INVITE <sip:+18005550100@x> SIP/2.0\r\n" + _HEAD,
    "3.1.2.8 white space in the Request-URI": b"INVITE sip:+18005550100@x; lr SIP/2.0\r\n" + _HEAD,
    "3.1.2.9 many spaces in the start line": b"INVITE  sip:+18005550100@x  SIP/2.0\r\n" + _HEAD,
    "3.1.2.10 spaces at the end of the start line": b"INVITE sip:+18005550100@x SIP/2.0  \r\n" + _HEAD,
    "3.1.2.16 another version": b"INVITE sip:+18005550100@x SIP/7.0\r\n" + _HEAD,
    "3.1.2.17 methods that differ": b"OPTIONS sip:+18005550100@x SIP/2.0\r\n" + _HEAD,
    "3.2.1 no branch": b"INVITE sip:+18005550100@x SIP/2.0\r\n" + _HEAD.replace(b"z9hG4bK-@N@", b"z9hG4bK"),
    "3.3.1 required headers are missing": b"INVITE sip:+18005550100@x SIP/2.0\r\nCSeq: 193942 INVITE\r\n",
    "3.3.2 an unknown scheme": b"INVITE nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0\r\n" + _HEAD,
    "3.3.8 headers twice": b"INVITE sip:+18005550100@x SIP/2.0\r\n" + _HEAD + _HEAD.replace(b"torture", b"other"),
    "no SIP at all": bytes(range(256)) * 8,
    "nothing": b"\r\n\r\n\r\n",
    "a NUL in every place": (b"INVITE sip:+18005550100@x SIP/2.0\r\n" + _HEAD).replace(b" ", b"\x00"),
    "a header without an end": b"INVITE sip:+18005550100@x SIP/2.0\r\n" + _HEAD + b"X: " + b"y" * 30_000,
    "ten thousand headers": b"INVITE sip:+18005550100@x SIP/2.0\r\n" + _HEAD + b"X: y\r\n" * 10_000,
    "a response to nothing": b"SIP/2.0 200 OK\r\n" + _HEAD,
    "a response with a number too large": b"SIP/2.0 4294967301 better not break the receiver\r\n" + _HEAD,
}


@pytest.mark.parametrize("name", TORTURE)
@pytest.mark.parametrize("address", [CARRIER, STRANGER])
def test_broken_messages_break_nothing(field: Field, name: str, address: str) -> None:
    with field.attacker(address) as attacker:
        serial = str(next(_SERIAL)).encode()
        message = TORTURE[name].replace(b"@ME@", attacker.me).replace(b"@N@", serial)
        message += b"" if b"\r\n\r\n" in message else b"\r\n\r\n"
        attacker.send(message)
        request, _ = attacker.request(b"OPTIONS", b"carrier", b"<sip:x@x>")
        assert attacker.answer(request) != 0, "Asterisk answers what comes after it"
        # A call that came of it is over when we do not acknowledge its answer, or when we hang up; both end in time.
        attacker.send(
            b"CANCEL sip:+18005550100@x SIP/2.0\r\n"
            + _HEAD.replace(b" INVITE", b" CANCEL").replace(b"@ME@", attacker.me).replace(b"@N@", serial)
            + b"Content-Length: 0\r\n\r\n"
        )
    field.assert_unharmed()


# --- what is seen of an attack ---------------------------------------------------------------------------------------


def test_the_fail2ban_filter_of_the_docs_finds_strangers_in_the_security_log_and_no_carrier(field: Field) -> None:
    asterisk = field.floor.asterisk
    asterisk.put("logger.conf", "[logfiles]\nmessages => notice,warning,error\nsecurity => security\n")
    asterisk.cli("module load res_security_log.so")
    asterisk.cli("logger reload")
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()
    found = re.search(r"failregex = (.+)", page)
    assert found
    pattern = re.compile(found[1].replace("<HOST>", r"(?P<host>[0-9a-f.:]+)"))
    lines = asterisk.dir / "log/security"
    wait_for(lines.exists, "security log")
    strangers: list[str] = []

    def heard() -> list[str]:
        text = lines.read_text(errors="replace")
        return [match["host"] for line in text.splitlines() if (match := pattern.search(line))]

    def one_more_is_heard() -> bool:
        strangers.append(f"{UNSEEN}.{len(strangers) + 1}")
        _forge(field, strangers[-1])
        return len(heard()) >= 10

    wait_for(one_more_is_heard, "security events", timeout_s=60.0)
    with field.attacker() as carrier:
        assert carrier.invite(NUMBER.encode()) == 486
    assert set(heard()) <= set(strangers), "and nobody whom a stranger names"
    field.assert_unharmed()


def _forge(field: Field, address: str) -> None:
    """Calls of a stranger whose texts look like the end of one log line and the beginning of another."""
    forged = b'x",LocalAddress="IPV4/UDP/127.0.0.1/1",RemoteAddress="IPV4/UDP/127.0.0.1/1"'
    answer = b'Authorization: Digest username="x", realm="asterisk", nonce="n", uri="sip:x@x", response="'
    with field.attacker(address) as stranger:
        for _ in range(10):
            stranger.invite(NUMBER.encode())
            stranger.invite(NUMBER.encode(), b"<sip:" + escaped(forged) + b"@x>")
            stranger.invite(NUMBER.encode(), b'<sip:",RemoteAddress=%22IPV4/UDP/1.1.1.1/1@x>'.replace(b'"', b"%22"))
            stranger.invite(NUMBER.encode(), more=[answer + forged.replace(b'"', b'\\"') + b'"'])
