"""`import` of lists: any usual dialect of CSV, every wrong line told, and what `list -o csv` writes is taken back."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from capconduit.errors import ExitCode
from capconduit.services import bulk, bulk_blocks, bulk_dids, bulk_selling
from capconduit_cli.bulk import reader
from tests.cli.estate import WALK, contents, done, walk
from tests.cli.runner import Result, clean_environment, run

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "lists.md"


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate."""
    return walk(home)


def imported(home: Path, text: str | bytes, *options: str, noun: str = "did") -> Result:
    """A list in a file, imported."""
    path = home / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return run(noun, "import", str(path), *options, home=home)


def listed(home: Path, noun: str = "did", *options: str) -> str:
    return done(noun, "list", "-o", "csv", *options, home=home).out


# Dialects ------------------------------------------------------------------------------------------------------------

DIALECTS = {
    "plain": "number,trunk,campaign\n+12125550100,carrier,solar\n+12125550101,,\n",
    "a byte order mark and CRLF": "\ufeffnumber,trunk,campaign\r\n+12125550100,carrier,solar\r\n+12125550101,,\r\n",
    "semicolons": "number;trunk;campaign\n+12125550100;carrier;solar\n+12125550101;;\n",
    "tabs": "number\ttrunk\tcampaign\n+12125550100\tcarrier\tsolar\n+12125550101\t\t\n",
    "Excel's first line": "sep=;\r\nnumber;trunk;campaign\r\n+12125550100;carrier;solar\r\n+12125550101;;\r\n",
    "quotes": '"number","trunk","campaign"\n"+1 (212) 555-0100","carrier","solar"\n"+12125550101","",""\n',
    "another order, capitals, old line ends": "Campaign,Number,Trunk\rsolar,+12125550100,carrier\r,+12125550101,\r",
    "notation and spaces": "number , trunk , campaign\n (212) 555-0100 , carrier , solar\n 212.555.0101 , , \n",
    "comments and empty lines": "# of May, all\n\nnumber;trunk;campaign\n\n# two\n+12125550100;carrier;solar\n"
    "+12125550101;;\n\n",
    "no last line end": "number,trunk,campaign\n+12125550100,carrier,solar\n+12125550101,,",
    "columns of an export": "number,status,trunk,seller,campaign,id,created,updated\n"
    "+12125550100,assigned,carrier,acme,solar,X,2026-01-01,2026-01-01\n+12125550101,available,,,,Y,,\n",
}


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS.keys())
def test_a_list_of_any_dialect_is_read(estate: Path, text: str) -> None:
    result = imported(estate, text, "--json")
    assert result.code == 0, result.err
    assert result.json == {"lines": 2, "added": 2, "changed": 0, "unchanged": 0}
    assert listed(estate, "did", "--fields", "number,status,trunk,seller,campaign").splitlines()[1:] == [
        "+12125550100,assigned,carrier,acme,solar",
        "+12125550101,available,,,",
        "+18005550100,assigned,carrier,acme,solar",
    ]


def test_standard_input_is_a_list_too(estate: Path) -> None:
    result = run("did", "import", "-", home=estate, stdin="number\n+12125550100\n")
    assert result.code == 0, result.err
    assert "+12125550100" in listed(estate)


# What is no list -----------------------------------------------------------------------------------------------------

NO_LISTS = {
    "nothing": ("", "list-empty"),
    "no first line": ("+12125550100,carrier\n", "header-missing"),
    "an unknown column": ("number,trunc\n+12125550100,x\n", "column-unknown"),
    "a column twice": ("number,number\n+12125550100,x\n", "column-twice"),
    "a column missing": ("trunk,campaign\ncarrier,solar\n", "column-missing"),
    "another encoding": (b"number\n+1212\xff5550100\n", "file-invalid"),
    "UTF-16": ("number\n+12125550100\n".encode("utf-16"), "file-invalid"),
    "a strange separator": ("sep=#\nnumber#trunk\n", "file-invalid"),
}


@pytest.mark.parametrize(("text", "slug"), NO_LISTS.values(), ids=NO_LISTS.keys())
def test_what_is_no_list_is_refused_with_its_reason(estate: Path, text: str | bytes, slug: str) -> None:
    before = contents(estate)
    result = imported(estate, text)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert f"[{slug}]" in result.err
    assert contents(estate) == before


def test_a_misspelt_column_gets_the_nearest(estate: Path) -> None:
    assert "did you mean 'campaign'?" in imported(estate, "number,campain\n1,2\n").err


def test_a_file_that_is_not_there_is_said(estate: Path) -> None:
    result = run("did", "import", "nowhere.csv", home=estate)
    assert (result.code, "nowhere.csv" in result.err) == (ExitCode.USAGE, True)
    assert os.strerror(errno.ENOENT) in result.err


def test_a_list_that_is_too_large_is_refused_unread(estate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_BYTES", 100)
    assert "[file-too-large]" in imported(estate, "number\n" + "+12125550100\n" * 10).err


def test_a_list_of_too_many_lines_is_refused(estate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_LINES", 3)
    assert imported(estate, "number\n" + "nobody\n" * 3).code == ExitCode.USAGE
    assert "[import-refused]" in imported(estate, "number\n" + "nobody\n" * 3).err
    assert "[list-too-long]" in imported(estate, "number\n" + "nobody\n" * 4).err


# What is wrong with lines --------------------------------------------------------------------------------------------


def test_every_wrong_line_is_told_by_its_number_and_nothing_changes(estate: Path) -> None:
    before = contents(estate)
    text = (
        "number,trunk,campaign\n"
        "+12125550100,carrier,solar\n"
        "+12125550101,carrier\n"
        "\n"
        "twelve,carrier,solar\n"
        '"+12125550102","carrier","so\nlar"\n'
        "+12125550103,carrier,sun\n"
        "+12125550104,\x1b[31mcarrier,solar\n"
        "+12125550105,carrier,so\u202elar\n"
        f"+12125550106,{'x' * 2_001},solar\n"
        "+18005550100,carrier,solar\n"
    )
    result = imported(estate, text)
    assert result.code == ExitCode.USAGE
    assert result.out == ""
    told = [line.split(":")[0] for line in result.err.splitlines() if line.startswith("line ")]
    assert told == [f"line {n}" for n in (3, 5, 6, 8, 9, 10, 11, 12)]
    assert "8 lines are wrong; nothing was imported [import-refused]" in result.err
    assert result.err.count("has control characters") == 3
    assert "\x1b" not in result.err
    assert "\u202e" not in result.err
    assert contents(estate) == before


def test_a_quote_that_never_closes_is_told_with_what_was_read_before(estate: Path) -> None:
    result = imported(estate, 'number,trunk\nx,carrier\n"+12125550100,carrier\n+12125550101,carrier\n')
    assert [line[:7] for line in result.err.splitlines() if line.startswith("line ")] == ["line 2:", "line 3:"]


def test_the_line_of_excel_in_front_is_counted(estate: Path) -> None:
    assert "line 3: " in imported(estate, "sep=;\nnumber;trunk\nx;carrier\n").err


def test_a_long_list_of_mistakes_is_cut(estate: Path) -> None:
    result = imported(estate, "number\n" + "nobody\n" * 250)
    assert result.err.count("\nline ") == 99
    assert "... and 150 lines more" in result.err
    assert "250 lines are wrong" in result.err


@pytest.mark.parametrize(
    ("noun", "text"),
    [
        ("did", "number,trunk,campaign\n+18005550101,$(reboot),solar\n"),
        ("target", 'name,kind,address\nt,pjsip,"sip:a@b.example)"\n'),
        ("target", "name,kind,address\n../t,pjsip,sip:a@b.example\n"),
        ("rate", "name,per_minute\n=cmd|' /C calc'!A0,1\n"),
        ("rule", "campaign,target\nsolar,buyer1';--\n"),
    ],
)
def test_hostile_text_is_refused(estate: Path, noun: str, text: str) -> None:
    before = contents(estate)
    result = imported(estate, text, noun=noun)
    assert result.code in (ExitCode.USAGE, ExitCode.REFUSED)
    assert "1 line is wrong; nothing was imported" in result.err
    assert contents(estate) == before


# Doing it again ------------------------------------------------------------------------------------------------------


def test_what_exists_is_refused_without_update_and_changed_with_it(estate: Path) -> None:
    text = "number,campaign\n+18005550100,\n+12125550100,solar\n"
    refused = imported(estate, text)
    assert refused.code == ExitCode.REFUSED
    assert "line 2: did '+18005550100' exists already (--update changes what is there)" in refused.err
    dry = imported(estate, text, "--update", "--dry-run", "--json")
    assert dry.json == {"lines": 2, "added": 1, "changed": 1, "unchanged": 0}
    assert "dry run: nothing was changed" in dry.err
    assert listed(estate, "did", "--fields", "number,status") == "number,status\n+18005550100,assigned\n"
    assert imported(estate, text, "--update").code == 0
    assert imported(estate, text, "--update", "--json").json["unchanged"] == 2
    assert listed(estate, "did", "--fields", "number,status").splitlines()[1:] == [
        "+12125550100,assigned",
        "+18005550100,available",
    ]


def test_what_a_list_prints_is_imported_into_another_estate_and_is_the_same(estate: Path, tmp_path: Path) -> None:
    """Exports of rates, targets, rules and DIDs, taken back in an estate that has the rest."""
    for argv in (
        ("rate", "add", "long", "--per-minute", "0.3", "--then", "0.1", "--then-after", "60s", "--connect-fee", "0.05"),
        ("rate", "add", "euro", "--per-minute", "0.123456 EUR", "--increment", "30/6"),
        ("schedule", "add", "office", "--hours", "Mon-Fri 09:00-17:00"),
        ("target", "add", "b2", "--kind", "extension", "--address", "100@from-internal", "--schedule", "office"),
        ("target", "add", "b3", "--kind", "iax2", "--address", "peer/100", "--rate", "long", "--payout", "std"),
        ("target", "pause", "b2"),
        ("rule", "add", "solar", "b2", "--priority", "3", "--weight", "5", "--rate", "std"),
        ("rule", "add", "solar", "b3"),
        ("rule", "pause", "solar", "b3"),
        ("did", "add", "+12125550100-+12125550120", "--trunk", "carrier", "--campaign", "solar"),
        ("did", "add", "+12125550130", "--count", "3"),
        ("did", "assign", "+12125550131", "--seller", "acme"),
        ("did", "suspend", "+12125550132"),
        ("did", "suspend", "+12125550101"),
    ):
        done(*argv, home=estate)
    nouns = ("rate", "target", "rule", "did")
    lists = {noun: listed(estate, noun) for noun in nouns}
    other = tmp_path / "other"
    other.mkdir()
    for argv in (*(a for a in WALK if a[0] in ("init", "seller", "trunk")), ("schedule", "add", "office", "--hours",
                 "Mon-Fri 09:00-17:00")):  # fmt: skip
        done(*argv, home=other)
    for noun in nouns:
        result = imported(other, lists[noun], noun=noun)
        assert result.code == 0, (noun, result.err)
        if noun == "rate":
            done("campaign", "add", "solar", "--seller", "acme", "--rate", "std", home=other)

    def kept(text: str) -> list[str]:
        """Without ids and instants, which are each estate's own."""
        head, *rows = text.splitlines()
        count = head.split(",").index("id")
        return [",".join(row.split(",")[:count]) for row in rows]

    for noun in nouns:
        assert kept(listed(other, noun)) == kept(lists[noun]), noun
        again = imported(other, listed(other, noun), "--update", "--json", noun=noun)
        assert (again.json["added"], again.json["changed"]) == (0, 0)
    assert len(kept(lists["did"])) == 25


def test_blocks_are_imported_as_they_are_listed(estate: Path) -> None:
    text = (
        "pattern,scope,name,reason,expires\n"
        '+1 (212) 555-0147,,,"rings, hangs up",\n'
        "+1212*,campaign,solar,,2199-01-01\n"
        "anonymous,seller,acme,'=1+1,2020-01-01\n"
    )
    assert imported(estate, text, "--json", noun="block").json == {
        "lines": 3, "added": 2, "changed": 0, "unchanged": 1,
    }  # fmt: skip
    assert run("route", "+18005550100", "--from", "+12125550147", "--json", home=estate).code == 0
    before = listed(estate, "block")
    assert "+1212*,campaign,solar,,2199-01-01T00:00:00.000Z,false" in before
    assert imported(estate, before, "--update", "--json", noun="block").json["unchanged"] == 2
    assert listed(estate, "block") == before
    refused = imported(estate, "pattern\n+12125550147\nanonymous\n+1*x\n", noun="block")
    assert [line[:6] for line in refused.err.splitlines() if line.startswith("line ")] == ["line 2", "line 4"]
    scopes = "pattern,scope,name\n+44*,seller,acne\n+44*,seller,\n+44*,system,acme\n+44*,trunk,x\n+44*,,\n+44 *,,\n"
    told = imported(estate, scopes, noun="block")
    assert told.err.count("\nline ") + told.err.startswith("line ") == 5
    changed = imported(estate, "pattern,reason\n+12125550147,did it again\n", "--update", "--json", noun="block")
    assert changed.json["changed"] == 1
    assert done("block", "show", "+12125550147", "--json", home=estate).json["reason"] == "did it again"
    newest = done("audit", "list", "--json", home=estate).json[:2]  # of one instant, in either order
    assert ("block.set", "+12125550147") in [(entry["action"], entry["subject"]) for entry in newest]


@pytest.mark.parametrize(
    ("noun", "columns"),
    [
        ("did", bulk_dids.COLUMNS), ("target", bulk_selling.TARGET_COLUMNS), ("rate", bulk_selling.RATE_COLUMNS),
        ("rule", bulk_selling.RULE_COLUMNS), ("block", bulk_blocks.COLUMNS),
    ],
)  # fmt: skip
def test_every_column_is_documented_and_every_field_of_a_list_is_one(
    estate: Path, noun: str, columns: bulk.Columns
) -> None:
    line = next(line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith(f"| `{noun}` |"))
    assert [column for column in columns.read if f"`{column}`" not in line] == []
    done("block", "add", "anonymous", home=estate)
    printed = listed(estate, noun).splitlines()[0].split(",")
    assert set(printed) <= {*columns.read, *columns.passed_by}


# Progress ------------------------------------------------------------------------------------------------------------


def test_progress_is_shown_to_a_terminal_and_nobody_else(estate: Path) -> None:
    path = estate / "list.csv"
    path.write_text("number\n" + "".join(f"+1212555{n:04d}\n" for n in range(600)))
    piped = run("did", "import", str(path), "--dry-run", home=estate)
    assert "importing" not in piped.err
    leader, follower = pty.openpty()
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "capconduit_cli", "did", "import", str(path), "--json"],
            env=clean_environment(estate, TERM="xterm"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=follower,
        )  # fmt: skip
        os.close(follower)
        out, _ = child.communicate(timeout=60)
        seen = b""
        while True:
            try:
                more = os.read(leader, 65_536)
            except OSError:  # the other side is closed
                break
            if not more:
                break
            seen += more
    finally:
        os.close(leader)
    assert child.returncode == 0
    assert b'"added": 600' in out
    assert b"importing [" in seen
    assert b"600/600 100 %" in seen
    assert seen.endswith(b"\r")  # the line is empty again


# Ranges, assigning, near numbers -------------------------------------------------------------------------------------


def test_a_range_is_added_whole_or_not_at_all(estate: Path) -> None:
    result = done("did", "add", "+18005550101-+18005550103", "--trunk", "carrier", "--json", home=estate)
    assert [row["number"] for row in result.json] == ["+18005550101", "+18005550102", "+18005550103"]
    before = contents(estate)
    refused = run("did", "add", "+18005550103", "--count", "5", home=estate)
    assert (refused.code, "[did-exists]" in refused.err) == (ExitCode.REFUSED, True)
    assert contents(estate) == before
    dry = done("did", "add", "+18005550200", "--count", "2", "--dry-run", "-o", "plain", home=estate)
    assert len(dry.out.splitlines()) == 2
    assert contents(estate) == before


def test_a_number_goes_to_a_campaign_or_to_a_seller(estate: Path) -> None:
    done("did", "add", "+18005550101", home=estate)
    held = done("did", "assign", "+18005550101", "--seller", "acme", "--json", home=estate).json
    assert (held["status"], held["seller"], held["campaign"]) == ("assigned", "acme", "")
    assert run("did", "assign", "+18005550101", home=estate).code == ExitCode.USAGE
    assert run("did", "assign", "+18005550101", "solar", "--seller", "acme", home=estate).code == ExitCode.USAGE
    refused = run("did", "assign", "+18005550100", "--seller", "acme", home=estate)
    assert (refused.code, "[did-assigned]" in refused.err) == (ExitCode.REFUSED, True)
    freed = done("did", "release", "+18005550101", "--json", home=estate).json
    assert (freed["status"], freed["seller"]) == ("available", "")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("+18005550010", "did you mean '+18005550100'?"),  # swapped
        ("+1800555010", "did you mean '+18005550100'?"),  # one missing
        ("+180055501000", "did you mean '+18005550100'?"),  # one too many
        ("+18005551100", "did you mean '+18005550100'?"),
        ("+18005559999", "`capconduit find 5559999` looks for a part of it"),
        ("+1212555010", "`capconduit find 2555010` looks for a part of it"),  # as near to ten others
    ],
)
def test_a_misspelt_number_gets_the_one_that_was_meant_or_none(estate: Path, typed: str, hint: str) -> None:
    done("did", "add", "+12125550100", "--count", "10", home=estate)
    result = run("did", "show", typed, home=estate)
    assert result.code == ExitCode.REFUSED
    assert f"hint: {hint}" in result.err
