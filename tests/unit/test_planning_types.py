"""Types of codes that a user asks for: what a target takes, what comes along, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import onnxq
from onnxq.errors import ConfigError
from onnxq.numerics import FLOAT8E4M3FN, INT8, QuantSpec
from onnxq.planning.options import PlanOptions
from onnxq.targets import TARGETS
from onnxq.targets.forms import in_type, with_types
from onnxq.targets.schema import TypeRule
from tests.graphs import model_of, normal
from tests.versions import since

TENSORRT = TARGETS["tensorrt"]
FP8 = "float8e4m3fn"

ATTENTION = """(float[1,4,32,32] q, float[1,4,32,32] k, float[1,4,32,32] v) => (float[1,4,32,16] y) {
    [t] kt = Transpose<perm=[0,1,3,2]>(k)
    [s] s = MatMul(q, kt)
    [m] m = Mul(s, half)
    [p] p = Softmax<axis=-1>(m)
    [o] o = MatMul(p, v)
    [d] y = MatMul(o, w)
    }"""
CONSTANTS = {"w": normal(32, 16), "half": np.float32(0.5)}


def plan_of(text: str, activations: str | None = "fp8", **constants: object) -> onnxq.QuantPlan:
    return onnxq.plan(model_of(text, **constants), target="tensorrt", activations=activations)


# ---- tables ------------------------------------------------------------------------------------------------------


def test_nothing_asked_is_the_table_itself() -> None:
    table, notes = with_types(TENSORRT, None, None)
    assert (table.activation, table.weight, table.min_opset) == (TENSORRT.activation, TENSORRT.weight, 13)
    assert notes == ()


def test_weights_follow_the_activations() -> None:
    table, notes = with_types(TENSORRT, "fp8", None)
    assert table.activation == table.weight == QuantSpec(qtype=FLOAT8E4M3FN, symmetric=True)
    assert table.min_opset == 19
    assert notes[0] == "activations are fp8, weights fp8"
    assert "compute capability 8.9" in notes[1]


def test_activations_follow_weights_that_go_with_nothing_else() -> None:
    assert with_types(TENSORRT, None, "fp8")[0] == with_types(TENSORRT, "fp8", "fp8")[0]


def test_types_of_single_tensors_raise_the_opset_too() -> None:
    table, notes = with_types(TENSORRT, None, None, ["fp8"])
    assert table.min_opset == 19 and table.activation.qtype == INT8 and notes == ()


def test_another_type_keeps_the_form_as_far_as_it_has_one() -> None:
    narrow = QuantSpec(qtype=INT8, symmetric=True, narrow_range=True, axis=0)
    assert in_type(narrow, FLOAT8E4M3FN) == QuantSpec(qtype=FLOAT8E4M3FN, symmetric=True, axis=0)
    assert in_type(narrow, INT8) is narrow


@pytest.mark.parametrize(("target", "activations", "weights", "message"), [
    ("tensorrt", "int16", None, "tensorrt takes no activations of type 'int16'.*\n.*int8 or float8e4m3fn"),
    ("tensorrt", "fp8", "int8", "multiplies codes of like types only, not float8e4m3fn activations by int8 weights"),
    ("tensorrt", "int7", None, "unknown quantized type 'int7'"),
    ("tensorrt", None, "int16", "tensorrt takes no weights of type 'int16'"),
    ("tensorrt", "none", None, "that is mode 'weight-only'\nHint: pass mode='weight-only' .--mode weight-only."),
])  # fmt: skip
def test_what_a_target_does_not_take(target: str, activations: str | None, weights: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_types(TARGETS[target], activations, weights)


def test_a_simulated_type_is_called_so() -> None:
    table = replace(TENSORRT, types={FP8: TypeRule(simulated=True, rules="X1")})
    notes = with_types(replace(table, like_types=False), "fp8", None)[1]
    assert "TensorRT computes in float between Q/DQ pairs of float8e4m3fn" in notes[-1]


# ---- plans -------------------------------------------------------------------------------------------------------


def test_attention_is_quantized_in_fp8_and_not_in_int8() -> None:
    fp8, int8 = plan_of(ATTENTION, **CONSTANTS), plan_of(ATTENTION, None, **CONSTANTS)
    assert {d.node: d.action.value for d in fp8.nodes if d.op == "MatMul"} == {"s": "int8", "o": "int8", "d": "int8"}
    assert {d.node: d.action.value for d in int8.nodes if d.op == "MatMul"} == {"s": "float", "o": "float", "d": "int8"}
    assert {name for name, t in fp8.tensors.items() if t.role.value == "activation"} == {"q", "kt", "p", "v", "o"}
    assert {t.spec.qtype.name for t in fp8.tensors.values()} == {FP8}
    assert fp8.opset == 19
    reasons = {d.node: d.reason for d in fp8.nodes}
    assert reasons["s"] == "both inputs are fp8"
    assert reasons["d"] == "inputs and weights are fp8"


@since(1, 32, "refuses fp8 codes that are moved")
def test_the_probabilities_of_a_softmax_use_all_of_the_type() -> None:
    data = [{name: normal(1, 4, 32, 32, seed=i) for i, name in enumerate("qkv")}]
    model = model_of(ATTENTION, **CONSTANTS)
    result = onnxq.quantize(model, data, target="tensorrt", activations="fp8", method="max")
    scale = float(result.qparams["p"].scale)
    assert 0.2 / 448 < scale <= 1 / 448


def test_a_small_product_stays_float() -> None:
    text = "(float[2,8,64] a, float[2,64,32] b) => (float[2,8,32] y) { [m] y = MatMul(a, b) [c] z = Conv(a, w) }"
    plan = plan_of(text.replace("[c] z = Conv(a, w) ", ""))
    assert [d.reason for d in plan.nodes] == ["its input 'a' has a size of 8, too small to pay"]


@pytest.mark.parametrize(
    ("channels", "group", "shape", "reason"),
    [
        (16, 1, (16, 16, 7, 7), "its filter has 49 taps; the engine has kernels for 31 at most"),
        (32, 32, (32, 1, 1, 1), "TensorRT has no fast fp8 kernels for convolutions with groups (depthwise ones too)"),
    ],
    ids=["large filter", "groups"],
)
def test_what_stays_float_in_fp8_alone(channels: int, group: int, shape: tuple[int, ...], reason: str) -> None:
    text = f"(float[1,{channels},16,16] x) => (float[1,{channels},H,W] y) {{ [c] y = Conv<group = {group}>(x, w) }}"
    weight = normal(*shape)
    assert plan_of(text, None, w=weight).nodes[0].action.value == "int8"
    decision = plan_of(text, w=weight).nodes[0]
    assert (decision.action.value, decision.rule, decision.reason) == ("float", "R34", reason)


def test_reasons_name_the_types_of_the_node() -> None:
    text = "(float[n,32] x) => (float[n,8] z) { [a] y = MatMul(x, w) [b] z = MatMul(y, v) }"
    values = {"w": normal(32, 32), "v": normal(32, 8)}
    assert plan_of(text, **values).nodes[1].reason == "a 32 x 8 weight is too small to pay in fp8 (at least 16)"
    plan = onnxq.plan(model_of(text, **values), target="tensorrt", overrides=[{"nodes": "a", "weight_bits": 4}])
    assert plan.nodes[0].reason == "inputs are int8 and weights int8 (4 bits)"
    plan = onnxq.plan(model_of(text, **values), target="qnn", activations="uint16")
    assert plan.nodes[0].reason == "inputs are uint16 and weights int8"


def test_excluded_products_stay_float() -> None:
    plan = onnxq.plan(model_of(ATTENTION, **CONSTANTS), target="tensorrt", activations="fp8", exclude=["s"])
    assert {d.node: d.action.value for d in plan.nodes if d.op == "MatMul"} == {"s": "float", "o": "int8", "d": "int8"}
    assert "q" not in plan.tensors


TWO = """(float[4,32] x) => (float[4,32] y) {
    [a] h = MatMul(x, u)
    [r] r = Relu(h)
    [b] y = MatMul(r, v)
    }"""


def test_one_layer_in_another_type() -> None:
    model = model_of(TWO, u=normal(32, 32), v=normal(32, 32, seed=1))
    override = {"nodes": "b", "activation": "fp8", "weight": "fp8"}
    plan = onnxq.plan(model, target="tensorrt", overrides=[override])
    assert {k: t.spec.qtype.name for k, t in plan.tensors.items()} == {"x": "int8", "r": FP8, "u": "int8", "v": FP8}
    assert plan.opset == 19


def test_operands_of_unlike_types_are_refused() -> None:
    model = model_of(TWO, u=normal(32, 32), v=normal(32, 32, seed=1))
    with pytest.raises(ConfigError, match=r"MatMul 'b'.*first input would be float8e4m3fn and its second int8"):
        onnxq.plan(model, target="tensorrt", overrides=[{"nodes": "b", "activation": "fp8"}])


def test_options_know_the_types_of_overrides() -> None:
    options = PlanOptions.of({"overrides": [{"nodes": "a", "activation": "fp8"}, {"nodes": "b", "weight": "int8"}]})
    assert options.types() == ("fp8", "int8")


def test_the_reason_names_the_types_of_values_that_are_no_float32() -> None:
    graph = model_of(
        """(float[n, 32] x) => (double[n, 16] y, float[n, 16] m) {
           [fc] m = MatMul(x, w)
           [cast] y = Cast<to=11>(m)
        }""",
        w=normal(32, 16),
    )
    (found,) = [d for d in onnxq.plan(graph, target="ort-x64-vnni").nodes if d.node == "cast"]
    assert found.reason == "its values are float64, not float32"
