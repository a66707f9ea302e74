"""One HTTP request to a provider: bounded in time and size, never redirected, its failure in plain words.

Failure policy: fails closed, as an AskFailed that says why. Neither a key nor what may hold one is in any message. The
whole exchange runs on a thread of its own that nobody waits for longer than was allowed, because neither the look-up of
a name nor a server that sends a byte at a time can be bounded otherwise.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import certifi
import httpx

from capconduit.domain.agents import is_loopback
from capconduit.providers.account import Account
from capconduit.vocab import ProviderFault

MAX_BODY: Final = 2 * 1024 * 1024  # bytes of an answer
MAX_WORDS: Final = 200  # characters of what a provider says that are repeated
_LEAK: Final = 6  # characters of a key that must not be repeated
# What is read is what was sent: nobody can make us unpack a small body into a large one.
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "capconduit"}


class AskFailed(Exception):
    """A request that did not do. `status` is that of HTTP, None where no answer came."""

    def __init__(self, fault: ProviderFault, words: str, *, status: int | None = None, latency_ms: int = 0) -> None:
        super().__init__(words)
        self.fault = fault
        self.words = words
        self.status = status
        self.latency_ms = latency_ms


@dataclass(frozen=True, slots=True)
class Heard:
    """A good answer: the status, what it holds, and the milliseconds from the request to its end."""

    status: int
    data: Any
    latency_ms: int


def ask(
    account: Account,
    path: str,
    *,
    timeout_ms: int,
    query: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
) -> Heard:
    """GET `path` below the base URL, or POST `body` there; the JSON of the answer. Raises AskFailed."""
    key = account.key
    if not key.isascii() or not key.isprintable() or key != key.strip():
        raise AskFailed(ProviderFault.KEY, f"the key in {account.key_ref} has characters that no key has")
    began = time.perf_counter()

    def work() -> tuple[int, str, bytes]:
        return _exchange(account, path, query, body, timeout_ms / 1_000)

    try:
        status, location, content = _within(work, timeout_ms / 1_000)
        _check_status(account, status, location, content)
        return Heard(status, _parsed(content, status), _since(began))
    except AskFailed as failed:
        failed.latency_ms = _since(began)
        raise


def _since(began: float) -> int:
    return round((time.perf_counter() - began) * 1_000)


def _within(work: Callable[[], tuple[int, str, bytes]], timeout_s: float) -> tuple[int, str, bytes]:
    """The answer of `work`, or AskFailed where it takes longer; what is left of it ends with the process."""
    done = threading.Event()
    answers: list[tuple[int, str, bytes]] = []
    failures: list[Exception] = []

    def run() -> None:
        try:
            answers.append(work())
        except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for it
            failures.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="provider", daemon=True).start()
    if not done.wait(timeout_s):
        raise AskFailed(ProviderFault.TIMEOUT, f"no answer within {timeout_s:g} s")
    if failures:
        raise failures[0]
    return answers[0]


def _exchange(
    account: Account, path: str, query: Mapping[str, str] | None, body: Mapping[str, Any] | None, timeout_s: float
) -> tuple[int, str, bytes]:
    """(status, Location, body). Raises AskFailed."""
    until = time.monotonic() + timeout_s
    try:
        # A proxy of the environment is for the world outside, not for this machine.
        with (
            httpx.Client(
                timeout=timeout_s,
                follow_redirects=False,
                trust_env=not is_loopback(account.base_url),
                verify=_authorities() if account.base_url.startswith("https:") else True,
            ) as client,
            client.stream(
                "GET" if body is None else "POST",
                account.base_url + path,
                params=query,
                json=body,
                headers={**_HEADERS, **account.headers()},
            ) as response,
        ):
            return response.status_code, response.headers.get("Location", ""), _content(response, until)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise _explained(error, account, timeout_s) from None


def _authorities() -> ssl.SSLContext:
    """Who may vouch for a server: those that the machine trusts, an operator's own among them, and those of certifi."""
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    return context


def _content(response: httpx.Response, until: float) -> bytes:
    """The body, as it was sent, until the instant `until` (monotonic). Raises AskFailed."""
    status = response.status_code
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise AskFailed(ProviderFault.ANSWER, "the answer is packed, which it was not asked to be", status=status)
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > MAX_BODY:
            raise AskFailed(ProviderFault.ANSWER, f"the answer is longer than {MAX_BODY:,} bytes", status=status)
        if time.monotonic() > until:
            raise AskFailed(ProviderFault.TIMEOUT, "the answer was not whole in time", status=status)
    return bytes(content)


def _explained(error: Exception, account: Account, timeout_s: float) -> AskFailed:
    """Why no answer came."""
    parts = urlsplit(account.base_url)
    host = parts.hostname or ""
    where = f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return AskFailed(ProviderFault.DNS, f"the name {host} is not known")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return AskFailed(ProviderFault.TLS, f"the certificate of {host} does not do: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError):
            return AskFailed(ProviderFault.TLS, f"no TLS with {where}: {cause.reason or 'it speaks something else'}")
        if isinstance(cause, ConnectionRefusedError):
            return AskFailed(ProviderFault.REFUSED, f"nobody listens at {where}")
    if isinstance(error, httpx.TimeoutException):
        return AskFailed(ProviderFault.TIMEOUT, f"no answer within {timeout_s:g} s")
    if isinstance(error, httpx.ConnectError):
        return AskFailed(ProviderFault.UNREACHABLE, f"{where} cannot be reached")
    if isinstance(error, httpx.ProxyError):
        return AskFailed(ProviderFault.UNREACHABLE, f"the proxy does not let through to {where}")
    return AskFailed(ProviderFault.CUT, f"the connection to {where} ended before the answer did")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in seen:
        seen.append(at)
        yield at
        at = at.__cause__ or at.__context__


def _check_status(account: Account, status: int, location: str, content: bytes) -> None:
    """Raises AskFailed for what is no success."""
    if 200 <= status < 300:
        return
    said = _said(account, content)
    fault, words = ProviderFault.STATUS, f"HTTP status {status}"
    if 300 <= status < 400:
        host = urlsplit(location).hostname if location.isascii() and location.isprintable() else None
        to = f" to {host}" if host else ""
        fault, words, said = ProviderFault.REDIRECT, f"it sends us on{to}, where the key is not sent", ""
    elif status == 401:
        fault, said = ProviderFault.KEY, ""  # an answer to a wrong key may repeat parts of it
        words = f"the key in {account.key_ref} is not accepted" if account.key else "it wants a key, and none is named"
    elif status == 403:
        fault, words, said = ProviderFault.FORBIDDEN, "the account may not ask this", ""
    elif status == 404:
        about_model = any(word in said.lower() for word in ("model", "deployment"))
        fault = ProviderFault.MODEL if about_model else ProviderFault.PATH
        words = "it has no such model" if about_model else "there is nothing of the kind at this base URL"
    elif status == 429:
        fault, words = ProviderFault.QUOTA, "the account's quota or rate limit is reached"
    elif status >= 500:
        fault, words = ProviderFault.SERVER, f"the provider fails (HTTP status {status})"
    raise AskFailed(fault, f"{words}: {said}" if said else words, status=status)


def _said(account: Account, content: bytes) -> str:
    """What the provider says of its refusal, short; nothing where it may repeat the key."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(told, dict):
        return ""
    error = told.get("error", told)
    message = error.get("message") or error.get("err_msg") or error.get("code") if isinstance(error, dict) else error
    words = " ".join(message.split()) if isinstance(message, str) else ""
    return "" if repeats(account.key, words) else words[:MAX_WORDS]


def hidden(key: str, words: str) -> str:
    """A text without the key in it. A word that somebody has for a key (`dummy`) may stand."""
    return words.replace(key, "***") if len(key) > _LEAK else words


def repeats(key: str, words: str) -> bool:
    """Whether a text has a part of a key in it that is long enough to tell something."""
    if not key:
        return False
    parts = {key[at : at + _LEAK] for at in range(max(len(key) - _LEAK, 0) + 1)}
    return any(part in words for part in parts)


def _parsed(content: bytes, status: int) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        words = "the answer is no JSON: is this the API, or a page for people?"
        raise AskFailed(ProviderFault.ANSWER, words, status=status) from None
