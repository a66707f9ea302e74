"""A SQLite store that is closed while another thread is in a transaction: the process outlives it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

READER = """
import sys, threading, time
from pathlib import Path
from capconduit.clock import SystemClock
from capconduit.errors import CapConduitError
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store

store = open_store(f"sqlite:///{sys.argv[1]}/x.sqlite", create=True)
prepare_database(store, SystemClock())
begun = threading.Event()

def read():
    while True:
        try:
            with store.transaction(write=False) as tx:
                begun.set()
                tx.query("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000)"
                         " SELECT count(*) FROM n")
        except CapConduitError:
            return

threads = [threading.Thread(target=read, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
begun.wait()
store.close()
print("closed")
"""


def test_closing_beside_readers_ends_no_process(tmp_path: Path) -> None:
    for attempt in range(3):
        home = tmp_path / str(attempt)
        home.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", READER, str(home)], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr[-500:]
