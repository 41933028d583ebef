# Project commands. `make run` and `make test` need Python 3.11+, pip, make and git.

PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help run test test-frameworks test-cluster lint format lock build native mutation bench migration clean

help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 17

run: .venv/service ## Start the service on HOST:PORT (127.0.0.1:8000)
	@$(BIN)/hourpass serve

test: .venv/dev debian-packages ## Run every test, on SQLite and PostgreSQL
	@$(BIN)/pytest -n auto --cov --cov-report=term-missing:skip-covered $(ARGS)

FRAMEWORKS := $(notdir $(patsubst %/,%,$(dir $(wildcard examples/frameworks/*/requirements.txt))))

test-frameworks: .venv/dev $(FRAMEWORKS:%=.venv/frameworks/%/installed) ## Run the recipes for serving frameworks (FRAMEWORKS="flask gradio")
	@$(BIN)/pytest tests/frameworks/check_frameworks.py $(ARGS)

test-cluster: .venv/dev cluster-packages ## Kill the primary of a PostgreSQL cluster under load (Debian, three minutes)
	@$(BIN)/pytest -o faulthandler_timeout=900 tests/cluster/check_failover.py $(ARGS)

lint: .venv/dev ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/basedpyright --pythonpath $(BIN)/python

format: .venv/dev ## Mend what can be mended by machine
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: .venv/dev ## Pin the newest allowed version of every dependency, with its hashes
	@.ci/lock

build: .venv/service ## Build the wheels and source archives of both packages in dist/
	@$(BIN)/python -m hatchling build
	@cd guard && ../$(BIN)/python -m hatchling build -d ../dist

native: .venv/service ## Compile the password hash for this machine's CPU: twice the logins (needs a C compiler)
	@sed -n '/^argon2-cffi-bindings==/,/[^\\]$$/p' requirements.txt | CFLAGS="-O3 -march=native" \
		$(BIN)/pip install -q --disable-pip-version-check --force-reinstall --no-deps \
		--no-binary argon2-cffi-bindings --require-hashes -r /dev/stdin

mutation: .venv/dev debian-packages ## Run mutation tests: each small change to the code must make a test fail (ARGS="app/security/one_time_codes app/users")
	@$(BIN)/python -m tests.mutation $(ARGS)

bench: .venv/bench ## Measure the service beside uvicorn alone, its own hash and its peers (ARGS=--quick)
	@$(BIN)/python -m benchmarks.run $(ARGS)

migration: .venv/dev ## Write a migration from the tables' changes: make migration NAME="what it does"
	@$(BIN)/alembic revision --autogenerate --rev-id $(shell printf %04d $$(($$(ls alembic/versions/*.py | wc -l) + 1))) -m "$(NAME)"

clean: ## Remove what was installed or made here, but no data
	@rm -rf .venv .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

.PHONY: debian-packages
debian-packages:
	@.ci/install-debian-packages

.PHONY: cluster-packages
cluster-packages:
	@.ci/install-debian-packages cluster

.venv/bin/python:
	@echo "Creating a virtual environment in .venv"
	@$(PYTHON) -m venv .venv

.venv/service: requirements.txt pyproject.toml guard/pyproject.toml | .venv/bin/python
	@echo "Installing the service and its $$(grep -c == $<) dependencies in .venv (about half a minute)"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e guard -e .
	@touch $@

.venv/dev: requirements-dev.txt .venv/service
	@echo "Installing the $$(grep -c == $<) packages for development in .venv (some minutes)"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# The peers' packages in a place of their own: they need not agree with ours.
.venv/bench: requirements-bench.txt .venv/dev
	@echo "Installing the peers and their dependencies in .venv/peers"
	@$(PYTHON) -m venv .venv/peers
	@.venv/peers/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements-bench.txt
	@touch $@

# Each framework in an environment of its own, in its newest allowed version: a nightly run finds out
# when a recipe stops working.
.venv/frameworks/%/installed: examples/frameworks/%/requirements.txt guard/pyproject.toml | .venv/bin/python
	@echo "Installing $* in .venv/frameworks/$* (up to some minutes)"
	@$(PYTHON) -m venv .venv/frameworks/$*
	@.venv/frameworks/$*/bin/pip install -q --disable-pip-version-check -r $< -e guard
	@touch $@
