"""Backing up and putting back: who may work on the database meanwhile, and what is checked afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from capconduit.clock import Clock
from capconduit.errors import CapConduitError, Refused, UsageError
from capconduit.services.growth import FRESH_MS, Verified, running_daemons, verify_copy
from capconduit.store import backups
from capconduit.store.backups import Tell
from capconduit.store.sqlstore import SqlStore
from capconduit.units import format_instant


def back_up(store: SqlStore, file: Path, tell: Tell, *, replace: bool = False) -> int:
    """Write everything into `file`, while calls go on; its size in bytes. Raises Refused, DatabaseError, UsageError."""
    if file.is_dir():
        raise UsageError("backup-is-directory", f"{file} is a directory", "name a file in it")
    return backups.back_up(store, file, tell, replace=replace)


def restore(store: SqlStore, file: Path, clock: Clock, actor: str) -> tuple[Path | None, Sequence[Verified]]:
    """Replace everything by what is in `file`, and bring it to this program's version.

    Returns where the former SQLite file is kept (None: there was none, or PostgreSQL), and what does not add up in what
    was put back. No daemon may run on the database. Raises Refused, DatabaseError.
    """
    _refuse_running(store, clock)
    keep = _kept_name(store, clock)
    backups.restore(store, file, keep)
    store.upgrade(clock.now_ms())
    return (keep if keep is not None and keep.exists() else None), verify_copy(store, clock, actor)


def rehearse(store: SqlStore, file: Path, clock: Clock) -> tuple[int, Path | None]:
    """What `restore` would do, and nothing of it: the size of `file`, which was read to its end and is whole, and where
    the SQLite file that is there now would be kept (None: there is none, or PostgreSQL).

    Raises what `restore` raises before it begins.
    """
    _refuse_running(store, clock)
    path: Path | None = getattr(store, "path", None)
    there = path is not None and path.exists()
    return backups.check(store, file), _kept_name(store, clock) if there else None


def _refuse_running(store: SqlStore, clock: Clock) -> None:
    try:
        running = running_daemons(store, clock.now_ms())
    except CapConduitError:
        return  # there is no database, or a broken one: nobody works on it
    if running:
        raise Refused(
            "daemon-running",
            f"a daemon runs on this database: {', '.join(node.name for node in running)}",
            f"stop it (a daemon that was killed counts as running for {FRESH_MS // 1_000} s)",
        )


def _kept_name(store: SqlStore, clock: Clock) -> Path | None:
    path: Path | None = getattr(store, "path", None)
    if path is None:
        return None
    stamp = format_instant(clock.now_ms()).replace(":", "").replace("-", "")
    return path.with_name(f"{path.name}.before-{stamp}")
