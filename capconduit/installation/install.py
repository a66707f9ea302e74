"""Putting a set of files in force in Asterisk, or a former one again: whole, seen to be loaded, or undone.

What is in force changes by one rename (versions.py). The operator's files include ours by `#tryinclude`, and get the
line before that rename, so that nothing of ours is read until all of it is. A journal tells the next run what Asterisk
may have read of a change that was cut off; the last set that Asterisk was seen to have loaded is what is gone back to.

Outside dependencies: the file system and Asterisk. **Fails closed**: whatever is not seen to be loaded is undone, and
PeerError says so (exit code 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from capconduit.errors import PeerError, Refused
from capconduit.installation.site import FREEPBX_HOSTS, Site, Wanted
from capconduit.installation.versions import Journal, Versions
from capconduit.render.files import BY_NAME, CONF_FILES, PUBLIC_MODE

NOTHING: Final = "none"  # as a version: nothing of ours in force
BACKUPS: Final = "before"
TOLD_DIFFERENCES: Final = 3
RELOAD_FAILED: Final = "reload-failed"  # the slug of a reload that Asterisk answered, with a failure

Step = Callable[[str], None]


class Peer(Protocol):
    """The Asterisk that reads the files."""

    def prepare(self) -> None:
        """It is there, and it is the one that reads this directory. Raises PeerError."""

    def reload(self, name: str) -> None:
        """It reads this file again, and what goes with it, and no more. Raises PeerError."""

    def differences(self, files: Mapping[str, str]) -> list[str]:
        """What of `files` it has not loaded, or otherwise than written. Raises PeerError where it cannot be asked."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an install would do. `files` is the whole new set; `reload` are those that Asterisk has to read again."""

    before: str | None
    files: Mapping[str, str]
    changed: tuple[str, ...]
    include: Mapping[str, str]
    reload: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Nothing to write and nothing to load."""
        return not self.changed and not self.include and not self.reload


@dataclass(frozen=True, slots=True)
class Done:
    """What was done: the version in force, None for nothing of ours; `seen`: Asterisk was seen to have loaded it."""

    version: str | None
    reloaded: tuple[str, ...]
    seen: bool


def plan_install(versions: Versions, site: Site, wanted: Wanted, only: Iterable[str] = ()) -> Plan:
    """What has to be done for `wanted` (or those files of it that `only` names) to be in force. Changes nothing."""
    before = versions.in_force()
    now = versions.read(before)
    chosen = set(only)
    files = dict(wanted.files) if not chosen else now | {n: t for n, t in wanted.files.items() if n in chosen}
    include = site.missing({name: host for name, host in wanted.hosts.items() if name in files})
    changed = _differing(now, files)
    unsure = {*changed, *_differing(versions.read(_last(versions.history())), files), *include}
    if (journal := versions.journal()) is not None:
        unsure |= set(journal.files)
    return Plan(before, files, tuple(changed), include, tuple(_in_order(unsure)), wanted.left)


def install(
    versions: Versions, site: Site, plan: Plan, peer: Peer | None, now_ms: int, step: Step = lambda _: None
) -> Done:
    """Carry out `plan` under the lock. Without a `peer` nothing is loaded; the next install or rollback does it.

    `step` is told each step when it is done. Raises PeerError when it was rolled back, ConfigError.
    """
    if plan.is_empty:
        return Done(plan.before, (), True)
    after = plan.before
    if plan.changed:
        modes = {name: BY_NAME[name].mode if name in BY_NAME else PUBLIC_MODE for name in plan.files}
        after = versions.write(plan.files, modes, now_ms)
        step("written")
    earlier = versions.journal()
    history = versions.history()
    added = dict.fromkeys((*(earlier.added if earlier else ()), *plan.include))
    journal = Journal("install", _last(history), after, plan.reload, tuple(added))
    versions.begin(journal)
    step("begun")
    for name, host in plan.include.items():
        site.include(name, host, versions.directory / BACKUPS)
        step(f"included {name}")
    if after != plan.before:
        versions.put_in_force(after)
        step("in force")
    if peer is None:
        return Done(after, (), False)
    _load(versions, site, journal, peer, step)
    versions.finish([*history, after] if after is not None and after != _last(history) else history)
    step("finished")
    versions.prune()
    return Done(after, plan.reload, True)


def rollback_target(versions: Versions, to: str | None) -> str | None:
    """The version that a rollback goes to, None for nothing of ours. Raises Refused.

    Without `to`: of an install that was cut off, what was there before it; else the version before the one in force.
    """
    if to == NOTHING:
        return None
    if to is not None:
        names = versions.names()
        fitting = [name for name in names if name == to or name.partition("-")[0].lstrip("0") == to.lstrip("0")]
        if not fitting:
            kept = f"kept are {', '.join(names)}" if names else "nothing was installed yet"
            raise Refused("version-not-found", f"there is no version {to!r}", f"{kept}; or --to none")
        return fitting[0]
    journal = versions.journal()
    if journal is not None:
        return journal.after if journal.verb == "rollback" else journal.before
    history = versions.history()
    if not history and versions.in_force() is None:
        raise Refused("nothing-installed", f"nothing of ours is in force in {versions.config_dir}", "nothing to do")
    return history[-2] if len(history) > 1 else None


def rollback(
    versions: Versions, site: Site, target: str | None, peer: Peer | None, step: Step = lambda _: None
) -> Done:
    """Put a former version in force under the lock, or nothing of ours; seen to be loaded, or undone like an install.

    The operator's lines go with the last of ours. Raises PeerError when it was undone, ConfigError.
    """
    history, earlier, before = versions.history(), versions.journal(), versions.in_force()
    now, then = versions.read(before), versions.read(target)
    unsure = {*_differing(now, then), *_differing(versions.read(_last(history)), then)}
    unsure |= set(earlier.files) if earlier else set()
    include = site.missing({name: site.host(name) for name in then})
    reload = tuple(_in_order({*unsure, *include}))
    added = (*(earlier.added if earlier else ()), *include)
    journal = Journal("rollback", _last(history), target, reload, added)
    versions.begin(journal)
    step("begun")
    for name, host in include.items():
        site.include(name, host, versions.directory / BACKUPS)
        step(f"included {name}")
    versions.put_in_force(target)
    step("in force")
    if peer is None:
        return Done(target, (), False)
    _load(versions, site, journal, peer, step)
    if target is None:
        _leave(site, BY_NAME, step)
    elif added and target != before:
        _leave(site, [name for name in added if name not in then], step)
    versions.finish(_back_to(history, target))
    step("finished")
    versions.prune()
    return Done(target, reload, True)


def _back_to(history: Sequence[str], target: str | None) -> list[str]:
    """The history after going back: what came later is undone, and no version is before it that was after."""
    if target is None:
        return []
    if target in history:
        return list(history[: history.index(target) + 1])
    return [*history, target]


def _leave(site: Site, names: Iterable[str], step: Step) -> None:
    """Takes our lines out of the operator's files."""
    for name in names:
        for host in {name, FREEPBX_HOSTS.get(name, name)}:
            site.exclude(name, host)
        step(f"excluded {name}")


def _load(versions: Versions, site: Site, journal: Journal, peer: Peer, step: Step) -> None:
    """Asterisk reads what is in force and is seen to have it; else what was before is put in force again."""
    try:
        _reload_and_compare(versions.read(journal.after), journal.files, peer, step)
    except (PeerError, KeyboardInterrupt) as error:
        why = error if isinstance(error, PeerError) else PeerError("interrupted", "interrupted")
        raise _undone(versions, site, journal, peer, why, step) from None


def _reload_and_compare(files: Mapping[str, str], reload: Sequence[str], peer: Peer, step: Step) -> None:
    for name in reload:
        try:
            peer.reload(name)
        except PeerError as error:
            # Some modules call it a failure when nothing is left for them.
            if name in files or error.slug != RELOAD_FAILED:
                raise
        step(f"reloaded {name}")
    differences = peer.differences(files)
    if differences:
        more = len(differences) - TOLD_DIFFERENCES
        told = "; ".join(differences[:TOLD_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        raise PeerError("not-loaded", told, "look at Asterisk's log for what it refused")
    step("seen")


def _undone(versions: Versions, site: Site, journal: Journal, peer: Peer, why: PeerError, step: Step) -> PeerError:
    """Puts what was before in force again; the error that says how that went."""
    versions.put_in_force(journal.before)
    step("undone")
    former = "what was there before" if journal.before is None else f"version {journal.before}"
    try:
        _reload_and_compare(versions.read(journal.before), journal.files, peer, step)
    except PeerError as error:
        return PeerError(
            "rollback-not-seen",
            f"{why.message}. On disk {former} is in force again, but Asterisk was not seen to load it: {error.message}",
            "set Asterisk right, then `capconduit rollback` loads it",
        )
    if journal.verb == "install" or journal.before is None:
        # Only now: what was made for our lines would, gone, leave Asterisk with what it read of us.
        _leave(site, journal.added, step)
    versions.finish(versions.history())
    versions.prune()
    return PeerError("rolled-back", f"{why.message}. Rolled back: {former} is in force again", why.hint)


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [name for name in _in_order({*one, *other}) if one.get(name) != other.get(name)]


def _in_order(names: Iterable[str]) -> list[str]:
    """In the order in which Asterisk has to read them."""
    order = {file.name: number for number, file in enumerate(CONF_FILES)}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def _last(history: Sequence[str]) -> str | None:
    return history[-1] if history else None
