# Everything a developer or a newcomer runs. `make demo` and `make test` set up what they need by themselves.
VENV   := .venv
PYTHON := $(VENV)/bin/python
PIP    := $(PYTHON) -m pip --quiet --disable-pip-version-check
RUNS   := $(VENV)/.runs
READY  := $(VENV)/.ready
BENCHED := $(VENV)/.benched

.PHONY: help demo test check lab lab-down lab-demo lab-load lab-soak bench soak races man sim clean

help:
	@echo "make demo      an embedded database, a simulated Asterisk, the daemon and some hundred calls"
	@echo "make test      all checks and tests, on real PostgreSQL and real Asterisk"
	@echo "make check     style, types and import rules only"
	@echo "make lab       set up a real Asterisk and SIPp for the tests"
	@echo "make lab-demo  the demo on the lab's real Asterisk"
	@echo "make bench     how fast decisions are on this machine, half an hour; see docs/bench.md for more"
	@echo "make lab-load  calls a second through a real Asterisk, with our decisions and with constant ones"
	@echo "make lab-soak  a thousand calls with every kind of end and random faults through a real Asterisk"
	@echo "make soak      an hour of calls and changes: nothing may leak; BENCH_ARGS='--minutes 5'"
	@echo "make sim       the simulation for SECONDS=600"
	@echo "make races     bursts of 10,000 calls from four processes, twenty times, exact every time"
	@echo "make man       write the man pages again"

$(RUNS): pyproject.toml constraints.txt
	@command -v python3 >/dev/null || { echo "python3 (3.11 or later) is missing" >&2; exit 1; }
	@python3 -c 'import venv, ensurepip' 2>/dev/null || { echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }
	python3 -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

$(READY): $(RUNS)
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(RUNS)
	@$(VENV)/bin/capconduit demo

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

lab: $(READY)
	$(PYTHON) -m lab up

lab-down: $(READY)
	$(PYTHON) -m lab down

lab-demo: $(READY)
	$(PYTHON) -m lab root
	@$(VENV)/bin/capconduit demo --asterisk

# Files are dealt out to two runs side by side: most tests wait for something. In their own order, those on a real Asterisk
# first: by default files of few tests come last, and the longest of them are among those.
test: check
	@$(PYTHON) -m lab root >/dev/null || true
	@$(PYTHON) -m lab --suite bullseye root >/dev/null || true
	$(PYTHON) -m pytest -n $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

$(BENCHED): $(READY)
	$(PIP) install --constraint constraints.txt --editable '.[bench]'
	@touch $@

bench: $(BENCHED)
	$(PYTHON) -m bench $(or $(WHAT),decisions) $(BENCH_ARGS)

soak: $(READY)
	$(PYTHON) -m bench soak $(BENCH_ARGS)

lab-load: $(READY)
	$(PYTHON) -m lab root
	$(PYTHON) -m bench asterisk $(BENCH_ARGS)

lab-soak: $(READY)
	$(PYTHON) -m lab root
	$(PYTHON) -m lab.soak $(BENCH_ARGS)

sim: $(READY)
	$(PYTHON) -m tests.simulation --seconds $(or $(SECONDS),600)

races: $(READY)
	RACE_CALLS=10000 RACE_TIMES=$(or $(TIMES),20) $(PYTHON) -m pytest -k test_a_burst tests/store_contract/test_races.py $(PYTEST_ARGS)

man: $(READY)
	$(PYTHON) -m capconduit_cli.docgen --write

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
