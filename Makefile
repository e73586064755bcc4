# Fedge. `make` lists the targets; each does all the set-up it needs (deploy/setup.sh), quietly, and is quick the second time.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.PHONY: help setup demo test check lint format bench prove-edge clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt deploy/setup.sh
	@PYTHON=$(PYTHON) VENV=$(VENV) bash deploy/setup.sh

setup: $(READY) ## make the virtual environment (the other targets do it themselves)

demo: $(READY) ## the whole loop, live, in a few minutes (ARGS="--data pronostia=PATH --json out.json")
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

bench: $(READY) ## every benchmark, one JSON object per figure
	@for b in benchmarks/[a-z]*.py; do echo "# $$b" >&2; $(BIN)/python $$b || exit 1; done

prove-edge: $(READY) ## build an environment from the edge extra alone and run the agent's tests in it
	@$(BIN)/python tests/edge_environment/prove.py

clean: ## remove environments, caches and simulated worlds
	@rm -rf $(VENV) .venv-edge build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis fedge-demo*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
