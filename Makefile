# One command a need. The same commands run in .ci/run.
PYTHON ?= python

.PHONY: demo test lint format types walls bench base

demo:    ## the whole way once, on synthetic photographs
	drgate demo

test:    ## all tests
	$(PYTHON) -m pytest

lint:    ## style and format
	ruff check .
	ruff format --check .

format:  ## put into format
	ruff check --fix .
	ruff format .

types:   ## static types
	mypy

walls:   ## who may import whom
	lint-imports

bench:   ## what is claimed about error rates and speed
	$(PYTHON) -m benchmarks --help

base:    ## pre-train the embedded base model again (about 20 minutes on two cores)
	$(PYTHON) -m trainer.pretrain --out drgate/vision/embedded_base
