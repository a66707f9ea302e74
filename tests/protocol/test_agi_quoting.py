"""Quoting for AGI: what we send is, after Asterisk's own parsers, exactly what we meant; or it is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi.agi_protocol import (
    MAX_LINE_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_PAIRS,
    AgiQuotingError,
    Failure,
    encode_mset,
    failure_line,
    quote_value,
)
from tests.protocol.agi_peer import apply_mset, parse_args, read_command, separate_args

names = st.from_regex(r"[A-Z_][A-Z0-9_]{0,12}", fullmatch=True)
awkward = st.lists(
    st.sampled_from([*'"\\(),[]{}$=&;|^ \u00e9\u4e2d\U0001f600', '\\"', "\\,", "${X}", "$[1+1]", '","', "A=b"])
).map("".join)
anything = st.text(st.characters(blacklist_categories=["Cc", "Cs"]), max_size=30)


@given(st.dictionaries(names, awkward | anything, min_size=1, max_size=12))
def test_any_values_arrive_exactly(variables: dict[str, str]) -> None:
    assert apply_mset(encode_mset(list(variables.items()))) == variables


@pytest.mark.parametrize(
    "value",
    [
        "",
        "PJSIP/a@b&IAX2/user:pass@host/15551230000&Local/1@x",
        "L(60000:5000:1000)b(ctx^s^1(a,b))",
        "(",
        "]",
        '"',
        "\\",
        'a,b"c\\d)e',
        "${SECRET} $[1+1] $",
        " leading and trailing ",
        "=",
    ],
)
def test_a_value_neither_changes_nor_touches_its_neighbours(value: str) -> None:
    variables = {"CC_DIAL": value, "CC_OTHER": value, "CC_VERDICT": "dial"}
    assert apply_mset(encode_mset(list(variables.items()))) == variables


@given(awkward)
def test_nothing_is_left_to_expand_when_agiexecfull_is_on(value: str) -> None:
    # AGIEXECFULL substitutes between the two parsers: in what AGI's parser hands on.
    words = parse_args(read_command(encode_mset([("A", value)]))[0])
    assert re.search(rb"\$[{\[]", words[2]) is None


@given(st.lists(st.tuples(names, anything), min_size=1, max_size=5))
def test_a_command_is_one_line(pairs: list[tuple[str, str]]) -> None:
    line = encode_mset(pairs)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\t", "\x1b", "\x7f", "\x85"])
def test_a_control_character_is_refused(character: str) -> None:
    with pytest.raises(AgiQuotingError, match="CC_DIAL: a control character") as refusal:
        encode_mset([("CC_VERDICT", "dial"), ("CC_DIAL", f"a{character}b")])
    assert refusal.value.variable == "CC_DIAL"
    with pytest.raises(AgiQuotingError):
        quote_value(character)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(AgiQuotingError, match="UTF-8"):
        encode_mset([("A", "\ud800")])


@pytest.mark.parametrize(
    "name", ["", "1A", "A B", "A=B", "DB(a/b)", "A,B", "A\n", "Ä", "A" * (MAX_NAME_CHARACTERS + 1)]
)
def test_what_is_no_variable_name_is_refused(name: str) -> None:
    with pytest.raises(AgiQuotingError, match="not a variable name"):
        encode_mset([(name, "x")])


def test_the_verdict_stays_where_the_caller_put_it() -> None:
    assert encode_mset([("B", "1"), ("A", "2"), ("CC_VERDICT", "dial")]) == b'EXEC MSet "B=1,A=2,CC_VERDICT=dial"\n'


def test_as_many_pairs_as_fit_arrive_and_one_more_is_refused() -> None:
    pairs = [(f"V{number}", "x(y") for number in range(MAX_PAIRS)]
    assert apply_mset(encode_mset(pairs)) == dict(pairs)
    with pytest.raises(AgiQuotingError, match="99 variables"):
        encode_mset([*pairs, ("CC_VERDICT", "dial")])


def test_the_99th_pair_would_keep_its_backslashes() -> None:
    # Why MAX_PAIRS is 98: the last place of MSet's array is not looked into.
    assert separate_args(b",".join([rb"A=x\(y"] * 99), b",", 99)[97:] == [b"A=x(y", rb"A=x\(y"]


def test_nothing_to_set_is_refused() -> None:
    with pytest.raises(AgiQuotingError, match="nothing to set"):
        encode_mset([])


def test_the_longest_line_is_read_whole_and_one_byte_more_is_refused() -> None:
    room = MAX_LINE_BYTES - len(encode_mset([("A", "")]))
    line = encode_mset([("A", "a" * room)])
    assert len(line) == MAX_LINE_BYTES
    assert apply_mset(line) == {"A": "a" * room}
    with pytest.raises(AgiQuotingError, match="8192 bytes"):
        encode_mset([("A", "a" * (room + 1))])


def test_the_limit_counts_bytes_as_sent() -> None:
    with pytest.raises(AgiQuotingError, match="bytes"):
        encode_mset([("A", "\u4e2d" * (MAX_LINE_BYTES // 3))])
    with pytest.raises(AgiQuotingError, match="bytes"):
        encode_mset([("A", '"' * (MAX_LINE_BYTES // 4))])


@pytest.mark.parametrize("reason", list(Failure))
def test_a_failure_line_begins_with_the_word_asterisk_looks_for(reason: Failure) -> None:
    line = failure_line(reason)
    assert line.startswith(b"failure")
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
