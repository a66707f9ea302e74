"""The composition root of the daemon: options, configuration, store, signals, event loop."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from capconduit.clock import SystemClock
from capconduit.config import Config, load_config
from capconduit.errors import CapConduitError, ExitCode
from capconduit.services.stores import check_schema, open_store
from fastagi.daemon import Daemon, DaemonFailed
from fastagi.logs import set_up_logging

log = logging.getLogger(__name__)

OPEN_FILES_WANTED = 8_192
# A decision makes some hundred objects that die with it: collections at Python's usual pace only cost time.
COLLECT_AFTER = (50_000, 20, 100)
# The engine's thread and the loop take turns; who waits for the database must not wait for Python's usual 5 ms as well.
SWITCH_S = 0.000_5


def main(argv: list[str] | None = None) -> int:
    """Run the daemon; the exit code of errors.ExitCode."""
    parser = argparse.ArgumentParser(prog="capconduit serve", description="The daemon that answers Asterisk.")
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--log-level", default=None)
    parser.add_argument("--take-over", action="store_true")
    options = parser.parse_args(argv)
    _give_way()  # before there is another thread: each has the policy of who began it
    try:
        config = load_config(options.config, os.environ)
        set_up_logging(options.log_level or config.log.level, config.log.format, numbers=config.log.numbers)
        _raise_open_files()
        sys.setswitchinterval(SWITCH_S)
        gc.set_threshold(*COLLECT_AFTER)
        return _run(config, take_over=options.take_over)
    except CapConduitError as error:
        sys.stderr.write(f"error: {error.message} [{error.slug}]\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
        return error.exit_code


def _give_way() -> None:
    """Be a batch process, which interrupts nobody when it wakes: not the threads of Asterisk that carry voice. Where
    the machine is full we take a tenth less time, too: of what comes close together we hear once."""
    with suppress(OSError):  # somebody has forbidden it; nothing depends on it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _run(config: Config, *, take_over: bool) -> int:
    store = open_store(config.database.url)
    try:
        check_schema(store)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(Daemon(config, store, SystemClock(), take_over=take_over)))
    except DaemonFailed:
        return ExitCode.BUG
    finally:
        store.close()
    return ExitCode.DONE


async def _serve(daemon: Daemon) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: log.info("the estate is always current; nothing to reload"))
    await daemon.run()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed, else asyncio's."""
    try:
        import uvloop  # an optimisation, not a need
    except ImportError:
        return None
    return uvloop.new_event_loop


def _raise_open_files() -> None:
    """Each call needs a descriptor for a moment: take what the hard limit allows, up to OPEN_FILES_WANTED."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(OPEN_FILES_WANTED, hard) if hard != resource.RLIM_INFINITY else OPEN_FILES_WANTED
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main())
