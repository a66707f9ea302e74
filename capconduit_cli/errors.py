"""How a failure is told: one line and a hint on stderr, and the exit code."""

from __future__ import annotations

import difflib
import errno
import os
import re
import select
import sys
from collections.abc import Callable
from typing import Final

from typer import Abort, BadParameter, Exit
from typer._click.exceptions import BadOptionUsage, ClickException, MissingParameter, NoSuchOption

from capconduit.errors import CapConduitError, ExitCode, UsageError
from capconduit.units import format_micros
from capconduit_cli.text import printable
from capconduit_cli.typer_seam import ClickUsageError, Context, Group, NoArguments

MAX_BUG_LINE: Final = 500
_WRITE_FAILURES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class ThresholdCrossed(CapConduitError):
    """What was looked for with a threshold is there: not a failure, but something to act on."""

    exit_code = ExitCode.THRESHOLD


def tell(slug: str, message: str, hint: str = "") -> None:
    """Print `error: message [slug]` and `hint: ...` to stderr. Control characters in them are made visible."""
    print(f"error: {printable(message)} [{slug}]", file=sys.stderr)  # noqa: T201  # the one place that tells errors
    if hint:
        print(f"hint: {printable(hint)}", file=sys.stderr)  # noqa: T201  # the one place that tells errors


def run_guarded(run: Callable[[], None], *, debug: bool) -> int:
    """Run the command line and return its exit code; every failure has been told. `debug` shows tracebacks of bugs."""
    try:
        run()
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001  # every end of a run becomes an exit code
        if debug and not isinstance(error, Exit):
            import traceback

            traceback.print_exception(error)
        return _told(error)
    return ExitCode.DONE


def _told(error: BaseException) -> int:
    """Tell `error` and return the exit code it stands for."""
    match error:
        case Exit():
            return _flushed(error.exit_code)
        case NoArguments():
            print(error.format_message(), file=sys.stderr)  # noqa: T201  # help, not data: nothing was asked for
            return ExitCode.USAGE
        case CapConduitError():
            tell(error.slug, error.message, error.hint)
            return error.exit_code
        case ClickException():
            usage = _usage_error(error)
            tell(usage.slug, usage.message, usage.hint)
            return usage.exit_code
        case KeyboardInterrupt() | Abort():
            tell("interrupted", "interrupted")
            return ExitCode.INTERRUPTED
        case SystemExit():
            if isinstance(error.code, str):
                tell("stopped", error.code)
                return ExitCode.REFUSED
            return error.code or ExitCode.DONE
        case OSError() if error.errno == errno.EPIPE and _reader_left():
            _silence_stdout()
            return ExitCode.DONE  # the reader has what it wanted: `... | head` is no failure
        case OSError() if error.filename is None and error.errno in _WRITE_FAILURES:
            _silence_stdout()
            tell("output-failed", f"cannot write the output: {error.strerror}", "is the disk full?")
            return ExitCode.REFUSED
        case OSError() if error.filename is not None:
            tell("file-failed", f"{error.filename}: {error.strerror}", "check the path and its permissions")
            # A file that was named and is not there is a slip on the command line, whichever command it is.
            return ExitCode.USAGE if isinstance(error, FileNotFoundError) else ExitCode.REFUSED
    name = type(error).__name__
    tell(
        "bug",
        f"this is a bug in CapConduit: {name}: {error}"[:MAX_BUG_LINE],
        "please report it with the output of `capconduit --debug ...` and `capconduit --version`",
    )
    return ExitCode.BUG


def _flushed(code: int) -> int:
    """`code`, unless the output that was printed before cannot be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return _told(error)
    return code


def _reader_left() -> bool:
    """Whether the pipe that stdout is has no reader. A broken socket elsewhere must not pass for a success."""
    poll = select.poll()
    poll.register(_stdout_descriptor(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _silence_stdout() -> None:
    """Nobody reads stdout any more: what is still buffered must not raise again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _stdout_descriptor())


def _stdout_descriptor() -> int:
    return sys.stdout.fileno()


def _usage_error(error: ClickException) -> UsageError:
    """What Typer found wrong with the command line, in our words."""
    ctx: Context | None = getattr(error, "ctx", None)
    path = ctx.command_path if ctx else "capconduit"
    see = f"see `{path} --help`"
    match error:
        case NoSuchOption():
            return UsageError(
                "option-unknown", f"{path!r} has no option {error.option_name!r}", _option_hint(error, see)
            )
        case MissingParameter():
            return UsageError("argument-missing", f"{path!r} needs {_parameter_name(error)}", _usage_line(ctx) or see)
        case BadParameter():
            return UsageError("value-invalid", f"{_parameter_name(error)}: {error.message}", see)
        case BadOptionUsage():
            text = error.message.rstrip(".").replace("Option ", "option ", 1)
            return UsageError("option-usage", text, see)
        case ClickUsageError() if error.message.startswith("Got unexpected extra argument"):
            extra = re.search(r"\(s\) \((.*)\)", error.message, re.DOTALL)
            text = f"{path!r} does not take {extra[1]!r}" if extra else error.message
            one = _amount_in_two(ctx, extra[1]) if ctx and extra else ""
            return UsageError("argument-unexpected", text, one or _usage_line(ctx) or see)
    return UsageError("usage", error.format_message(), see)


def _option_hint(error: NoSuchOption, see: str) -> str:
    ctx = error.ctx
    if ctx is not None and ctx.parent is not None:
        root = ctx.find_root()
        if any(error.option_name in param.opts for param in root.command.params):
            return f"{error.option_name} is global, it stands before the noun: capconduit {error.option_name} ..."
    if ctx is not None and (where := _verb_with(ctx, error.option_name)):
        return f"{error.option_name} stands after the verb: {where} {error.option_name} ..."
    near = difflib.get_close_matches(error.option_name, error.possibilities or (), 1)
    return f"did you mean {near[0]!r}?" if near else see


def _verb_with(ctx: Context, option: str) -> str:
    """The beginning of a command line in which an option that stood too early has its place; empty where none has."""
    group = ctx.command
    if not isinstance(group, Group):
        return ""
    if ctx.parent is None:  # the nouns are not loaded for that: these are what almost every verb has
        return "capconduit NOUN VERB" if option in _USUAL else ""
    names = group.list_commands(ctx)
    commands = {name: command for name in names if (command := group.get_command(ctx, name)) is not None}
    having = [name for name, command in commands.items() if any(option in param.opts for param in command.params)]
    if not having:
        return ""
    return f"{ctx.command_path} {'list' if 'list' in having else having[0]}"


_USUAL: Final = ("-o", "--output", "--json", "--fields", "--sort", "--filter", "--limit", "--dry-run", "--yes", "-y")


def _amount_in_two(ctx: Context, extra: str) -> str:
    """What to write where an amount's currency stands behind it as a word of its own."""
    from capconduit_cli.amounts import Amount  # most command lines are right

    bare = [value for value in ctx.params.values() if isinstance(value, Amount) and not value.currency]
    if not bare or not re.fullmatch("[A-Za-z]{3}", extra):
        return ""
    written = format_micros(bare[0].micros, trim=True).removesuffix(".00")
    return f"write the amount and its currency as one: '{written} {extra.upper()}'"


def _parameter_name(error: BadParameter) -> str:
    param = error.param
    if param is None:
        return "a value"
    if param.param_type_name == "option":
        return max(param.opts, key=len)
    return (param.metavar or param.name).upper()


def _usage_line(ctx: Context | None) -> str:
    return " ".join(ctx.get_usage().split()).replace("Usage:", "usage:", 1) if ctx else ""
