.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: help demo test lint bench fuzz clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.installed: pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Flawline needs Python 3.11 or newer; 'python3' is older. Put a newer one first on PATH."; exit 1; }
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable '.[train,serve,bench,dev]'
	@touch $@

demo: $(VENV)/.installed  ## generate a sample line, train it, serve it on Triton, inspect it: out/demo/report.html
	$(PY) -m flawline.demo --out out/demo

test: $(VENV)/.installed  ## run the whole test suite, the real server included
	$(PY) -m pytest

lint: $(VENV)/.installed  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(VENV)/.installed  ## bounded load tests: benchmarks/results/speed.json
	$(PY) benchmarks/speed.py

fuzz: $(VENV)/.installed  ## ten minutes of bad requests to a real server: benchmarks/results/faults.json
	$(PY) benchmarks/faults.py

clean:  ## remove the environments and everything generated
	rm -rf $(VENV) .venv-peer out
