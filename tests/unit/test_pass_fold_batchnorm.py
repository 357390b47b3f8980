"""One test for each numbered case of FoldBatchnorm; each checks the function and the structure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.graph.view import Graph
from onnxq.passes.simplify.fold_batchnorm import FoldBatchnorm
from onnxq.passes.simplify.infer_shapes import InferShapes
from tests.graphs import apply, graph_of, normal, ops, reasons


def bn_parameters(channels: int) -> dict[str, Any]:
    return {
        "gamma": normal(channels, seed=1),
        "beta": normal(channels, seed=2),
        "mean": normal(channels, seed=3),
        "var": np.abs(normal(channels, seed=4)) + 0.1,
    }


def conv_bn(
    conv: str = "Conv(x, w)", bn: str = "BatchNormalization", out: str = "float[N,4,h,v] y", **weights: Any
) -> Graph:
    text = f"(float[N,6,5,5] x) => ({out}) {{ c = {conv} y = {bn}(c, gamma, beta, mean, var) }}"
    return graph_of(text, **{"w": normal(4, 6, 3, 3), **bn_parameters(4), **weights})


@pytest.mark.parametrize(
    ("conv", "weights"),
    [
        ("Conv(x, w)", {}),
        ("Conv<pads=[1,1,1,1]>(x, w, b)", {"b": normal(4, seed=9)}),
        ("Conv<group=2>(x, w)", {"w": normal(4, 3, 3, 3)}),
    ],
)
def test_case_1_conv(conv: str, weights: dict[str, Any]) -> None:
    graph = conv_bn(conv, **weights)
    result = apply(graph, FoldBatchnorm())
    assert ops(graph) == {"Conv": 1}
    assert graph.producer("y").op_type == "Conv"
    assert result.edits[0].what == "folded into Conv"


def test_case_1_depthwise_with_epsilon() -> None:
    graph = conv_bn("Conv<group=6>(x, w)", "BatchNormalization<epsilon=0.5>", "float[N,6,h,v] y",
                    w=normal(6, 1, 3, 3), **bn_parameters(6))  # fmt: skip
    apply(graph, FoldBatchnorm())
    assert ops(graph) == {"Conv": 1}


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_case_2_conv_transpose(groups: int) -> None:
    # Output channel j of group i is i * C/g + j: mixing up the two factors of C_in and C is off by order 1.
    graph = conv_bn(f"ConvTranspose<group={groups}>(x, w)", out="float[N,12,h,v] y",
                    w=normal(6, 12 // groups, 3, 3), **bn_parameters(12))  # fmt: skip
    apply(graph, FoldBatchnorm())
    assert ops(graph) == {"ConvTranspose": 1}


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_case_3_gemm(trans: int, bias: str) -> None:
    text = (
        f"(float[N,6] x) => (float[N,4] y) {{ c = Gemm<alpha=0.5, beta=2.0, transB={trans}>(x, w{bias}) "
        "y = BatchNormalization(c, gamma, beta, mean, var) }"
    )
    weights = {"w": normal(4, 6) if trans else normal(6, 4), **bn_parameters(4)}
    if bias:
        weights["b"] = normal(4, seed=9)
    graph = graph_of(text, **weights)
    apply(graph, FoldBatchnorm())
    assert ops(graph) == {"Gemm": 1}


def test_case_4_shared_weight_is_copied() -> None:
    text = """(float[N,4,5,5] x) => (float[N,4,h,v] y, float[N,4,h,v] z) {
        c = Conv(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)  z = Conv(x, w) }"""
    graph = graph_of(text, w=normal(4, 4, 3, 3), **bn_parameters(4))
    apply(graph, FoldBatchnorm())
    assert graph.producer("z").input[1] == "w"
    assert graph.producer("y").input[1] != "w"


@pytest.mark.parametrize(
    ("outputs", "tail", "reason"),
    [
        ("float[N,4,h,v] y, float[N,4,h,v] z", "z = Relu(c)", "has other readers"),
        ("float[N,4,h,v] y, float[N,4,h,v] c", "", "is an output of the graph"),
    ],
)
def test_case_5_read_elsewhere(outputs: str, tail: str, reason: str) -> None:
    text = f"""(float[N,6,5,5] x) => ({outputs}) {{
        c = Conv(x, w)  y = BatchNormalization(c, gamma, beta, mean, var)  {tail} }}"""
    graph = graph_of(text, w=normal(4, 6, 3, 3), **bn_parameters(4))
    assert reason in reasons(apply(graph, FoldBatchnorm()))


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        ("float[4,6,3,3] w", "the weight of Conv 'Conv_c' is not a constant"),
        ("float[4] b", "the bias of Conv 'Conv_c' is not a constant"),
        ("float[4] gamma", "a parameter of the normalization is not a constant"),
    ],
)
def test_case_6_not_constant(variable: str, reason: str) -> None:
    weights = {"w": normal(4, 6, 3, 3), "b": normal(4), **bn_parameters(4)}
    del weights[variable.split()[1]]
    text = f"""(float[N,6,5,5] x, {variable}) => (float[N,4,h,v] y) {{
        c = Conv(x, w, b)  y = BatchNormalization(c, gamma, beta, mean, var) }}"""
    assert reasons(apply(graph_of(text, **weights), FoldBatchnorm())) == reason


def test_case_7_training() -> None:
    text = """(float[N,6,5,5] x) => (float[N,4,h,v] y) {
        c = Conv(x, w)  y, m, s = BatchNormalization<training_mode=1>(c, gamma, beta, mean, var) }"""
    graph = graph_of(text, w=normal(4, 6, 3, 3), **bn_parameters(4))
    result = FoldBatchnorm().run(graph)
    assert (reasons(result), result.modified) == ("the normalization is in training mode", False)


def test_case_7_statistics_are_read() -> None:
    # Not runnable in inference mode (the statistics have no values there), so only the reason is checked.
    graph = conv_bn()
    graph.set_attributes(graph.producer("y"), training_mode=0)
    graph.producer("y").output.append("m")
    graph.add_node("Relu", ["m"], ["r"], name="relu")
    assert reasons(FoldBatchnorm().run(graph)) == "the statistics of the normalization are read"


def test_case_7_spatial() -> None:
    graph = conv_bn()
    graph.set_attributes(graph.producer("y"), spatial=0)
    assert reasons(FoldBatchnorm().run(graph)) == "the normalization has statistics for each position"


def test_case_8_in_front_of_conv() -> None:
    text = """(float[N,4,5,5] x) => (float[N,4,5,5] y) {
        r = Relu(x)  n = BatchNormalization(r, gamma, beta, mean, var)  y = Conv<pads=[1,1,1,1]>(n, w) }"""
    graph = graph_of(text, w=normal(4, 4, 3, 3), **bn_parameters(4))
    assert "comes from Relu, not from Conv or ConvTranspose or Gemm" in reasons(apply(graph, FoldBatchnorm()))


def test_case_8_at_the_input() -> None:
    text = "(float[N,4,5,5] x) => (float[N,4,5,5] y) { y = BatchNormalization(x, gamma, beta, mean, var) }"
    assert "comes from outside the graph" in reasons(apply(graph_of(text, **bn_parameters(4)), FoldBatchnorm()))


def test_case_9_not_finite() -> None:
    graph = conv_bn(var=np.full(4, -1.0, np.float32))
    result = FoldBatchnorm().run(graph)
    assert (reasons(result), result.modified) == ("the folded weights would not be finite", False)


@pytest.mark.parametrize(
    ("rows", "rest"),
    [
        ("Flatten<axis=2>(m)", {"MatMul": 1, "Add": 1, "Flatten": 1, "Neg": 1}),  # LeViT in torch's older exporter
        ("Reshape(m, s)", {"MatMul": 1, "Add": 1, "Reshape": 1, "Neg": 1}),
    ],
)
def test_case_10_rows_of_a_product(rows: str, rest: dict[str, int]) -> None:
    text = f"""(float[N,3,6] x) => (float[a,4] y) {{
        m = MatMul(x, w) c = {rows} n = BatchNormalization(c, gamma, beta, mean, var) y = Neg(n) }}"""
    constants = {"s": np.array([-1, 4])} if "s)" in rows else {}
    graph = graph_of(text, w=normal(6, 4), **bn_parameters(4), **constants)
    InferShapes().run(graph)
    apply(graph, FoldBatchnorm())
    assert ops(graph) == rest
    assert graph.producer(graph.producer("n").input[0]).op_type == "Add"


@pytest.mark.parametrize("shift", [True, False])
def test_case_10_a_product_itself(shift: bool) -> None:
    text = "(float[N,6] x) => (float[N,4] y) { m = MatMul(x, w) y = BatchNormalization(m, gamma, beta, mean, var) }"
    parameters = bn_parameters(4) | (
        {} if shift else {"beta": np.zeros(4, np.float32), "mean": np.zeros(4, np.float32)}
    )
    graph = graph_of(text, w=normal(6, 4), **parameters)
    InferShapes().run(graph)
    apply(graph, FoldBatchnorm())
    assert ops(graph) == ({"MatMul": 1, "Add": 1} if shift else {"MatMul": 1})


@pytest.mark.parametrize(
    ("rows", "shape", "channels"),
    [
        ("Reshape(m, s)", [-1, 3], 3),  # columns that are no columns of the product
        ("Reshape(m, s)", [-1, 4, 3], 4),  # 3 rows by 4 columns, read as 4 channels of 3 values
    ],
)
def test_case_10_other_columns_stay(rows: str, shape: list[int], channels: int) -> None:
    text = f"""(float[N,3,6] x) => (float[a,b] y) {{
        m = MatMul(x, w) c = {rows} n = BatchNormalization(c, gamma, beta, mean, var) y = Flatten(n) }}"""
    graph = graph_of(text, w=normal(6, 4), s=np.array(shape), **bn_parameters(channels))
    InferShapes().run(graph)
    assert not apply(graph, FoldBatchnorm()).modified


def _branches(second: str = "Conv(x, v)", axis: int = 1, outputs: str = "float[N,7,3,3] y") -> Graph:
    text = f"""(float[N,6,5,5] x) => ({outputs}) {{
        c = Conv(x, w, b) d = {second} k = Concat<axis={axis}>(c, {"e" if "e =" in second else "d"})
        y = BatchNormalization(k, gamma, beta, mean, var) }}"""
    return graph_of(text, w=normal(4, 6, 3, 3), b=normal(4), v=normal(3, 6, 3, 3, seed=5), **bn_parameters(7))


@pytest.mark.parametrize("axis", [1, -3])
def test_case_11_convs_in_front_of_a_concat(axis: int) -> None:
    graph = _branches(axis=axis)
    InferShapes().run(graph)
    result = apply(graph, FoldBatchnorm())
    assert ops(graph) == {"Conv": 2, "Concat": 1}
    assert graph.producer("y").op_type == "Concat"
    assert result.edits[0].what == "folded into the nodes in front of a Concat"


def test_case_11_a_weight_of_two_branches() -> None:
    text = """(float[N,6,5,5] x) => (float[N,8,3,3] y) {
        c = Conv(x, w) d = Conv(x, w) k = Concat<axis=1>(c, d)
        y = BatchNormalization(k, gamma, beta, mean, var) }"""
    graph = graph_of(text, w=normal(4, 6, 3, 3), **bn_parameters(8))
    apply(graph, FoldBatchnorm())
    assert ops(graph) == {"Conv": 2, "Concat": 1}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"second": "Conv(x, v) e = Relu(d)"}, "in front of Concat 'Concat_k': its input comes from Relu"),
        ({"outputs": "float[N,7,3,3] y, float[N,3,3,3] d"}, "the output of Conv 'Conv_d' is an output of the graph"),
        ({"outputs": "float[N,7,3,3] y, float[N,7,3,3] k"}, "the output of Concat 'Concat_k' has other readers"),
        ({"axis": 2}, "Concat 'Concat_k' does not put channels together"),
    ],
)
def test_case_11_other_branches_stay(changed: dict[str, Any], reason: str) -> None:
    graph = _branches(**changed)
    before = ops(graph)
    assert reason in reasons(FoldBatchnorm().run(graph))
    assert ops(graph) == before


def test_parameters_of_another_length_are_refused() -> None:
    graph = conv_bn(**bn_parameters(3))
    assert "has parameters of shape (3,) for 4 channels" in reasons(FoldBatchnorm().run(graph))
