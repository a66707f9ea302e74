"""Setting up the daemon's log: which form the lines have, what of them is masked, and the thread that writes them.

A reader of standard error that stalls (a full pipe, a journal under load) must not hold a call, so lines are written by
a thread of their own from a bounded queue. Failure policy: fails open. What finds the queue full is dropped, and how
many lines were is told.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from contextlib import suppress
from logging.handlers import QueueListener
from queue import SimpleQueue
from threading import Event
from typing import Any, Final, TextIO

from fastagi.journald import JournalHandler, leads_to_the_journal
from fastagi.log_lines import ConsoleFormatter, JsonFormatter, Masking
from fastagi.log_repeats import Repeats

QUEUE_MAX: Final = 10_000  # lines that wait to be written
STOP_S: Final = 2.0  # for them at the end
GATHER_S: Final = 0.05  # that the first of them waits for others
LINES_AT_ONCE: Final = 100
JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"


class _Handing(logging.Handler):
    """Hands records to the writing thread, as text: what they tell of may change meanwhile."""

    def __init__(self, queue: SimpleQueue[Any]) -> None:
        super().__init__()
        self._queue = queue
        self.dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._queue.qsize() >= QUEUE_MAX:
            self.dropped += 1
            return
        try:
            record.msg, record.args = record.getMessage(), None
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            self._queue.put(record)
        except Exception:  # noqa: BLE001 - a line that cannot be made is no reason to fail a call
            self.handleError(record)
            return
        if self.dropped and self._queue.qsize() < QUEUE_MAX // 2:
            dropped, self.dropped = self.dropped, 0
            logging.getLogger(__name__).warning("%d log lines were dropped: nobody read them in time", dropped)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes lines together when it is flushed: around each write other threads take turns with this one."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record) + self.terminator)
        if len(self._lines) >= LINES_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self.stream.write("".join(lines))
            self.stream.flush()


class _Writing(QueueListener):
    """Ends with what is queued written, if that can be done within a moment. One line that fails costs itself.

    Lines are written a few at a time: each time this thread wakes it takes the processor from decisions.
    """

    def __init__(self, queue: SimpleQueue[Any], handler: logging.Handler) -> None:
        super().__init__(queue, handler)
        self._records = queue
        self._stopping = Event()

    def dequeue(self, block: bool) -> Any:
        """The next record; the first after a pause waits a moment for others."""
        if not self._records.empty():
            record = self._records.get(block)
        else:
            self._flush()
            record = self._records.get(block)
            self._stopping.wait(GATHER_S)
        if self._stopping.is_set() and self._records.empty():  # the end, behind which nobody asks for more
            self._flush()
        return record

    def _flush(self) -> None:
        for handler in self.handlers:
            with suppress(Exception):  # the thread must outlive it, as below
                handler.flush()

    def handle(self, record: logging.LogRecord) -> None:
        try:
            super().handle(record)
        except Exception:  # noqa: BLE001 - the thread must outlive it, and there is no log to tell
            return

    def stop(self) -> None:
        if self._thread is None:
            return
        self._stopping.set()
        self.enqueue_sentinel()
        self._thread.join(STOP_S)  # where nobody reads it will not end, and nobody waits for it any longer
        self._thread = None


def _handler(form: str, out: TextIO, environment: dict[str, str]) -> logging.Handler:
    if form == "journal" or (form == "auto" and leads_to_the_journal(out, environment)):
        return JournalHandler(JOURNAL_SOCKET, out)
    console = form == "console" or (form == "auto" and out.isatty())
    handler = _Lines(out)
    handler.setFormatter(ConsoleFormatter() if console else JsonFormatter())
    return handler


def set_up_logging(
    level: str,
    form: str,
    *,
    numbers: str = "full",
    stream: TextIO | None = None,
    environment: dict[str, str] | None = None,
) -> QueueListener:
    """Configure the root logger. `form`: console, json, journal or auto; `numbers`: full or masked.

    What writes the lines is stopped at exit, when they are written; `stop` does so before.
    """
    writing = _handler(form, stream or sys.stderr, dict(os.environ) if environment is None else environment)
    if numbers == "masked":
        writing.addFilter(Masking())
    # Nobody reads in what process, thread or line of ours a record was made; to find out costs half of making it.
    logging.logProcesses = logging.logMultiprocessing = logging.logThreads = False
    logging._srcfile = None
    queue: SimpleQueue[Any] = SimpleQueue()
    handing = _Handing(queue)
    handing.addFilter(Repeats())
    listener = _Writing(queue, writing)
    listener.start()
    atexit.register(listener.stop)
    root = logging.getLogger()
    root.handlers[:] = [handing]
    root.setLevel(level.upper())
    logging.getLogger("panoramisk").setLevel(logging.WARNING)
    return listener
