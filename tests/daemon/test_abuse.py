"""Abuse in the real daemon: a caller above the rate is rejected, an attack is told once and its caller is blocked."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from capconduit.domain.model import Audit, Block, Event
from capconduit.domain.trace import load_trace
from capconduit.services.office import Desk
from capconduit.vocab import EventKind
from tests.daemon.rig import CALLER, NUMBER, Rig, until

Test = Callable[[Rig], Coroutine[Any, Any, None]]
SCANNER = "+12125550666"


def run(tmp_path: Path, test: Test) -> None:
    async def whole() -> None:
        async with Rig(tmp_path) as rig:
            rig.fund("100")
            await test(rig)

    asyncio.run(whole())


def rows(rig: Rig, kind: type[Any]) -> list[Any]:
    def work(desk: Desk) -> list[Any]:
        return list(desk.tx.rows(kind, desk.tenant_id))

    return rig.office.read(work)


def told(rig: Rig) -> list[dict[str, Any]]:
    """The data of every `abuse.detected`."""
    events: list[Event] = rows(rig, Event)
    return [json.loads(e.data) | {"subject": e.subject} for e in events if e.kind is EventKind.ABUSE_DETECTED]


async def scan(rig: Rig, first: int, count: int, caller: str = SCANNER) -> Counter[str]:
    """Calls of one caller to numbers in a row, some at a time; how often each reason was given."""
    reasons: Counter[str] = Counter()
    for start in range(first, first + count, 20):
        numbers = range(start, min(start + 20, first + count))
        results = await asyncio.gather(
            *(rig.route(f"scan-{n}", dnid=f"+1900555{n:04d}", ani=caller, name="${SHELL(id)}") for n in numbers)
        )
        reasons.update(result.variables["CC_REASON"] for result in results)
    return reasons


def test_an_attack_is_told_once_and_its_caller_is_blocked_for_a_while(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.setting("abuse_block", "1h")
        await scan(rig, 0, 100)
        await until(lambda: told(rig))
        (event,) = told(rig)
        assert (event["subject"], event["abuse"], event["limit"], event["window_s"]) == (
            SCANNER, "did_sequence", 5, 300,
        )  # fmt: skip
        (block,) = rows(rig, Block)
        assert (block.pattern, block.reason.partition(":")[0]) == (SCANNER, "abuse")
        assert block.expires_ms - block.created_ms == 3_600_000
        assert [a.actor for a in rows(rig, Audit) if a.action == "block.add"] == ["capconduit"]
        # The attack goes on: a number that is ours is refused to him, the others' calls are not.
        refused = await rig.route("then-1", ani=SCANNER)
        assert refused.variables["CC_REASON"] == "caller_blocked"
        assert (await rig.route("then-2", ani=CALLER)).variables["CC_VERDICT"] == "dial"
        await rig.settle("then-2", "CANCEL")
        await scan(rig, 200, 200)
        # A second attack of another caller is looked at after all of that: by then nothing more was told of the first.
        # The trunk that brings nothing else by now is told of, too, and not blocked.
        await scan(rig, 600, 20, caller="+12125550777")
        await until(lambda: any(e["subject"] == "+12125550777" for e in told(rig)))
        assert Counter((e["abuse"], e["subject"]) for e in told(rig)) == {
            ("did_sequence", SCANNER): 1, ("trunk_junk", "carrier"): 1, ("did_sequence", "+12125550777"): 1,
        }  # fmt: skip
        assert len(rows(rig, Block)) == 2
        assert len(rig.cdrs()) == 322
        await rig.at_rest()

    run(tmp_path, test)


def test_an_attack_is_only_told_where_nobody_asked_for_blocks(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await scan(rig, 0, 40)
        await until(lambda: told(rig))
        assert told(rig)[0]["blocked_until"] is None
        assert rows(rig, Block) == []
        assert (await scan(rig, 100, 20)) == {"did_unknown": 20}
        assert "Traceback" not in rig.log()

    run(tmp_path, test)


def test_a_caller_above_the_rate_is_rejected_and_recorded_and_others_are_not(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.setting("caller_max_calls", "5")
        rig.setting("caller_window_s", "3600")
        await rig.route("first", dnid="+19005550000", ani="+12125550999")  # from here on the daemon knows the setting
        results = [(await rig.route(f"u-{n}")).variables for n in range(8)]
        assert [told.get("CC_REASON", "dial") for told in results] == ["dial"] * 5 + ["cps_limit"] * 3
        assert (results[-1]["CC_CAUSE"], results[-1]["CC_SIP"]) == ("31", "480")
        assert (await rig.route("other", ani="+12125550199")).variables["CC_VERDICT"] == "dial"
        cdrs = {cdr.uniqueid: cdr for cdr in rig.cdrs()}
        check = load_trace(cdrs["u-7"].trace)[-1]
        assert (check.name, check.ok) == ("caller.rate", False)
        assert check.detail == {"calls": 8, "limit": 5, "window_s": 3600}
        assert (cdrs["u-7"].reject_code, cdrs["u-7"].did) == ("cps_limit", NUMBER)
        for uniqueid in ("u-0", "u-1", "u-2", "u-3", "u-4", "other"):
            await rig.settle(uniqueid, "CANCEL")
        await rig.at_rest()

    run(tmp_path, test)
