# Thin: the work is in scripts/setup.py and in the `vera` command.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint docs bench clean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

setup:  ## install everything into .venv (GPU=1: torch with CUDA; PYTHON=...: another Python)
	@command -v $(PYTHON) >/dev/null || \
	  { echo 'setup: there is no "$(PYTHON)" here; install Python 3.10 to 3.13'; exit 1; }
	@$(PYTHON) scripts/setup.py $(if $(filter 1,$(GPU)),--gpu)

demo: setup  ## start the robot, send it five goals in words, show what happened
	@$(RUN)/vera demo

test: setup  ## the tests, without the slow ones (ARGS=...: options of pytest)
	@$(RUN)/python scripts/run_tests.py -m 'not slow' $(ARGS)

lint: setup  ## ruff and mypy
	@$(RUN)/ruff check .
	@$(RUN)/mypy

docs: setup  ## the documentation, into build/docs/index.html
	@$(RUN)/python scripts/build_docs.py

bench: setup  ## frames lost and latency of the camera transport
	@$(RUN)/vera bench transport

clean:  ## remove the environment and all that was built; recordings in runs/ stay
	rm -rf $(VENV) build install log .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
