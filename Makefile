PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := .venv-extras
BROWSER := chromium chromium-driver

.PHONY: demo test test-extras browser docs lint clean

demo: $(VENV)/.installed
	$(BIN)/python models/demo.py

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

# What needs an extra; an environment of its own, so that the plain one shows what works without.
test-extras: $(EXTRAS)/.installed browser
	$(EXTRAS)/bin/python -m pytest -n 2 tests/extras

# Debian's Chromium, for the tests of pages. Where it can't be installed, those tests fail and say so.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends $(BROWSER) >/dev/null; \
	else echo "the tests of pages need Chromium: apt-get install $(BROWSER)" >&2; fi

docs: $(VENV)/.installed-docs
	$(BIN)/python -m docs.build
	@echo "the pages are in build/docs/html"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@ $(VENV)/.installed

$(EXTRAS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(EXTRAS)
	$(EXTRAS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,dev-extras]'
	touch $@

clean:
	rm -rf $(VENV) $(EXTRAS) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
