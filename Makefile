.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet
TORCH_INDEX ?=
ARGS ?=

.PHONY: help setup run test check format docs ui hooks bench bench-run bench-validate bench-ingest bench-features bench-model bench-evaluation bench-peers bench-model-peers

help: ## List these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed ## Create the virtual environment and install everything in it

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"gatecast needs Python 3.11, 3.12 or 3.13; {sys.executable} is {v[0]}.{v[1]}: name one with make PYTHON=...")'
	@if [ "$$(uname)" = Linux ] && [ -z "$(TORCH_INDEX)" ] && ! command -v nvidia-smi >/dev/null; then \
		echo "No NVIDIA card found: if the download turns out to be gigabytes, stop it and see 'CPU build of torch' in README.md"; fi
	@echo "Installing into .venv, which takes some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP_INSTALL) --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	@$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: setup ## Run the main job: candles to promoted model and forecast (ARGS="--profile btc-hourly")
	@$(BIN)/gatecast run $(ARGS)

test: setup ## Run the test suite (ARGS="-k leak")
	@$(BIN)/python -m pytest $(ARGS)

check: setup ## Format, lint, types, imports, dependencies
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/deptry .

format: setup ## Format and mend what the linter can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: setup ## Make docs/features.md from the catalogue
	@$(BIN)/python -m gatecast.feature_listing docs/features.md

ui: setup ## Serve the MLflow UI and the Prefect UI on this machine
	@$(BIN)/gatecast ui

hooks: setup ## Run format and lint before each commit
	@$(BIN)/pre-commit install

bench: bench-run bench-validate bench-ingest bench-features bench-model bench-evaluation ## Run every bench

bench-run: setup ## Time, memory and skill of the main job, on a fresh copy
	@$(BIN)/python tests/benches/run.py

bench-validate: setup ## Time and memory of both suites on large tables
	@$(BIN)/python tests/benches/validate.py

bench-ingest: setup ## Merging into a large store, rate of a fetch, requests of a resumed one
	@$(BIN)/python -m tests.benches.ingest

bench-features: setup bench-peers ## Features against reading and writing alone, against pandas, in memory, for a new bar
	@$(BIN)/python -m tests.benches.features $(ARGS)

bench-model: setup bench-model-peers ## Training and forecasts against window-trained peers, a bare loop and baselines
	@$(BIN)/python -m tests.benches.model $(ARGS)

bench-evaluation: setup ## The whole evaluation, its statistics, false alarms and power of the verdict
	@$(BIN)/python -m tests.benches.evaluation $(ARGS)

PEERS := .gatecast/bench/peers

bench-peers: $(PEERS)/.installed ## Install the pandas libraries that features are compared with, by themselves

$(PEERS)/.installed: constraints.txt
	@$(PYTHON) -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt pandas ta==0.11.0 pandas-ta-classic==0.8.32
	@touch $@

MODEL_PEERS := .gatecast/bench/model-peers

bench-model-peers: $(MODEL_PEERS)/.installed ## Install the libraries that the model is compared with, by themselves

$(MODEL_PEERS)/.installed: constraints.txt
	@$(PYTHON) -m venv --clear $(MODEL_PEERS)
	@$(MODEL_PEERS)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	@$(MODEL_PEERS)/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt neuralforecast==3.3.0 darts==0.48.1
	@touch $@
