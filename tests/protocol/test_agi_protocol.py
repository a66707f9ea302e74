"""Framing of FastAGI: what the readers make of good, broken and hostile bytes, in whatever segments they come."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagi import agi_protocol
from fastagi.agi_protocol import (
    MAX_ARGUMENTS,
    MAX_HEADER_BYTES,
    MAX_HEADER_LINES,
    MAX_QUERY_FIELDS,
    MAX_REPLY_BYTES,
    USUAL_ARGUMENTS,
    AgiRequest,
    AgiResult,
    HeaderFault,
    HeaderReader,
    ReplyReader,
    parse_header,
)
from tests.protocol.agi_peer import environment


def read_header(data: bytes) -> AgiRequest | HeaderFault | None:
    block = HeaderReader().feed(data)
    return parse_header(block, 7) if isinstance(block, bytes) else block


def request(data: bytes) -> AgiRequest:
    read = read_header(data)
    assert isinstance(read, AgiRequest)
    return read


# -- header -----------------------------------------------------------------------------------------------------------


def test_an_environment_becomes_a_request() -> None:
    read = request(environment("route", "lab-1.1", "", "a,b", "C:D: E"))
    assert read.script == "route"
    assert read.query == {}
    assert read.args == ("lab-1.1", "", "a,b", "C:D: E")
    assert (read.channel, read.uniqueid) == ("PJSIP/trunk-00000001", "lab-1700000000.1")
    assert read.received_ns == 7


def test_crlf_and_lf_say_the_same() -> None:
    assert request(environment("route", "x", newline=b"\r\n")) == request(environment("route", "x"))


def test_the_query_of_the_request_is_parsed() -> None:
    read = request(environment("route?x=y&name=a%2Cb+c&empty="))
    assert read.script == "route"
    assert read.query == {"x": "y", "name": "a,b c", "empty": ""}


@pytest.mark.parametrize(
    ("url", "script"),
    [("agi://h/a/b/", "a/b"), ("agi://h", ""), ("agi://h:1/", ""), ("async", ""), ("hagi://h/settle?", "settle")],
)
def test_the_script_is_the_path_of_the_request(url: str, script: str) -> None:
    assert request(f"agi_request: {url}\n\n".encode()).script == script


def test_a_missing_argument_between_others_is_empty() -> None:
    assert request(b"agi_request: agi://h/x\nagi_arg_3: c\nagi_arg_1: a\n\n").args == ("a", "", "c")


def test_an_argument_number_out_of_range_costs_nothing() -> None:
    huge = f"agi_request: agi://h/x\nagi_arg_1: a\nagi_arg_{MAX_ARGUMENTS + 1}: b\nagi_arg_99999999999: c\n\n"
    assert request(huge.encode()).args == ("a",)


def test_a_latin_1_name_does_not_kill_the_request() -> None:
    assert request(environment("route", "x", name="Müller".encode("latin-1"))).args == ("x",)
    read = request("agi_request: agi://h/x\nagi_arg_1: Müller\n\n".encode("latin-1"))
    assert read.args == ("M\N{REPLACEMENT CHARACTER}ller",)


def test_unicode_line_separators_are_no_line_ends() -> None:
    assert request("agi_request: agi://h/x\nagi_arg_1: a\u2028b\x0bc\x85d\n\n".encode()).args == ("a\u2028b\x0bc\x85d",)


def test_a_line_without_a_colon_is_skipped() -> None:
    assert request(environment("route", "x", name=b"Bob\nSmith")).args == ("x",)


def test_a_value_without_its_space_is_a_value() -> None:
    read = request(b"agi_request:agi://h/route\nagi_arg_1:a\nagi_arg_2: b:c\nagi_arg_3:\n\n")
    assert (read.script, read.args) == ("route", ("a", "b:c", ""))


@pytest.mark.parametrize("forged", [b"agi_arg_1: forged", b"agi_arg_1:forged", b"x\nagi_arg_1: forged", b"x: y\nx: z"])
def test_a_line_injected_through_a_newline_refuses_the_request(forged: bytes) -> None:
    assert read_header(environment("route", "real", name=b"Bob\n" + forged)) is HeaderFault.SAID_TWICE


@pytest.mark.parametrize("data", [b"\n", b"\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00\xff\n\n"])
def test_what_is_no_agi_has_no_request(data: bytes) -> None:
    assert read_header(data) is HeaderFault.NO_REQUEST


def test_a_header_of_the_greatest_size_is_read_and_one_byte_more_is_not() -> None:
    frame = b"agi_request: agi://h/x\nagi_arg_1: %b\n\n"
    filling = MAX_HEADER_BYTES - len(frame % b"")
    assert request(frame % (b"a" * filling)).script == "x"
    assert read_header(frame % (b"a" * (filling + 1))) is HeaderFault.TOO_LONG


def test_an_endless_header_is_refused_before_it_ends() -> None:
    reader = HeaderReader()
    fed = 0
    while reader.feed(b"a" * 1_000) is None:
        fed += 1_000
        assert fed <= MAX_HEADER_BYTES
    assert fed == MAX_HEADER_BYTES // 1_000 * 1_000


def test_too_many_lines_are_refused() -> None:
    many = b"".join(b"x%d: y\n" % number for number in range(MAX_HEADER_LINES))
    assert read_header(b"agi_request: agi://h/x\n" + many + b"\n") is HeaderFault.TOO_MANY_LINES


def test_too_many_query_fields_are_refused() -> None:
    query = "&".join("a=b" for _ in range(MAX_QUERY_FIELDS + 1))
    assert read_header(environment(f"route?{query}")) is HeaderFault.TOO_MANY_QUERY_FIELDS


@pytest.mark.parametrize("data", [b"a\n\r\n\nrest", b"a\r\n\n\r\nrest", b"\r\n\nrest", b"a\n\n\r\nrest"])
def test_the_first_empty_line_ends_the_header_in_one_segment_as_in_many(data: bytes) -> None:
    whole = HeaderReader()
    whole.feed(data)
    bytewise = HeaderReader()
    ended_at = next(place for place in range(len(data)) if bytewise.feed(data[place : place + 1]) is not None)
    assert whole.rest == data[ended_at + 1 :]


def test_what_follows_the_header_is_kept_apart() -> None:
    reader = HeaderReader()
    assert isinstance(reader.feed(environment("route") + b"HANGUP\n"), bytes)
    assert reader.rest == b"HANGUP\n"


# Bytes near the grammar find more than random ones.
header_bytes = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"agi_request: agi://h/s?a=b", b"agi_arg_1: x", b": ", b"\xc3"])
    | st.binary(max_size=6)
).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(bounds)]


@given(header_bytes | st.binary(max_size=200), st.lists(st.integers(0, 10_000), max_size=8), st.integers(1, 60))
def test_a_header_reads_the_same_in_any_segments(data: bytes, places: list[int], max_bytes: int) -> None:
    whole = HeaderReader(max_bytes)
    expected = whole.feed(data)
    in_pieces = HeaderReader(max_bytes)
    got: bytes | HeaderFault | None = None
    pieces = cut(data, places)
    while pieces and got is None:
        got = in_pieces.feed(pieces.pop(0))
    assert got == expected
    if isinstance(got, bytes):
        assert in_pieces.rest + b"".join(pieces) == whole.rest


@given(header_bytes | st.binary(max_size=400))
def test_no_bytes_make_the_header_parser_raise(data: bytes) -> None:
    assert isinstance(parse_header(data, 0), AgiRequest | HeaderFault)


printable = st.text(st.characters(blacklist_characters="\n\r", blacklist_categories=["Cs"]), max_size=20)


@given(st.lists(printable, max_size=12))
def test_arguments_arrive_as_asterisk_had_them(args: list[str]) -> None:
    assert request(environment("route", *args)).args == tuple(args)


# What a name could hold that was injected, or that a reader of Asterisk's own order might stumble over.
injected = st.lists(
    st.sampled_from(["\n", "\r", ": ", ":", "agi_arg_1: x", "agi_arg_3: x", "agi_threadid: 1", "agi_type: ", "x"])
).map("".join)


@given(st.lists(printable, max_size=2 * USUAL_ARGUMENTS), injected)
def test_lines_in_asterisks_order_read_as_in_any_other(args: list[str], name: str) -> None:
    lines = environment("route?a=b", *args, name=name.encode()).removesuffix(b"\n\n").split(b"\n")
    assert parse_header(b"\n".join(lines), 0) == parse_header(b"\n".join(reversed(lines)), 0)


@pytest.mark.parametrize("count", [0, 1, 9, USUAL_ARGUMENTS])
def test_what_asterisk_writes_is_read_without_looking_at_each_line(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagi.agi_protocol._read_lines", lambda _text: HeaderFault.NO_REQUEST)
    assert request(environment("route", *map(str, range(count)))).args == tuple(map(str, range(count)))


def test_the_quick_pattern_never_goes_back_into_a_value() -> None:
    """Else a header that only begins like Asterisk's costs its sender little and us half a millisecond."""
    repeated = re.findall(r"\.[*+?{]\S?", agi_protocol._usual_header().pattern)
    assert len(repeated) > USUAL_ARGUMENTS
    assert set(repeated) == {".*+"}


# -- replies ----------------------------------------------------------------------------------------------------------


def read_replies(data: bytes) -> tuple[list[AgiResult], ReplyReader]:
    reader = ReplyReader()
    return list(reader.feed(data)), reader


@pytest.mark.parametrize(
    ("line", "result"),
    [
        (b"200 result=0", AgiResult(200, "0")),
        (b"200 result=-2", AgiResult(200, "-2")),
        (b"200 result=1 (a value)", AgiResult(200, "1", "a value")),
        (b"200 result=1 (f(x) (y)) endpos=5", AgiResult(200, "1", "f(x) (y)")),
        (b"200 result=1 ()", AgiResult(200, "1", "")),
        (b"200 result=-1 endpos=5", AgiResult(200, "-1")),
        (b"200 result=1 (open", AgiResult(200, "1")),
        (b"510 Invalid or unknown command", AgiResult(510)),
        (b"511 Command Not Permitted on a dead channel or intercept routine", AgiResult(511)),
        (b"520 Invalid command syntax.  Proper usage not available.", AgiResult(520)),
    ],
)
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_reply_is_read_by_position(line: bytes, result: AgiResult, newline: bytes) -> None:
    assert read_replies(line + newline)[0] == [result]


def test_only_200_with_result_0_is_applied() -> None:
    lines = [b"200 result=0\n", b"200 result=1\n", b"200 result=-2\n", b"200 result=00\n", b"510 result=0\n", b"200\n"]
    assert [read_replies(line)[0][0].applied for line in lines] == [True, False, False, False, False, False]


def test_a_value_hangup_is_no_hangup() -> None:
    results, reader = read_replies(b"200 result=-1 (hangup)\n200 result=1 (HANGUP)\n")
    assert results == [AgiResult(200, "-1", "hangup"), AgiResult(200, "1", "HANGUP")]
    assert not reader.hung_up


def test_an_inline_hangup_is_a_flag_and_not_a_reply() -> None:
    results, reader = read_replies(b"HANGUP\n200 result=0\n")
    assert results == [AgiResult(200, "0")]
    assert reader.hung_up


def test_a_usage_text_is_one_reply_whatever_it_says() -> None:
    usage = b"520-Invalid command syntax.  Proper usage follows:\nUsage: EXEC\n\nHANGUP\n200 result=0\n510 x\n520-y\n"
    results, reader = read_replies(usage + b"520 End of proper usage.\n200 result=0\n")
    assert results == [AgiResult(520), AgiResult(200, "0")]
    assert not reader.hung_up


def test_a_reply_without_its_newline_is_none_yet() -> None:
    reader = ReplyReader()
    assert reader.feed(b"200 result=0") == []
    assert reader.feed(b"1\n") == [AgiResult(200, "01")]


@pytest.mark.parametrize(
    "line", [b"", b"2", b"200x result=0", b"hello", b" 200 result=0", b"agi_arg_1: x", b"\xff\x00"]
)
def test_a_line_that_is_no_reply_is_skipped(line: bytes) -> None:
    assert read_replies(line + b"\n200 result=0\n")[0] == [AgiResult(200, "0")]


def test_replies_beyond_the_limit_are_not_looked_at() -> None:
    reader = ReplyReader()
    reader.feed(b"x" * (MAX_REPLY_BYTES - 1) + b"\n")
    assert not reader.overflowed
    assert reader.feed(b"200 result=0\n") == []
    assert reader.overflowed


reply_bytes = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"200 result=0", b"HANGUP", b"520-u", b"520 e", b" (hangup)", b"200", b"-", b" "])
    | st.binary(max_size=4)
).map(b"".join)


@given(reply_bytes, st.lists(st.integers(0, 10_000), max_size=8), st.integers(0, 2))
def test_replies_read_the_same_in_any_segments(data: bytes, places: list[int], near_limit: int) -> None:
    if near_limit:
        data = b"x" * (MAX_REPLY_BYTES - near_limit * 20) + b"\n" + data
    expected, whole = read_replies(data)
    reader = ReplyReader()
    got = [result for piece in cut(data, places) for result in reader.feed(piece)]
    assert got == expected
    assert (reader.hung_up, reader.overflowed) == (whole.hung_up, whole.overflowed)
