"""Rendering, writing, comparing: strict, repeatable, atomic."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from capconduit.errors import CapConduitError, ConfigError, UsageError
from capconduit.render import contexts, engine
from capconduit.render.contexts import (
    Ami,
    AmiUser,
    Fallback,
    Nat,
    RenderContext,
    RtpRange,
    StirSource,
    TrunkContext,
    Voice,
)
from capconduit.vocab import CcVariable, TrunkAuth, TrunkKind
from fastagi.ami_events import FILTERED_EVENT_NAMES

CONTEXT = RenderContext(
    node_name="node1",
    ami=Ami(users=(AmiUser(username="capconduit", secret="ami-secret"),)),
    trunks=(
        TrunkContext(name="carrier", kind=TrunkKind.PJSIP, hosts=("192.0.2.1", "192.0.2.0/28"), port=5070),
        TrunkContext(name="iax", kind=TrunkKind.IAX2, hosts=("192.0.2.9",), username="us", secret="iax-secret"),
    ),
)
VARIABLES = {*CcVariable, *contexts.DialplanVariable}


def test_the_second_rendering_is_the_same_to_the_byte() -> None:
    assert engine.render_all(CONTEXT) == engine.render_all(CONTEXT)


def test_every_file_says_who_made_it_and_none_has_a_word_from_jinja() -> None:
    context = replace(
        CONTEXT, all_files=True, nat=Nat(external_address="198.51.100.7"), voice=Voice(url="wss://voice.example/media")
    )
    files = engine.render_all(context)
    assert list(files) == list(engine.FILES)
    for name, text in files.items():
        assert text.startswith("; Rendered by `capconduit render` for node node1."), name
        assert not re.search(r"\{\{|\{%|\{#|Undefined|None", text), name
        assert text.endswith("\n"), name


def test_rtp_is_the_operators_unless_given() -> None:
    assert "rtp.conf" not in engine.render_all(CONTEXT)
    text = engine.render_all(replace(CONTEXT, rtp=RtpRange(start=12_000, end=13_000)))["rtp.conf"]
    assert "rtpstart = 12000\nrtpend = 13000\n" in text


@pytest.mark.parametrize(
    "context",
    [
        CONTEXT,
        replace(CONTEXT, stir=StirSource.ASTERISK),
        replace(CONTEXT, stir=StirSource.HEADERS, fallback=Fallback(context="operator")),
        replace(CONTEXT, exact_sip_codes=False),
    ],
)
def test_every_channel_variable_is_a_known_one_and_every_known_one_is_used(context: RenderContext) -> None:
    text = "\n".join(
        line for line in engine.render_all(context)["extensions.conf"].splitlines() if not line.startswith(";")
    )
    used = set(re.findall(r"\bCC_[A-Z_]+", text))
    assert used <= {str(v) for v in VARIABLES}
    # The daemon sets CC_TARGET for whoever watches the channel; the dialplan has no use for it.
    assert {str(v) for v in VARIABLES} - used == {"CC_TARGET"}


def test_the_dialplan_holds_no_data_of_the_estate() -> None:
    other = replace(CONTEXT, trunks=(), sip_listen="127.0.0.1:5090")
    assert engine.render_all(other)["extensions.conf"] == engine.render_all(CONTEXT)["extensions.conf"]


def test_every_line_of_the_dialplan_fits_asterisks_buffers() -> None:
    for line in engine.render_all(replace(CONTEXT, stir=StirSource.HEADERS))["extensions.conf"].splitlines():
        assert len(line) < 4096  # main/config.c reads 8192, an application gets 8192, a function's result 4096


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"node_name": "a b"}, "node_name"),
        ({"agi_host": "a,b"}, "agi_host"),
        ({"sip_listen": "0.0.0.0"}, "sip_listen"),
        ({"iax_listen": "x;y:1"}, "iax_listen"),
        ({"fallback": Fallback(context="a,b")}, "fallback.context"),
        ({"stir": StirSource.HEADERS, "stir_verdict_header": "X)Y"}, "SIP header"),
        ({"guard_s": 0}, "guard_s"),
        ({"agi_port": 0}, "agi_port"),
        ({"max_rounds": 0}, "max_rounds"),
        ({"fallback": Fallback(sip=200)}, "fallback.sip"),
        ({"rtp": RtpRange(start=3000, end=2000)}, "rtp.end"),
        ({"nat": Nat(external_address="a b")}, "nat"),
        ({"ami": Ami(users=(AmiUser(username="x\ny", secret="s"),))}, "AMI user"),
        ({"ami": Ami(users=(AmiUser(username="x", secret="s", permit=("all",)),))}, "permit"),
    ],
)
def test_a_setting_that_cannot_stand_in_a_file_is_refused_by_name(change: dict[str, object], field: str) -> None:
    with pytest.raises(UsageError, match=field):
        engine.render_all(replace(CONTEXT, **change))  # type: ignore[arg-type]  # the table above knows the types


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a\n[evil]"},
        {"name": "global"},
        {"hosts": ("a;b",)},
        {"hosts": ()},
        {"codecs": ("ulaw\nallow",)},
        {"codecs": ()},
        {"username": "u"},
        {"username": "u", "secret": "a\nb"},
        {"port": 70_000},
    ],
)
@pytest.mark.parametrize("kind", list(TrunkKind))
def test_a_trunk_that_cannot_stand_in_a_file_is_refused(kind: TrunkKind, change: dict[str, object]) -> None:
    trunk = TrunkContext(name="carrier", kind=kind, hosts=("192.0.2.1",))
    with pytest.raises(UsageError, match=r"[Tt]runk|carrier"):
        engine.render_all(replace(CONTEXT, trunks=(replace(trunk, **change),)))  # type: ignore[arg-type]  # as above


def test_two_trunks_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="carrier"):
        engine.render_all(replace(CONTEXT, trunks=CONTEXT.trunks[:1] * 2))


def test_ami_sends_the_events_that_the_daemon_reads_and_no_other() -> None:
    assert set(contexts.AMI_EVENTS) == set(FILTERED_EVENT_NAMES)
    text = engine.render_all(CONTEXT)["manager.conf"]
    for event in FILTERED_EVENT_NAMES:
        assert f"eventfilter(action(include),name({event})) =\n" in text
    old = engine.render_all(replace(CONTEXT, ami=replace(CONTEXT.ami, named_filters=False)))["manager.conf"]
    assert "eventfilter = Event: DialEnd\n" in old


def test_secrets_do_not_show_in_a_traceback() -> None:
    assert "secret'" not in repr(CONTEXT).replace("secret=", "")
    assert "ami-secret" not in repr(CONTEXT)
    assert "iax-secret" not in repr(CONTEXT)


# --- templates of the operator's own


def test_a_template_of_the_operators_own_replaces_ours(tmp_path: Path) -> None:
    (tmp_path / "cdr.conf.j2").write_text("; {{ node_name | word('node') }}\n")
    files = engine.render_all(CONTEXT, tmp_path)
    assert files["cdr.conf"] == "; node1\n"
    assert files["iax.conf"] == engine.render_all(CONTEXT)["iax.conf"]


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ node_name }}", "unchecked"),
        ("{{ no_such_thing | word('x') }}", "no_such_thing"),
        ("{% if %}", "line 1"),
        ("{{ node_name | word }}", "field"),
        ("{{ ami.users[0].secret }}", "unchecked"),
    ],
)
def test_a_template_that_guesses_or_skips_the_check_ends_the_rendering(
    tmp_path: Path, template: str, says: str
) -> None:
    (tmp_path / "cdr.conf.j2").write_text(template)
    with pytest.raises(CapConduitError, match=says):
        engine.render_all(CONTEXT, tmp_path)


def test_a_missing_template_directory_and_an_unreadable_template_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        engine.render_all(CONTEXT, tmp_path / "nowhere")
    (tmp_path / "cdr.conf.j2").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"cdr\.conf"):
        engine.render_all(CONTEXT, tmp_path)


# --- files


def test_writing_twice_writes_once_and_leaves_foreign_files_alone(tmp_path: Path) -> None:
    files = engine.render_all(CONTEXT)
    (tmp_path / "modules.conf").write_text("theirs")
    assert engine.write_all(files, tmp_path) == list(files)
    assert engine.write_all(files, tmp_path) == []
    assert engine.check(files, tmp_path) == []
    assert engine.diff(files, tmp_path) == ""
    assert (tmp_path / "modules.conf").read_text() == "theirs"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*files, "modules.conf"])


def test_files_with_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    engine.write_all(engine.render_all(CONTEXT), tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == engine.SECRET_FILES
    assert modes["extensions.conf"] == 0o644
    (tmp_path / "manager.conf").chmod(0o644)
    assert engine.write_all(engine.render_all(CONTEXT), tmp_path) == []
    assert stat.S_IMODE((tmp_path / "manager.conf").stat().st_mode) == 0o600


def test_every_file_with_a_secret_is_known_as_one() -> None:
    sip = replace(CONTEXT.trunks[1], name="sip", kind=TrunkKind.PJSIP, hosts=("192.0.2.99",))
    context = replace(CONTEXT, trunks=(*CONTEXT.trunks, sip))
    files = engine.render_all(context)
    assert {name for name, text in files.items() if re.search("ami-secret|iax-secret", text)} == engine.SECRET_FILES


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "extensions.conf").write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        engine.write_all({"extensions.conf": "new"}, tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("extensions.conf", "old")]


def test_only_bare_names_are_written(tmp_path: Path) -> None:
    for name in ("../x.conf", "a/b.conf", "..", ""):
        with pytest.raises(UsageError):
            engine.write_all({name: "x"}, tmp_path / "out")
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "out"])


def test_check_and_diff_name_what_drifted_and_hide_secrets(tmp_path: Path) -> None:
    files = engine.render_all(CONTEXT)
    engine.write_all(files, tmp_path)
    (tmp_path / "cdr.conf").unlink()
    (tmp_path / "manager.conf").write_text(files["manager.conf"].replace("ami-secret", "older-secret"))
    changed = replace(CONTEXT, ami=replace(CONTEXT.ami, port=5039))
    files = engine.render_all(changed)
    assert engine.check(files, tmp_path) == ["cdr.conf", "manager.conf"]
    diff = engine.diff(files, tmp_path)
    assert "-port = 5038\n+port = 5039\n" in diff
    assert "+unanswered = yes\n" in diff
    assert "ami-secret" not in diff
    assert "older-secret" not in diff


def test_a_changed_secret_alone_is_a_difference_without_being_shown(tmp_path: Path) -> None:
    files = engine.render_all(CONTEXT)
    engine.write_all(files, tmp_path)
    (tmp_path / "iax.conf").write_text(files["iax.conf"].replace("iax-secret", "older-secret"))
    diff = engine.diff(files, tmp_path)
    assert "only secrets differ" in diff
    assert "older" not in diff


def test_the_secret_of_a_registration_is_not_shown_either(tmp_path: Path) -> None:
    iax = replace(CONTEXT.trunks[1], auth=TrunkAuth.REGISTER)
    files = engine.render_all(replace(CONTEXT, trunks=(iax,)))
    assert "register => us:iax-secret@192.0.2.9" in files["iax.conf"]
    diff = engine.diff(files, tmp_path)
    assert "+register => us:***" in diff
    assert "iax-secret" not in diff


def test_an_output_directory_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        engine.write_all({"cdr.conf": "x"}, tmp_path / "file")
    with pytest.raises(ConfigError, match="file"):
        engine.check({"cdr.conf": "x"}, tmp_path / "file")


def test_no_event_that_the_daemon_reads_is_disabled() -> None:
    assert not set(contexts.AMI_DISABLED) & set(contexts.AMI_EVENTS)
    [line] = [
        text for text in engine.render_all(CONTEXT)["manager.conf"].splitlines() if text.startswith("disabledevents")
    ]
    assert line == f"disabledevents = {','.join(contexts.AMI_DISABLED)}"
