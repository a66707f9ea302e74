"""Settles what nobody told us about: journal and spool, calls of a dead Asterisk, of no channel list, of a dead node.

Failure policy: fails open. Without AMI or database nothing is concluded and nothing is released; it tries again later.
Reconciling never hangs up a call. Where AMI is away or off there is no witness at all: a call is over when the time its
hold paid for is, because no extension was possible and Asterisk's own limit has ended it. The same holds for calls of
another node whose daemon is gone. Nothing is concluded of a call whose end waits in the journal or in the spool.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from capconduit.domain.calls import LegTimes, SettleAnswer, SettleReport
from capconduit.domain.model import Call, Node
from capconduit.domain.reconcile import expired, last_known_ms, of_dead_asterisk, orphans
from capconduit.errors import CapConduitError, DatabaseError
from capconduit.services.engine import EngineBusy
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import CallState, DialStatus
from fastagi.ami_events import AmiEvent, ChannelList, LinkUp, LiveChannel, ResyncNeeded
from fastagi.ami_link import AmiLink
from fastagi.asking import Asker
from fastagi.housekeeping import Housekeeping
from fastagi.journal import Chunk, Entry, Journal, JournalFailed
from fastagi.meter import Meter
from fastagi.spool import SPOOL_FAMILY, SpoolEntry, read_entry, report_of
from fastagi.zombies import Zombies, in_both, strangers

log = logging.getLogger(__name__)

EVERY_S: Final = 15.0  # between two looks
RETRY_S: Final = (1.0, 5.0)  # least and most until the next one, after a look that failed
BETWEEN_LISTS_S: Final = 1.0
REPLAY_AT_ONCE: Final = 200  # settlements of the journal that share a transaction
MAX_COMPLAINTS: Final = 1_000  # that are remembered, so that each is said once
TRIED_ALONE: Final = 3  # failures in a row, each in its own transaction: it is the database, not the entry
NODE_GONE_MS: Final = 60_000  # a daemon that wrote no heartbeat for so long is gone
# We must have watched its row stand still for so long, whatever the two clocks say: longer than a living daemon needs
# to come back to a database that was away (a dead connection is given up after 8 s, a heartbeat comes every 3 s).
NODE_STILL_S: Final = 15.0
UNWATCHED_S: Final = 7.0  # where we ourselves could not look for so long, watching begins again


@dataclass(frozen=True, slots=True)
class _Seen:
    """A node's row as it was when it last changed, and when that was by our loop's clock."""

    row: Node
    since_s: float


class NodeWatch:
    """Which other daemons are gone. It is fed with the rows of each heartbeat.

    A node's clock may be wrong by any amount, so that its last heartbeat seems old: as long as its row goes on changing
    it lives. And while the database was away nobody could write.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._seen: dict[str, _Seen] = {}
        self._looked_s = 0.0

    def look(self, rows: Sequence[Node], now_s: float) -> None:
        """The rows as they are at `now_s` of the loop's clock."""
        known = self._seen if now_s - self._looked_s < UNWATCHED_S else {}
        self._seen, self._looked_s = {}, now_s
        for row in rows:
            before = known.get(row.name)
            if row.name != self._own:
                self._seen[row.name] = before if before and before.row == row else _Seen(row, now_s)

    def gone(self, now_ms: int, now_s: float) -> list[str]:
        """Names of the nodes whose daemon has said goodbye, or nothing for NODE_GONE_MS."""
        return sorted(name for name, seen in self._seen.items() if _is_gone(seen, now_ms, now_s))


def _is_gone(seen: _Seen, now_ms: int, now_s: float) -> bool:
    still_s = now_s - seen.since_s
    silent = seen.row.state != "up" or now_ms - seen.row.seen_ms >= NODE_GONE_MS
    return still_s >= NODE_GONE_MS / MS_PER_SECOND or (silent and still_s >= NODE_STILL_S)


class Reconciler:
    """Runs beside the meter. All methods belong to the loop.

    `alone` says whether this node's name is ours alone: calls that another daemon of the same name admitted are not in
    our Asterisk's lists, and must not be taken for dead.
    """

    def __init__(
        self,
        asker: Asker,
        ami: AmiLink | None,
        meter: Meter,
        housekeeping: Housekeeping,
        journal: Journal,
        node: str,
        now_ms: Callable[[], int],
        alone: Callable[[], bool],
        zombies: Zombies | None = None,
    ) -> None:
        self._asker = asker
        self._ami = ami
        self._meter = meter
        self._housekeeping = housekeeping
        self._journal = journal
        self._node = node
        self._now_ms = now_ms
        self._alone = alone
        self._zombies = zombies
        self._nodes = NodeWatch(node)
        self._gone: list[str] = []
        self._wake = asyncio.Event()
        self._retry_s = 0.0  # until the next look, where the last one failed
        self._looked_s = 0.0
        self._began_ms: int | None = None  # of an Asterisk that was found to be another one
        self._spooled: set[str] = set()  # uniqueids whose end could not yet be taken from the spool
        self._troubles: list[str] = []  # of the last look
        self._complained: set[str] = set()

    def on_event(self, event: AmiEvent) -> None:
        """A new link, or lost events: look at once."""
        match event:
            case LinkUp():
                if event.restarted and event.asterisk_started_ms is not None:
                    self._began_ms = event.asterisk_started_ms
                self._wake.set()
            case ResyncNeeded():
                self._wake.set()
            case _:
                pass

    def on_nodes(self, rows: Sequence[Node]) -> None:
        """The rows of all daemons, as read with each heartbeat. When one is found to be gone: look at once."""
        now_s = asyncio.get_running_loop().time()
        self._nodes.look(rows, now_s)
        gone = self._nodes.gone(self._now_ms(), now_s)
        if set(gone) - set(self._gone):
            self._wake.set()
        self._gone = gone

    def wake(self) -> None:
        """Look at once."""
        self._wake.set()

    def on_kept(self) -> None:
        """The journal or the spool has got something: look at once, unless a look has just failed."""
        if not self._retry_s or asyncio.get_running_loop().time() - self._looked_s >= RETRY_S[0]:
            self._wake.set()

    async def run(self) -> None:
        """Look every EVERY_S, when told to, and soon after a look that failed, until cancelled."""
        while True:
            if await self._look():
                self._retry_s = 0.0
            else:
                self._retry_s = min(self._retry_s * 2 or RETRY_S[0], RETRY_S[1])
            try:
                await asyncio.wait_for(self._wake.wait(), self._retry_s or EVERY_S)
            except TimeoutError:
                continue
            self._wake.clear()

    async def _look(self) -> bool:
        """One look at everything; False where a part of it failed and should be tried again soon."""
        troubles: list[str] = []
        self._looked_s = asyncio.get_running_loop().time()
        for step in self._steps():
            try:
                await step()
            except (CapConduitError, EngineBusy, JournalFailed) as error:
                troubles.append(str(error) or type(error).__name__)
        for trouble in troubles:
            if trouble not in self._troubles:  # once for as long as it lasts
                log.warning("reconciling: %s", trouble)
        self._troubles = troubles
        return not troubles

    def _steps(self) -> Sequence[Callable[[], Awaitable[None]]]:
        always = (self._replay, self._settle_abandoned)
        if self._ami is None or not self._ami.up:
            return (*always, self._settle_expired) if self._alone() else always
        if not self._alone():
            return (*always, self._settle_spool)
        return (*always, self._settle_spool, self._settle_dead, self._compare)

    # --- ends that were told: journal and spool -----------------------------------------------------------------------

    async def _replay(self) -> None:
        """Settlements of our journal, the oldest first; each leaves it only when it is durable in the database."""
        while (chunk := await self._journal.oldest()).entries:
            await self._replay_chunk(chunk)
            log.info("replayed %d settlements of the journal", len(chunk.entries))

    async def _replay_chunk(self, chunk: Chunk) -> None:
        aside = [entry for entry in chunk.entries if entry.report is None]
        for entry in aside:
            log.error("a settlement in the journal cannot be read, it is put aside: %.200a", entry.line)
        readable = [entry for entry in chunk.entries if entry.report is not None]
        for at in range(0, len(readable), REPLAY_AT_ONCE):
            aside += await self._replay_some(readable[at : at + REPLAY_AT_ONCE])
        await self._journal.taken(chunk, aside)

    async def _replay_some(self, entries: Sequence[Entry]) -> list[Entry]:
        """Settle these; those that never can be. Raises DatabaseError or EngineBusy where the rest should wait.

        A database that is well and refuses one entry fails the whole transaction with it: then each is tried alone.
        """
        answers = await self._ask_all(entries)
        if len(entries) > 1 and any(isinstance(answer, DatabaseError) for answer in answers):
            answers = await self._ask_each(entries)
        failed = [answer for answer in answers if isinstance(answer, DatabaseError | EngineBusy)]
        if len(failed) == len(answers) or any(isinstance(answer, EngineBusy) for answer in failed):
            raise failed[0]
        return [entry for entry, answer in zip(entries, answers, strict=True) if not self._took(entry, answer)]

    async def _ask_each(self, entries: Sequence[Entry]) -> list[Any]:
        """As `_ask_all`, each in a transaction of its own. Raises DatabaseError where the first ones all fail."""
        answers: list[Any] = []
        for entry in entries:
            answers += await self._ask_all((entry,))
            if len(answers) >= TRIED_ALONE and all(isinstance(answer, DatabaseError) for answer in answers):
                raise answers[-1]
        return answers

    async def _ask_all(self, entries: Sequence[Entry]) -> list[Any]:
        """The engine's answers, in the order of `entries`; a failure is an answer, too."""
        asked: list[Awaitable[Any]] = []
        for entry in entries:
            assert entry.report is not None
            try:
                asked.append(self._asker.ask(entry.report))
            except EngineBusy as error:
                busy: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                busy.set_exception(error)
                asked.append(busy)
        return await asyncio.gather(*asked, return_exceptions=True)

    def _took(self, entry: Entry, answer: Any) -> bool:
        """Whether the settlement is durable now; else say why it is put aside."""
        assert entry.report is not None
        uniqueid = entry.report.uniqueid
        if isinstance(answer, SettleAnswer) and answer.call_id is not None:
            self._meter.settled(uniqueid)
            if answer.disagreement:
                log.warning("settled before with other numbers: %s", answer.disagreement, extra={"uniqueid": uniqueid})
            return True
        why = "this database does not know its call" if isinstance(answer, SettleAnswer) else repr(answer)
        log.error("a settlement in the journal is put aside: %s", why, extra={"uniqueid": uniqueid})
        return False

    async def _settle_spool(self) -> None:
        """Settlements that Asterisk kept for us; each is deleted only when it is durable here."""
        assert self._ami is not None
        kept = await self._ami.db_get_tree(SPOOL_FAMILY)
        entries = {path: read_entry(path, text) for path, text in kept.items()}
        self._spooled = {entry.uniqueid for entry in entries.values() if entry is not None}
        answered: dict[str, int | None] = {}  # when the live ones of them were answered, by call id
        if entries:
            answered = {call.id: call.answered_ms for call in await self._housekeeping.node_calls(self._node)}
        trouble: CapConduitError | EngineBusy | None = None
        for path, entry in entries.items():
            try:
                await self._settle_entry(self._ami, path, entry, answered)
            except (CapConduitError, EngineBusy) as error:
                log.warning("the kept settlement %s: %s", path, error or type(error).__name__)
                trouble = error
            except Exception as error:  # noqa: BLE001 - a bug in deciding about one call holds up no other
                self._spooled.discard(entry.uniqueid if entry else "")
                self._complain(_kept(path), f"cannot be settled ({error!r})")
        if trouble is not None:
            raise trouble

    async def _settle_entry(
        self, ami: AmiLink, path: str, entry: SpoolEntry | None, answered: Mapping[str, int | None]
    ) -> None:
        node = await self._housekeeping.call_node(entry.call_id) if entry is not None else None
        if entry is None or node is None:
            self._spooled.discard(entry.uniqueid if entry else "")
            self._complain(
                _kept(path), "cannot be read" if entry is None else "is of a call that this database does not know"
            )
            return
        report = report_of(entry, node, self._meter.times(entry.uniqueid), answered.get(entry.call_id))
        answer: SettleAnswer = await self._asker.ask(report)
        self._spooled.discard(entry.uniqueid)
        if answer.call_id != entry.call_id:
            self._complain(_kept(path), f"names call {entry.call_id}, and its channel is of {answer.call_id}")
            return
        self._meter.settled(entry.uniqueid)
        await ami.db_del(SPOOL_FAMILY, entry.uniqueid)
        log.info("settled from the spool", extra={"uniqueid": entry.uniqueid})

    def _complain(self, path: str, why: str) -> None:
        """Once for each; what is in Asterisk's database stays there for an operator to look at."""
        if path not in self._complained and len(self._complained) < MAX_COMPLAINTS:
            self._complained.add(path)
            log.error("%s %s; it is left as it is", path, why)

    # --- ends that nobody told ----------------------------------------------------------------------------------------

    async def _calls(self, node: str) -> list[Call]:
        """The live calls of a node whose end waits nowhere."""
        return [
            call
            for call in await self._housekeeping.node_calls(node)
            if not self._journal.holds(call.node, call.uniqueid) and call.uniqueid not in self._spooled
        ]

    async def _settle_dead(self) -> None:
        """Calls that died with an Asterisk that is gone, at their last known life.

        Where the clock was set back since the new one began, its own calls seem older than it: what it lists, lives.
        """
        if self._began_ms is None:
            return
        assert self._ami is not None
        dead = of_dead_asterisk(await self._calls(self._node), self._began_ms)
        if dead:
            living = _present(await self._ami.core_show_channels())
            dead = [call for call in dead if call.uniqueid not in living]
        await self._settle_all(dead, "asterisk-restart")
        self._began_ms = None

    async def _compare(self) -> None:
        """Our books with Asterisk's channels: settle calls that two complete lists in a row do not show, and tell of
        channels that two lists show and no book."""
        assert self._ami is not None
        calls = await self._calls(self._node)
        seen = self._seen(calls)
        earlier = await self._ami.core_show_channels()
        self._meter.on_list(earlier)
        strange = strangers(earlier, {call.uniqueid for call in calls}) if self._zombies is not None else []
        if not strange and not _misses(calls, earlier):
            await self._tell_strangers([])
            return
        await asyncio.sleep(BETWEEN_LISTS_S)
        known = await self._zombies.live_calls() if self._zombies is not None and strange else frozenset()
        later = await self._ami.core_show_channels()
        await self._tell_strangers(in_both(strange, strangers(later, known)))
        if not (earlier.complete and later.complete):
            return
        moved = {uniqueid for uniqueid, _ in seen ^ self._seen(calls)}
        gone = orphans(calls, _present(earlier), _present(later), moved)
        if self._zombies is not None:
            await self._zombies.calls_without_channel(gone)
        await self._settle_all(gone, "reconciler")

    def _seen(self, calls: Sequence[Call]) -> set[tuple[str, int]]:
        """When each of these last showed a sign of life."""
        return {(call.uniqueid, self._meter.seen_ms(call.uniqueid)) for call in calls}

    async def _tell_strangers(self, found: Sequence[LiveChannel]) -> None:
        if self._zombies is not None:
            await self._zombies.channels_without_call(found)

    async def _settle_expired(self) -> None:
        """Without AMI: calls whose lease and funded time have passed."""
        await self._settle_all(await self._expired(self._node), "expired")

    async def _settle_abandoned(self) -> None:
        """Calls of nodes whose daemon is gone, when their lease and funded time have passed, too."""
        for node in self._gone:
            await self._settle_all(await self._expired(node), "abandoned")

    async def _expired(self, node: str) -> list[Call]:
        calls = await self._calls(node)
        ends: Mapping[str, int] = await self._housekeeping.hold_ends(node) if calls else {}
        return expired(calls, ends, self._now_ms())

    async def _settle_all(self, calls: Sequence[Call], witness: str) -> None:
        """Settle these. Raises DatabaseError or EngineBusy; one that cannot be settled holds up no other."""
        for call in calls:
            if self._journal.holds(call.node, call.uniqueid):  # it came in while we were looking
                continue
            try:
                await self._settle(call, witness)
            except (DatabaseError, EngineBusy):
                raise
            except Exception as error:  # noqa: BLE001 - a bug in deciding about one call holds up no other
                self._complain(f"end of call {call.id}", f"cannot be settled ({error!r})")

    async def _settle(self, call: Call, witness: str) -> None:
        """Settle a call at its last known life; what the meter saw is of our own channels."""
        ours = call.node == self._node
        log.warning(
            "settling a call of node %s that is gone, by %s", call.node, witness, extra={"uniqueid": call.uniqueid}
        )
        await self._asker.ask(
            SettleReport(
                node=call.node,
                uniqueid=call.uniqueid,
                dialstatus=DialStatus.ANSWER if call.state is CallState.UP else None,
                ended_ms=last_known_ms(call, self._meter.seen_ms(call.uniqueid) if ours else None),
                leg=self._meter.times(call.uniqueid) if ours else LegTimes(),
                witness=witness,
            )
        )
        if ours:
            self._meter.settled(call.uniqueid)


def _kept(path: str) -> str:
    return f"the settlement that Asterisk keeps as {SPOOL_FAMILY}/{path}"


def _present(listed: ChannelList) -> frozenset[str]:
    return frozenset(channel.uniqueid for channel in listed.channels)


def _misses(calls: Sequence[Call], listed: ChannelList) -> bool:
    present = _present(listed)
    return any(call.uniqueid not in present for call in calls)
