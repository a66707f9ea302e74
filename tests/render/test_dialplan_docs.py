"""docs/dialplan.md tells of every context, variable and spool field that the dialplan has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from capconduit.render import contexts
from capconduit.render.contexts import DialplanVariable
from capconduit.vocab import CcVariable

TEXT = (Path(__file__).parents[2] / "docs" / "dialplan.md").read_text()


@pytest.mark.parametrize("variable", [*CcVariable, *DialplanVariable])
def test_every_variable_is_documented(variable: str) -> None:
    assert f"`{variable}`" in TEXT


def test_no_variable_is_documented_that_is_not_there() -> None:
    assert set(re.findall(r"`(CC_[A-Z_]+)`", TEXT)) <= {str(v) for v in (*CcVariable, *DialplanVariable)}


@pytest.mark.parametrize(
    "name",
    [
        contexts.INBOUND_CONTEXT,
        contexts.ANSWERED_CONTEXT,
        contexts.LEFT_CONTEXT,
        contexts.SETTLE_CONTEXT,
        contexts.REJECT_HOOK_CONTEXT,
        contexts.BEFORE_ROUTE_CONTEXT,
        contexts.BEFORE_DIAL_CONTEXT,
        contexts.CONTACT_USER,
        contexts.NO_CONTEXT,
        contexts.OUTBOUND_ENDPOINT,
        contexts.SPOOL_FAMILY,
        contexts.CDR_FILE,
    ],
)
def test_every_shared_name_is_documented(name: str) -> None:
    assert name in TEXT
