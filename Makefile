PYTHON ?= python3

.PHONY: check lint test fuzz bench bench-accuracy docs

check: lint  ## style, types and the fast tests: about a minute on two cores
	$(PYTHON) -m pytest -q -n auto -m "not slow"

lint:  ## style and types
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

test:  ## everything
	$(PYTHON) -m pytest -q -n auto

fuzz:  ## the property tests with new examples, many more than in `make test`: about half an hour
	ONNXQ_FUZZ=50 $(PYTHON) -m pytest -q -n auto tests/property

bench:  ## every model and peer side by side; writes benches/RESULTS.md
	$(PYTHON) -m benches.run

bench-accuracy:  ## labelled accuracy of every model with intervals; writes benches/ACCURACY.md, goes on where it was cut
	$(PYTHON) -m benches.labelled

docs:  ## the command line reference, from the commands themselves
	$(PYTHON) scripts/cli_reference.py
