"""A constant answer from a Protocol on uvloop: the floor, which all ratios are to."""

from __future__ import annotations

import sys

import uvloop

from bench.designs.wire import DIAL, Exchange, serve


class Constant(Exchange):
    """Always the same."""

    def decide(self, script: str, args: list[str]) -> None:  # noqa: ARG002 - read, as whoever decides must
        self.reply(DIAL)


if __name__ == "__main__":
    uvloop.run(serve(Constant, int(sys.argv[1])))
