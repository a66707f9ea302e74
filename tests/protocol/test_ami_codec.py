"""AMI bytes: nothing can be injected, no character is lost between segments, no message is kept beyond its limit."""

from __future__ import annotations

import random

import pytest

from capconduit.asterisk.ami_codec import (
    LINE_BYTES,
    AmiRefused,
    MessageBuffer,
    Oversized,
    encode_action,
    line_starts,
    parse_message,
    pick_fields,
)

CONTROLS = ["\r", "\n", "\r\n", "\x00", "\x1f", "\x7f", "\x85", "\x9b"]


def test_an_action_is_lines_and_an_empty_line() -> None:
    encoded = encode_action({"Action": "Hangup", "Channel": "PJSIP/Zoë-1", "Cause": 16})
    assert encoded == "Action: Hangup\r\nChannel: PJSIP/Zoë-1\r\nCause: 16\r\n\r\n".encode()


@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_character_in_a_value_is_refused(control: str) -> None:
    with pytest.raises(AmiRefused) as caught:
        encode_action({"Action": "Hangup", "Channel": f"PJSIP/x-1{control}Action: Originate"})
    assert caught.value.slug == "ami-value-refused"
    assert "Originate" not in caught.value.message


@pytest.mark.parametrize("name", ["", "Bad Name", "A:", "A\r\nB", "Zoë"])
def test_an_odd_field_name_is_refused(name: str) -> None:
    with pytest.raises(AmiRefused):
        encode_action({name: "x"})


def test_a_lone_surrogate_and_a_line_too_long_are_refused() -> None:
    with pytest.raises(AmiRefused):
        encode_action({"Action": "\ud800"})
    fitting = "x" * (LINE_BYTES - len("Action: "))
    assert encode_action({"Action": fitting})
    with pytest.raises(AmiRefused):
        encode_action({"Action": fitting + "x"})


def test_of_a_repeated_field_the_first_stays() -> None:
    assert parse_message(b"Event: Hangup\r\nUniqueid: 1\r\nUniqueid: 2\r\nOdd\r\nEmpty:\r\nX:  y") == {
        "Event": "Hangup",
        "Uniqueid": "1",
        "Empty": "",
        "X": " y",
    }


@pytest.mark.parametrize(
    "data",
    [
        b"Event: Hangup\r\nUniqueid: 1\r\nUniqueid: 2\r\nCause:  16",
        b"Event: Hangup\r\nUniqueid:1\r\nCause:\r\nOdd\r\n",
        b"Event: Hangup\r\nDestUniqueid: 2\r\nCallerIDName: Uniqueid: 3\r\nUniqueid",
        b"Event: Hangup\r\nCallerIDName: \nUniqueid: 3\rCause: 4\r\n Uniqueid: 5\r\nCause : 6",
        b"Event: Hangup\r\nUniqueid: Caf\xe9\r\n\r\nCause: 7: 8",
        b"",
    ],
)
def test_a_few_fields_of_a_message_are_those_that_all_of_it_has(data: bytes) -> None:
    names = ("Event", "Uniqueid", "Cause")
    whole = parse_message(data)
    assert pick_fields(data, line_starts(names)) == {name: whole[name] for name in names if name in whole}


def test_bad_utf_8_is_replaced_and_never_raised() -> None:
    assert parse_message(b"CallerIDName: Caf\xe9") == {"CallerIDName": "Caf\ufffd"}


def drain(buffer: MessageBuffer) -> list[bytes]:
    found = []
    while (message := buffer.next()) is not None:
        found.append(message)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_messages_come_out_whole_wherever_the_segments_end(seed: int) -> None:
    rng = random.Random(seed)
    wanted = [f"Event: X{n}\r\nCallerIDName: Zoë 中文 {'y' * rng.randrange(30)}".encode() for n in range(20)]
    stream = b"".join(message + b"\r\n\r\n" for message in wanted)
    buffer, found = MessageBuffer(1_000), []
    while stream:
        size = rng.choice([1, 2, 3, 7, 50])
        buffer.feed(stream[:size])
        stream = stream[size:]
        found += drain(buffer)
    assert found == wanted


@pytest.mark.parametrize("segment", [1, 64, 100_000])
def test_a_message_beyond_the_limit_is_thrown_away_and_the_next_one_is_whole(segment: int) -> None:
    stream = b"ActionID: 7\r\nBig: " + b"x" * 5_000 + b"\r\n\r\nEvent: Next\r\n\r\n"
    buffer, found, kept = MessageBuffer(100), [], 0
    for at in range(0, len(stream), segment):
        buffer.feed(stream[at : at + segment])
        found += drain(buffer)
        kept = max(kept, len(buffer._data))
    big, following = found
    assert isinstance(big, Oversized)
    assert big.startswith(b"ActionID: 7\r\n")
    assert following == b"Event: Next"
    assert kept <= 100 + segment + 4


def test_the_banner_is_a_line_of_its_own() -> None:
    buffer = MessageBuffer(1_000)
    buffer.feed(b"Asterisk Call Man")
    assert buffer.next_line(256) is None
    buffer.feed(b"ager/11.0.0\r\nResponse: Success\r\n\r\n")
    assert buffer.next_line(256) == b"Asterisk Call Manager/11.0.0"
    assert buffer.next() == b"Response: Success"
    buffer.feed(b"x" * 300)
    line = buffer.next_line(256)
    assert line is not None
    assert len(line) == 256
