"""The port on which Prometheus finds the metrics; off by default, without a password, and it answers nothing else.

Failure policy: a port that cannot be had stops the start with a clear error, as a misspelt setting does; afterwards a
client that misbehaves touches nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from capconduit.errors import ConfigError
from fastagi.control import HttpClients
from fastagi.control_http import HEAD_BYTES, Handler


class MetricsPort:
    """Serves `routes` on an address."""

    def __init__(self, address: tuple[str, int], routes: Mapping[tuple[str, str], Handler]) -> None:
        self._address = address
        self._clients = HttpClients(routes)
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises ConfigError."""
        host, port = self._address
        try:
            self._server = await asyncio.start_server(self._clients.connected, host, port, limit=HEAD_BYTES)
        except OSError as error:
            raise ConfigError(
                "metrics-listen-failed",
                f"cannot listen on {host}:{port}: {error.strerror or error}",
                "change metrics.listen, or leave it empty: the control socket has the metrics as well",
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and let go of whoever is connected."""
        if self._server is not None:
            self._server.close()
        await self._clients.close()
