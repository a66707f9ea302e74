"""Guests and listeners."""

from __future__ import annotations

from pathlib import Path

import pytest

from capconduit.doctor import network
from capconduit.doctor.checks import chosen
from capconduit.doctor.conffile import parse_conf
from capconduit.doctor.findings import Severity
from capconduit.doctor.network import Service
from capconduit.doctor.run import examine
from capconduit.doctor.sockets import Listener, UdpSocket, tcp_listeners, udp_sockets
from tests.doctor.facts import config, ids, scene

ENDPOINT = "[trunk]\ntype = endpoint\ncontext = capconduit-inbound\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ENDPOINT + "identify_by = ip\n", []),
        (ENDPOINT + "auth = trunk\n", []),
        (ENDPOINT, ["pjsip-endpoint-open"]),
        (ENDPOINT + "identify_by = auth_username,username\n", ["pjsip-endpoint-open"]),
        (ENDPOINT + "acl = carriers\n", []),
        ("[out]\ntype = endpoint\ncontext = capconduit-none\n", []),
        ("[anonymous]\ntype = endpoint\n", ["pjsip-anonymous"]),
        ("[anonymous@example.net]\ntype = endpoint\nauth = x\n", ["pjsip-anonymous"]),
        ("[anonymous]\ntype = aor\n", []),
        (ENDPOINT + "auth = t\nallow_unauthenticated_options = yes\n", ["pjsip-options-unauthenticated"]),
        ("[t](!)\ntype = endpoint\ncontext = x\n[a](t)\nauth = a\n", []),
        ("[t](!)\ntype = endpoint\ncontext = x\n[a](t)\n", ["pjsip-endpoint-open"]),
    ],
)
def test_pjsip(text: str, expected: list[str]) -> None:
    assert ids(network.judge_pjsip(parse_conf(text))) == expected


USER = "[carrier]\ntype = friend\ncontext = capconduit-inbound\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (USER + "secret = x\n", []),
        (USER + "deny = 0.0.0.0/0.0.0.0\npermit = 192.0.2.1\n", []),
        (USER, ["iax-guest"]),
        (USER + "permit = 192.0.2.1\n", ["iax-guest"]),
        (USER + "deny = 0.0.0.0/0\npermit = 0.0.0.0/0\n", ["iax-guest"]),
        ("[guest]\ntype = user\ncontext = default\n", ["iax-guest"]),
        ("[guest]\ntype = user\ncontext = capconduit-none\n", []),
        ("[out]\ntype = peer\nhost = 192.0.2.1\n", []),
        ("[general]\nrequirecalltoken = no\n", ["iax-call-tokens-off"]),
        ("[general]\ncalltokenoptional = 0.0.0.0/0.0.0.0\n", ["iax-call-tokens-off"]),
        ("[general]\ncalltokenoptional = 192.0.2.0/24\n", []),
    ],
)
def test_iax(text: str, expected: list[str]) -> None:
    assert ids(network.judge_iax(parse_conf(text))) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[general]\nallowguest = no\n", []),
        ("[general]\nallowguest = yes\n", ["sip-guest"]),
        ("[general]\ncontext = default\n", ["sip-guest"]),
    ],
)
def test_chan_sip(text: str, expected: list[str]) -> None:
    assert ids(network.judge_sip(parse_conf(text))) == expected


def test_files_are_looked_at_and_sip_conf_only_where_its_channel_runs(tmp_path: Path) -> None:
    (tmp_path / "pjsip.conf").write_text(ENDPOINT + "identify_by = ip\n")
    (tmp_path / "sip.conf").write_text("[general]\nallowguest = yes\n")
    configuration = config(asterisk={"config_dir": str(tmp_path)})
    for shown, expected in (("chan_sip.so  x  0 Running", ["sip-guest"]), ("0 modules loaded", [])):
        made = scene(configuration, console=lambda command, shown=shown: shown)
        assert ids(examine(made, chosen(["guests"], []))) == expected


def test_an_anonymous_endpoint_that_is_loaded_and_in_no_file_is_found() -> None:
    assert ids(network.judge_loaded_anonymous(" Endpoint:  anonymous      Not in use    0 of inf\n")) == [
        "pjsip-anonymous"
    ]
    assert ids(network.judge_loaded_anonymous("Unable to find object anonymous.\n")) == []


def test_without_any_file_nothing_is_said_to_be_well() -> None:
    (finding,) = examine(scene(), chosen(["guests"], []))
    assert finding.severity is Severity.UNKNOWN


FASTAGI = Service(4_573, "FastAGI", False, "fix")
HTTP = Service(8_088, "HTTP", True, "fix")


@pytest.mark.parametrize(
    ("listeners", "expected"),
    [
        ([Listener(4_573, "127.0.0.1"), Listener(8_088, "::1")], []),
        ([Listener(4_573, "10.0.0.5")], []),
        ([Listener(4_573, "0.0.0.0")], ["listener-open"]),
        ([Listener(4_573, "::")], ["listener-open"]),
        ([Listener(4_573, "8.8.8.8")], ["listener-open"]),
        ([Listener(8_088, "0.0.0.0")], ["listener-wide"]),
        ([Listener(22, "0.0.0.0")], []),
        ([Listener(4_573, "::ffff:127.0.0.1")], []),
    ],
)
def test_listeners(listeners: list[Listener], expected: list[str]) -> None:
    assert ids(network.judge_listeners(listeners, [FASTAGI, HTTP])) == expected


TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:11DD 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 00000000:13AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0100007F:9C40 0100007F:11DD 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 20 4 30 10 -1
"""
TCP6 = """  sl  local_address                         remote_address st tx rx tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:1F98 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4 1 0 1
"""


def test_what_listens_is_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text(TCP)
    (tmp_path / "net/tcp6").write_text(TCP6)
    (tmp_path / "net/udp").write_text(TCP)
    assert tcp_listeners(tmp_path) == [
        Listener(4_573, "127.0.0.1"), Listener(5_038, "0.0.0.0"), Listener(8_088, "::1")
    ]  # fmt: skip
    assert UdpSocket(4_573, "127.0.0.1", 1_000) in udp_sockets(tmp_path)
    configuration = config(ami={"host": "192.0.2.77"})
    assert ids(examine(scene(configuration, proc=tmp_path), chosen(["listeners"], []))) == ["listener-open"]
