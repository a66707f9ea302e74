"""Our files beside an operator's own: what is left out, what collides, and the line that includes."""

from __future__ import annotations

import pytest

from capconduit.errors import Refused
from capconduit.installation import parts
from capconduit.installation.parts import fit, sections_of, with_include, without_include

PJSIP = """; head

[global]
type = global
user_agent = CapConduit

[capconduit-udp]
type = transport
protocol = udp
bind = 0.0.0.0:5060

; a target
[capconduit-out]
type = endpoint
transport = capconduit-udp
context = capconduit-none

[carrier]
type = endpoint
transport = capconduit-udp

[carrier]
type = aor
contact = sip:192.0.2.1
"""
MANAGER = """[general]
enabled = yes
port = 5038
timestampevents = yes

[capconduit]
secret = x
"""


def test_alone_our_file_is_whole() -> None:
    assert fit("pjsip.conf", PJSIP, []) == PJSIP


def test_a_transport_at_the_same_port_and_their_global_stay_theirs() -> None:
    theirs = sections_of("[global]\ntype=global\n[transport-udp]\ntype=transport\nprotocol=udp\nbind=0.0.0.0\n")
    text = fit("pjsip.conf", PJSIP, theirs)
    assert text is not None
    assert [s.name for s in sections_of(text)] == ["capconduit-out", "carrier", "carrier"]
    assert "transport" not in text
    assert "; a target\n[capconduit-out]" in text


def test_a_transport_of_ours_at_another_port_stays() -> None:
    theirs = sections_of("[t]\ntype=transport\nprotocol=udp\nbind=0.0.0.0:5070\n[t2]\ntype=transport\nprotocol=tcp\n")
    text = fit("pjsip.conf", PJSIP, theirs)
    assert text is not None
    assert "[capconduit-udp]" in text
    assert text.count("transport = capconduit-udp") == 2


def test_a_trunk_that_they_have_already_is_refused_by_name() -> None:
    with pytest.raises(Refused) as refused:
        fit("pjsip.conf", PJSIP, sections_of("[Carrier]\ntype=endpoint\n"))
    assert refused.value.slug == "section-taken"
    assert "carrier" in refused.value.message


def test_their_ami_stays_theirs_but_for_the_times_of_events() -> None:
    text = fit("manager.conf", MANAGER, sections_of("[general]\nenabled=yes\n"))
    assert text is not None
    assert text.startswith("[general](+)\ntimestampevents = yes\n\n[capconduit]")
    assert "port" not in text


def test_our_general_stands_where_they_have_none() -> None:
    assert fit("manager.conf", MANAGER, sections_of("[boss]\nsecret=y\n")) == MANAGER


def test_their_records_go_on_beside_ours() -> None:
    text = fit("cdr_custom.conf", "[mappings]\na.csv => x\n", sections_of("[mappings]\nMaster.csv => y\n"))
    assert text == "[mappings](+)\na.csv => x\n"


def test_an_addition_becomes_the_section_where_there_is_none() -> None:
    text = fit("cdr_custom.conf", "[mappings](+)\na.csv => x\n", sections_of("[other]\n"))
    assert text == "[mappings]\na.csv => x\n"


@pytest.mark.parametrize("name", ["rtp.conf", "cdr.conf", "logger.conf"])
def test_settings_of_the_whole_asterisk_are_theirs(name: str) -> None:
    assert fit(name, "[general]\nx = y\n", sections_of("[general]\n")) is None


def test_what_is_commented_out_is_no_section() -> None:
    assert sections_of("; [one]\n;-- \n[two]\n--;\n[three](!,tmpl) ; [four]\n")[0].name == "three"
    assert len(sections_of("; [one]\n;--\n[two]\n--;\n[three]\n")) == 1


def test_includes_are_found_and_ours_left_out() -> None:
    text = '#include "a.conf"\n  #tryinclude <b/*.conf> ; why\n#include capconduit/pjsip.conf\n;#include c.conf\n'
    assert list(parts.includes_of(text)) == ["a.conf", "b/*.conf"]


def test_the_line_is_added_once_and_goes_alone() -> None:
    before = "[general]\nstatic = yes"
    with_line = with_include(before, "extensions.conf")
    assert with_line == f"{before}\n#tryinclude capconduit/extensions.conf {parts.MARK}\n"
    assert with_include(with_line, "extensions.conf") == with_line
    assert without_include(with_line, "extensions.conf") == f"{before}\n"


def test_an_include_that_the_operator_wrote_stays() -> None:
    text = "#include capconduit/extensions.conf\n"
    assert with_include(text, "extensions.conf") == text
    assert without_include(text, "extensions.conf") == text


def test_an_addition_to_a_section_of_ours_stays_one() -> None:
    text = fit("iax.conf", "[general]\na = b\n[general](+)\nregister => x\n", sections_of("[peer]\n"))
    assert text == "[general]\na = b\n[general](+)\nregister => x\n"
