"""`capconduit demo`: a working installation with invented calls, shown live, with a report that adds up."""

from __future__ import annotations

import asyncio
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit.errors import DriftError, PeerError
from capconduit_cli.output import notice
from capconduit_cli.typer_seam import single

if TYPE_CHECKING:
    from capconduit_cli.demo.report import Check, Opening, Report, Truth
    from capconduit_cli.demo.stage import Stage

DEFAULT_SEED: Final = 7
MAX_SEED: Final = 4_294_967_295
_ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@single("capconduit demo", "capconduit demo --keep ./demo", "capconduit demo --seed 42 --no-live > report.txt")
def app(
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=MAX_SEED, help="Another number, another day of calls.")
    ] = DEFAULT_SEED,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Leave database and configuration in a new directory.")
    ] = None,
    asterisk: Annotated[
        bool, typer.Option("--asterisk", help="Real SIP calls through the real Asterisk of a checkout's lab.")
    ] = False,
    no_live: Annotated[bool, typer.Option("--no-live", help="Lines of progress instead of the live picture.")] = False,
) -> None:
    """Show a day of calls on an installation made for it, and prove that the money adds up.

    It makes an embedded database with two sellers in a temporary directory, starts the daemon on it and drives some
    hundred calls through it over real FastAGI and AMI sockets, from a simulated Asterisk: answers, busies, rejects by
    every kind of cap, a balance that runs dry in the middle of a call. Half a minute later all witnesses are compared:
    exit code 5 if they do not agree to the micro. Your own configuration is not read and nothing is left behind.
    """
    try:
        report = asyncio.run(_show(seed, keep, asterisk=asterisk, live=not no_live))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None  # by one of _ENDINGS; everything is cleaned up
    if not report.good:
        raise DriftError("demo-drift", "the witnesses disagree, see WRONG in the report", "this is a bug: report it")


async def _show(seed: int, keep: Path | None, *, asterisk: bool, live: bool) -> Report:
    """The whole demo. Cancelled by the first of _ENDINGS; a second one kills what still drains."""
    from capconduit_cli.demo.report import report_text
    from capconduit_cli.demo.stage import open_stage

    task = asyncio.current_task()
    assert task is not None
    if asterisk:
        from capconduit_cli.demo import real

        real.require_lab()
    ending = _Ending(task)
    async with open_stage(keep) as stage:
        ending.stage = stage
        try:
            report = await (_real_day(stage, seed, live) if asterisk else _simulated_day(stage, seed, live))
        except PeerError:
            for line in stage.log_tail():
                notice(f"daemon: {line}")
            raise
        typer.echo(report_text(report))
        _say_what_next(stage, keep, report)
    return report


class _Ending:
    """What Ctrl-C, a terminal that is closed, and `kill` do: the first ends the demo in order, a second hurries."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.stage: Stage | None = None
        self._task = task
        self._came = False
        for number in _ENDINGS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background
                asyncio.get_running_loop().add_signal_handler(number, self._come)

    def _come(self) -> None:
        if not self._came:
            self._came = True
            self._task.cancel()
        elif self.stage is not None:
            self.stage.hurry()


async def _simulated_day(stage: Stage, seed: int, live: bool) -> Report:
    from asterisk_simulator.ami_server import AmiServer
    from capconduit_cli.demo import estate, traffic
    from capconduit_cli.demo.report import open_books
    from capconduit_cli.demo.stage import AMI_USER, NODE
    from capconduit_cli.demo.view import showing

    await asyncio.to_thread(estate.build_estate, stage.office)
    opening = await asyncio.to_thread(open_books, stage.office)
    async with AmiServer(username=AMI_USER, secret=stage.secret, systemname=NODE) as ami:
        stage.configure(ami.port)
        await stage.start_daemon()
        await stage.wait_ready()
        world = traffic.make_world(ami, stage.agi_port, seed)
        performance = traffic.Performance(traffic.script(seed), world, stage.office)
        async with showing(stage.office, performance.progress, live=live) as began:
            outcomes = await stage.while_daemon_lives(performance.run())
        return await _closing(stage, [traffic.truth_of(o) for o in outcomes], opening, traffic.EXPECTED_REJECTS, began)


async def _real_day(stage: Stage, seed: int, live: bool) -> Report:
    from capconduit_cli.demo import estate, real
    from capconduit_cli.demo.report import open_books
    from capconduit_cli.demo.view import showing

    tree, ports = await real.prepare()
    async with real.sip_targets() as places:
        await asyncio.to_thread(estate.build_estate, stage.office, real.addresses(places))
        opening = await asyncio.to_thread(open_books, stage.office)
        config = stage.configure(ports.ami, real.asterisk_section(ports))
        await stage.start_daemon()
        async with real.running_asterisk(tree, ports, config, stage) as asterisk:
            await stage.wait_ready()
            performance = real.Performance(real.script(places), asterisk, stage.office, seed)
            async with showing(stage.office, performance.progress, live=live) as began:
                truths = await stage.while_daemon_lives(performance.run())
            checks = [performance.check()]
            return await _closing(stage, truths, opening, real.EXPECTED_REJECTS, began, checks)


async def _closing(
    stage: Stage,
    truths: Sequence[Truth],
    opening: Mapping[str, Opening],
    expected: Sequence[str],
    began: float,
    checks: Sequence[Check] = (),
) -> Report:
    """After the last call: the daemon settles what is left and drains, then everything is read back."""
    from capconduit_cli.demo.report import Check, make_report

    elapsed_s = time.monotonic() - began
    await stage.all_settled()
    code = await stage.stop_daemon()
    drained = Check("the daemon drained and ended in order", wrong=[f"it ended with {code}"] if code else [])
    return await asyncio.to_thread(make_report, stage.office, truths, opening, expected, elapsed_s, [*checks, drained])


def _say_what_next(stage: Stage, keep: Path | None, report: Report) -> None:
    """Where to look further. Words for people, on standard error."""
    if keep is None:
        notice("To look around in all of this afterwards: capconduit demo --keep ./demo")
        return
    program = f"capconduit --config {shlex.quote(str(keep / stage.config_file.name))}"
    notice(f"Everything is kept in {keep}. Look around:")
    for command in ("cdr list --limit 10", f"explain {report.example}", "balance ledger zenith", "cap list"):
        notice(f"  {program} {command}")
