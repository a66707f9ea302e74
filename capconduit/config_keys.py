"""How a key of the configuration is declared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

from capconduit.config_rules import Value


def key(default: Value, help: str, check: Callable[[Value], None] | None = None, *, empty: str = "") -> Any:
    """A declared key: its default, its description, its rule, and what an empty value stands for."""
    return field(default=default, metadata={"help": help, "check": check, "empty": empty})
