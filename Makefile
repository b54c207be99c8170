# Set-up, demo and tests; each target makes .venv first if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ORACLES := $(VENV)/.oracles
# LXT wants transformers < 5, so that it gets a folder of its own
LXT := lxt 'transformers<5' 'huggingface-hub<1' 'tokenizers<0.23' regex requests urllib3 certifi idna charset-normalizer
EXTRAS := test,lint,medmnist,onnx

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-oracles test-all browser lint format clean

help:
	@echo "make demo       train a small network on drawn radiographs, halve it, write the report (minutes)"
	@echo "make test       ruff, mypy, and the tests that take seconds"
	@echo "make test-all   the slow tests too"
	@echo "make test-oracles   compare with captum, zennit, Quantus and LXT, which it installs"
	@echo "make browser    get Playwright and Chromium, for the test of the report in a real browser"
	@echo "make lint       ruff and mypy alone;  make format mends what ruff can"
	@echo "make clean      remove .venv and caches"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (minutes, once)"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

demo: $(READY)
	@$(BIN)/debride demo

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: lint
	@$(BIN)/python -m pytest -q -m "not slow"

test-slow: $(READY)
	@$(BIN)/python -m pytest -q -m slow --ignore=tests/oracles

# as root on Debian the system's browser, else the one that Playwright brings
browser: $(READY)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[browser]'
	@if command -v chromium >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif command -v apt-get >/dev/null && test "$$(id -u)" = 0; then \
	  echo "installing Debian's Chromium"; export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq >/dev/null; \
	  apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	else $(BIN)/playwright install chromium; fi \
	  || echo "no browser could be installed: its test will be skipped" >&2

$(ORACLES): $(READY)
	@echo "installing the oracles: captum, zennit, Quantus, and LXT apart"
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[oracles]'
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-deps \
	  --upgrade --target $(VENV)/lxt $(LXT) \
	  || echo "LXT could not be installed: its test will be skipped" >&2
	@touch $@

test-oracles: $(ORACLES)
	@$(BIN)/python -m pytest -q tests/oracles

test-all: test test-slow test-oracles

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
