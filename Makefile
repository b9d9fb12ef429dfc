# Needs only make and Python 3.11 or newer; nothing here needs root, a GPU or a prepared machine.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?= test
CONFIG ?= experiments/configs/digits.py

.PHONY: train test lint soak hostile

train: .venv/installed
	$(BIN)/python -m experiments.train --config=$(CONFIG) $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal --durations=10 $(ARGS)

soak: .venv/installed
	$(BIN)/python -m tests.faults.soak --kills=100 $(ARGS)

hostile: .venv/installed
	$(BIN)/python -m tests.faults.hostile --pictures=1000 --files=300 $(ARGS)

lint: .venv/linters
	.ci/lint

.venv/installed: pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	  { echo "error: $(PYTHON) is not Python 3.11 to 3.14; try make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

.venv/linters: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'mypy>=1.15,<3' 'ruff>=0.11,<1'
	@touch $@
