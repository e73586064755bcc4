# Fedge. `make` lists the targets; each does all the set-up it needs (deploy/setup.sh), quietly, and is quick the second time.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-dev
DEMO_READY := $(VENV)/.ready-sim
ARGS ?=

.PHONY: help setup demo test check lint format bench docs prove-edge prove-fleet prove-arm64 prove-tflite-runtime clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-20s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt deploy/setup.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) bash deploy/setup.sh dev

$(DEMO_READY): pyproject.toml constraints.txt deploy/setup.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) bash deploy/setup.sh sim

setup: $(READY) ## make the virtual environment (the other targets do it themselves)

demo: $(DEMO_READY) ## the whole loop, live, in a few minutes (ARGS="--data pronostia=PATH --json out.json")
	@$(BIN)/fedge-sim run demo $(ARGS)

test: $(READY) ## all tests (ARGS="tests/fleet -k rollout" for some)
	@$(BIN)/python -m pytest -q $(ARGS)

lint: $(READY) ## format check, ruff, mypy --strict, import-linter
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 8

format: $(READY) ## format the code
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

check: test ## everything CI runs: format, ruff, mypy --strict and import-linter are tests too (tests/house)

bench: $(READY) ## every benchmark, one JSON object per figure (hours)
	@for b in benchmarks/[a-z]*.py; do echo "# $$b" >&2; $(BIN)/python $$b || exit 1; done

prove-edge: $(READY) ## build an environment from the edge extra alone and run the agent's tests in it
	@$(BIN)/python tests/edge_environment/prove.py

prove-fleet: $(READY) ## build an environment from the fleet extra alone, see how big it is, and serve from it
	@$(BIN)/python tests/edge_environment/prove_fleet.py

prove-arm64: $(READY) ## compute and test the same on emulated arm64 (Raspberry Pi 4 and 5), as root; some minutes
	@$(BIN)/python tests/edge_environment/prove_arm64.py $(ARGS)

prove-tflite-runtime: $(READY) ## test the models under tflite-runtime 2.14 and numpy 1.26 (older Coral and Jetson images)
	@$(BIN)/python tests/edge_environment/prove_tflite_runtime.py $(ARGS)

docs: $(READY) ## the pages of docs/ and the API reference, as a site in build/docs
	@$(BIN)/python -m mkdocs build -q && echo build/docs/index.html

clean: ## remove environments, caches and simulated worlds
	@rm -rf $(VENV) .venv-edge .venv-fleet .venv-tflite-runtime build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis fedge-demo*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
