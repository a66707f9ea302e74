"""What the escape functions let into an Asterisk file, and what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capconduit.errors import UsageError
from capconduit.render import escape


@pytest.mark.parametrize(
    "bad", ["a\nb", "a\rb", "a;b", "[x]", "a=>b", "${SHELL(id)}", "$[1]", "a\\", " a", "a ", "", "\x7f"]
)
def test_a_value_that_could_leave_its_line_is_refused_by_field_and_value(bad: str) -> None:
    with pytest.raises(UsageError) as refused:
        escape.value(bad, "trunk username")
    assert "trunk username" in refused.value.message
    assert repr(bad) in refused.value.message
    assert refused.value.hint


def test_a_refused_secret_is_not_shown() -> None:
    with pytest.raises(UsageError) as refused:
        escape.value("hunter2;", "secret", secret=True)
    assert "hunter2" not in refused.value.message + refused.value.hint


def test_a_value_is_limited_in_length() -> None:
    assert escape.value("x" * escape.MAX_VALUE_CHARS, "field") == "x" * escape.MAX_VALUE_CHARS
    with pytest.raises(UsageError):
        escape.value("x" * (escape.MAX_VALUE_CHARS + 1), "field")


@given(st.text(max_size=40))
def test_whatever_passes_is_one_line_without_comment_or_section(text: str) -> None:
    try:
        passed = escape.value(text, "field")
    except UsageError:
        return
    assert passed == text
    assert passed.splitlines() == [text]
    assert not set(passed) & set(";[]\\")


@pytest.mark.parametrize("name", ["carrier", "c1", "Carrier_2.eu-west", "7"])
def test_ordinary_names_are_sections(name: str) -> None:
    assert escape.section(name, "trunk") == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a b", "a/b", "a@b", "a&b", "a\n", "é", "x" * 65, "global", "General", "capconduit-out"]
)
def test_names_that_break_a_dial_string_or_are_taken_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        escape.section(name, "trunk")


@pytest.mark.parametrize(
    ("given", "rendered"),
    [
        ("sip.example.net", "sip.example.net"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8::1", "[2001:db8::1]"),
        ("[::1]", "[::1]"),
    ],
)
def test_hosts_are_names_or_addresses(given: str, rendered: str) -> None:
    assert escape.host(given, "host") == rendered


@pytest.mark.parametrize("bad", ["", "a_b", "a..b", "-a", "a b", "a:5060", "[a]", "a;b", "sip:a", "x" * 254, "a\n"])
def test_what_is_no_host_is_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        escape.host(bad, "host")


def test_listen_addresses_have_a_port() -> None:
    assert escape.listen("0.0.0.0:5060", "sip") == "0.0.0.0:5060"
    assert escape.listen("[::]:5060", "sip") == "[::]:5060"
    assert (escape.listen_host("[::1]:4569", "iax"), escape.listen_port("[::1]:4569", "iax")) == ("::1", "4569")
    for bad in ("0.0.0.0", "0.0.0.0:", "0.0.0.0:0", "0.0.0.0:65536", "0.0.0.0:5060x", "0.0.0.0:٣"):
        with pytest.raises(UsageError):
            escape.listen(bad, "sip")


def test_networks_are_normalised_and_names_are_not_networks() -> None:
    assert escape.network("192.0.2.77/24", "permit") == "192.0.2.0/24"
    assert escape.network("192.0.2.7", "permit") == "192.0.2.7/32"
    assert escape.host_or_network("192.0.2.0/24", "match") == "192.0.2.0/24"
    assert escape.host_or_network("carrier.example", "match") == "carrier.example"
    with pytest.raises(UsageError):
        escape.network("carrier.example", "permit")


def test_clean_reads_by_name_and_knows_every_character_the_dialplan_acts_on() -> None:
    text = escape.clean("CALLERID(name)")
    assert text.startswith("${REPLACE(CALLERID(name),")
    for unsafe in "\n\r\0\x1f\x7f\"'\\,()[]{}$`|^".replace("\0", ""):
        assert f"\\\\x{ord(unsafe):02x}" in text
    kept = escape.clean("DIALEDPEERNUMBER", keep="[]")
    assert [text.count(f"x{ord(c):02x}") - kept.count(f"x{ord(c):02x}") for c in "[](|"] == [1, 1, 0, 0]
    with pytest.raises(UsageError):
        escape.clean_header("X-A,1")
