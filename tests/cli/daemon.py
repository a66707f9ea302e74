"""Stands for a daemon on its control socket: answers by resource, and streams what a test says."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Message = tuple[str, Any]


class Stub:
    """What a daemon answers. `streams`: the messages of each connection to /stream, which then ends."""

    def __init__(self, answers: dict[str, tuple[int, Any]], streams: Sequence[Sequence[Message]]) -> None:
        self.answers = answers
        self.after_post: dict[str, dict[str, tuple[int, Any]]] = {}  # what is answered once this was asked for
        self.streams = list(streams)
        self.requests: list[str] = []
        self.bodies: list[Any] = []


@contextmanager
def stub(path: str, answers: dict[str, tuple[int, Any]], *streams: Sequence[Message]) -> Iterator[Stub]:
    """A daemon until the end of the block."""
    made = Stub(answers, streams)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            request = self.rfile.readline().decode().strip()
            length = 0
            while line := self.rfile.readline().strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            made.requests.append(request)
            made.bodies.append(json.loads(self.rfile.read(length)) if length else None)
            resource = request.split(" ")[1].partition("?")[0]
            if resource == "/stream" and made.streams:
                self._stream(made.streams.pop(0))
                return
            status, body = made.answers.get(resource, (404, {"error": "not-found", "message": f"no {resource}"}))
            made.answers.update(made.after_post.get(resource, {}))
            text = json.dumps(body).encode()
            head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
            self.wfile.write(head.encode() + text)

        def _stream(self, messages: Sequence[Message]) -> None:
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: beat\n\n"
            )
            for number, (kind, data) in enumerate(messages):
                self.wfile.write(f"event: {kind}\nid: B-{number}\ndata: {json.dumps(data)}\n\n".encode())

    server = socketserver.ThreadingUnixStreamServer(path, Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
