PYTHON ?= python3
PYTHON310 ?=

.PHONY: check lint test test-min conformance fuzz bench bench-accuracy bench-choices bench-latency bench-modes docs site

check: lint  ## style, types and the fast tests: about a minute on two cores
	$(PYTHON) -m pytest -q -n auto --dist loadgroup -m "not slow"

lint:  ## style and types
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

test:  ## everything
	$(PYTHON) -m pytest -q -n auto --dist loadgroup

fuzz:  ## the property tests with new examples, many more than in `make test`: about half an hour
	ONNXQ_FUZZ=50 $(PYTHON) -m pytest -q -n auto tests/property

test-min:  ## the fast tests on the oldest supported versions of everything, Python 3.10 (PYTHON310=, else what is found)
	PYTHON=$(PYTHON310) sh scripts/test_min.sh

conformance:  ## the models of onnx's backend tests; writes docs/conformance.md
	$(PYTHON) -m tests.conformance

bench:  ## every model and peer side by side, and the solvers; writes benches/RESULTS.md
	$(PYTHON) -m benches.run
	$(PYTHON) -m benches.solvers

bench-accuracy:  ## labelled accuracy of every model with intervals; writes benches/ACCURACY.md, goes on where it was cut
	$(PYTHON) -m benches.labelled

bench-choices:  ## every method and every recovery step beside each other, in benches/RESULTS.md
	$(PYTHON) -m benches.choices

bench-latency:  ## float, onnxq and quantize_static under onnxruntime and OpenVINO, in benches/RESULTS.md
	$(PYTHON) -m benches.latency

bench-modes:  ## dynamic and weight-only quantization beside onnxruntime's, in benches/RESULTS.md
	$(PYTHON) -m benches.dynamic
	$(PYTHON) -m benches.weight_only
	$(PYTHON) -m benches.language_model

docs:  ## the references of the command line and of Python, from the code itself
	$(PYTHON) scripts/cli_reference.py
	$(PYTHON) scripts/api_reference.py

site:  ## the documentation as a site, in build/site (extra `docs`); its search needs a server: python3 -m http.server -d build/site
	$(PYTHON) -m mkdocs build --strict --quiet
