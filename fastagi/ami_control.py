"""The login that acts on calls: moves their limit, hangs them up, and deletes what was kept of those that are settled.

Its user needs `write = call` and reads nothing (Asterisk main/manager.c): Hangup, AbsoluteTimeout and Setvar ask for
`call`. DBDel would need `system`, so a key is deleted by Setvar of the dialplan function DB_DELETE (funcs/func_db.c).

Fails open: without it a call keeps the limit it has, as without AMI; whoever asked tries again.
"""

from __future__ import annotations

import math
import re
from typing import ClassVar, Final

from capconduit.asterisk.ami_codec import AmiRefused
from capconduit.vocab import CAUSE_NORMAL
from fastagi.ami_connection import AmiConnection

MAX_LIMIT_S: Final = 7 * 24 * 3600  # no call lasts longer; a greater absolute timeout is a mistake
MAX_CAUSE: Final = 127

# Hangup takes a Channel that begins with a slash as a pattern over all channels: nothing but TECH/name may pass.
_CHANNEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*/[^\s,]+")
# What DB_DELETE(…) could read as anything else than a path (app.c __ast_app_separate_args) may not stand in one.
_DB_PART: Final = r"""[^\s"'\\()\[\]{}$%/,]+(?: [^\s"'\\()\[\]{}$%/,]+)*"""
_DB_PATH: Final = re.compile(f"{_DB_PART}(?:/{_DB_PART})*")


class AmiControl(AmiConnection):
    """A login for actions on single calls; whatever could mean more than one channel or key is refused unsent."""

    title: ClassVar[str] = "AMI control link"
    keys: ClassVar[str] = "control_username and control_secret"
    rights: str = "`write = call`"

    async def absolute_timeout(self, channel: str, seconds: float) -> None:
        """Let this channel live `seconds` from now at most (ms are kept). Replaces the limit it had.

        Raises AmiRefused (no such channel, a value out of range) or AmiUnavailable (it may have been done).
        """
        if not (math.isfinite(seconds) and 0 < seconds <= MAX_LIMIT_S):
            raise AmiRefused("ami-value-refused", f"{seconds!r} s is not a limit for a call")
        await self._act({"Action": "AbsoluteTimeout", "Channel": channel_name(channel), "Timeout": f"{seconds:.3f}"})

    async def hangup(self, channel: str, cause: int = CAUSE_NORMAL) -> None:
        """Hang up this one channel with a Q.850 cause. Raises AmiRefused or AmiUnavailable (it may have been done)."""
        if not 0 <= cause <= MAX_CAUSE:
            raise AmiRefused("ami-value-refused", f"{cause!r} is not a hangup cause")
        await self._act({"Action": "Hangup", "Channel": channel_name(channel), "Cause": str(cause)})

    async def db_del(self, family: str, key: str) -> None:
        """Delete one key of Asterisk's database; one that is not there is no error (DB_DELETE does not tell)."""
        path = database_path(f"{family}/{key}")
        await self._act({"Action": "Setvar", "Variable": f"DB_DELETE({path})", "Value": "1"})


def channel_name(name: str) -> str:
    """`name`, where it is the name of one channel. Raises AmiRefused."""
    if not _CHANNEL.fullmatch(name):
        raise AmiRefused("ami-value-refused", f"{name!r} is not the name of a channel", "it looks like PJSIP/name-0000")
    return name


def database_path(path: str) -> str:
    """`path`, where it is one in Asterisk's database and nothing else. Raises AmiRefused."""
    if not _DB_PATH.fullmatch(path):
        raise AmiRefused("ami-value-refused", f"{path!r} is not a path in Asterisk's database")
    return path
