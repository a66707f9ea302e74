"""Whether the daemon can use AMI: reachable, let in, with all the rights it needs and none that it does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from capconduit.doctor.conffile import ConfFile, Section
from capconduit.doctor.findings import CannotTell, Check, Fault, Finding, Matter, Severity, fine, unknown
from capconduit.doctor.scene import AmiUser, Scene

NOBODY: Final = "CapConduit/doctor-00000000"  # a channel that cannot be: whoever may act on it hears that there is none
NO_FAMILY: Final = "capconduit/doctor"
# What the daemon asks of Asterisk, and by which user: fastagi/ami_link.py and fastagi/ami_control.py.
READER_ACTIONS: Final[tuple[tuple[str, Mapping[str, str]], ...]] = (
    ("CoreStatus", {}),
    ("CoreShowChannels", {}),
    ("DBGetTree", {"Family": NO_FAMILY}),
    ("Ping", {}),
)
CONTROL_ACTIONS: Final[tuple[tuple[str, Mapping[str, str]], ...]] = (
    ("AbsoluteTimeout", {"Channel": NOBODY, "Timeout": "1"}),
)
# Not tried, because Asterisk logs a hangup of nobody: looked up among the actions that are open to the user.
CONTROL_LISTED: Final = ("Hangup", "Setvar")
# Classes that a daemon never needs, and what they let their owner do (main/manager.c; CVE-2024-42365 for originate).
DANGEROUS_CLASSES: Final[Mapping[str, str]] = {
    "originate": "place calls, and with them run programs",
    "system": "stop and reload Asterisk, load modules",
    "command": "give any command of the console",
    "config": "read and rewrite Asterisk's files",
    "all": "do everything",
}
_DENIED: Final = re.compile(r"permission denied", re.IGNORECASE)
_PRIVILEGES: Final = re.compile(r"\(Priv:\s*([^)]*)\)")
_EVERYWHERE: Final = frozenset({"0.0.0.0/0", "0.0.0.0/0.0.0.0", "::/0"})

OFF = Fault(
    "ami-off",
    Severity.WARNING,
    "without AMI talk times come from the channels, calls end when their first slice of money is used, and nobody can"
    " hang one up",
)
AWAY = Fault("ami-unreachable", Severity.ERROR, "the daemon cannot extend calls, measure talk, or find lost calls")
REFUSED = Fault("ami-login-refused", Severity.ERROR, "Asterisk does not let the daemon in: it works as without AMI")
NO_SECRET = Fault("ami-secret-missing", Severity.ERROR, "without its AMI secret the daemon does not start")
TOO_FEW = Fault("ami-right-missing", Severity.ERROR, "the daemon asks this of Asterisk while calls last")
TOO_MANY = Fault(
    "ami-right-too-many",
    Severity.ERROR,
    "whoever gets hold of the daemon's secret can do it, too; the daemon never needs it (CVE-2024-42365)",
)
EVENTS_MISSING = Fault(
    "ami-events-missing", Severity.ERROR, "without these events the daemon learns of answers and ends only by asking"
)
STAMPS_MISSING = Fault(
    "ami-timestamps-off", Severity.WARNING, "talk is billed by Asterisk's own instants; without them by when we heard"
)
STRANGER_MIGHTY = Fault(
    "ami-user-mighty",
    Severity.INFO,
    "another user of AMI that may take over Asterisk, and its calls with it, from the addresses that are permitted",
)
STRANGER_OPEN = Fault(
    "ami-user-open", Severity.ERROR, "a user of AMI that may take over Asterisk, from any address that reaches the port"
)
NEEDED_READ: Final = frozenset({"system", "call"})


# --- judging ----------------------------------------------------------------------------------------------------------


def judge_needed(user: str, answers: Mapping[str, tuple[bool, str]]) -> Iterator[Finding]:
    """`answers`: action → (success, message). Only `Permission denied` is a missing right: there is no such channel."""
    denied = [action for action, (success, message) in answers.items() if not success and _DENIED.search(message)]
    for action in denied:
        yield TOO_FEW.found(
            f"AMI user {user} may not do {action}",
            subject=user,
            fix="capconduit install   # or give the user in manager.conf what `capconduit render manager.conf` has",
        )
    if not denied:
        yield fine(f"{user} may do {', '.join(answers)}", user)


def judge_excess(user: str, classes: Sequence[str]) -> Iterator[Finding]:
    """`classes` are those of DANGEROUS_CLASSES that the user is found to have."""
    for name in classes:
        yield TOO_MANY.found(
            f"AMI user {user} has `{name}`: it may {DANGEROUS_CLASSES[name]}",
            subject=user,
            fix=f"take `{name}` from `write` of [{user}] in manager.conf, then: asterisk -rx 'manager reload'",
        )
    if not classes:
        yield fine(f"{user} has none of {', '.join(c for c in DANGEROUS_CLASSES if c != 'all')}", user)


def excess_of_actions(actions: Mapping[str, frozenset[str]]) -> list[str]:
    """The dangerous classes that the actions open to a user prove; `actions`: name → classes, any of which opens it.

    An action that only one class opens is open to whoever has that class. `all` in the list is every class.
    """
    proven = {names - {"all"} for names in actions.values()}
    return [name for name in DANGEROUS_CLASSES if frozenset({name}) in proven]


def judge_users(conf: ConfFile, ours: Sequence[str]) -> Iterator[Finding]:
    """What manager.conf says: our users read what they must, others are not mightier and more open than need be."""
    general = conf.named("general")
    if not general.is_true("timestampevents"):
        yield STAMPS_MISSING.found(
            "timestampevents is off in manager.conf",
            fix="set `timestampevents = yes` in [general] of manager.conf, then: asterisk -rx 'manager reload'",
        )
    users = {s.name: conf.named(s.name) for s in conf.real() if s.name.lower() != "general"}
    if ours and ours[0] in users:
        lacking = NEEDED_READ - _classes(users[ours[0]], "read")
        if lacking and "all" not in _classes(users[ours[0]], "read"):
            yield EVENTS_MISSING.found(
                f"AMI user {ours[0]} does not read {', '.join(sorted(lacking))}",
                subject=ours[0],
                fix=f"set `read = system,call` for [{ours[0]}] in manager.conf, then: asterisk -rx 'manager reload'",
            )
    strangers = {name: user for name, user in users.items() if name not in ours}
    mighty = {name: _classes(user, "write") & DANGEROUS_CLASSES.keys() for name, user in strangers.items()}
    for name, classes in mighty.items():
        if classes:
            yield _stranger(name, classes, strangers[name])
    if not any(mighty.values()):
        yield fine(f"no other user has {', '.join(DANGEROUS_CLASSES)}")


def _stranger(name: str, classes: frozenset[str], user: Section) -> Finding:
    open_to_all = not any(d in _EVERYWHERE for d in user.all("deny")) or any(
        p in _EVERYWHERE for p in user.all("permit")
    )
    fault = STRANGER_OPEN if open_to_all and not user.get("acl") else STRANGER_MIGHTY
    return fault.found(
        f"AMI user {name} has {', '.join(sorted(classes))}{', from any address' if fault is STRANGER_OPEN else ''}",
        subject=name,
        fix=f"in manager.conf give [{name}] `deny = 0.0.0.0/0`, `permit = 127.0.0.1` and only what it needs in `write`,"
        " then: asterisk -rx 'manager reload'",
    )


def _classes(user: Section, key: str) -> frozenset[str]:
    return frozenset(word.strip().lower() for value in user.all(key) for word in value.split(",") if word.strip())


# --- gathering --------------------------------------------------------------------------------------------------------


def parse_actions(fields: Mapping[str, str]) -> Mapping[str, frozenset[str]]:
    """Action → classes that open it, of a ListCommands answer: `Ping: Keepalive command.  (Priv: <none>)`."""
    found = {}
    for name, text in fields.items():
        if match := _PRIVILEGES.search(text):
            found[name] = frozenset(word.strip() for word in match[1].split(",") if word.strip() not in ("", "<none>"))
    return found


def _login(scene: Scene) -> Iterable[Finding]:
    ami = scene.config.ami
    if not ami.enabled:
        missing = "ami.secret file:/etc/capconduit/ami.secret" if ami.host else "ami.host 127.0.0.1"
        yield OFF.found(
            f"{missing.partition(' ')[0]} is empty", fix=f"capconduit config set {missing} && capconduit install"
        )
        return
    for user in _users(scene):
        try:
            logged_in = user()
        except CannotTell as failure:
            if failure.is_for_root:
                raise
            yield _refusal(failure)
        else:
            yield fine(f"logged in at {ami.host}:{ami.port} as {logged_in.name}", logged_in.name)


def _refusal(failure: CannotTell) -> Finding:
    """Why the daemon could not log in either."""
    if "secret" in failure.reason or "environment variable" in failure.reason:
        return NO_SECRET.found(failure.reason, fix="capconduit config check   # says where the secret is looked for")
    fault = REFUSED if "does not let" in failure.reason else AWAY
    return fault.found(failure.reason, fix=f"capconduit install   # {failure.how}")


def _users(scene: Scene) -> list[Callable[[], AmiUser]]:
    return [scene.ami, scene.ami_control] if scene.config.ami.has_control else [scene.ami]


def _rights(scene: Scene) -> Iterable[Finding]:
    reader, control = scene.ami(), scene.ami_control()
    asked = [(reader, READER_ACTIONS), (control, CONTROL_ACTIONS)]
    if control is reader:
        asked = [(reader, READER_ACTIONS + CONTROL_ACTIONS)]
    for user, actions in asked:
        answers = {name: user.ask(name, **fields) for name, fields in actions}
        told = {name: (answer.success, answer.message) for name, answer in answers.items()}
        if user is control:
            is_open = _open_actions(user)
            told |= {name: (name in is_open, "Permission denied by ListCommands") for name in CONTROL_LISTED}
        yield from judge_needed(user.name, told)


def _excess(scene: Scene) -> Iterable[Finding]:
    users = [scene.ami()]
    if scene.config.ami.has_control:
        users.append(scene.ami_control())
    for user in users:
        yield from judge_excess(user.name, excess_of_actions(_open_actions(user)))


def _open_actions(user: AmiUser) -> Mapping[str, frozenset[str]]:
    """What Asterisk lists for this user. Raises CannotTell."""
    actions = parse_actions(user.demand("ListCommands").fields)
    if not actions:
        raise CannotTell("Asterisk does not tell which actions are open", "asterisk -rx 'manager show user NAME'")
    return actions


def _manager_conf(scene: Scene) -> Iterable[Finding]:
    conf = scene.conf("manager.conf")
    ami = scene.config.ami
    if conf is None:
        yield unknown(f"there is no manager.conf in {scene.config.asterisk.config_dir}", "capconduit install")
        return
    ours = [ami.username, ami.control_username] if ami.has_control else [ami.username]
    yield from judge_users(conf, ours)


CHECKS: Final = (
    Check(
        "ami-login",
        Matter.AMI,
        "Asterisk's manager interface answers and lets the daemon in",
        (OFF, AWAY, REFUSED, NO_SECRET),
        _login,
    ),
    Check(
        "ami-rights",
        Matter.AMI,
        "what the daemon asks of Asterisk is allowed; tried on a channel that does not exist",
        (TOO_FEW,),
        _rights,
    ),
    Check(
        "ami-excess",
        Matter.AMI,
        "the daemon's users may not place calls, give commands, change files or stop Asterisk; by Asterisk's own list",
        (TOO_MANY,),
        _excess,
    ),
    Check(
        "ami-users",
        Matter.AMI,
        "manager.conf: events and time stamps for the daemon, and no other user that could take over Asterisk",
        (EVENTS_MISSING, STAMPS_MISSING, STRANGER_MIGHTY, STRANGER_OPEN),
        _manager_conf,
    ),
)
