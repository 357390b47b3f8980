"""What stays float for onnxruntime is held there by a Sum of one operand (C16)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.graph.view import Graph
from onnxq.passes.quantize.hold_float import HoldFloat
from onnxq.verification.engines.onnxruntime import OrtModel
from tests.graphs import model_of, normal

ORT = "ort-x64-vnni"

CHAIN = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {{
    [a] t = Conv<pads=[1,1,1,1]>(x, u)
    {middle}
    [c] y = Conv<pads=[1,1,1,1]>(s, w)
}}"""
CONVS = {"u": normal(16, 16, 3, 3), "v": normal(16, 16, 3, 3, seed=1), "w": normal(16, 16, 3, 3, seed=2)}


def quantized(text: str, shape: tuple[int, ...], *, exclude: tuple[str, ...] = (), **constants: Any) -> Any:
    used = {name: value for name, value in constants.items() if f", {name})" in text or f", {name}," in text}
    data = [{"x": normal(*shape, seed=i)} for i in range(8)]
    return onnxq.quantize(model_of(text, **used), data, target=ORT, exclude=exclude)


def executed(result: Any) -> dict[str, str]:
    return {row.node: row.executed for row in result.report.layers}


@pytest.mark.parametrize(
    ("middle", "node"),
    [
        ("[b] s = Conv<pads=[1,1,1,1]>(t, v)", "b"),
        ("[b] r = Conv<pads=[1,1,1,1]>(t, v) [relu] s = Relu(r)", "b"),
        ("[b] s = Add(t, t)", "b"),
    ],
    ids=["conv", "conv and relu", "add"],
)
def test_case_1_an_excluded_node_runs_in_float(middle: str, node: str) -> None:
    result = quantized(CHAIN.format(middle=middle), (1, 16, 8, 8), exclude=(node,), **CONVS)
    assert result.plan.holds == ("s",)
    assert executed(result)[node] == "float"
    assert executed(result)["a"] == executed(result)["c"] == "int8"
    assert result.report


def test_case_1_average_pool_is_faster_in_float() -> None:
    pool = "[b] s = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(t)"
    result = quantized(CHAIN.format(middle=pool), (1, 16, 8, 8), **CONVS)
    assert executed(result)["b"] == "float"
    assert result.report


@pytest.mark.parametrize("activation", ["Relu(p)", "Clip(p, low, high)"])
@pytest.mark.parametrize("product", ["p = Gemm(x, u, k)", "q = MatMul(x, u) p = Add(q, k)", "p = MatMul(x, u)"])
def test_case_1_int8_product_before_a_float_activation(product: str, activation: str) -> None:
    """The last layer of an MLP excluded: the layer before it still runs in int8."""
    text = f"(float[N,32] x) => (float[N,32] y) {{ [a] {product} r = {activation} [c] y = MatMul(r, v) }}"
    limits = {"low": np.float32(0), "high": np.float32(6)}
    weights = {"u": normal(32, 32), "v": normal(32, 32, seed=1), "k": normal(32)}
    result = quantized(text, (4, 32), exclude=("c",), **weights, **limits)
    assert result.plan.holds == ("p",)
    assert executed(result)["a"] == "int8"
    assert executed(result)["c"] == "float"
    assert result.report


def test_no_hold_where_nothing_is_excluded() -> None:
    text = "(float[N,32] x) => (float[N,32] y) { [a] p = Gemm(x, u, k) r = Relu(p) [c] y = MatMul(r, v) }"
    result = quantized(text, (4, 32), u=normal(32, 32), v=normal(32, 32, seed=1), k=normal(32))
    assert result.plan.holds == ()
    assert "Sum" not in {node.op_type for node in result.model.graph.node}


def test_case_2_a_second_run_does_nothing() -> None:
    result = quantized(
        CHAIN.format(middle="[b] s = Conv<pads=[1,1,1,1]>(t, v)"), (1, 16, 8, 8), exclude=("b",), **CONVS
    )
    assert not HoldFloat(result.plan).run(Graph(result.model)).modified


@pytest.mark.parametrize("move", ["Transpose<perm=[0,1,3,2]>(r)", "Reshape(r, shape)", "Identity(r)"])
def test_what_a_body_reads_is_kept_from_pairs_that_are_handed_down(move: str) -> None:
    """Without the Sum, onnxruntime ends the process: it gives the If a pair at an input that it does not have."""
    text = f"""(float[N,16,8,8] x, bool c) => (float[N,16,8,8] y) {{
        a = Conv<pads=[1,1,1,1]>(x, u) r = Relu(a) t = {move}
        y = If (c) <
            then_branch = b () => (float[N,16,8,8] p) {{ p = Conv<pads=[1,1,1,1]>(t, v) }},
            else_branch = e () => (float[N,16,8,8] q) {{ q = Neg(t) }}> }}"""
    model = model_of(text, u=CONVS["u"], v=CONVS["v"], shape=np.array([-1, 16, 8, 8]))
    data = [{"x": normal(1, 16, 8, 8, seed=i), "c": np.array(i % 2 == 0)} for i in range(8)]
    result = onnxq.quantize(model, data, target=ORT)
    assert result.report
    assert any(d.action.value == "int8" for d in result.plan.nodes)
    assert all(o.sqnr_db is None or o.sqnr_db > 20 for o in result.report.outputs)  # two int8 layers at most


GELU = """(float[1,16,32,32] x) => (float[1,16,32,32] y) {
[c1] a = Conv(x, w)
[div] d = Div(a, root)
[erf] e = Erf(d)
[add] f = Add(e, one)
[mul] g = Mul(a, f)
[half] h = Mul(g, halved)
[c2] y = Conv(h, w)
}"""
GELU_CONSTANTS: dict[str, Any] = {
    "w": normal(16, 16, 1, 1),
    "root": np.float32(np.sqrt(2.0)),
    "one": np.float32(1.0),
    "halved": np.float32(0.5),
}


def test_a_gelu_behind_a_conv_stays_one_kernel(tmp_path: Path) -> None:
    """Case 4: without the Sum onnxruntime computes Div, Erf, Add and two Muls."""
    data = [{"x": normal(1, 16, 32, 32, seed=i)} for i in range(2)]
    result = onnxq.quantize(model_of(GELU, **GELU_CONSTANTS), data, target="ort-x64-vnni", placement="full")
    held = [n for n in result.model.graph.node if n.name.endswith("_hold")]
    assert [n.op_type for n in held] == ["Sum"]
    assert result.report.passed
    OrtModel(result.model, optimised_path=tmp_path / "run.onnx")
    kinds = [n.op_type for n in onnx.load(tmp_path / "run.onnx", load_external_data=False).graph.node]
    assert "Gelu" in kinds
    assert not {"Erf", "Div"} & set(kinds)
    assert onnxq.strip(result.model).holds == 1


def test_other_gelus_are_left_alone() -> None:
    """Case 6."""
    data = [{"x": normal(1, 16, 32, 32, seed=i)} for i in range(2)]
    result = onnxq.quantize(model_of(GELU, **GELU_CONSTANTS), data, target="openvino", placement="full")
    assert not [n for n in result.model.graph.node if n.name.endswith("_hold")]


FLOAT_READERS = """(float[1,16,16,16] x) => (float[1,16,16,16] y, float[1,16,16,16] z) {{
[c1] a = Conv(x, w)
[c2] y = Conv(a, w)
[t] b = Tanh(a)
[e] c = Exp(a)
{third}
[s] z = Sub({last}, c)
}}"""


@pytest.mark.parametrize(("third", "dequantizers"), [("[h] d = Sub(b, a)", 1), ("", 2)], ids=["three", "two"])
def test_case_5_many_float_readers_share_a_dequantizer(tmp_path: Path, third: str, dequantizers: int) -> None:
    """Of the result of c1, which the int8 Conv c2 reads as codes; that of c2 leaves the model by one of its own."""
    text = FLOAT_READERS.format(third=third, last="d" if third else "b")
    data = [{"x": normal(1, 16, 16, 16, seed=i)} for i in range(2)]
    result = onnxq.quantize(model_of(text, w=CONVS["u"][:, :, :1, :1]), data, target=ORT, placement="full")
    assert executed(result)["c2"] == "int8"
    OrtModel(result.model, optimised_path=tmp_path / "run.onnx")
    kinds = [n.op_type for n in onnx.load(tmp_path / "run.onnx", load_external_data=False).graph.node]
    assert kinds.count("DequantizeLinear") == dequantizers + 1
