"""Scrapes that come together share what is read of the database."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from capconduit.config import MetricsConfig
from fastagi.metrics import Metrics


def test_two_scrapes_at_once_share_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = cast(Any, None)
    both, readings = threading.Event(), [0]

    async def whole() -> None:
        metrics = Metrics(MetricsConfig(), nobody, nobody, nobody, nobody, nobody)

        def look() -> list[Any]:
            readings[0] += 1
            assert both.wait(30)
            return ["read"]

        monkeypatch.setattr(metrics, "_look", look)
        scrapes = [asyncio.create_task(metrics._read()) for _ in range(2)]
        await asyncio.sleep(0)  # both have begun to wait
        both.set()
        await asyncio.gather(*scrapes)
        assert (metrics._kept, readings[0]) == (["read"], 1)
        metrics.close()

    asyncio.run(whole())
