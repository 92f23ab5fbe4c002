# `make demo` and `make test` need Python 3.11+ and make; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
# An index for PyTorch alone, e.g. its public CPU index; empty: whatever pip is set up to use.
TORCH_INDEX ?=
HOME_DIR ?= rluf-demo
SEED ?= 0
SEEDS ?= 0 1 2
PROFILE ?= laptop
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo ui test test-all check format results bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; name one with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[train,test]'
	@touch $@

demo: install  ## simulate a production and run the whole graph: logs -> release decision
	$(BIN)/rluf demo --home $(HOME_DIR) --seed $(SEED) --profile $(PROFILE)

ui: install  ## the Dagster UI on the demo's lake
	$(BIN)/rluf ui --home $(HOME_DIR)

test: install  ## the fast tier: no daemons, no root
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

test-all: install  ## what `make test` leaves out: browser, two-process training, coverage of intervals
	$(BIN)/python -m pytest -m slow

check: install  ## lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: install  ## the README's table: the demo over several seeds (about six minutes each)
	$(BIN)/rluf results --home $(HOME_DIR)-results --seeds "$(SEEDS)" --output docs/results.md

bench: install
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
