"""Mail: a message is built so that nothing can be injected into it, and handed to sendmail or a mail server.

Headers are untrusted text (a seller's name may be in a subject): control characters are refused, never repaired.
Addresses are plain ASCII `local@domain` without display names, so that none can end up as an option of sendmail or a
second recipient. **Fails closed**: what was not accepted by the peer raises PeerError, and nothing is sent twice here,
because a connection that broke after the last byte may have delivered; who may repeat is the caller's decision.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from capconduit.config import Config, resolve_secret
from capconduit.errors import ConfigError, PeerError, UsageError

if TYPE_CHECKING:
    import smtplib
    from email.message import EmailMessage

PEER_TIMEOUT_S: Final = 20  # one answer of a mail server
SENDING_TIMEOUT_S: Final = 60  # the whole exchange, also with sendmail
MAX_MESSAGE_BYTES: Final = 10_000_000  # what most mail servers take (postfix: message_size_limit 10240000)
MAX_RECIPIENTS: Final = 50
MAX_ADDRESS_LENGTH: Final = 254  # RFC 5321, 4.5.3.1.3: a path of 256 with its angle brackets
MAX_LOCAL_LENGTH: Final = 64  # RFC 5321, 4.5.3.1.1
MAX_SUBJECT_LENGTH: Final = 200
MAX_REASON_LENGTH: Final = 300

USUAL_PORTS: Final[Mapping[str, int]] = {"starttls": 587, "tls": 465, "none": 25}
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

# Dot-atoms only (RFC 5322, 3.2.3) that do not begin with "-": an address is also an argument of sendmail.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LOCAL = re.compile(r"(?!-)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_DOMAIN = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class MailSettings:
    """How mail leaves: resolved from the configuration, ready to use. The password is never shown."""

    transport: str  # sendmail or smtp
    sender: str
    sendmail: str = "/usr/sbin/sendmail"
    host: str = ""
    port: int = 0
    encryption: str = "starttls"
    username: str = ""
    password: str = field(default="", repr=False)


def mail_settings(config: Config, env: Mapping[str, str]) -> MailSettings:
    """What [mail] says, with its secret looked up. Raises ConfigError.

    A password is never sent unencrypted, except to a server on this machine.
    """
    mail = config.mail
    if mail.transport == "smtp" and not mail.host:
        raise ConfigError("mail-incomplete", "mail.transport is smtp and mail.host is empty", "set mail.host")
    if bool(mail.username) != bool(mail.password):
        missing = "mail.password" if mail.username else "mail.username"
        raise ConfigError("mail-incomplete", f"{missing} is empty and its other half is not", "set both or neither")
    if mail.transport == "smtp" and mail.password and mail.encryption == "none" and mail.host not in LOOPBACK:
        raise ConfigError(
            "mail-unencrypted",
            f"the password of {mail.username!r} would go to {mail.host!r} unencrypted",
            "set mail.encryption to starttls or tls",
        )
    return MailSettings(
        transport=mail.transport,
        sender=mail.sender or f"capconduit@{_this_machine()}",
        sendmail=mail.sendmail,
        host=mail.host,
        port=mail.port or USUAL_PORTS[mail.encryption],
        encryption=mail.encryption,
        username=mail.username,
        password=resolve_secret(mail.password, env) if mail.transport == "smtp" and mail.password else "",
    )


def _this_machine() -> str:
    name = os.uname().nodename
    return name if _DOMAIN.fullmatch(name) else "localhost"


# Building ----------------------------------------------------------------------------------------------------------


def is_address(text: str) -> bool:
    """Whether `text` is one plain `local@domain` (ASCII, no display name, no quoting, no address literal)."""
    local, at, domain = text.rpartition("@")
    return bool(
        at
        and len(text) <= MAX_ADDRESS_LENGTH
        and len(local) <= MAX_LOCAL_LENGTH
        and _LOCAL.fullmatch(local)
        and _DOMAIN.fullmatch(domain)
    )


def parse_address(text: str) -> str:
    """`text` as a mail address. Raises UsageError: a line break in it would be a header of somebody else's choice."""
    address = text.strip(" ")
    if not is_address(address):
        raise UsageError(
            "mail-address-invalid", f"{text[:80]!r} is not a mail address", "write it like ops@example.net"
        )
    return address


def build_mail(
    settings: MailSettings,
    recipients: Sequence[str],
    subject: str,
    text: str,
    *,
    now_ms: int,
    html: str = "",
    attachments: Sequence[tuple[str, str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> EmailMessage:
    """A message with a text part, and with an HTML part beside it where `html` is given.

    `attachments` are (file name, subtype of text such as "csv", content). Marked as made by a machine (RFC 3834), so
    that no absence notice answers it. Raises UsageError for an address, subject or header that could inject something.
    """
    from email import policy
    from email.message import EmailMessage
    from email.utils import formatdate, make_msgid

    if not 1 <= len(recipients) <= MAX_RECIPIENTS:
        raise UsageError("mail-recipients", f"{len(recipients)} recipients", f"give 1 to {MAX_RECIPIENTS}")
    message = EmailMessage(policy.SMTP.clone(cte_type="7bit"))
    message["From"] = parse_address(settings.sender)
    message["To"] = ", ".join(parse_address(address) for address in recipients)
    message["Subject"] = clean_header("subject", subject)[:MAX_SUBJECT_LENGTH]
    message["Date"] = formatdate(now_ms // 1_000)
    message["Message-ID"] = make_msgid(domain=settings.sender.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    for name, value in (headers or {}).items():
        message[name] = clean_header(name, value)
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    for name, subtype, content in attachments:
        message.add_attachment(content, subtype=subtype, filename=clean_header("file name", name))
    return message


def clean_header(name: str, value: str) -> str:
    """`value` as it is, when it is one line of text. Raises UsageError."""
    if _CONTROL.search(value):
        raise UsageError(
            "mail-header-invalid", f"the {name} {value[:80]!r} has control characters", "it must be one line of text"
        )
    return value


# Sending -----------------------------------------------------------------------------------------------------------


def send_mail(settings: MailSettings, message: EmailMessage) -> None:
    """Hand `message` to sendmail or the mail server; returns when it was accepted for all of To, Cc and Bcc.

    Bcc is not sent along. Blocks for about SENDING_TIMEOUT_S at most. Raises PeerError when it was not accepted (where
    a server refuses some recipients only, the others have it), UsageError when an address or header could inject
    something.
    """
    recipients = _recipients(message)
    raw = _flattened(message, "\r\n" if settings.transport == "smtp" else "\n")
    if settings.transport == "smtp":
        _by_smtp(settings, recipients, raw)
    else:
        _by_sendmail(settings, recipients, raw)


def _recipients(message: EmailMessage) -> list[str]:
    from email.utils import getaddresses

    for name, value in message.items():
        clean_header(name, str(value))
    given = [str(value) for name in ("To", "Cc", "Bcc") for value in message.get_all(name, [])]
    found = list(dict.fromkeys(parse_address(address) for _, address in getaddresses(given)))
    if not 1 <= len(found) <= MAX_RECIPIENTS:
        raise UsageError("mail-recipients", f"{len(found)} recipients", f"give 1 to {MAX_RECIPIENTS}")
    return found


def _flattened(message: EmailMessage, line_end: str) -> bytes:
    import copy

    sent = copy.deepcopy(message)  # the caller's keeps its Bcc
    del sent["Bcc"]
    raw = sent.as_bytes(policy=message.policy.clone(linesep=line_end))
    if len(raw) > MAX_MESSAGE_BYTES:
        raise UsageError(
            "mail-too-large", f"the mail has {len(raw)} bytes", f"at most {MAX_MESSAGE_BYTES} can be sent: ask for less"
        )
    return raw


def _by_sendmail(settings: MailSettings, recipients: Sequence[str], raw: bytes) -> None:
    """-oi: a line with a single dot does not end the message; recipients are arguments, not read from headers (-t)."""
    command = [settings.sendmail, "-oi", "-f", parse_address(settings.sender), *recipients]
    with tempfile.TemporaryFile() as told:
        try:
            done = subprocess.run(
                command, input=raw, stdout=subprocess.DEVNULL, stderr=told, timeout=SENDING_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise _not_sent(f"{settings.sendmail} did not end within {SENDING_TIMEOUT_S} s", "see its log") from None
        except OSError as error:
            raise _not_sent(
                f"cannot run {settings.sendmail}: {error.strerror}",
                "install a mail program (postfix, exim, msmtp-mta), or set mail.transport to smtp",
            ) from None
        if done.returncode:
            told.seek(0)
            reason = _printable(told.read(MAX_REASON_LENGTH).decode("utf-8", "replace")) or "no reason given"
            raise _not_sent(f"{settings.sendmail} ended with {done.returncode}: {reason}", "see its log")


def _by_smtp(settings: MailSettings, recipients: Sequence[str], raw: bytes) -> None:
    import smtplib

    where = f"{settings.host}:{settings.port}"
    try:
        with _connected(settings) as client:
            if settings.username:
                client.login(settings.username, settings.password)
            refused = client.sendmail(parse_address(settings.sender), recipients, raw)
    except smtplib.SMTPRecipientsRefused as error:
        refused = error.recipients
    except smtplib.SMTPAuthenticationError as error:
        told = _answer(error.smtp_code, error.smtp_error)
        raise _not_sent(
            f"{where} refuses the login of {settings.username!r}: {told}", "check mail.username and mail.password"
        ) from None
    except smtplib.SMTPResponseException as error:
        raise _not_sent(f"{where} answers {_answer(error.smtp_code, error.smtp_error)}", "see its log") from None
    except (smtplib.SMTPException, OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = _printable(str(error)) or type(error).__name__
        raise _not_sent(f"{where}: {reason}", "check mail.host, mail.port and mail.encryption") from None
    if refused:
        address, (code, text) = next(iter(refused.items()))
        raise _not_sent(f"{where} refuses {address}: {_answer(code, text)}", "check the address")


@contextmanager
def _connected(settings: MailSettings) -> Iterator[smtplib.SMTP]:
    """A connection that is encrypted as it should be; one that takes too long on the whole is cut."""
    import smtplib
    import ssl

    machine = _this_machine()
    name = machine if "." in machine else "[127.0.0.1]"  # RFC 5321, 4.1.3; smtplib would ask DNS, which may hang
    context = None if settings.encryption == "none" else ssl.create_default_context()
    client: smtplib.SMTP
    if settings.encryption == "tls":
        client = smtplib.SMTP_SSL(
            settings.host, settings.port, local_hostname=name, timeout=PEER_TIMEOUT_S, context=context
        )
    else:
        client = smtplib.SMTP(settings.host, settings.port, local_hostname=name, timeout=PEER_TIMEOUT_S)
    cutter = threading.Timer(SENDING_TIMEOUT_S, _cut, [client])
    cutter.daemon = True
    cutter.start()
    try:
        if settings.encryption == "starttls":
            client.starttls(context=context)  # raises where the server does not offer it: never falls back to plain
        yield client
        with suppress(smtplib.SMTPException, OSError):  # what was accepted stays so, however the farewell goes
            client.quit()
    finally:
        cutter.cancel()
        client.close()


def _cut(client: smtplib.SMTP) -> None:
    import socket

    sock = client.sock
    if sock is not None:
        with suppress(OSError):  # it may be closed already
            sock.shutdown(socket.SHUT_RDWR)


def _answer(code: int, text: Any) -> str:
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return f"{code} {_printable(shown)}".strip()


def _printable(text: str) -> str:
    return _CONTROL.sub(" ", text).strip()[:MAX_REASON_LENGTH]


def _not_sent(reason: str, hint: str) -> PeerError:
    return PeerError("mail-not-sent", f"the mail was not sent: {reason}", hint)
