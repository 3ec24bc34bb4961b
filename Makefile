# Everything runs in a virtual environment beside this file; nothing else on the machine is changed.
#
#   make PYTHON=/usr/bin/python3.12 VENV=.venv-3.12 test     another Python, in an environment of its own

VENV   ?= .venv
PYTHON ?=
DIST   ?= dist
TESTS  ?= tests

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test lint type check faults bench build docs clean

help: ## list the targets
	@echo 'Usage: make TARGET'
	@echo
	@sed -n 's/^\([a-z][a-z]*\):.*## \(.*\)$$/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "  %-8s %s\n", $$1, $$2}'
	@echo
	@echo 'Each of them first makes $(VENV), once. PYTHON=… names the Python for it (3.11 to 3.13).'

demo: $(STAMP) ## show the main job on an embedded database and model
	@$(BIN)/python tests/demo/run.py

test: $(STAMP) ## run the tests (TESTS=tests/db for some of them)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 $(TESTS)

lint: $(STAMP) ## check style, format and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(STAMP) ## check types
	$(BIN)/mypy

check: lint type test ## lint, type and test: what CI runs

faults: $(STAMP) ## kill every command at every statement, twice, and run it again (20 minutes)
	@FAULTS=all $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/online/test_killed.py

bench: $(STAMP) ## measure reindex against the service alone, changes beside traffic, search and verify (45 minutes)
	@$(BIN)/python tests/benchmarks/reindex.py --json bench.json
	@$(BIN)/python tests/benchmarks/scale.py
	@$(BIN)/python tests/benchmarks/online.py
	@$(BIN)/python tests/benchmarks/search.py

build: $(STAMP) ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --outdir $(DIST)

docs: $(STAMP) ## bring the README's command reference and examples up to date
	@$(BIN)/python tests/support/readme.py

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) $(DIST) build .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python is taken if it really runs (a pyenv shim may not), is of the right age and can make environments.
define FIND_PYTHON
usable() { "$$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }; \
python=; \
if [ -n '$(PYTHON)' ]; then \
	if usable '$(PYTHON)'; then python='$(PYTHON)'; fi; \
else \
	old_ifs=$$IFS; IFS=:; \
	for name in python3.13 python3.12 python3.11 python3; do \
		for folder in $$PATH; do \
			if [ -z "$$python" ] && [ -x "$$folder/$$name" ] && usable "$$folder/$$name"; then python=$$folder/$$name; fi; \
		done; \
	done; \
	IFS=$$old_ifs; \
fi; \
if [ -z "$$python" ]; then \
	echo 'error: $(if $(PYTHON),PYTHON=$(PYTHON) is no Python,no Python found in PATH) of version 3.11 to 3.13 with venv and ensurepip' >&2; \
	echo 'hint: install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12' >&2; \
	exit 1; \
fi
endef

$(STAMP): pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		$(FIND_PYTHON); \
		echo "Making $(VENV) with $$("$$python" --version) ($$python)"; \
		"$$python" -m venv --clear $(VENV); \
	fi
	@echo 'Installing toolbox and its tools into $(VENV); the first time this takes a minute'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
