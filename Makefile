# make train   set up, train configs/mlp.yaml on MNIST, and test it
# make test    set up, and run the tests
# make check   format, lint, types, import contract and tests; rewrites nothing
# make bench   set up, and time nnlab and its peers: about ten minutes; make bench ARGS=--quick, about two
# make setup   the environment in .venv alone

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := train
.PHONY: setup train test bench lint check clean

setup: .venv/ready

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("nnlab needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": name another with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,fast,export,dev]'
	@touch $@

train: setup
	$(BIN)/nnlab fit --config configs/mlp.yaml
	$(BIN)/nnlab test --config configs/mlp.yaml

test: setup
	@$(BIN)/python -m pytest --basetemp=.pytest_tmp --numprocesses=auto --dist=worksteal

bench: setup
	@$(BIN)/python -m benchmarks $(ARGS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

clean:
	rm -rf .venv build nnlab.egg-info .pytest_cache .pytest_tmp .hypothesis .mypy_cache .ruff_cache .import_linter_cache
