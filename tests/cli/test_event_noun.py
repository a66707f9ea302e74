"""`event`: what happened, listed and shown; and what happens, from the daemon and from the database."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capconduit.clock import SystemClock
from capconduit.domain.events import event
from capconduit.domain.model import Event
from capconduit.errors import ExitCode
from capconduit.ids import ulid
from capconduit.services.events import Names, Wish, list_events
from capconduit.services.floor_objects import event_object
from capconduit.services.office import Office
from capconduit.services.stores import open_store
from capconduit.vocab import EventKind
from capconduit_cli import control_follow
from capconduit_cli.commands.event import line, row
from capconduit_cli.control_follow import Follower, event_of, instant_of
from tests.cli.daemon import stub
from tests.cli.estate import NOON_MS, Calls, database, done, engine, walk
from tests.cli.runner import run


@pytest.fixture
def calls(home: Path) -> Iterator[Calls]:
    with engine(walk(home)) as running:
        yield running


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path that is short enough for a socket, which pytest's are not always."""
    with tempfile.TemporaryDirectory(prefix="cc") as directory:
        yield f"{directory}/control.sock"


def one_call(calls: Calls, uniqueid: str) -> str:
    """A call that is answered and ends; its id."""
    call_id: str = calls.arrive(uniqueid).call_id
    calls.clock.at_ms += 2_000
    calls.answer(uniqueid)
    calls.clock.at_ms += 10_000
    calls.end(uniqueid, answered_for_ms=10_000)
    return call_id


def test_events_are_listed_by_kind_subject_and_time(home: Path, calls: Calls) -> None:
    first = one_call(calls, "1.1")
    calls.clock.at_ms += 60_000
    second = one_call(calls, "1.2")
    told = done("event", "list", "--subject", second, "--json", home=home).json
    assert [each["kind"] for each in told] == ["call.ended", "call.answered", "call.started"]
    assert told[0]["data"]["talk_ms"] == 10_000
    assert told[2]["at"] == "2026-11-21T12:01:12.000Z"
    ended = done("event", "list", "--kind", "call.end*", "--kind", "target.*", "--json", home=home).json
    assert [each["subject"] for each in ended] == [second, first]
    later = done("event", "list", "--kind", "call.*", "--since", "2026-11-21T12:01:00Z", "--json", home=home).json
    assert {each["subject"] for each in later} == {second}
    shown = done("event", "show", ended[0]["id"], "--json", home=home).json
    assert shown == ended[0]
    limited = done("event", "list", "--kind", "call.*", "--limit", "2", home=home)
    assert len(limited.out.splitlines()) == 3
    assert "no more than 2 are shown" in limited.err


def test_a_list_says_that_there_are_more_only_where_more_of_what_was_asked_for_are(home: Path, calls: Calls) -> None:
    one_call(calls, "1.1")
    one_call(calls, "1.2")
    ended = done("event", "list", "--filter", "kind=call.ended", "--limit", "2", home=home)
    assert len(ended.out.splitlines()) == 3
    assert "are shown" not in ended.err
    assert (
        "no more than 1 are shown"
        in done("event", "list", "--filter", "kind=call.ended", "--limit", "1", home=home).err
    )


def test_money_in_events_is_decimal_text(home: Path, calls: Calls) -> None:
    call_id = one_call(calls, "1.1")
    ended = done("event", "list", "--subject", call_id, "--kind", "call.ended", "--json", home=home).json[0]
    assert ended["data"]["amount"] == "0.200000"
    assert not [key for key in ended["data"] if key.endswith("_micros")]
    assert "amount=0.20 " in done("event", "list", "--subject", call_id, home=home).out


def test_money_is_told_by_the_sellers_name(home: Path, calls: Calls) -> None:
    one_call(calls, "1.1")
    told = done("event", "list", "--subject", "acme", "--json", home=home).json
    assert {each["kind"] for each in told} == {"balance.changed", "estate.changed"}
    assert [each["id"] for each in told] == sorted((each["id"] for each in told), reverse=True)
    assert {each["name"] for each in told} == {"acme", None}
    (line, *_) = done("event", "tail", "--kind", "balance.*", "-n", "1", home=home).out.splitlines()
    assert line.split()[1:3] == ["balance.changed", "acme"]


def test_what_is_no_kind_or_id_is_said(home: Path, calls: Calls) -> None:
    wrong = run("event", "list", "--kind", "cal.*", home=home)
    assert wrong.code == ExitCode.USAGE
    assert "call.started" in wrong.err
    assert run("event", "show", "nothing", home=home).code == ExitCode.REFUSED
    assert "[event-id-invalid]" in run("event", "tail", "--after", "yesterday", home=home).err
    assert run("event", "tail", "--after", "x", "-n", "3", home=home).code == ExitCode.USAGE


def test_the_tail_is_the_last_events_in_their_order(home: Path, calls: Calls) -> None:
    call_id = one_call(calls, "1.1")
    lines = done("event", "tail", "-n", "3", "--kind", "call.*", home=home).out.splitlines()
    assert [line.split()[1] for line in lines] == ["call.started", "call.answered", "call.ended"]
    assert lines[2].startswith(
        f"2026-11-21T12:00:12.000Z  call.ended          {call_id}  dialstatus=ANSWER  target=buyer1"
    )
    assert "amount=0.20" in lines[2]
    everything = [json.loads(line) for line in done("event", "tail", "-n", "50", "--json", home=home).out.splitlines()]
    ids = [each["id"] for each in everything]
    assert ids == sorted(ids)
    rest = done("event", "tail", "--after", ids[-3], "--json", home=home).out.splitlines()
    assert [json.loads(line)["id"] for line in rest] == ids[-2:]
    since = done("event", "tail", "--since", "2026-11-21T12:00:10Z", "--kind", "call.*", "-o", "csv", home=home)
    assert len(since.out.splitlines()) == 2
    assert done("event", "tail", "-n", "0", home=home).out == ""


# --- following --------------------------------------------------------------------------------------------------------


class Happening:
    """Writes events, and follows them."""

    def __init__(self, home: Path) -> None:
        self.store = open_store(f"sqlite://{database(home)}")
        self.office = Office(self.store, SystemClock(), actor="test")
        with self.store.transaction(write=False) as tx:
            self.tenant_id = tx.tenants()[0].id
        self._begin_ms = self.office.clock.now_ms() + 60_000  # after what made the estate
        self._numbers = itertools.count(1)

    def event(self, kind: EventKind = EventKind.TARGET_RESTED, *, written: bool = True) -> Event:
        at_ms = self._begin_ms + 1_000 * next(self._numbers)
        made = event(lambda: ulid(at_ms, 1), self.tenant_id, at_ms, kind, "buyer1", failures=3)
        if written:
            with self.store.transaction(write=True) as tx:
                tx.insert(made)
        return made

    def follow(self, socket_path: str, last: Event, wish: Wish | None = None) -> Iterator[Event]:
        return Follower(self.office, socket_path, wish or Wish(), last.id).follow()


@pytest.fixture
def happening(home: Path) -> Iterator[Happening]:
    made = Happening(walk(home))
    yield made
    made.store.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_follow, "POLL_S", 0.01)


def told(happened: Event) -> tuple[str, Any]:
    return ("event", event_object(happened))


def test_the_stream_tells_money_as_the_list_does_and_reads_the_same(home: Path, calls: Calls) -> None:
    call_id = one_call(calls, "1.1")
    store = open_store(f"sqlite://{database(home)}")
    office = Office(store, SystemClock(), actor="test")
    names = Names(office)
    written = [e for e in list_events(office, Wish()) if e.kind in ("call.ended", "balance.changed")]
    assert call_id in {event.subject for event in written}
    for happened in written:
        streamed = event_of(event_object(happened))
        assert streamed is not None
        assert "_micros" not in streamed.data
        assert row(streamed, names)["data"] == row(happened, names)["data"]
        assert line(streamed, names) == line(happened, names)
    store.close()


def test_following_begins_with_what_the_stream_missed_and_tells_each_once(
    happening: Happening, socket_path: str
) -> None:
    first, second, third = (happening.event() for _ in range(3))
    fourth = happening.event(written=False)
    snapshot: tuple[str, Any] = ("snapshot", {"calls": [], "events": []})
    with stub(socket_path, {}, [snapshot, told(third), ("health", {}), told(fourth)]):
        following = happening.follow(socket_path, first)
        seen = [next(following).id for _ in range(3)]
    assert seen == [second.id, third.id, fourth.id]


def test_a_daemon_that_comes_back_is_joined_again_and_nothing_is_left_out(
    happening: Happening, socket_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first stream ends; what happens before the second one is in the database."""
    first = happening.event()
    snapshot: tuple[str, Any] = ("snapshot", {"calls": [], "events": []})
    second = happening.event(written=False)
    with stub(socket_path, {}, [snapshot, told(second)], [snapshot], [snapshot]):
        following = happening.follow(socket_path, first)
        assert next(following).id == second.id
        with happening.store.transaction(write=True) as tx:
            tx.insert(second)
        third = happening.event()
        assert next(following).id == third.id
        fourth = happening.event()
        assert next(following).id == fourth.id
    assert capsys.readouterr().err.count("following the database, once a second") == 1


def test_without_a_daemon_the_database_is_followed_and_that_is_said(
    happening: Happening, socket_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = happening.event()
    following = happening.follow(socket_path, first, Wish(("call.*",)))
    happening.event()
    wanted = happening.event(EventKind.CALL_REJECTED)
    assert next(following) == wanted
    assert "following the database" in capsys.readouterr().err


def test_the_instant_of_an_id_is_in_it() -> None:
    assert instant_of(ulid(NOON_MS, 7)) == NOON_MS
    assert instant_of("nonsense") == 0
    assert event_of({"id": "x", "kind": "of.tomorrow", "at": "2026-11-21T12:00:00Z", "subject": ""}) is None
