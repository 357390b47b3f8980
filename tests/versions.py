"""What onnxruntime does differently in older versions that are supported all the same."""

from __future__ import annotations

import onnxruntime
import pytest

RUNTIME = tuple(map(int, onnxruntime.__version__.split(".")[:2]))


def since(major: int, minor: int, what: str) -> pytest.MarkDecorator:
    """Skip before that version of onnxruntime; older ones do `what`.

    Versions 1.23, 1.24 and 1.32 were looked at: 1.32 means that a change came somewhere after 1.24.
    """
    return pytest.mark.skipif((major, minor) > RUNTIME, reason=f"onnxruntime before {major}.{minor}: {what}")
