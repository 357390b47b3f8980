"""Operators that a newer opset writes or reads otherwise: what comes out computes what the model computed, run both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.errors import UnsupportedModelError
from onnxq.graph.model import load_graph
from onnxq.graph.opset import upgrade_opset
from tests.graphs import computed, graph_of, model_of, normal, ops, random_feeds

MATRICES = "(float[2,4,6] x) => (float[a,b,c] y)"
IMAGE = "(float[2,4,7,9] x) => (float[a,b,c,d] y)"


def scales(*values: float) -> dict[str, Any]:
    return {"s": np.array([1, 1, *values], np.float32)}


FORMS = [
    *((opset, f"{MATRICES} {{ y = {op}<axis={axis}>(x) }}", {})
      for op in ("Hardmax", "Softmax", "LogSoftmax") for opset in (7, 12) for axis in (0, 1, 2)),
    (11, f"{MATRICES} {{ y = Hardmax<axis=-2>(x) }}", {}),
    (11, f"{MATRICES} {{ y = Hardmax(x) }}", {}),
    (7, f'{IMAGE} {{ y = Upsample<mode="linear", scales=[1.0,1.0,2.0,1.5]>(x) }}', {}),
    (8, f"{IMAGE} {{ y = Upsample<scales=[1.0,1.0,1.6,2.3]>(x) }}", {}),
    (9, f'{IMAGE} {{ y = Upsample<mode="linear">(x, s) }}', scales(2, 3)),
    (10, f'{IMAGE} {{ y = Resize<mode="linear">(x, s) }}', scales(1.6, 0.6)),
    (10, f"{IMAGE} {{ y = Resize(x, s) }}", scales(1.6, 2.3)),
    (10, f"{IMAGE} {{ y = Resize(x, s) }}", scales(0.6, 1)),
    (10, f"{IMAGE} {{ y = Resize(x, s) }}", scales(1.6, 0.5)),
    (10, f"{IMAGE} {{ n = Shape(x) f = Cast<to=1>(n) e = Div(f, f) z = Mul(e, s) y = Resize(x, z) }}", scales(1.6, 3)),
    *((7, f'{IMAGE} {{ y = Pad<mode="{mode}", value=1.5, pads=[0,0,1,2,0,0,3,1]>(x) }}', {})
      for mode in ("constant", "reflect", "edge")),
    (9, f"{MATRICES} {{ y = Slice<starts=[1,-3],ends=[3,1000]>(x) }}", {}),
    (7, f"{MATRICES} {{ y = ReduceMax<axes=[1]>(x) }}", {}),
    (7, f"{MATRICES} {{ p, q = Split<axis=2>(x) y = Sub(p, q) }}", {}),
    (9, f"{MATRICES} {{ y, i = TopK<k=3>(x) }}", {}),
]  # fmt: skip


@pytest.mark.parametrize("minimum", [13, 21])
@pytest.mark.parametrize(("opset", "text", "constants"), FORMS, ids=str)
def test_what_is_computed_stays(opset: int, text: str, constants: dict[str, Any], minimum: int) -> None:
    """Relabelled, elements of a Resize are off by a part of their difference, and other elements are the largest."""
    graph = graph_of(text, opset=opset, **constants)
    new = upgrade_opset(graph, minimum)
    assert new.opset == minimum
    feeds = random_feeds(graph)
    # Softmax is a quotient of sums, which may be added in another order.
    np.testing.assert_allclose(computed(new, feeds)[0], computed(graph, feeds)[0], rtol=1e-5, atol=1e-6)


def test_a_resize_that_has_no_equal() -> None:
    graph = graph_of(f"{IMAGE} {{ y = Resize(x, s) }}", opset=10, **scales(1.6, 0.6))
    with pytest.raises(UnsupportedModelError, match=r"enlarges one axis and shrinks another \(scales \[1.0, 1.0, 1.6"):
        upgrade_opset(graph, 13)


@pytest.mark.parametrize(
    ("opset", "text", "reason"),
    [
        (
            8,
            """(float[1,5,6] x) => (float[1,5,6] y) { y = Scan<num_scan_inputs=1,
                body = b (float[6] u) => (float[6] v) { v = Neg(u) }>("", x) }""",
            "before opset 9 Scan has a batch axis of its own, which cannot be converted from opset 8 to 13",
        ),
        (
            7,
            "(float[4] x) => (float[4] y, float[4] z) { y, m = Dropout(x) z = Neg(m) }",
            "before opset 10 the mask of Dropout holds numbers, which cannot be converted from opset 7 to 13",
        ),
    ],
)
def test_what_has_no_conversion(opset: int, text: str, reason: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"{reason}\nHint: export the model with opset 13 or newer"):
        upgrade_opset(graph_of(text, opset=opset), 13)


def test_a_mask_that_nobody_reads_is_no_hindrance() -> None:
    graph = graph_of("(float[4] x) => (float[4] y) { y, m = Dropout(x) }", opset=7)
    assert upgrade_opset(graph, 13).opset == 13


def test_boxes_in_bodies_are_not_shifted() -> None:
    """What RoiAlign says nothing of changed with opset 16: a body that has one is converted."""
    text = """(float[1,4,7,9] x, bool k) => (float[a,b,c,d] y) { y = If (k) <
        then_branch = p () => (float[2,4,1,1] t) { t = RoiAlign(x, boxes, which) },
        else_branch = q () => (float[2,4,1,1] e) { r = RoiAlign(x, boxes, which) e = Neg(r) }> }"""
    boxes = np.array([[0, 0, 5, 6], [1, 1, 7, 7]], np.float32)
    graph = graph_of(text, opset=11, boxes=boxes, which=np.array([0, 0]))
    new = upgrade_opset(graph, 19)
    for taken in (True, False):
        feeds = {"x": normal(1, 4, 7, 9), "k": np.array(taken)}
        np.testing.assert_allclose(computed(new, feeds)[0], computed(graph, feeds)[0], rtol=1e-5)


@pytest.mark.parametrize("recover", ["none", "best"])
@pytest.mark.parametrize("opset", [8, 12])
def test_normalization_in_training_mode(opset: int, recover: str) -> None:
    """Before opset 14 outputs for statistics say that it goes by those of the batch, as torch exports it in train()."""
    text = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        c = Conv<pads=[1,1,1,1]>(x, w) y, a, b, p, q = BatchNormalization(c, s, t, m, v) }"""
    model = model_of(
        text, opset=opset, w=normal(16, 16, 3, 3) / 12, s=abs(normal(16)), t=normal(16), m=normal(16), v=abs(normal(16))
    )
    result = onnxq.quantize(model, [{"x": normal(2, 16, 8, 8)}] * 2, target="ort-x64-vnni", recover=recover)
    assert ops(load_graph(result.model))["BatchNormalization"] == 1
    assert (
        result.report.outputs[0].sqnr_db > 12
    )  # with the statistics of the training it has 3 dB, and one scale serves all channels
