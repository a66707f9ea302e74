"""Amounts as people write them on the command line, with the currency they named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import typer

from capconduit.errors import UsageError
from capconduit.units import parse_money

_CODE_LENGTH = 3


@dataclass(frozen=True, slots=True)
class Amount:
    """Micros, and the ISO code that was written behind them (empty where none was)."""

    micros: int
    currency: str

    def within(self, currency: str) -> int:
        """The micros, if they are in `currency` or in none that was named. Raises UsageError."""
        if self.currency and self.currency != currency:
            raise UsageError(
                "currency-mismatch",
                f"the amount is in {self.currency}, not in {currency}",
                f"give it in {currency}",
            )
        return self.micros


def parse_amount(text: str) -> Amount:
    """`25`, `25.50`, `25.50 USD`. Raises UsageError."""
    return _amount(text, signed=False)


def parse_signed_amount(text: str) -> Amount:
    """The same, with a sign where it is wanted: `-5`. Raises UsageError."""
    return _amount(text, signed=True)


def _amount(text: str, *, signed: bool) -> Amount:
    micros = parse_money(text, signed=signed)
    code = text.strip()[-_CODE_LENGTH:]
    return Amount(micros, code.upper() if code.isalpha() else "")


def amount_option(*names: str, help: str, **more: Any) -> Any:
    """An option whose value is an Amount: `fee: Annotated[Amount | None, amount_option("--connect-fee", help="...")]`.

    The command calls `within` with the currency of the account or rate.
    """
    return typer.Option(*names, metavar="AMOUNT", parser=parse_amount, help=help, **more)


def one_currency(named: str | None, *amounts: Amount | None, default: str) -> str:
    """The currency of a new account or rate: the one `named`, else that of the amounts, else `default`.

    Whether all amounts are in it is for `within` to say.
    """
    for amount in amounts:
        if named is None and amount is not None and amount.currency:
            return amount.currency
    return named.upper() if named is not None else default
