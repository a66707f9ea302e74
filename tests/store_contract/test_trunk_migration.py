"""A database from before trunks had three ways: its trunks go on as they were, on both engines."""

from __future__ import annotations

import pytest

from capconduit.domain.model import Trunk
from capconduit.store import sqlstore
from capconduit.store.open import check_schema
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import SipTransport, TrunkAuth, TrunkKind
from tests.unit.estate_builder import T0, TENANT

BEFORE = 2


def test_a_trunk_of_before_is_known_by_its_address(empty_store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(sqlstore, "MIGRATIONS", sqlstore.MIGRATIONS[:BEFORE])
        empty_store.upgrade(T0)
    assert empty_store.schema_version() == BEFORE
    with empty_store.transaction(write=True) as tx:
        tx.query(
            f"INSERT INTO tenant (id, name, created_ms, updated_ms) VALUES ('{TENANT}', 'default', 1, 1) RETURNING 1"
        )
        tx.query(
            "INSERT INTO trunk (id, tenant_id, created_ms, updated_ms, name, kind, hosts, port, codecs, region,"
            f" auth_username, auth_secret_ref) VALUES ('t', '{TENANT}', 1, 1, 'carrier', 'pjsip', '192.0.2.1', 5060,"
            " 'ulaw', '', '', '') RETURNING 1"
        )
    done = empty_store.upgrade(T0)
    assert done[0] == "0003_trunks_three_ways"
    check_schema(empty_store)
    with empty_store.transaction(write=False) as tx:
        (trunk,) = tx.rows(Trunk, TENANT)
    assert trunk == Trunk(
        id="t", tenant_id=TENANT, created_ms=1, updated_ms=1, name="carrier", kind=TrunkKind.PJSIP, hosts="192.0.2.1",
        port=5060, codecs="ulaw", region="", auth_username="", auth_secret_ref="", auth=TrunkAuth.IP,
        transport=SipTransport.UDP, srtp=False, nat=False, qualify_ms=0, permit="",
    )  # fmt: skip
