"""Statements that are sent ahead: their rows, their order, what a refused one and a lost connection leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from capconduit.store.pipeline import Pipeline
from capconduit.store.postgres import binary_array
from tests.store_contract.conftest import PostgresServer

pytestmark = pytest.mark.postgres
LARGE = "x" * (4 << 20)  # more than any socket holds


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url, autocommit=True, prepare_threshold=None) as one:
        yield one


@pytest.fixture
def pipeline(connection: psycopg.Connection) -> Pipeline:
    return Pipeline(connection)


def fly(pipeline: Pipeline, *statements: str, then: Callable[[], object] = lambda: None) -> None:
    """Send statements, do something, end."""
    with pipeline:
        for statement in statements:
            pipeline.send(statement)
        then()


def test_rows_come_in_the_order_of_their_statements(pipeline: Pipeline) -> None:
    for _ in range(2):  # prepared by the way, then known
        with pipeline:
            pipeline.send("BEGIN")
            pipeline.send("SELECT $1::text, $2::bigint, $3::boolean, $4::text", ["so'\\\"", -(2**63), True, None])
            pipeline.send("SELECT n FROM generate_series(1, $1) AS n", [3])
            assert pipeline.answers() == [[], [("so'\\\"", -(2**63), True, None)], [(1,), (2,), (3,)]]
            pipeline.send("SELECT 7")
            assert pipeline.answers() == [[(7,)]]
            assert pipeline.answers() == []
            pipeline.send("COMMIT")


def test_the_first_complaint_is_told_at_the_end_and_nothing_behind_it_is_done(
    pipeline: Pipeline, connection: psycopg.Connection
) -> None:
    connection.execute("CREATE TEMPORARY TABLE kept (n BIGINT)")
    with pytest.raises(psycopg.errors.DivisionByZero):
        fly(pipeline, "SELECT 1 / 0", "INSERT INTO kept VALUES (1)", "SELECT nonsense")
    assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    assert pipeline.refused


def test_a_complaint_is_heard_with_the_rows_behind_it(pipeline: Pipeline) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        fly(pipeline, "SELECT 1 / 0", "SELECT 1", then=lambda: pytest.fail(f"{pipeline.answers()}"))


def test_what_fails_beside_the_server_is_told_and_leaves_the_connection_usable(
    pipeline: Pipeline, connection: psycopg.Connection
) -> None:
    with pytest.raises(KeyError):
        fly(pipeline, "SELECT 1", "SELECT 2", then=lambda: {}["nothing"])
    assert not pipeline.refused
    assert connection.execute("SELECT 2").fetchone() == (2,)


def test_a_value_that_no_column_can_keep_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(psycopg.DataError), pipeline:
        pipeline.send("SELECT $1::text", ["a\0b"])


ODD = ["", '"', "\\", '{"a":"b\\n"}', "NULL", "Zoë ☎", "a,b\n}", " "]


def test_texts_in_binary_form_arrive_as_they_are(pipeline: Pipeline) -> None:
    with pipeline:
        pipeline.send("SELECT unnest($1::text[]), unnest($2::bigint[])", [binary_array(ODD, pipeline.encoding), "{1}"])
        assert pipeline.answers() == [[(odd, None if n else 1) for n, odd in enumerate(ODD)]]


def test_a_text_in_binary_form_that_no_column_can_keep_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(psycopg.DataError), pipeline:
        pipeline.send("SELECT unnest($1::text[])", [binary_array(["a\0b"], pipeline.encoding)])


def test_a_database_of_another_encoding_is_written_to_in_it(postgres_server: PostgresServer) -> None:
    for encoding in ("LATIN1", "SQL_ASCII"):
        name = f"of_{encoding.lower()}"
        postgres_server.admin(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        with psycopg.connect(postgres_server.url(name), autocommit=True, prepare_threshold=None) as connection:
            pipeline = Pipeline(connection)
            with pipeline:
                plain, odd = "Zoë", binary_array(['"Zoë"'], pipeline.encoding)
                pipeline.send("SELECT ($1::text[])[1] = chr(34) || $2::text || chr(34)", [odd, plain])
                assert pipeline.answers() == [[(True,)]]


def test_more_statements_than_the_server_keeps_in_mind(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capconduit.store.pipeline.PREPARED_MAX", 3)
    with pipeline:
        for n in (*range(8), *range(8)):
            pipeline.send(f"SELECT {n}")
        assert pipeline.answers() == [[(n,)] for n in (*range(8), *range(8))]
        pipeline.send("SELECT count(*) FROM pg_prepared_statements")
        ((kept,),) = pipeline.answers()[0]
        assert kept <= 3


def test_much_is_sent_while_much_comes_back(pipeline: Pipeline) -> None:
    with pipeline:
        for _ in range(4):
            pipeline.send("SELECT $1::text", [LARGE])
            pipeline.flush()
        assert pipeline.answers() == [[(LARGE,)]] * 4


def test_a_connection_that_is_lost_is_told_once_and_ends_the_wait(
    pipeline: Pipeline, connection: psycopg.Connection, postgres_server: PostgresServer, postgres_database: str
) -> None:
    fly(pipeline, "SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        fly(pipeline, "SELECT 1", then=lambda: postgres_server.terminate(postgres_database))
    assert connection.closed


def test_a_server_that_is_gone_ends_the_wait(pipeline: Pipeline, connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.OperationalError):
        fly(pipeline, "SELECT 1", then=connection.pgconn.finish)
