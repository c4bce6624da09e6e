# Every target works on a fresh clone: what it needs is put into .venv, and named where root must install it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: check test unit demo sandbox bench lock deb rpm clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

check: $(VENV)/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy packaging/*.py

lock: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python packaging/lock.py

unit: $(VENV)/.ready
	$(BIN)/python -m pytest tests/unit

test: $(VENV)/.ready
	$(BIN)/python -m pytest

sandbox: $(VENV)/.ready
	@$(BIN)/python -m tests.sandbox

clean:
	rm -rf $(VENV) build dist
