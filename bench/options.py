"""What every bench takes on its command line, and the directory it works in."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench import machine

OUT: Final = Path("build/bench")


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with what is common."""
    made = argparse.ArgumentParser(prog=f"python -m bench {name}", description=description)
    made.add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"where the report goes (default {OUT})")
    made.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where databases are made")
    made.add_argument("--force", action="store_true", help="measure although something else uses the machine")
    made.add_argument(
        "--update", action="store_true", help="also put the numbers into docs/bench.json and docs/bench.md"
    )
    return made


@contextmanager
def workplace(options: argparse.Namespace) -> Iterator[Path]:
    """A directory that is gone afterwards, on a machine that is free."""
    machine.refuse_if_busy(force=options.force)
    with tempfile.TemporaryDirectory(prefix="cc-bench-", dir=options.dir) as name:
        yield Path(name)
