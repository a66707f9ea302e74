"""What a trunk becomes in pjsip.conf and iax.conf, by how its carrier is known."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from capconduit.errors import UsageError
from capconduit.render import engine
from capconduit.render.contexts import (
    Ami,
    RenderContext,
    Tls,
    Transport,
    TrunkContext,
)
from capconduit.vocab import SipTransport, TrunkAuth, TrunkKind

CONTEXT = RenderContext(node_name="node1", ami=Ami(users=()))
TLS = Transport(protocol=SipTransport.TLS, name="capconduit-tls", listen="0.0.0.0:5061")
SIP = TrunkContext(name="carrier", kind=TrunkKind.PJSIP, hosts=("192.0.2.1",), port=5070)
IAX = replace(SIP, kind=TrunkKind.IAX2, port=4570)
SECRET: dict[str, Any] = {"username": "us", "secret": "s3cret"}


def rendered(*trunks: TrunkContext, **more: Any) -> str:
    """The file that the trunks are in."""
    context = replace(CONTEXT, trunks=trunks, **more)
    return engine.render_all(context)["pjsip.conf" if trunks[0].kind is TrunkKind.PJSIP else "iax.conf"]


def sections(text: str) -> dict[str, list[str]]:
    """Lines of the trunk's sections without comments, by their type."""
    found = {}
    for name, body in re.findall(r"^\[(.+?)\][^\n]*\n(.*?)(?=^\[|^#|\Z)", text, re.MULTILINE | re.DOTALL):
        lines = [line for line in body.splitlines() if line and not line.startswith(";")]
        if name == "carrier":
            found[lines[0].removeprefix("type = ")] = lines
    return found


def test_a_sip_trunk_by_address() -> None:
    found = sections(rendered(SIP))
    assert set(found) == {"endpoint", "aor", "identify"}
    assert "identify_by = ip" in found["endpoint"]
    assert found["identify"][1:] == ["endpoint = carrier", "match = 192.0.2.1"]
    assert "contact = sip:192.0.2.1:5070" in found["aor"]


def test_a_sip_trunk_by_address_answers_its_carriers_challenges_and_challenges_nobody() -> None:
    found = sections(rendered(replace(SIP, **SECRET)))
    assert "outbound_auth = carrier" in found["endpoint"]
    assert not [line for line in found["endpoint"] if line.startswith("auth =")]


def test_a_sip_trunk_that_registers() -> None:
    found = sections(rendered(replace(SIP, auth=TrunkAuth.REGISTER, **SECRET)))
    assert set(found) == {"endpoint", "aor", "identify", "auth", "registration"}
    registration = found["registration"]
    assert "server_uri = sip:192.0.2.1:5070" in registration
    assert "client_uri = sip:us@192.0.2.1" in registration
    assert {"line = yes", "endpoint = carrier", "outbound_auth = carrier", "contact_user = capconduit"} <= {
        *registration
    }
    assert "outbound_auth = carrier" in found["endpoint"]


def test_a_sip_trunk_without_an_address_is_found_by_what_it_proves_to_be() -> None:
    trunk = replace(SIP, hosts=(), auth=TrunkAuth.DIGEST, username="carrier", secret="s3cret", permit=("192.0.2.0/24",))
    found = sections(rendered(trunk))
    assert set(found) == {"endpoint", "auth"}
    assert {"identify_by = auth_username,username", "auth = carrier", "permit = 192.0.2.0/24"} <= {*found["endpoint"]}
    assert {"deny = 0.0.0.0/0.0.0.0", "deny = ::/0"} <= {*found["endpoint"]}
    assert not [line for line in found["endpoint"] if line.startswith(("aors", "outbound_auth"))]


def test_a_sip_trunk_with_an_address_proves_who_it_is_besides() -> None:
    found = sections(rendered(replace(SIP, auth=TrunkAuth.DIGEST, **SECRET)))
    assert {"identify_by = ip", "auth = carrier"} <= {*found["endpoint"]}


def test_a_sip_trunk_over_tls_with_encrypted_media() -> None:
    trunk = replace(SIP, transport=SipTransport.TLS, srtp=True, port=5061)
    text = rendered(trunk, more_transports=(TLS,), tls=Tls(cert="/k/c.pem", key="/k/k.pem", ca="/k/ca.pem"))
    found = sections(text)
    assert {"transport = capconduit-tls", "media_encryption = sdes"} <= {*found["endpoint"]}
    assert "contact = sip:192.0.2.1:5061\\;transport=tls" in found["aor"]
    assert "cert_file = /k/c.pem\npriv_key_file = /k/k.pem\n" in text
    assert "ca_list_file = /k/ca.pem\nverify_server = yes\n" in text


def test_targets_take_the_transport_of_their_uri_where_there_are_several() -> None:
    alone = rendered(SIP)
    assert "[capconduit-out]\ntype = endpoint\ntransport = capconduit-udp\n" in alone
    several = rendered(SIP, more_transports=(TLS,), tls=Tls(cert="/k/c.pem", key="/k/k.pem"))
    assert "[capconduit-out]\ntype = endpoint\ncontext" in several
    assert "verify_server = no\n" in several


def test_a_transport_of_the_operators_is_used_and_not_rendered() -> None:
    text = rendered(SIP, more_transports=(Transport(protocol=SipTransport.UDP, name="0.0.0.0-udp"),))
    assert "type = transport" not in text
    assert text.count("transport = 0.0.0.0-udp\n") == 2


def test_bounds_of_a_call_stand_at_every_endpoint() -> None:
    text = rendered(SIP, rtp_timeout_s=60, rtp_timeout_hold_s=300, session_expires_s=900)
    assert text.count("rtp_timeout = 60\nrtp_timeout_hold = 300\n") == 2
    assert text.count("timers = yes\ntimers_sess_expires = 900\n") == 2
    assert rendered(SIP, session_expires_s=0).count("timers = no\n") == 2


def test_options_of_a_sip_trunk() -> None:
    found = sections(rendered(replace(SIP, nat=True, qualify_s=60, codecs=("g722", "ulaw"))))
    assert {"rewrite_contact = yes", "rtp_symmetric = yes", "allow = g722", "allow = ulaw"} <= {*found["endpoint"]}
    assert "qualify_frequency = 60" in found["aor"]


def test_an_iax2_trunk_by_address() -> None:
    (friend,) = sections(rendered(IAX)).values()
    assert friend[0] == "type = friend"
    assert {"host = 192.0.2.1", "port = 4570", "deny = 0.0.0.0/0.0.0.0", "permit = 192.0.2.1/32"} <= {*friend}
    assert not [line for line in friend if line.startswith("secret")]


def test_an_iax2_trunk_that_registers() -> None:
    text = rendered(replace(IAX, auth=TrunkAuth.REGISTER, **SECRET))
    assert "[general](+)\nregister => us:s3cret@192.0.2.1:4570\n" in text
    assert {"type = friend", "secret = s3cret"} <= {*sections(text)["friend"]}


def test_an_iax2_trunk_without_an_address() -> None:
    (user,) = sections(rendered(replace(IAX, hosts=(), auth=TrunkAuth.DIGEST, **SECRET))).values()
    assert user[0] == "type = user"
    assert "secret = s3cret" in user
    assert not [line for line in user if line.startswith(("host", "deny"))]


@pytest.mark.parametrize(
    ("trunk", "says"),
    [
        (replace(SIP, auth=TrunkAuth.REGISTER), "secret"),
        (replace(SIP, auth=TrunkAuth.DIGEST), "secret"),
        (replace(SIP, transport=SipTransport.TCP), "tcp"),
        (replace(SIP, transport=SipTransport.TLS), "tls"),
        (replace(SIP, codecs=("opsu",)), "opsu"),
        (replace(IAX, codecs=("silk8",)), "silk8"),
        (replace(SIP, permit=("all",), **SECRET), "permit"),
        (replace(SIP, username="a@b", secret="s", auth=TrunkAuth.REGISTER), "username"),
        (replace(SIP, username="a;b", secret="s"), "username"),
        (replace(SIP, qualify_s=4_000), "qualify_s"),
        (replace(IAX, auth=TrunkAuth.REGISTER, username="us", secret="a@b"), "secret"),
        (replace(IAX, auth=TrunkAuth.REGISTER, username="us", secret="a:b"), "secret"),
    ],
)
def test_a_trunk_that_cannot_work_is_refused_by_what_is_wrong(trunk: TrunkContext, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        rendered(trunk)
    assert "a@b" not in refused.value.message or says == "username"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("192.0.2.1",), ("192.0.2.1",)),
        (("192.0.2.1",), ("198.51.100.1", "192.0.2.0/24")),
        (("192.0.2.1", "192.0.3.0/24"), ("192.0.3.128/25",)),
        (("2001:db8::1",), ("2001:db8::/32",)),
        (("sip.carrier.example",), ("SIP.carrier.example",)),
    ],
)
@pytest.mark.parametrize("kind", list(TrunkKind))
def test_an_address_of_two_trunks_is_refused(kind: TrunkKind, ours: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    one = replace(SIP, kind=kind, hosts=ours)
    with pytest.raises(UsageError, match=r"carrier.*other"):
        rendered(one, replace(one, name="other", hosts=theirs))


def test_trunks_of_different_protocols_or_known_by_name_may_share_an_address() -> None:
    by_name = replace(IAX, name="by-name", username="by-name", secret="s3cret")
    context = replace(
        CONTEXT, trunks=(SIP, replace(IAX, name="iax"), by_name, replace(SIP, name="b", hosts=("192.0.2.2",)))
    )
    assert engine.render_all(context)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"more_transports": (TLS,)}, "tls_cert"),
        ({"more_transports": (replace(TLS, listen="x"),), "tls": Tls(cert="/c", key="/k")}, "sip_tls_listen"),
        ({"more_transports": (TLS,), "tls": Tls(cert="/c;x", key="/k")}, "tls_cert"),
        ({"more_transports": (Transport(protocol=SipTransport.UDP, name="a b"),)}, "transport"),
        ({"session_expires_s": 10}, "session_expires_s"),
        ({"rtp_timeout_s": -1}, "rtp_timeout_s"),
        ({"target_codecs": ("nonsense",)}, "target_codecs"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(change: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        rendered(SIP, **change)
    assert says in refused.value.message + refused.value.hint
