"""Telephone numbers as they arrive: what becomes E.164, what is anonymous, and what is no number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.domain.numbers import is_anonymous, parse_number, to_e164
from capconduit.errors import UsageError


@pytest.mark.parametrize(
    ("received", "region", "e164"),
    [
        ("+18005550100", "US", "+18005550100"),
        ("+18005550100", "GB", "+18005550100"),
        ("18005550100", "US", "+18005550100"),
        ("8005550100", "US", "+18005550100"),
        ("0018005550100", "GB", "+18005550100"),
        ("011442071838750", "US", "+442071838750"),
        ("02071838750", "GB", "+442071838750"),
        ("442071838750", "US", "+442071838750"),  # carriers that send bare E.164
        ("33123456789", "US", "+33123456789"),
        (" +18005550100 ", "US", "+18005550100"),
        ("(212) 555-0147", "US", "+12125550147"),
    ],
)
def test_numbers_become_e164_with_the_region_of_the_trunk(received: str, region: str, e164: str) -> None:
    assert to_e164(received, region) == e164


@pytest.mark.parametrize(
    "received",
    [
        *("", " ", "anonymous", "1001", "12345", "s", "*98", "asterisk", "+", "+0123456789"),
        *("+1234567890123456", "sip:bob@x", "1" * 300, "999999999999"),
    ],
)
def test_what_is_no_number_stays_none(received: str) -> None:
    assert to_e164(received, "US") is None


@pytest.mark.parametrize("received", ["5550100", "555-0100"])
def test_a_local_number_without_its_area_is_no_e164(received: str) -> None:
    """Seven digits ring somewhere in every area of the region: a made-up country number would be a wrong one."""
    assert to_e164(received, "US") is None


@pytest.mark.parametrize("region", ["", "XX", "us", "ZZ"])
def test_an_unknown_region_leaves_complete_numbers_readable(region: str) -> None:
    assert to_e164("+18005550100", region) == "+18005550100"
    assert to_e164("18005550100", region) == "+18005550100"


@pytest.mark.parametrize(
    "received", ["", "  ", "anonymous", "Anonymous", "UNKNOWN", "Restricted", "private", "unavailable"]
)
def test_a_withheld_number_is_anonymous(received: str) -> None:
    assert is_anonymous(received)


@pytest.mark.parametrize("received", ["+12125550147", "1001", "bob", "0"])
def test_a_given_number_is_not_anonymous(received: str) -> None:
    assert not is_anonymous(received)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["US", "GB", "DE", "", "??"]))
def test_no_text_makes_it_fail_and_every_answer_is_e164(received: str, region: str) -> None:
    number = to_e164(received, region)
    assert number is None or (number.isascii() and number[0] == "+" and number[1:].isdigit() and 8 <= len(number) <= 16)


@pytest.mark.parametrize(
    "text", ["+1 800 555 0100", "+1-800-555-0100", "(800) 555-0100", "1.800.555.0100", "+1/800/5550100"]
)
def test_people_write_numbers_in_their_own_way(text: str) -> None:
    assert parse_number(text, "US") == "+18005550100"


@pytest.mark.parametrize("text", ["", "solar", "12", "+"])
def test_a_person_s_typing_error_is_told(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_number(text, "US")
    assert caught.value.slug == "number-invalid"
