"""Asking the daemon over its control socket: HTTP on a Unix socket.

Failure policy: fail closed, and quickly. A daemon that is away, slow, or answers what cannot be read raises PeerError.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlencode

from capconduit.errors import CapConduitError, PeerError, Refused, UsageError

TIMEOUT_S: Final = 2.0  # of connecting, and of each wait for more of the answer
ACTING_S: Final = 15.0  # of what the daemon asks others for
MAX_BYTES: Final = 1_048_576
PICTURE_BYTES: Final = 64 * MAX_BYTES  # of a floor with a hundred thousand calls
LINE_BYTES: Final = PICTURE_BYTES  # a snapshot is one line
SILENCE_S: Final = 3.0  # the stream says something every second


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)  # `sock` is gone while an answer is read

    def connect(self) -> None:
        self.sock = self.socket
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def close(self) -> None:
        super().close()
        self.socket.close()


def ask_daemon(
    path: str, resource: str, *, most_bytes: int = MAX_BYTES, timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """The JSON object that the daemon answers to `GET resource`. Raises PeerError, Refused, UsageError."""
    return _exchange(path, "GET", resource, None, timeout_s, most_bytes)


def tell_daemon(path: str, resource: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object that the daemon answers to `POST resource`. Raises PeerError, Refused, UsageError."""
    return _exchange(path, "POST", resource, json.dumps(body).encode(), ACTING_S, MAX_BYTES)


def _exchange(
    path: str, method: str, resource: str, body: bytes | None, timeout_s: float, most_bytes: int
) -> dict[str, Any]:
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request(method, resource, body)
        response = connection.getresponse()
        text = response.read(most_bytes + 1)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(path, error) from None
    finally:
        connection.close()
    return _understood(path, resource, response.status, text if len(text) <= most_bytes else b"")


def _understood(path: str, resource: str, status: int, text: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and http.client.OK <= status < http.client.MULTIPLE_CHOICES:
        return answer
    if isinstance(answer, dict) and isinstance(answer.get("error"), str) and isinstance(answer.get("message"), str):
        raise _refusal(status, answer)
    raise PeerError(
        "daemon-answer-invalid",
        f"what answers on {path} to {resource} is not understood (HTTP {status})",
        "is it a capconduit daemon of the same version?",
    )


def _refusal(status: int, answer: Mapping[str, Any]) -> CapConduitError:
    """What the daemon refused, in its words."""
    told = (str(answer["error"]), str(answer["message"]), str(answer.get("hint") or ""))
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return PeerError(*told)
    if answer["error"] == "not-found":  # no such resource: an older daemon
        return PeerError(
            "daemon-too-old", f"the daemon does not know this yet: {told[1]}", "restart it: `capconduit serve`"
        )
    return UsageError(*told) if status == http.client.BAD_REQUEST else Refused(*told)


def _unreachable(path: str, error: Exception) -> PeerError:
    if isinstance(error, PermissionError):
        hint = "only the daemon's user and group may ask it: use sudo, or join its group"
    else:
        hint = "start it with `capconduit serve`; control.socket in the configuration says where it listens"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return PeerError("daemon-unreachable", f"no daemon answers on {path}: {reason}", hint)


class DaemonStream:
    """The daemon's stream of changes (server-sent events); see docs/control.md. A context manager.

    Iterating gives (type, data), and ("beat", {}) where there is nothing to tell, so something every second. Raises
    PeerError where the daemon is away, or goes, or hangs.
    """

    def __init__(self, path: str, tenant: str) -> None:
        self._path = path
        self._tenant = tenant
        self._connection = _UnixConnection(path, ACTING_S)

    def __enter__(self) -> DaemonStream:
        resource = f"/stream?{urlencode({'tenant': self._tenant})}"
        try:
            self._connection.request("GET", resource)
            self._response = self._connection.getresponse()
            if self._response.status != http.client.OK:
                _understood(self._path, resource, self._response.status, self._response.read(MAX_BYTES))
            self._connection.socket.settimeout(SILENCE_S)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise _unreachable(self._path, error) from None
        except CapConduitError:
            self._connection.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        kind, data = "", b""
        while True:
            try:
                line = self._response.readline(LINE_BYTES)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _unreachable(self._path, error) from None
            if not line.endswith(b"\n"):
                raise PeerError("daemon-unreachable", f"the daemon on {self._path} has gone", "see `capconduit status`")
            field, _, value = line.rstrip(b"\r\n").partition(b": ")
            if field == b"event":
                kind = value.decode("utf-8", "replace")
            elif field == b"data":
                data = value
            elif not line.strip() and kind:
                yield kind, _object(data)
                kind, data = "", b""
            elif not field:  # a comment
                yield "beat", {}


def _object(data: bytes) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except ValueError:
        told = None
    return told if isinstance(told, dict) else {}
