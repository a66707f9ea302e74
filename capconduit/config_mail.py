"""The keys of [mail]: how reports and notifications leave as e-mail."""

from __future__ import annotations

from dataclasses import dataclass

from capconduit import config_rules as rules
from capconduit.config_keys import key
from capconduit.config_rules import MAX_PORT, Invalid, Value


def _address_or_none(value: Value) -> None:
    from capconduit.mail import is_address  # only needed for a value that somebody wrote

    if value and not is_address(str(value)):
        raise Invalid("is not a mail address", "write it like capconduit@example.net")


def _program_file(value: Value) -> None:
    if not str(value).startswith("/") or str(value).endswith("/"):
        raise Invalid("does not name an absolute file", "write it like /usr/sbin/sendmail")


@dataclass(frozen=True)
class MailConfig:
    """How mail leaves this machine."""

    transport: str = key(
        "sendmail",
        "sendmail: this machine's own mail program (postfix, exim, msmtp …) takes it; smtp: a mail server is asked"
        " directly.",
        rules.one_of("sendmail", "smtp"),
    )
    sendmail: str = key("/usr/sbin/sendmail", "The mail program of transport sendmail.", _program_file)
    sender: str = key(
        "",
        "Address that mails come from.",
        _address_or_none,
        empty="capconduit at this machine's name",
    )
    host: str = key("", "Mail server of transport smtp.", rules.host_or_off, empty="none; transport smtp needs one")
    port: int = key(
        0,
        "Port of the mail server. 0: the usual one, 587 with starttls, 465 with tls, 25 with none.",
        rules.zero_or_between(1, MAX_PORT),
    )
    encryption: str = key(
        "starttls",
        "starttls: begins plain and must become encrypted before anything is said; tls: encrypted from the first byte;"
        " none: for a server on this machine. Certificates are checked.",
        rules.one_of("starttls", "tls", "none"),
    )
    username: str = key("", "User at the mail server.", empty="no login")
    password: str = key(
        "",
        "Where that user's password is, never the password itself: env:NAME or file:/absolute/path.",
        rules.secret_reference,
        empty="no login",
    )
