"""The web application of the classic design: Flask, one PostgreSQL transaction for each request."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, Final

import psycopg
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue

from bench.designs import till

app = Flask(__name__)
DIAL: Final[dict[str, Any]] = {"CC_DIAL": "PJSIP/cc/sip:b@127.0.0.1:5080", "CC_FUNDED_S": 60, "CC_VERDICT": "dial"}
REJECT: Final[dict[str, Any]] = {"CC_REASON": "cap_reached", "CC_VERDICT": "reject"}


@lru_cache
def connection() -> psycopg.Connection[Any]:
    """This worker's own connection; a worker answers one request at a time."""
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)


@app.post("/route")
def route() -> ResponseReturnValue:
    """Admit a call."""
    asked, answer = request.get_json(), REJECT
    with connection().transaction() as transaction:
        found = _run(till.LOOK_UP, asked["number"]).fetchone()
        taken = found is not None and (
            _run(till.HOLD_MONEY, till.HOLD, found[1], till.HOLD).rowcount == 1
            and _run(till.TAKE_CAMPAIGN, found[0]).rowcount == 1
            and _run(till.TAKE_TARGET, found[2]).rowcount == 1
        )
        if found is None or not taken:
            raise psycopg.Rollback(transaction)
        _run(till.ADMIT, asked["uniqueid"], *found)
        answer = DIAL
    return jsonify(answer)


@app.post("/settle")
def settle() -> ResponseReturnValue:
    """End a call."""
    asked = request.get_json()
    with connection().transaction():
        found = _run(till.FIND_CALL, asked["uniqueid"]).fetchone()
        if found is None:
            return jsonify({"CC_ACK": ""})
        _run(till.PAY, till.HOLD, till.HOLD, found[1])
        _run(till.FREE_CAMPAIGN, found[0])
        _run(till.FREE_TARGET, found[2])
        _run(till.FORGET, asked["uniqueid"])
    return jsonify({"CC_ACK": 1})


def _run(sql: str, *values: object) -> psycopg.Cursor[Any]:
    return connection().execute(till.for_postgres(sql), values)
