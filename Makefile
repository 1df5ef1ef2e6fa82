# `make` alone says what there is. Everything lands in .venv and .cache; nothing outside is touched.
# Needs make and Python >= 3.11; uses uv where it is on the PATH, since it is much faster.

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

BIN := .venv/bin
INSTALLED := .venv/.installed
# Compiled kernels are kept, so that only the first run waits for the compiler.
export NUMBA_CACHE_DIR ?= $(CURDIR)/.cache/numba

# The newest Python that is there; PYTHON=… takes another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
UV := $(shell command -v uv)
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate pyproject.toml

.PHONY: help demo test lint types audit check bench fuzz chart lock clean install

help: ## this help
	@echo 'outcome-exporter: make TARGET'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: install ## watch a small shop fail, and what the series say (ARGS=--fast: in 20 seconds)
	@$(BIN)/outcome-exporter demo $(ARGS)

test: install ## run the tests (ARGS='-k name' runs some, ARGS='-m slow' the long ones)
	@$(BIN)/python -m pytest -n auto --dist loadscope $(ARGS)

chart: install ## write what follows from the values of the chart: README, schema
	@$(BIN)/python helm/generate.py $(ARGS)

lint: install ## check style and format
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: install ## check types
	@$(BIN)/mypy

audit: install ## look for known vulnerabilities, where the advisory data can be reached
	@.ci/audit

check: lint types test ## lint, types and test

bench: install ## measure, beside a Collector where Go is (ARGS=--help says what there is)
	@$(BIN)/python -m tests.bench $(ARGS)

fuzz: install ## try to break what receives, for ten minutes (ARGS=60: for one)
	@nice -n 19 $(BIN)/python -m tests.fuzz.fuzz $(ARGS)

lock: ## resolve both locks anew (ARGS=--upgrade takes the newest versions)
	@$(if $(UV),,$(error make lock needs uv on the PATH))
	@$(LOCK) --all-extras --group dev $(ARGS) --output-file requirements.lock
	@$(LOCK) --constraint requirements.lock --output-file requirements.run.lock
	@! grep -n '://' requirements.lock requirements.run.lock

clean: ## remove what the other targets made
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

install: $(INSTALLED)

# Only wheels with a known hash: nothing is built from source, nothing is resolved anew.
$(INSTALLED): requirements.lock pyproject.toml
	@$(if $(PYTHON),,$(error no Python >= 3.11 found: install one, or say PYTHON=/path/to/python3))
	@rm -f $@
ifeq ($(UV),)
	@echo 'Making .venv with $(PYTHON): a minute or two, once'
	@$(PYTHON) -m venv --clear .venv \
		|| { echo 'Python lacks its venv module: install it (Debian: python3-venv), or uv'; exit 1; }
	@$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	@echo 'Making .venv with uv and $(PYTHON): once'
	@$(UV) venv --quiet --clear --python '$(PYTHON)' .venv
	@VIRTUAL_ENV=.venv $(UV) pip install --quiet --require-hashes --only-binary :all: -r requirements.lock
	@VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
endif
	@touch $@
