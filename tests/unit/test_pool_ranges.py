"""Means near 0 of values that are not: a scale as fine as they are is one that onnxruntime refuses to run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.calibration.pool_ranges import with_pooled_ranges
from onnxq.graph.shapes import infer_shapes
from onnxq.numerics.qparams import Range
from onnxq.planning.options import PlanOptions
from tests.graphs import graph_of, model_of, normal
from tests.planned import planned

POOL = """(float[N,16,8,8] x) => (float[N,4] y) { c = Conv(x, v) g = GlobalAveragePool(c) f = Flatten(g)
    y = Gemm(f, u, b) }"""
CONSTANTS: dict[str, Any] = {"v": normal(16, 16, 1, 1) / 4, "u": normal(16, 4), "b": normal(4)}


@pytest.mark.parametrize("size", ["8,8", "H,W"])
@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2"])
def test_the_model_runs(target: str, size: str) -> None:
    text = (
        POOL.replace("8,8", size)
        .replace("Conv(x, v)", "Conv(i, v)")
        .replace("{", "{ i = InstanceNormalization(x, s, o)")
    )
    model = model_of(text, **CONSTANTS, s=np.ones(16, np.float32), o=np.zeros(16, np.float32))
    data = [{"x": normal(2, 16, 8, 8, seed=seed)} for seed in range(8)]
    report = onnxq.quantize(model, data, target=target, placement="full", recover="none", method="max").report
    assert report.failed_checks == ()
    assert report.engine is not None
    assert {node.precision.value for node in report.engine.nodes if node.op == "GlobalAveragePool"} == {"int8"}


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [
        (-0.01, 0.02, (-0.01, 0.02)),  # far coarser than the kernel's limit: left alone
        (-1e-9, 1e-9, (-1e-9, 8.0 / 6400)),
        (0.0, 0.0, (0.0, 8.0 / 6400)),
        (-1e-9, 0.0, (-8.0 / 6400, 0.0)),  # what is never positive stays so
    ],
)
def test_ranges(low: float, high: float, ends: tuple[float, float]) -> None:
    """Of means of 64 values whose range is 8 wide."""
    plan = planned(POOL, options=PlanOptions(placement="full"), **CONSTANTS)
    given = {"x": Range.of(-1.0, 1.0), "c": Range.of(-4.0, 4.0), "g": Range.of(low, high), "y": Range.of(-1.0, 1.0)}
    graph = graph_of(POOL, **CONSTANTS)
    infer_shapes(graph)
    found = with_pooled_ranges(graph, plan, given)
    # float32, and 1e-9 beside it.
    assert (float(found["g"].rmin), float(found["g"].rmax)) == pytest.approx(ends, rel=1e-5)
    assert {name: one for name, one in found.items() if name != "g"} == {n: o for n, o in given.items() if n != "g"}
