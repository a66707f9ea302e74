"""Asking the daemon over its control socket: HTTP on a Unix socket.

Failure policy: fail closed, and quickly. A daemon that is away, slow, or answers what cannot be read raises PeerError.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any, Final

from capconduit.errors import PeerError

TIMEOUT_S: Final = 2.0  # of connecting, and of each wait for more of the answer
MAX_BYTES: Final = 1_048_576


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def ask_daemon(path: str, resource: str) -> dict[str, Any]:
    """The JSON object that the daemon answers to `GET resource`. Raises PeerError."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", resource)
        response = connection.getresponse()
        body = response.read(MAX_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(path, error) from None
    finally:
        connection.close()
    try:
        answer = json.loads(body) if len(body) <= MAX_BYTES else None
    except ValueError:
        answer = None
    if response.status != http.client.OK or not isinstance(answer, dict):
        raise PeerError(
            "daemon-answer-invalid",
            f"what answers on {path} to {resource} is not understood (HTTP {response.status})",
            "is it a capconduit daemon of the same version?",
        )
    return answer


def _unreachable(path: str, error: Exception) -> PeerError:
    if isinstance(error, PermissionError):
        hint = "only the daemon's user and group may ask it: use sudo, or join its group"
    else:
        hint = "start it with `capconduit serve`; control.socket in the configuration says where it listens"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return PeerError("daemon-unreachable", f"no daemon answers on {path}: {reason}", hint)
