WINDOWS := $(filter Windows_NT,$(OS))

# Everything runs in .venv, which the targets create from the pinned locks, with the Python of PYTHON.
PYTHON ?= $(if $(WINDOWS),python,python3)
VENV ?= .venv
# Processes that run tests in parallel; 0 runs all tests in one.
WORKERS ?= 2
# `make lock UPGRADE=1` takes the newest versions instead of those in the locks.
UPGRADE ?=

# The lab (lab/README.md): data to pack; minutes per session on a GPU, scale of the epochs, and folders.
DATA ?= archive
VOTES ?=
PACK ?= $(if $(wildcard faces.pack.npz),.,build/lab-pack)
WORK ?= build/lab-work
MINUTES ?= 9
SCALE ?= 1
OUT ?= $(WORK)/results

BIN := $(VENV)/$(if $(WINDOWS),Scripts,bin)
RUN := $(BIN)/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check
COMPILE := $(RUN) -m uv pip compile --quiet --universal --generate-hashes --python-version 3.10 \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	$(if $(UPGRADE),--upgrade)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo dev test docs fuzz lint format lock clean lab-test lab-pack lab-train

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.core ## install the core packages, and read two pictures
	@$(RUN) -m mien predict images/astronaut.jpg images/sample.png --annotate outputs --force

dev: $(VENV)/.dev ## install everything for training, tests and checks

test: $(VENV)/.dev ## run all tests (WORKERS=2 processes)
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile

docs: $(VENV)/.dev ## build the documentation site in build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict

lint: $(VENV)/.dev ## check style, types and the imports between packages
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(BIN)/lint-imports

# Modules of tests/fuzz; FUZZ=images runs one of them.
FUZZ ?= images data_set model recipe journal http_request

fuzz: $(VENV)/.dev ## feed damaged input, ten minutes per kind (FUZZ=images FUZZ_SECONDS=600)
	@for target in $(FUZZ); do PYTHONPATH=tests $(RUN) -m fuzz.$$target || exit 1; done

format: $(VENV)/.dev ## format the code and apply automatic fixes
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

lock: $(VENV)/.dev ## pin all dependencies after a change of pyproject.toml (UPGRADE=1: newest ones)
	$(COMPILE) pyproject.toml --extra train --extra app --extra video --extra batch --extra ray \
		--extra docs --extra notebook --extra excel --extra completion --extra dev --output-file locks/dev.txt
	$(COMPILE) pyproject.toml --constraint locks/dev.txt --output-file locks/core.txt
	$(COMPILE) --group build --constraint locks/dev.txt --output-file locks/build.txt

lab-test: $(VENV)/.dev ## run the tests of lab/, the tools for training the released models
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile lab/tests

lab-pack: $(VENV)/.dev ## pack data for make lab-train, which needs no network (DATA=archive VOTES=FILE)
	$(RUN) -m lab.gpu pack --data "$(DATA)" $(if $(VOTES),--votes "$(VOTES)") --output "$(PACK)"

# The GPU machine has no .venv: its own Python has torch, and the pack has the rest.
lab-train: ## train the released networks on one large GPU for MINUTES=9; repeat to continue
	@PYTHONPATH="src:$(PACK)/site" $(PYTHON) -m lab.gpu run --pack "$(PACK)" --work "$(WORK)" \
		--output "$(OUT)" --minutes $(MINUTES) --scale $(SCALE)

clean: ## remove the environment and all caches
	rm -rf "$(VENV)" .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "mien needs Python 3.10 or newer: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv "$(VENV)" \
		|| { rm -rf "$(VENV)"; echo "$(PYTHON) has no venv: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.core: $(VENV)/.python locks/core.txt locks/build.txt pyproject.toml
	@echo "installing into $(VENV) …" >&2
	@$(PIP) --require-hashes -r locks/core.txt -r locks/build.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.core locks/dev.txt
	@echo "installing into $(VENV): training, tests, checks …" >&2
	@$(PIP) --require-hashes -r locks/dev.txt
	@touch $@
