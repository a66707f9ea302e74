"""The configuration: every key declared once, found, read, overridden by the environment, and checked.

Order: built-in default, then the file, then `CAPCONDUIT_SECTION__KEY`. A wrong or unknown key stops the program (fail
closed): money must not run on a misspelt setting. The declarations below, with those of config_asterisk.py, are the
only source of config.example.toml and of capconduit.toml(5).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from capconduit import config_rules as rules
from capconduit.config_asterisk import AsteriskConfig
from capconduit.config_keys import key as _key
from capconduit.config_mail import MailConfig
from capconduit.config_rules import MAX_PORT, Invalid, Value, did_you_mean, parse_listen
from capconduit.config_voice import VoiceConfig
from capconduit.errors import ConfigError

ENVIRONMENT_PREFIX: Final = "CAPCONDUIT_"
CONFIG_VARIABLE: Final = "CAPCONDUIT_CONFIG"
LOCAL_NAME: Final = "capconduit.toml"
SYSTEM_FILE: Final = Path("/etc/capconduit/config.toml")
ROOT_STATE_DIR: Final = Path("/var/lib/capconduit")
ROOT_RUN_DIR: Final = Path("/run/capconduit")

MAX_FILE_BYTES: Final = 1_048_576
MAX_TEXT_LENGTH: Final = 4_096
MAX_SECRET_BYTES: Final = 4_096
EXAMPLE_WIDTH: Final = 100

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_URL_PASSWORD = re.compile(r"(://[^:/?#]*):.*@")
_QUERY_PASSWORD = re.compile(r"([?&](?:ssl)?password=)[^&]*", re.IGNORECASE)


# Declarations ------------------------------------------------------------------------------------------------------


def _file_path(value: Value) -> None:
    path = str(value)
    if path and (not path.startswith("/") or path.endswith("/")):
        raise Invalid("does not name an absolute file", "write it like /var/lib/capconduit/settlements.journal")


@dataclass(frozen=True)
class DatabaseConfig:
    """Where everything is kept. After `load_config` the URL is never empty."""

    url: str = _key(
        "",
        "Database of calls, money and the estate: sqlite:///absolute/file.sqlite, or postgresql://user@host/name when"
        " several machines share it. PostgreSQL passwords belong into ~/.pgpass or $PGPASSWORD.",
        rules.database_url,
        empty="capconduit.sqlite in the state directory: $XDG_STATE_HOME/capconduit, /var/lib/capconduit for root, or"
        " ~/.local/state/capconduit",
    )
    archive: str = _key(
        "",
        "Directory into which records of calls and events are written, as compressed JSON lines, before they are"
        " pruned: by the daemon, which does that once a day as the settings cdr_keep_days and event_keep_days say, and"
        " by `db prune` and `cdr prune`. Where several machines share the database, set it on each of them: whichever"
        " comes first prunes.",
        rules.directory_or_none,
        empty="what is over is taken away without a copy",
    )

    @property
    def sqlite_path(self) -> Path | None:
        """The file of a sqlite URL; None for PostgreSQL and for an empty URL."""
        if not self.url.startswith("sqlite://"):
            return None
        return Path("/" + self.url.removeprefix("sqlite://").lstrip("/"))


@dataclass(frozen=True)
class FastagiConfig:
    """The FastAGI server that Asterisk asks about each call."""

    listen: str = _key(
        "127.0.0.1:4573",
        "Address and port on which Asterisk reaches the daemon. FastAGI has no password: keep it on loopback or behind"
        " a firewall.",
        rules.listen,
    )
    deadline_ms: int = _key(
        250,
        "A call is answered within this time (milliseconds), decided or not; later ones are rejected with"
        " engine_timeout.",
        rules.between(10, 10_000),
    )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        return parse_listen(self.listen)


@dataclass(frozen=True)
class AmiConfig:
    """The Asterisk Manager Interface: exact talk times, extending the funding of live calls, hanging up."""

    host: str = _key("127.0.0.1", "Host of Asterisk's manager interface.", rules.host_or_off, empty="AMI is off")
    port: int = _key(5038, "Port of the manager interface.", rules.between(1, MAX_PORT))
    username: str = _key("capconduit", "User in manager.conf.")
    secret: str = _key(
        "",
        "Where that user's secret is, never the secret itself: env:NAME or file:/absolute/path.",
        rules.secret_reference,
        empty="AMI is off",
    )
    control_username: str = _key(
        "",
        "Second user in manager.conf, which alone may hang up and set limits; the first one then only reads.",
        empty="the first user does both",
    )
    control_secret: str = _key(
        "",
        "Where the second user's secret is, never the secret itself: env:NAME or file:/absolute/path.",
        rules.secret_reference,
        empty="the first user does both",
    )

    @property
    def enabled(self) -> bool:
        """Whether the daemon connects to AMI: a host and a reference to the secret are both given."""
        return bool(self.host and self.secret)

    @property
    def has_control(self) -> bool:
        """Whether a second user does what changes calls: its name and a reference to its secret are both given."""
        return bool(self.enabled and self.control_username and self.control_secret)


@dataclass(frozen=True)
class NodeConfig:
    """This machine among several that share one database."""

    name: str = _key(
        "",
        "Name of this node; calls and places remember which node holds them, so each node needs its own.",
        rules.node_name,
        empty="the first label of the host name",
    )
    journal: str = _key(
        "",
        "File in which ends of calls wait while the database is away, so that they can be acknowledged; on a local"
        " disk, one for each daemon. <file>.lock and <file>.aside are beside it.",
        _file_path,
        empty="settlements.journal beside the SQLite file; with PostgreSQL in the state directory",
    )


@dataclass(frozen=True)
class ControlConfig:
    """How the command line and the terminal UI talk to the daemon."""

    socket: str = _key(
        "",
        "Path of the daemon's control socket.",
        rules.socket_path,
        empty="control.sock in /run/capconduit for root, in $XDG_RUNTIME_DIR/capconduit, or in the state directory",
    )


@dataclass(frozen=True)
class HttpConfig:
    """The HTTP API for sellers."""

    listen: str = _key(
        "", "Address and port of the HTTP API, for example 127.0.0.1:8080.", rules.listen_or_off, empty="the API is off"
    )


@dataclass(frozen=True)
class MetricsConfig:
    """Numbers for Prometheus. The control socket has them in any case, at /metrics."""

    listen: str = _key(
        "",
        "Address and port on which /metrics is served without a password, for example 127.0.0.1:9573.",
        rules.listen_or_off,
        empty="only the control socket has them",
    )
    caps: int = _key(
        200,
        "Caps whose use is told, those that are nearest to full; 0 tells of none.",
        rules.between(0, 10_000),
    )
    balances: str = _key("off", "on: the balances of sellers are told as well.", rules.one_of("off", "on"))


@dataclass(frozen=True)
class LogConfig:
    """What the daemon logs, on standard error."""

    level: str = _key("info", "debug, info, warning or error.", rules.one_of("debug", "info", "warning", "error"))
    format: str = _key(
        "auto",
        "console for people, json for machines, journal for systemd's journal with fields of its own; auto is console"
        " on a terminal, journal where standard error leads there, and json elsewhere.",
        rules.one_of("auto", "console", "json", "journal"),
    )
    numbers: str = _key(
        "full",
        "Telephone numbers in log lines: full, or masked down to their last two digits.",
        rules.one_of("full", "masked"),
    )


@dataclass(frozen=True)
class LimitsConfig:
    """Bounds of the daemon. The defaults suit one machine."""

    warning_ms: int = _key(
        30_000,
        "The caller hears a beep this long (milliseconds) before the call must end.",
        rules.between(1_000, 600_000),
    )
    connections: int = _key(1_000, "FastAGI connections at the same time; more are refused.", rules.between(1, 100_000))
    drain_ms: int = _key(
        10_000,
        "When the daemon stops, exchanges that have begun get this long (milliseconds) to end.",
        rules.between(0, 300_000),
    )


@dataclass(frozen=True)
class Config:
    """The effective configuration; read only. Made by `load_config`, bare `Config()` holds the declared defaults.

    `origin` is the file that was read, `sources` says of each `section.key` whether its value is from the `default`,
    the `file` or the `environment`.
    """

    database: DatabaseConfig = field(default_factory=DatabaseConfig, metadata={"section": "Where everything is kept."})
    fastagi: FastagiConfig = field(
        default_factory=FastagiConfig, metadata={"section": "The server that Asterisk asks about each call."}
    )
    ami: AmiConfig = field(
        default_factory=AmiConfig,
        metadata={"section": "Asterisk's manager interface: exact talk times, extending funded time, hanging up."},
    )
    node: NodeConfig = field(
        default_factory=NodeConfig, metadata={"section": "This machine among several that share a database."}
    )
    control: ControlConfig = field(
        default_factory=ControlConfig, metadata={"section": "How the command line reaches the daemon."}
    )
    asterisk: AsteriskConfig = field(
        default_factory=AsteriskConfig, metadata={"section": "What `capconduit render` writes for Asterisk."}
    )
    voice: VoiceConfig = field(
        default_factory=VoiceConfig, metadata={"section": "Where Asterisk reaches the process that speaks for agents."}
    )
    http: HttpConfig = field(default_factory=HttpConfig, metadata={"section": "The HTTP API for sellers."})
    mail: MailConfig = field(
        default_factory=MailConfig, metadata={"section": "How reports and notifications leave as e-mail."}
    )
    metrics: MetricsConfig = field(default_factory=MetricsConfig, metadata={"section": "Numbers for Prometheus."})
    log: LogConfig = field(default_factory=LogConfig, metadata={"section": "What the daemon logs, on standard error."})
    limits: LimitsConfig = field(
        default_factory=LimitsConfig, metadata={"section": "Bounds of the daemon; the defaults suit one machine."}
    )
    origin: Path | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def get(self, dotted: str) -> Value:
        """The value of `section.key`; the key must be declared."""
        key = KEYS[dotted]
        value: Value = getattr(getattr(self, key.section), key.name)
        return value


@dataclass(frozen=True)
class Key:
    """One declared key, as documentation and tools see it."""

    section: str
    name: str
    default: Value
    help: str
    empty: str  # what an empty value stands for; "" where an empty value is nothing special
    check: Callable[[Value], None] | None

    @property
    def dotted(self) -> str:
        """`section.key`."""
        return f"{self.section}.{self.name}"

    @property
    def type_name(self) -> str:
        """`integer` or `text`."""
        return "integer" if isinstance(self.default, int) else "text"

    @property
    def variable(self) -> str:
        """The environment variable that overrides this key."""
        return f"{ENVIRONMENT_PREFIX}{self.section}__{self.name}".upper()


def _declared() -> Iterator[Key]:
    for section, cls in _SECTION_CLASSES.items():
        for item in fields(cls):
            default: Any = item.default  # every key has one, see _key
            about = item.metadata
            yield Key(section, item.name, default, about["help"], about["empty"], about["check"])


SECTIONS: Final[Mapping[str, str]] = {f.name: f.metadata["section"] for f in fields(Config) if "section" in f.metadata}
_SECTION_CLASSES: Final[Mapping[str, Any]] = {f.name: f.default_factory for f in fields(Config) if f.name in SECTIONS}
KEYS: Final[Mapping[str, Key]] = {key.dotted: key for key in _declared()}
_VARIABLES: Final = {key.variable: key for key in KEYS.values()}


# Finding and reading -----------------------------------------------------------------------------------------------


def search_path(env: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a configuration is looked for, in this order, when none is named."""
    places = []
    with contextlib.suppress(FileNotFoundError):  # the working directory may have been removed
        places.append(Path(LOCAL_NAME).absolute())
    if env.get("XDG_CONFIG_HOME"):
        places.append(Path(env["XDG_CONFIG_HOME"]) / "capconduit" / "config.toml")
    elif env.get("HOME"):
        places.append(Path(env["HOME"]) / ".config" / "capconduit" / "config.toml")
    return (*places, SYSTEM_FILE)


def find_config(path: Path | None, env: Mapping[str, str]) -> Path | None:
    """The file that is in force: `path`, else $CAPCONDUIT_CONFIG, else the first that exists; None without any.

    Raises ConfigError when a named file is missing, or when the one in the working directory belongs to a stranger:
    root must not take orders from a file that somebody left in /tmp.
    """
    named = path or (Path(env[CONFIG_VARIABLE]) if env.get(CONFIG_VARIABLE) else None)
    if named is not None:
        if not _exists(named):
            raise ConfigError(
                "config-missing", f"there is no configuration file {str(named)!r}", "`capconduit init` writes one"
            )
        return named
    found = next((place for place in search_path(env) if _exists(place)), None)
    if found is not None and found.name == LOCAL_NAME and found.stat().st_uid not in (0, os.geteuid()):
        raise ConfigError(
            "config-owner",
            f"{found} belongs to another user",
            f"if you trust it, name it: capconduit --config {LOCAL_NAME} ...",
        )
    return found


def _exists(place: Path) -> bool:
    """Whether something is there. Raises ConfigError where we may not look: a hidden file must not be passed by."""
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        reason = f"cannot read {place}: {error.strerror}"
        raise ConfigError("config-unreadable", reason, "check its permissions") from None
    return True


def load_config(path: Path | None, env: Mapping[str, str]) -> Config:
    """The effective configuration from the file in force and `env`; every value checked. Raises ConfigError."""
    origin = find_config(path, env)
    values: dict[str, Value] = {}
    sources = dict.fromkeys(KEYS, "default")
    if origin is not None:
        values |= parse_config(_read(origin), str(origin))
        sources |= dict.fromkeys(values, "file")
    overrides = _from_environment(env)
    values |= overrides
    sources |= dict.fromkeys(overrides, "environment")
    for dotted, fallback in _dynamic_defaults(env, values).items():
        values[dotted] = values.get(dotted) or fallback
    return _assemble(values, origin, sources)


def parse_config(text: str, where: str) -> dict[str, Value]:
    """The checked values of a TOML text by `section.key`; `where` names it in errors. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("config-syntax", f"{where} is not TOML: {error}", "text values need quotes") from None
    values: dict[str, Value] = {}
    for section, content in data.items():
        if section not in SECTIONS:
            known = tuple(SECTIONS)
            hint = did_you_mean(section, known) or f"the sections are {', '.join(known)}"
            raise ConfigError("config-key-unknown", f"unknown section {section!r} in {where}", hint)
        if not isinstance(content, dict):
            raise ConfigError("config-value-invalid", f"{section} in {where} is not a section", f"write [{section}]")
        for name, value in content.items():
            key = find_key(f"{section}.{name}", where)
            values[key.dotted] = check_value(key, value, where)
    return values


def find_key(dotted: str, where: str = "") -> Key:
    """The declared key named `section.key`; ConfigError with the nearest known one otherwise."""
    if dotted in KEYS:
        return KEYS[dotted]
    section, _, name = dotted.partition(".")
    siblings = tuple(key.name for key in KEYS.values() if key.section == section)
    near = [f"{section}.{n}" for n in difflib.get_close_matches(name, siblings, 1)]
    near = near or difflib.get_close_matches(dotted, tuple(KEYS), 1)
    hint = f"did you mean {near[0]!r}?" if near else "capconduit.toml(5) lists the keys"
    if not near and siblings:
        hint = f"the keys of [{section}] are {', '.join(siblings)}"
    raise ConfigError("config-key-unknown", f"unknown key {dotted!r}" + (f" in {where}" if where else ""), hint)


def check_value(key: Key, value: object, where: str) -> Value:
    """`value` when it has the type of `key` and keeps its rule. Raises ConfigError naming key, value and `where`."""
    try:
        if isinstance(key.default, int):
            if type(value) is not int:  # a bool is an int in Python, not in TOML
                raise Invalid("is not a whole number", f"write it like {key.name} = {key.default}")
        elif not isinstance(value, str):
            raise Invalid("is not text", f'write it in quotes: {key.name} = "..."')
        elif _CONTROL.search(value) or len(value) > MAX_TEXT_LENGTH:
            raise Invalid(f"has control characters or more than {MAX_TEXT_LENGTH} characters", "write plain text")
        if key.check is not None:
            key.check(value)
    except Invalid as bad:
        shown = "" if key.check is rules.secret_reference else f" {mask(value)!r}"
        raise ConfigError("config-value-invalid", f"{key.dotted} in {where}:{shown} {bad.reason}", bad.hint) from None
    return value


def check_text(key: Key, text: str, where: str) -> Value:
    """The checked value of `text` as the environment and the command line give it. Raises ConfigError."""
    whole = re.fullmatch(r"-?[0-9]{1,18}", text.strip()) if isinstance(key.default, int) else None
    return check_value(key, int(text) if whole else text, where)


def _from_environment(env: Mapping[str, str]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for variable, text in env.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or "__" not in variable:
            continue
        key = _VARIABLES.get(variable)
        if key is None:
            hint = did_you_mean(variable, tuple(_VARIABLES)) or "the form is CAPCONDUIT_SECTION__KEY"
            raise ConfigError("config-key-unknown", f"unknown environment variable {variable!r}", hint)
        values[key.dotted] = check_text(key, text, f"environment variable {variable}")
    return values


def _dynamic_defaults(env: Mapping[str, str], values: Mapping[str, Value]) -> dict[str, Value]:
    """What an empty value of these keys stands for on this machine."""
    state = state_dir(env)
    # Root's is fixed: a login shell has XDG_RUNTIME_DIR and a service has not, and both must find the same socket.
    run = ROOT_RUN_DIR if os.geteuid() == 0 else state
    if os.geteuid() != 0 and env.get("XDG_RUNTIME_DIR"):
        run = Path(env["XDG_RUNTIME_DIR"]) / "capconduit"
    label = re.sub(r"[^A-Za-z0-9_-]", "-", os.uname().nodename.split(".")[0])[:32]
    url = str(values.get("database.url") or f"sqlite://{state / 'capconduit.sqlite'}")
    file = DatabaseConfig(url=url).sqlite_path
    return {
        "database.url": url,
        "control.socket": str(run / "control.sock"),
        "node.name": label or "node",
        "node.journal": str((file.parent if file else state) / "settlements.journal"),
    }


def state_dir(env: Mapping[str, str]) -> Path:
    """Where this user's data live: $XDG_STATE_HOME/capconduit, /var/lib/capconduit for root, ~/.local/state/capconduit.

    Nothing is created.
    """
    if env.get("XDG_STATE_HOME", "").startswith("/"):  # relative ones are to be ignored (XDG base directory spec)
        return Path(env["XDG_STATE_HOME"]) / "capconduit"
    if os.geteuid() == 0 or not env.get("HOME"):
        return ROOT_STATE_DIR
    return Path(env["HOME"]) / ".local" / "state" / "capconduit"


def _assemble(values: Mapping[str, Value], origin: Path | None, sources: Mapping[str, str]) -> Config:
    given: dict[str, dict[str, Value]] = {section: {} for section in SECTIONS}
    for dotted, value in values.items():
        key = KEYS[dotted]
        given[key.section][key.name] = value
    sections = {section: cls(**given[section]) for section, cls in _SECTION_CLASSES.items()}
    return Config(**sections, origin=origin, sources=sources)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise ConfigError(
                "config-unreadable", f"{path} is larger than {MAX_FILE_BYTES} bytes", "is it the right file?"
            )
        return raw.decode("utf-8")
    except OSError as error:
        raise ConfigError(
            "config-unreadable", f"cannot read {path}: {error.strerror}", "check its permissions"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("config-syntax", f"{path} is not UTF-8 text", "save it as UTF-8") from None


# Secrets -----------------------------------------------------------------------------------------------------------


def resolve_secret(reference: str, env: Mapping[str, str]) -> str:
    """The secret behind `env:NAME` or `file:/path` (one line; a final newline is dropped). Raises ConfigError.

    Nothing of a plain secret is repeated in the error. Control characters are refused: a newline would inject an AMI
    header.
    """
    try:
        rules.secret_reference(reference)
        if not reference:
            raise Invalid("is empty", "write env:NAME or file:/absolute/path")
    except Invalid as bad:
        raise ConfigError("secret-invalid", f"the secret {bad.reason}", bad.hint) from None
    kind, _, rest = reference.partition(":")
    secret = _secret_from_file(rest) if kind == "file" else env.get(rest, "")
    if not secret:
        where = f"file {rest!r} is empty" if kind == "file" else f"environment variable {rest} is not set"
        raise ConfigError("secret-missing", where, f"it is named as {reference}")
    if _CONTROL.search(secret):
        raise ConfigError("secret-invalid", f"the secret in {reference} has control characters", "write it on one line")
    return secret


def _secret_from_file(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            raw = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            "secret-missing", f"cannot read the secret in {name!r}: {error.strerror}", "create it with mode 600"
        ) from None
    if len(raw) > MAX_SECRET_BYTES:
        raise ConfigError("secret-invalid", f"{name!r} is too large for a secret", "is it the right file?")
    return raw.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")


def mask(value: object) -> object:
    """`value` fit to be shown: passwords inside of URLs are starred."""
    if not isinstance(value, str):
        return value
    return _QUERY_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", value))


# Writing -----------------------------------------------------------------------------------------------------------


def toml_value(value: Value) -> str:
    """`value` as TOML writes it. Control characters have been refused before."""
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def render_example(config: Config | None = None) -> str:
    """A complete commented configuration: every key described; those at their default commented out.

    Reading the text back gives `config`. Without one it is config.example.toml.
    """
    import textwrap  # only needed here, and slow to import

    config = config or Config()
    lines = [
        "# CapConduit's configuration; `man capconduit.toml` has the same. A key that is commented out has the value",
        "# shown. Looked for in: --config, $CAPCONDUIT_CONFIG, ./capconduit.toml, ~/.config/capconduit/config.toml,",
        "# /etc/capconduit/config.toml. CAPCONDUIT_SECTION__KEY overrides a key, as CAPCONDUIT_LOG__LEVEL=debug.",
    ]
    for section, about in SECTIONS.items():
        lines += ["", f"# {about}", f"[{section}]"]
        for number, key in enumerate(k for k in KEYS.values() if k.section == section):
            if number:
                lines.append("")
            value = config.get(key.dotted)
            empty = f" Empty: {key.empty}." if key.empty else ""
            lines += [f"# {line}" for line in textwrap.wrap(key.help + empty, EXAMPLE_WIDTH)]
            lines.append(f"{'#' if value == key.default else ''}{key.name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"
