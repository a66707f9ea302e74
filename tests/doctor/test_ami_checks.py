"""AMI: let in, with the rights that are needed and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from capconduit.doctor import ami
from capconduit.doctor.checks import chosen
from capconduit.doctor.conffile import parse_conf
from capconduit.doctor.findings import Severity
from capconduit.doctor.run import examine
from capconduit.doctor.scene import AmiUser
from tests.doctor.facts import FakeAmi, answer, config, ids, scene

ACTIONS = {
    "Ping": "Keepalive command.  (Priv: <none>)",
    "CoreStatus": "Show PBX core status variables.  (Priv: system,reporting,all)",
    "Hangup": "Hangup channel.  (Priv: system,call,all)",
    "Setvar": "Sets a channel variable.  (Priv: call,all)",
}
ON = config(ami={"secret": "env:SECRET"})
ENV = {"SECRET": "a-long-and-winding-secret"}


def test_only_a_denied_action_is_a_missing_right() -> None:
    answers = {"CoreStatus": (True, ""), "AbsoluteTimeout": (False, "No such channel")}
    assert ids(ami.judge_needed("capconduit", answers)) == []
    (finding,) = ami.judge_needed("capconduit", answers | {"DBGetTree": (False, "Permission denied")})
    assert finding.id == "ami-right-missing"
    assert "DBGetTree" in finding.found


def test_the_classes_of_a_user_follow_from_the_actions_that_are_open() -> None:
    open_now = ami.parse_actions(ACTIONS)
    assert open_now["Ping"] == frozenset()
    assert ami.excess_of_actions(open_now) == []
    more = ami.parse_actions(
        ACTIONS
        | {
            "Originate": "Originate a call.  (Priv: originate,all)",
            "Command": "Execute Asterisk CLI Command.  (Priv: command,all)",
            "GetConfig": "Retrieve configuration.  (Priv: system,config,all)",
        }
    )
    assert ami.excess_of_actions(more) == ["originate", "command"]


def test_each_class_too_many_is_an_error_with_its_fix() -> None:
    found = list(ami.judge_excess("capconduit", ["originate", "system"]))
    assert ids(found) == ["ami-right-too-many"] * 2
    assert {f.severity for f in found} == {Severity.ERROR}
    assert "[capconduit] in manager.conf" in found[0].fix
    assert ids(ami.judge_excess("capconduit", [])) == []


GENERAL = "[general]\ntimestampevents = yes\n"
OURS = "[capconduit]\nsecret = x\nread = system,call\nwrite = call,reporting\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GENERAL + OURS, []),
        ("[general]\n" + OURS, ["ami-timestamps-off"]),
        (GENERAL + "[capconduit]\nread = system\n", ["ami-events-missing"]),
        (GENERAL + "[capconduit]\nread = all\n", []),
        (GENERAL + OURS + "[admin]\nwrite = all\n", ["ami-user-open"]),
        (GENERAL + OURS + "[admin]\nwrite = all\ndeny = 0.0.0.0/0\npermit = 0.0.0.0/0\n", ["ami-user-open"]),
        (GENERAL + OURS + "[admin]\nwrite = system\ndeny = 0.0.0.0/0.0.0.0\npermit = 127.0.0.1\n", ["ami-user-mighty"]),
        (GENERAL + OURS + "[admin]\nwrite = config\nacl = inside\n", ["ami-user-mighty"]),
        (GENERAL + OURS + "[clerk]\nread = call\nwrite = reporting\n", []),
        (GENERAL + OURS + "[base](!)\nwrite = all\n", []),
        (GENERAL + OURS + "[base](!)\nwrite = originate\n[caller](base)\nsecret = x\n", ["ami-user-open"]),
    ],
)
def test_what_manager_conf_says(text: str, expected: list[str]) -> None:
    assert ids(ami.judge_users(parse_conf(text), ["capconduit"])) == expected


def run(slug: str, **doors: object) -> list[str]:
    return ids(examine(scene(ON, env=ENV, **doors), chosen([slug], [])))


def test_without_ami_it_is_said_what_is_lost() -> None:
    (finding,) = examine(scene(), chosen(["ami-login"], []))
    assert (finding.id, finding.severity) == ("ami-off", Severity.WARNING)


def test_an_ami_that_is_away_is_an_error_and_the_rights_are_unknown() -> None:
    assert run("ami-login") == ["ami-unreachable"]
    (finding,) = examine(scene(ON, env=ENV), chosen(["ami-rights"], []))
    assert finding.severity is Severity.UNKNOWN


def test_a_secret_that_is_missing_is_an_error_and_one_that_is_hidden_unknown(tmp_path: Path) -> None:
    missing = config(ami={"secret": f"file:{tmp_path}/absent"})
    assert ids(examine(scene(missing), chosen(["ami-login"], []))) == ["ami-secret-missing"]
    assert ids(examine(scene(ON), chosen(["ami-login"], []))) == ["ami-secret-missing"]

    def hidden(name: str, secret: str) -> AmiUser:
        raise PermissionError(13, "Permission denied")

    (finding,) = examine(scene(ON, env=ENV, open_ami=hidden), chosen(["ami-login"], []))
    assert (finding.severity, finding.fix) == (Severity.UNKNOWN, "sudo capconduit doctor")


def test_rights_are_tried_on_a_channel_that_cannot_be() -> None:
    given = {name: answer() for name in ("CoreStatus", "CoreShowChannels", "DBGetTree", "Ping", "AbsoluteTimeout")}
    fake = FakeAmi(given | {"ListCommands": answer(ACTIONS)})
    assert run("ami-rights", open_ami=fake.user) == []
    assert run("ami-excess", open_ami=fake.user) == []
    channels = [fields["Channel"] for _, fields in fake.asked if "Channel" in fields]
    assert channels == [ami.NOBODY]
    assert "Hangup" not in [action for action, _ in fake.asked]


def test_a_user_without_reporting_is_told_apart() -> None:
    fake = FakeAmi({"Ping": answer(), "AbsoluteTimeout": answer(), "ListCommands": answer(ACTIONS)})
    assert run("ami-rights", open_ami=fake.user) == ["ami-right-missing"] * 3


def test_two_users_are_asked_each_for_its_own() -> None:
    both = config(ami={"secret": "env:SECRET", "control_username": "hands", "control_secret": "env:SECRET"})
    given = {name: answer() for name in ("CoreStatus", "CoreShowChannels", "DBGetTree", "Ping", "AbsoluteTimeout")}
    fakes = {
        "capconduit": FakeAmi(given),
        "hands": FakeAmi({"AbsoluteTimeout": answer(), "ListCommands": answer(ACTIONS)}),
    }
    made = scene(both, env=ENV, open_ami=lambda name, secret: fakes[name].user(name, secret))
    assert ids(examine(made, chosen(["ami-rights"], []))) == []
    assert [action for action, _ in fakes["hands"].asked] == ["AbsoluteTimeout", "ListCommands"]
    assert "AbsoluteTimeout" not in [action for action, _ in fakes["capconduit"].asked]


def test_the_secret_is_never_told() -> None:
    findings = list(examine(scene(ON, env={"SECRET": "hunter2"}), chosen(["ami", "secrets"], [])))
    assert "hunter2" not in str(findings)
