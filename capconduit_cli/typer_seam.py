"""The one file that leans on Typer's inside: our commands and groups, reading of values, bundles of options.

Typer 0.29 carries its own Click as `typer._click`, reads every value through pydantic (80 ms of imports) and draws help
with rich (60 ms more). Here values of the plain kinds are read directly and help is plain text, so that a command
line answers at once. The private names leaned on are listed by tests/cli/test_framework_typer.py, which fails when a
new Typer moves them.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin

import typer
from typer._click.core import Command as ClickCommand
from typer._click.core import Context, Parameter, augment_usage_errors
from typer._click.exceptions import NoArgsIsHelpError as NoArguments
from typer._click.exceptions import UsageError as ClickUsageError
from typer._click.formatting import HelpFormatter
from typer._click.parser import _OptionParser, _ParsingState
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command as build_command
from typer.main import get_group as build_group

from capconduit.errors import CapConduitError, UsageError

__all__ = [
    "Bundle",
    "ClickCommand",
    "ClickUsageError",
    "Command",
    "Context",
    "Group",
    "NoArguments",
    "NounApp",
    "ParameterDoc",
    "build_group",
    "build_single",
    "describe",
    "examples_of",
    "single",
]

HELP_WIDTH: Final = 100
CONTEXT_SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH}

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NEGATIVE = re.compile(r"-[0-9.]")
_BOOLEANS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off", ""), False),
}

F = TypeVar("F", bound=Callable[..., Any])


# Reading of values -------------------------------------------------------------------------------------------------


class _PlainValue:
    """Reads text, whole numbers, flags, enums, paths and parsed values, and lists of them, without pydantic.

    Stands where Typer keeps its own reader (`_runtime_param`). Raises UsageError naming the option and the value.
    """

    def __init__(self, leaf: Any, parser: Callable[[str], Any] | None) -> None:
        self._leaf = leaf
        self._parser = parser

    def coerce(self, value: Any, param: TyperOption | TyperArgument, ctx: Context) -> Any:  # noqa: ARG002  # Typer's call
        many = getattr(param, "multiple", False) or param.nargs == -1
        if value is None:
            return () if many else None
        if many:
            return tuple(self._one(item, param) for item in value)
        return self._one(value, param)

    def _one(self, value: Any, param: TyperOption | TyperArgument) -> Any:
        if not isinstance(value, str):
            return value  # a declared default is of the right type already
        name = _spoken_name(param)
        if self._leaf is not Path and _CONTROL.search(value):
            raise UsageError("value-invalid", f"{name}: {value!r} has control characters", "write plain text")
        try:
            return self._parser(value) if self._parser else self._plain(value, param)
        except CapConduitError as error:
            raise UsageError(error.slug, f"{name}: {error.message}", error.hint) from None
        except ValueError:
            raise UsageError("value-invalid", f"{name}: {value!r} cannot be read", "see the command's --help") from None

    def _plain(self, value: str, param: TyperOption | TyperArgument) -> Any:
        if self._leaf is Path:
            return Path(value)
        if self._leaf is int:
            return _whole_number(value, param)
        if self._leaf is bool:
            if value.lower() not in _BOOLEANS:
                raise UsageError("value-invalid", f"{value!r} is neither true nor false", "write true or false")
            return _BOOLEANS[value.lower()]
        if isinstance(self._leaf, type) and issubclass(self._leaf, Enum):
            return _choice(value, self._leaf)
        return value


def _whole_number(value: str, param: TyperOption | TyperArgument) -> int:
    if not _INTEGER.fullmatch(value):
        raise UsageError("value-invalid", f"{value!r} is not a whole number", "write it in digits")
    number = int(value)
    low, high = param.min, param.max
    if (low is not None and number < low) or (high is not None and number > high):
        bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"from {low} to {high}"
        raise UsageError("value-invalid", f"{value!r} is out of range", f"give a number {bounds}")
    return number


def _choice(value: str, kind: type[Enum]) -> Enum:
    words = {str(member.value): member for member in kind}
    if value in words:
        return words[value]
    near = difflib.get_close_matches(value, words, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose {' or '.join(words)}"
    raise UsageError("value-invalid", f"{value!r} is not one of {', '.join(words)}", hint)


def _spoken_name(param: TyperOption | TyperArgument) -> str:
    """How an error names the parameter: `--limit` or `AMOUNT`."""
    if isinstance(param, TyperOption):
        return max(param.opts, key=len)
    return (param.metavar or param.name).upper()


def _leaf(param: TyperOption | TyperArgument) -> Any:
    """The type of one value: `str` of `list[str]`."""
    annotation: Any = param.type_descriptor.annotation
    return get_args(annotation)[0] if get_origin(annotation) is list else annotation


def _read_plainly(params: Sequence[Parameter]) -> None:
    """Give those parameters that are of a plain kind our reader; the others keep Typer's."""
    for param in params:
        if not isinstance(param, TyperOption | TyperArgument):
            continue
        leaf, info = _leaf(param), param.type_descriptor.parameter_info
        plain = leaf in (str, int, bool) or (isinstance(leaf, type) and issubclass(leaf, Enum))
        plain = plain or (leaf is Path and not info.exists and not info.resolve_path)
        if plain or info.parser is not None:
            reader: Any = _PlainValue(leaf, info.parser)
            param._runtime_param = reader


class _Parser(_OptionParser):
    """Takes `-5` and `-2h` for values: no option of ours is a digit, but corrections are negative amounts."""

    def _process_opts(self, arg: str, state: _ParsingState) -> None:
        if _NEGATIVE.match(arg):
            state.largs.append(arg)
        else:
            super()._process_opts(arg, state)


# Description, from which both --help and the man pages are made ------------------------------------------------------


@dataclass(frozen=True)
class ParameterDoc:
    """One argument or option as it is documented."""

    names: tuple[str, ...]  # ("-o", "--output"), or ("NAME",) of an argument
    value: str  # what follows the name: "N", "table|json"; "" for flags and arguments
    help: str
    notes: tuple[str, ...]  # "default: 20s", "required", "may be repeated", "env: NAME"
    is_option: bool


def describe(command: ClickCommand, ctx: Context) -> Iterator[ParameterDoc]:
    """The documented parameters of `command`: arguments first, `--help` last."""
    params = [p for p in command.get_params(ctx) if isinstance(p, TyperOption | TyperArgument) and not p.hidden]
    params.sort(key=lambda p: isinstance(p, TyperOption))
    for param in params:
        if isinstance(param, TyperArgument):
            yield ParameterDoc((_argument_name(param),), "", param.help or "", _notes(param), False)
        else:
            names = tuple(sorted(param.opts, key=len)) + tuple(param.secondary_opts)
            value = "" if param.is_flag else param.metavar or _value_name(param)
            yield ParameterDoc(names, value, param.help or "", _notes(param), True)


def _argument_name(param: TyperArgument) -> str:
    return (param.metavar or param.name).upper() + ("..." if param.nargs == -1 else "")


def _value_name(param: TyperOption) -> str:
    choices = param.type_descriptor.choices
    if choices:
        return "|".join(str(c.value if isinstance(c, Enum) else c) for c in choices)
    return {int: "N", Path: "PATH"}.get(_leaf(param), "TEXT")


def _notes(param: TyperOption | TyperArgument) -> tuple[str, ...]:
    notes: list[str] = []
    if isinstance(param, TyperOption) and param.required:
        notes.append("required")
    if isinstance(param, TyperOption) and param.multiple:
        notes.append("may be repeated")
    if isinstance(param.show_default, str):
        notes.append(f"default: {param.show_default}")
    elif param.show_default and param.default not in (None, False, "", [], ()) and not callable(param.default):
        flag = isinstance(param, TyperOption) and param.is_flag
        default = param.default.value if isinstance(param.default, Enum) else param.default
        notes.append("default" if flag else f"default: {default}")
    if param.envvar:
        notes.append(f"env: {param.envvar if isinstance(param.envvar, str) else ', '.join(param.envvar)}")
    return tuple(notes)


def examples_of(command: ClickCommand) -> tuple[str, ...]:
    """The example command lines given where the command was declared."""
    found: tuple[str, ...] = getattr(command.callback, "__examples__", ())
    return found


def _write_help(command: Command | Group, ctx: Context, formatter: HelpFormatter) -> None:
    command.format_usage(ctx, formatter)
    command.format_help_text(ctx, formatter)
    docs = list(describe(command, ctx))
    if isinstance(command, Group):
        command.format_commands(ctx, formatter)
    for title, wanted in (("Arguments", False), ("Options", True)):
        rows = [_help_row(doc) for doc in docs if doc.is_option is wanted]
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)
    if examples_of(command):
        with formatter.section("Examples"):
            for line in examples_of(command):
                formatter.write(f"  {line}\n")
    if isinstance(command, Group):
        formatter.write(f"\n`{ctx.command_path} {command.metavar_of_one} --help` explains one of them.\n")


def _help_row(doc: ParameterDoc) -> tuple[str, str]:
    notes = f" [{'; '.join(doc.notes)}]" if doc.notes else ""
    return f"{', '.join(doc.names)} {doc.value}".rstrip(), doc.help + notes


def _usage_pieces(command: Command, ctx: Context) -> list[str]:
    pieces = []
    for param in command.get_params(ctx):
        if isinstance(param, TyperArgument) and not param.hidden:
            name = _argument_name(param)
            pieces.append(name if param.required else f"[{name}]")
    return [*pieces, "[OPTIONS]"]


# Commands and groups -----------------------------------------------------------------------------------------------


class Command(TyperCommand):
    """A verb: values read plainly, help as plain text with examples."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "rich_markup_mode": None})
        _read_plainly(self.params)

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        option = super().get_help_option(ctx)
        _read_plainly([option] if option else [])
        return option

    def get_short_help_str(self, limit: int = 0) -> str:  # noqa: ARG002  # Typer's call
        return summary_of(self)

    def make_parser(self, ctx: Context) -> _OptionParser:
        parser = _Parser(ctx)
        for param in self.get_params(ctx):
            param.add_to_parser(parser, ctx)
        return parser

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        with augment_usage_errors(ctx):
            return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Context) -> list[str]:
        return _usage_pieces(self, ctx)

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        _write_help(self, ctx, formatter)


class Group(TyperGroup):
    """A noun and its verbs; a mistyped verb gets the nearest one as the hint."""

    metavar_of_one = "VERB"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "rich_markup_mode": None, "no_args_is_help": True})
        _read_plainly(self.params)

    def get_help_option(self, ctx: Context) -> TyperOption | None:
        option = super().get_help_option(ctx)
        _read_plainly([option] if option else [])
        return option

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        with augment_usage_errors(ctx):
            return super().parse_args(ctx, args)

    def get_short_help_str(self, limit: int = 0) -> str:  # noqa: ARG002  # Typer's call
        return summary_of(self)

    def collect_usage_pieces(self, ctx: Context) -> list[str]:  # noqa: ARG002  # Typer's call
        options = ["[OPTIONS]"] if self.params else []
        return [*options, f"{self.metavar_of_one} ..."]

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, ClickCommand | None, list[str]]:
        command = self.get_command(ctx, args[0])
        if command is None and not ctx.resilient_parsing:
            known = self.list_commands(ctx)
            near = difflib.get_close_matches(args[0], known, 2)
            hint = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else f"see `{ctx.command_path} --help`"
            if args[0] == "export" and "import" in known:
                hint = f"`{ctx.command_path} list -o csv` writes what `import` reads"
            where = f" of {ctx.command_path!r}" if ctx.parent else ""
            raise UsageError("command-unknown", f"no command {args[0]!r}{where}", hint)
        return (args[0] if command else None), command, args[1:]

    def command_rows(self, ctx: Context) -> list[tuple[str, list[tuple[str, str]]]]:
        """Titled lists of (command, its one line), as the help shows them."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, summary_of(command)))
        return [("Verbs", rows)]

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        sections = self.command_rows(ctx)
        width = max((len(name) for _, rows in sections for name, _ in rows), default=0)
        for title, rows in sections:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, line in rows])

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        _write_help(self, ctx, formatter)


def summary_of(command: ClickCommand) -> str:
    """The first paragraph of a command's help on one line."""
    return " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())


# Declaring nouns ---------------------------------------------------------------------------------------------------


class Bundle:
    """Base of frozen dataclasses whose fields are options; a command takes one as a parameter and gets them all.

    Each field is `name: Annotated[type, typer.Option(...)] = default`. `__post_init__` may raise UsageError, which then
    happens before the command begins.
    """


class NounApp(typer.Typer):
    """The verbs of one noun. `about` follows the noun's one line in its help and in its man page."""

    def __init__(self, about: str = "") -> None:
        super().__init__(
            cls=Group,
            help=about,
            rich_markup_mode=None,
            add_completion=False,
            pretty_exceptions_enable=False,
            context_settings=dict(CONTEXT_SETTINGS),
        )

    def verb(self, name: str, *examples: str) -> Callable[[F], F]:
        """Declare a verb; its docstring is its help. At least one example: a full command line without a prompt."""
        _check_examples(name, examples)

        def declare(function: F) -> F:
            self.command(name, cls=Command)(_prepared(function, examples))
            return function

        return declare


def single(*examples: str) -> Callable[[F], typer.Typer]:
    """Make a function the whole command of its module (`init`, `route`); the result is the module's `app`."""
    _check_examples("a single command", examples)

    def declare(function: F) -> typer.Typer:
        app = typer.Typer(
            rich_markup_mode=None,
            add_completion=False,
            pretty_exceptions_enable=False,
            context_settings=dict(CONTEXT_SETTINGS),
        )
        app.command(cls=Command)(_prepared(function, examples))
        return app

    return declare


def build_single(app: typer.Typer) -> ClickCommand:
    """The command of an app made by `single`."""
    return build_command(app)


def _check_examples(name: str, examples: tuple[str, ...]) -> None:
    if not examples or not all(line.startswith("capconduit ") for line in examples):
        raise AssertionError(f"{name} needs examples that begin with 'capconduit '")


def _prepared(function: Callable[..., Any], examples: tuple[str, ...]) -> Callable[..., Any]:
    expanded = _expand_bundles(function)
    expanded.__dict__["__examples__"] = examples
    return expanded


def _expand_bundles(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose bundle parameters are replaced by the options in them."""
    hints = typing.get_type_hints(function, include_extras=True)
    bundles = {n: t for n, t in hints.items() if isinstance(t, type) and issubclass(t, Bundle)}
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints.get(parameter.name, str))
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in bundles
    ]
    for bundle in bundles.values():  # last, so that a help begins with the command's own options
        parameters += _bundle_parameters(bundle)

    @functools.wraps(function)
    def call(**values: Any) -> Any:
        for name, cls in bundles.items():
            values[name] = cls(**{item.name: values.pop(item.name) for item in fields(cls)})  # type: ignore[arg-type]  # bundles are dataclasses
        _check_span(values.get("since"), values.get("until"))
        return function(**values)

    call.__dict__["__signature__"] = inspect.Signature(parameters)
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _check_span(since: object, until: object) -> None:
    """`--since` and `--until` the wrong way round would find nothing, in silence. Raises UsageError."""
    if isinstance(since, int) and isinstance(until, int) and since > until:
        from capconduit.units import format_instant  # --help does not need it

        first, last = (format_instant(ms)[:19] + "Z" for ms in (since, until))
        raise UsageError(
            "span-inverted", f"--since {first} is after --until {last}", "give the earlier time to --since"
        )


def _bundle_parameters(bundle: type[Bundle]) -> Iterator[inspect.Parameter]:
    hints = typing.get_type_hints(bundle, include_extras=True)
    for item in fields(bundle):  # type: ignore[arg-type]  # bundles are dataclasses
        default = inspect.Parameter.empty if item.default is MISSING else item.default
        if item.default_factory is not MISSING:
            default = item.default_factory()
        yield inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[item.name])
