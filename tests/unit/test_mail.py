"""Mail: what is built cannot be injected into, what is sent arrives whole, what is not accepted is said."""

from __future__ import annotations

import email
import socket
import stat
import threading
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from capconduit import mail
from capconduit.config import Config, load_config
from capconduit.errors import ConfigError, PeerError, UsageError
from capconduit.mail import MailSettings, build_mail, is_address, mail_settings, parse_address, send_mail

NOW_MS = 1_795_293_000_000


class MailServer:
    """A mail server on loopback that speaks as little SMTP as it must, and remembers what it heard."""

    def __init__(self, *, refuses: str = "", farewell: str = "221 bye") -> None:
        self.commands: list[str] = []
        self.data = b""
        self.refuses, self.farewell = refuses, farewell
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.settimeout(10)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    def serve(self) -> None:
        connection, _ = self.listening.accept()
        connection.settimeout(10)
        with connection, connection.makefile("rwb") as wire:
            self.say(wire, "220 hello")
            for raw in wire:
                line = raw.decode().strip()
                self.commands.append(line)
                if line == "QUIT":
                    self.say(wire, self.farewell)
                    return
                self.answer(wire, line)

    def answer(self, wire: object, line: str) -> None:
        verb = line.split(":")[0].upper()
        if self.refuses and line.upper().startswith(self.refuses.upper()):
            self.say(wire, "550 no\x07such thing")
        elif verb == "DATA":
            self.say(wire, "354 go on")
            while not self.data.endswith(b"\r\n.\r\n"):
                self.data += wire.readline()  # type: ignore[attr-defined]
            self.say(wire, "250 taken")
        elif verb.startswith("AUTH"):
            self.say(wire, "235 welcome")
        else:
            self.say(wire, "250-here\r\n250 AUTH PLAIN" if verb.startswith("EHLO") else "250 fine")

    @staticmethod
    def say(wire: object, text: str) -> None:
        wire.write(text.encode() + b"\r\n")  # type: ignore[attr-defined]
        wire.flush()  # type: ignore[attr-defined]

    def close(self) -> None:
        self.thread.join(10)
        self.listening.close()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[MailServer]:
    made = MailServer(**getattr(request, "param", {}))
    yield made
    made.close()


def smtp(port: int, **more: str) -> MailSettings:
    settings = {"transport": "smtp", "sender": "cc@example.net", "host": "127.0.0.1", "encryption": "none", **more}
    return MailSettings(port=port, **settings)


BY_SENDMAIL = MailSettings(transport="sendmail", sender="cc@example.net")


def message_for(*recipients: str, subject: str = "Yesterday", text: str = "12 calls\n", html: str = "") -> EmailMessage:
    return build_mail(BY_SENDMAIL, recipients, subject, text, now_ms=NOW_MS, html=html)


def sendmail_that(tmp_path: Path, script: str) -> MailSettings:
    program = tmp_path / "sendmail"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return MailSettings(transport="sendmail", sender="cc@example.net", sendmail=str(program))


# Addresses and headers


@pytest.mark.parametrize(
    "text",
    [
        "", "ops", "@example.net", "ops@", "-oQ/tmp@example.net", "a b@example.net", "ops@example.net\nBcc: x@y.z",
        "ops@example.net, x@y.z", "Ops <ops@example.net>", '"a b"@example.net', "ops@-example.net", "o..s@example.net",
        "ops@exam\rple.net", f"{'x' * 65}@example.net", f"ops@{'a.' * 130}net", "öps@example.net", "ops@[127.0.0.1]",
    ],
)  # fmt: skip
def test_what_is_more_or_less_than_one_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert caught.value.slug == "mail-address-invalid"


def test_usual_addresses_are_taken() -> None:
    for address in ("ops@example.net", "root@localhost", "first.last+tag@sub.example.co.uk"):
        assert is_address(address)
    assert parse_address(" ops@example.net ") == "ops@example.net"


@pytest.mark.parametrize("subject", ["a\nBcc: x@y.z", "a\r\n\r\nbody", "a\x00b", "a\u2028b", "a\x85b"])
def test_a_subject_cannot_bring_a_header(subject: str) -> None:
    with pytest.raises(UsageError, match="control characters"):
        message_for("ops@example.net", subject=subject)


def test_a_header_that_somebody_else_built_is_looked_at_before_it_is_sent(tmp_path: Path) -> None:
    bad = EmailMessage(policy.compat32)
    bad["To"] = "ops@example.net"
    bad["Subject"] = "a\nBcc: x@y.z"
    with pytest.raises(UsageError, match="control characters"):
        send_mail(sendmail_that(tmp_path, "exit 9"), bad)


def test_text_and_html_are_two_parts_of_one_message_that_any_server_can_carry() -> None:
    made = message_for("ops@example.net", text="Größe: 12 €\n", html="<p>" + "x" * 3_000 + "</p>")
    raw = made.as_bytes()
    assert raw.isascii()
    assert max(len(line) for line in raw.split(b"\r\n")) <= 998  # RFC 5322, 2.1.1
    back = email.message_from_bytes(raw, policy=policy.default)
    text, html = back.get_body(("plain",)), back.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().splitlines() == ["Größe: 12 €"]
    assert "x" * 3_000 in html.get_content()
    assert back["Auto-Submitted"] == "auto-generated"
    assert back["Date"].datetime.timestamp() * 1_000 == NOW_MS


# Sendmail


def test_sendmail_gets_the_recipients_as_arguments_and_the_message_whole(tmp_path: Path) -> None:
    settings = sendmail_that(tmp_path, f'echo "$@" > {tmp_path}/args; cat > {tmp_path}/mail')
    made = message_for("ops@example.net", "root@localhost", text="one\n.\ntwo\n")
    made["Bcc"] = "quiet@example.net"
    send_mail(settings, made)
    assert (tmp_path / "args").read_text() == "-oi -f cc@example.net ops@example.net root@localhost quiet@example.net\n"
    sent = (tmp_path / "mail").read_bytes()
    assert b"\r" not in sent
    assert b"one\n.\ntwo\n" in sent
    assert b"quiet" not in sent
    assert made["Bcc"] == "quiet@example.net"


def test_a_sendmail_that_fails_says_why(tmp_path: Path) -> None:
    settings = sendmail_that(tmp_path, "printf 'queue \\033[31mfull' >&2; exit 75")
    with pytest.raises(PeerError, match=r"ended with 75: queue  \[31mfull"):
        send_mail(settings, message_for("ops@example.net"))


def test_a_missing_sendmail_says_what_to_do(tmp_path: Path) -> None:
    settings = MailSettings(transport="sendmail", sender="cc@example.net", sendmail=str(tmp_path / "none"))
    with pytest.raises(PeerError) as caught:
        send_mail(settings, message_for("ops@example.net"))
    assert "mail.transport" in caught.value.hint


def test_a_sendmail_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "SENDING_TIMEOUT_S", 0.1)
    with pytest.raises(PeerError, match="did not end within"):
        send_mail(sendmail_that(tmp_path, "exec sleep 30"), message_for("ops@example.net"))


# SMTP


def test_a_server_gets_sender_recipients_and_message(server: MailServer) -> None:
    send_mail(smtp(server.port), message_for("ops@example.net", "root@localhost", text="one\n.\ntwo\n"))
    server.close()
    assert "mail FROM:<cc@example.net>" in [c.split(" size")[0] for c in server.commands]
    assert [c for c in server.commands if c.startswith("rcpt")] == [
        "rcpt TO:<ops@example.net>", "rcpt TO:<root@localhost>",
    ]  # fmt: skip
    assert b"one\r\n..\r\ntwo\r\n" in server.data


@pytest.mark.parametrize("server", [{"farewell": "500 what?"}], indirect=True)
def test_what_was_accepted_is_sent_however_the_farewell_goes(server: MailServer) -> None:
    send_mail(smtp(server.port), message_for("ops@example.net"))


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"refuses": "rcpt"}, "refuses ops@example.net: 550 no such thing"),
        ({"refuses": "mail"}, "550 no such thing"),
        ({"refuses": "auth"}, "refuses the login of 'me': 550 no such thing"),
    ],
    indirect=["server"],
)
def test_a_refusal_is_told_in_the_server_s_words(server: MailServer, said: str) -> None:
    with pytest.raises(PeerError, match=said):
        send_mail(smtp(server.port, username="me", password="pw"), message_for("ops@example.net"))


def test_without_starttls_nothing_is_said_in_the_clear(server: MailServer) -> None:
    with pytest.raises(PeerError, match="STARTTLS"):
        send_mail(
            smtp(server.port, encryption="starttls", username="me", password="pw"), message_for("ops@example.net")
        )
    server.close()
    assert not [c for c in server.commands if not c.upper().startswith("EHLO")]


def test_a_server_that_is_not_there_is_a_peer_that_failed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(PeerError) as caught:
        send_mail(smtp(port), message_for("ops@example.net"))
    assert "mail.port" in caught.value.hint


def test_a_server_that_takes_too_long_on_the_whole_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "SENDING_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        accepted: list[socket.socket] = []
        thread = threading.Thread(target=lambda: greet(silent, accepted))
        thread.start()
        with pytest.raises(PeerError):
            send_mail(smtp(port), message_for("ops@example.net"))
        thread.join(10)
        accepted[0].close()


def greet(listening: socket.socket, accepted: list[socket.socket]) -> None:
    connection, _ = listening.accept()
    accepted.append(connection)
    connection.sendall(b"220 hello\r\n")  # and never again


# Configuration


def configured(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "c.toml"
    file.write_text(f"[mail]\n{text}\n")
    return load_config(file, {"HOME": str(tmp_path)})


def test_the_password_is_looked_up_and_never_shown(tmp_path: Path) -> None:
    text = 'transport = "smtp"\nhost = "mail.example.net"\nusername = "me"\npassword = "env:PW"'
    settings = mail_settings(configured(tmp_path, text), {"PW": "hunter2"})
    assert settings.password == "hunter2"
    assert settings.port == 587
    assert "hunter2" not in repr(settings)
    with pytest.raises(ConfigError, match="PW is not set"):
        mail_settings(configured(tmp_path, text), {})


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ('transport = "smtp"', "mail-incomplete"),
        ('transport = "smtp"\nhost = "h"\nusername = "me"', "mail-incomplete"),
        (
            'transport = "smtp"\nhost = "h"\nusername = "me"\npassword = "env:PW"\nencryption = "none"',
            "mail-unencrypted",
        ),
    ],
)
def test_half_a_configuration_is_refused(tmp_path: Path, text: str, slug: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mail_settings(configured(tmp_path, text), {"PW": "x"})
    assert caught.value.slug == slug


@pytest.mark.parametrize("text", ['sender = "a\\nb@c"', 'sender = "nobody"', 'transport = "pigeon"', 'password = "pw"'])
def test_a_wrong_value_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        configured(tmp_path, text)


def test_without_any_configuration_mail_goes_through_sendmail(tmp_path: Path) -> None:
    settings = mail_settings(configured(tmp_path, ""), {})
    assert settings.transport == "sendmail"
    assert is_address(settings.sender)
