"""What operators write: digits are those of ASCII, and a time zone is the same on every machine."""

from __future__ import annotations

import pytest

from capconduit.errors import UsageError
from capconduit.services.caps import parse_limit
from capconduit.services.rates import parse_increment
from capconduit.services.sellers import check_timezone
from capconduit.vocab import CapMetric


@pytest.mark.parametrize("text", ["٣/day", "1٣/day", "２/day"])
def test_a_limit_in_other_digits_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no limit by billable"):
        parse_limit(CapMetric.BILLABLE, text)


@pytest.mark.parametrize("text", ["٦/٦", "60/６"])
def test_an_increment_in_other_digits_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no increment"):
        parse_increment(text)


@pytest.mark.parametrize("name", ["localtime", "Factory"])
def test_a_zone_that_each_machine_reads_as_another_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zones = {"UTC", "localtime", "Factory"}
    monkeypatch.setattr("capconduit.services.sellers.available_timezones", lambda: zones)
    monkeypatch.setattr("capconduit.services.sellers._ZONES", set())
    assert check_timezone("UTC") == "UTC"
    with pytest.raises(UsageError, match="is no time zone"):
        check_timezone(name)
