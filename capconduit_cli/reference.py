"""docs/reference.md: reject reasons, channel variables, cap metrics and settings, written from their declarations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from capconduit.domain.settings import setting_descriptions
from capconduit.vocab import REJECTS, CapMetric, CcVariable, RejectCode, WindowKind

VARIABLES: Final[dict[CcVariable, str]] = {
    CcVariable.VERDICT: "`dial` or `reject`; always the last to be set. Empty: no verdict was had, the fallback runs",
    CcVariable.CALL: "id of the admitted call",
    CcVariable.ATTEMPT: "number of the attempt, from 1",
    CcVariable.DIAL: "what Dial is given",
    CcVariable.RING_S: "seconds to ring",
    CcVariable.FUNDED_S: "seconds of talk that are paid for; an extension moves the limit over AMI",
    CcVariable.CEILING_MS: "milliseconds of talk at most, whatever is paid",
    CcVariable.OPTIONS: "more options of Dial",
    CcVariable.TARGET: "name of the target",
    CcVariable.REASON: "reason of a reject",
    CcVariable.CAUSE: "hangup cause (Q.850) of a reject",
    CcVariable.SIP: "SIP code of a reject",
    CcVariable.ACK: "`1` when the settlement is durable",
}
METRICS: Final[dict[CapMetric, str]] = {
    CapMetric.CONCURRENT: "calls at the same time",
    CapMetric.ATTEMPTS: "calls that were admitted (on a target or rule: dialled)",
    CapMetric.CONNECTED: "calls that were answered",
    CapMetric.BILLABLE: "answered calls that reached the billable threshold",
    CapMetric.MINUTES: "minutes of talk; a call reserves what it is funded for and settles to what it used",
    CapMetric.SPEND: "money that calls cost; a call reserves its hold and settles to its price",
    CapMetric.CPS: "new calls per second: those of the last second, at any instant",
}


def reference() -> str:
    """The whole page."""
    rejects = ((code, *REJECTS[code]) for code in RejectCode)
    settings = ((name, *described) for name, described in setting_descriptions().items())
    windows = ", ".join(f"`{w}`" for w in WindowKind if w is not WindowKind.NONE)
    return "\n".join(
        [
            "# Reference",
            "",
            "Written by `make man` from the program itself.",
            "",
            "## Reject reasons",
            "",
            "`cap_reached` is refined as `cap_reached:<scope>:<metric>[:<window>]`. `targets_all_failed` passes on the",
            "cause and SIP code of the last leg. The SIP code of rejects for want of money is the setting",
            "`balance_sip_code`.",
            "",
            *_table(("reason", "cause", "SIP", "what it says"), rejects),
            "",
            "## Channel variables",
            "",
            *_table(("variable", "meaning"), VARIABLES.items()),
            "",
            "## Cap metrics",
            "",
            f"Windows: {windows}. Those of the calendar are in the time zone of what is limited, `rolling:1h` looks",
            "back from now; `concurrent` and `cps` have none.",
            "",
            *_table(("metric", "counts"), METRICS.items()),
            "",
            "## Settings",
            "",
            "`capconduit setting set NAME VALUE`, or `setting reset NAME`; in force with the next decision.",
            "",
            *_table(("setting", "type", "default", "what it does"), settings),
            "",
        ]
    )


def _table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    lines.extend(f"| `{first}` | {' | '.join(str(cell) for cell in rest)} |" for first, *rest in rows)
    return lines
