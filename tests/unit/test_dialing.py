"""Dial strings, and that no address can smuggle anything into a dialplan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capconduit.domain.dialing import check_address, dial_string
from capconduit.errors import UsageError
from capconduit.vocab import TargetKind
from tests.unit.estate_builder import EstateBuilder

PJ, IAX, EXT = TargetKind.PJSIP, TargetKind.IAX2, TargetKind.EXTENSION


@pytest.mark.parametrize(
    ("kind", "address", "dial"),
    [
        (PJ, "sip:buyer@127.0.0.1:5080", "PJSIP/capconduit-out/sip:buyer@127.0.0.1:5080"),
        (PJ, "sips:+12125550147@buyer.example", "PJSIP/capconduit-out/sips:+12125550147@buyer.example"),
        (PJ, "sip:b@[2001:db8::1]:5060;transport=tcp", "PJSIP/capconduit-out/sip:b@[2001:db8::1]:5060;transport=tcp"),
        (PJ, "+12125550147@buyer-endpoint", "PJSIP/+12125550147@buyer-endpoint"),
        (PJ, "buyer-endpoint", "PJSIP/buyer-endpoint"),
        (IAX, "peer/12125550147", "IAX2/peer/12125550147"),
        (IAX, "192.0.2.7:4569/100", "IAX2/192.0.2.7:4569/100"),
        (EXT, "100@sales", "Local/100@sales/n"),
    ],
)
def test_an_address_becomes_what_app_dial_takes(kind: TargetKind, address: str, dial: str) -> None:
    assert check_address(kind, address) == address
    target = EstateBuilder().target(campaign=None)
    assert dial_string(replace(target, kind=kind, address=address)) == dial


HOSTILE = [*",&()'\"${} \n\r\t\0|^\\`!<>", "é", "\u2028", "\uff15"]


@pytest.mark.parametrize("character", HOSTILE)
@pytest.mark.parametrize(
    ("kind", "address"),
    [(PJ, "sip:b@127.0.0.1"), (PJ, "100@endpoint"), (PJ, "endpoint"), (IAX, "peer/100"), (EXT, "100@sales")],
)
def test_nothing_that_means_something_to_a_dialplan_passes(kind: TargetKind, address: str, character: str) -> None:
    for position in {0, len(address) // 2, len(address)}:
        with pytest.raises(UsageError) as caught:
            check_address(kind, address[:position] + character + address[position:])
        assert caught.value.slug == "address-invalid"


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        (PJ, ""),
        (PJ, "sip:"),
        (PJ, "sip:127.0.0.1"),
        (PJ, "sip:b@"),
        (PJ, "sip:b@-host"),
        (PJ, "a@b@c"),
        (PJ, "sip:b@host;user=phone"),
        (IAX, ""),
        (IAX, "peer/"),
        (IAX, "user:secret@peer/100"),
        (EXT, "100"),
        (EXT, "@sales"),
        (EXT, "100@"),
        (EXT, "100@sales/n"),
    ],
)
def test_an_address_of_another_form_is_refused(kind: TargetKind, address: str) -> None:
    with pytest.raises(UsageError):
        check_address(kind, address)
