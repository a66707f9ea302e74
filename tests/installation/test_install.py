"""Installing onto a disk: whole or not at all, at every step, and back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import traceback
from pathlib import Path

import pytest

from capconduit.errors import ConfigError, PeerError, Refused
from capconduit.installation import versions as versions_module
from capconduit.installation.install import Done, install, plan_install, rollback, rollback_target
from capconduit.installation.parts import has_include
from capconduit.installation.site import Site
from capconduit.installation.versions import KEEP, Versions
from tests.installation.fake_asterisk import FakeAsterisk

NAMES = ("pjsip.conf", "manager.conf", "extensions.conf")
NOW_MS = 1_790_000_000_000


def rendered(number: int, *changed: str) -> dict[str, str]:
    """Set `number`; with `changed`, set 1 but for those."""
    return {name: f"[{name[0]}]\nset = {number if not changed or name in changed else 1}\n" for name in NAMES}


class Floor:
    """One configuration directory with the Asterisk that reads it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.versions = Versions(place)
        self.site = Site(place, freepbx=False)
        self.asterisk = FakeAsterisk(place)
        self.steps: list[str] = []

    def install(self, files: dict[str, str], **options: object) -> Done:
        with self.versions.locked():
            plan = plan_install(self.versions, self.site, self.site.wanted(files))
            peer = None if options.get("no_reload") else self.asterisk
            return install(self.versions, self.site, plan, peer, NOW_MS, self.steps.append)

    def rollback(self, to: str | None = None) -> Done:
        with self.versions.locked():
            return rollback(self.versions, self.site, rollback_target(self.versions, to), self.asterisk)

    def on_disk(self) -> dict[str, str]:
        return self.asterisk.read()


@pytest.fixture
def floor(tmp_path: Path) -> Floor:
    place = tmp_path / "etc"
    place.mkdir()
    (place / "extensions.conf").write_text("[general]\n\n[mine]\nexten => 1,1,Answer()\n")
    return Floor(place)


def test_a_first_install_is_loaded_and_leaves_the_operators_text(floor: Floor) -> None:
    done = floor.install(rendered(1))
    assert done.seen
    assert set(done.reloaded) == set(NAMES)
    assert floor.asterisk.loaded == rendered(1) == floor.on_disk()
    text = (floor.place / "extensions.conf").read_text()
    assert text.startswith("[general]\n\n[mine]\nexten => 1,1,Answer()\n#tryinclude capconduit/extensions.conf")
    assert (floor.versions.directory / "before/extensions.conf").read_text().endswith("Answer()\n")


def test_a_second_install_changes_nothing_and_reloads_nothing(floor: Floor) -> None:
    floor.install(rendered(1))
    before = {p: p.stat().st_mtime_ns for p in floor.place.rglob("*.conf")}
    floor.asterisk.reloads.clear()
    done = floor.install(rendered(1))
    assert done.reloaded == ()
    assert floor.asterisk.reloads == []
    assert {p: p.stat().st_mtime_ns for p in floor.place.rglob("*.conf")} == before


def test_only_what_changed_is_reloaded(floor: Floor) -> None:
    floor.install(rendered(1))
    floor.asterisk.reloads.clear()
    floor.install(rendered(2, "pjsip.conf"))
    assert floor.asterisk.reloads == ["pjsip.conf"]


def test_files_with_secrets_are_for_their_owner(floor: Floor) -> None:
    floor.install(rendered(1))
    modes = {name: (floor.place / "capconduit" / name).stat().st_mode & 0o777 for name in NAMES}
    assert modes["extensions.conf"] == 0o644
    assert modes["pjsip.conf"] & 0o137 == 0
    assert modes["manager.conf"] & 0o137 == 0


def test_an_asterisk_of_another_user_may_read_files_with_secrets_by_its_group(floor: Floor) -> None:
    floor.versions.group = os.getgid()
    floor.install(rendered(1))
    status = (floor.place / "capconduit/pjsip.conf").stat()
    assert status.st_mode & 0o777 == 0o640
    assert status.st_gid == os.getgid()
    assert (floor.place / "capconduit/extensions.conf").stat().st_mode & 0o777 == 0o644


def test_what_asterisk_does_not_load_is_undone_at_once(floor: Floor) -> None:
    floor.install(rendered(1))
    floor.asterisk.refuses = "set = 2"
    with pytest.raises(PeerError) as undone:
        floor.install(rendered(2, "extensions.conf"))
    assert undone.value.slug == "rolled-back"
    assert undone.value.exit_code == 4
    assert floor.asterisk.loaded == rendered(1) == floor.on_disk()
    assert floor.versions.is_loaded()


def test_a_first_install_that_is_refused_leaves_nothing_of_ours(floor: Floor) -> None:
    before = {p.name: p.read_text() for p in floor.place.glob("*.conf")}
    floor.asterisk.refuses = "set = 1"
    with pytest.raises(PeerError):
        floor.install(rendered(1))
    assert {p.name: p.read_text() for p in floor.place.glob("*.conf")} == before
    assert floor.versions.in_force() is None
    assert floor.asterisk.loaded == {}


def test_an_asterisk_that_is_lost_midway_is_told_and_the_files_are_the_former(floor: Floor) -> None:
    floor.install(rendered(1))
    floor.asterisk.dies = "extensions.conf"
    with pytest.raises(PeerError) as undone:
        floor.install(rendered(2))
    assert undone.value.slug == "rollback-not-seen"
    assert floor.on_disk() == rendered(1)
    floor.asterisk.dies = ""
    floor.rollback()
    assert floor.asterisk.loaded == rendered(1)
    assert floor.versions.is_loaded()


def test_rollback_goes_one_back_and_again_one_back_and_then_to_nothing(floor: Floor) -> None:
    before = (floor.place / "extensions.conf").read_text()
    floor.install(rendered(1))
    floor.install(rendered(2))
    floor.install(rendered(3))
    floor.rollback()
    assert floor.asterisk.loaded == rendered(2)
    floor.rollback()
    assert floor.asterisk.loaded == rendered(1) == floor.on_disk()
    floor.rollback()
    assert floor.asterisk.loaded == {} == floor.on_disk()
    assert (floor.place / "extensions.conf").read_text() == before
    assert not (floor.place / "pjsip.conf").exists()
    with pytest.raises(Refused, match="nothing of ours"):
        floor.rollback()


def test_rollback_to_a_version_by_its_number(floor: Floor) -> None:
    floor.install(rendered(1))
    floor.install(rendered(2))
    floor.install(rendered(3))
    floor.rollback("1")
    assert floor.asterisk.loaded == rendered(1)
    floor.rollback("3")
    assert floor.asterisk.loaded == rendered(3)
    with pytest.raises(Refused, match="no version '9'"):
        floor.rollback("9")


def test_all_that_was_taken_away_can_be_put_back(floor: Floor) -> None:
    floor.install(rendered(1))
    floor.rollback("none")
    assert floor.on_disk() == {}
    floor.rollback("1")
    assert floor.asterisk.loaded == rendered(1) == floor.on_disk()
    assert floor.versions.is_loaded()


def test_what_was_only_written_is_loaded_by_the_next_install(floor: Floor) -> None:
    floor.install(rendered(1))
    done = floor.install(rendered(2, "pjsip.conf"), no_reload=True)
    assert not done.seen
    assert floor.asterisk.loaded == rendered(1)
    floor.asterisk.reloads.clear()
    floor.install(rendered(2, "pjsip.conf"))
    assert floor.asterisk.reloads == ["pjsip.conf"]
    assert floor.asterisk.loaded == rendered(2, "pjsip.conf")


def test_a_line_that_the_operator_took_away_comes_back(floor: Floor) -> None:
    floor.install(rendered(1))
    (floor.place / "extensions.conf").write_text("[general]\n")
    done = floor.install(rendered(1))
    assert done.reloaded == ("extensions.conf",)
    assert has_include((floor.place / "extensions.conf").read_text(), "extensions.conf")


def test_old_versions_go_and_the_one_before_stays(floor: Floor) -> None:
    for number in range(1, KEEP + 4):
        floor.install(rendered(number))
    assert len(floor.versions.names()) == KEEP
    floor.rollback()
    assert floor.asterisk.loaded == rendered(KEEP + 2)


def test_versions_that_never_loaded_push_out_neither_the_one_in_force_nor_the_one_before(floor: Floor) -> None:
    floor.install(rendered(1))
    floor.install(rendered(2))
    floor.asterisk.refuses = "never"
    for number in range(KEEP + 2):
        bad = rendered(2) | {"pjsip.conf": f"[p]\nnever = {number}\n"}
        with pytest.raises(PeerError):
            floor.install(bad)
    assert len(floor.versions.names()) <= KEEP + 2
    assert floor.on_disk() == rendered(2)
    floor.rollback()
    assert floor.asterisk.loaded == rendered(1)


def test_a_directory_that_is_not_ours_is_refused_before_anything_is_written(floor: Floor) -> None:
    (floor.place / "capconduit").mkdir()
    before = sorted(floor.place.iterdir())
    with pytest.raises(ConfigError, match="is not ours"):
        plan_install(floor.versions, floor.site, floor.site.wanted(rendered(1)))
    assert sorted(floor.place.iterdir()) == before


def test_a_second_install_waits_and_then_is_refused(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions_module, "LOCK_WAIT_S", 0.0)
    other = Versions(floor.place)
    with floor.versions.locked(), pytest.raises(Refused, match="another install"), other.locked():
        pass


def test_a_symbolic_link_of_the_operator_stays_one(floor: Floor) -> None:
    real = floor.place / "sub"
    real.mkdir()
    (real / "real.conf").write_text("[x]\n")
    (floor.place / "extensions.conf").unlink()
    (floor.place / "extensions.conf").symlink_to("sub/real.conf")
    floor.install(rendered(1))
    assert (floor.place / "extensions.conf").is_symlink()
    assert has_include((real / "real.conf").read_text(), "extensions.conf")


# --- interrupted -----------------------------------------------------------------------------------------------------


def killed(verb: str, place: Path, number: int, fatal: int, refuses: str = "") -> bool:
    """Does it in a process of its own that is killed by SIGKILL after step `fatal`; whether it came that far.

    loaded.json says what its Asterisk had read by then.
    """
    child = os.fork()
    if child == 0:
        try:
            _until(verb, place, number, fatal, refuses)
        except BaseException:  # nothing of pytest runs in this process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _until(verb: str, place: Path, number: int, fatal: int, refuses: str) -> None:
    floor = Floor(place)
    floor.asterisk.loaded = floor.asterisk.read()
    floor.asterisk.refuses = refuses
    steps: list[str] = []

    def step(name: str) -> None:
        steps.append(name)
        (place / "loaded.json").write_text(json.dumps(floor.asterisk.loaded))
        if len(steps) == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    with contextlib.suppress(*([PeerError] if refuses else [])), floor.versions.locked():
        if verb == "install":
            plan = plan_install(floor.versions, floor.site, floor.site.wanted(rendered(number)))
            install(floor.versions, floor.site, plan, floor.asterisk, NOW_MS, step)
        else:
            rollback(floor.versions, floor.site, rollback_target(floor.versions, None), floor.asterisk, step)


def each_kill(verb: str, base: Path, make: int, number: int, refuses: str = "") -> list[Floor]:
    """A floor with sets 1 to `make` installed, for each step of `verb`, where it was killed after that step."""
    floors = []
    for fatal in range(1, 100):
        place = base / f"step-{fatal}"
        place.mkdir()
        (place / "extensions.conf").write_text("[general]\n")
        floor = Floor(place)
        for one in range(1, make + 1):
            floor.install(rendered(one))
        if not killed(verb, place, number, fatal, refuses):
            return floors
        # The Asterisk that lived on has what was reloaded so far; every other one was restarted meanwhile.
        lived_on = json.loads((place / "loaded.json").read_text())
        floor.asterisk.loaded = lived_on if fatal % 2 else floor.on_disk()
        floors.append(floor)
    raise AssertionError("it does not end")


def test_an_install_that_is_killed_at_any_step_leaves_the_old_or_the_new_whole(tmp_path: Path) -> None:
    floors = each_kill("install", tmp_path, 1, 2)
    assert len(floors) >= 8
    for floor in floors:
        assert floor.on_disk() in (rendered(1), rendered(2)), floor.place
    assert rendered(1) in [floor.on_disk() for floor in floors]
    assert rendered(2) in [floor.on_disk() for floor in floors]


def test_a_first_install_that_is_killed_at_any_step_leaves_nothing_or_all(tmp_path: Path) -> None:
    floors = each_kill("install", tmp_path, 0, 1)
    assert len(floors) >= 10
    for floor in floors:
        assert floor.on_disk() in ({}, rendered(1)), floor.place


@pytest.mark.parametrize("make", [0, 1])
def test_the_next_install_finishes_what_was_killed(tmp_path: Path, make: int) -> None:
    for floor in each_kill("install", tmp_path, make, make + 1):
        floor.install(rendered(make + 1))
        assert floor.asterisk.loaded == rendered(make + 1) == floor.on_disk()
        assert floor.versions.is_loaded()
        assert not list(floor.versions.directory.glob(".part-*"))


def test_the_next_install_may_be_another_one(tmp_path: Path) -> None:
    for floor in each_kill("install", tmp_path, 1, 2):
        floor.install(rendered(3))
        assert floor.asterisk.loaded == rendered(3) == floor.on_disk()


def test_a_rollback_undoes_what_was_killed(tmp_path: Path) -> None:
    for floor in each_kill("install", tmp_path, 2, 3):
        if floor.versions.journal() is None:
            continue  # it had not begun, or was finished: a rollback goes further back then
        floor.rollback()
        assert floor.asterisk.loaded == rendered(2) == floor.on_disk()


def test_an_undoing_that_is_killed_is_repaired_too(tmp_path: Path) -> None:
    floors = each_kill("install", tmp_path, 1, 2, refuses="set = 2")
    assert len(floors) >= 8
    for floor in floors:
        assert floor.on_disk() in (rendered(1), rendered(2))
        floor.install(rendered(1))
        assert floor.asterisk.loaded == rendered(1) == floor.on_disk()


def test_a_rollback_that_is_killed_at_any_step_is_whole_and_repaired(tmp_path: Path) -> None:
    floors = each_kill("rollback", tmp_path, 2, 1)
    assert len(floors) >= 5
    for floor in floors:
        assert floor.on_disk() in (rendered(1), rendered(2))
        if floor.versions.journal() is not None:
            floor.rollback()
        assert floor.asterisk.loaded == rendered(1) == floor.on_disk()


def test_taking_all_away_that_is_killed_at_any_step_is_whole(tmp_path: Path) -> None:
    floors = each_kill("rollback", tmp_path, 1, 1)
    assert len(floors) >= 5
    for floor in floors:
        assert floor.on_disk() in ({}, rendered(1))
        if floor.versions.journal() is not None:
            floor.rollback()
            assert floor.on_disk() == {}
