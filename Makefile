# Every target works on a fresh clone: what it needs is put into .venv, and named where root must install it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Debian and Ubuntu have venv in a package of its own.
INSTALL_VENV = { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -qq -y python3-venv; } \
	|| { echo "no module venv here; as root: apt-get install python3-venv" >&2; exit 1; }

.PHONY: check test unit demo sandbox bench lock lock-check deb rpm release-check first-logins clean

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(INSTALL_VENV)
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

# Fails where what is locked lags behind packaging/advisories.toml.
lock-check: $(VENV)/.ready
	$(BIN)/python packaging/advisories.py

deb: $(VENV)/.ready
	$(BIN)/python packaging/build.py deb

# The Python that runs the agent where the rpms are installed.
RPM_PYTHON = python3.11

rpm: $(VENV)/.ready
	$(BIN)/python packaging/build.py rpm --python $(RPM_PYTHON)

# All of a release but the tests and the upload: RELEASING.md.
release-check: check lock-check
	$(BIN)/python packaging/release.py --rpm-python $(RPM_PYTHON)

PYTEST = $(BIN)/python -m pytest -n 4 --dist loadgroup --cov=eic_agent --cov-branch --cov-report=
# What decides about trust is tested branch by branch.
DECIDING = eic_agent/lookup/anchors.py,eic_agent/lookup/callers.py,eic_agent/lookup/certificates.py,eic_agent/lookup/clock.py,eic_agent/lookup/identity.py,eic_agent/lookup/judge.py,eic_agent/lookup/keyblock.py,eic_agent/lookup/memory.py,eic_agent/lookup/ocsp.py,eic_agent/lookup/policy.py,eic_agent/lookup/trust.py
COVERED = $(BIN)/coverage report --include=$(DECIDING) --fail-under=100 --show-missing

# What needs neither root nor a program that is not Python's.
UNIT = tests/test_*.py tests/configuration tests/lookup tests/metadata tests/repository tests/sshd

unit: $(VENV)/.ready
	$(PYTEST) $(UNIT)
	$(COVERED)

test: $(VENV)/.ready
	$(PYTEST)
	$(COVERED)

demo: $(VENV)/.ready
	@$(BIN)/python -m eic_sandbox.demo

sandbox: $(VENV)/.ready
	@$(BIN)/python -m eic_sandbox $(SANDBOX)

bench: $(VENV)/.ready
	@$(BIN)/python -m benchmarks

# The first logins of a machine with 5 % of a processor: ten after a boot, ten after the agent was killed.
first-logins: $(VENV)/.ready
	EIC_TEST_FIRST_LOGINS=10 $(BIN)/python -m pytest -n 0 -rA tests/machine/test_slow_machine.py

clean:
	rm -rf $(VENV) build dist
