"""Whom a daemon's looks tell, and how often: sellers' users of their seller, and each thing once; on each engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capconduit.domain.deliveries import Notification
from capconduit.domain.model import Account, Node
from capconduit.errors import Refused
from capconduit.services import balances, requests, sellers, users
from capconduit.services.notifications import (
    add_rule,
    carry_out,
    list_notifications,
    list_rules,
    look,
    remove_rule,
    show_rule,
)
from capconduit.services.outbox import give_out
from capconduit.vocab import NoticeChannel, NoticeKind, UserRole
from tests.outward.rig import OutwardRig

DOLLAR = 1_000_000
BEAT_MS = 5_000  # between two looks of a daemon


def look_once(rig: OutwardRig, now_ms: int, node: str = "n1", *, starts: bool = False) -> bool:
    """As a daemon does every few seconds; whether there was anything to write."""
    with rig.store.transaction(write=False) as tx:
        looked = look(tx, now_ms, rig.clock.new_id, None, node, has_ami=True, starts=starts)
    if looked.is_news:
        rig.store.run(lambda tx: carry_out(tx, looked, now_ms, rig.clock.new_id))
    return looked.is_news


def told(rig: OutwardRig, user: str = "") -> list[str]:
    return sorted(notice.text for notice in list_notifications(rig.office, user=user))


def low(seller: str) -> str:
    return f"seller {seller} has 0.00 USD left, less than 10.00"


@pytest.fixture
def two_sellers(rig: OutwardRig) -> OutwardRig:
    """Two sellers whose balances are low."""
    for name in ("acme", "rival"):
        sellers.add_seller(rig.office, name, low_balance_micros=10 * DOLLAR)
    return rig


def test_who_moves_to_another_seller_is_told_of_that_one_alone(two_sellers: OutwardRig) -> None:
    rig = two_sellers
    users.add_user(rig.office, "bob", role=UserRole.SELLER, seller="acme")
    assert add_rule(rig.office, "bob", kinds=["balance.low"]).seller == "acme"
    add_rule(rig.office, "acmes", user="bob", kinds=["balance.low"], seller="acme")
    users.set_user(rig.office, "bob", seller="rival")
    look_once(rig, rig.clock.now_ms())
    assert told(rig) == [low("rival")]
    assert show_rule(rig.office, "bob").seller == "rival"


def test_a_rule_that_was_made_before_its_user_tells_of_the_users_seller_alone(two_sellers: OutwardRig) -> None:
    rig = two_sellers
    add_rule(rig.office, "bob", kinds=["*"])
    assert list_rules(rig.office)[0].seller == ""
    users.add_user(rig.office, "bob", role=UserRole.SELLER, seller="rival")
    requests.file_request(rig.office, seller="acme", quantity=2)
    requests.file_request(rig.office, seller="rival", quantity=3)
    rig.store.run(lambda tx: give_out(tx, rig.clock.now_ms(), rig.clock.new_id))
    look_once(rig, rig.clock.now_ms())
    assert told(rig) == sorted([low("rival"), "seller rival asks for 3 numbers"])


def test_an_admin_is_told_of_all_and_by_a_rule_for_one_seller_of_that_one(two_sellers: OutwardRig) -> None:
    rig = two_sellers
    for name in ("ann", "eve"):
        users.add_user(rig.office, name, role=UserRole.ADMIN)
    add_rule(rig.office, "ann", kinds=["balance.low"])
    add_rule(rig.office, "eve", kinds=["balance.low"], seller="acme")
    look_once(rig, rig.clock.now_ms())
    assert told(rig, "ann") == [low("acme"), low("rival")]
    assert told(rig, "eve") == [low("acme")]


def test_who_is_suspended_is_told_nothing_until_let_in_again(two_sellers: OutwardRig) -> None:
    rig, now_ms = two_sellers, two_sellers.clock.now_ms()
    users.add_user(rig.office, "bob", role=UserRole.SELLER, seller="rival", email="bob@rival.example")
    add_rule(rig.office, "bob", kinds=["*"], channel=NoticeChannel.EMAIL)
    users.suspend_user(rig.office, "bob", suspended=True)
    requests.file_request(rig.office, seller="rival", quantity=3)
    rig.store.run(lambda tx: give_out(tx, now_ms, rig.clock.new_id))
    assert not look_once(rig, now_ms), "what nobody is told costs no transaction"
    assert (told(rig), list(rig.deliveries())) == ([], [])
    users.suspend_user(rig.office, "bob", suspended=False)
    look_once(rig, now_ms + BEAT_MS)
    assert told(rig) == [low("rival")]
    assert len(rig.deliveries()) == 1


def test_a_user_is_not_removed_from_under_a_rule(two_sellers: OutwardRig) -> None:
    rig = two_sellers
    users.add_user(rig.office, "bob", role=UserRole.SELLER, seller="rival")
    add_rule(rig.office, "bobs", user="bob", kinds=["balance.low"])
    with pytest.raises(Refused, match="bobs") as refused:
        users.remove_user(rig.office, "bob")
    assert refused.value.slug == "user-has-notifications"
    remove_rule(rig.office, "bobs")
    users.remove_user(rig.office, "bob")


def test_calls_that_hold_money_do_not_have_a_low_balance_told_again(rig: OutwardRig) -> None:
    sellers.add_seller(rig.office, "acme", low_balance_micros=10 * DOLLAR)
    balances.adjust(rig.office, "acme", 12 * DOLLAR, reason="wire")
    add_rule(rig.office, "ops", kinds=["balance.low"])
    now_ms = int(rig.clock.now_ms())

    def ten_calls() -> None:
        nonlocal now_ms
        for held in (2_500_000, 0) * 10:
            with rig.store.transaction(write=False) as tx:
                (account,) = tx.rows(Account, rig.tenant_id)
            rig.store.run(lambda tx: tx.update(replace(account, held_micros=held)))  # noqa: B023 - runs at once
            now_ms += 2 * BEAT_MS
            look_once(rig, now_ms)

    ten_calls()
    assert told(rig) == []
    balances.adjust(rig.office, "acme", -3 * DOLLAR, reason="calls")
    ten_calls()
    assert told(rig) == ["seller acme has 6.50 USD left, less than 10.00"]
    balances.adjust(rig.office, "acme", 5 * DOLLAR, reason="wire")
    ten_calls()
    assert len(told(rig)) == 1
    balances.adjust(rig.office, "acme", -5 * DOLLAR, reason="calls")
    ten_calls()
    assert len(told(rig)) == 2


def put_node(rig: OutwardRig, name: str, seen_ms: int) -> None:
    node = Node(name=name, boot_id="b", started_ms=0, seen_ms=seen_ms, asterisk_started_ms=None, state="up")
    rig.store.run(lambda tx: tx.put_node(node))


def lost(rig: OutwardRig) -> list[Notification]:
    return [n for n in list_notifications(rig.office) if n.kind is NoticeKind.DAEMON_LOST]


def test_two_daemons_whose_clocks_differ_tell_of_a_lost_one_once(rig: OutwardRig) -> None:
    add_rule(rig.office, "ops", kinds=["daemon.lost"])
    began_ms, ahead_ms = rig.clock.now_ms(), 40_000
    for beat in range(12):
        now_ms = began_ms + beat * BEAT_MS
        put_node(rig, "a", now_ms)
        put_node(rig, "b", now_ms + ahead_ms)
        look_once(rig, now_ms, "a", starts=beat == 0)
        look_once(rig, now_ms + ahead_ms, "b", starts=beat == 0)
    assert [notice.subject for notice in lost(rig)] == ["a"]


def test_a_daemon_that_was_lost_is_told_again_after_it_was_back(rig: OutwardRig) -> None:
    """It is back for others when they see it, and for all when it starts."""
    add_rule(rig.office, "ops", kinds=["daemon.lost"])
    now_ms = int(rig.clock.now_ms())

    def silent() -> None:
        nonlocal now_ms
        now_ms += 60_000
        put_node(rig, "b", now_ms)
        look_once(rig, now_ms, "b")

    put_node(rig, "a", now_ms)
    silent()
    assert len(lost(rig)) == 1
    put_node(rig, "a", now_ms)
    look_once(rig, now_ms + 2 * BEAT_MS, "a")
    silent()
    assert len(lost(rig)) == 1, "it cannot say itself that it is back"
    put_node(rig, "a", now_ms)
    look_once(rig, now_ms + 2 * BEAT_MS, "b")
    silent()
    assert len(lost(rig)) == 2
    put_node(rig, "a", now_ms)
    look_once(rig, now_ms + 2 * BEAT_MS, "a", starts=True)
    silent()
    assert len(lost(rig)) == 3


def test_a_daemon_starts_once(rig: OutwardRig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def noted(*given: object, starts: bool, **more: object) -> object:
        asked.append(starts)
        return look(*given, starts=starts, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("fastagi.outwards.look", noted)
    add_rule(rig.office, "ops", kinds=["daemon.lost"])
    worker = rig.worker()
    worker._look()
    worker._look()
    assert asked == [True, False]
