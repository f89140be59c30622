ifeq ($(OS),Windows_NT)
$(error make needs a POSIX system here, such as WSL. Without one: py -m venv .venv, then .venv\Scripts\python -m pip install --constraint constraints.txt --editable .[fast], and .venv\Scripts\nnlab is the command)
endif

PYTHON ?= python3
BIN := .venv/bin
EXTRAS := bench,data,fast,export,dev
PYTEST := -m pytest --basetemp=.pytest_tmp --numprocesses=auto --dist=worksteal

.DEFAULT_GOAL := train
.PHONY: help setup train test test-cuda-pretended test-slow test-oldest test-newest bench lint check build test-wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/ready  ## the environment in .venv, with the versions of constraints.txt

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("nnlab needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": name another with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@$(BIN)/python -c 'import sys; from nnlab.versions import torchvision_problem; sys.exit(torchvision_problem())'
	@touch $@

train: setup  ## train configs/mlp.yaml on MNIST, and test it
	$(BIN)/nnlab fit --config configs/mlp.yaml
	$(BIN)/nnlab test --config configs/mlp.yaml

test: setup  ## every test that is not marked slow
	@$(BIN)/python $(PYTEST) -m "not slow"

test-cuda-pretended: setup  ## the tests of CUDA, in float32, on a device that is pretended
	@$(BIN)/python $(PYTEST) -p tests.pretended -m "cuda and not slow" -k "not float64"

test-slow: setup  ## the tests that are marked slow, and all tests of CUDA on a device that is pretended
	@$(BIN)/python $(PYTEST) -p tests.pretended -m "cuda"
	@$(BIN)/python $(PYTEST) -m slow

test-oldest: .venv-oldest/ready  ## make test on Python 3.11 and the oldest versions that pyproject.toml allows
	@.venv-oldest/bin/python $(PYTEST) -m "not slow"

.venv-oldest/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info[:2] == (3, 11) or sys.exit("make test-oldest needs Python 3.11, this is " + sys.version.split()[0] + ": name one with make test-oldest PYTHON=python3.11")'
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest --resolution lowest-direct --editable '.[$(EXTRAS)]'
	@touch $@

test-newest: .venv-newest/ready  ## make test on the newest versions there are, upper bounds lifted; may fail
	@.venv-newest/bin/python $(PYTEST) -m "not slow"

.venv-newest/ready: pyproject.toml
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check uv
	sed -n 's/^ *"\([^"<>]*\)>=[^"]*,<[^"]*",$$/\1/p' pyproject.toml > .venv-newest/unbounded.txt
	.venv-newest/bin/uv pip install --quiet --python .venv-newest --overrides .venv-newest/unbounded.txt --editable '.[$(EXTRAS)]'
	@touch $@

bench: setup  ## time nnlab and its peers, about ten minutes; make bench ARGS=--quick, about two
	@$(BIN)/python -m benchmarks $(ARGS)

lint: setup  ## format, lint, types and the import contract; rewrites nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## lint and test: what must pass before a change is made

build: setup  ## the wheel, in dist
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

test-wheel: build  ## the commands of a newcomer, from the wheel and in an empty folder
	rm -rf build && mkdir -p build/empty
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/wheel dist/nnlab-*.whl
	cd build/empty && for arguments in 'fit --config smoke' 'test --config smoke' 'trace --example chapter' check; do \
		PYTHONPATH=../wheel ../../$(BIN)/python -m nnlab $$arguments || exit; done

clean:  ## remove the environments, and all that tools leave behind
	rm -rf .venv .venv-oldest .venv-newest build dist .pytest_cache .pytest_tmp .hypothesis .mypy_cache .ruff_cache .import_linter_cache
