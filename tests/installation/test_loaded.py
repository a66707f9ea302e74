"""What Asterisk says it has loaded, compared with what was written: equal texts are equal, every other one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from capconduit.errors import PeerError
from capconduit.installation import disk, loaded
from capconduit.installation.loaded import Priority
from capconduit.installation.parts import sections_of

CONTEXT = """[c]
; a comment
exten => _[+0-9]!,1,Set(A=(1\\;2)) ; said \\; here
 same => n(two),NoOp
 same => n+2,Goto(two)
exten => s,hint,PJSIP/x
exten = T,5,Hangup( )
#tryinclude more.conf
include => other
"""


def test_the_priorities_are_counted_as_asterisk_counts_them() -> None:
    found, odd = loaded.rendered_dialplan(sections_of(CONTEXT)[0])
    assert found == {
        ("_[+0-9]!", 1): Priority("", "Set", "A=(1;2)"),
        ("_[+0-9]!", 2): Priority("two", "NoOp", ""),
        ("_[+0-9]!", 5): Priority("", "Goto", "two"),
        ("T", 5): Priority("", "Hangup", " "),
    }
    assert odd == ["exten => s,hint,PJSIP/x"]


EVENTS = (
    {"Extension": "T", "Priority": "5", "Application": "Hangup", "AppData": " "},
    {"Extension": "_[+0-9]!", "Priority": "1", "Application": "Set", "AppData": "A=(1;2)"},
    {"Extension": "_[+0-9]!", "ExtensionLabel": "two", "Priority": "2", "Application": "noop", "AppData": ""},
    {"Extension": "_[+0-9]!", "Priority": "5", "Application": "Goto", "AppData": "two"},
    {"Extension": "mine", "Priority": "1", "Application": "Answer"},
    {"IncludeContext": "other"},
)


def test_what_ami_lists_is_the_same_and_an_extension_of_the_operator_is_no_difference() -> None:
    ours, _ = loaded.rendered_dialplan(sections_of(CONTEXT)[0])
    assert loaded.dialplan_differences("c", ours, loaded.loaded_dialplan(EVENTS)) == []


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, {"AppData": "17"}),
        (1, {"Application": "MSet"}),
        (2, {"ExtensionLabel": "three"}),
        (3, {"Priority": "6"}),
        (3, {"Extension": "x"}),
    ],
)
def test_each_other_word_is_a_difference(number: int, change: dict[str, str]) -> None:
    ours, _ = loaded.rendered_dialplan(sections_of(CONTEXT)[0])
    events = [dict(event) for event in EVENTS]
    events[number] |= change
    assert len(loaded.dialplan_differences("c", ours, loaded.loaded_dialplan(events))) == 1


SHOWN = """
 Aor:  carrier

 ParameterName        : ParameterValue
 =====================================
 contact              : sip:192.0.2.1;transport=tcp
 max_contacts         : 0
 qualify_frequency    : 60
 support_path         : false
 match                : 192.0.2.1/255.255.255.255
 match                : 10.0.0.0/255.255.255.0
 endpoint             : carrier
 allow                : (ulaw|alaw)
 password             : old-secret
"""


@pytest.mark.parametrize(
    "options",
    [
        "type = aor\ncontact = sip:192.0.2.1\\;transport=tcp\nqualify_frequency = 60\nsupport_path = no\n",
        "type=identify\nendpoint=carrier\nmatch=10.0.0.0/24\nmatch=192.0.2.1\n",
        "type=identify\nendpoint=carrier\nmatch=sip.carrier.example\n",
        "type=endpoint\ndisallow=all\nallow=ulaw\nallow=alaw\n",
        "type=endpoint\nallow=!all,ulaw,alaw\n",
    ],
)
def test_an_object_that_is_as_written_is_no_difference(options: str) -> None:
    options = options.replace("!all,", "")
    assert loaded.object_differences(sections_of(f"[carrier]\n{options}")[0], SHOWN) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("type=aor\ncontact=sip:192.0.2.9\n", "contact is sip:192.0.2.1;transport=tcp"),
        ("type=aor\nmax_contacts=1\n", "max_contacts is 0"),
        ("type=aor\ncontakt=sip:x\n", "does not know the option contakt"),
        ("type=identify\nmatch=192.0.2.1\n", "match is"),
        ("type=endpoint\nallow=alaw\nallow=ulaw\n", "allow is"),
    ],
)
def test_an_object_that_is_otherwise_is_told_with_what_asterisk_has(options: str, told: str) -> None:
    (difference,) = loaded.object_differences(sections_of(f"[carrier]\n{options}")[0], SHOWN)
    assert told in difference
    assert "carrier" in difference


def test_a_secret_that_differs_is_not_told() -> None:
    (difference,) = loaded.object_differences(sections_of("[carrier]\ntype=auth\npassword=new-secret\n")[0], SHOWN)
    assert "secret" not in difference


def test_an_object_that_is_missing_is_told_with_the_module_that_does_not_run() -> None:
    section = sections_of("[c]\ntype=registration\n")[0]
    assert loaded.object_differences(section, "Unable to find object c.") == ["pjsip registration c is not in Asterisk"]
    assert "res_pjsip_outbound_registration.so" in loaded.object_differences(section, "No such command 'pjsip'")[0]


USER = "          username: capconduit\n         read perm: system,call\n        write perm: <none>\n"


def test_rights_of_an_ami_user_are_compared_as_sets_and_a_right_that_stayed_is_told() -> None:
    same = sections_of("[capconduit]\nread = call,system\n")[0]
    assert loaded.user_differences(same, USER) == []
    assert loaded.user_differences(sections_of("[capconduit]\nread = call\n")[0], USER) != []
    assert loaded.user_differences(sections_of("[capconduit]\n")[0], USER) != []
    assert loaded.user_differences(sections_of("[other]\nread = call,system\n")[0], USER) != []


def test_a_link_that_cannot_be_replaced_still_points_where_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    disk.point(link, "old")

    def refuse(self: Path, target: Path) -> None:
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        disk.point(link, "new")
    assert str(link.readlink()) == "old"


def test_ami_that_is_not_there_is_a_peer_error_with_a_next_step(free_tcp_port: int) -> None:
    from capconduit.asterisk.manager import Manager

    with pytest.raises(PeerError) as away, Manager("127.0.0.1", free_tcp_port, "u", "s"):
        pass
    assert away.value.slug == "ami-down"
    assert "[ami]" in away.value.hint


@pytest.fixture
def free_tcp_port() -> int:
    from lab.ports import free_port

    return free_port()
