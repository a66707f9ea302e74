"""The rendered files: what each is for, who may read it, how Asterisk takes it in, how an existing file includes it.

For an Asterisk of our own the files are whole: they are its configuration. For one that has files already, `install`
puts ours into a directory of their own and one line into the operator's; see capconduit/installation/parts.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
INCLUDE_DIR: Final = "capconduit"  # below Asterisk's directory; #include counts from there, whoever includes


class Need(StrEnum):
    """Which Asterisk a file is rendered for."""

    ALWAYS = "always"  # CapConduit does not work without it
    RTP_RANGE = "rtp_range"  # where asterisk.rtp_range is given, and with `--all`
    VOICE = "voice"  # where voice.url is given, and Asterisk can
    OWN = "own"  # with `--all`: for an Asterisk that does nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfFile:
    """One rendered file.

    `reload` is the narrowest CLI command after which Asterisk knows its new content. `includable` False: the file holds
    nothing but settings of Asterisk as a whole, which the first file to say them decides; where one is there already,
    it is the operator's.
    """

    name: str
    purpose: str
    reload: str
    need: Need = Need.ALWAYS
    secret: bool = False
    includable: bool = True

    @property
    def mode(self) -> int:
        """Permissions: what holds secrets is for its owner alone."""
        return SECRET_MODE if self.secret else PUBLIC_MODE

    @property
    def include_line(self) -> str:
        """The line that takes it into the operator's file of the same name, at its end; empty where there is none.

        `#tryinclude`: an `#include` whose file is gone would stop the operator's own file from loading.
        """
        return f"#tryinclude {INCLUDE_DIR}/{self.name}" if self.includable else ""


# The order is that of writing and reloading: what the dialplan needs comes before the dialplan.
CONF_FILES: Final = (
    ConfFile(
        name="rtp.conf",
        purpose="ports and checks of media",
        reload="module reload res_rtp_asterisk.so",
        need=Need.RTP_RANGE,
        includable=False,
    ),
    ConfFile(
        name="pjsip.conf",
        purpose="transports, the SIP trunks, the endpoint for targets given as a SIP URI",
        reload="module reload res_pjsip.so",
        secret=True,
    ),
    ConfFile(name="iax.conf", purpose="the IAX2 trunks", reload="iax2 reload", secret=True),
    ConfFile(
        name="cdr.conf",
        purpose="a record of every call, answered or not, written at once",
        reload="module reload cdr",
        includable=False,
    ),
    ConfFile(
        name="cdr_custom.conf",
        purpose="the second witness: cdr-custom/capconduit.csv",
        reload="module reload cdr_custom.so",
    ),
    ConfFile(
        name="cel.conf",
        purpose="channel event logging, off",
        reload="module reload cel",
        need=Need.OWN,
        includable=False,
    ),
    ConfFile(
        name="logger.conf",
        purpose="log files, security events in one of their own",
        reload="logger reload",
        need=Need.OWN,
        includable=False,
    ),
    ConfFile(
        name="http.conf", purpose="the HTTP server, off", reload="module reload http", need=Need.OWN, includable=False
    ),
    ConfFile(
        name="ari.conf", purpose="the REST interface, off", reload="module reload res_ari.so", need=Need.OWN,
        includable=False,
    ),
    ConfFile(
        name="websocket_client.conf",
        purpose="where the process that speaks for agents is",
        reload="module reload res_websocket_client.so",
        need=Need.VOICE,
    ),
    ConfFile(name="manager.conf", purpose="the daemon's AMI users", reload="manager reload", secret=True),
    ConfFile(name="extensions.conf", purpose="the dialplan of every call", reload="dialplan reload"),
)  # fmt: skip
BY_NAME: Final = {file.name: file for file in CONF_FILES}
