"""How Hypothesis runs: as it does by itself where CI=true; elsewhere it would fail an example that takes 200 ms."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
