# Project commands. `make run` and `make test` need Python 3.11+, pip, make and git.

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(PYTHON) -I .ci/install.py
# What you set for other Pythons would hide packages of .venv, install them elsewhere, or compile
# every module again at each start.
unexport PYTHONDONTWRITEBYTECODE PYTHONHOME PYTHONPATH PYTHONWARNINGS PIP_CONSTRAINT PIP_DRY_RUN \
	PIP_EDITABLE PIP_NO_DEPS PIP_PREFIX PIP_PYTHON PIP_REQUIREMENT PIP_REQUIRE_HASHES PIP_ROOT PIP_TARGET
export PIP_USER := 0
.DEFAULT_GOAL := help
.PHONY: help run test coverage test-examples test-clients test-frameworks test-cluster lint format lock build native mutation bench migration clean

help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 17

run: .venv/service ## Start the service on HOST:PORT (127.0.0.1:8000)
	@$(BIN)/hourpass serve

test: .venv/dev debian-packages ## Run the tests, on SQLite and PostgreSQL (ARGS="tests/login -x")
	@$(BIN)/pytest -n auto --dist worksteal $(ARGS)

coverage: .venv/dev debian-packages ## Run the tests, and list the lines and branches that none of them runs
	@$(BIN)/pytest -n auto --dist worksteal --cov --cov-report=term-missing:skip-covered $(ARGS)

test-examples: .venv/dev .venv/examples/installed debian-packages ## Run the model servers and proxies of examples/
	@$(BIN)/pytest -n auto --dist loadfile tests/proxies/check_*.py tests/examples/check_*.py $(ARGS)

test-clients: .venv/dev .venv/clients/node_modules/.package-lock.json client-toolchains ## Generate clients from the OpenAPI document and try them (a minute)
	@$(BIN)/pytest -n 2 --dist loadfile tests/clients/check_*.py $(ARGS)

FRAMEWORKS := $(notdir $(patsubst %/,%,$(dir $(wildcard examples/frameworks/*/requirements.txt))))

test-frameworks: .venv/dev $(FRAMEWORKS:%=.venv/frameworks/%/installed) ## Run the recipes for serving frameworks (FRAMEWORKS="flask gradio")
	@$(BIN)/pytest tests/frameworks/check_frameworks.py $(ARGS)

test-cluster: .venv/dev cluster-packages ## Kill the primary of a PostgreSQL cluster under load (Debian, three minutes)
	@$(BIN)/pytest -o faulthandler_timeout=900 tests/cluster/check_failover.py $(ARGS)

lint: .venv/dev .venv/lint/installed ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@.venv/lint/bin/basedpyright --pythonpath $(BIN)/python

format: .venv/dev ## Mend what can be mended by machine
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: .venv/dev .venv/lint/installed ## Pin the newest allowed version of every dependency, with its hashes
	@.ci/lock

build: .venv/service ## Build the wheels and source archives of both packages in dist/
	@$(BIN)/python -m hatchling build
	@cd guard && ../$(BIN)/python -m hatchling build -d ../dist

native: .venv/service ## Compile the password hash for this machine's CPU: twice the logins (needs a C compiler)
	@sed -n '/^argon2-cffi-bindings==/,/[^\\]$$/p' requirements.txt | CFLAGS="-O3 -march=native" \
		$(BIN)/python -I -m pip install -q --disable-pip-version-check --force-reinstall --no-deps \
		--no-binary argon2-cffi-bindings --require-hashes -r /dev/stdin

mutation: .venv/dev debian-packages ## Run mutation tests: each small change to the code must make a test fail (ARGS="app/security/one_time_codes app/users")
	@$(BIN)/python -m tests.mutation $(ARGS)

bench: .venv/dev .venv/peers/installed ## Measure the service beside uvicorn alone, its own hash and its peers (ARGS=--quick)
	@$(BIN)/python -m benchmarks.run $(ARGS)

migration: .venv/dev ## Write a migration from the tables' changes: make migration NAME="what it does"
	@$(BIN)/alembic revision --autogenerate --rev-id $(shell printf %04d $$(($$(ls alembic/versions/*.py | wc -l) + 1))) -m "$(NAME)"

clean: ## Remove what was installed or made here, but no data
	@rm -rf .venv .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis dist

.PHONY: debian-packages client-toolchains cluster-packages
debian-packages:
	@.ci/install-debian-packages

client-toolchains:
	@.ci/install-debian-packages clients

cluster-packages:
	@.ci/install-debian-packages cluster

# A .venv that was moved, or whose Python is gone, is made again.
ifeq ($(shell grep -qsF "$$(pwd -P)/.venv/bin/" .venv/bin/hourpass && .venv/bin/python -I -c "" 2>/dev/null && echo works),)
.PHONY: .venv/service
endif
.venv/service: requirements.txt pyproject.toml guard/pyproject.toml
	@$(INSTALL) "Installing the service and its $$(grep -c == $<) dependencies in .venv (about half a minute)" \
		$@ $^ -- --require-hashes -r $< -- --no-deps --no-build-isolation -e guard -e .

.venv/dev: requirements-dev.txt .venv/service
	@$(INSTALL) "Installing the $$(grep -c == $<) packages for development in .venv (some minutes)" \
		$@ $^ -- --require-hashes -r $<

# Model servers and proxies, with a service for them. They take more room than all other packages.
.venv/examples/installed: requirements-examples.txt pyproject.toml guard/pyproject.toml
	@$(INSTALL) "Installing model servers and proxies in .venv/examples (about a minute)" \
		$@ $^ -- --require-hashes -r $< -- --no-deps --no-build-isolation -e guard -e .

# What an example needs besides the service, in the same versions as for the tests.
.venv/example_%: examples/%/requirements.txt .venv/service
	@$(INSTALL) "Installing the $$(grep -c == $<) packages of examples/$* in .venv" $@ $^ -- --require-hashes -r $<

.venv/lint/installed: requirements-lint.txt
	@$(INSTALL) "Installing the type checker and its Node.js in .venv/lint" $@ $^ -- --require-hashes -r $<

# The peers' packages in a place of their own: they need not agree with ours.
.venv/peers/installed: requirements-bench.txt
	@$(INSTALL) "Installing the peers and their dependencies in .venv/peers" $@ $^ -- --require-hashes -r $<

# Generators, linters and what the generated clients need. npm writes its marker last.
.venv/clients/installed: requirements-clients.txt
	@$(INSTALL) "Installing the client generators in .venv/clients (about a minute)" $@ $^ -- --require-hashes -r $<

.venv/clients/node_modules/.package-lock.json: tests/clients/package-lock.json .venv/clients/installed
	@cp tests/clients/package.json tests/clients/package-lock.json tests/clients/.npmrc .venv/clients
	@cd .venv/clients && PATH="$$PWD/bin:$$PATH" npm ci --silent
	@touch $@

# Each framework in an environment of its own, in its newest allowed version: a nightly run finds out
# when a recipe stops working.
.venv/frameworks/%/installed: examples/frameworks/%/requirements.txt guard/pyproject.toml
	@$(INSTALL) "Installing $* in .venv/frameworks/$* (up to some minutes)" $@ $^ -- -r $< -e guard
