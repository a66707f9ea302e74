"""Measurements. Never part of the tests: machines are noisy, so speak in ratios of one run."""
