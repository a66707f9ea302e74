"""Whether the database answers, is of this version and adds up, and whether its daemons agree on the time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from capconduit.config import mask
from capconduit.doctor.findings import CannotTell, Check, Fault, Finding, Matter, Severity, fine
from capconduit.doctor.scene import Scene
from capconduit.units import format_duration

if TYPE_CHECKING:
    from capconduit.domain.model import Node
    from capconduit.services.doctor import Drifted

NAMES_SHOWN: Final = 5
AHEAD_MS: Final = 2_000  # a heartbeat cannot be from later than now; what is beyond this is no matter of waiting

AWAY = Fault("database-away", Severity.ERROR, "nothing can be decided without it: every call is refused")
PENDING = Fault(
    "migrations-pending", Severity.ERROR, "the daemon does not start on a database of another version, and money rests"
)
NEWER = Fault(
    "migrations-newer", Severity.ERROR, "a newer CapConduit has changed the database: this one would misread it"
)
BALANCES = Fault(
    "balances-differ",
    Severity.ERROR,
    "a balance that is not the sum of its ledger: somebody is charged too much or too little",
)
COUNTERS = Fault(
    "caps-differ", Severity.ERROR, "a counter that is not the number of its calls: a cap is too tight or too wide"
)
NODE_AHEAD = Fault(
    "clock-nodes-differ",
    Severity.ERROR,
    "the daemons that share a database count windows and calls per second by their own clocks, which must agree",
)


# --- judging ----------------------------------------------------------------------------------------------------------


def judge_migrations(pending: Sequence[str], version: int, newest: int) -> Iterator[Finding]:
    """`pending` by name; `version` is the database's, `newest` is ours."""
    if version > newest:
        yield NEWER.found(
            f"the database is at migration {version}, this program knows {newest}",
            fix="pip install --upgrade capconduit   # the version that the other nodes have",
        )
    elif not version:
        yield PENDING.found("there are no tables yet", fix="capconduit init")
    elif pending:
        names = ", ".join(pending[:NAMES_SHOWN])
        yield PENDING.found(f"{len(pending)} are missing: {names}", fix="capconduit db upgrade")
    else:
        yield fine(f"at migration {version}, the newest")


def judge_drifted(found: Sequence[Drifted]) -> Iterator[Finding]:
    """Tenants in which something does not add up."""
    for one in found:
        if one.sellers:
            names = ", ".join(one.sellers[:NAMES_SHOWN])
            yield BALANCES.found(
                f"{len(one.sellers)} accounts of tenant {one.tenant}: {names}",
                subject=one.tenant,
                fix=f"capconduit --tenant {one.tenant} balance verify",
            )
        if one.counters:
            yield COUNTERS.found(
                f"{one.counters} counters of tenant {one.tenant}",
                subject=one.tenant,
                fix=f"capconduit --tenant {one.tenant} cap verify --fix",
            )
    if not found:
        yield fine("balances and counters add up")


def judge_nodes_clock(nodes: Sequence[Node], now_ms: int) -> Iterator[Finding]:
    """Heartbeats that are from later than now."""
    ahead = [node for node in nodes if node.seen_ms - now_ms > AHEAD_MS]
    for node in ahead:
        yield NODE_AHEAD.found(
            f"node {node.name} wrote its last heartbeat {format_duration(node.seen_ms - now_ms)} from now",
            subject=node.name,
            fix="timedatectl set-ntp true   # on both machines",
        )
    if not ahead:
        yield fine(f"no heartbeat of {len(nodes)} nodes is from later than now")


# --- gathering --------------------------------------------------------------------------------------------------------


def _database(scene: Scene) -> Iterable[Finding]:
    from capconduit.services.doctor import newest_migration
    from capconduit.services.stores import pending_migrations

    url = str(mask(scene.config.database.url))
    try:
        store = scene.store()
        version = scene.source("the schema", store.schema_version)
    except CannotTell as failure:
        if failure.is_for_root:
            raise
        return [AWAY.found(f"{url}: {failure.reason}", fix=failure.how or "capconduit init")]
    return judge_migrations(pending_migrations(store), version, newest_migration())


def _numbers(scene: Scene) -> Iterable[Finding]:
    from capconduit.services.doctor import drifted

    return judge_drifted(scene.source("the numbers", lambda: drifted(scene.office())))


def _clocks(scene: Scene) -> Iterable[Finding]:
    from capconduit.services.nodes import list_nodes

    nodes = list_nodes(scene.office())
    return judge_nodes_clock(nodes, scene.doors.clock.now_ms())


CHECKS: Final = (
    Check(
        "database-current",
        Matter.DATABASE,
        "the database answers and has every migration of this version",
        (AWAY, PENDING, NEWER),
        _database,
    ),
    Check(
        "numbers",
        Matter.DATABASE,
        "balances are the sums of their ledgers, counters of caps those of their calls, in every tenant",
        (BALANCES, COUNTERS),
        _numbers,
    ),
    Check(
        "clock-nodes",
        Matter.DATABASE,
        "the clocks of all daemons on this database agree; the database's own clock is used for nothing",
        (NODE_AHEAD,),
        _clocks,
    ),
)
