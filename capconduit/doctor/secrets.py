"""Whether a secret can be guessed: short, a known default, the user's own name. No secret is ever printed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, urlsplit

from capconduit.config import resolve_secret
from capconduit.doctor.conffile import ConfFile, parse_conf
from capconduit.doctor.findings import SUDO, CannotTell, Check, Fault, Finding, Matter, Severity, fine, unknown
from capconduit.doctor.scene import Scene
from capconduit.errors import ConfigError

LEAST_CHARS: Final = 12
LEAST_DIFFERENT: Final = 6
# What comes with Asterisk's samples, FreePBX and its relatives, and what scanners try first.
KNOWN: Final = frozenset({
    "0000", "000000", "1111", "111111", "1234", "12345", "123456", "1234567", "12345678", "123456789", "1234567890",
    "abc123", "admin", "administrator", "amp109", "amp111", "asterisk", "capconduit", "change_me", "changeit",
    "changeme", "default", "elastix", "elastix456", "freepbx", "guest", "insecure", "issabel", "letmein", "manager",
    "mysecret", "mysecretpassword", "passw0rd", "password", "pbx", "phone", "qwerty", "qwerty123", "root", "secret",
    "secret5", "sip", "supersecret", "test", "test123", "topsecret", "trixbox", "trunk", "vicidial", "voip", "welcome",
})  # fmt: skip
GENERATE: Final = "openssl rand -hex 24"

KNOWN_DEFAULT = Fault("secret-default", Severity.ERROR, "scanners try the defaults first, within minutes")
SAME_AS_NAME = Fault("secret-is-name", Severity.ERROR, "scanners try each name as its own password, within minutes")
SHORT = Fault("secret-short", Severity.WARNING, f"fewer than {LEAST_CHARS} characters can be tried out")
POOR = Fault("secret-poor", Severity.WARNING, "digits alone, or few different characters, can be tried out")
IN_URL = Fault(
    "secret-in-url", Severity.WARNING, "who may read the configuration or this process's arguments reads the password"
)


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret and what it belongs to. `fix` puts a better one there. Never shown."""

    where: str
    user: str
    value: str = field(repr=False)
    fix: str = ""


# --- judging ----------------------------------------------------------------------------------------------------------


def judge_secret(secret: Secret) -> Iterator[Finding]:
    """The worst that is wrong with one secret; nothing where it is good."""
    value, user = secret.value.casefold(), secret.user.casefold()
    names = {user, user[::-1], user * 2, user + "1", user + "123"} if user else set()
    if value in KNOWN:
        fault, why = KNOWN_DEFAULT, "is a well-known default"
    elif value in names:
        fault, why = SAME_AS_NAME, "is made of the user's name"
    elif len(value) < LEAST_CHARS:
        fault, why = SHORT, f"has {len(value)} characters"
    elif value.isdigit() or len(set(value)) < LEAST_DIFFERENT:
        fault, why = POOR, "is digits alone" if value.isdigit() else f"has {len(set(value))} different characters"
    else:
        return
    yield fault.found(f"the secret of {secret.where} {why}", subject=secret.where, fix=secret.fix)


def judge_url(url: str) -> Iterator[Finding]:
    """Whether database.url has a password in it."""
    parts = urlsplit(url)
    if parts.password or "password" in parse_qs(parts.query):
        yield IN_URL.found(
            "database.url has a password in it",
            fix="move it into ~/.pgpass of the daemon's user (mode 600), then: capconduit config set database.url"
            " postgresql://USER@HOST/NAME",
        )


def secrets_of(name: str, conf: ConfFile) -> Iterator[Secret]:
    """The secrets of one of Asterisk's files: `secret` and `password` of each section."""
    for section in conf.real():
        value = section.get("secret") or section.get("password")
        hashed = section.get("password_format").lower() == "crypt"  # ari.conf
        if value and not hashed and section.name.lower() not in ("general", "globals"):
            user = section.get("username") or section.name
            yield Secret(
                f"{name} [{section.name}]",
                user,
                value,
                f"{GENERATE}   # into [{section.name}] of {section.file or name}, and where it is used",
            )


# --- gathering --------------------------------------------------------------------------------------------------------

FILES: Final = ("manager.conf", "pjsip.conf", "iax.conf", "sip.conf", "ari.conf")


def _secrets(scene: Scene) -> Iterable[Finding]:
    found: dict[tuple[str, str], Secret] = {}
    bad: list[Finding] = list(judge_url(scene.config.database.url))
    for secret in (*_of_config(scene, bad), *_of_rendered(scene), *_of_files(scene, bad)):
        found.setdefault((secret.user, secret.value), secret)
    for secret in found.values():
        bad += judge_secret(secret)
    yield from bad
    if not any(one.severity is not Severity.UNKNOWN for one in bad):
        yield fine(f"{len(found)} secrets, none of them short, well known or a name")


def _of_config(scene: Scene, bad: list[Finding]) -> Iterator[Secret]:
    ami = scene.config.ami
    for key, user, reference in (
        ("ami.secret", ami.username, ami.secret),
        ("ami.control_secret", ami.control_username, ami.control_secret),
    ):
        if not reference:
            continue
        try:
            value = resolve_secret(reference, scene.doors.env)
        except ConfigError as error:
            bad.append(unknown(f"{key}: {error.message}", SUDO, key))
            continue
        place = reference.removeprefix("file:")
        into = f"{GENERATE} > {place}" if reference.startswith("file:") else f"{GENERATE}   # into ${place[4:]}"
        yield Secret(f"{key} ({user})", user, value, f"{into}; capconduit install")


def _of_rendered(scene: Scene) -> Iterator[Secret]:
    """Trunks: what will be written; where the database is away, the files that are there have to do."""
    try:
        files: Mapping[str, str] = scene.rendered()
    except CannotTell:
        return
    for name in FILES:
        yield from secrets_of(name, parse_conf(files.get(name, "")))


def _of_files(scene: Scene, bad: list[Finding]) -> Iterator[Secret]:
    for name in FILES:
        try:
            conf = scene.conf(name)
        except CannotTell as failure:
            bad.append(unknown(failure.reason, failure.how, name))
            if not scene.asterisk_is_local():
                return
            continue
        if conf is not None:
            yield from secrets_of(name, conf)


CHECKS: Final = (
    Check(
        "secrets",
        Matter.SECRETS,
        "no secret of AMI, trunks, endpoints, ARI users or the database is short, a known default or its user's name",
        (KNOWN_DEFAULT, SAME_AS_NAME, SHORT, POOR, IN_URL),
        _secrets,
    ),
)
