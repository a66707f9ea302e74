"""Text from Asterisk as the daemon keeps it."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from fastagi.texts import clean


def test_control_characters_are_left_out_and_nothing_else() -> None:
    for character in map(chr, range(sys.maxunicode + 1)):
        kept = "" if unicodedata.category(character) == "Cc" else character
        assert clean(f"a{character}b") == f"a{kept}b"


@pytest.mark.parametrize(
    ("text", "kept"), [("  a b\t", "a b"), ("\x00\n", ""), ("", ""), ("a" * 300, "a" * 256), ("\x1b[2Jx", "[2Jx")]
)
def test_text_is_bounded_and_stripped(text: str, kept: str) -> None:
    assert clean(text) == kept
