"""One picture of the floor, for scripts: the daemon's, or while it is away what the database knows.

Failure policy: fails open to the database, and says so (`"stale": true`). Where neither answers it fails closed.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from capconduit.config import Config
from capconduit.errors import DatabaseError, PeerError
from capconduit_cli.control import PICTURE_BYTES, ask_daemon
from capconduit_cli.tui.stale import last_known

FIRST_PICTURE_S: Final = 12.0  # the daemon gives itself 10 s for the first of a large floor


def once(config: Config, tenant: str) -> dict[str, Any]:
    """PICTURE (docs/control.md) with `stale`, and `stale_reason`: why, empty where it is not.

    Raises PeerError where neither the daemon nor the database answers, and what the daemon refuses.
    """
    try:
        picture = ask_daemon(
            config.control.socket,
            f"/snapshot?tenant={quote(tenant)}",
            most_bytes=PICTURE_BYTES,
            timeout_s=FIRST_PICTURE_S,
        )
    except PeerError as away:
        try:
            return {**last_known(config, tenant)(), "stale": True, "stale_reason": away.message}
        except DatabaseError as error:
            raise PeerError(away.slug, f"{away.message}; and {error.message}", away.hint) from None
    return {**picture, "stale": False, "stale_reason": ""}
