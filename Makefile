PYTHON ?= python3

.PHONY: check lint test bench bench-accuracy docs

check: lint  ## style, types and the fast tests: about a minute on two cores
	$(PYTHON) -m pytest -q -n auto -m "not slow"

lint:  ## style and types
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

test:  ## everything
	$(PYTHON) -m pytest -q -n auto

bench:  ## every model and peer side by side; writes benches/RESULTS.md
	$(PYTHON) -m benches.run

bench-accuracy:  ## labelled accuracy of every model with intervals; writes benches/ACCURACY.md, goes on where it was cut
	$(PYTHON) -m benches.labelled

docs:  ## the command line reference, from the commands themselves
	$(PYTHON) scripts/cli_reference.py
