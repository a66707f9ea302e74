"""A real UDP socket on loopback that answers SIP requests as a test wants."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

Answers = Callable[[bytes, int], Sequence[bytes]]


def reply(request: bytes, status: str, **replaced: str) -> bytes:
    """A response to a request; `via`, `call_id` and `cseq` may be others than its own."""
    lines = request.decode().split("\r\n")
    own = {name: next(line for line in lines if line.lower().startswith(f"{name}:")) for name in FIELDS}
    fields = [replaced.get(name.replace("-", "_"), line) for name, line in own.items()]
    return "\r\n".join([f"SIP/2.0 {status}", *fields, "Content-Length: 0", "", ""]).encode()


FIELDS = ("via", "from", "to", "call-id", "cseq")


@contextlib.contextmanager
def answerer(answers: Answers, host: str = "127.0.0.1") -> Iterator[tuple[int, list[bytes]]]:
    """Its port, and the requests so far; `answers(request, number from 1)` gives the packets that go back."""
    heard: list[bytes] = []
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.settimeout(0.05)
        done = threading.Event()

        def serve() -> None:
            while not done.is_set():
                with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                    data, peer = sock.recvfrom(65_535)
                    heard.append(data)
                    for packet in answers(data, len(heard)):
                        sock.sendto(packet, peer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(sock.getsockname()[1]), heard
        finally:
            done.set()
            thread.join(10)
