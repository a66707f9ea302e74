"""A sheet as a mail: text and HTML side by side, the numbers attached as CSV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from capconduit.errors import UsageError
from capconduit_cli.reporting.page import page
from capconduit_cli.reporting.sheet import Sheet
from capconduit_cli.reporting.text import Paper, lines_of, plain
from capconduit_cli.text import printable

if TYPE_CHECKING:
    from capconduit.config import Config


def check_addresses(addresses: Sequence[str]) -> None:
    """Raises UsageError for one that is no plain address, before anything is done."""
    from capconduit.mail import MAX_RECIPIENTS, parse_address

    for address in addresses:
        parse_address(address)
    if len(addresses) > MAX_RECIPIENTS:
        raise UsageError("mail-recipients", f"{len(addresses)} recipients", f"give at most {MAX_RECIPIENTS}")


def mail_sheet(
    config: Config, addresses: Sequence[str], sheet: Sheet, csv: str, now_ms: int, crossed: Sequence[str]
) -> None:
    """Send a sheet; `crossed` thresholds are told in the subject. Raises ConfigError, PeerError."""
    from capconduit.mail import build_mail, mail_settings, send_mail

    settings = mail_settings(config, os.environ)
    subject = f"[{', '.join(crossed)}] {sheet.title}" if crossed else sheet.title
    message = build_mail(
        settings,
        addresses,
        printable(subject),
        plain(lines_of(sheet, Paper())),
        html=page(sheet),
        attachments=[("report.csv", "csv", csv)],
        now_ms=now_ms,
    )
    send_mail(settings, message)
