"""What goes out, decided purely: patterns, lanes, waits, circuits, for whatever comes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from capconduit.domain.deliveries import Delivery, Lane
from capconduit.domain.events import event
from capconduit.domain.outgoing import (
    LUCK,
    TROUBLE_LANES,
    Circuit,
    Outcome,
    Patience,
    after_failure,
    after_success,
    is_pattern,
    lane_of,
    retry_after_ms,
    wait_ms,
    wants,
)
from capconduit.vocab import DeliveryState, EventKind

NOW = 1_772_953_199_000
LUCKS = st.integers(0, LUCK - 1)
PATIENCES = st.builds(
    Patience,
    first_ms=st.integers(1, 10_000),
    most_ms=st.integers(10_000, 10_000_000),
    tries=st.integers(1, 50),
    give_up_ms=st.integers(1_000, 10**9),
)
OUTCOMES = st.builds(
    Outcome,
    delivered=st.just(False),
    answer=st.text(max_size=400),
    blameless=st.booleans(),
    after_ms=st.integers(0, 10**6),
)


def a_lane(tries: int = 0) -> Lane:
    return Lane(
        receiver_id="r",
        lane="call1",
        tenant_id="t",
        due_ms=0,
        owner="n b",
        tries=tries,
        state=DeliveryState.WAITING,
        error="",
    )


def a_delivery(made_ms: int = NOW, tries: int = 0) -> Delivery:
    return Delivery(
        receiver_id="r", event_id="e", tenant_id="t", lane="call1", position=1, kind="call.ended",
        state=DeliveryState.WAITING, tries=tries, made_ms=made_ms, done_ms=None, answer="",
    )  # fmt: skip


@given(PATIENCES, st.integers(0, 1_000), LUCKS)
def test_a_wait_is_bounded_and_never_nothing(patience: Patience, tries: int, luck: int) -> None:
    assert 1 <= wait_ms(patience, tries, luck) <= patience.most_ms
    assert wait_ms(patience, 1, luck) <= patience.first_ms


@given(PATIENCES, st.integers(1, 60))
def test_the_longest_wait_doubles_until_it_is_an_hour(patience: Patience, tries: int) -> None:
    here, next_ = wait_ms(patience, tries, LUCK - 1), wait_ms(patience, tries + 1, LUCK - 1)
    assert here <= next_ <= 2 * here + 2


@given(PATIENCES, OUTCOMES, st.integers(0, 60), st.integers(0, 10**9), LUCKS)
def test_a_failure_parks_or_waits_as_long_as_the_receiver_asks(
    patience: Patience, outcome: Outcome, tries: int, age_ms: int, luck: int
) -> None:
    verdict = after_failure(a_lane(tries), a_delivery(NOW - age_ms, tries), outcome, patience, NOW, luck)
    assert verdict.parked == (verdict.lane.tries >= patience.tries or age_ms >= patience.give_up_ms)
    assert verdict.lane.state is verdict.delivery.state
    assert verdict.lane.owner == ""
    assert verdict.lane.due_ms > NOW + outcome.after_ms - 1
    assert verdict.lane.tries == tries + (not outcome.blameless)
    assert verdict.delivery.tries == tries + 1


@given(PATIENCES, st.integers(0, LUCK - 1))
def test_what_always_fails_is_parked_in_the_end(patience: Patience, luck: int) -> None:
    lane, delivery, now_ms, count = a_lane(), a_delivery(), NOW, 0
    while lane.state is DeliveryState.WAITING:
        verdict = after_failure(lane, delivery, Outcome(False, "HTTP 500"), patience, now_ms, luck)
        lane, delivery, now_ms, count = verdict.lane, verdict.delivery, verdict.lane.due_ms, count + 1
        assert count <= patience.tries


@given(st.integers(0, 9))
def test_what_is_taken_is_done(tries: int) -> None:
    done = after_success(a_delivery(tries=tries), Outcome(True, "HTTP 200"), NOW)
    assert (done.state, done.tries, done.done_ms) == (DeliveryState.DELIVERED, tries + 1, NOW)


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 5_000)), max_size=60), LUCKS)
def test_a_circuit_opens_for_the_receiver_and_closes_with_the_first_success(
    tries: list[tuple[int, bool, int]], luck: int
) -> None:
    circuit, now_ms = Circuit(), NOW
    failing: set[int] = set()
    for lane, good, pause_ms in tries:
        now_ms += pause_ms
        before = circuit
        circuit = circuit.after(f"call{lane}", Outcome(good, ""), now_ms, luck)
        failing = set() if good else failing | {lane}
        if good:
            assert circuit.allows(now_ms) == -1
        elif len(failing) < TROUBLE_LANES and not before.is_troubled:
            assert circuit.allows(now_ms) == -1  # a few calls that are poisoned do not shut the others out
        else:
            assert circuit.is_troubled
            assert circuit.open_until_ms > now_ms or before.open_until_ms > now_ms
            assert circuit.allows(circuit.open_until_ms) == 1


def test_a_receiver_that_asks_to_wait_is_left_alone_as_long() -> None:
    circuit = Circuit().after("call1", Outcome(False, "HTTP 429", True, 30_000), NOW, 0)
    assert circuit.allows(NOW + 29_999) == 0
    assert circuit.allows(NOW + 30_000) == -1


@given(st.sampled_from(EventKind))
def test_a_kind_is_wanted_by_name_family_and_all(kind: EventKind) -> None:
    family = kind.value.partition(".")[0]
    for pattern in (kind.value, f"{family}.*", "*", f"other.kind,{kind.value}"):
        assert wants(pattern, kind)
        assert all(is_pattern(one) for one in pattern.split(","))
    assert not wants("other.kind", kind)
    assert not wants(kind.value + "x", kind)
    assert not wants(f"{family}x.*", kind)


@given(st.text(max_size=30))
def test_whatever_a_receiver_says_of_waiting_is_bounded(header: str) -> None:
    assert 0 <= retry_after_ms(header, NOW, 3_600_000) <= 3_600_000


def test_waiting_is_said_in_seconds_or_as_a_date() -> None:
    assert retry_after_ms("120", NOW, 3_600_000) == 120_000
    assert retry_after_ms("Sun, 08 Mar 2026 07:00:29 GMT", NOW, 3_600_000) == 30_000
    assert retry_after_ms("Sun, 08 Mar 2020 07:00:29 GMT", NOW, 3_600_000) == 0
    assert retry_after_ms("999999999", NOW, 3_600_000) == 3_600_000


def test_what_a_call_moves_goes_with_the_call() -> None:
    def lane(kind: EventKind, subject: str, **data: object) -> str:
        return lane_of(event(lambda: "E", "t", NOW, kind, subject, **data))

    assert lane(EventKind.CALL_ENDED, "call1") == "call1"
    assert lane(EventKind.BALANCE_CHANGED, "acme", call="call1") == "call1"
    assert lane(EventKind.BALANCE_CHANGED, "acme", reason="wire") == "acme"
    assert lane(EventKind.BALANCE_CHANGED, "acme", call=5) == "acme"
    assert lane(EventKind.CAP_REACHED, "cap1") == "cap1"
    assert lane(EventKind.ESTATE_CHANGED, "") == "E"
