"""The demo: a working installation on a temporary stage, driven by a scripted day of calls; see docs/demo.md."""
