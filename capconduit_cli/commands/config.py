"""`capconduit config`: see where settings come from, check them, change one."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from capconduit.config import (
    KEYS,
    MAX_FILE_BYTES,
    Config,
    Key,
    check_text,
    find_config,
    find_key,
    mask,
    parse_config,
    resolve_secret,
    search_path,
    toml_value,
)
from capconduit.config_rules import Value
from capconduit.errors import ConfigError, Refused
from capconduit_cli.app import CliState, state
from capconduit_cli.output import Column, Kind, ListOutput, Row, emit_rows, notice
from capconduit_cli.params import DryRun, completer
from capconduit_cli.typer_seam import NounApp

app = NounApp("The keys are described in capconduit.toml(5).")

COLUMNS: Final = (Column("key"), Column("value", Kind.ANY), Column("source"))
PATH_COLUMNS: Final = (Column("path"), Column("found", Kind.BOOL))


def _key_names(_: CliState) -> Iterator[tuple[str, str]]:
    return ((key.dotted, key.help) for key in KEYS.values())


KeyArgument = Annotated[
    str, typer.Argument(metavar="SECTION.KEY", help="For example fastagi.listen.", autocompletion=completer(_key_names))
]


@app.verb(
    "show",
    "capconduit config show",
    "capconduit config show fastagi.listen --fields value -o plain",
    "capconduit config show --filter source=environment",
)
def show(
    ctx: typer.Context,
    out: ListOutput,
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="SECTION.KEY", help="Only this key, or all of a section.", autocompletion=completer(_key_names)
        ),
    ] = None,
) -> None:
    """Show the effective settings and where each comes from.

    The source is default, file or environment. Passwords in URLs are starred; a secret's place is shown, never the
    secret.
    """
    config = state(ctx).config
    wanted = [k for k in KEYS.values() if key in (None, k.dotted, k.section)]
    if not wanted:
        find_key(str(key))  # raises with the nearest key
    emit_rows((_row(config, k) for k in wanted), COLUMNS, out)


def _row(config: Config, key: Key) -> Row:
    return {"key": key.dotted, "value": mask(config.get(key.dotted)), "source": config.sources[key.dotted]}


@app.verb("path", "capconduit config path", "capconduit config path --all")
def path(
    ctx: typer.Context,
    out: ListOutput,
    everywhere: Annotated[bool, typer.Option("--all", help="Every place that is looked at, in order.")] = False,
) -> None:
    """Print the path of the configuration file that is in force.

    Without any file the built-in defaults are in force, and this ends with exit code 1.
    """
    named = state(ctx).config_path
    found = find_config(named, os.environ)
    if everywhere:
        places = list(search_path(os.environ))
        if found is not None and found not in places:
            places = [found]  # it was named: nothing else is looked at
        emit_rows(({"path": str(p), "found": p.exists()} for p in places), PATH_COLUMNS, out)
    elif found is None:
        raise Refused("config-none", "there is no configuration file, the defaults are in force", "`capconduit init`")
    else:
        typer.echo(found)


@app.verb("check", "capconduit config check", "capconduit --config new.toml config check")
def check(ctx: typer.Context) -> None:
    """Check the configuration: every key known, every value right, the AMI secrets readable.

    Silent on stdout. Exit code 2 with the reason when something is wrong.
    """
    config = state(ctx).config
    if config.ami.enabled:
        resolve_secret(config.ami.secret, os.environ)
    if config.ami.has_control:
        resolve_secret(config.ami.control_secret, os.environ)
    notice(f"{config.origin or 'the built-in defaults'}: good")


@app.verb(
    "set",
    "capconduit config set fastagi.listen 10.0.0.5:4573",
    "capconduit config set ami.secret file:/etc/capconduit/ami.secret",
    "capconduit config set log.level debug --dry-run",
)
def set_(
    ctx: typer.Context,
    key: KeyArgument,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="The new value, without TOML quotes.")],
    dry_run: DryRun = False,
) -> None:
    """Change one key in the configuration file, keeping its comments.

    The file is checked as a whole before it is replaced in one step. The running daemon sees the change when it is
    restarted.
    """
    declared = find_key(key)
    new = check_text(declared, value, "the arguments")
    target = find_config(state(ctx).config_path, os.environ)
    if target is None:
        raise ConfigError("config-missing", "there is no configuration file to change", "`capconduit init` writes one")
    target = target.resolve()  # a symbolic link stays one
    before = _read(target)
    after = edited(before, declared, new, str(target))
    old = parse_config(before, str(target)).get(key, declared.default)
    if not dry_run and after != before:
        _replace(target, after)
    word = "would be" if dry_run else "is now"
    notice(f"{key} {word} {mask(toml_value(new))} in {target} (was {mask(toml_value(old))})")
    if declared.variable in os.environ:
        notice(f"but ${declared.variable} is set and overrides it")


def edited(text: str, key: Key, value: Value, where: str) -> str:
    """The TOML `text` with one key changed, everything else and all comments kept. Raises ConfigError.

    It is edited by line; what came out is parsed again and refused unless exactly this key changed.
    """
    before = parse_config(text, where)
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    assignment = f"{key.name} = {toml_value(value)}"
    first, last = _section_lines(lines, key.section)
    place = _line_of(lines, first, last, key.name)
    if first is None:
        lines += ["\n", f"[{key.section}]\n", f"{assignment}\n"]
    elif place is None:
        lines.insert(first, f"{assignment}\n")
    else:
        lines[place] = assignment + _trailing_comment(lines[place], key.name) + "\n"
    after = "".join(lines)
    try:
        changed = parse_config(after, where)
    except ConfigError:
        changed = {}
    if changed != before | {key.dotted: value}:
        hint = f"write {assignment} under [{key.section}] with an editor"
        raise ConfigError("config-shape", f"{where} is not written one key a line, it cannot be changed safely", hint)
    return after


def _section_lines(lines: list[str], section: str) -> tuple[int | None, int]:
    """The lines after `[section]` up to the next header; None where there is no such header."""
    headers = [n for n, line in enumerate(lines) if re.match(r"\s*\[", line)]
    own = [n for n in headers if re.match(rf"\s*\[\s*{section}\s*\]", lines[n])]
    if not own:
        return None, len(lines)
    return own[0] + 1, next((n for n in headers if n > own[0]), len(lines))


def _line_of(lines: list[str], first: int | None, last: int, name: str) -> int | None:
    """The line that sets `name`, else the commented one that shows its default, else None."""
    for pattern in (rf"\s*{name}\s*=", rf"#\s?{name}\s*="):
        for number in range(first or 0, last if first is not None else 0):
            if re.match(pattern, lines[number]):
                return number
    return None


def _trailing_comment(line: str, name: str) -> str:
    """What stands behind the value of a line that sets `name`: `  # why`, or nothing."""
    match = re.match(rf"""\s*{name}\s*=\s*(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s#"']+)(\s*#.*?)?\s*$""", line)
    return match[1] or "" if match else ""


def _read(target: Path) -> str:
    """The text of the file, line ends as they are. `load_config` has told unreadable ones before."""
    with target.open("rb") as file:
        return file.read(MAX_FILE_BYTES).decode("utf-8")


def _replace(target: Path, text: str) -> None:
    """Write `text` in place of `target`, whole or not at all; mode and owner stay."""
    about = target.stat()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), about.st_mode & 0o7777)
            with contextlib.suppress(PermissionError):  # only root may give files away; then the owner is us anyway
                os.fchown(file.fileno(), about.st_uid, about.st_gid)
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):  # it would name the hidden file, or none
            raise Refused(
                "file-failed", f"{target}: {error.strerror}", "nothing was changed; is the disk full?"
            ) from error
        raise
