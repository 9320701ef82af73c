# Names only: what each does stands in scripts/ or in the tool itself. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
SETUP := build/.setup$(if $(EXTRAS),-$(EXTRAS))
JOBS ?= 2

.PHONY: help setup demo test data soak train lint type format lock clean
.DEFAULT_GOAL := help

help:            ## list the targets
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: $(SETUP)  ## virtual environment with pinned packages; EXTRAS=train adds PyTorch

$(SETUP): requirements.lock requirements-train.txt pyproject.toml scripts/setup
	PYTHON=$(PYTHON) EXTRAS="$(EXTRAS)" scripts/setup
	@mkdir -p $(@D) && touch $@

demo: setup      ## the starter example, end to end, into build/demo
	scripts/demo

test: setup      ## the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow and not (data and cosim)" tests

data: setup      ## simulations of the real data sets, where they are beside the checkout
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow and data and cosim" tests

soak: setup      ## the long-running tests
	$(BIN)/python -m pytest -n $(JOBS) -x -m slow tests

train: setup     ## the tests that need PyTorch, after `make setup EXTRAS=train`
	$(BIN)/python -m pytest -m train tests

lint: setup      ## style, layers, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/codespell

type: setup      ## types
	$(BIN)/mypy

format: setup    ## rewrite the sources in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:            ## pin the newest versions of all dependencies
	$(BIN)/pip-compile -q --extra dev --strip-extras --no-emit-index-url --no-emit-trusted-host \
	  --no-emit-find-links --generate-hashes --allow-unsafe -o requirements.lock pyproject.toml

clean:           ## remove what was built
	rm -rf build .venv
