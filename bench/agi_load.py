"""A FastAGI load generator without a compiler: plays Asterisk's side of many exchanges with raw epoll.

`agi_load.c` does the same for less CPU time and is what the benches take where there is a C compiler.

Closed loop: `clients` exchanges are always under way. Open loop: `rate_per_s` exchanges begin per second, whatever the
server does, at most `clients` at once; latency then counts from when an exchange was due, so that a stalled server
cannot hide the ones it delayed. Both end after `seconds` or `count` exchanges, whichever is first.

An exchange: connect, send the environment in one segment, read the command line (latency ends here), send
`200 result=0`, read EOF, close. Real Asterisk writes its environment line by line, which costs the server more.

    python -m bench.agi_load --port 4573 --script route --arg 'u-{n}' --arg 15551230000 --clients 64 --seconds 5
"""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import re
import select
import socket
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

MAX_COUNT: Final = 5_000_000  # latencies are kept, 8 bytes each
MAX_SECONDS: Final = 3_600.0
MAX_CLIENTS: Final = 10_000
MAX_LINE_BYTES: Final = 65_536
EXCHANGE_TIMEOUT_S: Final = 5.0  # an exchange that takes longer is an error
EVENTS_AT_ONCE: Final = 256
SWEEP_S: Final = 0.5  # how often exchanges are looked at for that
REPLY: Final = b"200 result=0\n"
_NUMBER: Final = re.compile(rb"\{n(?:%(\d+))?(?:\+(\d+))?\}")

# What Asterisk 22 sends besides the request and the arguments (res/res_agi.c setup_env).
_ENVIRONMENT: Final = """\
agi_channel: PJSIP/trunk-0000002a
agi_language: en
agi_type: PJSIP
agi_uniqueid: load-{n}
agi_version: 22.10.1
agi_callerid: 15557654321
agi_calleridname: Load
agi_callingpres: 0
agi_callingani2: 0
agi_callington: 0
agi_callingtns: 0
agi_dnid: 15551230000
agi_rdnis: unknown
agi_context: from-trunk
agi_extension: 15551230000
agi_priority: 7
agi_enhanced: 0.0
agi_accountcode: 
agi_threadid: 140212345678912
"""  # noqa: W291 - an empty value keeps its space, as Asterisk sends it


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to send, how fast and for how long. make_request: running number (from 0) to the bytes of a request."""

    port: int
    make_request: Callable[[int], bytes]
    host: str = "127.0.0.1"
    clients: int = 64
    seconds: float = 5.0
    count: int = MAX_COUNT
    rate_per_s: float | None = None
    first: int = 0  # number of the first request
    expect: str = ""  # an answer without this text is counted as unexpected
    server_pid: int | None = None  # where given, its CPU time per exchange is reported

    def __post_init__(self) -> None:
        if not (1 <= self.clients <= MAX_CLIENTS and 1 <= self.count <= MAX_COUNT and 0 < self.seconds <= MAX_SECONDS):
            raise ValueError(f"clients 1..{MAX_CLIENTS}, count 1..{MAX_COUNT}, seconds 0..{MAX_SECONDS:.0f}")
        if self.rate_per_s is not None and self.rate_per_s <= 0:
            raise ValueError("the rate is above 0 exchanges per second")


def request_template(script: str, args: Sequence[str], host: str = "127.0.0.1") -> Callable[[int], bytes]:
    """Makes requests of `script` with `args`; in either, `{n}`, `{n%M}`, `{n+A}` and `{n%M+A}` become numbers."""
    texts, numbers = _pieces(request_text(script, args, host))

    def make_request(number: int) -> bytes:
        parts = [texts[0]]
        for text, (modulus, plus) in zip(texts[1:], numbers, strict=True):
            parts += (b"%d" % ((number % modulus if modulus else number) + plus), text)
        return b"".join(parts)

    return make_request


def request_text(script: str, args: Sequence[str], host: str = "127.0.0.1") -> bytes:
    """The bytes of a request whose numbers are not filled in yet; agi_load.c reads the same form."""
    lines = [f"agi_network: yes\nagi_network_script: {script}\nagi_request: agi://{host}/{script}\n", _ENVIRONMENT]
    lines += [f"agi_arg_{place}: {arg}\n" for place, arg in enumerate(args, 1)]
    return ("".join(lines) + "\n").encode()


def _pieces(template: bytes) -> tuple[list[bytes], list[tuple[int, int]]]:
    """The texts around the numbers, one more than there are numbers; (modulus or 0, what is added) of each number."""
    texts, numbers, end = [], [], 0
    for found in _NUMBER.finditer(template):
        texts.append(template[end : found.start()])
        numbers.append((int(found[1] or 0), int(found[2] or 0)))
        end = found.end()
    return [*texts, template[end:]], numbers


@dataclass(slots=True)
class _Exchange:
    """One connection: from `due_s` on it counts."""

    sock: socket.socket
    due_s: float
    began_s: float
    request: bytes
    sent: bool = False
    answered: bool = False
    received: bytearray = field(default_factory=bytearray)


class _Load:
    """The state of one run."""

    def __init__(self, plan: LoadPlan) -> None:
        self.plan = plan
        self.poll = select.epoll()
        self.open: dict[int, _Exchange] = {}
        self.latencies_ms = array("d")
        self.errors: Counter[str] = Counter()
        self.failures = 0  # answered with a failure line
        self.unexpected = 0
        self.begun = 0
        self.finished = 0

    def run(self) -> None:
        plan = self.plan
        started_s = time.monotonic()
        end_s = started_s + plan.seconds
        sweep_s = started_s + SWEEP_S
        while True:
            now_s = time.monotonic()
            begin_more = now_s < end_s and self.begun < plan.count
            wait_s = self.begin_due(started_s, now_s) if begin_more else SWEEP_S
            if not self.open and not begin_more:
                break
            for descriptor, _ in self.ready(max(0.0, min(wait_s, sweep_s - now_s))):
                self.step(self.open[descriptor])
            if now_s >= sweep_s:
                sweep_s = now_s + SWEEP_S
                self.sweep(now_s)
        self.poll.close()

    def ready(self, wait_s: float) -> list[tuple[int, int]]:
        if self.plan.rate_per_s is not None and wait_s > 0:
            # epoll rounds up to milliseconds, which would be counted as the server's latency; select does not.
            select.select([self.poll], [], [], wait_s)
            wait_s = 0
        return self.poll.poll(wait_s, EVENTS_AT_ONCE)

    def begin_due(self, started_s: float, now_s: float) -> float:
        """Begin what is due; seconds until the next is."""
        plan = self.plan
        while len(self.open) < plan.clients and self.begun < plan.count:
            due_s = now_s if plan.rate_per_s is None else started_s + self.begun / plan.rate_per_s
            if due_s > now_s:
                return due_s - now_s
            self.begin(due_s, now_s)
        return SWEEP_S

    def begin(self, due_s: float, now_s: float) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        exchange = _Exchange(sock, due_s, now_s, self.plan.make_request(self.plan.first + self.begun))
        self.begun += 1
        code = sock.connect_ex((self.plan.host, self.plan.port))
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            self.errors[errno.errorcode.get(code, str(code))] += 1
            self.finished += 1
            return
        self.open[sock.fileno()] = exchange
        self.poll.register(sock.fileno(), select.EPOLLOUT)
        # On loopback the connection is mostly there already, and one round of epoll is saved.
        self.step(exchange)

    def step(self, exchange: _Exchange) -> None:
        """Go on with an exchange whose socket is ready."""
        try:
            if exchange.sent:
                self.read(exchange)
            elif exchange.sock.send(exchange.request) == len(exchange.request):
                exchange.sent = True
                self.poll.modify(exchange.sock.fileno(), select.EPOLLIN)
            else:
                raise OSError(errno.ENOBUFS, "the request did not fit into the socket buffer")
        except BlockingIOError:
            return  # not connected yet, or nothing to read yet
        except OSError as error:
            self.finish(exchange, errno.errorcode.get(error.errno or 0, type(error).__name__))

    def read(self, exchange: _Exchange) -> None:
        while True:
            data = exchange.sock.recv(MAX_LINE_BYTES)
            if not data:
                self.finish(exchange, None if exchange.answered else "no answer")
                return
            if exchange.answered:
                self.finish(exchange, "more than one line")
                return
            exchange.received += data
            if exchange.received.endswith(b"\n"):
                self.answered(exchange)
            elif len(exchange.received) > MAX_LINE_BYTES:
                self.finish(exchange, "endless line")
                return

    def answered(self, exchange: _Exchange) -> None:
        self.latencies_ms.append((time.monotonic() - exchange.due_s) * 1_000)
        exchange.answered = True
        if self.plan.expect.encode() not in exchange.received:
            self.unexpected += 1
        if exchange.received.endswith(b"\nfailure: handler failed\n") or exchange.received.startswith(b"failure"):
            self.failures += 1
        else:
            exchange.sock.send(REPLY)

    def finish(self, exchange: _Exchange, error: str | None) -> None:
        del self.open[exchange.sock.fileno()]
        exchange.sock.close()  # which takes it out of epoll too
        self.finished += 1
        if error is not None:
            self.errors[error] += 1

    def sweep(self, now_s: float) -> None:
        for exchange in [e for e in self.open.values() if now_s - e.began_s > EXCHANGE_TIMEOUT_S]:
            self.finish(exchange, "timeout")


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile of ascending values, None where there are none."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else None


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, its own threads included (proc(5), stat fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_load(plan: LoadPlan, latencies: Path | None = None) -> dict[str, Any]:
    """Run the plan and report counts, errors by kind, latency in ms, our own share of a CPU (distrust it above 0.9).

    `latencies` is a file that gets each answer's, as agi_load.c writes them.
    """
    load = _Load(plan)
    server_began_s = _cpu_seconds(plan.server_pid) if plan.server_pid is not None else 0.0
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    load.run()
    wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_began_s
    ordered = sorted(load.latencies_ms)
    if latencies is not None:
        latencies.write_bytes(array("f", load.latencies_ms).tobytes())
    report: dict[str, Any] = {
        "mode": "closed" if plan.rate_per_s is None else "open",
        "clients": plan.clients,
        "rate_per_s": plan.rate_per_s,
        "seconds": round(wall_s, 6),
        "cpu_s": round(cpu_s, 6),
        "begun": load.begun,
        "count": load.finished,
        "answers": len(load.latencies_ms),
        "unexpected": load.unexpected,
        "per_s": round(load.finished / wall_s, 1),
        "errors": dict(load.errors),
        "failures": load.failures,
        "latency_ms": {
            "p50": percentile(ordered, 50),
            "p95": percentile(ordered, 95),
            "p99": percentile(ordered, 99),
            "max": percentile(ordered, 100),
        },
        "cpu_share": round(cpu_s / wall_s, 3),
    }
    if plan.server_pid is not None:
        server_s = _cpu_seconds(plan.server_pid) - server_began_s
        report["server_cpu_share"] = round(server_s / wall_s, 3)
        report["server_cpu_us"] = round(server_s / max(1, load.finished) * 1e6, 1)
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.agi_load", description="Load a FastAGI server.")
    parser.add_argument("--host", default="127.0.0.1", help="an IPv4 address")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--script", default="route")
    parser.add_argument("--arg", action="append", default=[], help="agi_arg_1 and so on; {n%%M+A} is a number")
    parser.add_argument("--clients", type=int, default=64, help="exchanges at once (open loop: at most)")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--count", type=int, default=MAX_COUNT, help="end after so many exchanges")
    parser.add_argument("--rate", type=float, default=None, help="open loop: exchanges begun per second")
    parser.add_argument("--first", type=int, default=0, help="number of the first request")
    parser.add_argument("--expect", default="", help="count answers without this text as unexpected")
    parser.add_argument("--latencies", type=Path, default=None, help="a file for each answer's latency (ms, floats)")
    parser.add_argument("--server-pid", type=int, default=None, help="report the CPU time of this process too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; prints one JSON object, 1 where any exchange failed."""
    options = _parser().parse_args(argv)
    plan = LoadPlan(
        host=options.host,
        port=options.port,
        make_request=request_template(options.script, options.arg, f"{options.host}:{options.port}"),
        clients=options.clients,
        seconds=options.seconds,
        count=options.count,
        rate_per_s=options.rate,
        first=options.first,
        expect=options.expect,
        server_pid=options.server_pid,
    )
    report = run_load(plan, options.latencies)
    print(json.dumps({"script": options.script, **report}))
    return 1 if report["errors"] or report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
