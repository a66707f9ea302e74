"""`capconduit report`: right numbers in every form, for people and for cron; hostile text stays text."""

from __future__ import annotations

import csv
import email
import io
import re
from dataclasses import replace
from email import policy
from html.parser import HTMLParser
from pathlib import Path

import pytest

from capconduit.domain.model import Attempt, Cdr
from capconduit.errors import ExitCode
from capconduit.services.stores import open_store
from capconduit_cli.commands import report
from capconduit_cli.reporting.markdown import markdown
from capconduit_cli.reporting.page import page
from capconduit_cli.reporting.sheet import MEASURE_COLUMNS, Point, Sheet
from capconduit_cli.reporting.text import Paper, bar, condensed, lines_of, plain, sparkline
from tests.cli.estate import change, database, done, engine, walk
from tests.cli.runner import Result, run
from tests.cli.terminal import terminal
from tests.store_contract.settled import Calls, put

DAY_MS = 86_400_000
OCTOBER_MS = 1_790_812_800_000  # 2026-10-01T00:00Z
HOSTILE = "<script>alert(\"1\")</script>|=cmd|' /C calc'!A0"
OCTOBER = ("--from", "2026-10-01", "--to", "2026-10-04", "--timezone", "UTC")


def ids(home: Path) -> dict[str, str]:
    """Ids of the walk's tenant, seller, campaign and target."""
    store = open_store(f"sqlite://{database(home)}")
    with store.transaction(write=False) as tx:
        (tenant,) = tx.tenants()
    store.close()
    return {"tenant": tenant.id} | {
        noun: done(noun, "show", name, "--json", home=home).json["id"]
        for noun, name in (("seller", "acme"), ("campaign", "solar"), ("target", "buyer1"))
    }


@pytest.fixture(scope="module")
def sold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[Cdr, list[Attempt]]]]:
    """The walk's estate with three days of calls in October, in two currencies; and those calls."""
    home = tmp_path_factory.mktemp("sold")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr("capconduit.config.SYSTEM_FILE", home / "etc" / "config.toml")
        walk(home)
        known = ids(home)
        calls = Calls(11)
        made = []
        for cdr, attempts in calls.many(400, OCTOBER_MS, OCTOBER_MS + 3 * DAY_MS):
            renamed = {"acme": known["seller"], "solar": known["campaign"], "buyer1": known["target"]}
            fields = {
                name: renamed.get(getattr(cdr, name), getattr(cdr, name))
                for name in ("seller_id", "campaign_id", "target_id")
            }
            dials = [
                replace(a, tenant_id=known["tenant"], target_id=renamed.get(a.target_id, a.target_id)) for a in attempts
            ]
            made.append((replace(cdr, tenant_id=known["tenant"], **fields), dials))
        store = open_store(f"sqlite://{database(home)}")
        put(store, made)
        store.close()
    return home, made


@pytest.fixture
def home_of(sold: tuple[Path, object], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(sold[0])
    monkeypatch.setattr("capconduit.config.SYSTEM_FILE", sold[0] / "etc" / "config.toml")
    return sold[0]


def told(home: Path, *argv: str, **env: str) -> Result:
    return run("report", *argv, home=home, env=env)


# Numbers


def test_a_summary_has_a_row_for_each_currency_and_one_of_all_calls(
    home_of: Path, sold: tuple[Path, list[tuple[Cdr, list[Attempt]]]]
) -> None:
    rows = told(home_of, "summary", *OCTOBER, "--json").json
    cdrs = [cdr for cdr, _ in sold[1]]
    assert [row["currency"] for row in rows] == [None, "EUR", "USD", ""]
    assert [row["calls"] for row in rows] == [
        400, *(sum(cdr.currency == currency for cdr in cdrs) for currency in ("EUR", "USD", "")),
    ]  # fmt: skip
    dollars = [cdr for cdr in cdrs if cdr.currency == "USD"]
    assert rows[0]["revenue"] is None
    assert rows[2]["revenue"] == f"{sum(cdr.amount_micros for cdr in dollars) / 1_000_000:.6f}"
    connected = sum(cdr.answered_ms is not None for cdr in dollars)
    assert rows[2]["acd_ms"] == pytest.approx(sum(cdr.talk_ms for cdr in dollars) / connected, abs=0.5)
    assert rows[2]["from"] == "2026-10-01T00:00:00.000Z"


@pytest.mark.parametrize("verb", ["hourly", "daily", "sellers", "campaigns", "dids", "trunks"])
def test_lines_add_up_to_the_summary(home_of: Path, verb: str) -> None:
    rows = told(home_of, verb, *OCTOBER, "--json").json
    assert sum(row["calls"] for row in rows) == 400
    summary = told(home_of, "summary", *OCTOBER, "--json").json
    for one in summary[1:]:
        same = [row for row in rows if row["currency"] == one["currency"]]
        assert sum(row["connected"] for row in same) == one["connected"]


def test_hours_without_calls_are_there_too(home_of: Path) -> None:
    rows = told(
        home_of, "hourly", "--from", "2026-10-03", "--to", "2026-10-06", "--timezone", "Asia/Kolkata", "--json"
    ).json
    assert rows[0]["start"] == "2026-10-02T18:30:00.000Z"
    assert rows[0]["local"] == "10-03 00:00"
    assert len({row["start"] for row in rows}) == 72
    assert rows[-1]["calls"] == 0


def test_filters_choose_calls(home_of: Path, sold: tuple[Path, list[tuple[Cdr, list[Attempt]]]]) -> None:
    cdrs = [cdr for cdr, _ in sold[1]]
    (solar,) = told(home_of, "summary", *OCTOBER, "--campaign", "solar", "--json").json
    assert solar["calls"] == sum(cdr.campaign == "solar" for cdr in cdrs)
    rows = told(home_of, "trunks", *OCTOBER, "--seller", "acme", "--json").json
    assert {row["trunk"]: row["calls"] for row in rows} == {
        trunk: sum((cdr.trunk, cdr.seller) == (trunk, "acme") for cdr in cdrs) for trunk in ("east", "west")
    }
    (both,) = told(
        home_of, "summary", *OCTOBER, "--did", "(800) 555-0100", "--trunk", "east", "--seller", "acme", "--json"
    ).json
    assert both["calls"] == sum((c.trunk, c.did, c.seller) == ("east", "+18005550100", "acme") for c in cdrs)


def test_targets_count_dials(home_of: Path, sold: tuple[Path, list[tuple[Cdr, list[Attempt]]]]) -> None:
    rows = told(home_of, "targets", *OCTOBER, "--json").json
    dials = [
        a.target_name
        for cdr, attempts in sold[1]
        for a in attempts
        if a.hangup_cause is not None and cdr.reject_code != "engine_timeout"
    ]
    for name in ("buyer1", "buyer2"):
        assert sum(row["calls"] for row in rows if row["target"] == name) == dials.count(name)


def test_rejects_are_told_by_reason_with_their_share(home_of: Path) -> None:
    rows = told(home_of, "rejects", *OCTOBER, "--json").json
    assert {row["code"] for row in rows} == {"cap_reached", "did_unknown", "engine_timeout", "targets_all_failed"}
    assert sum(row["share"] for row in rows) == pytest.approx(100, abs=0.03)
    assert all(len(row["meaning"]) > 10 for row in rows)
    assert [row["calls"] for row in rows] == sorted((row["calls"] for row in rows), reverse=True)


def test_rejects_of_a_target_are_the_calls_that_were_tried_there_last(
    home_of: Path, sold: tuple[Path, list[tuple[Cdr, list[Attempt]]]]
) -> None:
    rows = told(home_of, "rejects", *OCTOBER, "--target", "buyer1", "--json").json
    cdrs = [cdr for cdr, _ in sold[1] if cdr.target == "buyer1" and cdr.reject_reason]
    assert {row["reason"]: row["calls"] for row in rows} == {
        reason: sum(cdr.reject_reason == reason for cdr in cdrs) for reason in {cdr.reject_reason for cdr in cdrs}
    }


def test_a_comparison_has_the_period_before_and_the_change(home_of: Path) -> None:
    rows = told(
        home_of, "summary", "--from", "2026-10-02", "--to", "2026-10-03", "--timezone", "UTC", "--compare", "--json"
    ).json
    day_before = told(home_of, "summary", "2026-10-01", "--timezone", "UTC", "--json").json
    assert [row["calls_before"] for row in rows] == [row["calls"] for row in day_before]
    now, then = rows[0]["asr"], day_before[0]["asr"]
    assert rows[0]["asr_change"] == pytest.approx(now - then, abs=0.011)


def test_what_was_removed_before_its_calls_are_summed_goes_by_its_name(home: Path) -> None:
    walk(home)
    with engine(home) as calls:
        calls.arrive("u1")
        calls.answer("u1")
        calls.end("u1", answered_for_ms=30_000)
    for line in (
        "did release +18005550100", "rule remove solar buyer1 --yes", "target remove buyer1 --yes",
        "campaign remove solar --yes",
    ):  # fmt: skip
        done(*line.split(), home=home)
    span = ("--from", "2026-11-21", "--to", "2026-11-22", "--json")
    assert [row["campaign"] for row in told(home, "campaigns", *span).json] == ["solar"]
    assert [row["target"] for row in told(home, "targets", *span).json] == ["buyer1"]
    assert told(home, "summary", *span, "--campaign", "solar").json[0]["calls"] == 1
    assert told(home, "summary", *span, "--target", "buyer1").json[0]["calls"] == 1


# Words and exit codes


def test_thresholds_give_exit_code_6_and_name_the_line(home_of: Path) -> None:
    ended = told(
        home_of, "campaigns", *OCTOBER, "--fail-if", "asr<101", "--filter", "campaign=solar", "--fields", "campaign"
    )
    assert ended.code == ExitCode.THRESHOLD
    assert "solar" in ended.out
    assert re.search(r"solar asr \d+\.\d% \(asr<101\)", ended.err)
    assert told(home_of, "campaigns", *OCTOBER, "--fail-if", "asr<0").code == 0


def test_quiet_says_nothing_unless_a_threshold_is_crossed(home_of: Path) -> None:
    well = told(home_of, "summary", *OCTOBER, "--quiet", "--fail-if", "calls<400")
    assert (well.code, well.out, well.err) == (0, "", "")
    crossed = told(home_of, "summary", *OCTOBER, "--quiet", "--fail-if", "calls<401")
    assert crossed.code == ExitCode.THRESHOLD
    assert "calls" in crossed.out


@pytest.mark.parametrize(
    ("argv", "slug"),
    [
        (("summary", "tomorow"), "period-invalid"),
        (("summary", "yesterday", "--from", "2026-10-01"), "period-twice"),
        (("summary", "--from", "2026-10-01", "--since", "-2h"), "period-twice"),
        (("summary", "--from", "2026-10-02", "--to", "2026-10-01"), "period-empty"),
        (("hourly", "--from", "1990", "--to", "2026-01-01"), "period-too-long"),
        (("summary", "--timezone", "Europe/Berln"), "timezone-invalid"),
        (("summary", "--fail-if", "asrr<4"), "measure-unknown"),
        (("summary", "--quiet"), "quiet-alone"),
        (("summary", "--mail-to", "ops"), "mail-address-invalid"),
        (("summary", "-o", "pdf"), "value-invalid"),
        (("summary", "-o", "csv", "--mail-to", "ops@example.net"), "output-conflict"),
        (("campaigns", "--sort", "asrr"), "field-unknown"),
    ],
)
def test_what_cannot_be_understood_is_a_usage_error(home_of: Path, argv: tuple[str, ...], slug: str) -> None:
    ended = told(home_of, *argv)
    assert (ended.code, ended.out) == (ExitCode.USAGE, "")
    assert f"[{slug}]" in ended.err


@pytest.mark.parametrize(
    ("option", "name", "near"),
    [
        ("--seller", "acmee", "acme"),
        ("--campaign", "solr", "solar"),
        ("--target", "buyr1", "buyer1"),
        ("--trunk", "carier", "carrier"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(home_of: Path, option: str, name: str, near: str) -> None:
    ended = told(home_of, "summary", option, name)
    assert ended.code == ExitCode.REFUSED
    assert f"did you mean {near!r}?" in ended.err


# Forms


def test_a_pipe_gets_no_boxes_no_colours_and_all_columns(home_of: Path) -> None:
    out = told(home_of, "campaigns", *OCTOBER).out
    assert not set(out) & set("│┃─━┌╭┏\x1b")
    assert "MARGIN" in out
    assert "█" in out
    assert "amounts in: EUR, USD" in out


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_is_never_written_beyond_its_width(home_of: Path, columns: int) -> None:
    with terminal(home_of, "report", "campaigns", *OCTOBER, columns=columns) as shown:
        assert shown.end() == 0
    lines = shown.plain.splitlines()
    table = [line for line in lines if line.startswith(("CAMPAIGN", "roof", "wind", "solar"))]
    assert table
    assert max(map(len, table)) <= columns
    assert ("not shown for want of room" in shown.plain) == (columns < 200)
    assert "\x1b[" in shown.seen


def test_a_narrow_terminal_does_without_the_period_before(home_of: Path) -> None:
    day = ("--from", "2026-10-02", "--to", "2026-10-03", "--timezone", "UTC")
    for columns, roomy in ((46, False), (100, True)):
        with terminal(home_of, "report", "summary", *day, "--compare", columns=columns) as shown:
            assert shown.end() == 0
        numbers = [line for line in shown.plain.splitlines() if re.match(r"(calls|asr|revenue|billed minutes)  ", line)]
        assert len(numbers) > 8
        assert max(map(len, numbers)) <= columns
        assert ("BEFORE" in shown.plain) is roomy
        assert "CHANGE" in shown.plain


def test_no_color_is_respected(home_of: Path) -> None:
    with terminal(home_of, "report", "summary", *OCTOBER, NO_COLOR="1") as shown:
        assert shown.end() == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown.seen)
    assert "connected" in shown.plain


def test_csv_has_numbers_for_programs(home_of: Path) -> None:
    out = told(home_of, "dids", *OCTOBER, "-o", "csv").out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["did"] for row in rows} == {"+18005550100", "+18005550101", ""}
    assert sum(int(row["calls"]) for row in rows) == 400


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "plain"])
def test_amounts_are_told_without_their_currency_where_only_they_are_asked_for(home_of: Path, form: str) -> None:
    ended = told(home_of, "campaigns", *OCTOBER, "--seller", "acme", "--fields", "campaign,revenue", "-o", form)
    assert (ended.code, ended.err) == (ExitCode.DONE, "")
    assert "solar" in ended.out


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1", "@SUM(A1)", "\t=1", "+18005550100x"])
def test_a_formula_in_csv_is_defused(text: str) -> None:
    assert report._harmless({"trunk": text, "calls": 3}) == {"trunk": f"'{text}", "calls": 3}


@pytest.mark.parametrize("text", ["solar", "+18005550100", "", "a=b"])
def test_what_is_no_formula_in_csv_stays(text: str) -> None:
    assert report._harmless({"did": text}) == {"did": text}


class Tags(HTMLParser):
    """Which tags and attributes a page has, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [
            str(value) for name, value in attrs if name in ("src", "href", "action") or name.startswith("on")
        ]
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_sheet(*, upright: bool = False) -> Sheet:
    row = {
        "trunk": HOSTILE,
        "currency": "<b>",
        "from": 0,
        "to": 1,
        "timezone": HOSTILE,
        **{c.key: 3 for c in MEASURE_COLUMNS},
    }
    return Sheet(
        title=HOSTILE, facts=[("trunk", HOSTILE)], columns=(*report.TRUNK_COLUMNS,), rows=[row, row],
        trend=[Point(HOSTILE, 3, 1, 2), Point("x", 0, 0, 0)], trend_step="day", upright=upright, notes=[HOSTILE],
    )  # fmt: skip


@pytest.mark.parametrize("upright", [False, True])
def test_a_page_is_whole_in_itself_and_hostile_text_stays_text(upright: bool) -> None:
    found = Tags()
    found.feed(page(hostile_sheet(upright=upright)))
    found.close()
    assert found.open == []
    assert found.tags <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "dl", "dt", "dd", "svg", "g", "rect", "polyline",
        "text", "p", "span", "div", "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert found.links == []
    assert HOSTILE in found.text
    assert "http" not in page(hostile_sheet()).replace("http-equiv", "")


def test_a_page_of_real_calls_has_a_chart(home_of: Path) -> None:
    out = told(home_of, "summary", *OCTOBER, "--compare", "-o", "html").out
    assert out.count("<rect") == 2 * 3, "two for each day"
    assert "<polyline" in out
    assert "EUR" in out


def test_markdown_tables_keep_their_columns_whatever_is_in_them() -> None:
    text = markdown(hostile_sheet())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in rows}
    assert len(bars) == 1
    assert "<script" not in text.replace("\\<script", "")


def test_terminal_control_in_names_is_made_visible() -> None:
    sheet = replace(hostile_sheet(), title="a\x1b[31mb\u202e", facts=[("x", "\x07")])
    assert not set(plain(lines_of(sheet, Paper()))) & set("\x1b\x07\u202e")


def test_sparklines_and_bars() -> None:
    assert sparkline([0, 1, 50, 100]) == " ▁▄█"
    assert sparkline([0, 0]) == "  "
    assert bar(50, 100, 100, 10) == ("█████", "░░░░░")
    assert bar(0, 1, 1_000_000, 10) == ("", "░"), "one call is seen beside a million"
    assert bar(0, 0, 0, 10) == ("", "")
    assert sum(point.calls for point in condensed([Point("x", 1, 1)] * 1_000, 60)) == 1_000
    assert len(condensed([Point("x", 1, 1)] * 1_000, 60)) <= 60


# Mail


def test_a_report_is_mailed_as_text_html_and_csv(home_of: Path, tmp_path: Path) -> None:
    program = tmp_path / "sendmail"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/args\ncat > {tmp_path}/mail\n')
    program.chmod(0o755)
    ended = told(
        home_of, "campaigns", *OCTOBER, "--mail-to", "ops@example.net", "--mail-to", "root@localhost", "--quiet",
        "--fail-if", "asr<101", CAPCONDUIT_MAIL__SENDMAIL=str(program), CAPCONDUIT_MAIL__SENDER="cc@example.net",
    )  # fmt: skip
    assert (ended.code, ended.out) == (ExitCode.THRESHOLD, "")
    assert (tmp_path / "args").read_text() == "-oi -f cc@example.net ops@example.net root@localhost\n"
    mail = email.message_from_bytes((tmp_path / "mail").read_bytes(), policy=policy.default)
    assert mail["Subject"].startswith("[asr<101] Campaigns, 2026-10-01")
    kinds = [part.get_content_type() for part in mail.walk() if not part.is_multipart()]
    assert kinds == ["text/plain", "text/html", "text/csv"]
    text = mail.get_body(("plain",))
    assert text is not None
    assert "solar" in text.get_content()


def test_a_mail_of_one_currency_has_every_field_attached(home_of: Path, tmp_path: Path) -> None:
    program = tmp_path / "sendmail"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/mail\n")
    program.chmod(0o755)
    asked = ("campaigns", *OCTOBER, "--seller", "acme")
    ended = told(home_of, *asked, "--mail-to", "ops@example.net", CAPCONDUIT_MAIL__SENDMAIL=str(program))
    assert (ended.code, ended.out, ended.err) == (ExitCode.DONE, "", "")
    mail = email.message_from_bytes((tmp_path / "mail").read_bytes(), policy=policy.default)
    (attached,) = mail.iter_attachments()
    assert attached.get_content() == told(home_of, *asked, "-o", "csv").out


def test_a_mail_that_cannot_be_sent_is_a_peer_s_failure(home_of: Path) -> None:
    ended = told(home_of, "summary", "--mail-to", "ops@example.net", CAPCONDUIT_MAIL__SENDMAIL="/nonexistent/sendmail")
    assert ended.code == ExitCode.PEER
    assert "[mail-not-sent]" in ended.err


# Late and pruned


def test_a_report_of_few_calls_writes_nothing_and_is_of_the_records(home_of: Path) -> None:
    before = told(home_of, "summary", *OCTOBER, "--json").json
    spoil = "UPDATE cdr SET talk_ms = talk_ms + {} WHERE call_id = (SELECT min(call_id) FROM cdr)"
    change(home_of, spoil.format(60_000))
    after = told(home_of, "summary", *OCTOBER, "--json").json
    change(home_of, spoil.format(-60_000))
    assert after[0]["minutes"] == pytest.approx(before[0]["minutes"] + 1)
