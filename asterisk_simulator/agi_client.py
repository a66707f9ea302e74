"""The FastAGI client inside Asterisk: one exchange over a socket, with the reading and quoting rules of res_agi.

Source of every rule: Asterisk res/res_agi.c (launch_netscript, setup_env, run_agi, parse_args, handle_exec),
main/app.c (__ast_app_separate_args) and main/pbx_variables.c (pbx_builtin_setvar_multiple).
Nothing here retries; a peer that is away is an outcome (`failed`), as it is in Asterisk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

AGI_LINE_BYTES: Final = 8_192  # AGI_BUF_LEN: a longer line is cut there and the rest is read as the next command
MSET_PAIRS: Final = 99  # app MSet parses so many; the rest is glued into the last one
CONNECT_TIMEOUT_S: Final = 2.0  # res_agi's MAX_AGI_CONNECT
MAX_COMMANDS: Final = 1_000  # ours: a runaway daemon must not hold a simulated call for ever
_READ_BYTES: Final = 4_096


@dataclass(frozen=True)
class AgiResult:
    """What one exchange left on the channel. Never raised: every end of an exchange is a value."""

    variables: dict[str, str] = field(default_factory=dict)
    answered: bool = False  # at least one command was executed
    failed: bool = False  # AGISTATUS would be FAILURE: refused connection, or a line that starts with `failure`
    timed_out: bool = False  # `timeout_s` was over first (Asterisk itself would go on waiting)
    hung_up: bool = False  # the caller went away and AGIEXITONHANGUP ended the exchange
    elapsed_ms: int = 0


async def agi_exchange(
    host: str,
    port: int,
    script: str,
    args: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    timeout_s: float,
    hangup: asyncio.Event | None = None,
) -> AgiResult:
    """Run `AGI(agi://host:port/script,args…)` and return the variables that were set, after `timeout_s` s at most.

    `env` adds to or replaces the agi_* lines. `hangup`, when set, ends the exchange at once, as AGIEXITONHANGUP=yes
    does; the socket is then closed without another word. Cancellation closes the socket and is passed on.
    """
    began = time.monotonic()
    exchange = _Exchange(f"agi://{host}:{port}/{script}", script, list(args), dict(env or {}))
    timed_out = hung_up = False
    try:
        async with asyncio.timeout(timeout_s):
            hung_up = await _until_hangup(exchange, host, port, hangup)
    except TimeoutError:
        timed_out = True
    finally:
        exchange.close()
    return AgiResult(
        variables=exchange.variables,
        answered=exchange.executed > 0,
        failed=exchange.failed,
        timed_out=timed_out,
        hung_up=hung_up,
        elapsed_ms=round((time.monotonic() - began) * 1000),
    )


async def _until_hangup(exchange: _Exchange, host: str, port: int, hangup: asyncio.Event | None) -> bool:
    """Run the exchange to its end, or to the caller's hangup; True when the hangup came first."""
    if hangup is None:
        await exchange.run(host, port)
        return False
    work = asyncio.ensure_future(exchange.run(host, port))
    watch = asyncio.ensure_future(hangup.wait())
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
            return False
        return True
    finally:
        for task in (work, watch):
            task.cancel()
        await asyncio.gather(work, watch, return_exceptions=True)


class _Exchange:
    """One connection: writes the environment, then executes one line each time the socket becomes readable."""

    def __init__(self, request: str, script: str, args: list[str], env: dict[str, str]) -> None:
        self.variables: dict[str, str] = {}
        self.executed = 0
        self.failed = False
        self._request, self._script, self._args, self._env = request, script, args, env
        self._writer: asyncio.StreamWriter | None = None
        self._buffer = b""

    async def run(self, host: str, port: int) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, self._writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            self.failed = True
            return
        try:
            self._writer.write(self._environment().encode(errors="replace"))
            await self._commands(reader, self._writer)
        except ConnectionError:
            return  # a reset leaves AGISTATUS=SUCCESS in Asterisk too: only CC_VERDICT and CC_ACK tell

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _environment(self) -> str:
        lines = {
            "agi_network": "yes",
            "agi_network_script": self._script,
            "agi_request": self._request,
            "agi_channel": "PJSIP/sim-00000000",
            "agi_language": "en",
            "agi_type": "PJSIP",
            "agi_uniqueid": self._args[0] if self._args else "",
            "agi_version": "22.10.1",
            "agi_callerid": "unknown",
            "agi_calleridname": "unknown",
            "agi_callingpres": "0",
            "agi_callingani2": "0",
            "agi_callington": "0",
            "agi_callingtns": "0",
            "agi_dnid": "unknown",
            "agi_rdnis": "unknown",
            "agi_context": "sim",
            "agi_extension": "s",
            "agi_priority": "1",
            "agi_enhanced": "0.0",
            "agi_accountcode": "",
            "agi_threadid": "1",
        }
        lines.update(self._env)
        lines.update({f"agi_arg_{n}": value for n, value in enumerate(self._args, 1)})
        return "".join(f"{name}: {value}\n" for name, value in lines.items()) + "\n"

    async def _commands(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One line per readiness: a second line in the same segment waits for more bytes or EOF, as in run_agi."""
        ended = False
        while self.executed < MAX_COMMANDS:
            if not ended:
                chunk = await reader.read(_READ_BYTES)
                ended = not chunk
                self._buffer += chunk
            line = self._take_line(ended)
            if line is None:
                if ended:
                    return
                continue
            if line[:7].lower() == "failure":
                self.failed = True
                return
            writer.write(self._execute(line).encode())
            await writer.drain()

    def _take_line(self, ended: bool) -> str | None:
        """The next line without its newline; None where the buffer holds none yet."""
        end = self._buffer.find(b"\n", 0, AGI_LINE_BYTES - 1)
        if end >= 0:
            taken, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        elif len(self._buffer) >= AGI_LINE_BYTES - 1:
            taken, self._buffer = self._buffer[: AGI_LINE_BYTES - 1], self._buffer[AGI_LINE_BYTES - 1 :]
        elif ended and self._buffer:
            taken, self._buffer = self._buffer, b""
        else:
            return None
        return taken.decode(errors="replace")

    def _execute(self, line: str) -> str:
        """Carry out one AGI command; the reply line, as Asterisk writes it."""
        self.executed += 1
        argv = parse_agi_args(line)
        match [word.lower() for word in argv[:2]]:
            case ["exec", "mset"]:
                self.variables.update(mset_pairs(argv[2] if len(argv) > 2 else ""))
                return "200 result=0\n"
            case ["exec", "set"]:
                name, has_value, value = (argv[2] if len(argv) > 2 else "").partition("=")
                if has_value:
                    self.variables[name.lstrip("_")] = value
                return "200 result=0\n"
            case ["set", "variable"] if len(argv) == 4:
                self.variables[argv[2].lstrip("_")] = argv[3]
                return "200 result=1\n"
            case ["get", "variable"] if len(argv) == 3:
                held = self.variables.get(argv[2])
                return "200 result=0\n" if held is None else f"200 result=1 ({held})\n"
            case ["noop", *_]:
                return "200 result=0\n"
            case ["verbose", *_]:
                return "200 result=1\n"
            case ["exec", _]:
                return "200 result=-2\n"
            case _:
                return "510 Invalid or unknown command\n"


def parse_agi_args(line: str) -> list[str]:
    """Split an AGI command line into words (res_agi.c parse_args): quotes group, a backslash escapes one character."""
    words: list[str] = []
    quoted = escaped = False
    whitespace = True
    for char in line:
        if char == "\\" and not escaped:
            escaped = True
            continue
        if char == '"' and not escaped:
            quoted = not quoted
            if quoted and whitespace:
                words.append("")
                whitespace = False
            continue
        if char in " \t" and not quoted and not escaped:
            whitespace = True
            continue
        if whitespace:
            words.append("")
            whitespace = False
        words[-1] += char
        escaped = False
    return words


def separate_args(text: str, delimiter: str, limit: int) -> list[str]:
    """Split application arguments (app.c __ast_app_separate_args with remove_chars=1) into at most `limit`.

    Parentheses, brackets and double quotes protect the delimiter; quotes and backslashes are removed. When `limit` is
    reached, the rest is the last argument, raw.
    """
    found: list[str] = []
    paren = bracket = 0
    quoted = False
    at, after_delimiter = 0, -1
    while at < len(text) and len(found) < limit - 1:
        taken: list[str] = []
        while at < len(text):
            char = text[at]
            at += 1
            if char == "\\":
                taken.append(text[at : at + 1])
                at += 1
                continue
            if char == '"' and delimiter != '"':
                quoted = not quoted
                continue
            if char == delimiter and not (paren or bracket or quoted):
                after_delimiter = at
                break
            paren = max(0, paren + (char == "(") - (char == ")"))
            bracket = max(0, bracket + (char == "[") - (char == "]"))
            taken.append(char)
        found.append("".join(taken))
    if at < len(text) or (text and at == after_delimiter):
        found.append(text[at:])
    return found


def mset_pairs(data: str) -> dict[str, str]:
    """The variables that `MSet(data)` sets (pbx_builtin_setvar_multiple): pairs without `=` are ignored."""
    variables: dict[str, str] = {}
    for pair in separate_args(data, ",", MSET_PAIRS):
        parts = separate_args(pair, "=", 2)
        if len(parts) == 2:
            variables[parts[0].lstrip("_")] = parts[1]
    return variables
