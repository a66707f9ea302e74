"""The modules that the rendered files need are read from them; no form of the templates uses a name unknown here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from capconduit.doctor import network
from capconduit.doctor.conffile import parse_conf
from capconduit.doctor.needed import APPLICATIONS, FUNCTIONS, module_needs, used_names
from capconduit.render.contexts import Ami, AmiUser, Fallback, RenderContext, RtpRange, StirSource, TrunkContext, Voice
from capconduit.render.engine import render_all
from capconduit.vocab import TrunkAuth, TrunkKind
from tests.doctor.facts import ids

PLAIN = RenderContext(node_name="pbx1", ami=Ami(users=(AmiUser(username="capconduit", secret="long-and-winding"),)))
ADDRESS = TrunkContext(name="by-address", kind=TrunkKind.PJSIP, hosts=("192.0.2.1",))
IAX = TrunkContext(name="by-iax", kind=TrunkKind.IAX2, hosts=("192.0.2.3",), codecs=("ulaw",))


def account(auth: TrunkAuth, **more: Any) -> TrunkContext:
    host = f"192.0.2.{10 + list(TrunkAuth).index(auth)}"
    secret = "long-and-winding-secret"
    made = TrunkContext(
        name=f"by-{auth}", kind=TrunkKind.PJSIP, hosts=(host,), auth=auth, username="alice", secret=secret, qualify_s=30
    )
    return replace(made, **more)


def forms() -> Iterator[RenderContext]:
    """Every form that the templates have."""
    full = replace(
        PLAIN,
        trunks=(ADDRESS, IAX, account(TrunkAuth.DIGEST), account(TrunkAuth.REGISTER, srtp=True, nat=True)),
        rtp=RtpRange(),
        fallback=Fallback(context="mine"),
        all_files=True,
    )
    for stir in StirSource:
        for exact in (True, False):
            yield replace(full, stir=stir, exact_sip_codes=exact)
    yield PLAIN


@pytest.mark.parametrize("context", list(forms()))
def test_every_name_that_the_dialplan_uses_is_known(context: RenderContext) -> None:
    names = used_names(render_all(context)["extensions.conf"])
    assert {"AGI", "Dial", "CALLERID", "REPLACE", "TIMEOUT"} <= set(names)
    assert [name for name in names if name not in APPLICATIONS and name not in FUNCTIONS] == []


@pytest.mark.parametrize("context", list(forms()))
def test_our_own_files_let_no_guest_in(context: RenderContext) -> None:
    files = render_all(context)
    assert ids(network.judge_pjsip(parse_conf(files["pjsip.conf"]))) == []
    assert ids(network.judge_iax(parse_conf(files["iax.conf"]))) == []


def test_names_are_found_wherever_they_stand() -> None:
    text = (
        "[c]\nexten => _X!,1,ExecIf($[${CUT(A,/,1)} = 1]?MSet(TIMEOUT(absolute)=0))\n"
        ' same => n(label),Set(X=${IF($["${DB(a/b)}" = ""]?1:2)}) ; Comment(x)\n same => n,Hangup()\n'
        "; exten => s,1,Never(x)\n"
    )
    assert used_names(text) == ["ExecIf", "CUT", "MSet", "TIMEOUT", "Set", "IF", "DB", "Hangup"]


def test_what_a_trunk_needs_depends_on_its_kind() -> None:
    bare = module_needs(render_all(PLAIN))
    assert "chan_iax2.so" not in bare
    assert {"app_dial.so", "res_agi.so", "func_cut.so", "chan_pjsip.so", "pbx_config.so"} <= set(bare)
    assert bare["app_dial.so"] == ("the dialplan uses Dial", True)
    assert bare["bridge_builtin_interval_features.so"][1] is False
    registered = module_needs(render_all(replace(PLAIN, trunks=(account(TrunkAuth.REGISTER, srtp=True), IAX))))
    named = {"res_pjsip_outbound_registration.so", "res_pjsip_outbound_authenticator_digest.so", "res_srtp.so"}
    assert named | {"chan_iax2.so"} <= set(registered)
    assert "res_pjsip_authenticator_digest.so" not in registered
    digest = module_needs(render_all(replace(PLAIN, trunks=(account(TrunkAuth.DIGEST),))))
    assert "res_pjsip_authenticator_digest.so" in digest


def test_stir_needs_its_modules_only_where_asterisk_verifies() -> None:
    with_stir = module_needs(render_all(replace(PLAIN, trunks=(ADDRESS,), stir=StirSource.ASTERISK)))
    without = module_needs(render_all(replace(PLAIN, trunks=(ADDRESS,), stir=StirSource.HEADERS)))
    assert {"res_stir_shaken.so", "res_pjsip_stir_shaken.so"} <= set(with_stir)
    assert "res_pjsip_header_funcs.so" in without
    assert not {"res_stir_shaken.so", "res_pjsip_stir_shaken.so"} & set(without)


def test_an_agent_needs_websockets_where_it_can_be_reached() -> None:
    assert "chan_websocket.so" not in module_needs(render_all(PLAIN))
    needs = module_needs(render_all(replace(PLAIN, voice=Voice(url="ws://127.0.0.1:8765/media"))))
    assert needs["chan_websocket.so"] == (
        "without it no agent answers, and calls to agents go on to the next target",
        False,
    )
    assert {"res_websocket_client.so", "res_http_websocket.so"} < needs.keys()


def test_nothing_is_needed_for_files_that_are_not_there() -> None:
    assert module_needs({}) == {}
