"""Blocklists: patterns as operators write them, and which of them a caller is on, against a matcher that tries all."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.domain.blocklist import ANONYMOUS, BLOCK_SCOPES, Blocklist, parse_pattern
from capconduit.errors import UsageError
from capconduit.vocab import CapScope

NOW = 1_790_000_000_000
CALLER = "+12125550147"


@dataclass(frozen=True)
class Row:
    pattern: str
    scope: CapScope = CapScope.SYSTEM
    scope_id: str = "t1"
    tenant_id: str = "t1"
    expires_ms: int | None = None
    reason: str = ""
    id: str = "b1"


def matched(rows: list[Row], e164: str = CALLER, received: str = "", now_ms: int = NOW) -> str | None:
    """The pattern that blocks a caller of tenant t1, seller s1, campaign c1."""
    row = Blocklist(rows).match("t1", "s1", "c1", e164, received or e164, now_ms)
    return row.pattern if row else None


# --- patterns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "region", "pattern"),
    [
        ("+12125550147", "US", CALLER),
        ("(212) 555-0147", "US", CALLER),
        (" 1.212.555.0147 ", "US", CALLER),
        ("00 44 20 7183 8750", "GB", "+442071838750"),
        ("020 7183 8750", "GB", "+442071838750"),
        ("+1212*", "US", "+1212*"),
        ("+1 (212) *", "US", "+1212*"),
        ("+1*", "GB", "+1*"),
        ("+12125550147*", "US", "+12125550147*"),
        ("+1212555????", "US", "+1212555????"),
        ("+1 212 555-01??", "US", "+121255501??"),
        ("+1???5550147", "US", "+1???5550147"),
        ("+1???555*", "US", "+1???555*"),
        ("+?2125550147", "US", "+?2125550147"),
        ("1001", "US", "1001"),
        ("5550100", "US", "5550100"),
        ("anonymous", "US", "anonymous"),
        (" Anonymous ", "US", "anonymous"),
        ("Restricted", "US", "anonymous"),
        ("Bob@PBX.example", "US", "bob@pbx.example"),
        ("call-center", "US", "call-center"),
    ],
)
def test_patterns_have_one_canonical_text_that_reads_back(text: str, region: str, pattern: str) -> None:
    assert parse_pattern(text, region) == pattern
    assert parse_pattern(pattern, region) == pattern


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("", "number-invalid"),
        ("  ", "number-invalid"),
        ("+", "number-invalid"),
        ("+1212", "number-invalid"),
        ("+0212555014", "number-invalid"),
        ("+1212abc", "number-invalid"),
        ("212-555-014", "number-invalid"),
        ("*", "pattern-invalid"),
        ("+*", "pattern-invalid"),
        ("+???????*", "pattern-invalid"),
        ("+??????????", "pattern-invalid"),
        ("1212*", "pattern-invalid"),
        ("212555????", "pattern-invalid"),
        ("10??", "pattern-invalid"),
        ("+0*", "pattern-invalid"),
        ("+1212*0147", "pattern-invalid"),
        ("+1212**", "pattern-invalid"),
        ("*1212", "pattern-invalid"),
        ("++1212*", "pattern-invalid"),
        ("+1212a*", "pattern-invalid"),
        ("+12??", "pattern-invalid"),
        ("+1212555????????????", "pattern-invalid"),
        ("+1234567890123456*", "pattern-invalid"),
        ("two words", "pattern-invalid"),
        ("bob\x00", "pattern-invalid"),
        ("böb", "pattern-invalid"),
        ("b" * 81, "pattern-invalid"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_told(text: str, slug: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_pattern(text, "US")
    assert caught.value.slug == slug
    assert repr(text)[:40] in caught.value.message
    assert caught.value.hint


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(st.text(max_size=40), st.text("+*?0123456789 -()", max_size=20), st.text("aB1.@#+*?", max_size=12)),
    st.sampled_from(["US", "GB", ""]),
)
def test_any_text_is_a_canonical_pattern_or_told_to_be_wrong(text: str, region: str) -> None:
    try:
        pattern = parse_pattern(text, region)
    except UsageError:
        return
    assert parse_pattern(pattern, region) == pattern


# --- who is blocked --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "blocked"),
    [
        (CALLER, True),
        ("+12125550148", False),
        ("+1212*", True),
        ("+1213*", False),
        ("+12125550147*", True),
        ("+121255501470*", False),
        ("+1212555????", True),
        ("+1212555???", False),
        ("+1212555?????", False),
        ("+1???5550147", True),
        ("+1???5550148", False),
        ("+1???555*", True),
        ("+1???5550147*", True),
        ("+1???556*", False),
        ("anonymous", False),
    ],
)
def test_a_pattern_blocks_the_numbers_it_says(pattern: str, blocked: bool) -> None:
    assert matched([Row(pattern)]) == (pattern if blocked else None)


@pytest.mark.parametrize("received", ["anonymous", "Anonymous", "Restricted", "unknown", " private "])
def test_a_withheld_number_is_anonymous_whatever_word_came(received: str) -> None:
    assert matched([Row(ANONYMOUS)], e164="", received=received) == ANONYMOUS
    assert Blocklist([Row(ANONYMOUS)]).match("t1", "s1", "c1", "", "", NOW) is not None


@pytest.mark.parametrize("received", ["1001", " 1001 "])
def test_a_caller_that_is_no_number_is_blocked_as_received(received: str) -> None:
    assert matched([Row("1001"), Row("bob@pbx")], e164="", received=received) == "1001"
    assert matched([Row("1001"), Row("bob@pbx")], e164="", received="BOB@pbx") == "bob@pbx"
    assert matched([Row("1001"), Row("+1*"), Row("+1???555*")], e164="", received="1002") is None


def test_a_caller_as_received_is_blocked_also_where_its_trunk_reads_a_number_in_it() -> None:
    assert matched([Row("1001")], e164="+2901001", received="1001") == "1001"


def test_an_exact_pattern_stands_before_a_prefix_and_a_prefix_before_a_wildcard() -> None:
    rows = [Row("+1212555????"), Row("+1*"), Row("+121255*"), Row("+1212555*", CapScope.CAMPAIGN, "c1"), Row(CALLER)]
    assert matched(rows) == CALLER
    assert matched(rows[:4]) == "+1212555*"
    assert matched(rows[:3]) == "+121255*"
    assert matched(rows[:2]) == "+1*"
    assert matched(rows[:1]) == "+1212555????"


def test_the_wildcard_with_the_most_digits_is_named() -> None:
    rows = [Row("+12125??????"), Row("+1?125550147"), Row("+1??????????")]
    assert matched(rows) == matched(rows[::-1]) == "+1?125550147"


@pytest.mark.parametrize("pattern", [CALLER, "+1212*", "+1212555????"])
def test_an_expired_block_never_matches(pattern: str) -> None:
    assert matched([Row(pattern, expires_ms=NOW + 1)]) == pattern
    assert matched([Row(pattern, expires_ms=NOW)]) is None
    assert matched([Row(pattern, expires_ms=NOW - 1)]) is None


def test_an_expired_block_hides_no_other() -> None:
    gone = NOW - 1
    rows = [
        Row(CALLER, expires_ms=gone),
        Row("+12125*", expires_ms=gone),
        Row("+1212*", CapScope.SELLER, "s1"),
        Row("+121*"),
    ]
    assert matched(rows) == "+1212*"
    assert matched([Row(CALLER, expires_ms=gone, id="b1"), Row(CALLER, id="b2"), Row(CALLER, expires_ms=NOW + 1)])
    assert matched([*rows[:2], Row("+1212555014?", expires_ms=gone), Row("+1212555????")]) == "+1212555????"


@pytest.mark.parametrize(
    ("scope", "scope_id", "tenant_id", "blocked"),
    [
        (CapScope.SYSTEM, "t1", "t1", True),
        (CapScope.SELLER, "s1", "t1", True),
        (CapScope.CAMPAIGN, "c1", "t1", True),
        (CapScope.SYSTEM, "t2", "t2", False),
        (CapScope.SELLER, "s2", "t1", False),
        (CapScope.CAMPAIGN, "c2", "t1", False),
        (CapScope.SELLER, "c1", "t1", False),
        (CapScope.CAMPAIGN, "s1", "t1", False),
        (CapScope.SELLER, "s1", "t2", False),
        (CapScope.CAMPAIGN, "c1", "t2", False),
    ],
)
def test_a_block_holds_for_its_tenant_seller_or_campaign_only(
    scope: CapScope, scope_id: str, tenant_id: str, blocked: bool
) -> None:
    for pattern in (CALLER, "+1212*", "+1212555????"):
        assert (matched([Row(pattern, scope, scope_id, tenant_id)]) is not None) is blocked


def test_of_the_same_pattern_the_system_s_is_named_before_the_seller_s_and_the_campaign_s() -> None:
    rows = [
        Row(CALLER, CapScope.CAMPAIGN, "c1", id="b1"),
        Row(CALLER, CapScope.SELLER, "s1", id="b2"),
        Row(CALLER, CapScope.SYSTEM, "t1", id="b3"),
    ]
    for left, named in ((rows, "b3"), (rows[:2], "b2"), (rows[:1], "b1")):
        row = Blocklist(left).match("t1", "s1", "c1", CALLER, CALLER, NOW)
        assert row is not None
        assert row.id == named


def test_an_empty_blocklist_blocks_nobody() -> None:
    assert Blocklist[Row]().match("t1", "s1", "c1", CALLER, CALLER, NOW) is None
    assert Blocklist[Row]().match("t1", "s1", "c1", "", "", NOW) is None


class Counted(str):
    """A caller's number that counts how often it is looked at."""

    looks = 0

    def __hash__(self) -> int:
        Counted.looks += 1
        return super().__hash__()

    def __getitem__(self, part: object) -> str:
        Counted.looks += 1
        return super().__getitem__(part)  # type: ignore[index]


def test_a_look_up_is_the_same_work_for_ten_numbers_and_for_ten_thousand() -> None:
    looks = []
    for count in (10, 10_000):
        numbers = [Row(f"+1212{n:07d}", id=f"n{n}") for n in range(count)]
        prefixes = [Row(f"+1213{n:06d}*", id=f"p{n}") for n in range(count)]
        blocklist = Blocklist([*numbers, *prefixes])
        Counted.looks = 0
        assert blocklist.match("t1", "s1", "c1", Counted("+442071838750"), "+442071838750", NOW) is None
        looks.append(Counted.looks)
    assert looks[0] == looks[1]
    assert 0 < looks[0] < 10


# --- against a matcher that tries every row --------------------------------------------------------------------------


def fits(pattern: str, e164: str, received: str) -> bool:
    """Whether a caller is on a pattern, character by character."""
    if "?" not in pattern and "*" not in pattern:
        word = received.strip().lower()
        withheld = word in ("", "anonymous", "unknown", "unavailable", "private", "restricted", "withheld")
        return pattern in (e164, "anonymous" if withheld else word)
    begin = pattern.removesuffix("*")
    same_length = len(e164) == len(begin)
    if not e164 or len(e164) < len(begin) or (begin == pattern and not same_length):
        return False
    return all(want in (have, "?") for want, have in zip(begin, e164, strict=False))


def rank(row: Row, e164: str) -> tuple[int, ...]:
    """What stands before what: the smaller first."""
    scope = BLOCK_SCOPES.index(row.scope)
    if "?" in row.pattern:
        return 2, scope, -sum(map(str.isdigit, row.pattern))
    if row.pattern.endswith("*"):
        return 1, -len(row.pattern), scope
    return 0, row.pattern != e164, scope


digits = st.text("12", min_size=0, max_size=6)
numbers = st.builds("+12{}".format, st.text("12", min_size=5, max_size=6))
patterns = st.one_of(
    numbers,
    st.builds("+1{}*".format, digits),
    st.builds("+1{}?{}{}".format, digits, st.text("12?", max_size=4), st.sampled_from(["", "*"])),
    st.sampled_from(["1001", "anonymous", "bob"]),
)
owners = st.sampled_from(
    [
        *((CapScope.SYSTEM, "t1", "t1"), (CapScope.SYSTEM, "t2", "t2"), (CapScope.SELLER, "s1", "t1")),
        *((CapScope.SELLER, "s2", "t1"), (CapScope.CAMPAIGN, "c1", "t1"), (CapScope.CAMPAIGN, "c1", "t2")),
    ]
)
expiries = st.sampled_from([None, None, None, NOW - 1, NOW, NOW + 1])
callers = st.one_of(
    numbers.map(lambda number: (number, number)),
    st.sampled_from([("", "1001"), ("", ""), ("", "Restricted"), ("", "BOB"), ("", "+1212"), ("+1212121", "1001")]),
)


@settings(max_examples=1_500, deadline=None)
@given(rows=st.lists(st.tuples(patterns, owners, expiries), max_size=25), caller=callers)
def test_the_index_finds_what_a_matcher_finds_that_tries_every_row(
    rows: list[tuple[str, tuple[CapScope, str, str], int | None]], caller: tuple[str, str]
) -> None:
    blocks = [Row(p, *owner, expires_ms=until, id=f"b{n}") for n, (p, owner, until) in enumerate(rows)]
    asked = {(CapScope.SYSTEM, "t1"), (CapScope.SELLER, "s1"), (CapScope.CAMPAIGN, "c1")}
    good = [
        row
        for row in blocks
        if row.tenant_id == "t1"
        and (row.scope, row.scope_id) in asked
        and (row.expires_ms is None or row.expires_ms > NOW)
        and fits(row.pattern, *caller)
    ]
    found = Blocklist(blocks).match("t1", "s1", "c1", *caller, NOW)
    if found is None:
        assert good == []
    else:
        assert found in good
        assert rank(found, caller[0]) == min(rank(row, caller[0]) for row in good)
