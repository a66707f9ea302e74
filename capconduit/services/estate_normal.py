"""What an estate file says in the one form that the database keeps, so that equal things compare equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from capconduit.domain.agents import (
    DEFAULT_AZURE_VERSION,
    DEFAULT_URL,
    check_base_url,
    check_greeting,
    check_instructions,
    check_language,
    check_tools,
    listed,
)
from capconduit.domain.blocklist import parse_pattern
from capconduit.domain.numbers import parse_number
from capconduit.domain.schedules import format_holidays, format_hours, parse_holidays, parse_hours
from capconduit.errors import CapConduitError, UsageError
from capconduit.estate_file.document import path_of
from capconduit.estate_file.schema import NOUNS, CapLimit, Document, Key, Values, format_cap, shown
from capconduit.services import caps, rates, sellers, settings, trunks
from capconduit.services.office import check_name
from capconduit.vocab import CapMetric, ProviderKind, TrunkAuth

_DEFAULT_REGION = "default_region"


def normal(wanted: Document, current: Document, region: str, now_ms: int) -> Document:
    """`wanted` as it would be kept; `current` is the estate as it is, `region` that of its national numbers.

    A block that is over and not there is as if it were not said: the file was right when it was written.
    Raises UsageError with the path.
    """
    made = replace(
        wanted,
        nouns={noun: {key: dict(values) for key, values in rows.items()} for noun, rows in wanted.nouns.items()},
        settings={name: _setting(name, value) for name, value in wanted.settings.items()},
    )
    region = made.settings.get(_DEFAULT_REGION, region)
    _check_caps("system", wanted.system_caps)
    for noun in NOUNS:
        for key, values in made.nouns[noun.name].items():
            path = path_of(noun.name, key)
            if noun.name not in ("rule", "did", "block") and key not in current.nouns[noun.name]:
                with _at(path):
                    check_name(noun.name, key[0])
            _check_caps(path, values.get("caps"))
            _normal_values(noun.name, path, values)
    made.nouns["did"] = _numbers(made, current, region)
    made.nouns["block"] = _patterns(made, current, region, now_ms)
    return made


@contextmanager
def _at(path: str) -> Iterator[None]:
    """What is raised within is told with the place in the file."""
    try:
        yield
    except CapConduitError as error:
        raise UsageError(error.slug, f"{path}: {error.message}", error.hint) from None


def _setting(name: str, value: str) -> str:
    with _at(path_of("settings", (name,))):
        return settings.check_setting(name, value)


def _check_caps(path: str, limits: tuple[CapLimit, ...] | None) -> None:
    """The bounds of `capconduit cap set`."""
    for limit in limits or ():
        metric, _, text = format_cap(limit).partition(" ")
        with _at(f"{path}.caps"):
            caps.parse_limit(CapMetric(metric), text)


def _normal_values(noun: str, path: str, values: Values) -> None:
    """Texts that have several forms in the one that is kept."""
    with _at(path):
        if "hours" in values:
            values["hours"] = format_hours(parse_hours(values["hours"]))
        if "holidays" in values:
            values["holidays"] = format_holidays(parse_holidays(values["holidays"]))
        if "increment" in values:
            first_s, step_s = rates.parse_increment(values["increment"])
            values["increment"] = f"{first_s}/{step_s}"
        if "currency" in values:
            values["currency"] = sellers.check_currency(values["currency"])
        if "region" in values:
            values["region"] = trunks.check_region(values["region"])
        _normal_agents(noun, values)
        if noun == "did" and values.get("campaign") and values.get("seller"):
            raise UsageError(
                "did-seller-twice",
                f"campaign {values['campaign']} and seller {values['seller']}: it is the campaign's seller's",
                "leave seller out, or campaign",
            )
        if noun == "trunk" and values.get("auth") == TrunkAuth.DIGEST and values.get("username") == "":
            del values["username"]  # it is the trunk's name
        if values.get("then_after") == 0 and values.get("then_per_minute"):
            raise UsageError(
                "second-step-incomplete",
                "then_per_minute, but then_after is 0s: after how long does it begin?",
                'give then_after like "60s", or leave then_per_minute out',
            )


def _normal_agents(noun: str, values: Values) -> None:
    """Texts of providers and agents as they are kept."""
    if noun == "provider" and values.get("url"):
        values["url"] = check_base_url(values["url"])
    if noun == "provider" and values.get("url") == "" and "kind" in values:
        values["url"] = DEFAULT_URL[ProviderKind(values["kind"])]
    if noun == "provider" and values.get("api_version") == "" and values.get("kind") == ProviderKind.AZURE:
        values["api_version"] = DEFAULT_AZURE_VERSION
    if noun == "agent":
        checks = {"language": check_language, "instructions": check_instructions, "greeting": check_greeting}
        values |= {name: check(values[name]) for name, check in checks.items() if name in values}
        if "tools" in values:
            values["tools"] = tuple(listed(check_tools(values["tools"])))


def _numbers(made: Document, current: Document, region: str) -> dict[Key, Values]:
    """DIDs by their E.164 numbers; a national one is of its trunk's region."""
    known: dict[Key, Values] = {}
    for (number,), values in made.nouns["did"].items():
        trunk = (values.get("trunk", ""),)
        of_trunk = made.nouns["trunk"].get(trunk, {}).get("region")
        if of_trunk is None:
            of_trunk = current.nouns["trunk"].get(trunk, {}).get("region")
        path = path_of("did", (number,))
        with _at(path):
            key = (parse_number(number, of_trunk or region),)
        if key in known:
            raise UsageError("estate-twice", f"{path} is {key[0]}, which is there already", "keep one of them")
        known[key] = values
    return known


def _patterns(made: Document, current: Document, region: str, now_ms: int) -> dict[Key, Values]:
    known: dict[Key, Values] = {}
    for (whose, pattern), values in made.nouns["block"].items():
        path = path_of("block", (whose, pattern))
        with _at(path):
            key = (whose, parse_pattern(pattern, region))
        if key in known:
            raise UsageError("estate-twice", f"{path} is {shown(key[1])}, which is there already", "keep one of them")
        expires_ms = values.get("expires")
        if key in current.nouns["block"] or expires_ms is None or expires_ms > now_ms:
            known[key] = values
    return known
