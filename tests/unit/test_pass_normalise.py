"""All float passes together: on every real model, and on onnx's own operator models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx.backend.test.case.node as node_cases
import pytest
from onnx import ModelProto

from onnxq.errors import OnnxqError
from onnxq.graph.model import load_graph
from onnxq.passes.simplify.normalise import normalise_float
from tests.graphs import computed
from tests.zoo import ZooModel, available

# Measured: the largest deviation on any real model is 3e-6 of the largest output (BatchNormalization folding rounds
# products in another order). A wrong fold is off by order 1.
_RTOL = 1e-4
# PP-OCR's detector ends in a sigmoid that is all but 0 where there is no text; there a fixed part of 1 counts.
_ATOL = 1e-6


@pytest.mark.parametrize("entry", available(), ids=lambda entry: entry.name)
def test_real_models_compute_the_same_and_come_to_rest(entry: ZooModel) -> None:
    graph = load_graph(str(entry.path()))
    feed = next(entry.held_out(1))
    before = computed(graph, feed)
    normalise_float().run(graph)
    for old, new in zip(before, computed(graph, feed), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=_ATOL + _RTOL * float(np.abs(old).max()))
    assert not normalise_float().run(graph).modified
    assert not {"Constant", "Identity", "Dropout"} & {node.op_type for node in graph.nodes}


def _cases() -> Iterator[tuple[ModelProto, list[Any]]]:
    for case in node_cases.collect_testcases(None):
        if case.model is not None and "random" not in case.name and "bernoulli" not in case.name:
            yield case.model, list(case.data_sets[0][0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # from onnx's own cases
def test_operator_models_of_onnx_compute_the_same() -> None:
    """1,884 models of onnx 1.23: none may raise anything but a typed error, and what changed must compute the same."""
    compared = 0
    for model, inputs in _cases():
        try:
            graph = load_graph(model)
        except OnnxqError:
            continue
        edits = normalise_float().run(graph).edits
        assert not normalise_float().run(graph).modified, model.graph.name
        if all("types or shapes" in edit.what for edit in edits):
            continue
        feeds = dict(zip((value.name for value in model.graph.input), inputs, strict=False))
        try:
            before = computed(load_graph(model), feeds)
        except Exception:  # an operator that this onnxruntime has not got
            continue
        compared += 1
        for old, new in zip(before, computed(graph, feeds), strict=True):
            assert old.dtype == new.dtype
            if old.dtype.kind == "f":
                # float16 is computed in float32 and rounded where onnxruntime puts its casts: 1 ulp.
                tolerance = 1e-3 if old.dtype == np.float16 else 1e-5
                np.testing.assert_allclose(new, old, rtol=tolerance, atol=tolerance, err_msg=model.graph.name)
            else:
                np.testing.assert_array_equal(new, old, err_msg=model.graph.name)
    assert compared > 100
