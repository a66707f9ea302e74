"""Framing and quoting of FastAGI without I/O: bytes in, requests and replies out; variables in, one command out.

Everything that is read here is hostile: a caller chooses the name and often the number in the header. The readers
never raise on any bytes, hold a bounded amount of them, and give the same answer however the bytes were cut into
segments. What cannot be understood is a `HeaderFault`, never a guess: the caller of this module fails closed.

What goes out passes three parsers of Asterisk before it is a channel variable, the same in 16.28 and 22.10:

1. res/res_agi.c `run_agi` reads a line with fgets into `char buf[8192]`: 8,191 bytes with the newline. A line of
   8,192 leaves its newline behind, which is then answered as a second, unknown command (510).
   `parse_args` splits at space and tab; `"` opens and closes a word, `\\` makes the next byte literal.
2. main/app.c `__ast_app_separate_args` splits MSet's data at commas. It counts `(`, `)`, `[` and `]` even inside
   quotes, so one lone bracket swallows all following pairs; `\\` makes the next byte literal and is removed.
   The array of `pbx_builtin_setvar_multiple` (main/pbx_variables.c) has 99 places and the loop ends one before:
   the 99th pair keeps its backslashes. So we send at most 98.
3. The same function splits each pair at the first `=`; the value is what remains, untouched.

Between 1 and 2 stands AGIEXECFULL=yes (off by default): it expands `${` and `$[`. With a backslash before `{` and
`[` it sees none, and parser 2 removes the backslash.

Checked on 22.10.1 with GET VARIABLE: 1,650 random values of these characters came back exact, with AGIEXECFULL=yes as
without; a 99th pair `x(y` became `x\\(y`, and a line of 8,192 bytes got a second reply, 510.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl

from capconduit.domain.record import value

MAX_HEADER_BYTES: Final = 16_384
MAX_HEADER_LINES: Final = 256
MAX_ARGUMENTS: Final = 128  # MAX_ARGS of res/res_agi.c
MAX_QUERY_FIELDS: Final = 32
MAX_REPLY_BYTES: Final = 16_384  # all replies of one exchange; Asterisk sends a few dozen bytes
MAX_PAIRS: Final = 98
MAX_LINE_BYTES: Final = 8_191  # with the newline
MAX_NAME_CHARACTERS: Final = 80  # ours: a name comes from our vocabulary, never from a peer

# The names of an environment in the order in which Asterisk writes them, before the arguments; and those that are read.
# Source: res/res_agi.c `launch_netscript` and `setup_env`, the same in 16.28 and 22.10.
_NAMES: Final = (
    "network", "network_script", "request", "channel", "language", "type", "uniqueid", "version", "callerid",
    "calleridname", "callingpres", "callingani2", "callington", "callingtns", "dnid", "rdnis", "context", "extension",
    "priority", "enhanced", "accountcode", "threadid",
)  # fmt: skip
_READ: Final = ("request", "channel", "uniqueid")
USUAL_ARGUMENTS: Final = 12  # our dialplan sends up to nine

_NO_QUERY: Final[Mapping[str, str]] = MappingProxyType({})
_ARGUMENTS: Final = dict.fromkeys(f"agi_arg_{place}" for place in range(1, MAX_ARGUMENTS + 1)).keys()


class HeaderFault(StrEnum):
    """Why an AGI environment is refused."""

    TOO_LONG = "too long"
    TOO_MANY_LINES = "too many lines"
    NO_REQUEST = "no agi_request"
    SAID_TWICE = "a name said twice"
    TOO_MANY_QUERY_FIELDS = "too many query fields"


class Failure(StrEnum):
    """Why we answer with a failure line; for whoever reads the wire, Asterisk only looks at the word `failure`."""

    BUSY = "busy"
    BAD_HEADER = "bad header"
    HEADER_TIMEOUT = "header timeout"
    UNKNOWN_SCRIPT = "unknown script"
    HANDLER = "handler failed"


class AgiQuotingError(ValueError):
    """These variables cannot be sent: names the variable and the reason, never the value, which may be hostile."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable}: {reason}" if variable else reason)
        self.variable = variable
        self.reason = reason


@value
class AgiRequest:
    """One request of Asterisk's dialplan (source: res/res_agi.c `setup_env`).

    script: path of the request's URL without slashes at its ends. query: its fields, percent-decoded, the last of a
    name counts. args: agi_arg_1, agi_arg_2 …, one that is missing between others is "". channel, uniqueid: of the
    caller, empty where they are missing. received_ns: monotonic clock when the header was complete.
    """

    script: str
    query: Mapping[str, str]
    args: tuple[str, ...]
    channel: str
    uniqueid: str
    received_ns: int


@dataclass(frozen=True, slots=True)
class AgiResult:
    """One reply of Asterisk to a command (source: res/res_agi.c `agi_handle_command`).

    code: 200, 510 (unknown command), 511 (not on a dead channel), 520 (wrong syntax). result: what follows `result=`,
    None where nothing does. value: what stands in parentheses after it, None where nothing does.
    """

    code: int
    result: str | None = None
    value: str | None = None

    @property
    def applied(self) -> bool:
        """True for `200 result=0`: the application ran and said it succeeded."""
        return self.code == 200 and self.result == "0"


_APPLIED: Final = (AgiResult(200, "0"),)


class HeaderReader:
    """Collects the environment up to its empty line, at most `max_bytes` with it."""

    __slots__ = ("_buffer", "_max_bytes", "rest")

    def __init__(self, max_bytes: int = MAX_HEADER_BYTES) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self.rest = b""  # what followed the empty line in the same segment

    def feed(self, data: bytes) -> bytes | HeaderFault | None:
        """The environment without its empty line once that came, a fault when it is too long, None for more.

        Not to be called again after it gave an answer.
        """
        whole: bytes | bytearray = data  # the usual case: the header in one segment, not copied
        start = 0
        if self._buffer:
            # Look again at the three bytes before: the empty line may have been cut by the segment.
            start = max(0, len(self._buffer) - 3)
            self._buffer += data
            whole = self._buffer
        end, after = _empty_line(whole, start)
        if (after if after >= 0 else len(whole)) > self._max_bytes:
            self._buffer.clear()
            return HeaderFault.TOO_LONG
        if after < 0:
            if whole is data:
                self._buffer += data
            return None
        self.rest, block = bytes(whole[after:]), bytes(whole[:end])
        self._buffer.clear()
        return block


def _empty_line(data: bytes | bytearray, start: int) -> tuple[int, int]:
    """Where the header ends and where what follows begins; (-1, -1) where no empty line is in `data[start:]`."""
    if start == 0 and data.startswith((b"\n", b"\r\n")):
        return 0, 1 if data.startswith(b"\n") else 2
    bare = data.find(b"\n\n", start)
    # One with CR wins where it is complete earlier: `\n\r\n\n` ends at its third byte in whatever segments it came.
    with_cr = data.find(b"\n\r\n", start, bare + 1 if bare >= 0 else len(data)) if b"\r" in data else -1
    if with_cr >= 0:
        return with_cr, with_cr + 3
    return (bare, bare + 2) if bare >= 0 else (-1, -1)


def parse_header(block: bytes, received_ns: int) -> AgiRequest | HeaderFault:
    """The request in an environment without its empty line; never raises.

    Not UTF-8 becomes U+FFFD: IAX2 and older versions pass on what the caller sent. A line without a colon is what a
    newline inside a value leaves; it is skipped. A name that comes twice is a line injected through such a newline,
    and which of the two is Asterisk's cannot be known.
    """
    text = block.decode("utf-8", "replace")
    if "\r" in text:
        text = text.replace("\r\n", "\n").removesuffix("\r")
    usual = _USUAL.fullmatch(text)
    if usual is not None:
        url, channel, uniqueid, *_ = said = usual.groups()
        args = said[len(_READ) : usual.lastindex]
    else:
        env = _read_lines(text)
        if isinstance(env, HeaderFault):
            return env
        url, channel, uniqueid = (env.get(f"agi_{name}") for name in _READ)
        args = _arguments(env)
    if url is None:
        return HeaderFault.NO_REQUEST
    script, query = _split_url(url)
    if query is None:
        return HeaderFault.TOO_MANY_QUERY_FIELDS
    return AgiRequest(script, query, args, channel or "", uniqueid or "", received_ns)


def _usual_header() -> re.Pattern[str]:
    """Matches an environment in which every line is in Asterisk's own place: then no name comes twice, and what
    `_read_lines` would find is found in a third of the time. The groups are `_READ` and the arguments. A value once
    matched is not looked at again (`*+`): what is none of Asterisk's costs no more for having begun like it."""
    arguments = ""
    for place in range(USUAL_ARGUMENTS, 0, -1):
        arguments = rf"(?:\nagi_arg_{place}: (.*+){arguments})?"
    lines = [f"agi_{name}: (.*+)" if name in _READ else f"agi_{name}: .*+" for name in _NAMES]
    return re.compile("\n".join(lines) + arguments)


_USUAL: Final = _usual_header()


def _read_lines(text: str) -> Mapping[str, str] | HeaderFault:
    """The lines of any environment by name."""
    lines = text.split("\n", MAX_HEADER_LINES)
    if len(lines) > MAX_HEADER_LINES:
        return HeaderFault.TOO_MANY_LINES
    env: dict[str, str] = {}
    skipped = 0
    for line in lines:
        name, colon, value = line.partition(": ")  # as Asterisk writes it
        if not colon:
            name, colon, value = line.partition(":")
        if colon:
            env[name] = value
        else:
            skipped += 1
    return HeaderFault.SAID_TWICE if len(env) + skipped < len(lines) else env


def _arguments(env: Mapping[str, str]) -> tuple[str, ...]:
    """The values of agi_arg_1, agi_arg_2 …; one that is missing between others is ""."""
    left = len(env.keys() & _ARGUMENTS)
    args: list[str] = []
    for name in _ARGUMENTS:
        if not left:
            break
        value = env.get(name)
        left -= value is not None
        args.append(value or "")
    return tuple(args)


@lru_cache(maxsize=16)  # each script of our dialplan has one
def _split_url(url: str) -> tuple[str, Mapping[str, str] | None]:
    """Path and query of `agi://host:port/path?query`; the query is None where it has too many fields.

    Asterisk takes all after the first slash for the script (res/res_agi.c `launch_netscript`); so do we.
    """
    after_scheme = url.partition("://")[2]
    path, mark, query = after_scheme.partition("/")[2].partition("?")
    if not mark:
        return path.strip("/"), _NO_QUERY
    try:
        fields = parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        return path.strip("/"), None
    return path.strip("/"), dict(fields)


@dataclass(slots=True)
class ReplyReader:
    """Reads Asterisk's replies by position, at most `MAX_REPLY_BYTES` of them.

    hung_up: a line HANGUP came (AGISIGHUP is on and the caller left); it is not a reply. overflowed: more came than
    the limit, and the rest was not looked at. A line without its newline is not a reply: what was cut may say more.
    """

    hung_up: bool = False
    overflowed: bool = False
    _buffer: bytearray = field(default_factory=bytearray)
    _seen_bytes: int = 0
    _usage_code: bytes = b""  # of the multi-line reply that we are inside of, b"" outside

    def feed(self, data: bytes) -> Sequence[AgiResult]:
        """The replies completed by `data`, in order; never raises."""
        room_bytes = MAX_REPLY_BYTES - self._seen_bytes
        if len(data) > room_bytes:
            self.overflowed = True
            data = data[:room_bytes]
        self._seen_bytes += len(data)
        if data == b"200 result=0\n" and not self._buffer and not self._usage_code:
            return _APPLIED
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        results = [self._line(bytes(line.removesuffix(b"\r"))) for line in lines]
        return [result for result in results if result is not None]

    def _line(self, line: bytes) -> AgiResult | None:
        """The reply that this line completes, None for a line that completes none."""
        code, mark = line[:3], line[3:4]
        if self._usage_code:
            # run_agi writes HANGUP between commands only: inside a usage text the word is text.
            if code != self._usage_code or mark != b" ":
                return None
            self._usage_code = b""
            return AgiResult(int(code))
        if line == b"HANGUP":
            self.hung_up = True
            return None
        if len(code) != 3 or not code.isdigit():
            return None
        if mark == b"-":
            self._usage_code = code
            return None
        if mark not in (b" ", b""):
            return None
        return _single_line_result(int(code), line[4:].decode("utf-8", "replace"))


def _single_line_result(code: int, text: str) -> AgiResult:
    """`result=N (value) endpos=M` taken apart by position; the value may hold anything, parentheses included."""
    if not text.startswith("result="):
        return AgiResult(code)
    result, _, tail = text.removeprefix("result=").partition(" ")
    value = tail[1 : tail.rfind(")")] if tail.startswith("(") and ")" in tail else None
    return AgiResult(code, result, value)


_VARIABLE_NAME: Final = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{MAX_NAME_CHARACTERS - 1}}}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SPECIAL: Final = re.compile(r'[\x00-\x1f\x7f-\x9f"\\(),\[\]{]')


def _through_both_parsers(character: str) -> str:
    """`character` escaped for MSet's parser, and that escaped for AGI's."""
    for_mset = "\\" + character
    return for_mset.replace("\\", "\\\\").replace('"', '\\"')


_ESCAPED: Final = str.maketrans({character: _through_both_parsers(character) for character in '"\\(),[]{'})


def quote_value(text: str) -> str:
    """`text` as it must stand inside the quotes of `EXEC MSet "…"` to become the value exactly: the one place.

    Raises AgiQuotingError for a control character (C0, DEL, C1): a newline would begin a command of the caller's.
    """
    if _SPECIAL.search(text) is None:
        return text
    if _CONTROL.search(text) is not None:
        raise AgiQuotingError("", "a control character")
    return text.translate(_ESCAPED)


def encode_mset(pairs: Sequence[tuple[str, str]]) -> bytes:
    """The line that sets all `pairs` (name, value) in this order, with its newline.

    Raises AgiQuotingError: no pair or more than MAX_PAIRS, a name that is not a plain variable's (a name that ends
    in a parenthesis would be a function call), a value with a control character or not encodable as UTF-8, a line
    longer than MAX_LINE_BYTES.
    """
    if not pairs:
        raise AgiQuotingError("", "nothing to set")
    if len(pairs) > MAX_PAIRS:
        raise AgiQuotingError("", f"{len(pairs)} variables, at most {MAX_PAIRS} fit")
    for name, _ in pairs:
        if not _is_variable_name(name):
            raise AgiQuotingError(ascii(name[:MAX_NAME_CHARACTERS]), "not a variable name")
    if _SPECIAL.search("".join([value for _, value in pairs])) is not None:  # looked for in all of them at once
        pairs = [(name, _quoted(name, value)) for name, value in pairs]
    try:
        line = f'EXEC MSet "{",".join(map("=".join, pairs))}"\n'.encode()
    except UnicodeEncodeError:
        raise AgiQuotingError("", "a value that is not encodable as UTF-8") from None
    if len(line) > MAX_LINE_BYTES:
        raise AgiQuotingError("", f"the line has {len(line)} bytes, at most {MAX_LINE_BYTES} fit")
    return line


@lru_cache(maxsize=256)  # there are a dozen of them
def _is_variable_name(name: str) -> bool:
    return _VARIABLE_NAME.fullmatch(name) is not None


def _quoted(name: str, value: str) -> str:
    try:
        return quote_value(value)
    except AgiQuotingError as fault:
        raise AgiQuotingError(name, fault.reason) from None


def failure_line(reason: Failure) -> bytes:
    """The line after which Asterisk sets AGISTATUS to FAILURE and ends the exchange (res/res_agi.c `run_agi`)."""
    return f"failure: {reason}\n".encode("ascii")
