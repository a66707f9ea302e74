"""Notifications, decided purely: what is worth telling, and telling it once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.domain.deliveries import NotificationMark, NotificationRule
from capconduit.domain.events import event
from capconduit.domain.model import Account, Seller, User
from capconduit.domain.notices import (
    OVER_WITH_CONDITION,
    SETTLED_MS,
    Finding,
    ami_down,
    as_it_holds,
    by_user,
    cap_filling,
    cap_level,
    daemon_lost,
    found_in,
    lasting_longer,
    low_balance,
    mark_of,
    occasion_of,
    over,
    runs_low,
    to_judge,
)
from capconduit.vocab import EventKind, NoticeChannel, NoticeKind, Status, UserRole

NOW = 1_772_953_199_000
UNTIMED = settings(deadline=None)  # other work on the machine proves nothing


def rule(
    name: str = "ops", kinds: str = "*", user: str = "ops", seller: str = "", tenant: str = "t"
) -> NotificationRule:
    return NotificationRule(
        id=name, tenant_id=tenant, created_ms=0, updated_ms=0, name=name, user_name=user, kinds=kinds,
        channel=NoticeChannel.LIST, address="", secrets="", seller_id=seller,
    )  # fmt: skip


def low(seller: str = "s1") -> Finding:
    return low_balance("t", seller, seller, "USD", 5, 10)


@UNTIMED
@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_cap_is_nearly_used_from_four_fifths_on(taken: int, limit: int) -> None:
    level = cap_level(taken, limit)
    if limit == 0:
        assert level is None
    elif taken >= limit:
        assert level is NoticeKind.CAP_REACHED
    else:
        assert (level is NoticeKind.CAP_NEARLY) == (5 * taken >= 4 * limit)


@UNTIMED
@given(st.lists(st.sampled_from(["low", "well", "pass"]), max_size=40))
def test_a_low_balance_is_told_once_until_it_has_risen(looks: list[str]) -> None:
    """A balance goes up and down; each time it falls is told, and nothing else."""
    marks: dict[str, NotificationMark] = {}
    told = falls = 0
    was_low, now_ms = False, NOW
    for what in looks:
        now_ms += SETTLED_MS + 1
        is_low = was_low if what == "pass" else what == "low"
        falls += is_low and not was_low
        was_low = is_low
        lasting = [low()] if is_low else []
        for gone in over(marks.values(), lasting, OVER_WITH_CONDITION, now_ms):
            del marks[gone.occasion]
        for finding in lasting:
            if finding.occasion not in marks:
                marks[finding.occasion] = mark_of("ops", finding, now_ms)
                told += 1
    assert told == falls


@UNTIMED
@given(st.lists(st.integers(0, 120), min_size=1, max_size=40))
def test_a_cap_is_told_of_once_in_its_window(levels: list[int]) -> None:
    marks: dict[str, NotificationMark] = {}
    told: list[NoticeKind] = []
    for number, taken in enumerate(levels):
        now_ms = NOW + number * 60_000
        finding = cap_filling("t", "cap1", "campaign solar billable/day", taken, 100, NOW + 86_400_000)
        for gone in over(marks.values(), [finding] if finding else [], OVER_WITH_CONDITION, now_ms):
            del marks[gone.occasion]
        if finding and finding.occasion not in marks:
            marks[finding.occasion] = mark_of("ops", finding, now_ms)
            told.append(finding.kind)
    assert len(told) == len(set(told))
    assert (NoticeKind.CAP_REACHED in told) == any(level >= 100 for level in levels)


def test_a_mark_of_a_cap_ends_with_its_window() -> None:
    mark = NotificationMark(
        tenant_id="t",
        user_name="ops",
        occasion=occasion_of(NoticeKind.CAP_REACHED, "cap1"),
        told_ms=NOW,
        until_ms=NOW + 10,
    )
    (longer,) = lasting_longer([mark], {"cap1": NOW + 5_000})
    assert longer.until_ms == NOW + 5_000
    assert lasting_longer([longer], {"cap1": NOW + 5_000}) == []
    assert over([longer], [], OVER_WITH_CONDITION, NOW + 4_999) == []
    assert over([longer], [], OVER_WITH_CONDITION, NOW + 5_000) == [longer]


def test_a_condition_that_nobody_looked_at_is_not_over() -> None:
    mark = mark_of("ops", low(), NOW)
    later = NOW + SETTLED_MS
    assert over([mark], [], frozenset(), later) == []
    assert over([mark], [], OVER_WITH_CONDITION, later - 1) == []  # it may have begun after the look
    assert over([mark], [], OVER_WITH_CONDITION, later) == [mark]


def test_a_user_is_told_once_by_all_its_channels() -> None:
    rules = [
        rule("ops"), rule("ops-mail", kinds="balance.low"), rule("acme", user="acme", seller="s1"),
        rule("globex", user="globex", seller="s2"), rule("caps", user="c", kinds="cap.*"), rule("x", tenant="other"),
    ]  # fmt: skip
    told = {user: [one.name for one in by] for user, by in by_user(rules, low("s1")).items()}
    assert told == {"ops": ["ops", "ops-mail"], "acme": ["acme"]}


def account(balance: int, held: int = 0, credit: int = 0) -> Account:
    return Account(
        seller_id="s1", tenant_id="t", balance_micros=balance, held_micros=held, credit_limit_micros=credit
    )  # fmt: skip


def seller(mark: int, status: Status = Status.ACTIVE) -> Seller:
    return Seller(
        id="s1", tenant_id="t", created_ms=0, updated_ms=0, name="acme", currency="USD", timezone="UTC", status=status,
        low_balance_micros=mark,
    )  # fmt: skip


CALLS = st.tuples(st.just("call"), st.integers(0, 30)) | st.tuples(st.just("end"), st.integers(0, 30))
PAYMENTS = st.tuples(st.just("pay"), st.integers(1, 150))


def times_told(steps: list[tuple[str, int]], balance: int, credit: int, mark: int) -> tuple[int, int]:
    """How often such a life is told, and how often it should be: money that a call holds comes and goes, what it costs
    is gone, a payment lifts what is there."""
    held, told, falls, was_low = 0, 0, 0, False
    marks: list[NotificationMark] = []
    for number, (what, amount) in enumerate([("look", 0), *steps]):
        now_ms = NOW + number * (SETTLED_MS + 1)
        if what == "call" and balance + credit - held >= amount:
            held += amount
        elif what == "end":
            cost = min(amount, held)
            balance, held = balance - cost // 2, held - cost
        elif what == "pay":
            balance += amount
        lasting = [low()] if runs_low(seller(mark), account(balance, held, credit)) else []
        gone = over(marks, lasting, OVER_WITH_CONDITION, now_ms)
        marks = [one for one in marks if one not in gone]
        if lasting and not marks:
            marks, told = [mark_of("ops", low(), now_ms)], told + 1
        falls += balance + credit < mark and not was_low
        was_low = balance + credit < mark
    return told, falls


@UNTIMED
@given(st.lists(CALLS, max_size=60), st.integers(0, 200), st.integers(0, 50), st.integers(1, 150))
def test_what_calls_hold_never_has_a_low_balance_told_again(
    steps: list[tuple[str, int]], balance: int, credit: int, mark: int
) -> None:
    told, falls = times_told(steps, balance, credit, mark)
    assert told == falls <= 1


@UNTIMED
@given(st.lists(CALLS | PAYMENTS, max_size=60), st.integers(0, 200), st.integers(0, 50), st.integers(1, 150))
def test_a_payment_has_a_low_balance_told_the_next_time_it_falls(
    steps: list[tuple[str, int]], balance: int, credit: int, mark: int
) -> None:
    told, falls = times_told(steps, balance, credit, mark)
    assert told == falls


def test_a_balance_that_was_paid_up_is_told_when_it_falls_again() -> None:
    spent = [("call", 10), ("end", 10)]
    assert times_told([*spent, ("pay", 100), *spent * 30], 20, 0, 20) == (2, 2)


def test_a_balance_is_low_below_the_mark_of_an_active_seller_alone() -> None:
    assert runs_low(seller(10), account(9))
    assert not runs_low(seller(10), account(10, held=5))
    assert not runs_low(seller(10), account(4, credit=6))
    assert not runs_low(seller(0), account(-1))
    assert not runs_low(seller(10, Status.SUSPENDED), account(9))


def user(role: UserRole, seller_id: str | None, status: Status = Status.ACTIVE) -> User:
    return User(
        id="u", tenant_id="t", created_ms=0, updated_ms=0, name="ops", role=role, status=status, email="",
        seller_id=seller_id,
    )  # fmt: skip


@UNTIMED
@given(
    st.sampled_from(["", "s1", "s2"]), st.sampled_from(UserRole), st.sampled_from(["s1", "s2"]),
    st.sampled_from(Status), st.sampled_from(["", "s1", "s2"]),
)  # fmt: skip
def test_no_user_is_told_of_more_than_it_may_know(
    limit: str, role: UserRole, own: str, status: Status, concerned: str
) -> None:
    """Neither than its rule says, nor, of a seller's user, than of that seller."""
    held = as_it_holds(rule(seller=limit), user(role, own if role is UserRole.SELLER else None, status))
    is_told = bool(by_user([held] if held else [], low(concerned)))
    may_know = status is Status.ACTIVE and (role is UserRole.ADMIN or own == concerned)
    assert is_told == (may_know and limit in ("", concerned))


def test_a_person_whom_only_the_rule_knows_is_limited_by_the_rule_alone() -> None:
    assert as_it_holds(rule(), None) == rule()
    assert as_it_holds(rule(seller="s1"), None) == rule(seller="s1")


def test_a_node_does_not_judge_whether_it_was_lost_but_when_it_starts() -> None:
    lost = [mark_of("ops", daemon_lost("t", node, NOW), NOW) for node in ("a", "b")]
    no_ami = [mark_of("ops", ami_down("t", node), NOW) for node in ("a", "b")]
    money = mark_of("ops", low(), NOW)
    marks = [*lost, *no_ami, money]
    assert to_judge(marks, "a", starts=False) == [lost[1], no_ami[0], money]
    assert to_judge(marks, "a", starts=True) == [*lost, no_ami[0], money]


NAMES = st.sampled_from(["until_ms", "target", "limited", "metric", "abuse", "seller", "seller_id", "status", "count"])


@UNTIMED
@given(st.sampled_from(EventKind), st.dictionaries(NAMES, st.none() | st.integers() | st.text(max_size=8)))
def test_whatever_an_event_says_it_can_be_told(kind: EventKind, data: dict[str, object]) -> None:
    strange = event(lambda: "E", "t", NOW, kind, "subject", **data)
    finding = found_in(strange)
    assert finding is None or (finding.tenant_id == "t" and finding.text and finding.until_ms >= 0)
