"""Signatures of what is sent: HMAC-SHA256 over the timestamp, a dot and the body, one for each secret in force.

The receiver recomputes it with its secret, compares in constant time, and refuses a timestamp that is too old, so that
what was overheard cannot be sent again later. While a secret is exchanged both sign, and either is enough.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

ID_HEADER: Final = "CapConduit-Event-Id"
KIND_HEADER: Final = "CapConduit-Event-Kind"
ATTEMPT_HEADER: Final = "CapConduit-Attempt"
TIMESTAMP_HEADER: Final = "CapConduit-Timestamp"
SIGNATURE_HEADER: Final = "CapConduit-Signature"
SCHEME: Final = "v1="
TOLERANCE_S: Final = 300  # how old a timestamp may be that a receiver takes


def signature(secret: str, timestamp_s: int, body: bytes) -> str:
    """One signature, with its scheme."""
    signed = b"%d." % timestamp_s + body
    return SCHEME + hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()


def sign(secrets: Sequence[str], timestamp_s: int, body: bytes) -> str:
    """The value of the signature's header: those of all secrets, with commas between."""
    return ",".join(signature(secret, timestamp_s, body) for secret in secrets)


def is_genuine(header: str, timestamp: str, body: bytes, secret: str, now_s: int) -> bool:
    """Whether a request was signed with `secret` a short while ago; what a receiver asks."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        return False
    expected = signature(secret, int(timestamp), body).encode()
    return any(hmac.compare_digest(expected, given.strip().encode("utf-8", "replace")) for given in header.split(","))
