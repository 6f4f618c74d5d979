# Needs Python 3.11 or newer, pip and make; nothing has to be activated, and no service has to run.
# PYTHON=python3.12 make install    another interpreter      PYTEST_ARGS="-k redis" make test    a part of the tests
# PYTEST_JOBS=8 make test           more files at a time; 0: one after the other, in this process. Tests wait for workers for
#                                   more than half of their time: 5 processes keep 2 cores busy, and 2 leave them half idle.
PYTHON ?= python3
PORT ?= 8000
PYTEST_ARGS ?=
PYTEST_JOBS ?= 5
BENCH_ARGS ?=
MATRIX_ARGS ?=
BROKER ?= redis
RESULTS_ARGS ?=
SOAK_ARGS ?=
TRIALS ?=

VENV := .venv
PY := $(VENV)/bin/python
RUNTIME := $(VENV)/.installed-runtime
DEVELOPMENT := $(VENV)/.installed-development
# The demo is about the embedded stack, whatever is set or running on the machine.
EMBEDDED := env -u REDIS_URL -u BROKER_URL -u DATABASE_URL -u BANK_URL -u BANK_DATABASE_URL -u SHOP_DATABASE_URL -u DJANGO_PRODUCTION
LOCK := $(PY) -m uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11

# Some distributions ship Python without ensurepip: then the system's pip installs into the venv from outside.
define PIP_INSTALL
	@if $(PY) -m pip --version >/dev/null 2>&1; then set -- $(PY) -m pip; else set -- "$(PYTHON)" -m pip --python $(PY); fi; \
	"$$@" install --quiet --disable-pip-version-check --no-input --require-hashes
endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help install install-dev demo up test lint matrix wheel bench results campaign soak transport-trials screenshots lock clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r target text; do printf '%-18s%s\n' "$$target" "$$text"; done

$(PY):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "$(PYTHON) is missing or older than 3.11; write PYTHON=/path/to/python3.11 make ..." >&2; exit 4; }
	@echo "Making $(VENV) ..." >&2
	@"$(PYTHON)" -m venv $(VENV) >/dev/null 2>&1 || { rm -rf $(VENV); "$(PYTHON)" -m venv --without-pip $(VENV); }

$(RUNTIME): requirements.txt | $(PY)
	@echo "Installing requirements.txt ..." >&2
	$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(DEVELOPMENT): requirements-dev.txt $(RUNTIME)
	@echo "Installing requirements-dev.txt ..." >&2
	$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

install: $(RUNTIME) ## Make .venv and install what runs, with exact versions and hashes

install-dev: $(DEVELOPMENT) ## The development tools too

demo: $(RUNTIME) ## Kill real workers under three patterns and on two brokers, and count the charges; about a minute
	@$(EMBEDDED) $(PY) manage.py migrate --noinput --verbosity 0
	@$(EMBEDDED) $(PY) manage.py migrate --noinput --verbosity 0 --database shop
	@$(EMBEDDED) $(PY) manage.py experiment --pattern acks_early --pattern acks_late --pattern dedup_lock \
		--fault none --fault kill-child --fault kill-main --tasks 100 --seed 1
	@echo
	@echo "The same kill of main, when it has fetched a job: Redis by Celery's stock transport, and by the reliable transport."
	@$(EMBEDDED) $(PY) manage.py experiment --pattern acks_late --fault kill-main --point fetched --broker redis reliable \
		--tasks 20 --kills 5 --seed 1
	@echo
	@echo "See every task ID: run \`make up\`, then open http://127.0.0.1:$(PORT)/admin/tasks_demo/ with the user and password it prints."

up: $(RUNTIME) ## Run it all: Redis, bank, worker, dashboard on http://127.0.0.1:8000/; Ctrl-C ends all
	@TASKS_DEMO_LAB_ENABLED=$${TASKS_DEMO_LAB_ENABLED:-1} exec $(PY) manage.py up --port $(PORT)

test: $(DEVELOPMENT) ## The whole test suite; no service needed. DATABASE_URL=postgres://... is honoured
	@$(PY) -m pytest -q -n $(PYTEST_JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(DEVELOPMENT) ## ruff, mypy (the example too), the import contracts, missing migrations
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@cd examples/bookshop && PYTHONPATH=../..:. MYPYPATH=../.. ../../$(PY) -m mypy -p bookshop -p orders
	@$(VENV)/bin/lint-imports
	@$(PY) manage.py makemigrations --check --dry-run

matrix: $(DEVELOPMENT) ## The core's tests on each supported Celery and Django; MATRIX_ARGS="celery5.5-django5.2 --python PATH"
	@$(PY) -m tests.matrix $(MATRIX_ARGS)

wheel: $(DEVELOPMENT) ## Build the wheel and run the example's own tests with it, in an environment of its own
	@$(PY) -m tests.wheel

bench: $(DEVELOPMENT) ## The ratios of the budget, measured side by side
	@$(PY) manage.py benchmark $(BENCH_ARGS)

results: $(DEVELOPMENT) ## Measure every pattern, control and library on BROKER (redis); write docs/results.md. About half an hour
	@$(EMBEDDED) $(PY) manage.py results --broker $(BROKER) $(RESULTS_ARGS)

campaign: $(DEVELOPMENT) ## 10,000 kills of main at all points of four patterns; resumed if interrupted; into docs/results.md. About an hour
	@$(EMBEDDED) $(PY) manage.py results --part campaign --seeds 25 --broker $(BROKER) $(RESULTS_ARGS)

soak: $(DEVELOPMENT) ## 1,000,000 jobs and 500 random kills of main under load; SOAK_ARGS="--pattern outbox --seeds 10"; resumed, on another day with SOAK_ARGS=--more; into docs/results.md. An hour or more
	@$(EMBEDDED) $(PY) manage.py results --part soak --seeds 50 --broker $(BROKER) $(SOAK_ARGS)

transport-trials: $(DEVELOPMENT) ## Kill, cut off and fail over what the reliable transport stands on; TRIALS="recovery host". About half an hour
	@$(EMBEDDED) $(PY) -m tests.integration.transport.trials $(TRIALS)

screenshots: $(DEVELOPMENT) ## Take the pictures of docs/images again, of a real run; needs chromium
	@SCREENSHOTS=docs/images $(PY) -m pytest -q tests/browser/test_screenshots.py

lock: $(DEVELOPMENT) ## Compile pyproject.toml and requirements*.in into requirements*.txt; keeps versions that still fit
	@$(LOCK) pyproject.toml --extra postgres --extra lab --extra metrics requirements.in --output-file requirements.txt
	@$(LOCK) requirements-dev.in --output-file requirements-dev.txt

clean: ## Remove .venv, .state and all caches
	@if [ -f .state/redis/redis.lock ] && [ -x $(PY) ] && ! $(PY) -c 'import fcntl; fcntl.flock(open(".state/redis/redis.lock"), fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then \
		echo "The embedded Redis of this folder is running; stop \`make up\` first. Nothing was removed." >&2; exit 4; fi
	@rm -rf $(VENV) .state staticfiles .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
