# Every target sets up .venv first; PYTHON chooses the interpreter (3.11 or newer) that it is made with.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 5000

.PHONY: study test ui check bench clean

study: .venv/.ready  ## run the main job on the embedded data and say where to look
	$(BIN)/hypergrad-study run quickstart

test: .venv/.ready  ## all tests
	$(BIN)/python -m pytest

ui: .venv/.ready  ## the MLflow UI over the studies under ./runs
	$(BIN)/hypergrad-study ui --port $(PORT)

check: .venv/.ready  ## lint and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/.ready  ## ratios against a peer measured in the same run
	$(BIN)/python tests/benchmarks/iteration.py

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## remove what was set up and built; leaves runs/ alone
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
