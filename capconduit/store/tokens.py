"""Tokens by their hash: whoever brings one has not said whose it is."""

from __future__ import annotations

from capconduit.domain.people import Token
from capconduit.store.dialect import Dialect
from capconduit.store.rows import mapping


class Tokens:
    """What a transaction knows of tokens beside their rows."""

    def __init__(self, db: Dialect) -> None:
        self._db = db

    def by_hash(self, digest: str) -> Token | None:
        """The token of this hash, of any tenant."""
        m = mapping(Token)
        rows = self._db.query(f"{m.select} WHERE hash = :digest /* all tenants */", {"digest": digest})
        return m.load(rows[0]) if rows else None

    def note_use(self, token: Token, now_ms: int) -> None:
        """Write when a token was used, and nothing else of it: it may be revoked at this moment."""
        sql = "UPDATE token SET used_ms = ? WHERE id = ? AND tenant_id = ? AND coalesce(used_ms, 0) < ?"
        self._db.many(sql, [(now_ms, token.id, token.tenant_id, now_ms)])
