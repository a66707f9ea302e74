"""Estate files as text: what they may say, what is refused and how it is told, comments, and what would change."""

from __future__ import annotations

from typing import Any

import pytest

from capconduit.errors import UsageError
from capconduit.estate_file.comments import Comments
from capconduit.estate_file.document import parse, path_of, render
from capconduit.estate_file.manual import ABOUT, EXAMPLE, FIELDS
from capconduit.estate_file.plan import Action, plan
from capconduit.estate_file.schema import NOUNS, CapLimit, Document, format_cap
from capconduit.vocab import CapMetric, WindowKind

SELLER = "[seller.acme]\n"
RATE = '[rate.std]\nper_minute = "0.20"\n'
TARGET = '[target.buyer1]\nkind = "pjsip"\naddress = "sip:b@192.0.2.1"\n'
CAMPAIGN = '[campaign.solar]\nseller = "acme"\nrate = "std"\n'
ALL = SELLER + RATE + TARGET + CAMPAIGN


def refused(text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(text)
    return caught.value


def refused_plan(current: str, wanted: str, *, prune: bool = False) -> UsageError:
    with pytest.raises(UsageError) as caught:
        plan(parse(current), parse(wanted), prune=prune)
    return caught.value


def changes(current: str, wanted: str, *, prune: bool = False) -> list[tuple[str, str]]:
    return [(change.action.value, change.path) for change in plan(parse(current), parse(wanted), prune=prune).changes]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_an_empty_file_says_nothing() -> None:
    assert parse("") == Document()


def test_the_same_value_written_in_two_ways_is_the_same() -> None:
    one = parse('[rate.std]\nper_minute = "0.2"\nconnect_fee = 1\nthen_after = "60s"\n')
    other = parse('[rate."std"]\nper_minute = "0.200000"\nconnect_fee = "1.00"\nthen_after = "1m"\n')
    assert one == other


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        ("[rate.std]\nper_minute = 0.2\n", "rate.std.per_minute = 0.2", "an amount in quotes"),
        ("[rate.std]\nper_minute = true\n", "rate.std.per_minute = True", "an amount in quotes"),
        ('[rate.std]\nper_minute = "0.20 EUR"\n', "rate.std.per_minute = '0.20 EUR'", "an amount in quotes"),
        ('[rate.std]\nper_minute = "0,20"\n', "rate.std.per_minute = '0,20'", "write it like"),
        ('[rate.std]\nper_minute = "-1"\n', "rate.std.per_minute = '-1'", "without a sign"),
        ("[target.b]\nring = 20\n", "target.b.ring = 20", "a duration in quotes"),
        ('[target.b]\nenabled = "yes"\n', "target.b.enabled = 'yes'", "true or false"),
        ("[target.b]\nenabled = 1\n", "target.b.enabled = 1", "true or false"),
        ("[rule.a.b]\npriority = true\n", "rule.a.b.priority = True", "a whole number"),
        ("[rule.a.b]\npriority = 1.0\n", "rule.a.b.priority = 1.0", "a whole number"),
        ('[rule.a.b]\npriority = "1"\n', "rule.a.b.priority = '1'", "a whole number"),
        ('[trunk.t]\nhosts = "192.0.2.1"\n', "trunk.t.hosts = '192.0.2.1'", "a list of texts"),
        ('[trunk.t]\ncodecs = ["ulaw,alaw"]\n', "trunk.t.codecs = ['ulaw,alaw']", "a list of texts"),
        ('[trunk.t]\nkind = "sip"\n', "trunk.t.kind = 'sip'", "one of pjsip, iax2"),
        ('[campaign."a.b"]\nstatus = "on"\n', "campaign.\"a.b\".status = 'on'", "one of active, paused"),
        ('[[block]]\npattern = "+1*"\nexpires = "yesterday"\n', "block 1.expires = 'yesterday'", "an instant"),
        ('[[block]]\npattern = "+1*"\nexpires = "-2h"\n', "block 1.expires = '-2h'", "an instant"),
        ("[[block]]\npattern = 12125550147\n", "block 1.pattern = 12125550147", "a text in quotes"),
        ("[settings]\ntimezone = true\n", "settings.timezone = True", "a text or a whole number"),
        ("[settings]\nbreaker_failures = 5.0\n", "settings.breaker_failures = 5.0", "a text or a whole number"),
        ("rate = 1\n", "rate = 1", "expected a table: [rate]"),
        ("[rule]\nsolar = 1\n", "rule.solar = 1", "expected a table: [rule.solar]"),
        ("[block]\n", "block = {}", "[[block]]"),
        ("[[rate]]\n", "rate = [{}]", "expected a table: [rate]"),
        ("format = 2\n", "format = 2", "export anew"),
        ("format = true\n", "format = True", "export anew"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_understood_is_told_with_its_path(text: str, path: str, hint: str) -> None:
    error = refused(text)
    assert path in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    "cap",
    [
        "concurrent", "concurrent -1", "concurrent 1.5", "concurrent 10/day", "cps 5/none", "billable 200",
        "billable 200/fortnight", "billable 200/rolling", "billable 200/day:1h", "billable 200/rolling:soon",
        "billable 1,000/day", "billable ١٠/day", "calls 5/day", "spend 1.2.3/day", "spend 5 USD/day", "minutes 1e3/day",
        "concurrent 10 \n/day", "",
    ],
)  # fmt: skip
def test_a_cap_that_cannot_be_is_refused_at_every_scope(cap: str) -> None:
    for header in ("system", "trunk.t", "seller.s", "campaign.c", "target.t", "rule.c.t", 'did."+18005550100"'):
        error = refused(f"[{header}]\ncaps = ['''{cap}''']\n")
        assert f"{header}.caps = " in error.message


@pytest.mark.parametrize("metric", list(CapMetric))
@pytest.mark.parametrize("window", list(WindowKind))
def test_every_metric_and_window_is_read_as_it_is_written(metric: CapMetric, window: WindowKind) -> None:
    counted_now = metric in (CapMetric.CONCURRENT, CapMetric.CPS)
    for value in (0, 60, 59_940, 1_500_000 * 60):
        length_ms = 5_400_000 if window is WindowKind.ROLLING else 0
        limit = CapLimit(metric.value, window.value, length_ms, value)
        text = f'[system]\ncaps = ["{format_cap(limit)}"]\n'
        if counted_now == (window is WindowKind.NONE):
            assert parse(text).system_caps == (limit,)
        else:
            refused(text)


def test_two_caps_of_one_metric_and_window_are_refused() -> None:
    assert "two caps" in refused('[system]\ncaps = ["billable 5/day", "billable 6/day"]\n').message
    assert refused('[system]\ncaps = ["minutes 5/rolling:1h", "minutes 6/rolling:60m"]\n').slug == "cap-twice"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[settngs]\n", "settngs", "settings"),
        ("[campaing.solar]\n", "campaing", "campaign"),
        ("[campaign.solar]\nsellr = 'acme'\n", "campaign.solar.sellr", "seller"),
        ("[rule.solar.buyer1]\nrenamed_from = 'x'\n", "rule.solar.buyer1.renamed_from", "priority"),
        ("[system]\ncap = []\n", "system.cap", "caps"),
        ("[[block]]\npatern = '+1*'\n", "block 1.patern", "pattern"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest(text: str, message: str, hint: str) -> None:
    error = refused(text)
    assert (error.slug, message in error.message, hint in error.hint) == ("estate-key-unknown", True, True)


@pytest.mark.parametrize(
    "text",
    [
        "x = [" * 5_000, "[" * 5_000, "x = " + "9" * 5_000, "x = {", '[rate.std]\n[rate."std"]\n', "x = 2026-13-40",
        "\x00", "[rate.std]\nper_minute = '1'\nper_minute = '1'\n", "x = '\x1b'",
    ],
)  # fmt: skip
def test_what_is_no_toml_is_a_usage_error(text: str) -> None:
    error = refused(text)
    assert error.slug == "estate-not-toml"
    assert len(error.message) < 500


def test_hostile_values_are_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = "[target.b]\nring" + ".a" * 3_000 + " = 1\n"
    for text in (f"{RATE}increment = ['{'x' * 99_999}']\n", deep, f"[{'k' * 99_999}]\n", f"rate.{'k' * 99_999} = 1\n"):
        assert len(refused(text).message) < 400
    monkeypatch.setattr("capconduit.estate_file.document.MAX_BYTES", 10)
    assert refused("# eleven ch").slug == "estate-too-large"


@pytest.mark.parametrize("secret", ["hunter2", "env:1X", "file:relative", 4711, "env:hunter2 "])
def test_a_secret_in_the_file_is_refused_and_not_repeated(secret: Any) -> None:
    error = refused(f"[trunk.t]\nsecret = {secret!r}\n")
    assert "trunk.t.secret" in error.message
    assert str(secret).split(":")[-1] not in error.message + error.hint.replace("relative", "")
    assert parse("[trunk.t]\nsecret = 'env:CARRIER'\n").nouns["trunk"][("t",)] == {"secret": "env:CARRIER"}


def test_a_block_is_for_one_and_there_once() -> None:
    assert refused("[[block]]\nreason = 'x'\n").slug == "estate-block-invalid"
    assert refused("[[block]]\npattern = '+1*'\nseller = 'a'\ncampaign = 'b'\n").slug == "estate-block-invalid"
    assert refused("[[block]]\npattern = '+1*'\n[[block]]\npattern = '+1*'\n").slug == "estate-twice"
    both = parse("[[block]]\npattern = '+1*'\n[[block]]\npattern = '+1*'\nseller = 'everybody'\n")
    assert sorted(both.nouns["block"]) == [("everybody", "+1*"), ("seller everybody", "+1*")]
    assert parse(render(both)) == both


# --- writing ----------------------------------------------------------------------------------------------------------


def test_names_are_quoted_where_toml_wants_it() -> None:
    assert path_of("campaign", ("a-b_1",)) == "campaign.a-b_1"
    assert path_of("campaign", ("a.b",)) == 'campaign."a.b"'
    assert path_of("campaign", ('é\x1b"',)) == 'campaign."é\\u001b\\""'
    document = parse('[did."+18005550100"]\n[target."a.b"]\nkind = "extension"\naddress = "1"\n')
    assert parse(render(document)) == document


def test_the_order_is_always_the_same() -> None:
    text = render(parse("[seller.b]\n[seller.a]\n" + RATE))
    assert text.index("[rate.std]") < text.index("[seller.a]") < text.index("[seller.b]")
    assert render(parse(text)) == text


def test_the_example_is_read_and_written_again() -> None:
    document = parse(EXAMPLE)
    document.renamed.clear()
    assert parse(render(document)) == document
    assert plan(document, parse(EXAMPLE)).changes == []


def test_every_field_is_in_the_manual() -> None:
    assert list(ABOUT) == list(FIELDS) == [noun.name for noun in NOUNS]
    for noun in NOUNS:
        assert list(FIELDS[noun.name]) == list(noun.fields)
        for name, form in noun.fields.items():
            assert (FIELDS[noun.name][name][1] is None) == form.needed, (noun.name, name)


def test_every_noun_is_in_the_example() -> None:
    assert all(parse(EXAMPLE).nouns[noun.name] for noun in NOUNS)


# --- comments ---------------------------------------------------------------------------------------------------------

COMMENTED = """\
# The estate.

# Second paragraph.
format = 1  # the form
[ rate . 'std' ]  # standard
# dear
per_minute = "0.2#0" # a minute
[target."a.b"]
kind = "extension"
address = "1"
caps = [  # three
    # at once
    "concurrent 10",  # ten
]  # end
# about the second
[[block]]
pattern = "+2*"
# about the first
[[block]]
pattern = "+1*"  # one
# bye
"""


def test_comments_stay_at_what_they_stand_at() -> None:
    text = COMMENTED.replace("0.2#0", "0.20")
    written = render(parse(text), former=text)
    for kept in (
        "# The estate.\n\n# Second paragraph.\nformat = 1  # the form\n",
        "[rate.std]  # standard\n# dear\nper_minute = \"0.20\"  # a minute\n",
        "# three\n# at once\n# ten\ncaps = [\n",
        "]  # end\n",
        "# about the second\n[[block]]\npattern = \"+2*\"\n",
        "# about the first\n[[block]]\npattern = \"+1*\"  # one\n",
    ):  # fmt: skip
        assert kept in written, kept
    assert written.endswith("# bye\n")
    assert render(parse(written), former=written) == written


def test_comments_of_what_is_gone_are_gone() -> None:
    assert "# rate" not in render(parse(SELLER), former=f"# rate\n{RATE}{SELLER}")


def test_what_looks_like_a_comment_or_a_table_within_a_text_is_none() -> None:
    text = '[schedule.s]\nhours = """always # no\n[x]\n# y\n"""  # yes\nholidays = \'# "no"\'\n'
    found = Comments.of(text)
    assert (found.before, found.behind, found.last) == ({}, {("schedule", "s", "hours"): "# yes"}, [])


def test_comments_of_what_is_no_toml_are_refused() -> None:
    with pytest.raises(UsageError):
        render(Document(), former="[x")


# --- what would change ------------------------------------------------------------------------------------------------


def test_what_the_file_does_not_name_stays() -> None:
    assert changes(ALL, "") == []
    assert changes(ALL + 'caps = ["concurrent 5"]\n', CAMPAIGN) == []
    assert changes(ALL, "", prune=True) == [
        ("remove", "campaign.solar"), ("remove", "target.buyer1"), ("remove", "seller.acme"), ("remove", "rate.std"),
    ]  # fmt: skip
    assert plan(parse(ALL), parse(CAMPAIGN)).unlisted == ["target.buyer1", "seller.acme", "rate.std"]


def test_what_others_need_is_made_first() -> None:
    assert [path for _, path in changes("", ALL)] == ["rate.std", "seller.acme", "target.buyer1", "campaign.solar"]


def test_an_empty_list_of_caps_takes_them_away() -> None:
    found = plan(parse('[system]\ncaps = ["cps 5"]\n'), parse("[system]\ncaps = []\n")).changes
    assert [(c.path, c.before["caps"] != (), c.after["caps"]) for c in found] == [("system", True, ())]


@pytest.mark.parametrize(
    ("current", "wanted", "slug", "said"),
    [
        ("", "[rate.new]\n", "estate-field-missing", "rate.new is new and has no per_minute"),
        ('[seller.acme]\ncurrency = "USD"\n', '[seller.acme]\ncurrency = "EUR"\n', "estate-field-fixed", "'USD'"),
        (SELLER, CAMPAIGN, "estate-reference-unknown", "campaign.solar.rate = 'std'"),
        (ALL, '[campaign.solar]\nschedule = "offce"\n[schedule.office]\nhours = "always"\n',
         "estate-reference-unknown", "campaign.solar.schedule = 'offce'"),
        (ALL, "[rule.solar.buyer2]\n", "estate-reference-unknown", "rule.solar.buyer2 = 'buyer2'"),
        (ALL, "[[block]]\npattern = '+1*'\nseller = 'acne'\n", "estate-reference-unknown", "= 'acne'"),
        (ALL, '[campaign.solar]\nrate = ""\n', "estate-reference-unknown", "campaign.solar.rate = ''"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_done(current: str, wanted: str, slug: str, said: str) -> None:
    error = refused_plan(current, wanted)
    assert (error.slug, said in error.message) == (slug, True)


def test_a_reference_to_what_is_pruned_is_refused() -> None:
    assert changes(ALL, CAMPAIGN) == []
    assert refused_plan(ALL, CAMPAIGN, prune=True).slug == "estate-reference-unknown"


def renamed(noun: str, new: str, old: str) -> str:
    return f'[{noun}.{new}]\nrenamed_from = "{old}"\n'


def test_a_rename_takes_what_refers_to_it_along() -> None:
    rest = (
        '[rule.solar.buyer1]\n[did."+18005550100"]\ncampaign = "solar"\n[[block]]\npattern = "+1*"\ncampaign="solar"\n'
    )
    everywhere = (renamed("campaign", "sun", "solar") + rest.replace("solar", "sun")).replace(
        '"sun"\n[rule', '"solar"\n[rule'
    )
    assert changes(ALL + rest, everywhere) == [("rename", "campaign.sun")]
    assert changes(ALL + rest, renamed("rate", "usual", "std") + '[campaign.solar]\nrate = "usual"\n') == [
        ("rename", "rate.usual")
    ]


def test_a_rename_that_was_done_or_never_was_is_none() -> None:
    after = renamed("seller", "new", "old")
    assert changes("[seller.old]\n", after) == [("rename", "seller.new")]
    assert changes("[seller.new]\n", after) == []
    assert changes("", after) == [("add", "seller.new")]
    assert changes("[seller.new]\n[seller.old]\n", after) == []
    assert changes("[seller.new]\n", renamed("seller", "new", "new")) == []


def test_names_may_move_up_in_a_row() -> None:
    wanted = renamed("seller", "b", "a") + renamed("seller", "c", "b")
    assert changes("[seller.a]\n[seller.b]\n", wanted) == [("rename", "seller.c"), ("rename", "seller.b")]
    assert changes("[seller.b]\n[seller.c]\n", wanted) == []


def test_names_that_are_exchanged_are_refused() -> None:
    for names in ("ab", "abc"):
        wanted = "".join(renamed("seller", new, old) for new, old in zip(names, names[1:] + names[0], strict=True))
        assert refused_plan("".join(f"[seller.{n}]\n" for n in names), wanted).slug == "rename-circle"


def test_a_rename_and_its_former_name_in_one_file_are_refused() -> None:
    assert refused_plan("[seller.a]\n", renamed("seller", "b", "a") + "[seller.a]\n").slug == "rename-conflict"
    twice = renamed("seller", "b", "a") + renamed("seller", "c", "a")
    assert refused_plan("[seller.a]\n", twice).slug == "rename-conflict"


def test_the_former_name_is_unknown_elsewhere_in_the_file() -> None:
    error = refused_plan(ALL, renamed("seller", "acme2", "acme") + CAMPAIGN)
    assert (error.slug, error.hint) == ("estate-reference-unknown", "did you mean 'acme2'?")


def test_a_setting_is_never_pruned() -> None:
    assert changes('[settings]\ntimezone = "UTC"\n', "", prune=True) == []
    found = plan(parse(""), parse("[settings]\nbreaker_failures = 5\n")).changes[0]
    assert (found.action, found.path, found.after) == (Action.SET, "settings", {"breaker_failures": "5"})
