# Fedge. `make` lists the targets; each does all the set-up it needs (deploy/setup.sh), quietly, and is quick the second time.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-dev
DEMO_READY := $(VENV)/.ready-sim
PEERS := .venv-peers
PEERS_READY := $(PEERS)/.ready-peers
ARGS ?=
SECONDS ?= 600
DEVICES ?= 12
# Two workers more than cores: tests that wait leave room. A file stays on one worker, so that its world is made once.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || echo 2) + 2)
# Small arrays: more threads of a BLAS would only wait for each other, for three times the processor time.
export OPENBLAS_NUM_THREADS := 1
# Containers often forbid Python to keep what it compiles; then each of some thousand processes compiles everything again.
export PYTHONDONTWRITEBYTECODE :=
export OMP_NUM_THREADS := 1
PARALLEL := -n $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: help setup demo test test-fast soak test-loaded check lint format figures bench bench-peers docs prove mutants prove-edge prove-fleet prove-published prove-arm64 prove-tflite-runtime clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt deploy/setup.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) bash deploy/setup.sh dev

$(DEMO_READY): pyproject.toml constraints.txt deploy/setup.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) bash deploy/setup.sh sim

setup: $(READY) ## make the virtual environment (the other targets do it themselves)

demo: $(DEMO_READY) ## the whole loop, live, in a few minutes (ARGS="--data pronostia=PATH --json out.json"; ARGS=--stay keeps it up)
	@$(BIN)/fedge-sim run demo $(ARGS)

test: $(READY) ## all tests (ARGS="tests/fleet -k rollout" for some); installs the programs they need where it may
	@bash tests/programs.sh
	@$(BIN)/python -m pytest -q $(PARALLEL) $(ARGS)

test-fast: $(READY) ## the tests of rules, protocols and decisions: what to run after every change
	@$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow and not long" $(ARGS)

soak: $(READY) ## random kills, cuts, clock steps and bad disks over a real fleet, then every invariant (SECONDS=600 DEVICES=12 ARGS="--seed 7 --json")
	@bash tests/programs.sh
	@$(BIN)/python tests/soak.py --seconds $(SECONDS) --devices $(DEVICES) $(ARGS)

test-loaded: $(READY) ## all tests while every core is busy with something else (ARGS as for test)
	@bash tests/programs.sh
	@$(BIN)/python tests/under_load.py $(PARALLEL) $(ARGS)

lint: $(READY) ## format check, ruff, mypy --strict, import-linter
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 8

format: $(READY) ## format the code
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

check: test ## everything CI runs: format, ruff, mypy --strict and import-linter are tests too (tests/house)

figures: $(READY) ## modules, statements, arguments and docstrings of each package
	@$(BIN)/python tests/house/figures.py $(ARGS)

bench: $(READY) ## every benchmark, one JSON object per figure (hours)
	@for b in benchmarks/[a-z]*.py; do echo "# $$b" >&2; $(BIN)/python $$b || exit 1; done

$(PEERS_READY): benchmarks/peers.txt deploy/setup.sh
	@PYTHON=$(PYTHON) VENV=$(PEERS) bash deploy/setup.sh peers

# MLflow's server brings what no part of ours needs; its bridge is tested from here (make prove ARGS=elsewhere).
.venv-mlflow/.ready-mlflow: pyproject.toml deploy/setup.sh
	@PYTHON=$(PYTHON) VENV=.venv-mlflow bash deploy/setup.sh mlflow

bench-peers: $(PEERS_READY) ## other people's detectors, and what proofs of inputs would cost, in an environment of their own (ARGS="skab")
	@$(PEERS)/bin/python benchmarks/input_proofs.py
	@PYTHONPATH=. $(PEERS)/bin/python benchmarks/detection.py --peers $(ARGS)

prove: $(READY) ## what takes longer than a test may, recorded in docs/proofs.md; goes on where it stopped (ARGS="edge mutants-auth")
	@bash tests/programs.sh
	@$(BIN)/python tests/proofs.py $(ARGS)

mutants: $(READY) ## change what guards people, place by place, and see the tests notice nine of ten (ARGS="--area auth --count 50")
	@$(BIN)/python tests/mutants/run.py $(ARGS)

prove-edge: $(READY) ## build an environment from the edge extra alone and run the agent's tests in it
	@$(BIN)/python tests/edge_environment/prove.py

prove-fleet: $(READY) ## build an environment from the fleet extra alone, see how big it is, and serve from it
	@$(BIN)/python tests/edge_environment/prove_fleet.py

prove-published: $(READY) ## install the wheel on Python 3.11, 3.12, 3.13 and in an empty Debian, and run it (ARGS="--python 3.13")
	@$(BIN)/python tests/edge_environment/prove_published.py $(ARGS)

prove-arm64: $(READY) ## compute and test the same on emulated arm64 (Raspberry Pi 4 and 5), as root; some minutes
	@$(BIN)/python tests/edge_environment/prove_arm64.py $(ARGS)

prove-tflite-runtime: $(READY) ## test the models under tflite-runtime 2.14 and numpy 1.26 (older Coral and Jetson images)
	@$(BIN)/python tests/edge_environment/prove_tflite_runtime.py $(ARGS)

docs: $(READY) ## the pages of docs/ and the API reference, as a site in build/docs
	@$(BIN)/python -m mkdocs build -q && echo build/docs/index.html

clean: ## remove environments, caches and simulated worlds
	@rm -rf $(VENV) $(PEERS) .venv-edge .venv-fleet .venv-tflite-runtime build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis fedge-demo*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
