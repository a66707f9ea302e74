"""The console entry `capconduit`: runs one command line and turns every end of it into an exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from capconduit_cli.app import DEBUG_VARIABLE, PROGRAM, build_root
from capconduit_cli.errors import run_guarded

COMPLETION_VARIABLE = "_CAPCONDUIT_COMPLETE"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `argv` (default: the process's own) and return the exit code; see capconduit(1) for their meaning."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    if COMPLETION_VARIABLE in os.environ:
        from capconduit_cli.completion import answer

        return answer(os.environ, arguments)
    debug = "--debug" in arguments or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    return int(run_guarded(lambda: _run(arguments), debug=debug))


def _prepare_streams() -> None:
    """Make stdout and stderr writable whatever they are: closed by the caller (`>&-`), or poor in characters."""
    if sys.stdout is None:  # Python's own when the descriptor is closed
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # for the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # for the process
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown escaped; it must not end a command half-way.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> None:
    root = build_root()
    with root.make_context(PROGRAM, arguments) as ctx:
        root.invoke(ctx)


if __name__ == "__main__":
    sys.exit(main())
