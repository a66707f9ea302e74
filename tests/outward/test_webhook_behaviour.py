"""One webhook and whatever its receiver does: signatures, trying again, waiting, parking, leaving alone."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from capconduit.domain.outgoing import Patience
from capconduit.outward.signing import TOLERANCE_S, is_genuine, sign, signature
from capconduit.services.webhooks import (
    add_webhook,
    deliveries,
    list_webhooks,
    retry_webhook,
    set_webhook,
    show_webhook,
)
from capconduit.store.open import open_store
from capconduit.vocab import DeliveryState, EventKind, ReceiverStatus
from tests.outward.receiver import Deadline, Got, LoopbackReceiver
from tests.outward.rig import ENV, QUICK, SECRET, OutwardRig, working


@pytest.fixture
def rig(tmp_path: Path) -> OutwardRig:
    """On SQLite alone: what a receiver does is no matter of the engine."""
    return OutwardRig(open_store(f"sqlite:///{tmp_path}/store.sqlite", create=True))


def genuine(got: Got, secret: str = SECRET) -> bool:
    headers = got.headers
    return is_genuine(
        headers["capconduit-signature"], headers["capconduit-timestamp"], got.body, secret, int(time.time())
    )


def test_a_request_says_what_it_is_and_is_signed(rig: OutwardRig) -> None:
    with LoopbackReceiver() as receiver:
        rig.hook(receiver.url)
        event = rig.happen(EventKind.CALL_ENDED, "call1", amount_micros=400_000, talk_ms=5_000)
        with working(rig.worker()):
            Deadline().until(lambda: rig.left() == (0, 0))
        (got,) = receiver.got
    assert got.headers["capconduit-event-id"] == got.message["id"] == event.id
    assert got.headers["capconduit-event-kind"] == "call.ended"
    assert got.headers["capconduit-attempt"] == "1"
    assert got.headers["content-type"] == "application/json"
    assert got.message["data"] == {"amount": "0.400000", "talk_ms": 5_000}
    assert genuine(got)
    assert not genuine(got, "another secret")
    assert not genuine(replace(got, body=got.body.replace(b"0.4", b"9.4")))


def test_what_is_too_old_or_strange_is_not_genuine() -> None:
    body, now_s = b"{}", 1_772_953_199
    header = sign(["old", "new"], now_s, body)
    assert all(is_genuine(header, str(now_s), body, secret, now_s + TOLERANCE_S) for secret in ("old", "new"))
    assert not is_genuine(header, str(now_s), body, "new", now_s + TOLERANCE_S + 1)
    assert not is_genuine(header, str(now_s), body, "new", now_s - TOLERANCE_S - 1)
    assert not is_genuine(header, str(now_s + 1), body, "new", now_s)
    for strange in ("", "-5", "1e9", "٣", "9" * 13):
        assert not is_genuine(header, strange, body, "new", now_s)
    assert signature("new", now_s, body) != signature("new", now_s, body + b" ")


def test_while_a_secret_is_exchanged_both_sign(rig: OutwardRig, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("brand-new\n")
    with LoopbackReceiver() as receiver:
        rig.hook(receiver.url)
        set_webhook(rig.office, "hook", secrets=[f"file:{tmp_path}/new", "env:HOOK_SECRET"])
        rig.happen(EventKind.CALL_ENDED, "call1")
        with working(rig.worker()):
            Deadline().until(lambda: rig.left() == (0, 0))
        (got,) = receiver.got
    assert genuine(got)
    assert genuine(got, "brand-new")


def test_an_event_is_tried_again_under_the_same_id_and_what_follows_waits(rig: OutwardRig) -> None:
    answers = iter(
        ["500", "redirect", "half", "nonsense", "cut", "hang", "endless"]
    )  # the last one is taken by its 200
    with LoopbackReceiver(lambda _: next(answers, "ok")) as receiver:
        rig.hook(receiver.url)
        told = [rig.happen(kind, "call1").id for kind in (EventKind.CALL_STARTED, EventKind.CALL_ENDED)]
        with working(rig.worker(timeout_ms=3_500)):
            Deadline().until(lambda: rig.left() == (0, 0))
        ids = [got.message["id"] for got in receiver.got]
        tries = [int(got.headers["capconduit-attempt"]) for got in receiver.got]
    assert ids == [told[0]] * 7 + [told[1]]
    assert tries == [1, 2, 3, 4, 5, 6, 7, 1]
    assert [d.tries for d in deliveries(rig.office, "hook")] == [1, 7]


def test_a_poisoned_call_is_parked_and_told_and_others_go_on(rig: OutwardRig) -> None:
    def poisoned(got: Got) -> str:
        return "500" if got.message["subject"] == "poison" else "ok"

    with LoopbackReceiver(poisoned) as receiver, LoopbackReceiver() as other:
        hook = rig.hook(receiver.url)
        rig.hook(other.url, "watch", kinds=["delivery.parked"])
        first = rig.happen(EventKind.CALL_STARTED, "poison")
        rig.happen(EventKind.CALL_ENDED, "poison")
        rig.happen(EventKind.CALL_ENDED, "good")
        with working(rig.worker(patience=replace(QUICK, tries=3))):
            Deadline().until(lambda: other.taken)
            Deadline().until(lambda: len(receiver.taken) == 1)
            tries = Counter(got.message["subject"] for got in receiver.got)
            assert tries == {"poison": 3, "good": 1}
            data = other.taken[0].message["data"]
            assert (data["webhook"], data["lane"], data["event"], data["tries"]) == ("hook", "poison", first.id, 3)
            view = show_webhook(rig.office, "hook")
            assert (view.waiting, view.parked, view.error) == (1, 1, "HTTP 500")
            receiver.behave = lambda _: "ok"
            assert retry_webhook(rig.office, "hook") == 1
            Deadline().until(lambda: rig.left() == (0, 0))
        kinds = [got.message["kind"] for got in receiver.taken if got.message["subject"] == "poison"]
    assert kinds == ["call.started", "call.ended"]
    assert {d.state for d in rig.deliveries(receiver_id=hook)} == {DeliveryState.DELIVERED}
    assert list_webhooks(rig.office)[0].error == ""


def test_a_receiver_that_asks_to_wait_is_not_asked_again_before(rig: OutwardRig) -> None:
    with LoopbackReceiver(lambda _: "wait") as receiver, LoopbackReceiver() as other:
        rig.hook(receiver.url)
        rig.hook(other.url, "other")
        rig.happen(EventKind.CALL_STARTED, "call1")
        with working(rig.worker()):
            Deadline().until(lambda: other.taken)
            Deadline().until(lambda: show_webhook(rig.office, "hook").error)
            rig.happen(EventKind.CALL_STARTED, "call2")
            Deadline().until(lambda: len(other.taken) == 2)
            with rig.store.transaction(write=False) as tx:
                due_ms = tx.query("SELECT max(due_ms) FROM lane")[0][0]
        assert len(receiver.got) == 1
        assert due_ms >= rig.clock.now_ms() + 20_000
        assert [d.state for d in deliveries(rig.office, "hook")] == [DeliveryState.WAITING] * 2


def test_a_receiver_in_trouble_is_tried_by_one_call_at_a_time(rig: OutwardRig) -> None:
    with LoopbackReceiver(lambda _: "500") as receiver:
        rig.hook(receiver.url)
        rig.calls(200)
        slow = Patience(first_ms=2_000_000, most_ms=2_000_000)
        with working(worker := rig.worker(trouble=slow)):
            Deadline().until(lambda: worker.status()["left_alone_ms"] and not worker.status()["in_hand"])
            tried = len(receiver.got)
            rig.happen(EventKind.ABUSE_DETECTED, "more")
            Deadline().until(lambda: rig.left()[0] == 0)
        assert 5 <= tried <= 30  # those that were in hand when it was noticed
        assert len(receiver.got) == tried
        assert "hook" in worker.status()["left_alone_ms"]


def test_without_its_secret_nothing_is_sent_and_nothing_is_counted(rig: OutwardRig) -> None:
    with LoopbackReceiver() as receiver:
        add_webhook(rig.office, "hook", url=receiver.url, kinds=["*"], secrets=["env:NOT_THERE"])
        rig.happen(EventKind.CALL_STARTED, "call1")
        with working(rig.worker(patience=replace(QUICK, tries=1))):
            Deadline().until(lambda: show_webhook(rig.office, "hook").error)
        assert receiver.got == []
    assert "NOT_THERE" in show_webhook(rig.office, "hook").error
    assert [d.state for d in rig.deliveries()] == [DeliveryState.WAITING]


def test_what_waited_for_a_paused_webhook_comes_when_it_is_resumed(rig: OutwardRig) -> None:
    with LoopbackReceiver() as receiver, LoopbackReceiver() as other:
        rig.hook(receiver.url)
        rig.hook(other.url, "other")
        set_webhook(rig.office, "hook", status=ReceiverStatus.PAUSED)
        told = [rig.happen(kind, "call1").id for kind in (EventKind.CALL_STARTED, EventKind.CALL_ENDED)]
        with working(rig.worker()):
            Deadline().until(lambda: len(other.taken) == 2)
            assert receiver.got == []
            set_webhook(rig.office, "hook", status=ReceiverStatus.ACTIVE)
            Deadline().until(lambda: rig.left() == (0, 0))
        assert [got.message["id"] for got in receiver.taken] == told


def test_only_the_kinds_that_are_wanted_are_sent(rig: OutwardRig) -> None:
    with LoopbackReceiver() as receiver:
        rig.hook(receiver.url, kinds=["call.ended,balance.*"])
        for kind in (EventKind.CALL_STARTED, EventKind.CALL_ENDED, EventKind.BALANCE_LOW, EventKind.ESTATE_CHANGED):
            rig.happen(kind, "one")
        with working(rig.worker()):
            Deadline().until(lambda: rig.left() == (0, 0))
        assert [got.message["kind"] for got in receiver.got] == ["call.ended", "balance.low"]


def test_a_database_that_is_away_for_a_while_loses_nothing(rig: OutwardRig, monkeypatch: pytest.MonkeyPatch) -> None:
    from capconduit.errors import DatabaseError

    whole, away = rig.store.run, [True]

    def run(work, *, hurry=False):  # type: ignore[no-untyped-def]
        if away:
            raise DatabaseError("database-failed", "it is away")
        return whole(work, hurry=hurry)

    monkeypatch.setattr("fastagi.outwards.TROUBLE_S", 0.05)
    with LoopbackReceiver() as receiver:
        rig.hook(receiver.url)
        rig.happen(EventKind.CALL_STARTED, "call1")
        monkeypatch.setattr(rig.store, "run", run)
        with working(worker := rig.worker()):
            Deadline().until(lambda: worker.counters.turns_failed)
            assert worker.status()["trouble"]
            away.clear()
            Deadline().until(lambda: rig.left() == (0, 0))
        assert len(receiver.taken) == 1
    assert ENV["HOOK_SECRET"] not in str(worker.status())
