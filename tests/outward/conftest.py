"""Stores for what goes out: as for the store's contract."""

from __future__ import annotations

import pytest

from capconduit.store.sqlstore import SqlStore
from tests.outward.rig import OutwardRig
from tests.store_contract.conftest import (  # noqa: F401 - fixtures
    empty_postgres_url,
    opened,
    postgres_database,
    postgres_server,
    postgres_url,
    store,
)


@pytest.fixture
def rig(store: SqlStore) -> OutwardRig:  # noqa: F811 - the fixture
    """An installation without calls, on each engine in turn."""
    return OutwardRig(store)
