"""The simulated FastAGI client reads and quotes as res_agi does, and every end of an exchange is a value."""

from __future__ import annotations

import asyncio
import socket

import pytest

from asterisk_simulator.agi_client import agi_exchange, mset_pairs, parse_agi_args, separate_args
from tests.protocol.simulator_support import Request, agi_server, run, says


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("EXEC MSet A=1,B=2", ["EXEC", "MSet", "A=1,B=2"]),
        ('EXEC MSet "A=1 2,B=3"', ["EXEC", "MSet", "A=1 2,B=3"]),
        ('EXEC MSet "A=\\"a,b\\",B=3"', ["EXEC", "MSet", 'A="a,b",B=3']),
        ("EXEC MSet A=1 B=2", ["EXEC", "MSet", "A=1", "B=2"]),
        ('NOOP "" x', ["NOOP", "", "x"]),
        ("A\\ b c", ["A b", "c"]),
        ("a\\\\b", ["a\\b"]),
        ("  lead\tand  gaps ", ["lead", "and", "gaps"]),
    ],
)
def test_a_command_line_is_split_as_res_agi_splits_it(line: str, words: list[str]) -> None:
    assert parse_agi_args(line) == words


@pytest.mark.parametrize(
    ("data", "variables"),
    [
        ("A=1,B=2", {"A": "1", "B": "2"}),
        ('A="a,b",B=2', {"A": "a,b", "B": "2"}),
        ("A=a\\,b,B=2", {"A": "a,b", "B": "2"}),
        ("A=f(x,y),B=[1,2]", {"A": "f(x,y)", "B": "[1,2]"}),
        ("A=,B=x=y", {"A": "", "B": "x=y"}),
        ("A=1,nothing,B=2", {"A": "1", "B": "2"}),
        ("_A=1,__B=2", {"A": "1", "B": "2"}),
        ("", {}),
    ],
)
def test_mset_protects_commas_as_asterisk_does(data: str, variables: dict[str, str]) -> None:
    assert mset_pairs(data) == variables


def test_an_open_parenthesis_swallows_every_later_pair() -> None:
    assert mset_pairs("A=x(y,CC_VERDICT=dial") == {"A": "x(y,CC_VERDICT=dial"}


def test_the_hundredth_pair_is_glued_into_the_ninety_ninth() -> None:
    variables = mset_pairs(",".join(f"V{n}={n}" for n in range(100)))
    assert len(variables) == 99
    assert variables["V98"] == "98,V99=99"


def test_a_trailing_delimiter_makes_one_more_argument() -> None:
    assert separate_args("a,", ",", 9) == ["a", ""]
    assert separate_args("a,b", ",", 9) == ["a", "b"]


def test_arguments_go_out_and_variables_come_back() -> None:
    seen: list[Request] = []

    async def scenario() -> None:
        async with agi_server(says({"route": 'CC_CALL=7,CC_VERDICT="di,al"'}, seen)) as port:
            result = await agi_exchange("127.0.0.1", port, "route", ["u1", "", "Ann B"], timeout_s=5)
        assert result.variables == {"CC_CALL": "7", "CC_VERDICT": "di,al"}
        assert (result.answered, result.failed, result.timed_out) == (True, False, False)

    run(scenario())
    assert seen[0]["agi_network"] == "yes"
    assert [seen[0][f"agi_arg_{n}"] for n in (1, 2, 3)] == ["u1", "", "Ann B"]


def test_the_daemon_reads_result_0_before_eof() -> None:
    heard: list[bytes] = []

    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"EXEC MSet A=1\n")
        writer.write_eof()
        heard.append(await reader.read())

    async def scenario() -> None:
        async with agi_server(respond) as port:
            await agi_exchange("127.0.0.1", port, "route", [], timeout_s=5)

    run(scenario())
    assert heard == [b"200 result=0\n"]


def test_a_second_command_in_one_segment_waits_until_eof() -> None:
    at_first_answer: list[bytes] = []

    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"EXEC MSet A=1\nEXEC MSet B=2\n")
        at_first_answer.append(await reader.readline())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.05)
        writer.write_eof()
        at_first_answer.append(await reader.readline())

    async def scenario() -> dict[str, str]:
        async with agi_server(respond) as port:
            return (await agi_exchange("127.0.0.1", port, "route", [], timeout_s=5)).variables

    assert run(scenario()) == {"A": "1", "B": "2"}
    assert at_first_answer == [b"200 result=0\n"] * 2


def test_an_overlong_line_is_cut_at_the_buffer_of_asterisk() -> None:
    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"EXEC MSet A=" + b"x" * 9_000 + b",CC_VERDICT=dial\n")
        writer.write_eof()
        await reader.read()

    async def scenario() -> dict[str, str]:
        async with agi_server(respond) as port:
            return (await agi_exchange("127.0.0.1", port, "route", [], timeout_s=5)).variables

    variables = run(scenario())
    assert "CC_VERDICT" not in variables
    assert len(variables["A"]) == 8_191 - len("EXEC MSet A=")


def test_a_failure_line_and_a_refused_connection_both_fail() -> None:
    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"failure\n")
        writer.write_eof()
        await reader.read()

    async def scenario() -> None:
        async with agi_server(respond) as port:
            said = await agi_exchange("127.0.0.1", port, "route", [], timeout_s=5)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            refused = await agi_exchange("127.0.0.1", free.getsockname()[1], "route", [], timeout_s=5)
        assert (said.failed, said.answered) == (True, False)
        assert (refused.failed, refused.answered) == (True, False)

    run(scenario())


def test_a_reset_looks_like_success_without_variables() -> None:
    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async def scenario() -> None:
        async with agi_server(respond) as port:
            result = await agi_exchange("127.0.0.1", port, "route", [], timeout_s=5)
        assert (result.failed, result.answered, result.variables) == (False, False, {})

    run(scenario())


def test_a_frozen_daemon_times_out_and_a_hangup_ends_the_exchange() -> None:
    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        async with agi_server(respond) as port:
            frozen = await agi_exchange("127.0.0.1", port, "route", [], timeout_s=0.05)
            gone = asyncio.Event()
            asyncio.get_running_loop().call_later(0.02, gone.set)
            left = await agi_exchange("127.0.0.1", port, "route", [], timeout_s=5, hangup=gone)
        assert (frozen.timed_out, frozen.hung_up) == (True, False)
        assert (left.timed_out, left.hung_up) == (False, True)

    run(scenario())
