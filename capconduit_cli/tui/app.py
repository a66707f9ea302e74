"""`capconduit top`: what the terminal UI knows, when it paints, and what its keys do.

The feed changes the floor as often as the daemon speaks; it is painted at most four times a second, and only where it
changed. Actions and the story of a call run in threads, so that a key is answered while the database thinks.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Final

from textual.app import App
from textual.filter import LineFilter, NoColor
from textual.screen import Screen
from textual.timer import Timer

from capconduit.clock import Clock
from capconduit.errors import CapConduitError
from capconduit.units import format_micros
from capconduit.vocab import CampaignStatus, FeedKind
from capconduit_cli.text import printable
from capconduit_cli.tui.actions import Actions
from capconduit_cli.tui.cells import Line
from capconduit_cli.tui.feed import Feed, FeedState
from capconduit_cli.tui.floor import Floor
from capconduit_cli.tui.recording import Recorded
from capconduit_cli.tui.replay import ReplayFeed
from capconduit_cli.tui.screens import detail, frame
from capconduit_cli.tui.screens import help as help_page
from capconduit_cli.tui.screens.base import Moment
from capconduit_cli.tui.screens.dialogs import AddBalance, Choice, Confirm, Page, Pick
from capconduit_cli.tui.screens.health import History
from capconduit_cli.tui.screens.main import TITLES, FloorScreen
from capconduit_cli.tui.screens.targets import rested
from capconduit_cli.tui.themes import LOOKS, Look, Role, ThemeName
from capconduit_cli.tui.widgets.lines import Painted

REPAINT_S: Final = 0.25  # the tables are painted at most this often, however much changes
MESSAGE_S: Final = 6.0  # how long it is said what an action did
SPEEDS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_NOT_LIVE: Final = "nothing can be changed in a replay"
_READONLY: Final = "started with --readonly: nothing can be changed"


class TopApp(App[None]):
    """The terminal UI of a floor."""

    TITLE = "capconduit top"
    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False  # `:` is our own, which fits 80 columns and has no colours to need
    CSS = """
    FloorScreen { layout: vertical; background: $background; }
    ModalScreen { align: center middle; }
    .box { width: 72; max-width: 100%; height: auto; max-height: 90%; padding: 1 2; border: round $primary;
           background: $surface; }
    .tall { height: 80%; max-height: 24; padding: 0 1; }
    .page { width: 100%; max-width: 150; height: 100%; max-height: 100%; padding: 0 1; }
    """

    def __init__(
        self,
        feed: Feed,
        actions: Actions | None,
        clock: Clock,
        *,
        theme: ThemeName = ThemeName.DARK,
        readonly: bool = False,
    ) -> None:
        self.look: Look = LOOKS[theme]
        super().__init__()
        self.theme_name = theme
        self.feed = feed
        self.actions = actions
        self.clock = clock
        self.is_replay = isinstance(feed, ReplayFeed)
        self.is_recording = isinstance(feed, Recorded)
        self.readonly = readonly or actions is None or self.is_replay
        self.history = History()
        self.floor = Floor()
        self.feed_state = FeedState(FeedKind.WAITING, clock.now_ms())
        self.stale_ms: int = clock.now_ms()  # since when it is not live, where it is not
        self.frozen_ms: int | None = None
        self.shown = Moment(clock.now_ms(), self.floor)
        self._frozen: Moment | None = None
        self._painted: tuple[object, ...] = ()
        self._hushing: Timer | None = None
        for look in LOOKS.values():
            self.register_theme(look.textual)
        self.theme = self.look.textual.name
        self.floor_screen = FloorScreen()

    # Life

    def get_default_screen(self) -> Screen[object]:
        """The floor."""
        return self.floor_screen  # type: ignore[return-value]  # what a screen answers is of no interest here

    def on_mount(self) -> None:
        """Begin to listen and to paint."""
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)  # gives the terminal back
        self.run_worker(self.feed.run(self._changed), exclusive=False, name="feed")
        self.set_interval(REPAINT_S, self.tick)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Without colours, whatever a widget of Textual draws loses them too."""
        filters = super().get_line_filters()
        return filters if self.look.colours else [*filters, NoColor()]

    def _changed(self, floor: Floor, state: FeedState) -> None:
        """The feed's word. Being live or not is told at once, all else waits for the next tick."""
        other = state.kind is not self.feed_state.kind or floor is not self.floor
        if state.kind is FeedKind.STALE and self.feed_state.kind is not FeedKind.STALE:
            self.stale_ms = state.since_ms
        self.floor, self.feed_state = floor, state
        self.history.note(floor.health)
        if other:
            self.refresh_now()

    # Time

    @property
    def wall_ms(self) -> int:
        """Now, or in a replay the instant that is replayed."""
        return self.feed.position_ms if isinstance(self.feed, ReplayFeed) else self.clock.now_ms()

    @property
    def now_ms(self) -> int:
        """The instant that what is shown is true for: stale data are shown as they were."""
        return self.feed_state.since_ms if self.feed_state.kind is FeedKind.STALE else self.wall_ms

    @property
    def dim(self) -> bool:
        """Whether the rows are not live."""
        return self.feed_state.kind is FeedKind.STALE

    @property
    def replay(self) -> frame.Replay | None:
        """Where the replay is."""
        feed = self.feed
        if not isinstance(feed, ReplayFeed):
            return None
        return frame.Replay(feed.position_ms, feed.start_ms, feed.end_ms, feed.speed, feed.paused)

    # Painting

    def tick(self) -> None:
        """Four times a second: paint, if anything is not as it was painted."""
        now = (self.floor.version, self.feed_state, self.wall_ms // 1_000, self.frozen_ms, self.replay)
        if now != self._painted:
            self._painted = now
            self.refresh_now()

    def refresh_now(self) -> None:
        """Paint what changed."""
        if not self.floor_screen.is_mounted or not self.is_running:
            return
        self.shown = self._frozen or frame.moment_of(self.floor, self.now_ms)
        self.floor_screen.paint(self.shown, dim=self.dim)
        top = self.screen
        if isinstance(top, Page):
            top.refill()

    def set_look(self, name: ThemeName) -> None:
        """Another theme, at once."""
        self.theme_name, self.look = name, LOOKS[name]
        self.theme = self.look.textual.name
        for screen in self.screen_stack:
            for widget in screen.walk_children(Painted):
                widget.repaint()
        self.refresh_css(animate=False)

    # Keys

    def freeze(self) -> None:
        """Space: stand still, and go on."""
        if isinstance(self.feed, ReplayFeed):
            self.feed.paused = not self.feed.paused
        elif self._frozen is None:
            self.frozen_ms = self.wall_ms
            self._frozen = Moment(self.shown.now_ms, _still(self.floor), self.shown.several_nodes)
        else:
            self.frozen_ms = self._frozen = None
        self.refresh_now()

    def seek(self, seconds: int) -> None:
        """Arrows: elsewhere in the replay."""
        if isinstance(self.feed, ReplayFeed):
            feed = self.feed
            feed.seek(min(max(feed.position_ms + seconds * 1_000, feed.start_ms), feed.end_ms))
            self.refresh_now()

    def rewind(self) -> None:
        """0: the beginning of the replay."""
        if isinstance(self.feed, ReplayFeed):
            self.feed.seek(self.feed.start_ms)
            self.refresh_now()

    def step(self) -> None:
        """A full stop: one change on."""
        if isinstance(self.feed, ReplayFeed):
            self.feed.step()
            self.refresh_now()

    def slower(self) -> None:
        """Minus."""
        self._change_speed(-1)

    def _change_speed(self, by: int) -> None:
        if not isinstance(self.feed, ReplayFeed):
            return
        speed = self.feed.speed
        nearest = min(range(len(SPEEDS)), key=lambda n: abs(SPEEDS[n] - speed))
        self.feed.speed = SPEEDS[min(max(nearest + by, 0), len(SPEEDS) - 1)]
        self.refresh_now()

    def plus(self) -> None:
        """Plus: money for an account; in a replay, faster."""
        if self.is_replay:
            self._change_speed(1)
        elif self._may_act():
            seller = self.floor_screen.handles.seller
            if seller in self.floor.balances:
                self._ask_amount(seller)
            else:
                self._pick("Add balance to …", self._seller_choices(), self._ask_amount)

    def hang_up(self) -> None:
        """k: hang up the call under the cursor."""
        if not self._may_act():
            return
        call = self.floor.calls.get(self.floor_screen.handles.call)
        if call is None:
            self._warn("put the cursor on a live call to hang it up")
            return
        about = [
            f"{call.caller} → {call.did}, campaign {call.campaign}, target {call.target or '–'}",
            f"call {call.id}",
        ]
        self._ask("Hang up this call?", about, lambda actions: actions.hangup(call.id), safe=False)

    def pause_or_resume(self) -> None:
        """p: pause or resume a campaign."""
        if not self._may_act():
            return
        name = self.floor_screen.handles.campaign
        if name in self.floor.campaigns:
            self._ask_pause(name)
        else:
            self._pick("Pause or resume …", self._campaign_choices(), self._ask_pause)

    def _ask_pause(self, name: str) -> None:
        campaign = self.floor.campaigns.get(name)
        if campaign is None:
            return
        paused = campaign.status == CampaignStatus.PAUSED
        live = sum(call.campaign == name for call in self.floor.calls.values())
        if paused:
            question, about = f"Resume campaign {name}?", [f"It takes calls for {campaign.seller} again."]
        else:
            question = f"Pause campaign {name}?"
            about = [f"New calls are rejected, live ones ({live}) go on; p resumes it."]
        self._ask(question, about, lambda actions: actions.pause_campaign(name, paused=not paused), safe=True)

    def rest_or_revive(self) -> None:
        """r: rest or revive a target."""
        if not self._may_act():
            return
        name = self.floor_screen.handles.target
        if name in self.floor.targets:
            self._ask_rest(name)
        else:
            self._pick("Rest or revive …", self._target_choices(), self._ask_rest)

    def _ask_rest(self, name: str) -> None:
        target = self.floor.targets.get(name)
        if target is None:
            return
        if rested(target, self.shown) or target.failures:
            about = ["Its rest ends, its failures are forgotten: it is tried again at once."]
            self._ask(f"Revive target {name}?", about, lambda actions: actions.revive_target(name), safe=True)
        else:
            about = [f"It is left alone for a while, then one call tries it; live calls ({target.active}) go on."]
            self._ask(f"Rest target {name}?", about, lambda actions: actions.rest_target(name), safe=True)

    def open_help(self) -> None:
        """The page of keys."""
        replay, readonly = self.is_replay, self.readonly
        self.push_screen(Page("Keys", lambda width: help_page.lines(width, replay=replay, readonly=readonly)))

    def open_commands(self) -> None:
        """All commands by name."""
        commands = self._commands()
        runs = {choice.value: run for choice, run in commands}
        self._pick("Commands", [choice for choice, _ in commands], lambda value: runs[value]())

    # Details

    def open_details(self) -> None:
        """Enter: the facts of the row under the cursor, and of a call its story."""
        table = self.floor_screen.table
        view, item = table.view, table.selected
        if item is None:
            return
        key, call_id = table.place.key, self.floor_screen.handles.call
        told: list[Sequence[str] | str] = []  # the story, or why there is none
        last = [item]

        def lines(width: int) -> Sequence[Line]:
            last[0] = view.rows(self.shown.floor).get(key, last[0])
            said = detail.fact_lines(view.facts(last[0], self.shown), width)
            if view.rows(self.shown.floor).get(key) is None:
                said = [(("This is over; what was known last:", Role.WARN),), *said]
            if call_id:
                said += [(), detail.heading("Decision"), *_story(told, width)]
            return said

        named = view.key in ("balances", "targets")
        title = f"Call {call_id}" if call_id else f"{view.title}: {key}" if named else view.title
        self.push_screen(Page(title, lines))
        if call_id and self.actions is not None:
            self._read_story(call_id, told)

    def _read_story(self, call_id: str, told: list[Sequence[str] | str]) -> None:
        actions = self.actions
        assert actions is not None

        def work() -> None:
            try:
                found: Sequence[str] | str = actions.explain(call_id)
            except Exception as error:  # noqa: BLE001  # in a thread: what is not told here is told nowhere
                found = why_not(error)
            told.append(found)
            self.call_from_thread(self.refresh_now)

        self.run_worker(work, thread=True, exit_on_error=False, group="story")

    # Actions

    def _may_act(self) -> bool:
        if self.readonly:
            self._warn(_NOT_LIVE if self.is_replay else _READONLY)
        return not self.readonly

    def _warn(self, text: str) -> None:
        self._tell(text, Role.BANNER_INFO)

    def _tell(self, text: str, role: Role) -> None:
        self.floor_screen.tell(text, role)
        if self._hushing is not None:
            self._hushing.stop()
        self._hushing = self.set_timer(MESSAGE_S, self.floor_screen.hush)

    def _ask(self, question: str, about: Sequence[str], work: Callable[[Actions], str], *, safe: bool) -> None:
        def answered(answer: str | None) -> None:
            if answer:
                self._act(work)

        self.push_screen(Confirm(question, about, safe=safe), answered)

    def _act(self, work: Callable[[Actions], str]) -> None:
        """Do it in a thread, and say what became of it."""
        actions = self.actions
        assert actions is not None

        def run() -> None:
            try:
                said, role = work(actions), Role.BAR_GOOD
            except Exception as error:  # noqa: BLE001  # in a thread: what is not told here is told nowhere
                said, role = why_not(error), Role.BANNER_BAD
            self.call_from_thread(self._tell, said, role)

        self._tell("…", Role.BAR)
        self.run_worker(run, thread=True, exit_on_error=False, group="actions")

    def _ask_amount(self, seller: str) -> None:
        actions, balance = self.actions, self.floor.balances.get(seller)
        if actions is None or balance is None:
            return
        key = actions.new_key()  # one dialog adds once, however often Enter is pressed
        about = f"{format_micros(balance.available_micros, trim=True)} {balance.currency} available"

        def added(done: str | None) -> None:
            if done:
                self._tell(done, Role.BAR_GOOD)

        def submit(amount: str, reason: str) -> str:
            return actions.add_balance(seller, amount, reason, key)

        self.push_screen(AddBalance(seller, about, submit, self._tell), added)

    def _pick(self, title: str, choices: Sequence[Choice], chosen: Callable[[str], object]) -> None:
        if not choices:
            self._warn("there is nothing to choose from")
            return

        def answered(value: str | None) -> None:
            if value is not None:
                chosen(value)

        self.push_screen(Pick(title, choices), answered)

    # What there is to choose from

    def _campaign_choices(self) -> list[Choice]:
        found = sorted(self.floor.campaigns.values(), key=lambda c: c.name)
        return [Choice(c.name, c.name, f"{c.status}, seller {c.seller}") for c in found]

    def _target_choices(self) -> list[Choice]:
        found = sorted(self.floor.targets.values(), key=lambda t: t.name)
        return [Choice(t.name, t.name, "rested" if rested(t, self.shown) else t.status) for t in found]

    def _seller_choices(self) -> list[Choice]:
        found = sorted(self.floor.balances.values(), key=lambda b: b.seller)
        return [
            Choice(b.seller, b.seller, f"{format_micros(b.available_micros, trim=True)} {b.currency}") for b in found
        ]

    def _commands(self) -> list[tuple[Choice, Callable[[], object]]]:
        """Everything a key does and what has no key, then one command for each name."""
        made: list[tuple[Choice, Callable[[], object]]] = []

        def add(label: str, run: Callable[[], object], about: str = "") -> None:
            made.append((Choice(str(len(made)), label, about), run))

        for number, title in enumerate(TITLES):
            add(f"Show {title}", partial(self.floor_screen.show, number), f"key {number + 1}")
        for name in ThemeName:
            add(f"Theme {name}", partial(self.set_look, name), "in force" if name is self.theme_name else "")
        add("Stop or go on" if self.is_replay else "Freeze or go on", self.freeze, "space")
        view = self.floor_screen.table.view
        for column in () if self.floor_screen.is_health else view.columns:
            add(f"Order by {column.title}", partial(self.floor_screen.table.sort_by, column.key), f"in {view.title}")
        if not self.readonly:
            for campaign in self._campaign_choices():
                word = "Resume" if self.floor.campaigns[campaign.value].status == CampaignStatus.PAUSED else "Pause"
                add(f"{word} campaign {campaign.value}", partial(self._ask_pause, campaign.value), campaign.about)
            for target in self._target_choices():
                add(f"Rest or revive target {target.value}", partial(self._ask_rest, target.value), target.about)
            for seller in self._seller_choices():
                add(f"Add balance to {seller.value}", partial(self._ask_amount, seller.value), seller.about)
        add("Help", self.open_help, "key ?")
        add("Quit", self.exit, "key q")
        return made


def why_not(error: Exception) -> str:
    """What is told of an action that failed."""
    if isinstance(error, CapConduitError):
        return f"{error.message} [{error.slug}]" + (f" – {error.hint}" if error.hint else "")
    return f"this is a bug in CapConduit: {type(error).__name__}: {error}"


def _still(floor: Floor) -> Floor:
    """A floor as it is now: rows are never changed, so that copies of the tables are enough."""
    still = copy.copy(floor)
    for table in ("calls", "caps", "balances", "targets", "campaigns", "events"):
        setattr(still, table, copy.copy(getattr(floor, table)))
    still.versions = dict(floor.versions)
    return still


def _story(told: Sequence[Sequence[str] | str], width: int) -> Sequence[Line]:
    if not told:
        return [(("reading it from the database …", Role.DIM),)]
    found = told[0]
    if isinstance(found, str):
        return [((printable(found), Role.WARN),)]
    return detail.story_lines(found, width)
