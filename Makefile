PYTHON ?= python3

.PHONY: check test bench

check:  ## style, types and the fast tests: about a minute
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q -n auto -m "not slow"

test:  ## everything
	$(PYTHON) -m pytest -q -n auto

bench:  ## every model and peer side by side; writes benches/RESULTS.md
	$(PYTHON) -m benches.run
