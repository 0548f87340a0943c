# Two commands do everything on a machine with CPython 3.11+, make and git: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow verify lint ui schedule bench lock clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(BIN)/python -m flows.pretrain

# Tests take turns on two processes, as most of them wait for one that starts: by file, for what its tests share; slow ones one by one.
test: $(STAMP) lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

# The long forms of all promises, some hours: a table in reports/verify.md. NAMES="help leaks" tries some, NAMES=--list shows them.
verify: $(STAMP)
	$(BIN)/python -m tests.verify $(NAMES)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

ui: $(STAMP)
	$(BIN)/python -m infra.ui

schedule: $(STAMP)
	$(BIN)/python -m infra.schedule

# Side-by-side measurements into benchmarks/RESULTS.md; TEXT=FILE adds the time-to-quality race on that text.
bench: $(STAMP)
	@$(UV) -r benchmarks/requirements.lock || $(PIP) -r benchmarks/requirements.lock
	$(BIN)/python -m benchmarks $(if $(TEXT),--text $(TEXT))

# Exact versions that were tried together are installed from the lock; nothing is resolved again. uv takes seconds where pip takes
# minutes; torch goes through pip, which knows the machine's own builds of it, and so does everything if uv reaches no index.
# Bytecode is compiled once, on all cores; meanwhile Prefect makes the database of its embedded server.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, not {sys.version.split()[0]}; name it with PYTHON=")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing requirements.lock into $(VENV) (one to three minutes)"
	@$(PIP) $$(grep -E '^uv==' requirements.lock)
	@$(PIP) $$(grep -E '^torch==' requirements.lock)
	@$(UV) -r requirements.lock || $(PIP) -r requirements.lock
	@$(UV) --no-build-isolation -e .
	@PREFECT_SERVER_ANALYTICS_ENABLED=false $(BIN)/prefect server database upgrade -y >/dev/null 2>&1 & \
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null; wait
	@touch $@

# Resolve again after a change of pyproject.toml. A local torch build is written without its suffix, so that the lock installs anywhere.
lock: $(STAMP)
	printf 'torch==2.13.0\n' > $(VENV)/constraints.txt
	$(BIN)/pip-compile --quiet --upgrade --extra dev --extra ray --extra s3 --allow-unsafe --strip-extras --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-options --constraint $(VENV)/constraints.txt --output-file requirements.lock pyproject.toml
	sed -i 's/+cpu$$//' requirements.lock

# What runs leave beside the committed files; the environment and the DVC cache stay.
clean:
	rm -rf data/* models/* reports checkpoints spool mlflow.db* mlartifacts dvc_plots build .pytest_cache .ruff_cache .hypothesis
