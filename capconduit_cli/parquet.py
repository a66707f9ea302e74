"""Rows as a Parquet file on stdout, for `cdr export -o parquet`: typed columns under the names that JSON has."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from capconduit.errors import UsageError
from capconduit.units import format_micros
from capconduit_cli.output import Column, Kind, Row, json_object

GROUP_ROWS: Final = 5_000  # rows written at a time
_MONEY_DIGITS: Final = (38, 6)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def write_parquet(rows: Iterable[Row], columns: Sequence[Column]) -> None:
    """Write rows as they come. Raises UsageError on a terminal, and where pyarrow is not installed."""
    from capconduit.services.retention import pyarrow

    arrow = pyarrow()
    if sys.stdout.isatty():
        raise UsageError("output-binary", "Parquet is not for terminals", "write it into a file: ... > calls.parquet")
    schema = arrow.schema([(column.key, _type(arrow, column)) for column in columns])
    source = iter(rows)
    with importlib.import_module("pyarrow.parquet").ParquetWriter(sys.stdout.buffer, schema) as writer:
        while group := [_values(row, columns) for row in itertools.islice(source, GROUP_ROWS)]:
            writer.write_table(arrow.Table.from_pylist(group, schema=schema))


def _type(arrow: Any, column: Column) -> Any:
    match column.kind:
        case Kind.MONEY:
            return arrow.decimal128(*_MONEY_DIGITS)
        case Kind.INSTANT:
            return arrow.timestamp("ms", tz="UTC")
        case Kind.INT | Kind.DURATION:
            return arrow.int64()
        case Kind.BOOL:
            return arrow.bool_()
        case _:
            return arrow.string()


def _values(row: Row, columns: Sequence[Column]) -> dict[str, Any]:
    plain = json_object(row, columns)
    return {column.key: _value(column, column.value(row), plain[column.key]) for column in columns}


def _value(column: Column, raw: Any, plain: object) -> Any:
    if raw is None:
        return None
    match column.kind:
        case Kind.MONEY:
            return Decimal(format_micros(raw))
        case Kind.INSTANT:
            return _EPOCH + timedelta(milliseconds=raw)
        case Kind.INT | Kind.DURATION | Kind.BOOL:
            return plain
        case _ if isinstance(plain, str):
            return plain
        case _:
            import json  # few columns hold more than a text

            return json.dumps(plain, ensure_ascii=False)
