# Every target sets up .venv first; PYTHON chooses the interpreter (3.11 or newer) that it is made with.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 5000
# Two files of tests at a time, in the order of tests/conftest.py.
PYTEST_OPTIONS = --numprocesses 2 --dist loadfile --no-loadscope-reorder
STUDY ?= quickstart
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose) \
	-p hypergrad-study -f docker/compose.yaml $(if $(GPUS),-f docker/compose.gpu.yaml)

.PHONY: study test test-unit test-lowest test-examples test-triton test-cluster test-chaos ui check docs bench clean cluster-up cluster-run cluster-ui cluster-down

study: .venv/.ready  ## run the main job on the embedded data and say where to look
	$(BIN)/hypergrad-study run quickstart

test: .venv/.ready  ## all tests but those of test-triton, test-cluster and test-chaos, two at a time: they often wait
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

test-unit: .venv/.ready  ## of these, those that need neither Ray nor a browser
	$(BIN)/python -m pytest $(PYTEST_OPTIONS) -m 'not (ray or browser or cluster or chaos or triton)'

test-lowest:  ## tests without a browser, with the lowest versions of all dependencies, in .venv-lowest*
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[dev]'
	.venv-lowest/bin/python -m pytest $(PYTEST_OPTIONS) -m 'not (browser or cluster or chaos or triton)'
	$(PYTHON) -m venv .venv-lowest-hypergrad
	.venv-lowest-hypergrad/bin/python -m pip install --quiet --constraint constraints-lowest-hypergrad.txt \
		--editable . numpy scikit-learn hypothesis pytest pytest-timeout pytest-xdist
	.venv-lowest-hypergrad/bin/python -m pytest $(PYTEST_OPTIONS) tests/hypergrad

test-examples: .venv/.ready  ## examples in Lightning, the HF Trainer, Accelerate, TensorBoard and W&B
	$(BIN)/python tools/install.py '.[examples,dev]'
	$(BIN)/python -m pytest tests/test_integrations.py

test-triton: .venv/.ready  ## all cases of the Triton kernels without a GPU: interpreted, and compiled ahead of time
	$(BIN)/python -m pytest -m triton tests/hypergrad

test-cluster: .venv/.ready  ## tests on a Docker engine and an SSH server, where they are
	$(BIN)/python tools/install.py '.[cluster,dev]'
	$(BIN)/python -m pytest -m cluster tests/cluster

test-chaos: .venv/.ready  ## a study under dozens of kills, over PostgreSQL
	$(BIN)/python tools/install.py '.[cluster,dev]'
	$(BIN)/python -m pytest -m chaos

ui: .venv/.ready  ## the MLflow UI over the studies under ./runs
	$(BIN)/hypergrad-study ui --port $(PORT)

check: .venv/.ready  ## lint, types (on Linux and on macOS), direction of imports, known vulnerabilities
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin
	$(BIN)/lint-imports
	.ci/audit

docs: .venv/.ready  ## the documentation as a site, in build/site
	$(BIN)/mkdocs build --strict --site-dir build/site

bench: .venv/.ready  ## ratios against a peer measured in the same run
	$(BIN)/python tests/benchmarks/iteration.py
	$(BIN)/python tests/benchmarks/step.py

cluster-up:  ## a Ray cluster with MLflow on this machine, in containers; WORKERS=4, GPUS=1
	docker/make-secrets
	$(COMPOSE) build
	$(COMPOSE) up -d

cluster-run:  ## run STUDY on it as a Ray job
	$(COMPOSE) exec -T ray-head ray job submit -- hypergrad-study run $(STUDY) --address auto

cluster-ui:  ## its MLflow UI
	@page=$$($(COMPOSE) exec -T ray-head hypergrad-study ui $(STUDY) --no-browser) && echo "$$page" && \
	  $(PYTHON) -m webbrowser "$$page"

cluster-down:  ## stop it; what was run is kept
	$(COMPOSE) down

.venv/.ready: pyproject.toml constraints.txt tools/install.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python tools/install.py '.[dev]'
	touch $@

clean:  ## remove what was set up and built; leaves runs/ alone
	rm -rf .venv .venv-lowest .venv-lowest-hypergrad build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
