# Everything stays inside the clone: the environment in .venv, caches in .cache, runs in runs.
.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow check format bench clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export XDG_CACHE_HOME := $(CURDIR)/.cache
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export HF_HOME := $(CURDIR)/.cache/huggingface
export GROUNDUP_CACHE := $(CURDIR)/.cache/groundup
export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/.cache/inductor
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: $(VENV)/ready ## make .venv with the tested versions

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "groundup needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt "setuptools>=77" torch
	$(BIN)/pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	@touch $@

train: setup ## train the embedded digits recipe
	$(BIN)/groundup train digits

test: check ## the whole suite but the slow tests
	@mkdir -p .cache # pytest makes the last folder of --basetemp only
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --basetemp=.cache/pytest

test-slow: setup ## the slow tests: kill tests, memory, real CIFAR-100
	@mkdir -p .cache
	$(BIN)/python -m pytest -m slow --timeout 7200 --basetemp=.cache/pytest

check: setup ## ruff and mypy
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	MYPYPATH=src $(BIN)/mypy -p groundup
	MYPYPATH=src:bench $(BIN)/mypy bench/*.py

format: setup ## let ruff put everything into shape
	$(BIN)/ruff check --fix src tests bench
	$(BIN)/ruff format src tests bench

RESULTS ?= bench/results

bench: setup ## the short measurements of bench/ into bench/results: a quarter of an hour on two cores, no data needed
	$(BIN)/python bench/scale.py --check
	$(BIN)/python bench/start.py --out $(RESULTS)/start.json
	$(BIN)/python bench/trivial_augment.py --rounds 30 --out $(RESULTS)/trivial_augment.json
	$(BIN)/python bench/loop_cost.py digits --out $(RESULTS)/loop_cost-digits.json
	$(BIN)/python bench/notebook.py digits --out $(RESULTS)/notebook-digits.json
	$(BIN)/python bench/notebook.py cifar100-speed \
	  --generated 2048 --rounds 3 --images 2048 --out $(RESULTS)/notebook-speed_net.json
	$(BIN)/python bench/notebook.py cifar100-wrn28-10 model.depth=16 model.width=4 \
	  --generated 2048 --rounds 3 --images 512 --out $(RESULTS)/notebook-wrn-16-4.json
	$(BIN)/python bench/decode.py --rounds 5 --images 16 --out $(RESULTS)/decode-generated.json
	$(BIN)/python bench/growth.py --rounds 3 --epochs 30 --out $(RESULTS)/growth.json --picture $(if $(filter bench/results,$(RESULTS)),docs/pictures,$(RESULTS))/growth.png

clean: ## remove the environment and the caches; runs are kept
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache build dist
