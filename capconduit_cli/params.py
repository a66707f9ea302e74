"""Parameters that commands share: durations, instants, --yes, --dry-run, and completion of names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from capconduit.errors import UsageError
from capconduit.units import Millis, parse_duration_ms
from capconduit_cli.app import CliState, state

COMPLETIONS: Final = 500  # names offered to a shell at most

# A name to complete, alone or with what is said about it.
Offer = str | tuple[str, str]

NONE: Final = "none"  # as a value: take away what was set

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for scripts.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would change and change nothing.")]


def completer(names: Callable[[CliState], Iterable[Offer]]) -> Callable[[typer.Context, str], list[Offer]]:
    """An `autocompletion=` that offers those of `names` that begin with what is typed.

    `names` gets the state of the run (config, tenant). Completion fails open: see capconduit_cli.completion.
    """

    def complete(ctx: typer.Context, incomplete: str) -> list[Offer]:
        offers = names(state(ctx))
        fitting = (o for o in offers if (o if isinstance(o, str) else o[0]).startswith(incomplete))
        return list(itertools.islice(fitting, COMPLETIONS))

    return complete


def duration_option(*names: str, help: str, **more: Any) -> Any:
    """An option whose value is milliseconds: `ring_ms: Annotated[int, duration_option("--ring", help="...")] = 20_000`.

    Takes `90s`, `1m30s`; give `show_default="20s"` so that the help does not show milliseconds.
    """
    return typer.Option(*names, metavar=more.pop("metavar", "DURATION"), parser=parse_duration_ms, help=help, **more)


def parse_duration_or_none(text: str) -> int:
    """Milliseconds; 0 for `none`. Raises UsageError."""
    return 0 if text.strip().lower() == NONE else parse_duration_ms(text)


def expiry_option(*names: str, help: str, **more: Any) -> Any:
    """An option for the end of something, whose value is an Expiry: `7d` from now, a time, or `never`."""
    return typer.Option(*names, metavar=more.pop("metavar", "7d|TIME|never"), parser=parse_expiry, help=help, **more)


@dataclass(frozen=True, slots=True)
class Expiry:
    """When something is over: `ms` after now, or at `ms`; never where that is None."""

    ms: int | None
    from_now: bool = False

    def at(self, now_ms: int) -> int | None:
        """UTC milliseconds, or None for never."""
        return now_ms + self.ms if self.ms is not None and self.from_now else self.ms


def parse_expiry(text: str) -> Expiry:
    """`7d`, `2030-01-31`, `never`. Raises UsageError."""
    if text.strip().lower() in ("never", NONE):
        return Expiry(None)
    try:
        return Expiry(parse_duration_ms(text), from_now=True)
    except UsageError:
        pass
    try:
        return Expiry(parse_time(text))
    except UsageError as error:
        raise UsageError(
            error.slug, f"{text!r} is neither a duration nor a time", "write it like 7d, 2030-01-31 or never"
        ) from None


def instant_option(*names: str, help: str, **more: Any) -> Any:
    """An option whose value is UTC milliseconds: `since: Annotated[int | None, instant_option("--since", help="...")]`.

    Takes ISO times, `yesterday`, `monday`, `tomorrow 09:00`, `-2h`, `+2h`; a time without an offset is UTC.
    """
    return typer.Option(*names, metavar=more.pop("metavar", "TIME"), parser=parse_time, help=help, **more)


def parse_time(text: str) -> Millis:
    """UTC milliseconds of `text`, relative ones counted from now. Raises UsageError."""
    from capconduit.clock import SystemClock  # few commands take times
    from capconduit.units import parse_instant

    return parse_instant(text, now_ms=SystemClock().now_ms())
