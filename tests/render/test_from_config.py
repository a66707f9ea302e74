"""What the keys of the configuration and the estate's trunks become in the templates' input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capconduit.config import Config, load_config
from capconduit.errors import ConfigError, UsageError
from capconduit.render import engine
from capconduit.render.from_config import render_context, templates_dir
from capconduit.vocab import SipTransport, TrunkAuth
from tests.unit.estate_builder import EstateBuilder

ENV = {"READER": "reader-secret", "CONTROL": "control-secret", "TRUNK": "trunk-secret"}


def configured(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "capconduit.toml"
    path.write_text(text)
    return load_config(path, {})


def rendered(tmp_path: Path, text: str, *trunks: Any) -> dict[str, str]:
    return engine.render_all(render_context(configured(tmp_path, text), trunks, ENV))


def users(manager: str) -> dict[str, str]:
    """The sections of manager.conf below [general]."""
    parts = manager.split("\n[")[2:]
    return {part.partition("]")[0]: part for part in parts}


def test_one_ami_user_does_both_and_two_share_it(tmp_path: Path) -> None:
    both = users(rendered(tmp_path, '[ami]\nsecret = "env:READER"\n')["manager.conf"])
    assert set(both) == {"capconduit"}
    assert "read = system,call\nwrite = call,reporting\n" in both["capconduit"]
    two = users(
        rendered(
            tmp_path,
            '[ami]\nsecret = "env:READER"\ncontrol_username = "capconduit-control"\ncontrol_secret = "env:CONTROL"\n',
        )["manager.conf"]
    )
    reader, control = two["capconduit"], two["capconduit-control"]
    assert "secret = reader-secret\n" in reader
    assert "read = system,call\nwrite = reporting\n" in reader
    assert "secret = control-secret\n" in control
    assert "write = call\n" in control
    assert "read =" not in control
    assert "eventfilter" not in control
    for user in (reader, control):
        assert "deny = 0.0.0.0/0\ndeny = ::/0\npermit = 127.0.0.1/32\n" in user


def test_one_name_for_both_ami_users_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="capconduit"):
        rendered(
            tmp_path, '[ami]\nsecret = "env:READER"\ncontrol_username = "capconduit"\ncontrol_secret = "env:CONTROL"\n'
        )


def test_without_ami_nobody_may_log_in(tmp_path: Path) -> None:
    assert users(rendered(tmp_path, "")["manager.conf"]) == {}


def test_the_keys_of_asterisk_reach_the_files(tmp_path: Path) -> None:
    files = rendered(
        tmp_path,
        """[asterisk]
files = "all"
sip_tcp_listen = "0.0.0.0:5062"
tls_transport = "mine"
external_address = "198.51.100.7"
local_networks = "10.0.0.0/8"
rtp_range = "12000-13000"
rtp_timeout_s = 33
rtp_timeout_hold_s = 44
session_expires_s = 0
target_codecs = "g722,alaw"
[voice]
url = "ws://127.0.0.1:8765/media"
""",
    )
    assert tuple(files) == engine.FILES
    pjsip = files["pjsip.conf"]
    assert "[capconduit-tcp]\ntype = transport\nprotocol = tcp\nbind = 0.0.0.0:5062\n" in pjsip
    assert "protocol = tls" not in pjsip
    assert pjsip.count("external_media_address = 198.51.100.7\n") == 2
    assert pjsip.count("local_net = 10.0.0.0/8\n") == 2
    assert "timers = no\nrtp_timeout = 33\nrtp_timeout_hold = 44\n" in pjsip
    assert "disallow = all\nallow = g722\nallow = alaw\n" in pjsip
    assert "rtpstart = 12000\nrtpend = 13000\n" in files["rtp.conf"]


def test_by_default_only_what_is_needed_is_rendered(tmp_path: Path) -> None:
    files = rendered(tmp_path, "")
    assert set(engine.FILES) - set(files) == {
        "rtp.conf", "logger.conf", "http.conf", "ari.conf", "cel.conf", "websocket_client.conf",
    }  # fmt: skip


def test_templates_of_the_operators_own_are_a_key(tmp_path: Path) -> None:
    assert templates_dir(configured(tmp_path, "")) is None
    assert templates_dir(configured(tmp_path, f'[asterisk]\ntemplates_dir = "{tmp_path}"\n')) == tmp_path


def test_everything_of_a_trunk_reaches_the_context(tmp_path: Path) -> None:
    trunk = EstateBuilder().trunk(
        hosts="192.0.2.1,192.0.2.0/28", auth=TrunkAuth.REGISTER, auth_username="us", auth_secret_ref="env:TRUNK",
        transport=SipTransport.TLS, srtp=True, nat=True, qualify_ms=60_000, permit="192.0.2.0/24,198.51.100.1",
        codecs="g722,ulaw",
    )  # fmt: skip
    (made,) = render_context(configured(tmp_path, ""), [trunk], ENV).trunks
    assert made.hosts == ("192.0.2.1", "192.0.2.0/28")
    assert (made.auth, made.username, made.secret) == (TrunkAuth.REGISTER, "us", "trunk-secret")
    assert (made.transport, made.srtp, made.nat, made.qualify_s) == (SipTransport.TLS, True, True, 60)
    assert (made.permit, made.codecs) == (("192.0.2.0/24", "198.51.100.1"), ("g722", "ulaw"))


def test_a_trunk_whose_secret_is_gone_is_named(tmp_path: Path) -> None:
    trunk = EstateBuilder().trunk(auth=TrunkAuth.DIGEST, auth_username="carrier", auth_secret_ref="env:GONE")
    with pytest.raises(ConfigError, match="GONE") as refused:
        render_context(configured(tmp_path, ""), [trunk], ENV)
    assert "carrier" in refused.value.message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('rtp_range = "20000-10000"', "rtp_range"),
        ('rtp_range = "80-90"', "rtp_range"),
        ('tls_cert = "cert.pem"', "tls_cert"),
        ('udp_transport = "a b"', "udp_transport"),
        ('local_networks = "10.0.0.0/8,home"', "home"),
        ('target_codecs = "ulaw,gms"', "gsm"),
        ("session_expires_s = 5", "session_expires_s"),
        ('files = "some"', "files"),
        ('templates_dir = "mine"', "templates_dir"),
    ],
)
def test_a_wrong_key_is_refused_by_name(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        configured(tmp_path, f"[asterisk]\n{line}\n")
    assert says in refused.value.message + refused.value.hint
