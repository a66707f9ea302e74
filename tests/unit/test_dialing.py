"""Dial strings, and that no address can smuggle anything into a dialplan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capconduit.domain.dialing import check_address, dial_string
from capconduit.errors import UsageError
from capconduit.vocab import TargetKind
from tests.unit.estate_builder import EstateBuilder

P, I, E = TargetKind.PJSIP, TargetKind.IAX2, TargetKind.EXTENSION


@pytest.mark.parametrize(
    ("kind", "address", "dial"),
    [
        (P, "sip:buyer@127.0.0.1:5080", "PJSIP/capconduit-out/sip:buyer@127.0.0.1:5080"),
        (P, "sips:+12125550147@buyer.example", "PJSIP/capconduit-out/sips:+12125550147@buyer.example"),
        (P, "sip:b@[2001:db8::1]:5060;transport=tcp", "PJSIP/capconduit-out/sip:b@[2001:db8::1]:5060;transport=tcp"),
        (P, "+12125550147@buyer-endpoint", "PJSIP/+12125550147@buyer-endpoint"),
        (P, "buyer-endpoint", "PJSIP/buyer-endpoint"),
        (I, "peer/12125550147", "IAX2/peer/12125550147"),
        (I, "192.0.2.7:4569/100", "IAX2/192.0.2.7:4569/100"),
        (E, "100@sales", "Local/100@sales/n"),
    ],
)
def test_an_address_becomes_what_app_dial_takes(kind: TargetKind, address: str, dial: str) -> None:
    assert check_address(kind, address) == address
    target = EstateBuilder().target(campaign=None)
    assert dial_string(replace(target, kind=kind, address=address)) == dial


HOSTILE = [",", "&", "(", ")", "'", '"', "$", "{", "}", " ", "\n", "\r", "\t", "\0", "|", "^", "\\", "`", "!", "<", ">", "é", "\u2028"]  # fmt: skip


@pytest.mark.parametrize("character", HOSTILE)
@pytest.mark.parametrize(
    ("kind", "address"), [(P, "sip:b@127.0.0.1"), (P, "100@endpoint"), (P, "endpoint"), (I, "peer/100"), (E, "100@sales")]
)
def test_nothing_that_means_something_to_a_dialplan_passes(kind: TargetKind, address: str, character: str) -> None:
    for position in {0, len(address) // 2, len(address)}:
        with pytest.raises(UsageError) as caught:
            check_address(kind, address[:position] + character + address[position:])
        assert caught.value.slug == "address-invalid"


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        (P, ""),
        (P, "sip:"),
        (P, "sip:127.0.0.1"),
        (P, "sip:b@"),
        (P, "sip:b@-host"),
        (P, "a@b@c"),
        (P, "sip:b@host;user=phone"),
        (I, ""),
        (I, "peer/"),
        (I, "user:secret@peer/100"),
        (E, "100"),
        (E, "@sales"),
        (E, "100@"),
        (E, "100@sales/n"),
    ],
)
def test_an_address_of_another_form_is_refused(kind: TargetKind, address: str) -> None:
    with pytest.raises(UsageError):
        check_address(kind, address)
