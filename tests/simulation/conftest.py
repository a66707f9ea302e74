"""One real PostgreSQL server for the seeds that run on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.store_contract.conftest import PostgresServer


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a migrated database without rows."""
    name = postgres_server.migrated_database()
    yield postgres_server.url(name)
    postgres_server.give_back(name)
