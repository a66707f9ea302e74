"""OPTIONS over real UDP sockets: what is an answer, whose answer it is, and when nobody answers."""

from __future__ import annotations

import socket

import pytest

from capconduit.asterisk.options import Ask, options, place_of, request, response_to
from capconduit.vocab import TargetFault
from lab.ports import free_port
from tests.protocol.sip_answerer import answerer, reply

ASK = Ask("z9hG4bKabc", "call-1", "tag-1")
REQUEST = request(place_of("sip:buyer@127.0.0.1"), ASK, ("127.0.0.1", 40_000))
NEVER_S = 1.4  # one retransmission fits in, after half a second; the next one does not
SOON_S = 0.7
LONG_S = 10.0  # what is answered ends long before


@pytest.mark.parametrize(
    ("uri", "host", "port", "udp"),
    [
        ("sip:buyer@127.0.0.1", "127.0.0.1", 5060, True),
        ("sip:buyer@pbx.example.net:5080;transport=udp", "pbx.example.net", 5080, True),
        ("sip:buyer@[2001:db8::1]:5070", "2001:db8::1", 5070, True),
        ("sip:+18005550100@[::1]", "::1", 5060, True),
        ("sip:buyer@192.0.2.9;transport=tcp", "192.0.2.9", 5060, False),
        ("sips:buyer@192.0.2.9", "192.0.2.9", 5060, False),
    ],
)
def test_where_a_uri_leads(uri: str, host: str, port: int, udp: bool) -> None:
    place = place_of(uri)
    assert (place.host, place.port, place.udp) == (host, port, udp)


def test_the_request_has_what_every_request_must_have() -> None:
    place = place_of("sip:a#b@[::1]:5070")
    head, _, body = request(place, ASK, ("::1", 40_000)).decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    assert first == "OPTIONS sip:a%23b@[::1]:5070 SIP/2.0"
    assert fields["Via"] == "SIP/2.0/UDP [::1]:40000;branch=z9hG4bKabc;rport"
    assert (fields["CSeq"], fields["Call-ID"], fields["Max-Forwards"]) == ("1 OPTIONS", "call-1", "70")
    assert fields["From"].endswith(";tag=tag-1")
    assert "tag=" not in fields["To"]
    assert (fields["Content-Length"], body) == ("0", "")


OURS = "Via: SIP/2.0/UDP 127.0.0.1:40000;branch=z9hG4bKabc"


@pytest.mark.parametrize(
    ("packet", "status"),
    [
        (reply(REQUEST, "200 OK"), 200),
        (reply(REQUEST, "404"), 404),
        (reply(REQUEST, "200 OK", via=f"v:{OURS[4:]};received=127.0.0.1", call_id="i: call-1"), 200),
        (reply(REQUEST, "200 OK", via="Via: SIP/2.0/UDP 127.0.0.1:40000\r\n ;rport;branch=z9hG4bKabc"), 200),
        (reply(REQUEST, "200 OK", via=f"{OURS}\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKother"), 200),
        (reply(REQUEST, "200 OK", via="Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKother"), None),
        (reply(REQUEST, "200 OK", via=f"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKother\r\n{OURS}"), None),
        (reply(REQUEST, "200 OK", call_id="Call-ID: call-2"), None),
        (reply(REQUEST, "200 OK", cseq="CSeq: 1 INVITE"), None),
        (reply(REQUEST, "200 OK", cseq="CSeq: 2 OPTIONS"), None),
        (reply(REQUEST, "999 What"), None),
        (REQUEST, None),
        (b"", None),
        (b"\xff\x00" * 900, None),
        (b"SIP/2.0 200 OK", None),
        (b"SIP/2.0 200 OK\r\n: :\r\nVia\r\nCall-ID: call-1\r\n\r\n", None),
    ],
)
def test_which_response_is_ours(packet: bytes, status: int | None) -> None:
    found = response_to(ASK, packet)
    assert (found.status if found else None) == status


def test_a_reason_that_would_paint_the_terminal_is_made_harmless() -> None:
    found = response_to(ASK, reply(REQUEST, "200 \x1b[31mred" + "x" * 500))
    assert found is not None
    assert "\x1b" not in found.reason
    assert len(found.reason) <= 80


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("200 OK", "200 OK"),
        ("401 Unauthorized", "wants a password"),
        ("403 Forbidden", "lets nobody"),
        ("404 Not Found", "knows no buyer"),
        ("405 Method Not Allowed", "does not care for OPTIONS"),
        ("503 Service Unavailable", "no better"),
    ],
)
def test_every_final_response_is_an_answer(status: str, words: str) -> None:
    with answerer(lambda data, _: [reply(data, status)]) as (port, _):
        heard = options(f"sip:buyer@127.0.0.1:{port}", LONG_S)
    assert (heard.fault, heard.status, heard.asked) == (None, int(status[:3]), f"127.0.0.1:{port}")
    assert words in heard.words
    assert heard.latency_ms is not None


def test_who_never_answers_is_asked_again_and_told() -> None:
    with answerer(lambda data, _: []) as (port, requests):
        heard = options(f"sip:buyer@127.0.0.1:{port}", NEVER_S)
    assert (heard.fault, heard.status, heard.latency_ms) == (TargetFault.TIMEOUT, None, None)
    assert len(requests) == heard.sent == 2
    assert requests[0] == requests[1]
    assert "asked 2 times" in heard.words


def test_what_is_lost_once_is_answered_the_second_time() -> None:
    with answerer(lambda data, number: [reply(data, "200 OK")] if number > 1 else []) as (port, _):
        heard = options(f"sip:buyer@127.0.0.1:{port}", LONG_S)
    assert (heard.status, heard.sent) == (200, 2)


def test_garbage_and_answers_to_others_are_no_answer() -> None:
    def strange(data: bytes, number: int) -> list[bytes]:
        if number > 1:
            return []
        late = reply(data, "200 OK", call_id="Call-ID: of-another")
        return [b"\x00garbage", late, reply(data, "200 OK", via="Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKx")]

    with answerer(strange) as (port, _):
        heard = options(f"sip:buyer@127.0.0.1:{port}", NEVER_S)
    assert heard.fault is TargetFault.TIMEOUT
    assert "3 packets came that answer something else" in heard.words


def test_the_answer_counts_that_comes_after_strange_and_provisional_ones() -> None:
    def at_last(data: bytes, _: int) -> list[bytes]:
        other = reply(data, "404 Not Found", call_id="Call-ID: of-another")
        return [b"garbage", other, reply(data, "100 Trying"), reply(data, "200 OK")]

    with answerer(at_last) as (port, _):
        assert options(f"sip:buyer@127.0.0.1:{port}", LONG_S).status == 200


def test_a_provisional_response_alone_is_no_answer() -> None:
    with answerer(lambda data, _: [reply(data, "100 Trying")]) as (port, requests):
        heard = options(f"sip:buyer@127.0.0.1:{port}", SOON_S)
    assert heard.fault is TargetFault.TIMEOUT
    assert len(requests) == 1  # somebody works on it: not asked again so soon


def test_a_port_that_nobody_listens_at_is_refused_at_once() -> None:
    port = free_port(socket.SOCK_DGRAM)
    heard = options(f"sip:buyer@127.0.0.1:{port}", LONG_S)
    assert heard.fault is TargetFault.REFUSED
    assert f"127.0.0.1:{port}: nobody listens" in heard.words


@pytest.mark.parametrize("port", [0, 99_999])
def test_what_is_no_port_is_not_asked(port: int) -> None:
    heard = options(f"sip:buyer@127.0.0.1:{port}", LONG_S)
    assert (heard.fault, heard.sent) == (TargetFault.UNREACHABLE, 0)
    assert f"{port} is no port" in heard.words


def test_ipv6_is_asked_too() -> None:
    try:
        with answerer(lambda data, _: [reply(data, "200 OK")], "::1") as (port, _):
            heard = options(f"sip:buyer@[::1]:{port}", LONG_S)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert (heard.status, heard.asked) == (200, f"[::1]:{port}")


def test_another_transport_is_not_asked_and_that_is_said() -> None:
    with answerer(lambda data, _: [reply(data, "200 OK")]) as (port, requests):
        heard = options(f"sip:buyer@127.0.0.1:{port};transport=tls", LONG_S)
    assert heard.fault is TargetFault.TRANSPORT
    assert "only UDP" in heard.words
    assert requests == []


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    heard = options("sip:buyer@nobody.invalid", LONG_S)
    assert heard.fault is TargetFault.DNS
    assert "Name or service not known" in heard.words
