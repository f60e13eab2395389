# Holdfast: every target sets up what it needs first.
.PHONY: help setup demo up down test lint bench soak clean
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
export HOLDFAST_PADDLE_PYTHON ?= $(CURDIR)/.venv-paddle/bin/python

help: ## what there is
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

setup: ## make the virtual environments, bring a broker (a second run does nothing)
	@packaging/setup.sh

demo: setup ## the main job: one device alone, then a fleet of three over a real broker; under two minutes
	@$(PYTHON) -m tests.demo

up: setup ## a fleet of three devices, in the background; .run/fleet.json says where everything is
	@$(PYTHON) -m tests.demo.up up

down: ## end the fleet that `make up` started
	@$(PYTHON) -m tests.demo.up down

test: setup lint ## all tests, with time and cases per family
	@$(PYTHON) -m pytest -q -n auto --maxprocesses 4 --dist loadfile

lint: setup ## ruff, ruff format and mypy --strict
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

bench: setup ## ratios against the bare engine and bare HTTP, and the figures of the line
	@$(PYTHON) -m tests.bench

soak: setup ## the fault campaigns of the tests with bigger numbers
	@HOLDFAST_SOAK=1 $(PYTHON) -m pytest -q -n auto --maxprocesses 4 --dist loadfile tests/faults tests/images tests/simulation

clean: ## remove the virtual environments, the broker and caches
	@rm -rf .venv .venv-paddle .venv-py37 .broker .strace .cache .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
