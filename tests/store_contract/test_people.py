"""Users, tokens and requests for numbers, on both engines."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from capconduit.domain.model import Audit, Cap, Did, Event, User
from capconduit.domain.people import DidRequest, Token
from capconduit.errors import Refused, UsageError
from capconduit.services import audit, caps, dids, requests, sellers, tokens, users
from capconduit.services.bulk_dids import add_many
from capconduit.store.open import open_store
from capconduit.store.postgres import PostgresDialect
from capconduit.store.sqlite import SqliteDialect
from capconduit.vocab import (
    SELLER_SCOPES,
    CapMetric,
    CapScope,
    DidStatus,
    EventKind,
    RejectCode,
    RequestStatus,
    TokenScope,
    UserRole,
    WindowKind,
)
from tests.unit.estate_builder import EstateBuilder, Till, route_of, small_estate

Shop = Callable[[EstateBuilder], Till]
DAY_MS = 86_400_000


@pytest.fixture
def till(open_shop: Shop) -> Till:
    return open_shop(small_estate())


def told(till: Till, kind: EventKind) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in till.rows(Event) if event.kind is kind]


def refused(work: Callable[[], object]) -> str:
    with pytest.raises((Refused, UsageError)) as caught:
        work()
    return caught.value.slug


# --- users and tokens ------------------------------------------------------------------------------------------------


def test_a_token_is_kept_as_a_hash_and_found_by_it(till: Till) -> None:
    office = till.office()
    users.add_user(office, "bob", role=UserRole.SELLER, seller="acme", email="bob@example.com")
    view, text = tokens.add_token(office, "laptop", user="bob")
    assert tokens.is_token(text)
    assert view.scopes == SELLER_SCOPES
    kept = till.rows(Token)[0]
    assert kept.hash == tokens.token_hash(text)
    everything = repr([till.rows(kind) for kind in (Token, Audit, Event)])
    assert text not in everything
    assert not any(kept.hash in entry.after for entry in till.rows(Audit))

    found = tokens.find_by_token(till.store, till.clock, tokens.token_hash(text))
    assert found is not None
    assert (found.user.name, found.tenant.name, found.seller and found.seller.name) == ("bob", "default", "acme")
    assert found.scopes == frozenset(SELLER_SCOPES)
    assert tokens.find_by_token(till.store, till.clock, tokens.token_hash(text[:-1])) is None
    assert tokens.find_by_token(till.store, till.clock, text) is None  # what is brought is hashed, never compared


def test_its_use_is_noted_once_a_minute(till: Till) -> None:
    office = till.office()
    users.add_user(office, "anna", role=UserRole.ADMIN)
    _, text = tokens.add_token(office, "ci", user="anna")
    digest, began = tokens.token_hash(text), till.clock.now_ms()
    for passed_ms, noted_ms in ((0, 0), (59_999, 0), (1, 60_000), (10, 60_000)):
        till.clock.pass_ms(passed_ms)
        assert tokens.find_by_token(till.store, till.clock, digest) is not None
        assert till.rows(Token)[0].used_ms == began + noted_ms


@pytest.mark.parametrize("how", ["revoked", "expired", "suspended", "removed", "user removed"])
def test_a_token_that_is_over_opens_nothing(till: Till, how: str) -> None:
    office = till.office()
    users.add_user(office, "bob", role=UserRole.SELLER, seller="acme")
    _, text = tokens.add_token(office, "laptop", user="bob", expires_ms=till.clock.now_ms() + DAY_MS)
    digest = tokens.token_hash(text)
    assert tokens.find_by_token(till.store, till.clock, digest)
    match how:
        case "revoked":
            tokens.revoke_token(office, "laptop")
            assert refused(lambda: tokens.revoke_token(office, "laptop")) == "token-revoked"
        case "expired":
            till.clock.pass_ms(DAY_MS)
        case "suspended":
            users.suspend_user(office, "bob", suspended=True)
        case "removed":
            tokens.remove_token(office, "laptop")
        case _:
            users.remove_user(office, "bob")
    assert tokens.find_by_token(till.store, till.clock, digest) is None
    assert not any(view.valid for view in tokens.list_tokens(office))


def test_what_is_noted_of_a_use_does_not_bring_a_revoked_token_back(till: Till) -> None:
    office = till.office()
    users.add_user(office, "anna", role=UserRole.ADMIN)
    tokens.add_token(office, "ci", user="anna")
    before = till.rows(Token)[0]
    tokens.revoke_token(office, "ci")
    with till.store.transaction(write=True) as tx:
        tx.tokens().note_use(before, till.clock.now_ms())
    after = till.rows(Token)[0]
    assert (after.revoked_ms, after.used_ms) == (till.clock.now_ms(), till.clock.now_ms())


def test_a_suspended_seller_may_look_and_not_ask(till: Till) -> None:
    office = till.office()
    users.add_user(office, "bob", role=UserRole.SELLER, seller="acme")
    _, text = tokens.add_token(office, "laptop", user="bob")
    sellers.suspend_seller(office, "acme", suspended=True)
    found = tokens.find_by_token(till.store, till.clock, tokens.token_hash(text))
    assert found is not None
    assert found.scopes == frozenset(SELLER_SCOPES) - {TokenScope.REQUESTS_WRITE}


def test_a_role_bounds_what_its_tokens_may(till: Till) -> None:
    office = till.office()
    users.add_user(office, "bob", role=UserRole.SELLER, seller="acme")
    users.add_user(office, "anna", role=UserRole.ADMIN)
    assert refused(lambda: tokens.add_token(office, "x", user="bob", scopes=[TokenScope.ADMIN])) == "scope-refused"
    view, _ = tokens.add_token(office, "x", user="bob", scopes=[TokenScope.CAPS_READ, TokenScope.CALLS_READ])
    assert view.scopes == ("calls:read", "caps:read")
    assert tokens.add_token(office, "y", user="anna")[0].scopes == ("admin",)
    assert refused(lambda: users.set_user(office, "bob", role=UserRole.ADMIN, seller="")) == "user-has-tokens"
    tokens.revoke_token(office, "x")
    assert users.set_user(office, "bob", role=UserRole.ADMIN, seller="").user.role is UserRole.ADMIN


def test_a_user_and_its_seller_belong_together(till: Till) -> None:
    office = till.office()
    assert refused(lambda: users.add_user(office, "bob", role=UserRole.SELLER)) == "seller-missing"
    assert refused(lambda: users.add_user(office, "anna", role=UserRole.ADMIN, seller="acme")) == "seller-of-admin"
    users.add_user(office, "bob", role=UserRole.SELLER, seller="acme")
    assert refused(lambda: users.add_user(office, "bob", role=UserRole.ADMIN)) == "user-exists"
    sellers.add_seller(office, "brief")
    users.set_user(office, "bob", seller="brief")
    assert refused(lambda: sellers.remove_seller(office, "brief")) == "seller-in-use"
    users.remove_user(office, "bob")
    requests.file_request(office, seller="brief", area="+44")
    sellers.remove_seller(office, "brief")  # its requests go with it
    assert not till.rows(User)
    assert not till.rows(DidRequest)


@pytest.mark.parametrize(
    "text", ["bob", "bob@", "@example.com", "a b@example.com", "a@b", "a@-b.com", "a..b@c.de", "a@b.de\n", "é@b.de"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        users.check_email(text)


@pytest.mark.parametrize("text", ["", "bob@example.com", "a.b+c@mail.example.co.uk", "root@localhost"])
def test_what_is_an_address_is_taken(text: str) -> None:
    assert users.check_email(text) == text


# --- requests --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stocked(till: Till) -> Till:
    """With four numbers to give, one of them elsewhere."""
    office = till.office()
    for number in ("+12125550101", "+12125550102", "+12125550103", "+13105550100"):
        dids.add_did(office, number)
    return till


def test_a_request_is_filed_and_told_in_one_transaction(stocked: Till) -> None:
    office = stocked.office()
    view = requests.file_request(office, seller="acme", area="+1 (212)", quantity=2, note="soon")
    assert (view.request.area, view.request.status, view.wanted) == ("+1212", RequestStatus.OPEN, 2)
    filed = told(stocked, EventKind.REQUEST_FILED)
    assert [(f["seller"], f["area"], f["quantity"], f["note"]) for f in filed] == [("acme", "+1212", 2, "soon")]
    assert requests.available_for(office, view.request.id) == ["+12125550101", "+12125550102", "+12125550103"]
    dry = stocked.office(dry_run=True)
    requests.file_request(dry, seller="acme")
    assert len(stocked.rows(DidRequest)) == 1


def test_an_approval_gives_numbers_to_a_campaign_and_they_take_calls(stocked: Till) -> None:
    office = stocked.office()
    request = requests.file_request(office, seller="acme", area="+1212", quantity=2).request.id
    stocked.reject(route_of("a", dnid="+12125550101"))
    view = requests.approve_request(office, request[-8:], campaign="solar", reason="welcome")
    assert view.request.status is RequestStatus.APPROVED
    assert view.numbers == ("+12125550101", "+12125550102")
    stocked.dial(route_of("b", dnid="+12125550101", ani="+12125550188"))
    decided = told(stocked, EventKind.REQUEST_DECIDED)
    assert [(d["status"], d["numbers"], d["reason"]) for d in decided] == [
        ("approved", ["+12125550101", "+12125550102"], "welcome")
    ]
    assert refused(lambda: requests.approve_request(office, request)) == "request-decided"
    assert refused(lambda: requests.reject_request(office, request, reason="no")) == "request-decided"
    stocked.verify()


def test_without_a_campaign_numbers_are_the_seller_s_and_take_no_calls_yet(stocked: Till) -> None:
    office = stocked.office()
    request = requests.file_request(office, seller="acme", quantity=1).request.id
    requests.approve_request(office, request, numbers=["(310) 555-0100"])
    view = dids.show_did(office, "+13105550100")
    assert (view.did.status, view.seller, view.campaign) == (DidStatus.ASSIGNED, "acme", "")
    assert stocked.reject(route_of("a", dnid="+13105550100")).code is RejectCode.DID_UNASSIGNED
    dids.suspend_did(office, "+13105550100", suspended=True)
    assert dids.suspend_did(office, "+13105550100", suspended=False).did.status is DidStatus.ASSIGNED


def test_a_request_is_granted_in_parts_and_its_rest_refused(stocked: Till) -> None:
    office = stocked.office()
    request = requests.file_request(office, seller="acme", area="+1212", quantity=5).request.id
    assert refused(lambda: requests.approve_request(office, request)) == "not-enough-numbers"
    assert requests.approve_request(office, request, count=1).wanted == 4
    assert requests.approve_request(office, request, partly=True).wanted == 2
    assert refused(lambda: requests.approve_request(office, request, partly=True)) == "not-enough-numbers"
    view = requests.reject_request(office, request, reason="there are no more")
    assert (view.request.status, len(view.numbers), view.wanted) == (RequestStatus.CLOSED, 3, 0)
    statuses = [d["status"] for d in told(stocked, EventKind.REQUEST_DECIDED)]
    assert sorted(statuses) == ["closed", "partly", "partly"]


def test_what_cannot_be_given_gives_nothing(stocked: Till) -> None:
    office = stocked.office()
    sellers.add_seller(office, "globex")
    request = requests.file_request(office, seller="globex", quantity=2).request.id
    before = {did.number: did for did in stocked.rows(Did)}
    for slug, how in (
        ("campaign-of-another-seller", {"campaign": "solar"}),
        ("did-not-available", {"numbers": ["+12125550101", "+18005550100"]}),
        ("did-not-found", {"numbers": ["+12125550101", "+12125559999"]}),
        ("too-many-numbers", {"numbers": ["+12125550101", "+12125550102", "+12125550103"]}),
        ("too-many-numbers", {"count": 3}),
        ("quantity-invalid", {"count": 0}),
        ("numbers-and-count", {"numbers": ["+12125550101"], "count": 1}),
    ):
        assert refused(lambda how=how: requests.approve_request(office, request, **how)) == slug
    assert {did.number: did for did in stocked.rows(Did)} == before
    assert not told(stocked, EventKind.REQUEST_DECIDED)


def test_a_thousand_numbers_are_given_in_a_few_statements(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    office = till.office()
    add_many(office, [f"+1212555{n:04}" for n in range(1_000)])
    sellers.add_seller(office, "rival", timezone="Asia/Tokyo")
    caps.set_caps(office, CapScope.DID, "+12125550007", [caps.Limit(CapMetric.ATTEMPTS, WindowKind.DAY, 5)])
    [cap] = [cap for cap in till.rows(Cap) if cap.scope is CapScope.DID]
    request = requests.file_request(office, seller="rival", quantity=1_000).request.id
    with till.store.transaction(write=False) as tx:
        version = tx.estate_version()
    statements: list[str] = []
    for owner in (SqliteDialect, PostgresDialect):
        for name in ("query", "many", "insert", "update"):  # of which each goes to the server once
            _counted(monkeypatch, owner, name, statements)
    requests.approve_request(office, request)
    monkeypatch.undo()
    assert len(statements) < 60, statements
    entries = [entry for entry in till.rows(Audit) if entry.action == "did.set"]
    assert len({entry.subject for entry in entries}) == len(entries) == 1_000
    assert [entry.subject for entry in till.rows(Audit) if entry.action == "request.approve"] == [request]
    assert {did.status for did in till.rows(Did) if did.number.startswith("+1212")} == {DidStatus.ASSIGNED}
    with till.store.transaction(write=False) as tx:
        assert tx.estate_version() == version + 1
    [moved] = [cap for cap in till.rows(Cap) if cap.scope is CapScope.DID]
    assert (moved.id != cap.id, moved.limit_value) == (True, 5)  # its windows are the new seller's
    audit.undo(office, entries[7].id)
    assert next(did for did in till.rows(Did) if did.number == entries[7].subject).seller_id is None


def _counted(patch: pytest.MonkeyPatch, owner: type, name: str, statements: list[str]) -> None:
    real = getattr(owner, name)

    def counting(self: Any, what: str, *args: Any) -> Any:
        statements.append(what)
        return real(self, what, *args)

    patch.setattr(owner, name, counting)


def test_two_who_approve_at_once_give_each_number_once(stocked: Till) -> None:
    office = stocked.office()
    ids = [requests.file_request(office, seller="acme", area="+1212", quantity=2).request.id for _ in range(2)]
    outcomes: list[Any] = []

    def approve(request: str, seed: int) -> None:
        store = open_store(stocked.store.url)
        try:
            other = Till(store, seed=seed)
            other.clock.wall_ms = stocked.clock.wall_ms
            outcomes.append(requests.approve_request(other.office(), request, partly=True).numbers)
        except Exception as error:
            outcomes.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=approve, args=(request, seed)) for seed, request in enumerate(ids, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    given = sorted(number for numbers in outcomes for number in numbers)
    assert given == ["+12125550101", "+12125550102", "+12125550103"]


def test_a_seller_asks_for_no_more_than_a_hundred_times(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_OPEN", 2)
    office = till.office()
    for _ in range(2):
        requests.file_request(office, seller="acme")
    assert refused(lambda: requests.file_request(office, seller="acme")) == "requests-too-many"
    assert refused(lambda: requests.file_request(office, seller="acme", quantity=0)) == "quantity-invalid"
