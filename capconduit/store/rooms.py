"""What a transaction offers to those who come seldom, loaded when it is asked for: quick commands stay quick."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capconduit.store.dialect import Dialect
    from capconduit.store.floor import FloorReads
    from capconduit.store.rollups import Rollups
    from capconduit.store.sqloutward import Outward
    from capconduit.store.statements import StatementReads
    from capconduit.store.tokens import Tokens


class Rooms:
    """See store.Transaction."""

    _db: Dialect

    def floor(self) -> FloorReads:
        """For whoever looks at the floor."""
        from capconduit.store.floor import FloorSql

        return FloorSql(self._db)

    def tokens(self) -> Tokens:
        """For whoever brings a token."""
        from capconduit.store.tokens import Tokens

        return Tokens(self._db)

    def statements(self) -> StatementReads:
        """For the statements of sellers."""
        from capconduit.store.statements import StatementReads

        return StatementReads(self._db)

    def rollups(self) -> Rollups:
        """For reports."""
        from capconduit.store.rollups import Rollups

        return Rollups(self._db)

    @property
    def outward(self) -> Outward:
        """For what sends events out."""
        from capconduit.store.sqloutward import Outward

        return Outward(self._db)
