"""The little shop of the comparison designs: one look-up, three guarded updates and an insert for each decision.

Far less than the daemon does for one: no windows, no rates, no schedules, no trace, no records, no idempotent retries,
one target. Rows are locked in one order (account, campaign, target), so nothing deadlocks. SQL with `?` for SQLite;
`for_postgres` turns it into psycopg's.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

import psycopg

PLENTY: Final = 10**15
HOLD: Final = 200_000  # of an account for each call
FIRST_NUMBER: Final = 2_000_000  # see bench.shapes

SCHEMA: Final = """
CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, held BIGINT NOT NULL);
CREATE TABLE target (id BIGINT PRIMARY KEY, used BIGINT NOT NULL, cap BIGINT NOT NULL);
CREATE TABLE campaign (id BIGINT PRIMARY KEY, account BIGINT NOT NULL, target BIGINT NOT NULL, used BIGINT NOT NULL,
                       cap BIGINT NOT NULL);
CREATE TABLE did (number TEXT PRIMARY KEY, campaign BIGINT NOT NULL);
CREATE TABLE call (uniqueid TEXT PRIMARY KEY, campaign BIGINT NOT NULL, account BIGINT NOT NULL,
                   target BIGINT NOT NULL);
"""
LOOK_UP: Final = (
    "SELECT campaign.id, campaign.account, campaign.target FROM did JOIN campaign ON campaign.id = did.campaign"
    " WHERE did.number = ?"
)
HOLD_MONEY: Final = "UPDATE account SET held = held + ? WHERE id = ? AND balance - held >= ?"
TAKE_CAMPAIGN: Final = "UPDATE campaign SET used = used + 1 WHERE id = ? AND used < cap"
TAKE_TARGET: Final = "UPDATE target SET used = used + 1 WHERE id = ? AND used < cap"
ADMIT: Final = "INSERT INTO call VALUES (?, ?, ?, ?)"
FIND_CALL: Final = "SELECT campaign, account, target FROM call WHERE uniqueid = ?"
PAY: Final = "UPDATE account SET held = held - ?, balance = balance - ? WHERE id = ?"
FREE_CAMPAIGN: Final = "UPDATE campaign SET used = used - 1 WHERE id = ?"
FREE_TARGET: Final = "UPDATE target SET used = used - 1 WHERE id = ?"
FORGET: Final = "DELETE FROM call WHERE uniqueid = ?"


def for_postgres(sql: str) -> bytes:
    """The same for psycopg."""
    return sql.replace("?", "%s").encode()


def prepare(url: str, dids: int, campaigns: int, accounts: int) -> None:
    """Make and fill the tables in an empty database: DID i is of campaign i % campaigns, and so on."""
    rows: dict[str, list[tuple[Any, ...]]] = {
        "account": [(i, PLENTY, 0) for i in range(accounts)],
        "target": [(i, 0, PLENTY) for i in range(campaigns)],
        "campaign": [(i, i % accounts, i, 0, PLENTY) for i in range(campaigns)],
        "did": [(f"+1800{FIRST_NUMBER + i}", i % campaigns) for i in range(dids)],
    }
    if url.startswith("sqlite:///"):
        file = sqlite3.connect(Path(url.removeprefix("sqlite:///")))
        file.execute("PRAGMA journal_mode = WAL")
        file.executescript(SCHEMA)
        for table, values in rows.items():
            file.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values[0]))})", values)  # noqa: S608
        file.commit()
        file.close()
        return
    with psycopg.connect(url) as server:
        server.execute(SCHEMA.encode())
        for table, values in rows.items():
            sql = f"INSERT INTO {table} VALUES ({', '.join('?' * len(values[0]))})"  # noqa: S608
            server.cursor().executemany(for_postgres(sql), values)
