# Everything sets itself up: only Python 3.11 or newer and make are needed.
#
#   make demo      meta-train on sinusoids, evaluate, write a report (about a minute)
#   make test      lint, types, layers, documentation examples, every test (aim: 14 minutes on two idle cores)
#   make test-faults  kills, disk errors, flipped bits, hostile files: within 20 minutes on two idle cores
#   make quick     lint and the quick tests of what differs from main (SINCE=COMMIT for something else), no training
#   make docs      the documentation, warnings as errors
#   make results   the tables of README.md and docs/results.md, from benchmarks/results/
#   make bench     the comparison with other libraries, in an environment of its own (about an hour on two cores);
#                  CASES=sinusoid-1,presets for some parts of it, OPTIONS=--help for more
#   make golden    the golden loss curves, after a change that is meant to change them

SUITABLE := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$each -c '$(SUITABLE)' >/dev/null 2>&1 && echo $$each && break; done)
BIN := .venv/bin
SETTINGS := pyproject.toml constraints.txt

.PHONY: demo test test-faults quick lint docs results bench golden clean

demo: .venv/.ready-all
	$(BIN)/innerloop train demo

test: lint
	$(BIN)/pytest -q --numprocesses 2 --dist worksteal

test-faults: .venv/.ready-dev
	PYTHONPATH=tests $(BIN)/python -m faults
	$(BIN)/pytest -q tests/test_hostile.py

quick: .venv/.ready-dev
	$(BIN)/python tests/quick.py $(SINCE)

lint: .venv/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m benchmarks.tables --check
	$(BIN)/python -m benchmarks.peers.page --check
	$(BIN)/python -m benchmarks.algorithm_pages --check
	$(BIN)/python -m benchmarks.reinforcement --check
	$(BIN)/python -m benchmarks.fsmol_page --check
	$(BIN)/python -m benchmarks.horizons write --check
	$(BIN)/python -m benchmarks.lora write --check
	$(BIN)/python -m benchmarks.attention write --check
	$(BIN)/python -m benchmarks.streams write --check
	$(BIN)/python -m benchmarks.safety_page --check
	$(BIN)/python -m benchmarks.scale --check
	$(BIN)/python -m benchmarks.grouped_page --check
	$(BIN)/python -m benchmarks.stability page --check
	$(BIN)/python -m benchmarks.twenty_ways --check
	$(BIN)/python -m benchmarks.fields --check

docs: .venv/.ready-dev
	$(BIN)/sphinx-build --fail-on-warning --keep-going -q docs docs/_build
	@echo "open docs/_build/index.html"

results: .venv/.ready-dev
	$(BIN)/python -m benchmarks.tables
	$(BIN)/python -m benchmarks.peers.page
	$(BIN)/python -m benchmarks.algorithm_pages
	$(BIN)/python -m benchmarks.reinforcement
	$(BIN)/python -m benchmarks.fsmol_page
	$(BIN)/python -m benchmarks.horizons write
	$(BIN)/python -m benchmarks.lora write
	$(BIN)/python -m benchmarks.attention write
	$(BIN)/python -m benchmarks.streams write
	$(BIN)/python -m benchmarks.safety_page
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.grouped_page
	$(BIN)/python -m benchmarks.own_times write
	$(BIN)/python -m benchmarks.stability page
	$(BIN)/python -m benchmarks.twenty_ways
	$(BIN)/python -m benchmarks.fields

bench: .venv-bench/.ready
	.venv-bench/bin/python -m benchmarks.peers $(if $(CASES),--cases $(CASES)) $(OPTIONS)

golden: .venv/.ready-dev
	$(BIN)/python tests/golden/regenerate.py

clean:
	rm -rf .venv .venv-bench docs/_build docs/generated .pytest_cache .ruff_cache

.venv/.ready-%: $(SETTINGS)
	@test -n "$(PYTHON)" || { echo "innerloop needs Python 3.11 or newer; give its path: make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	@touch $@

.venv-bench/.ready: $(SETTINGS) benchmarks/peers/requirements.txt
	@test -n "$(PYTHON)" || { echo "innerloop needs Python 3.11 or newer; give its path: make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--requirement benchmarks/peers/requirements.txt --editable '.[report]'
	@touch $@
