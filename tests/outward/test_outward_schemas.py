"""docs/events.md, the schemas and what the code tells are one: what is told is described, field by field."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.abuse import Finding
from capconduit.domain.model import Event, Node
from capconduit.outward import catalogue
from capconduit.outward.envelope import event_payload, notification_payload, outward_data
from capconduit.services import balances, requests
from capconduit.services.abuse import tell as tell_abuse
from capconduit.services.nodes import keep_node
from capconduit.store.open import open_store
from capconduit.vocab import AbuseKind, CapMetric, CapScope, DialStatus, EventKind, NoticeKind, WindowKind
from tests.outward.receiver import Deadline, LoopbackReceiver
from tests.outward.rig import SECRET, OutwardRig, working
from tests.outward.schemas import wrong
from tests.unit.estate_builder import (
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

ROOT = Path(__file__).parents[2]
SCHEMAS = dict(catalogue.schemas())
NOT_DATA = {"ids", "tenant_id", "now_ms", "kind", "subject"}


def test_the_files_are_as_the_catalogue_says() -> None:
    files = {file.stem: file.read_text("utf-8") for file in catalogue.SCHEMAS.glob("*.json")}
    assert files == {name: catalogue.schema_text(schema) for name, schema in SCHEMAS.items()}, (
        "run `python -m capconduit.outward.catalogue`"
    )
    text = catalogue.DOCUMENT.read_text("utf-8")
    assert text == catalogue.document(text), "run `python -m capconduit.outward.catalogue`"


def test_every_kind_has_a_schema() -> None:
    assert set(catalogue.EVENTS) == set(EventKind)
    assert {f"notification.{kind}" for kind in NoticeKind} < SCHEMAS.keys()


def documented_example() -> dict[str, Any]:
    found = re.search(r"```json\n(.*?)```", catalogue.DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert found is not None
    example: dict[str, Any] = json.loads(found[1])
    return example


def test_the_example_of_the_document_is_what_is_sent() -> None:
    example = documented_example()
    assert list(wrong(example, SCHEMAS[example["kind"]])) == []


def told_in_code() -> Iterator[tuple[str, EventKind, set[str]]]:
    """Every call of `event(…, EventKind.X, …, name=…)` there is: where, its kind, the names of its data."""
    for room in ("capconduit", "fastagi"):
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "event"):
                    continue
                kinds = [
                    part.attr
                    for argument in node.args
                    for part in ast.walk(argument)
                    if isinstance(part, ast.Attribute)
                    and isinstance(part.value, ast.Name)
                    and part.value.id == "EventKind"
                ]
                names = {word.arg for word in node.keywords if word.arg} - NOT_DATA
                for kind in kinds:
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", EventKind[kind], names


def test_whatever_the_code_tells_is_described() -> None:
    found = list(told_in_code())
    assert len(found) >= 14
    for where, kind, names in found:
        outward = set(outward_data(dict.fromkeys(names, 0)))
        described = {field.name for field in catalogue.EVENTS[kind].fields}
        assert outward <= described, f"{where}: {kind} tells {sorted(outward - described)}"


@pytest.fixture
def everything(tmp_path: Path) -> OutwardRig:
    """An installation in which almost everything happened that can be told."""
    till = Till(open_store(f"sqlite:///{tmp_path}/store.sqlite", create=True), _estate(tmp_path))
    for command in (
        route_of("u1"), answer_of("u1"), extend_of("u1"),
        settle_of("u1", talk_ms=70_000), settle_of("u1", talk_ms=9_000),
        route_of("u2"), attempt_of("u2", dialstatus=DialStatus.CONGESTION), settle_of("u2"),
        route_of("u3"), settle_of("u3", talk_ms=61_000), route_of("u4"),
    ):  # fmt: skip
        till.ask(command)
        till.clock.pass_ms(5_000)
    office = till.office()
    balances.adjust(office, "acme", -5_000_000, reason="back")
    filed = requests.file_request(office, seller="acme", quantity=1, note="soon")
    requests.reject_request(office, filed.request.id, reason="none left")
    finding = Finding(AbuseKind.REDIALLING, "+12125550147", 31, 30, 300, {"did": "+18005550100", "trunk": "carrier"})
    tell_abuse(office, [finding], block_ms=60_000, most=1)
    tell_abuse(office, [Finding(AbuseKind.TRUNK_JUNK, "carrier", 31, 30, 300, {"of": 60, "percent": 50})])
    rig = OutwardRig(till.store)
    rig.office = office
    return rig


def _estate(tmp_path: Path) -> Any:
    open_store(f"sqlite:///{tmp_path}/store.sqlite", create=True).upgrade(0)
    builder = small_estate()
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONNECTED, 2, WindowKind.DAY)
    builder.setting("breaker_failures", 1)
    return builder


def test_every_event_that_happens_keeps_to_its_schema(everything: OutwardRig) -> None:
    with everything.store.transaction(write=False) as tx:
        (tenant,) = tx.tenants()
        events = tx.rows(Event, tenant.id)
    for event in events:
        message = json.loads(json.dumps(event_payload(event, tenant.name)))
        message["id"] = message["id"].upper()
        assert list(wrong(message, SCHEMAS[event.kind])) == [], event
    seen = {event.kind for event in events}
    assert seen >= {
        EventKind.CALL_STARTED, EventKind.CALL_ANSWERED, EventKind.CALL_ENDED, EventKind.CALL_REJECTED,
        EventKind.ATTEMPT_FAILED, EventKind.HOLD_EXTENDED, EventKind.CAP_REACHED, EventKind.BALANCE_CHANGED,
        EventKind.REQUEST_FILED, EventKind.REQUEST_DECIDED, EventKind.TARGET_RESTED, EventKind.SETTLEMENT_DISAGREED,
        EventKind.ABUSE_DETECTED, EventKind.ESTATE_CHANGED,
    }  # fmt: skip


def test_the_beginning_and_the_end_of_a_daemon_are_told_once_and_keep_to_their_schemas(tmp_path: Path) -> None:
    rig = OutwardRig(open_store(f"sqlite:///{tmp_path}/store.sqlite", create=True))

    for seen_ms, boot, state, tell in (
        (1, "a", "up", True), (2, "a", "up", False), (3, "a", "down", True), (4, "b", "up", True), (5, "c", "up", True),
    ):  # fmt: skip
        node = Node(
            name="pbx1", boot_id=boot, started_ms=1, seen_ms=seen_ms, asterisk_started_ms=None, state=state
        )  # fmt: skip
        with rig.store.transaction(write=True) as tx:
            keep_node(tx, node, rig.clock.new_id, tell=tell)
    with rig.store.transaction(write=False) as tx:
        events = sorted((e for e in tx.rows(Event, rig.tenant_id) if e.kind.startswith("node.")), key=lambda e: e.at_ms)
        (node,) = tx.nodes()
    for told in events:
        message = json.loads(json.dumps(event_payload(told, "default")))
        assert list(wrong(message, SCHEMAS[told.kind])) == [], told
    assert [(e.kind, e.subject, json.loads(e.data)) for e in events] == [
        ("node.started", "pbx1", {"boot": "a", "before": "none"}),
        ("node.stopped", "pbx1", {"boot": "a"}),
        ("node.started", "pbx1", {"boot": "b", "before": "stopped"}),
        ("node.started", "pbx1", {"boot": "c", "before": "lost"}),
    ]
    assert node.boot_id == "c"


def test_every_notification_keeps_to_its_schema() -> None:
    from capconduit.domain.deliveries import Notification
    from capconduit.ids import ulid

    for kind in NoticeKind:
        notice = Notification(
            id=ulid(1_772_953_199_000, 5), tenant_id="t", at_ms=5, user_name="ops", kind=kind, subject="s",
            occasion="o", text="words", data='{"available_micros":5,"rested_until_ms":5}', read_ms=None,
        )  # fmt: skip
        message = notification_payload(notice, "default")
        assert list(wrong(message, SCHEMAS[message["kind"]])) == []


def test_a_wrong_event_is_found_wrong() -> None:
    """The checker can say no."""
    schema = SCHEMAS["call.ended"]
    example = documented_example()
    for change in ({"talk_ms": "5"}, {"talk_ms": True}, {"amount": 5}, {"amount": "5"}, {"more": 1}):
        assert list(wrong({**example, "data": {**example["data"], **change}}, schema))
    assert list(wrong({**example, "at": "yesterday"}, schema))
    assert list(wrong({name: value for name, value in example.items() if name != "id"}, schema))


# --- the receiver of docs/notifications.md ----------------------------------------------------------------------------


def test_the_receiver_in_the_documentation_takes_what_is_genuine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/notifications.md").read_text("utf-8")
    (tmp_path / "documented.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])  # type: ignore[index]
    monkeypatch.setenv("CRM_HOOK", SECRET)
    spec = importlib.util.spec_from_file_location("documented", tmp_path / "documented.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rig = OutwardRig(open_store(f"sqlite:///{tmp_path}/store.sqlite", create=True))
    server = module.ThreadingHTTPServer(("127.0.0.1", 0), module.Receiver)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            rig.hook(f"http://127.0.0.1:{server.server_address[1]}/hook")
            event = rig.happen(EventKind.CALL_ENDED, "call1")
            with working(rig.worker()):
                Deadline().until(lambda: rig.left() == (0, 0))
    finally:
        server.shutdown()
        thread.join(20)
        server.server_close()
    assert printed.getvalue().startswith(event.id)
    with LoopbackReceiver() as spy:  # what is genuine was refused before it was wrong
        rig.hook(spy.url, "spy")
        rig.happen(EventKind.CALL_ENDED, "call2")
        with working(rig.worker()):
            Deadline().until(lambda: spy.got)
        headers = {
            name.title().replace("Capconduit", "CapConduit"): value for name, value in spy.got[0].headers.items()
        }
    assert module.is_genuine(headers, spy.got[0].body)
    assert not module.is_genuine(headers, spy.got[0].body + b" ")
    assert not module.is_genuine({**headers, "CapConduit-Timestamp": "1"}, spy.got[0].body)
    assert not module.is_genuine({}, b"")
