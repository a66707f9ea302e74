"""Notifications end to end: found by the daemon, told once by every channel, listed and read."""

from __future__ import annotations

import json
from email import message_from_bytes
from pathlib import Path

import pytest

from capconduit.domain.deliveries import Notification
from capconduit.domain.model import Node, TargetState
from capconduit.errors import NotFound, Refused, UsageError
from capconduit.mail import MailSettings
from capconduit.services import balances, campaigns, caps, notifications, rates, requests, sellers, targets, users
from capconduit.services.abuse import tell as tell_abuse
from capconduit.services.notifications import add_rule, list_notifications, read_notifications, remove_rule, set_rule
from capconduit.store.open import open_store
from capconduit.vocab import CapMetric, CapScope, EventKind, NoticeChannel, NoticeKind, TargetKind, UserRole
from fastagi.outwards import Outwards, Place
from tests.outward.receiver import Deadline, LoopbackReceiver
from tests.outward.rig import OutwardRig, working
from tests.outward.test_webhook_behaviour import genuine

DOLLAR = 1_000_000


@pytest.fixture
def rig(tmp_path: Path) -> OutwardRig:
    made = OutwardRig(open_store(f"sqlite:///{tmp_path}/store.sqlite", create=True))
    sellers.add_seller(made.office, "acme", low_balance_micros=10 * DOLLAR)
    sellers.add_seller(made.office, "globex", low_balance_micros=10 * DOLLAR)
    for seller in ("acme", "globex"):
        balances.adjust(made.office, seller, 25 * DOLLAR, reason="wire")
    return made


def told(rig: OutwardRig, kind: NoticeKind | None = None, user: str = "") -> list[Notification]:
    return [n for n in list_notifications(rig.office, user=user) if kind is None or n.kind is kind]


def until_told(rig: OutwardRig, kind: NoticeKind, count: int) -> list[Notification]:
    Deadline().until(lambda: len(told(rig, kind)) == count)
    return told(rig, kind)


def test_a_low_balance_is_told_once_until_it_has_risen(rig: OutwardRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capconduit.domain.notices.SETTLED_MS", 0)
    add_rule(rig.office, "ops", kinds=["balance.low"])
    with working(worker := rig.worker()):
        balances.adjust(rig.office, "acme", -20 * DOLLAR, reason="back")
        (first,) = until_told(rig, NoticeKind.BALANCE_LOW, 1)
        balances.adjust(rig.office, "acme", -1 * DOLLAR, reason="back")
        balances.adjust(rig.office, "acme", 20 * DOLLAR, reason="wire")
        Deadline().until(lambda: not marks(rig))
        assert len(told(rig)) == 1
        balances.adjust(rig.office, "acme", -20 * DOLLAR, reason="back")
        until_told(rig, NoticeKind.BALANCE_LOW, 2)
    assert worker.counters.turns_failed == 0
    assert first.user_name == "ops"
    assert first.text == "seller acme has 5.00 USD left, less than 10.00"


def marks(rig: OutwardRig) -> int:
    with rig.store.transaction(write=False) as tx:
        return len(tx.outward.marks())


def test_caps_are_told_of_at_four_fifths_and_when_they_are_reached(rig: OutwardRig) -> None:
    rates.add_rate(rig.office, "std", per_minute_micros=DOLLAR)
    campaigns.add_campaign(rig.office, "solar", seller="acme", rate="std")
    caps.set_caps(rig.office, CapScope.CAMPAIGN, "solar", [caps.parse_limit(CapMetric.BILLABLE, "10/day")])
    add_rule(rig.office, "ops", kinds=["cap.*"])
    add_rule(rig.office, "globex", kinds=["cap.*"], seller="globex")
    with working(rig.worker()):
        use(rig, 7)
        use(rig, 8)
        (nearly,) = until_told(rig, NoticeKind.CAP_NEARLY, 1)
        use(rig, 7)
        use(rig, 9)
        use(rig, 10)
        (reached,) = until_told(rig, NoticeKind.CAP_REACHED, 1)
        use(rig, 9)
        rig.happen(EventKind.CAP_REACHED, json.loads(reached.data)["cap"], limited="solar")
        Deadline().until(lambda: rig.left() == (0, 0))
    assert nearly.text == "the cap campaign solar billable/day is used to 80 %"
    assert reached.text == "the cap campaign solar billable/day is reached"
    assert len(told(rig)) == 2  # and nobody of globex


def use(rig: OutwardRig, count: int) -> None:
    """As many of the day are used."""
    from dataclasses import replace

    from capconduit.domain.model import Counter

    with rig.store.transaction(write=False) as tx:
        (counter,) = tx.rows(Counter, rig.tenant_id)
    rig.store.run(lambda tx: tx.update(replace(counter, used=count, base=count)))


def test_a_target_that_rests_is_told_until_it_is_revived(rig: OutwardRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capconduit.domain.notices.SETTLED_MS", 0)
    targets.add_target(rig.office, "buyer1", kind=TargetKind.PJSIP, address="sip:b@127.0.0.1")
    target = targets.list_targets(rig.office)[0].target
    add_rule(rig.office, "ops", kinds=["target.rested,target.revived"])
    state = TargetState(
        target_id=target.id, tenant_id=rig.tenant_id, active=0, failures=5, rested_until_ms=rig.clock.now_ms() + 60_000,
        probe_until_ms=0, idle_since_ms=0,
    )  # fmt: skip
    rig.store.run(lambda tx: tx.update(state))
    with working(rig.worker()):
        until_told(rig, NoticeKind.TARGET_RESTED, 1)
        targets.revive_target(rig.office, "buyer1")
        until_told(rig, NoticeKind.TARGET_REVIVED, 1)
        Deadline().until(lambda: marks(rig) == 1)  # that it rested may be told again
    assert len(told(rig)) == 2


def test_what_a_seller_asked_for_is_told_to_its_user(rig: OutwardRig) -> None:
    users.add_user(rig.office, "ann", role=UserRole.SELLER, seller="acme", email="ann@acme.example")
    assert add_rule(rig.office, "ann", kinds=["*"]).seller == "acme"
    with pytest.raises(Refused, match="another seller"):
        add_rule(rig.office, "ann2", user="ann", kinds=["*"], seller="globex")
    add_rule(rig.office, "ops", kinds=["request.filed"])
    filed = requests.file_request(rig.office, seller="acme", quantity=2)
    requests.reject_request(rig.office, filed.request.id, reason="none left")
    requests.file_request(rig.office, seller="globex", quantity=1)
    with working(rig.worker()):
        Deadline().until(lambda: rig.left() == (0, 0))
    assert sorted((n.user_name, n.kind) for n in told(rig)) == [
        ("ann", NoticeKind.REQUEST_DECIDED), ("ann", NoticeKind.REQUEST_FILED),
        ("ops", NoticeKind.REQUEST_FILED), ("ops", NoticeKind.REQUEST_FILED),
    ]  # fmt: skip


def test_abuse_is_told_by_mail_and_webhook_and_once_an_hour(rig: OutwardRig, tmp_path: Path) -> None:
    from capconduit.domain.abuse import Finding
    from capconduit.vocab import AbuseKind

    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\ncat >> {tmp_path}/mail\n')
    sendmail.chmod(0o755)
    mail = MailSettings("sendmail", "capconduit@example.net", str(sendmail))
    with LoopbackReceiver() as receiver:
        add_rule(rig.office, "mail", user="ops", kinds=["abuse.*"], channel=NoticeChannel.EMAIL, to="ops@example.net")
        add_rule(
            rig.office, "hook", user="ops", kinds=["abuse.*"], channel=NoticeChannel.WEBHOOK, to=receiver.url,
            secrets=["env:HOOK_SECRET"],
        )  # fmt: skip
        place = Place("n1", rig.clock.new_id(), mail=lambda: mail)
        for _ in range(3):
            tell_abuse(rig.office, [Finding(AbuseKind.REDIALLING, "+12125550147", 31, 30, 300)])
        with working(rig.worker(place=place)):
            Deadline().until(lambda: rig.left() == (0, 0))
        (got,) = receiver.taken
    assert genuine(got)
    assert got.message["kind"] == "notification.abuse.detected"
    assert got.message["data"]["text"] == "redialling by +12125550147: 31 in 300 s"
    (notice,) = told(rig)
    mail_sent = message_from_bytes((tmp_path / "mail").read_bytes())
    assert mail_sent["To"] == "ops@example.net"
    assert mail_sent["Subject"] == "CapConduit: redialling by +12125550147: 31 in 300 s"
    assert mail_sent["CapConduit-Event-Id"] == got.message["id"] == notice.id


def put_node(rig: OutwardRig, node: Node) -> None:
    rig.store.run(lambda tx: tx.put_node(node))


def test_daemons_and_ami_that_are_away_are_told(rig: OutwardRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagi.outwards.AMI_AWAY_MS", 0)
    monkeypatch.setattr("capconduit.domain.notices.SETTLED_MS", 0)
    add_rule(rig.office, "ops", kinds=["daemon.lost,ami.down"])
    now_ms, up = rig.clock.now_ms(), [False]
    for name, seen_ms, state in (
        ("lost", now_ms - 60_000, "up"),
        ("stopped", now_ms - 60_000, "down"),
        ("well", now_ms, "up"),
    ):
        node = Node(name=name, boot_id="b", started_ms=0, seen_ms=seen_ms, asterisk_started_ms=None, state=state)
        put_node(rig, node)
    with working(rig.worker(place=Place("n1", "b1", has_ami=lambda: bool(up[0])))):
        (lost,) = until_told(rig, NoticeKind.DAEMON_LOST, 1)
        until_told(rig, NoticeKind.AMI_DOWN, 1)
        rig.worker(place=Place("n2", "b2"))._look()  # its AMI is well, and it says nothing of that of n1
        assert marks(rig) == 2
        up[0] = True
        Deadline().until(lambda: marks(rig) == 1)
        up[0] = False
        until_told(rig, NoticeKind.AMI_DOWN, 2)
    assert lost.subject == "lost"


def test_what_is_told_is_read_by_whom_it_is_for(rig: OutwardRig) -> None:
    add_rule(rig.office, "ops", kinds=["request.filed"])
    add_rule(rig.office, "boss", kinds=["request.filed"])
    requests.file_request(rig.office, seller="acme", quantity=2)
    with working(rig.worker()):
        Deadline().until(lambda: len(told(rig)) == 2)
    assert notifications.unread_counts(rig.office) == {"ops": 1, "boss": 1}
    (mine,) = told(rig, user="ops")
    assert notifications.show_notification(rig.office, mine.id[-8:].lower()) == mine
    assert read_notifications(rig.office, [mine.id]) == 1
    assert read_notifications(rig.office, [mine.id]) == 0
    assert notifications.unread_counts(rig.office) == {"boss": 1}
    assert [n.user_name for n in list_notifications(rig.office, unread=True)] == ["boss"]
    assert read_notifications(rig.office, user="boss") == 1
    with pytest.raises(NotFound):
        notifications.show_notification(rig.office, "nothing-like-it")


def test_rules_are_refused_where_they_make_no_sense(rig: OutwardRig) -> None:
    with pytest.raises(UsageError, match=r"'cap\.full' is no kind"):
        add_rule(rig.office, "x", kinds=["cap.full"])
    with pytest.raises(UsageError, match="no address"):
        add_rule(rig.office, "x", kinds=["*"], channel=NoticeChannel.EMAIL)
    with pytest.raises(UsageError, match="must be signed"):
        add_rule(rig.office, "x", kinds=["*"], channel=NoticeChannel.WEBHOOK, to="https://example.net/")
    with pytest.raises(UsageError, match="needs a channel"):
        add_rule(rig.office, "x", kinds=["*"], to="ops@example.net")
    with pytest.raises(UsageError, match="not a mail address"):
        add_rule(rig.office, "x", kinds=["*"], channel=NoticeChannel.EMAIL, to="a@b\nBcc: c@d")
    add_rule(rig.office, "ops", kinds=["*"])
    with pytest.raises(Refused, match="exists already"):
        add_rule(rig.office, "ops", kinds=["*"])
    changed = set_rule(rig.office, "ops", channel=NoticeChannel.EMAIL, to="ops@example.net", kinds=["cap.*"]).rule
    assert (changed.channel, changed.address, changed.kinds) == (NoticeChannel.EMAIL, "ops@example.net", "cap.*")
    remove_rule(rig.office, "ops")
    with pytest.raises(Refused, match="no notification rule"):
        remove_rule(rig.office, "ops")


def test_without_a_rule_nothing_is_looked_at(rig: OutwardRig, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr("fastagi.outwards.look", lambda *_, **__: looked.append(1))
    worker: Outwards = rig.worker()
    worker._look()
    assert looked == []
