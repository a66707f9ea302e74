"""Handing one payload to one receiver: a signed HTTP request, a command that reads it, or a mail.

Failure policy: fails open. Whatever goes wrong is an Outcome, never an exception: no redirect is followed, certificates
are verified, the answer is read to a bound and everything has a deadline; a command has no shell, and its whole group
is ended with it. Cancellation is not swallowed: it ends the connection or the group.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import ssl
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from capconduit import __version__
from capconduit.config import resolve_secret
from capconduit.domain.outgoing import MAX_ERROR, Outcome, retry_after_ms
from capconduit.errors import CapConduitError, ConfigError, UsageError
from capconduit.outward.signing import (
    ATTEMPT_HEADER,
    ID_HEADER,
    KIND_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    sign,
)

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES: Final = 65_536  # of an answer that is read; what is longer ends the connection
MAX_SAID: Final = 2_000  # characters of a command's last words that are kept
RETRY_AFTER_MOST_MS: Final = 3_600_000
MAX_WORDS: Final = 64  # of a command
MAX_URL: Final = 2_000
COMMAND_ENDS_S: Final = 2.0  # after SIGTERM, before SIGKILL
SECRET_FRESH_S: Final = 5.0  # how long a secret that was read is not read again
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_ASKED_TO_WAIT: Final = frozenset({429, 503})


# --- addresses --------------------------------------------------------------------------------------------------------


def check_url(url: str) -> str:
    """A URL that can be posted to. Raises UsageError."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.fragment and parts.port != 0
    except ValueError:
        good = False
    if not good or len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(
            "url-invalid", f"{url[:80]!r} is no http or https URL", "write it like https://example.net/hook"
        )
    if parts.username or parts.password:
        raise UsageError(
            "url-has-password", "a password in a URL would be in the database", "sign with --secret instead"
        )
    return url


def is_plain(url: str) -> bool:
    """Whether what is posted there could be read on its way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in LOOPBACK


def check_words(words: Sequence[str]) -> str:
    """The words of a command as they are kept. Raises UsageError where the first is no absolute path."""
    if not words or not words[0].startswith("/") or len(words) > MAX_WORDS:
        raise UsageError(
            "command-invalid",
            "a command is an absolute path and its arguments",
            "write it like -- /usr/local/bin/hook --fast",
        )
    return json.dumps(list(words), ensure_ascii=False)


def words_of(address: str) -> list[str]:
    """The words of a command."""
    words = json.loads(address)
    return [str(word) for word in words]


def shown(address: str) -> str:
    """An address as people read it: a URL, or a command's words with spaces between."""
    return " ".join(words_of(address)) if address.startswith("[") else address


# --- secrets ----------------------------------------------------------------------------------------------------------


class Secrets:
    """Secrets by their references, read again now and then: a file may be exchanged while we run."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._known: dict[str, tuple[float, str]] = {}

    def resolve(self, references: str) -> list[str]:
        """The secrets behind space separated references. Raises ConfigError where one is not there."""
        return [self._one(reference) for reference in references.split()]

    def _one(self, reference: str) -> str:
        now_s = time.monotonic()
        read_s, secret = self._known.get(reference, (0.0, ""))
        if not secret or now_s - read_s > SECRET_FRESH_S:
            secret = resolve_secret(reference, self._env)
            self._known[reference] = (now_s, secret)
        return secret


# --- HTTP -------------------------------------------------------------------------------------------------------------


class HttpSender:
    """Posts signed payloads. Connections are kept, one for each lane that is under way; used by one event loop.

    (One pool for all would look through all its connections for each request: with thirty of them five times the cost.)
    """

    def __init__(self, secrets: Secrets, most_idle: int) -> None:
        self._secrets = secrets
        self._idle: dict[str, deque[httpx.AsyncHTTPTransport]] = {}
        self._most_idle = most_idle
        self._tls: ssl.SSLContext | None = None
        _spare_searches()

    async def post(
        self, url: str, references: str, message: Mapping[str, Any], body: bytes, attempt: int, timeout_s: float
    ) -> Outcome:
        """One try. The timestamp is of this try, the id is the event's."""
        import httpx

        try:
            secrets = self._secrets.resolve(references)
        except ConfigError as error:
            return Outcome(False, f"{error.slug}: {error.message}", blameless=True)
        now_s = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"CapConduit/{__version__}",
            ID_HEADER: str(message["id"]),
            KIND_HEADER: str(message["kind"]),
            ATTEMPT_HEADER: str(attempt),
            TIMESTAMP_HEADER: str(now_s),
        }
        if secrets:
            headers[SIGNATURE_HEADER] = sign(secrets, now_s, body)
        limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)
        began_s = time.monotonic()
        transport = self._take(url)
        reusable = False
        try:
            request = httpx.Request("POST", url, headers=headers, content=body, extensions={"timeout": limits})
            async with asyncio.timeout(timeout_s):
                response = await transport.handle_async_request(request)
                reusable = await _read(response)
            outcome = _judged(response, now_s * 1_000)
        except TimeoutError:
            outcome = Outcome(False, f"no answer within {timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            outcome = Outcome(False, _said(error))
        finally:
            if reusable:
                self._give_back(url, transport)
            else:
                with suppress(Exception):
                    await transport.aclose()
        took_ms = int((time.monotonic() - began_s) * 1_000)
        return Outcome(outcome.delivered, outcome.answer, outcome.blameless, outcome.after_ms, took_ms)

    def _take(self, url: str) -> httpx.AsyncHTTPTransport:
        idle = self._idle.get(url)
        if idle:
            return idle.pop()
        import httpx

        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=30)
        return httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False, limits=limits)

    def _give_back(self, url: str, transport: httpx.AsyncHTTPTransport) -> None:
        idle = self._idle.setdefault(url, deque())
        if len(idle) < self._most_idle:
            idle.append(transport)

    async def close(self) -> None:
        """End all connections."""
        for idle in self._idle.values():
            while idle:
                with suppress(Exception):
                    await idle.pop().aclose()


def _spare_searches() -> None:
    """httpcore asks for sniffio some times with each request (httpcore/_synchronization.py). Where that is not
    installed, Python would search its whole path each time, which costs more than the request: remember that it is not.
    """
    if "sniffio" not in sys.modules and importlib.util.find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]  # what Python's import knows as "there is none"


async def _read(response: httpx.Response) -> bool:
    """Read the answer to its bound; whether its connection can be used again."""
    read = 0
    try:
        async for chunk in response.aiter_raw():
            read += len(chunk)
            if read > MAX_ANSWER_BYTES:
                return False
        return True
    finally:
        await response.aclose()


def _judged(response: httpx.Response, now_ms: int) -> Outcome:
    code = response.status_code
    if 200 <= code < 300:
        return Outcome(True, f"HTTP {code}")
    if 300 <= code < 400:
        return Outcome(False, f"HTTP {code}: redirects are not followed")
    if code in _ASKED_TO_WAIT:
        after_ms = retry_after_ms(response.headers.get("Retry-After", ""), now_ms, RETRY_AFTER_MOST_MS)
        return Outcome(False, f"HTTP {code}", blameless=after_ms > 0, after_ms=after_ms)
    return Outcome(False, f"HTTP {code}")


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:MAX_ERROR] if text else type(error).__name__


# --- commands ---------------------------------------------------------------------------------------------------------


async def run_command(address: str, body: bytes, timeout_s: float, environment: Mapping[str, str]) -> Outcome:
    """Run a command with the payload on its standard input; delivered where it ends with 0.

    It has a process group of its own, which is ended with it, whatever it left behind.
    """
    began_s = time.monotonic()
    try:
        process = await asyncio.create_subprocess_exec(
            *words_of(address),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
            limit=MAX_SAID,
        )
    except (OSError, ValueError) as error:
        return Outcome(False, _said(error))
    last_words = asyncio.ensure_future(_last_words(process))
    try:
        async with asyncio.timeout(timeout_s):
            await _feed(process, body)
            code = await process.wait()
        with suppress(TimeoutError):  # a child that it left behind may keep the pipe open
            async with asyncio.timeout(COMMAND_ENDS_S):
                await asyncio.shield(last_words)
    except TimeoutError:
        return Outcome(False, f"did not end within {timeout_s:g} s")
    finally:
        await _end_group(process)
        last_words.cancel()
        with suppress(asyncio.CancelledError):
            await last_words
    took_ms = int((time.monotonic() - began_s) * 1_000)
    said = last_words.result() if last_words.done() and not last_words.cancelled() else ""
    answer = f"exit {code}" + (f": {said}" if said and code else "")
    return Outcome(code == 0, answer[:MAX_ERROR], took_ms=took_ms)


async def _feed(process: asyncio.subprocess.Process, body: bytes) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError, ConnectionResetError):  # it need not read
        process.stdin.write(body)
        await process.stdin.drain()
    process.stdin.close()


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """The end of what it says on its standard error; all is read, so that it never waits for us."""
    assert process.stderr is not None
    kept = b""
    while chunk := await process.stderr.read(4_096):
        kept = (kept + chunk)[-MAX_SAID:]
    return " ".join(kept.decode("utf-8", "replace").split())


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, and SIGKILL where that is not heard, to whatever is left of the group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        if process.returncode is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(COMMAND_ENDS_S):
                    await process.wait()
    if process.returncode is None:
        await process.wait()


# --- mail -------------------------------------------------------------------------------------------------------------


def send_notice(settings: Any, address: str, subject: str, text: str, now_ms: int, id_: str) -> Outcome:
    """Mail a notification; blocks. The message id is the notification's, so that a mail sent twice can be told."""
    from capconduit.mail import build_mail, send_mail

    began_s = time.monotonic()
    try:
        message = build_mail(settings, [address], subject, text, now_ms=now_ms, headers={"CapConduit-Event-Id": id_})
        send_mail(settings, message)
    except CapConduitError as error:
        return Outcome(False, f"{error.slug}: {error.message}"[:MAX_ERROR], blameless=isinstance(error, ConfigError))
    except OSError as error:
        return Outcome(False, _said(error))
    return Outcome(True, "sent", took_ms=int((time.monotonic() - began_s) * 1_000))
