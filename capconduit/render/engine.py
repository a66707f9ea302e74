"""Renders the templates into Asterisk's files, and writes, compares and checks them. Strict: nothing is guessed.

The outside dependency is the file system (templates in, configuration out). **Fails closed**: an undefined name, an
unchecked value or an unreadable template ends the whole rendering, and a file is replaced whole or not at all.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

import jinja2

from capconduit.errors import ConfigError, UsageError
from capconduit.render import contexts, escape
from capconduit.render.contexts import RenderContext, RtpRange
from capconduit.render.files import BY_NAME, CONF_FILES, PUBLIC_MODE, ConfFile, Need
from capconduit.render.sane import check_context

SUFFIX: Final = ".j2"
# The order is that of writing: what the dialplan needs comes before the dialplan. See files.py for what each is.
FILES: Final = tuple(file.name for file in CONF_FILES)
SECRET_FILES: Final = frozenset(file.name for file in CONF_FILES if file.secret)

# What a template may pass a value through; each refuses what cannot stand in that place.
FILTERS: Final[dict[str, Callable[..., escape.Checked]]] = {
    "section": escape.section,
    "ami_user": escape.ami_user,
    "word": escape.word,
    "value": escape.value,
    "secret": partial(escape.value, secret=True),
    "host": escape.host,
    "listen": escape.listen,
    "listen_host": escape.listen_host,
    "listen_port": escape.listen_port,
    "network": escape.network,
    "host_or_network": escape.host_or_network,
    "path": escape.path,
    "websocket_url": escape.websocket_url,
    "user": escape.user,
    "register_secret": escape.register_secret,
}

# `secret = …`, `password = …`, and what follows the user of `register => user:secret@host`.
_SECRET_LINE: Final = re.compile(r"^(\s*(?:secret|password)\s*=>?\s*|\s*register\s*=>?\s*[^:@\n]*:).*$", re.MULTILINE)


def templates_dir() -> Path:
    """Where the templates that come with CapConduit are: in the installed package, or beside it in a checkout."""
    packaged = Path(str(resources.files("capconduit"))) / "_data" / "dialplan_templates"
    checkout = Path(__file__).parents[2] / "dialplan_templates"
    for candidate in (packaged, checkout):
        if candidate.is_dir():
            return candidate
    raise ConfigError("templates-missing", f"no templates in {packaged} or {checkout}", "install CapConduit again")


def _only_checked(rendered: object) -> object:
    """What templates may put into a file: numbers, and text that `escape` has passed. All else is a bug of theirs."""
    if isinstance(rendered, escape.Checked) or (isinstance(rendered, int) and not isinstance(rendered, bool)):
        return rendered
    raise UsageError(
        "unchecked-template-value",
        f"a template puts the unchecked value {rendered!r} into a file",
        f"pass it through one of {', '.join(sorted(FILTERS))}",
    )


def _environment(override_dir: Path | None) -> jinja2.Environment:
    loaders = [jinja2.FileSystemLoader(d) for d in (override_dir, templates_dir()) if d is not None]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # these are not HTML; `finalize` lets nothing unchecked through
        finalize=_only_checked,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update({name: _on_text(check) for name, check in FILTERS.items()})
    environment.globals.update(clean=escape.clean, clean_header=escape.clean_header, **_constants())
    return environment


def _on_text(check: Callable[..., escape.Checked]) -> Callable[..., escape.Checked]:
    """`check` as a filter: numbers become text, and the text of an undefined name is jinja2.UndefinedError."""

    def checked(value: object, field: str) -> escape.Checked:
        return check(value if isinstance(value, str) else str(value), field)

    return checked


def _constants() -> dict[str, object]:
    """The names of `contexts` that the dialplan shares with the daemon, so that a template cannot misspell one."""
    names = (
        "INBOUND_CONTEXT", "NO_CONTEXT", "ANSWERED_CONTEXT", "LEFT_CONTEXT", "SETTLE_CONTEXT", "REJECT_HOOK_CONTEXT",
        "BEFORE_ROUTE_CONTEXT", "BEFORE_DIAL_CONTEXT",
        "CONTACT_USER", "OUTBOUND_ENDPOINT", "VOICE_CONNECTION", "STIR_PROFILE", "CDR_FILE", "SPOOL_FAMILY",
        "SPOOL_SEPARATOR",
    )  # fmt: skip
    texts = {name: getattr(contexts, name) for name in names} | {"AMI_DISABLED": ",".join(contexts.AMI_DISABLED)}
    return {name: escape.Checked(text) for name, text in texts.items()}


def wanted(context: RenderContext) -> list[ConfFile]:
    """The files that `context` asks for, in the order of `FILES`."""
    return [file for file in CONF_FILES if _is_wanted(file, context)]


def _is_wanted(file: ConfFile, context: RenderContext) -> bool:
    if file.need is Need.RTP_RANGE:
        return context.rtp is not None or context.all_files
    if file.need is Need.VOICE:
        return context.voice is not None
    return file.need is Need.ALWAYS or context.all_files


def render_all(context: RenderContext, override_dir: Path | None = None) -> dict[str, str]:
    """The text of every wanted file by its name, in the order of `FILES`; the same context gives the same bytes.

    override_dir: templates of the operator's own that replace ours by name. rtp.conf is left out when `context.rtp` is
    None, unless all files are asked for. Raises UsageError naming the field and the value for text that cannot stand in
    a file, ConfigError for a template that is broken or cannot be read.
    """
    check_context(context)
    if override_dir is not None and not override_dir.is_dir():
        raise ConfigError("templates-missing", f"no directory {override_dir}", "create it, or leave it out")
    environment = _environment(override_dir)
    variables = _variables(context)
    return {file.name: _render(environment, file.name, variables) for file in wanted(context)}


def _variables(context: RenderContext) -> dict[str, object]:
    """What templates see: the fields of the context, and the transports by what they carry."""
    variables: dict[str, object] = {f.name: getattr(context, f.name) for f in fields(context)}
    variables["rtp"] = context.rtp or RtpRange()
    variables["transports"] = context.transports
    variables["transport_names"] = {transport.protocol: transport.name for transport in context.transports}
    return variables


def _render(environment: jinja2.Environment, name: str, variables: Mapping[str, object]) -> str:
    try:
        return environment.get_template(name + SUFFIX).render(variables)
    except (jinja2.TemplateError, TypeError) as error:  # TypeError: a filter without its field, a sum of None
        where = f" line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise ConfigError(
            "template-broken", f"{name}{SUFFIX}{where}: {error}", "compare it with the template it replaces"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("template-unreadable", f"{name}{SUFFIX}: {error}", "it must be a UTF-8 file") from error


def write_all(files: Mapping[str, str], out_dir: Path) -> list[str]:
    """Writes what differs and returns the names written, in order; files that are not ours are left alone.

    Each file is replaced at once (temporary file, fsync, rename, fsync of the directory). Files with secrets get mode
    0600, the others 0644, and both the owner of `out_dir` where we may give files away (Asterisk must be able to read
    them). Raises ConfigError when the directory cannot be written.
    """
    written = []
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for name in _in_order(files):
            mode = BY_NAME[name].mode if name in BY_NAME else PUBLIC_MODE
            path = out_dir / name
            if _read(path) == files[name]:
                path.chmod(mode)
                continue
            _replace(path, files[name], mode)
            written.append(name)
    except OSError as error:
        raise ConfigError("not-written", f"{out_dir}: {error}", "check the path and its permissions") from error
    return written


def _in_order(files: Mapping[str, str]) -> list[str]:
    for name in files:
        if Path(name).name != name or name in {"", ".", ".."}:
            raise UsageError("bad-file-name", f"{name!r} is not a bare file name", "file names come from render_all")
    return sorted(files, key=lambda name: (FILES.index(name) if name in FILES else len(FILES), name))


def _read(path: Path) -> str | None:
    """The text of a file, or None where there is no file or no text."""
    try:
        return path.read_bytes().decode()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def _replace(path: Path, text: str, mode: int) -> None:
    """Replaces `path` at once. The temporary file never has a wider mode than the final one."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fchmod(file.fileno(), mode)
            owner = path.parent.stat()
            # Not root: the file stays ours, which is as far as we can go.
            with contextlib.suppress(PermissionError):
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def diff(files: Mapping[str, str], out_dir: Path) -> str:
    """A unified diff from what is in `out_dir` to `files`, empty when they are equal. Secrets are shown as `***`."""
    parts: list[str] = []
    for name in _in_order(files):
        now = _read_or_refuse(out_dir / name) or ""
        if now == files[name]:
            continue
        before, after = (_SECRET_LINE.sub(r"\1***", text).splitlines(keepends=True) for text in (now, files[name]))
        lines = list(difflib.unified_diff(before, after, f"{out_dir / name}", f"{name} (rendered)"))
        parts += lines or [f"--- {out_dir / name}\n", f"+++ {name} (rendered)\n", "# only secrets differ\n"]
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in parts)


def check(files: Mapping[str, str], out_dir: Path) -> list[str]:
    """The names of the files that are missing from `out_dir` or differ there, in order; empty means no drift."""
    return [name for name in _in_order(files) if _read_or_refuse(out_dir / name) != files[name]]


def _read_or_refuse(path: Path) -> str | None:
    try:
        return _read(path)
    except OSError as error:
        raise ConfigError("not-readable", f"{path}: {error}", "check the path and its permissions") from error
