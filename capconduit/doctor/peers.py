"""The real doors of a run: Asterisk's AMI and console, the rendering, systemd. Each wait is bounded.

**Fails closed**: what does not answer raises PeerError or OSError, which a Source makes into CannotTell.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from capconduit.asterisk.ami_codec import AmiRefused
from capconduit.asterisk.console import Console
from capconduit.asterisk.manager import Manager
from capconduit.config import Config
from capconduit.doctor.findings import CannotTell
from capconduit.doctor.scene import AmiAnswer, AmiUser
from capconduit.errors import Refused

if TYPE_CHECKING:
    from capconduit.services.office import Office

SYSTEMCTL_S: Final = 5.0
CONSOLE_S: Final = 5.0


def open_ami(config: Config, username: str, secret: str) -> AmiUser:
    """Log in as a user. Raises PeerError."""
    manager = Manager(config.ami.host, config.ami.port, username, secret)
    manager.__enter__()

    def ask(action: str, fields: Mapping[str, str]) -> AmiAnswer:
        try:
            reply = manager.action(action, **fields)
        except AmiRefused as error:
            if error.slug != "ami-refused":
                raise
            return AmiAnswer(False, error.message.partition(": ")[2], {}, ())
        return AmiAnswer(True, reply.message, reply.fields, reply.events)

    return AmiUser(username, ask, lambda: manager.__exit__(None, None, None))


def console_of(config: Config) -> Console:
    """The console of the Asterisk that the configuration means."""
    main_config = Path(config.asterisk.main_config) if config.asterisk.main_config else None
    return Console(config.asterisk.program, main_config, CONSOLE_S)


def render(config: Config, office: Office, env: Mapping[str, str]) -> Mapping[str, str]:
    """Asterisk's files as they are to be now."""
    from capconduit.render.engine import render_all
    from capconduit.render.from_config import render_context, templates_dir
    from capconduit.services.trunks import list_trunks

    return render_all(render_context(config, list_trunks(office), env), templates_dir(config))


def differences(config: Config, files: Mapping[str, str]) -> Sequence[str]:
    """What of rendered files Asterisk has not loaded, or otherwise, by its console. Raises PeerError.

    Beside files of the operator's own, ours are compared as `capconduit install` fits them in.
    """
    from capconduit.installation.live import LiveAsterisk
    from capconduit.installation.site import FREEPBX_SIGN, Site

    place = Path(config.asterisk.config_dir)
    try:
        files = Site(place, freepbx=(place / FREEPBX_SIGN).exists()).wanted(files).files
    except Refused as refused:
        if refused.slug != "rendered-in-place":  # by `capconduit render --out`: then they are whole
            raise
    return LiveAsterisk(console_of(config), place).differences(files)


def systemctl(unit: str) -> Mapping[str, str]:
    """Restart and WatchdogUSec of a unit. Raises CannotTell."""
    command = ["systemctl", "show", "--property=Restart", "--property=WatchdogUSec", "--", unit]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SYSTEMCTL_S, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotTell(f"systemctl: {error}", " ".join(command)) from None
    if done.returncode != 0:
        raise CannotTell(f"systemctl: {done.stderr.strip()[:200]}", " ".join(command))
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
