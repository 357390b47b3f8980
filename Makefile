PYTHON ?= python3

.PHONY: check lint test bench bench-latency docs

check: lint  ## style, types and the fast tests: about a minute on two cores
	$(PYTHON) -m pytest -q -n auto -m "not slow"

lint:  ## style and types
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

test:  ## everything
	$(PYTHON) -m pytest -q -n auto

bench:  ## every model and peer side by side, in benches/RESULTS.md
	$(PYTHON) -m benches.run

bench-latency:  ## float, onnxq and quantize_static under onnxruntime and OpenVINO, in benches/RESULTS.md
	$(PYTHON) -m benches.latency

docs:  ## the command line reference, from the commands themselves
	$(PYTHON) scripts/cli_reference.py
