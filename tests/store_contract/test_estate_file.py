"""Estate files on both engines: what is exported can be applied, all or nothing, and no change of others is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from capconduit.domain.model import Audit, Block, Campaign, Cap, Counter, Did, Event, Seller, Target, Tenant, Trunk
from capconduit.errors import CapConduitError, NotFound, Refused, UsageError
from capconduit.estate_file.document import parse, render
from capconduit.estate_file.manual import EXAMPLE, FIELDS
from capconduit.estate_file.plan import Plan
from capconduit.estate_file.schema import NOUNS, Document
from capconduit.services import balances, blocks, campaigns, caps, dids, rates, sellers, settings, targets
from capconduit.services.audit import undo
from capconduit.services.blocks import Where
from capconduit.services.estate_file import apply_estate, export, plan_estate
from capconduit.services.office import Office
from capconduit.services.setup import prepare_database
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import CapMetric, CapScope, DidStatus, EventKind
from tests.unit.estate_builder import EstateBuilder, FakeClock, Till, route_of, settle_of, small_estate

Shop = Callable[[EstateBuilder], Till]
DID = "+18005550100"


class Estate:
    """An empty installation, a clock that only the test moves, and files applied to it."""

    def __init__(self, store: SqlStore) -> None:
        self.clock = FakeClock()
        self.store = store
        prepare_database(store, self.clock)
        self.office = self.of()

    def of(self, actor: str = "me", **fields: Any) -> Office:
        return Office(self.store, self.clock, actor=actor, **fields)

    def apply(self, text: str, **how: Any) -> Plan:
        self.clock.pass_ms(1_000)
        return apply_estate(self.office, parse(text), **how)

    def refused(self, text: str, **how: Any) -> CapConduitError:
        """What an apply is refused with; nothing is changed by it."""
        before = self.version(), self.text()
        with pytest.raises(CapConduitError) as caught:
            self.apply(text, **how)
        assert (self.version(), self.text()) == before
        return caught.value

    def text(self) -> str:
        """An export, but for when it was made."""
        document = export(self.office)
        document.exported_ms = None
        return render(document)

    def exported(self) -> str:
        self.clock.pass_ms(1_000)
        return render(export(self.office))

    def planned(self, text: str, **how: Any) -> list[tuple[str, str]]:
        return [(c.action.value, c.path) for c in plan_estate(self.office, parse(text), **how)[0].changes]

    def version(self) -> int:
        with self.store.transaction(write=False) as tx:
            return tx.load_estate().version

    def rows(self, kind: type[Any], **where: Any) -> Any:
        return self.office.read(lambda desk: desk.tx.rows(kind, desk.tenant_id, **where))

    def ids(self, kind: type[Any]) -> dict[str, str]:
        return {row.name: row.id for row in self.rows(kind)}


@pytest.fixture
def estate(store: SqlStore) -> Estate:
    return Estate(store)


def without_instants(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(("exported", "changed")))


def nouns_of(text: str) -> Document:
    document = parse(text)
    document.exported_ms = document.changed_ms = None
    return document


# --- there and back ---------------------------------------------------------------------------------------------------


def test_the_example_is_applied_once_and_then_plans_nothing(estate: Estate) -> None:
    assert len(estate.apply(EXAMPLE).changes) == 23
    version = estate.version()
    assert estate.planned(EXAMPLE, prune=True) == []
    estate.apply(EXAMPLE)
    assert estate.version() == version


def test_an_export_of_the_example_makes_the_same_estate_elsewhere(estate: Estate, tmp_path: Any, opened: Any) -> None:
    estate.apply(EXAMPLE)
    text = estate.exported()
    other = Estate(opened(f"sqlite:///{tmp_path}/other.sqlite"))
    other.apply(text)
    assert without_instants(other.text()) == without_instants(text)
    assert other.planned(text, prune=True) == []


def test_an_apply_of_an_export_changes_nothing(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    office = till.office()
    text = render(export(office))
    before = till.store.run(lambda tx: tx.estate_version())
    assert apply_estate(office, parse(text), prune=True).changes == []
    assert till.store.run(lambda tx: tx.estate_version()) == before
    assert without_instants(render(export(office))) == without_instants(text)


def test_a_new_thing_has_the_defaults_that_the_manual_says(estate: Estate) -> None:
    estate.apply(
        '[rate.r]\nper_minute="1"\n[schedule.s]\nhours="always"\n[trunk.t]\nkind="pjsip"\nhosts=["192.0.2.1"]\n'
        '[seller.s]\n[target.t]\nkind="extension"\naddress="1@x"\n[campaign.c]\nseller="s"\nrate="r"\n[rule.c.t]\n'
        f'[did."{DID}"]\n[[block]]\npattern="+1900*"\n'
        '[provider.p]\nkind="openai"\nkey="env:K"\nmodel="m"\n[agent.a]\nproviders=["p"]\n'
    )
    found = export(estate.office)
    given = ("hosts", "key", "model", "address")  # what those above cannot do without
    for noun in NOUNS:
        lines = "".join(f"{n} = {d}\n" for n, (_, d) in FIELDS[noun.name].items() if d is not None and n not in given)
        key = {"rule": "c.t", "did": f'"{DID}"', "block": ""}.get(noun.name, "x")
        header = f"[{noun.name}.{key}]" if key else '[[block]]\npattern = "+1900*"'
        (defaults,) = parse(f"{header}\n{lines}").nouns[noun.name].values()
        (made,) = found.nouns[noun.name].values()
        assert {name: made[name] for name in defaults} == defaults, noun.name


def test_values_in_another_form_are_the_same(estate: Estate) -> None:
    said = (
        '[settings]\nmin_attestation = "none"\nabuse_block = "3600s"\ndefault_region = "us"\n'
        '[seller.acme]\ncurrency = "usd"\n[rate.std]\nper_minute = "0.2"\ncurrency = "usd"\nincrement = " 60/60 "\n'
        '[schedule.s]\nhours = "mon,tue-fri 9:00-17:00"\n[did."(800) 555-0100"]\n'
        '[[block]]\npattern = "(212) 555-0199"\n'
        '[trunk.t]\nkind = "pjsip"\nauth = "digest"\nusername = ""\nsecret = "env:T"\nregion = "gb"\n'
        '[did."020 7946 0018"]\ntrunk = "t"\n'
    )
    estate.apply(said)
    assert estate.planned(said, prune=True) == []
    assert {did.number for did in estate.rows(Did)} == {DID, "+442079460018"}


# --- all or nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "slug", "said"),
    [
        (f'[did."{DID}"]\n[did."1 800 555 0100"]\n', "estate-twice", DID),
        ('[did."12"]\n', "number-invalid", "did.12: "),
        ('[settings]\ntimezon = "UTC"\n', "setting-not-found", "settings.timezon"),
        ("[settings]\nbreaker_failures = 99999\n", "setting-invalid", "settings.breaker_failures"),
        ('[system]\ncaps = ["concurrent 99999999999"]\n', "limit-invalid", "system.caps"),
        ('[seller.a]\ncaps = ["billable 5/rolling:1s"]\n', "limit-invalid", "seller.a.caps"),
        ("[seller.'a b']\n", "name-invalid", 'seller."a b"'),
        ('[schedule.s]\nhours = ""\n', "hours-invalid", "schedule.s"),
        ('[rate.r]\nper_minute = "1"\nthen_after = "60s"\n', "second-step-incomplete", "rate.r"),
        ('[rate.r]\nper_minute = "1"\nthen_after = "500ms"\nthen_per_minute = "1"\n', "then-after-invalid", "rate.r"),
        ('[rate.r]\nper_minute = "1"\nthen_after = "0s"\nthen_per_minute = "1"\n', "second-step-incomplete", "rate.r"),
        ('[rate.none]\nper_minute = "1"\n', "name-reserved", "rate.none"),
        ("[[block]]\npattern = '*'\n", None, 'block.everybody."*"'),
        ('[trunk.t]\nkind = "pjsip"\n', "host-missing", "trunk.t"),
        ('[target.t]\nkind = "pjsip"\naddress = "x\\ny"\n', None, "target.t"),
        ('[target.t]\nkind = "extension"\naddress = "1@x"\nring = "1h"\n', "ring-invalid", "target.t"),
        ('[rate.e]\nper_minute="1"\ncurrency="EUR"\n[seller.s]\n[campaign.z]\nseller="s"\nrate="e"\n',
         "currency-mismatch", "campaign.z"),
    ],
)  # fmt: skip
def test_one_fault_and_nothing_is_done(estate: Estate, wrong: str, slug: str | None, said: str) -> None:
    estate.apply('[rate.std]\nper_minute = "0.20"\n')
    error = estate.refused('[seller.first]\n[schedule.first]\nhours = "always"\n' + wrong)
    assert slug in (None, error.slug)
    assert said in error.message


def test_a_number_of_another_tenant_is_refused_with_everything_else(estate: Estate) -> None:
    estate.store.run(lambda tx: tx.insert(Tenant(id="B", name="other", created_ms=1, updated_ms=1)))
    dids.add_did(estate.of(tenant="other"), DID)
    assert estate.refused(f'[seller.acme]\n[did."{DID}"]\n').slug == "did-exists"
    assert estate.apply("", prune=True).changes == []
    assert [d.did.number for d in dids.list_dids(estate.of(tenant="other"))] == [DID]
    with pytest.raises(NotFound):
        export(estate.of(tenant="thrid"))


def test_what_is_refused_at_the_end_undoes_what_was_done_before(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    office = till.office()
    balances.post_adjustment(office, "acme", 1_000_000, reason="x")
    before = render(export(office))
    with pytest.raises(Refused) as caught:
        apply_estate(office, parse('[seller.zenith]\n[rate.new]\nper_minute = "1"\n'), prune=True)
    assert (caught.value.slug, "remove seller.acme: " in caught.value.message) == ("seller-has-ledger", True)
    assert render(export(office)) == before


def test_a_campaign_with_live_calls_is_not_pruned(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    till.dial(route_of("a"))
    with pytest.raises(Refused) as caught:
        apply_estate(till.office(), Document(), prune=True)
    assert (caught.value.slug, "campaign.solar" in caught.value.message) == ("campaign-in-use", True)
    till.ask(settle_of("a"))
    till.verify()


# --- one thing after the other ----------------------------------------------------------------------------------------


def test_a_dry_run_refuses_what_would_be_refused_and_leaves_nothing(estate: Estate) -> None:
    before = estate.version(), estate.text()
    rehearsal = estate.of(dry_run=True)
    assert len(apply_estate(rehearsal, parse(EXAMPLE)).changes) == 23
    with pytest.raises(UsageError):
        apply_estate(rehearsal, parse('[trunk.t]\nkind = "pjsip"\n'))
    assert (estate.version(), estate.text()) == before


def test_an_apply_is_one_version_of_the_estate_and_each_change_is_audited(estate: Estate) -> None:
    version, audits = estate.version(), len(estate.rows(Audit))
    found = estate.apply(EXAMPLE)
    assert estate.version() == version + 1
    entries = estate.rows(Audit)[audits:]
    assert {e.at_ms for e in entries} == {estate.clock.wall_ms}
    assert len(entries) > len(found.changes)
    told = [e for e in estate.rows(Event) if e.kind is EventKind.ESTATE_CHANGED]
    assert len(told) == len(estate.rows(Audit))


def test_a_rename_keeps_ids_counters_and_live_calls(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    office = till.office()
    caps.set_caps(office, CapScope.CAMPAIGN, "solar", [caps.parse_limit(CapMetric.CONCURRENT, "10")])
    till.dial(route_of("a"))
    counters = sorted(map(str, till.rows(Counter)))
    ids = {row.id for kind in (Seller, Campaign, Target) for row in till.rows(kind)}
    name = till.rows(Target)[0].name
    apply_estate(
        office,
        parse(
            '[seller.acme2]\nrenamed_from = "acme"\n[campaign.sun]\nrenamed_from = "solar"\n'
            f'[target.first]\nrenamed_from = "{name}"\n[rule.sun.first]\npriority = 7\n'
        ),
    )
    assert {row.id for kind in (Seller, Campaign, Target) for row in till.rows(kind)} == ids
    assert sorted(map(str, till.rows(Counter))) == counters
    assert targets.show_rule(office, "sun", "first").rule.priority == 7
    till.ask(settle_of("a", talk_ms=60_000))
    till.dial(route_of("b"))
    till.verify()


def test_a_renamed_trunk_keeps_its_numbers_and_must_stay_whole(estate: Estate) -> None:
    trunk = '[trunk.{}]\nkind = "pjsip"\nauth = "digest"\nsecret = "env:T"\n'
    estate.apply(trunk.format("old") + f'[did."{DID}"]\ntrunk = "old"\n')
    ids = estate.ids(Trunk)
    renamed = trunk.format("new") + 'renamed_from = "old"\n'
    assert estate.refused(renamed).slug == "username-invalid"
    estate.apply(renamed + 'username = "new"\n')
    assert estate.ids(Trunk) == {"new": ids["old"]}
    assert dids.show_did(estate.office, DID).trunk == "new"
    assert estate.refused('[trunk.guest]\nrenamed_from = "new"\n').slug == "name-reserved"
    assert estate.refused('[trunk."a b"]\nrenamed_from = "new"\n').slug == "name-invalid"


def test_prune_removes_what_refers_to_others_first(estate: Estate) -> None:
    estate.apply(EXAMPLE)
    removed = [path.split(".")[0] for action, path in estate.planned("", prune=True) if action == "remove"]
    assert removed == sorted(removed, key=[noun.name for noun in reversed(NOUNS)].index)
    estate.apply("", prune=True)
    left = export(estate.office)
    assert not any(left.nouns.values())
    assert (left.system_caps, sorted(left.settings)) != ((), [])  # neither is removed by leaving it out
    for kind in (Campaign, Did, Trunk, Seller, Target, Block):
        assert estate.rows(kind) == []
    assert {cap.scope for cap in estate.rows(Cap)} == {CapScope.SYSTEM}


def test_two_prices_become_one_and_two_again(estate: Estate) -> None:
    rate = '[rate.r]\nper_minute = "0.20"\n'
    free = rate + 'then_after = "60s"\nthen_per_minute = "0.00"\n'
    for text, after_s in ((rate, 0), (free, 60), (rate, 60), (rate + 'then_after = "0s"\n', 0), (free, 60)):
        estate.apply(text)
        assert rates.show_rate(estate.office, "r").then_after_s == after_s
        assert estate.planned(text) == []
    estate.apply(rate + 'then_per_minute = "0.10"\n')
    assert rates.show_rate(estate.office, "r").then_per_minute_micros == 100_000
    estate.apply(rate + 'then_after = "0s"\nthen_per_minute = "0.00"\n')
    assert estate.refused(rate + 'then_after = "60s"\n').slug == "second-step-incomplete"


def test_a_number_changes_hands_and_back(estate: Estate) -> None:
    did = f'[did."{DID}"]\n'
    estate.apply(EXAMPLE)
    for fields, status in (
        ('campaign = ""\n', DidStatus.AVAILABLE),
        ("suspended = true\n", DidStatus.SUSPENDED),
        ('suspended = false\ncampaign = "solar"\n', DidStatus.ASSIGNED),
        ("caps = []\n", DidStatus.ASSIGNED),
        ('trunk = "overseas"\n', DidStatus.ASSIGNED),
    ):
        estate.apply(did + fields)
        assert estate.planned(did + fields) == []
        assert dids.show_did(estate.office, DID).did.status is status
    assert estate.refused(did + 'trunk = ""\n').slug == "did-needs-trunk"


def test_a_number_can_be_a_sellers_without_a_campaign(estate: Estate) -> None:
    base = (
        '[seller.acme]\n[seller.zenith]\n[rate.std]\nper_minute = "0.2"\n'
        '[campaign.solar]\nseller = "acme"\nrate = "std"\n'
    )
    did = f'[did."{DID}"]\n'
    estate.apply(base + did + 'seller = "zenith"\n')
    shown = dids.show_did(estate.office, DID)
    assert (shown.seller, shown.campaign, shown.did.status) == ("zenith", "", DidStatus.ASSIGNED)
    for fields, seller in (
        ('campaign = "solar"\n', "acme"),
        ('campaign = ""\nseller = "zenith"\n', "zenith"),
        ('seller = ""\n', ""),
    ):
        estate.apply(base + did + fields)
        assert estate.planned(base + did + fields) == []
        assert dids.show_did(estate.office, DID).seller == seller
    assert estate.refused(base + did + 'campaign = "solar"\nseller = "zenith"\n').slug == "did-seller-twice"


def test_a_block_that_is_over_is_as_if_not_said(estate: Estate) -> None:
    text = '[[block]]\npattern = "+1900*"\nexpires = "2026-03-03T00:00:00Z"\n'
    estate.apply(text)
    estate.clock.pass_ms(2 * 86_400_000)
    assert estate.planned(text, prune=True) == []
    estate.apply('[[block]]\npattern = "+1900*"\n')
    assert estate.refused(text).slug == "expiry-past"  # to take it away, take it out of the file and prune


def test_caps_at_every_scope_are_set_changed_and_taken_away(estate: Estate) -> None:
    estate.apply(EXAMPLE)
    headers = (
        "system", "trunk.carrier", "seller.acme", "target.buyer1", "campaign.solar", "rule.solar.buyer1",
        f'did."{DID}"',
    )  # fmt: skip
    for limits in ('"attempts 5/total", "minutes 5/hour"', '"attempts 6/total", "spend 1.5/rolling:1h30m"', ""):
        text = "".join(f"[{header}]\ncaps = [{limits}]\n" for header in headers)
        assert len(estate.apply(text).changes) == len(headers)
        assert estate.planned(text) == []
        assert len(estate.rows(Cap)) == len(headers) * (2 if limits else 0)
    assert list(caps.verify_caps(estate.office)) == []


# --- others -----------------------------------------------------------------------------------------------------------


def test_a_change_between_plan_and_apply_is_refused(estate: Estate) -> None:
    _, version = plan_estate(estate.office, parse(EXAMPLE))
    sellers.add_seller(estate.office, "somebody")
    assert estate.refused(EXAMPLE, version=version).slug == "estate-changed"
    estate.apply(EXAMPLE, version=estate.version())


def _others(office: Office) -> dict[str, Callable[[], object]]:
    """A change by somebody else, by the path that a file would change."""
    return {
        "campaign.solar": lambda: campaigns.set_campaign(office, "solar", max_attempts=9),
        "rule.solar.buyer1": lambda: targets.set_rule(office, "solar", "buyer1", weight=9),
        "seller.acme": lambda: sellers.set_seller(office, "acme", credit_limit_micros=9),
        "target.buyer1": lambda: caps.set_caps(
            office, CapScope.TARGET, "buyer1", [caps.parse_limit(CapMetric.CONCURRENT, "9")]
        ),
        "system": lambda: caps.set_caps(office, CapScope.SYSTEM, "", [caps.parse_limit(CapMetric.CPS, "9")]),
        "settings": lambda: settings.set_setting(office, "default_max_attempts", "9"),
        'did."+18005550100"': lambda: dids.release_did(office, DID),
        'block.everybody."+1900*"': lambda: blocks.set_block(office, "+1900*", Where(), reason="other"),
        'did."+18005550101"': lambda: dids.remove_did(office, "+18005550101"),
    }


@pytest.mark.parametrize("path", list(_others(None)))  # type: ignore[arg-type]  # for its keys
def test_what_others_changed_since_the_export_is_not_overwritten(estate: Estate, path: str) -> None:
    estate.apply(EXAMPLE)
    text = estate.exported()
    estate.clock.pass_ms(1_000)
    _others(estate.of("somebody"))[path]()
    error = estate.refused(text)
    assert (error.slug, f"{path} (somebody)" in error.message) == ("estate-conflict", True)
    estate.apply(text, force=True)
    assert nouns_of(estate.text()) == nouns_of(text)


def test_caps_are_known_again_however_what_they_limit_was_written(estate: Estate) -> None:
    estate.apply(EXAMPLE)
    caps.set_caps(estate.office, CapScope.SYSTEM, "", [caps.parse_limit(CapMetric.CPS, "9")])
    text = estate.exported()
    estate.clock.pass_ms(1_000)
    other = estate.of("somebody")
    caps.set_caps(other, CapScope.DID, "(800) 555-0100", [caps.parse_limit(CapMetric.CONCURRENT, "9")])
    caps.clear_caps(other, CapScope.SYSTEM, "")
    error = estate.refused(text)
    assert error.slug == "estate-conflict"
    assert all(path in error.message for path in ('did."+18005550100" (somebody)', "system (somebody)"))


def test_a_change_that_was_taken_back_since_the_export_is_not_made_again(estate: Estate) -> None:
    estate.apply(EXAMPLE)
    estate.clock.pass_ms(1_000)
    targets.set_rule(estate.office, "solar", "buyer1", weight=9)
    blocks.set_block(estate.office, "+1900*", Where(), reason="other")
    text = estate.exported()
    estate.clock.pass_ms(1_000)
    for action in ("rule.set", "block.set"):
        undo(estate.of("somebody"), [e.id for e in estate.rows(Audit) if e.action == action][-1])
    error = estate.refused(text)
    assert error.slug == "estate-conflict"
    assert all(path in error.message for path in ("rule.solar.buyer1 (somebody)", 'block.everybody."+1900*"'))


def test_a_change_of_something_else_is_no_conflict(estate: Estate) -> None:
    estate.apply(EXAMPLE)
    text = estate.exported()
    estate.clock.pass_ms(1_000)
    targets.rest_target(estate.of("somebody"), "buyer1")
    rates.set_rate(estate.of("somebody"), "paid", per_minute_micros=1)
    text = text.replace('ring = "25s"', 'ring = "26s"').replace('per_minute = "0.05"\n', "")
    assert estate.planned(text) == [("set", "target.buyer1")]
    estate.apply(text)


def test_an_apply_of_the_same_file_is_no_conflict_to_the_next_of_its_author(estate: Estate) -> None:
    estate.apply(EXAMPLE)
    text = estate.exported()
    estate.apply(text.replace('ring = "25s"', 'ring = "26s"'))
    estate.apply(text.replace('ring = "25s"', 'ring = "27s"'))
    estate.office = estate.of("somebody")
    assert "target.buyer1 (me)" in estate.refused(text).message  # a copy of the file, and it is older
    targets.set_target(estate.office, "buyer1", ring_ms=28_000)
    estate.office = estate.of()
    assert "target.buyer1 (somebody)" in estate.refused(text).message


def test_a_change_that_was_under_way_while_the_file_was_written_is_not_overwritten(estate: Estate) -> None:
    estate.apply(EXAMPLE)
    began_ms = estate.clock.wall_ms + 1_000
    text = estate.exported()
    estate.clock.wall_ms = began_ms - 500  # it began before the export, and was committed after it
    targets.set_target(estate.of("somebody"), "buyer1", ring_ms=28_000)
    estate.clock.wall_ms = began_ms + 5_000
    assert estate.refused(text).slug == "estate-conflict"
