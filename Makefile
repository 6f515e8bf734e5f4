WINDOWS := $(filter Windows_NT,$(OS))

# Everything runs in .venv, which these targets make from the pinned locks; PYTHON is all they need.
PYTHON ?= $(if $(WINDOWS),python,python3)
VENV ?= .venv
# Processes that run the tests side by side; 0 runs them in one.
WORKERS ?= 2
# What `make lock UPGRADE=1` passes on: newest versions instead of the ones that are locked.
UPGRADE ?=

# The lab (lab/README.md): what is packed; how long a sitting on a GPU lasts, of how many epochs, and where.
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

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.core ## install what reading emotions takes, and read those of two pictures
	@$(RUN) -m mien predict images/astronaut.jpg images/sample.png --annotate outputs --force

dev: $(VENV)/.dev ## install what training, testing and checking take

test: $(VENV)/.dev ## run every test (WORKERS=2 side by side)
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile

docs: $(VENV)/.dev ## build the documentation as a site in build/site, strictly
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict

lint: $(VENV)/.dev ## check style, types and the walls between the rooms
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(BIN)/lint-imports

# Targets are the modules of tests/fuzz that are named here; FUZZ=images runs one of them.
FUZZ ?= images data_set model recipe journal http_request

fuzz: $(VENV)/.dev ## damage all that is read, ten minutes a kind (FUZZ=images FUZZ_SECONDS=600)
	@for target in $(FUZZ); do PYTHONPATH=tests $(RUN) -m fuzz.$$target || exit 1; done

format: $(VENV)/.dev ## lay the code out and mend what can be mended by machine
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

lock: $(VENV)/.dev ## pin every dependency anew after pyproject.toml changed (UPGRADE=1: newest ones)
	$(COMPILE) pyproject.toml --extra train --extra app --extra video --extra batch --extra ray \
		--extra docs --extra notebook --extra excel --extra completion --extra dev --output-file locks/dev.txt
	$(COMPILE) pyproject.toml --constraint locks/dev.txt --output-file locks/core.txt
	$(COMPILE) --group build --constraint locks/dev.txt --output-file locks/build.txt

lab-test: $(VENV)/.dev ## run the tests of lab/, what only makers of the released models need
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile lab/tests

lab-pack: $(VENV)/.dev ## pack for make lab-train on a machine without a network (DATA=archive VOTES=FILE)
	$(RUN) -m lab.gpu pack --data "$(DATA)" $(if $(VOTES),--votes "$(VOTES)") --output "$(PACK)"

# On the GPU's machine there is no .venv: its own Python holds torch, the pack brings the rest.
lab-train: ## train the released networks on one large GPU, MINUTES=9 at a time; again, to go on
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
