# One command a need; `make` alone lists them. .ci/run calls the same.
PYTHON ?= python
PYTHON313 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python3.13) python3.13)
# What a change of drgate usually breaks; needs neither torch nor a browser.
QUICK := tests/certificate tests/gate/test_policy.py tests/gate/test_repository.py tests/stats $(addprefix tests/test_, \
	checklist.py compare.py evaluate.py layers.py looks.py manifest.py measure.py plan.py predictions.py project.py \
	record.py verify.py)

.DEFAULT_GOAL := help
.PHONY: help demo test quick coverage lint format types walls light light313 bench base release

help:      ## this list
	@sed -nE 's/^([a-z0-9]+): *## (.*)/make \1@\2/p' Makefile | while IFS=@ read -r name what; do printf '%-15s %s\n' "$$name" "$$what"; done

demo:      ## the whole way once, on synthetic photographs
	drgate demo

test:      ## all tests, on all cores, as in the README
	$(PYTHON) -m pytest -n auto

quick:     ## in under a minute, what a change of drgate usually breaks
	$(PYTHON) -m pytest -n auto $(QUICK)

coverage:  ## all tests, with the lines and branches that they miss
	$(PYTHON) -m pytest -n auto --cov --cov-report=term-missing:skip-covered

lint:      ## style and format
	ruff check .
	ruff format --check .

format:    ## put into format
	ruff check --fix .
	ruff format .

types:     ## static types: strict for the packages, less so for the tests
	mypy

walls:     ## who may import whom
	lint-imports

light:     ## install the light core alone, and let gate and verify work with it
	.ci/light python3

light313:  ## the same and the quick tests with Python 3.13, where the machine has it
	@if $(PYTHON313) -c pass 2>/dev/null; then .ci/light "$(PYTHON313)" $(QUICK); \
	else echo "Skipped: $(PYTHON313) is not on this machine."; fi

bench:     ## what is claimed about error rates and speed
	$(PYTHON) -m benchmarks --help

base:      ## pre-train the embedded base model again (about 20 minutes on two cores)
	$(PYTHON) -m trainer.pretrain --out drgate/vision/embedded_base

release:   ## cut the changelog, write the version, commit and tag: make release VERSION=0.2.0
	$(PYTHON) .ci/release.py "$(VERSION)"
