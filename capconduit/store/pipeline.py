"""Many statements on a connection of psycopg's, sent together and answered together.

The driver has a pipeline of its own. It makes a cursor for each statement, looks at the socket twice and gives other
threads the interpreter as often; this one does all that once for a flight of statements, with a fifth of the work
("Pipeline Mode" in libpq's manual; psycopg.pq is the driver's door to it).
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.pq.abc import PGresult

PREPARED_MAX: Final = 200  # statements that the server keeps in mind for a connection
LOST: Final = "the connection is lost"
_DONE: Final = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)

Rows = list[tuple[Any, ...]]


class Pipeline:
    """A connection that sends ahead from `with` to its end, for one transaction after another.

    Raises psycopg.Error. What a statement has to complain of is heard with the next `answers`, or at the end; the
    server does none of those behind it.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        # What the server takes texts for. One that takes them for bytes gets UTF-8, as it does from the driver.
        self.encoding = connection.info.encoding.replace("ascii", "utf-8")
        self._server = connection.pgconn
        self._values = Transformer(connection)
        self._prepared: dict[str, bytes] = {}  # statements by their names at the server
        self._under_way: deque[bool] = deque()  # results to come: whether they are answers
        self.refused = False  # a statement was: what was sent behind it is not even prepared, so this cannot go on
        self._to_read, self._to_read_or_write = select.poll(), select.poll()
        self._to_read.register(self._server.socket, select.POLLIN)
        self._to_read_or_write.register(self._server.socket, select.POLLIN | select.POLLOUT)

    def __enter__(self) -> Pipeline:
        self._server.enter_pipeline_mode()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hear of all that is under way. Where something has failed already, that is what is told."""
        with nullcontext() if error is None else suppress(psycopg.Error):
            self._end()

    def send(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Put a statement with `$1` parameters behind the others; it is on its way at the next `flush` or `answers`.

        Bytes are the binary form of whatever the parameter's type is.
        """
        forms = [PyFormat.BINARY if isinstance(value, bytes) else PyFormat.TEXT for value in values]
        given = self._values.dump_sequence(values, forms)
        name = self._prepared.get(sql) or self._prepare(sql)
        # Rows come in binary form: their numbers need not be written there and read here.
        self._server.send_query_prepared(name, given, self._values.formats, pq.Format.BINARY)
        self._under_way.append(True)

    def flush(self) -> None:
        """Let the server begin. What finds no room in the socket goes later."""
        self._server.flush()

    def answers(self) -> list[Rows]:
        """The rows of each statement since the last time, in their order."""
        self._server.send_flush_request()
        found: list[Rows] = []
        while self._under_way:
            rows = self._rows()
            if self._under_way.popleft():
                found.append(rows)
        return found

    def _prepare(self, sql: str) -> bytes:
        if len(self._prepared) == PREPARED_MAX:
            self._prepared.clear()
            self._server.send_query_params(b"DEALLOCATE ALL", None)
            self._under_way.append(False)
        name = self._prepared[sql] = b"sent_%d" % len(self._prepared)
        self._server.send_prepare(name, sql.encode())
        self._under_way.append(False)
        return name

    def _rows(self) -> Rows:
        """Those of the statement that is first in line."""
        result = self._result()
        if result is None:
            raise psycopg.OperationalError(LOST)
        if result.status not in _DONE:
            raise self._complaint(result)
        self._result()  # there is no more of it
        if result.status != pq.ExecStatus.TUPLES_OK:
            return []
        self._values.set_pgresult(result)
        return self._values.load_rows(0, result.ntuples, tuple)

    def _end(self) -> None:
        """Wait for everything; raises the first complaint."""
        self._server.pipeline_sync()
        self._under_way.clear()
        complaint: psycopg.Error | None = None
        while (result := self._result()) is None or result.status != pq.ExecStatus.PIPELINE_SYNC:
            if result is not None and result.status not in _DONE:
                complaint = complaint or self._complaint(result)
            if self._server.status == pq.ConnStatus.BAD:  # whose results have no end
                raise complaint or psycopg.OperationalError(LOST)
        self._server.exit_pipeline_mode()
        if complaint is not None:
            raise complaint

    def _complaint(self, result: PGresult) -> psycopg.Error:
        self.refused = True
        return error_from_result(result)

    def _result(self) -> PGresult | None:
        """The next one; None behind the last of a statement, and where the connection is lost."""
        while self._server.is_busy():
            unsent = self._server.flush()
            (self._to_read_or_write if unsent else self._to_read).poll()
            self._server.consume_input()
        return self._server.get_result()
