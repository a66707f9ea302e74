"""Random estates as files: what is written is read again, nothing is planned for it, and comments survive."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from capconduit.estate_file.comments import Comments
from capconduit.estate_file.document import EVERYBODY, parse, render
from capconduit.estate_file.plan import Action, Plan, plan
from capconduit.estate_file.schema import (
    CAPS,
    FLAG,
    INSTANT,
    MONEY,
    NOUNS,
    NUMBER,
    SECRET,
    SPAN,
    TEXT,
    WORDS,
    CapLimit,
    Document,
    Form,
    Noun,
)
from capconduit.units import MAX_INSTANT_MS, MICROS_PER_UNIT
from capconduit.vocab import CapMetric, WindowKind

# Whole estates take their time to be made up; what is tested does not hang on it.
LIMITS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MINUTE_S = 60
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NAMES = st.one_of(st.from_regex(r"[a-z][a-z0-9_.\-]{0,4}", fullmatch=True), TEXTS.filter(bool))
REFERENCES = {"seller", "rate", "payout", "schedule", "trunk", "campaign", "agent"}


@st.composite
def caps(draw: st.DrawFn) -> tuple[CapLimit, ...]:
    limits = {}
    for metric in draw(st.lists(st.sampled_from(list(CapMetric)), max_size=4)):
        window, length_ms = WindowKind.NONE, 0
        if metric not in (CapMetric.CONCURRENT, CapMetric.CPS):
            window = draw(st.sampled_from([w for w in WindowKind if w is not WindowKind.NONE]))
            length_ms = draw(st.integers(1, 10**9)) if window is WindowKind.ROLLING else 0
        value = draw(st.integers(0, 10**6)) * (MINUTE_S if metric is CapMetric.MINUTES else 1)
        limits[(metric, window, length_ms)] = CapLimit(metric.value, window.value, length_ms, value)
    return tuple(sorted(limits.values()))


VALUES: dict[int, st.SearchStrategy[Any]] = {
    id(TEXT): TEXTS,
    id(FLAG): st.booleans(),
    id(NUMBER): st.integers(-(2**63), 2**63 - 1),
    id(MONEY): st.integers(0, 10**12 * MICROS_PER_UNIT - 1),
    id(SPAN): st.integers(0, 10**12),
    id(WORDS): st.lists(TEXTS.filter(lambda word: word and "," not in word), max_size=3).map(tuple),
    id(INSTANT): st.one_of(st.none(), st.integers(0, MAX_INSTANT_MS - 1)),
    id(SECRET): st.sampled_from(["", "env:CARRIER", "file:/etc/secret"]),
    id(CAPS): caps(),
}


def of_form(form: Form) -> st.SearchStrategy[Any]:
    known = VALUES.get(id(form))
    return st.sampled_from(form.expected.removeprefix("one of ").split(", ")) if known is None else known


@st.composite
def documents(draw: st.DrawFn, *, whole: bool = False) -> Document:
    """An estate; `whole`: with every field of every thing, and names that refer to nothing."""
    document = Document(
        settings=draw(st.dictionaries(TEXTS, TEXTS, max_size=3)),
        system_caps=draw(caps()) if whole else draw(st.one_of(st.none(), caps())),
        exported_ms=draw(st.one_of(st.none(), st.integers(0, MAX_INSTANT_MS - 1))),
        changed_ms=draw(st.one_of(st.none(), st.integers(0, MAX_INSTANT_MS - 1))),
    )
    for noun in NOUNS:
        for key in draw(st.lists(keys(noun), max_size=3, unique=True)):
            names = list(noun.fields) if whole else draw(st.lists(st.sampled_from(list(noun.fields)), unique=True))
            document.nouns[noun.name][key] = {
                name: "" if whole and name in REFERENCES else draw(of_form(noun.fields[name].form)) for name in names
            }
    return document


def keys(noun: Noun) -> st.SearchStrategy[tuple[str, ...]]:
    if noun.name == "block":
        scopes = st.builds("{} {}".format, st.sampled_from(["seller", "campaign"]), NAMES)
        return st.tuples(st.one_of(st.just(EVERYBODY), scopes), TEXTS)
    return st.tuples(*[NAMES] * noun.parts)


@LIMITS
@given(documents())
def test_what_is_written_is_read_again(document: Document) -> None:
    text = render(document)
    assert parse(text) == document
    assert render(parse(text)) == text


def planned(current: Document, wanted: Document, *, prune: bool = False) -> Plan:
    """A plan of things that refer to nothing: rules and blocks of sellers and campaigns are left out."""
    for document in (current, wanted):
        document.nouns["rule"].clear()
        document.nouns["block"] = {k: v for k, v in document.nouns["block"].items() if k[0] == EVERYBODY}
        document.nouns["campaign"].clear()  # they need a seller and a rate
        document.nouns["agent"].clear()  # they need a provider
    return plan(current, wanted, prune=prune)


@LIMITS
@given(documents(whole=True))
def test_an_estate_needs_nothing_to_be_itself(document: Document) -> None:
    for prune in (False, True):
        found = planned(document, document, prune=prune)
        assert (found.changes, found.unlisted) == ([], [])


@LIMITS
@given(documents(whole=True), documents(whole=True))
def test_a_plan_has_what_differs_and_nothing_else(current: Document, wanted: Document) -> None:
    for noun in NOUNS:  # what is fixed does not differ
        for key, values in wanted.nouns[noun.name].items():
            known = current.nouns[noun.name].get(key, {})
            values |= {name: known[name] for name in known if noun.fields[name].fixed}
    found = planned(current, wanted, prune=True)
    result = {noun: dict(rows) for noun, rows in current.nouns.items()}
    settings_after, caps_after = dict(current.settings), current.system_caps
    for change in found.changes:
        assert change.before != change.after, "a change that changes nothing"
        if change.noun == "settings":
            settings_after |= change.after
        elif change.noun == "system":
            caps_after = change.after["caps"]
        elif change.action is Action.REMOVE:
            del result[change.noun][change.key]
        else:
            known = result[change.noun].get(change.key, {})
            assert all(known.get(name, None) != value for name, value in change.after.items()) or not known
            result[change.noun][change.key] = known | change.after
    assert result == wanted.nouns
    assert (settings_after, caps_after) == (current.settings | wanted.settings, wanted.system_caps)


COMMENTS = st.lists(st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), max_size=8), max_size=2)


@LIMITS
@given(documents(), st.data())
def test_comments_survive(document: Document, data: st.DataObject) -> None:
    lines = []
    told = 0
    for line in render(document).removesuffix("\n").split("\n"):
        is_place = line and not line.startswith((" ", "]"))
        if is_place and data.draw(st.booleans()):
            lines.append(f"# {told}: {'=[' * told}")
            told += 1
        if line and not line.endswith("[") and data.draw(st.booleans()):
            lines.append(f"{line} # {told}: \"'")
            told += 1
        else:
            lines.append(line)
    text = "\n".join(lines) + "\n"
    assume(parse(text) == document)
    written = render(document, former=text)
    assert parse(written) == document
    for number in range(told):
        assert f"# {number}:" in written
    assert render(document, former=written) == written


@LIMITS
@given(st.text(st.sampled_from("[]\"'#=\n .ab{},\\"), max_size=60))
def test_any_text_can_be_looked_through_for_comments(text: str) -> None:
    Comments.of(text).put_into(render(Document()))
