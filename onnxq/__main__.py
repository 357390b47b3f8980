"""`python -m onnxq`: the command line where the `onnxq` script is not on the path."""

from __future__ import annotations

from onnxq.cli.main import main

if __name__ == "__main__":
    main()
