"""Products of codes that onnxruntime before 1.25 computes wrong on CPUs with AMX, and those that saturate on AVX2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxq
from onnxq.graph.view import Graph
from onnxq.targets import TARGETS
from onnxq.verification.agreement import Stretch
from onnxq.verification.engines import ort_products
from onnxq.verification.engines.onnxruntime import executed_precision
from tests.graphs import model_of, normal
from tests.versions import RUNTIME

CHECK = "engine multiplies codes right"


@pytest.fixture
def wrong_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine where they come out wrong, as far as onnxq can tell."""
    monkeypatch.setattr(ort_products, "multiplies_codes_right", lambda: False)
    return


def found(text: str, **constants: object) -> str | None:
    """What the check of a model says; None where there is none."""
    model = model_of(text, **constants)
    shape = [d.dim_value or 40 for d in model.graph.input[0].type.tensor_type.shape.dim]
    result = onnxq.quantize(model, [{"x": normal(*shape)}] * 2, target="ort-x64-vnni", placement="full", recover="none")
    return next((c.detail for c in result.report.checks if c.name == CHECK), None)


def test_newer_versions_multiply_right() -> None:
    if RUNTIME < (1, 25):
        pytest.skip("older versions do where the CPU has no AMX")
    assert ort_products.multiplies_codes_right()


def saturating(left: NDArray[np.uint8], right: NDArray[np.int8], zero_point: np.uint8) -> NDArray[np.int32]:
    """(left - zero_point) @ right, two products at a time added in 16 bits, as AVX2 does."""
    products = left.astype(np.int32)[:, :, None] * right.astype(np.int32)[None]
    pairs = np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1)
    found: NDArray[np.int32] = pairs.sum(axis=1) - int(zero_point) * right.astype(np.int32).sum(axis=0)
    return found


def exact(left: NDArray[np.uint8], right: NDArray[np.int8], zero_point: np.uint8) -> NDArray[np.int32]:
    """(left - zero_point) @ right."""
    found: NDArray[np.int32] = (left.astype(np.int32) - int(zero_point)) @ right.astype(np.int32)
    return found


@pytest.mark.parametrize(("product", "expected"), [(saturating, True), (exact, False)])
def test_saturation_is_told_from_wrong_products(monkeypatch: pytest.MonkeyPatch, product: Any, expected: bool) -> None:
    monkeypatch.setattr(ort_products, "_product", product)
    assert ort_products.multiplies_codes_right.__wrapped__()
    assert ort_products.saturates.__wrapped__() is expected


def test_leftovers_are_wrong_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_leftovers(left: NDArray[np.uint8], right: NDArray[np.int8], zero_point: np.uint8) -> NDArray[np.int32]:
        product = exact(left, right, zero_point)
        product[31, -1] += 5
        return product

    monkeypatch.setattr(ort_products, "_product", with_leftovers)
    assert not ort_products.multiplies_codes_right.__wrapped__()


@pytest.mark.parametrize("saturates", [True, False])
@pytest.mark.parametrize(
    ("target", "same"), [("ort-x64-vnni", False), ("ort-arm64", False), ("ort-x64-avx2", True), ("tensorrt", None)]
)
def test_targets_whose_kernels_this_cpu_has(
    monkeypatch: pytest.MonkeyPatch, saturates: bool, target: str, same: bool | None
) -> None:
    monkeypatch.setattr(ort_products, "saturates", lambda: saturates)
    expected = same is not None and (same or not saturates)
    assert ort_products.has_kernels_of(TARGETS[target]) is expected


@pytest.mark.usefixtures("wrong_products")
@pytest.mark.parametrize("columns", [17, 24, 31, 56, 88])
@pytest.mark.parametrize("rows", ["32", "N"])
def test_sizes_that_come_out_wrong_are_named(rows: str, columns: int) -> None:
    text = f"(float[{rows},40] x) => (float[{rows},{columns}] y) {{ y = MatMul(x, w) }}"
    detail = found(text, w=normal(40, columns))
    assert detail is not None
    assert "the model itself is right: 1 node, MatMul 'MatMul_y'; upgrade onnxruntime, or keep them in float" in detail


@pytest.mark.usefixtures("wrong_products")
@pytest.mark.parametrize(("rows", "columns"), [("31", 24), ("64", 16), ("64", 32), ("N", 48), ("N", 10)])
def test_other_sizes_are_none_of_its_business(rows: str, columns: int) -> None:
    assert (
        found(f"(float[{rows},40] x) => (float[{rows},{columns}] y) {{ y = MatMul(x, w) }}", w=normal(40, columns))
        is None
    )


@pytest.mark.usefixtures("wrong_products")
def test_rows_of_a_batch_count_together_where_one_matrix_multiplies_them() -> None:
    assert found("(float[4,8,40] x) => (float[4,8,24] y) { y = MatMul(x, w) }", w=normal(40, 24)) is not None
    assert found("(float[4,8,40] x) => (float[4,8,24] y) { y = MatMul(x, w) }", w=normal(4, 40, 24)) is None


@pytest.mark.usefixtures("wrong_products")
@pytest.mark.parametrize("agrees", [True, False])
def test_a_conv_is_named_only_where_something_came_out_wrong(agrees: bool) -> None:
    model = model_of("(float[1,4,12,12] x) => (float[1,48,10,10] y) { y = Conv<group=2>(x, w) }", w=normal(48, 2, 3, 3))
    data = [{"x": normal(1, 4, 12, 12)}] * 2
    made = onnxq.quantize(model, data, target="ort-x64-vnni", placement="full", recover="none").model
    stretch = Stretch(
        tensor="y", node="Conv_y", op="Conv", elements=4800, differing=0.01, wide=0.0 if agrees else 0.01, largest=1.0
    )
    check = ort_products.products_check(
        Graph(onnx.shape_inference.infer_shapes(made)), executed_precision(made), [stretch]
    )
    assert (check is None) is agrees
    assert agrees or "Conv 'Conv_y'" in check.detail


def test_nothing_is_said_where_products_come_out_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort_products, "multiplies_codes_right", lambda: True)
    assert found("(float[64,40] x) => (float[64,24] y) { y = MatMul(x, w) }", w=normal(40, 24)) is None
