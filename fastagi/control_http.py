"""As much of HTTP/1.1 as the control socket speaks: one request on a connection, bounded, and its answer.

No keep-alive, no chunked bodies: who may open the socket is known, and asks little. Sans IO, apart from `read_request`,
which waits for its caller's deadline.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import orjson

HEAD_BYTES: Final = 8_192
HEADERS: Final = 64
BODY_BYTES: Final = 65_536
QUERY_FIELDS: Final = 16
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2


class Fault(Exception):
    """An answer that is a refusal: an HTTP status, a stable slug, what is wrong, what to do, and more keys."""

    def __init__(self, status: HTTPStatus, slug: str, message: str, hint: str = "", **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": slug, "message": message, "hint": hint, **more}


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Header names are in lower case; `peer` says who asks, as the kernel knows it."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    peer: str = ""

    def json(self) -> Mapping[str, Any]:
        """The body as a JSON object; an empty one has nothing in it. Raises Fault."""
        if not self.body:
            return {}
        try:
            told = json.loads(self.body)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict):
            raise Fault(HTTPStatus.BAD_REQUEST, "body-invalid", "the body is no JSON object")
        return told


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered: a JSON object, bytes of another type, or whatever `stream` writes after the head."""

    body: Mapping[str, Any] | bytes = field(default_factory=dict)
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "application/json"
    stream: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None

    def encoded(self) -> bytes:
        """The head, and the body where it is known already."""
        body = b"" if self.stream else self.body if isinstance(self.body, bytes) else dumps(self.body)
        length = "Cache-Control: no-store\r\n" if self.stream else f"Content-Length: {len(body)}\r\n"
        return (
            f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\nContent-Type: {self.content_type}\r\n"
            f"{length}Connection: close\r\n\r\n".encode()
            + body
        )


Handler = Callable[[Request], Awaitable[Answer]]


def dumps(value: object) -> bytes:
    """Compact JSON; half a character, which UTF-8 does not have, is escaped."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def parse_head(head: bytes) -> Request:
    """The request without its body. Raises Fault."""
    lines = head.decode("latin-1").split("\r\n")
    method, target, version = [*lines[0].split(" "), "", "", ""][:3]
    if lines[0].count(" ") != 2 or not _TOKEN.fullmatch(method) or not version.startswith("HTTP/1."):
        raise Fault(HTTPStatus.BAD_REQUEST, "request-invalid", "this is no HTTP/1.1 request")
    fields = [line for line in lines[1:] if line]
    if len(fields) > HEADERS:
        raise Fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "headers-too-many", f"more than {HEADERS} headers")
    headers: dict[str, str] = {}
    for line in fields:
        name, colon, value = line.partition(":")
        if not colon or not _TOKEN.fullmatch(name):
            raise Fault(HTTPStatus.BAD_REQUEST, "request-invalid", "a header cannot be read")
        headers[name.lower()] = value.strip()
    path, _, query = target.partition("?")
    if not path.startswith("/"):
        raise Fault(HTTPStatus.BAD_REQUEST, "request-invalid", "the target is no path")
    try:
        asked = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=QUERY_FIELDS))
    except ValueError:
        raise Fault(HTTPStatus.BAD_REQUEST, "request-invalid", f"more than {QUERY_FIELDS} query fields") from None
    return Request(method, unquote(path), asked, headers)


def body_length(request: Request) -> int:
    """How many bytes follow the head. Raises Fault."""
    if "transfer-encoding" in request.headers:
        raise Fault(HTTPStatus.LENGTH_REQUIRED, "body-chunked", "a chunked body is not taken", "send Content-Length")
    text = request.headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise Fault(HTTPStatus.BAD_REQUEST, "request-invalid", "Content-Length is no number")
    if int(text) > BODY_BYTES:
        raise Fault(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", f"at most {BODY_BYTES} bytes are taken")
    return int(text)


async def read_request(reader: asyncio.StreamReader, peer: str) -> Request:
    """The next request of a connection; the stream's limit is HEAD_BYTES. Raises Fault, IncompleteReadError."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise Fault(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", f"more than {HEAD_BYTES} bytes of head"
        ) from None
    request = parse_head(head)
    length = body_length(request)
    body = await reader.readexactly(length) if length else b""
    return Request(request.method, request.path, request.query, request.headers, body, peer)
