"""The demo's end: what came of the calls, where the money went, and whether every witness tells the same story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from capconduit.domain.model import Cdr
from capconduit.services import balances, calls, caps, sellers
from capconduit.services.office import Office
from capconduit.units import MS_PER_SECOND, ceil_div, format_micros
from capconduit.vocab import LedgerKind
from capconduit_cli.text import cells, printable

TALK_TOLERANCE_MS: Final = 50
CUT_TOLERANCE_MS: Final = 250  # a call that was cut at its funded time is not billed for what the cutting took
EXAMPLES: Final = 5  # disagreements that are named of each kind
MINUTE_MS: Final = 60_000
SHORT_ID: Final = 8  # characters of a call's id that tell it from a hundred others


@dataclass(frozen=True)
class Truth:
    """One call as Asterisk saw it. None: this Asterisk's witness does not know."""

    uniqueid: str
    answered: bool
    talk_ms: int
    reason: str | None  # CC_REASON; empty where the call was not rejected
    sip: int | None  # of a rejected call
    attempts: tuple[tuple[str, str], ...] | None  # target and DIALSTATUS of each Dial
    hung_up_by: str | None
    cut: bool = False  # by the funded time


@dataclass(frozen=True)
class Opening:
    """A seller's books before the first call: the balance, and ids of the ledger entries that stood there already."""

    balance_micros: int
    entries: frozenset[str]


@dataclass(frozen=True)
class CampaignSums:
    """What a campaign's calls came to. Calls that reached no campaign have an empty name."""

    name: str
    calls: int
    answered: int
    rejected: int
    given_up: int  # the caller hung up while it rang
    talk_ms: int
    revenue_micros: int
    currency: str


@dataclass(frozen=True)
class SellerSums:
    """A seller's money, summed from three sides: the ledger, the CDRs, the account. Micros."""

    name: str
    currency: str
    opening_micros: int
    paid_micros: int  # adjustments while the demo ran, by the ledger
    ledger_calls_micros: int
    cdr_calls_micros: int
    closing_micros: int
    written_off_micros: int

    @property
    def adds_up(self) -> bool:
        """Opening + paid - calls = closing, with either sum of the calls."""
        return (
            self.ledger_calls_micros == self.cdr_calls_micros
            and self.opening_micros + self.paid_micros - self.ledger_calls_micros == self.closing_micros
        )


@dataclass
class Check:
    """Something that must hold; `wrong` names what does not."""

    what: str
    wrong: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that is printed at the end."""

    calls: int
    elapsed_s: float
    campaigns: Sequence[CampaignSums]
    rejects: Mapping[str, int]
    money: Sequence[SellerSums]
    checks: Sequence[Check]
    unmet: Sequence[str]  # rejects that the script is made for and that did not come about
    cut: Sequence[Cdr]  # calls that ended because their money was used up
    example: str  # end of the id of a call with a story: the answered one with the most Dials

    @property
    def good(self) -> bool:
        """Whether every check holds."""
        return not any(check.wrong for check in self.checks)


def open_books(office: Office) -> dict[str, Opening]:
    """The books by seller, to be taken before the first call."""
    return {
        view.seller.name: Opening(
            view.account.balance_micros, frozenset(entry.id for entry in balances.ledger(office, view.seller.name)[1])
        )
        for view in sellers.list_sellers(office)
    }


def make_report(
    office: Office,
    truths: Sequence[Truth],
    opening: Mapping[str, Opening],
    expected: Iterable[str],
    elapsed_s: float,
    more: Sequence[Check] = (),
) -> Report:
    """Read everything back and compare. `expected`: reject reasons the script is made to meet. Raises DatabaseError."""
    cdrs = calls.find_cdrs(office)
    money = [_seller_sums(office, name, opened, cdrs) for name, opened in opening.items()]
    rejects = Counter(cdr.reject_reason for cdr in cdrs if cdr.reject_reason)
    checks = [
        _every_call_once(truths, cdrs),
        _same_story(office, truths, cdrs),
        _same_talk(truths, cdrs),
        _prices(cdrs),
        _ledger_of_each_call(office, opening, cdrs),
        _money(office, money),
        _counters(office),
        _nothing_left(office),
        *more,
    ]
    unmet = [reason for reason in expected if reason not in rejects]
    cut = [cdr for truth, cdr in _pairs(truths, cdrs) if truth.cut]
    example = max(cdrs, key=lambda cdr: (cdr.answered_ms is not None, cdr.attempts), default=None)
    return Report(
        calls=len(truths),
        elapsed_s=elapsed_s,
        campaigns=_campaign_sums(cdrs),
        rejects=rejects,
        money=money,
        checks=checks,
        unmet=unmet if cut else [*unmet, "a call that is cut when its money is used up"],
        cut=cut,
        example=example.call_id[-SHORT_ID:] if example else "",
    )


# --- sums


def _campaign_sums(cdrs: Sequence[Cdr]) -> list[CampaignSums]:
    names = sorted({cdr.campaign for cdr in cdrs}, key=lambda name: (not name, name))
    sums = []
    for name in names:
        mine = [cdr for cdr in cdrs if cdr.campaign == name]
        sums.append(
            CampaignSums(
                name=name,
                calls=len(mine),
                answered=sum(cdr.answered_ms is not None for cdr in mine),
                rejected=sum(bool(cdr.reject_code) for cdr in mine),
                given_up=sum(cdr.answered_ms is None and not cdr.reject_code for cdr in mine),
                talk_ms=sum(cdr.talk_ms for cdr in mine),
                revenue_micros=sum(cdr.amount_micros for cdr in mine),
                currency=next((cdr.currency for cdr in mine if cdr.currency), ""),
            )
        )
    return sums


def _seller_sums(office: Office, name: str, opened: Opening, cdrs: Sequence[Cdr]) -> SellerSums:
    seller, entries = balances.ledger(office, name)
    mine = [cdr for cdr in cdrs if cdr.seller == name]
    since = [entry for entry in entries if entry.id not in opened.entries]
    return SellerSums(
        name=name,
        currency=seller.currency,
        opening_micros=opened.balance_micros,
        paid_micros=sum(entry.amount_micros for entry in since if entry.kind is not LedgerKind.CALL),
        ledger_calls_micros=-sum(entry.amount_micros for entry in since if entry.kind is LedgerKind.CALL),
        cdr_calls_micros=sum(cdr.amount_micros for cdr in mine),
        closing_micros=balances.show_balance(office, name).account.balance_micros,
        written_off_micros=sum(cdr.written_off_micros for cdr in mine),
    )


# --- checks


def _every_call_once(truths: Sequence[Truth], cdrs: Sequence[Cdr]) -> Check:
    check = Check("every call that Asterisk saw has exactly one CDR", note=f"{len(cdrs)} of {len(truths)}")
    seen, recorded = Counter(t.uniqueid for t in truths), Counter(c.uniqueid for c in cdrs)
    check.wrong += [f"{uniqueid} has no CDR" for uniqueid in seen - recorded]
    check.wrong += [f"{uniqueid} has a CDR too many" for uniqueid in recorded - seen]
    return check


def _pairs(truths: Sequence[Truth], cdrs: Sequence[Cdr]) -> list[tuple[Truth, Cdr]]:
    by_uniqueid = {cdr.uniqueid: cdr for cdr in cdrs}
    return [(truth, by_uniqueid[truth.uniqueid]) for truth in truths if truth.uniqueid in by_uniqueid]


def _same_story(office: Office, truths: Sequence[Truth], cdrs: Sequence[Cdr]) -> Check:
    check = Check("outcome, reason, SIP code, each Dial, who hung up: the same for both")
    for truth, cdr in _pairs(truths, cdrs):
        differences = [
            f"{what} {theirs!r} against {ours!r}"
            for what, theirs, ours in _stories(office, truth, cdr)
            if theirs is not None and theirs != ours
        ]
        if differences:
            check.wrong.append(f"{truth.uniqueid}: {', '.join(differences)}")
    return check


def _stories(office: Office, truth: Truth, cdr: Cdr) -> list[tuple[str, object, object]]:
    """What Asterisk saw and what we recorded, side by side."""
    attempts = None
    if truth.attempts is not None:
        attempts = tuple((a.target_name, str(a.dialstatus or "")) for a in calls.tell(office, cdr.call_id).attempts)
    return [
        ("answered", truth.answered, cdr.answered_ms is not None),
        ("reason", truth.reason, cdr.reject_reason),
        ("SIP code", truth.sip if cdr.reject_code else None, cdr.sip_code),
        ("Dials", truth.attempts, attempts),
        ("hung up by", truth.hung_up_by, str(cdr.hung_up_by)),
    ]


def _same_talk(truths: Sequence[Truth], cdrs: Sequence[Cdr]) -> Check:
    check = Check(f"talk times are the same within {TALK_TOLERANCE_MS} ms")
    largest = 0
    for truth, cdr in _pairs(truths, cdrs):
        difference = abs(truth.talk_ms - cdr.talk_ms)
        largest = max(largest, difference)
        if difference > TALK_TOLERANCE_MS:
            check.wrong.append(f"{truth.uniqueid}: {truth.talk_ms} ms against {cdr.talk_ms} ms")
    check.note = f"largest difference {largest} ms"
    return check


def _prices(cdrs: Sequence[Cdr]) -> Check:
    check = Check("every price follows from talk time and rate")
    check.wrong += [f"{cdr.uniqueid}: {why}" for cdr in cdrs if (why := price_fault(cdr))]
    return check


def price_fault(cdr: Cdr) -> str:
    """What is wrong with the price of a CDR, worked out again from its own talk time and rate; empty where nothing."""
    billed, charged = cdr.billed_seconds, cdr.amount_micros + cdr.written_off_micros
    if cdr.answered_ms is None or cdr.talk_ms < cdr.billable_threshold_ms:
        return "costs something" if cdr.billable or billed or charged else ""
    enough = billed * MS_PER_SECOND + CUT_TOLERANCE_MS >= cdr.talk_ms
    too_much = billed > cdr.first_s and (billed - cdr.step_s) * MS_PER_SECOND >= cdr.talk_ms
    if billed < cdr.first_s or (billed - cdr.first_s) % cdr.step_s or not enough or too_much:
        return f"{cdr.talk_ms} ms billed as {billed} s"
    price = cdr.connect_fee_micros + ceil_div(billed * cdr.per_minute_micros, 60)
    return "" if charged == price else f"{billed} s cost {format_micros(price)}, charged {format_micros(charged)}"


def _ledger_of_each_call(office: Office, opening: Mapping[str, Opening], cdrs: Sequence[Cdr]) -> Check:
    check = Check("each call's ledger entry is its CDR's amount")
    posted = Counter[str]()
    for name in opening:
        for entry in balances.ledger(office, name)[1]:
            if entry.call_id is not None:
                posted[entry.call_id] -= entry.amount_micros
    charged = {cdr.call_id: cdr.amount_micros for cdr in cdrs if cdr.amount_micros}
    for call_id in sorted(posted.keys() | charged.keys()):
        ledger, cdr = posted.get(call_id, 0), charged.get(call_id, 0)
        if ledger != cdr:
            check.wrong.append(f"{call_id}: ledger {format_micros(ledger)}, CDR {format_micros(cdr)}")
    check.note = f"{len(charged)} calls"
    return check


def _money(office: Office, money: Sequence[SellerSums]) -> Check:
    check = Check("opening + paid - calls = closing, by ledger, CDRs and balance alike")
    check.wrong += [
        f"{s.name}: {format_micros(s.opening_micros)} + {format_micros(s.paid_micros)}"
        f" - {format_micros(s.ledger_calls_micros)} by ledger, {format_micros(s.cdr_calls_micros)} by CDRs,"
        f" is not {format_micros(s.closing_micros)}"
        for s in money
        if not s.adds_up
    ]
    check.wrong += [
        f"{drift.seller}: {drift.what} {format_micros(drift.stands_micros)}, rows {format_micros(drift.sums_micros)}"
        for drift in balances.verify_balances(office)
    ]
    return check


def _counters(office: Office) -> Check:
    check = Check("each cap's counter is what its places say, none above its limit")
    check.wrong += [
        f"{drift.subject}: used {drift.used}, counted {drift.counted}; in flight {drift.in_flight}, open {drift.open}"
        for drift in caps.verify_caps(office)
    ]
    check.wrong += [
        f"{view.subject}: {view.used + view.in_flight} of {view.cap.limit_value}"
        for view in caps.cap_usage(office)
        if view.used + view.in_flight > view.cap.limit_value
    ]
    return check


def _nothing_left(office: Office) -> Check:
    check = Check("no call is left, no money is held, no balance is below zero")
    check.wrong += [f"call {view.call.uniqueid} is {view.call.state}" for view in calls.list_calls(office)]
    for view in sellers.list_sellers(office):
        if view.account.held_micros or view.account.available_micros < 0:
            check.wrong.append(
                f"{view.seller.name}: held {format_micros(view.account.held_micros)},"
                f" available {format_micros(view.account.available_micros)}"
            )
    return check


# --- on paper


def report_text(report: Report) -> str:
    """The report as people read it."""
    parts = [
        f"{report.calls} calls in {report.elapsed_s:.0f} s",
        _campaigns_text(report.campaigns),
        _rejects_text(report.rejects),
        _money_text(report.money),
    ]
    parts += [
        f"A call of {cdr.campaign} was cut after {_seconds(cdr.talk_ms)}: its money, {_amount(cdr)}, was used up."
        for cdr in report.cut
    ]
    parts.append("\n".join(_check_lines(report.checks)))
    if report.unmet:
        parts.append("not met this time, this machine was too busy: " + ", ".join(report.unmet))
    return "\n\n".join(parts) + "\n"


def _campaigns_text(sums: Sequence[CampaignSums]) -> str:
    rows: list[tuple[str, ...]] = [
        (s.name or "(none)", str(s.calls), str(s.answered), str(s.rejected), str(s.given_up), _minutes(s.talk_ms),
         format_micros(s.revenue_micros, trim=True), s.currency)
        for s in sums
    ]  # fmt: skip
    totals = (
        sum(column) for column in zip(*((s.calls, s.answered, s.rejected, s.given_up) for s in sums), strict=True)
    )
    rows.append(("total", *map(str, totals), _minutes(sum(s.talk_ms for s in sums)), "", ""))  # of several currencies
    headings = ("CAMPAIGN", "CALLS", "ANSWERED", "REJECTED", "GIVEN UP", "MINUTES", "REVENUE", "")
    return _table(headings, rows, numbers=range(1, 7))


def _rejects_text(rejects: Mapping[str, int]) -> str:
    ordered = sorted(rejects.items(), key=lambda item: (-item[1], item[0]))
    rows = [(reason, str(times)) for reason, times in [*ordered, ("total", sum(rejects.values()))]]
    return _table(("REJECTED WITH", "TIMES"), rows, numbers=[1])


def _money_text(money: Sequence[SellerSums]) -> str:
    rows = [
        (s.name, s.currency, format_micros(s.opening_micros), format_micros(s.paid_micros),
         format_micros(-s.ledger_calls_micros), format_micros(s.closing_micros), "adds up" if s.adds_up else "WRONG")
        for s in money
    ]  # fmt: skip
    return _table(("SELLER", "", "OPENING", "PAID IN/OUT", "CALLS", "CLOSING", ""), rows, numbers=range(2, 6))


def _minutes(talk_ms: int) -> str:
    hundredths = (talk_ms * 100 + MINUTE_MS // 2) // MINUTE_MS
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def _seconds(duration_ms: int) -> str:
    return f"{duration_ms // MS_PER_SECOND}.{duration_ms % MS_PER_SECOND // 100} s"


def _amount(cdr: Cdr) -> str:
    return f"{format_micros(cdr.amount_micros, trim=True)} {cdr.currency}"


def _check_lines(checks: Sequence[Check]) -> list[str]:
    lines = []
    for check in checks:
        note = f" ({check.note})" if check.note else ""
        lines.append(f"{'WRONG' if check.wrong else 'ok'.ljust(5)}  {check.what}{note}")
        lines += [f"       {printable(wrong)}" for wrong in check.wrong[:EXAMPLES]]
        if len(check.wrong) > EXAMPLES:
            lines.append(f"       and {len(check.wrong) - EXAMPLES} more")
    return lines


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Iterable[int]) -> str:
    right = set(numbers)
    widths = [max(map(cells, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for row in [headings, *rows]:
        padded = []
        for number, (text, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - cells(text))
            padded.append(space + text if number in right else text + space)
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
