# The only way in: people, hooks and CI call the same targets. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Touched when the environment matches requirements/dev.txt, so that an unchanged one costs nothing.
STAMP := $(VENV)/.installed
# Resolves the pins; not part of the environment it pins.
UV_VERSION := 0.13.9
UV := $(VENV)/lock/bin/uv
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

SOURCES := libs services dockyard proto tests
# The tests start processes while gRPC runs in theirs: its fork handlers may abort a child before it becomes a server.
export GRPC_ENABLE_FORK_SUPPORT := false
PROTOS = $(shell find proto -name '*.proto' | sort)
# The commit before this one on the main branch: what the contracts are compared with.
PREVIOUS = $(shell git rev-parse --quiet --verify main~1 || git rev-parse --quiet --verify origin/main~1)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## This list
	@echo 'Dockyard. ARGS="…" adds arguments to demo, bench, up, audit and the tests.'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(STAMP) ## Install everything into .venv, every file checked against its hash

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Dockyard needs Python 3.11 or newer: install it, or name it with make PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "This Python has no venv module: install it (Debian: apt-get install python3-venv)." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: fmt
fmt: $(STAMP) ## Format the code and sort its imports
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: lint
lint: $(STAMP) ## Check format and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: types
types: $(STAMP) ## Check types, strictly
	$(BIN)/mypy $(SOURCES)

.PHONY: arch
arch: $(STAMP) ## Check the import contracts
	$(BIN)/lint-imports --no-logo

.PHONY: smells
smells: $(STAMP) ## Report long files, long functions, many parameters; fails nothing
	@$(BIN)/python -m tests.architecture.smells

.PHONY: proto
proto: $(STAMP) ## Regenerate the stubs from proto/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I . \
	  --python_out=. --grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. $(PROTOS)

.PHONY: proto-check
proto-check: proto ## Fail unless the stubs are fresh, the contracts lint clean and break no caller
	@git diff --exit-code -- proto && test -z "$$(git ls-files --others --exclude-standard proto)" || { \
	  echo "The stubs in proto/ are not those of the contracts: run make proto and commit what changed." >&2; exit 1; }
	$(BIN)/buf lint
	$(if $(PREVIOUS),$(BIN)/buf breaking --against ".git#ref=$(PREVIOUS)",@echo "No earlier commit of main: nothing to compare with.")

.PHONY: test
test: $(STAMP) ## Run every test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(ARGS)

.PHONY: test-unit
test-unit: $(STAMP) ## Run the tests that start no process and open no socket
	$(BIN)/python -m pytest tests/unit tests/transcripts tests/simulation $(ARGS)

.PHONY: transcripts
transcripts: $(STAMP) ## Rewrite the expected parts of tests/transcripts; the diff is the review
	DOCKYARD_REWRITE_TRANSCRIPTS=1 $(BIN)/python -m pytest tests/transcripts $(ARGS)

.PHONY: demo
demo: $(STAMP) ## Start the platform, place 500 orders, kill services on the way, audit the outcome
	$(BIN)/dockyard demo $(ARGS)

.PHONY: bench
bench: $(STAMP) ## Measure finished orders per second, latency and CPU per order
	$(BIN)/dockyard bench --coordination orchestrated --concurrency 64 --seconds 15 $(ARGS)

.PHONY: compare
compare: $(STAMP) ## Measure every coordination style in turns: same orders, same faults, one table
	$(BIN)/dockyard compare $(ARGS)

.PHONY: up
up: $(STAMP) ## Start the platform in the background
	$(BIN)/dockyard up --detach $(ARGS)

.PHONY: down
down: $(STAMP) ## Stop the platform
	$(BIN)/dockyard down $(ARGS)

.PHONY: audit
audit: $(STAMP) ## Recompute the guarantees from every service's records
	$(BIN)/dockyard audit $(ARGS)

.PHONY: lock
lock: $(UV) ## Pin the requirements again; UPGRADE=--upgrade moves them to the newest versions
	$(LOCK) $(UPGRADE) pyproject.toml -o requirements/runtime.txt
	$(LOCK) $(UPGRADE) --extra local --extra dev -c requirements/runtime.txt pyproject.toml -o requirements/dev.txt

$(UV):
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.PHONY: ci
ci: ## Everything a change must pass
	.ci/run
