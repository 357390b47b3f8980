"""Nodes with weights that stay float, and the words they are given for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.errors import ConfigError
from onnxq.graph.view import Graph
from onnxq.planning.options import PlanOptions
from tests.graphs import graph_of, normal
from tests.planned import actions, planned, reason

W = normal(16, 16, 3, 3)
M = normal(16, 16)

CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "computed weight": (
        "(float[N,16,8,8] x, float[16,16,3,3] w) => (float[N,16,8,8] y) { [n] y = Conv<pads=[1,1,1,1]>(x, w) }",
        {},
        "both inputs are activations; such products stay float [R28]",
    ),
    "attention": (
        "(float[N,16,16] x) => (float[N,16,16] y) { [n] y = MatMul(x, x) }",
        {},
        "both inputs are activations; such products stay float [R28]",
    ),
    "computed bias": (
        "(float[N,16,8,8] x, float[16] b) => (float[N,16,8,8] y) { [n] y = Conv<pads=[1,1,1,1]>(x, w, b) }",
        {"w": W},
        "its bias 'b' is computed [C4]",
    ),
    "computed Gemm bias": (
        "(float[N,16] x, float[16] b) => (float[N,16] y) { [n] y = Gemm(x, w, b) }",
        {"w": M},
        "its bias 'b' is computed [C7]",
    ),
    "weight on the left": (
        "(float[16,16] x) => (float[16,16] y) { [n] y = MatMul(w, x) }",
        {"w": M},
        "its data input is a constant and its weight is not the second input [C6 C8]",
    ),
    "float16": (
        "(float16[N,16,8,8] x) => (float16[N,16,8,8] y) { [n] y = Conv<pads=[1,1,1,1]>(x, w) }",
        {"w": W.astype(np.float16)},
        "its input 'x' is float16 [C4]",
    ),
    "behind an unknown operator": (
        "(float[N,16,8,8] x) => (float[N,16,8,8] y) { a = other.Foo(x) [n] y = Conv<pads=[1,1,1,1]>(a, w) }",
        {"w": W},
        "its input 'a' is of unknown type [C4]",
    ),
    "unknown operator": (
        "(float[N,16,8,8] x) => (float[N,16,8,8] y) { [n] y = other.Conv(x, w) }",
        {"w": W},
        "operator of domain 'other' is not known to onnxq []",
    ),
    "rank": (
        "(float[16] x) => (float[16] y) { [n] y = Gemm(x, w) }",
        {"w": M},
        "its input has rank 1; the int8 kernel takes (2,) [C7]",
    ),
    "empty weight": (
        "(float[N,16,8,8] x) => (float[N,0,8,8] y) { [n] y = Conv(x, w) }",
        {"w": np.zeros((0, 16, 1, 1), np.float32)},
        "its weight is empty [C4]",
    ),
    "vector times matrices": (
        "(float[16] x) => (float[3,16] y) { [n] y = MatMul(x, w) }",
        {"w": normal(3, 16, 16)},
        "it multiplies a vector with several matrices [C6 C8]",
    ),
    "vector": (
        "(float[N,16] x) => (float[N] y) { [n] y = MatMul(x, w) }",
        {"w": normal(16)},
        "its weight is a vector [C6 C8]",
    ),
    "transA": (
        "(float[16,N] x) => (float[N,16] y) { [n] y = Gemm<transA=1>(x, w) }",
        {"w": M},
        "transA is set [C7]",
    ),
    "alpha": (
        "(float[N,16] x) => (float[N,16] y) { [n] y = Gemm<alpha=0.5>(x, w) }",
        {"w": M},
        "alpha and beta must be 1 [C7]",
    ),
    "beta": (
        "(float[N,16] x) => (float[N,16] y) { [n] y = Gemm<beta=0.5>(x, w, b) }",
        {"w": M, "b": normal(16)},
        "alpha and beta must be 1 [C7]",
    ),
    "Gemm bias for each row": (
        "(float[4,16] x) => (float[4,16] y) { [n] y = Gemm(x, w, b) }",
        {"w": M, "b": normal(4, 1)},
        "its bias has shape (4, 1), expected (16,) [C7]",
    ),
    "transposed convolution": (
        "(float[N,16,8,8] x) => (float[N,16,16,16] y) { [n] y = ConvTranspose<strides=[2,2]>(x, w) }",
        {"w": normal(16, 16, 2, 2)},
        "ONNX Runtime has no int8 kernel for ConvTranspose on CPU (C4) []",
    ),
    "integers": (
        "(float[N,16,8,8] x) => (int64[4] y) { [n] y = Shape(x) }",
        {},
        "computes shapes, indices or other values that are not float: there is nothing to quantize []",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refusal(case: str) -> None:
    text, constants, expected = CASES[case]
    plan = planned(text, **constants)
    assert reason(plan, "n") == expected
    assert actions(plan)["n"] == ("other" if case == "integers" else "float")
    assert plan.tensors == {}


def test_a_refused_gemm_bias_of_one_row_is_taken() -> None:
    plan = planned("(float[N,16] x) => (float[N,16] y) { [n] y = Gemm(x, w, b) }", w=M, b=normal(1, 16))
    assert actions(plan) == {"n": "int8"}


CHAIN = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [stage1_conv] a = Conv<pads=[1,1,1,1]>(x, w)
    [stage1_relu] b = Relu(a)
    [stage2_conv] c = Conv<pads=[1,1,1,1]>(b, w)
    [stage2_tanh] y = Tanh(c)
    }"""


@pytest.mark.parametrize(
    ("options", "floats"),
    [
        (PlanOptions(exclude=("stage1_conv",)), {"stage1_conv", "stage1_relu", "stage2_tanh"}),
        (PlanOptions(exclude=("stage2*",)), {"stage2_conv", "stage2_tanh"}),
        (PlanOptions(exclude=("stage?_conv",)), {"stage1_conv", "stage1_relu", "stage2_conv", "stage2_tanh"}),
        (PlanOptions(exclude_ops=("Conv",)), {"stage1_conv", "stage1_relu", "stage2_conv", "stage2_tanh"}),
        # A Relu kept in float is no longer part of the Conv's rounding: both get a pair of their own.
        (PlanOptions(exclude=("stage1_relu",)), {"stage1_relu", "stage2_tanh"}),
    ],
)
def test_excluded_nodes_stay_float(options: PlanOptions, floats: set[str]) -> None:
    plan = planned(CHAIN, options=options, w=W)
    assert {name for name, action in actions(plan).items() if action == "float"} == floats


def test_excluded_node_says_who_wanted_it() -> None:
    plan = planned(CHAIN, options=PlanOptions(exclude=("stage1_conv",)), w=W)
    assert reason(plan, "stage1_conv") == "excluded by the user [user]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            PlanOptions(exclude=("stage1_con",)),
            "exclude=(...) (--exclude): no node of the model matches 'stage1_con'\n"
            "Hint: did you mean 'stage1_conv', 'stage2_conv', 'stage2_tanh'?",
        ),
        (
            PlanOptions(exclude=("zzz*",)),
            "exclude=(...) (--exclude): no node of the model matches 'zzz*'\nHint: `onnxq plan MODEL` lists all names",
        ),
        (
            PlanOptions(exclude_ops=("conv",)),
            "exclude_ops=(...) (--exclude-op): no operator of the model matches 'conv'\nHint: did you mean 'Conv'?",
        ),
    ],
)
def test_pattern_that_matches_nothing_is_an_error(options: PlanOptions, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        planned(CHAIN, options=options, w=W)
    assert str(error.value) == message


def test_literal_name_that_is_also_a_pattern() -> None:
    """`conv[1]` as a pattern means `conv1`; a node whose name is exactly that must be excluded all the same."""
    graph = graph_of("(float[N,16,8,8] x) => (float[N,16,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }", w=W)
    model = graph.to_model()
    model.graph.node[0].name = "conv[1]"
    plan = planned(Graph(model), options=PlanOptions(exclude=("conv[1]",)))
    assert actions(plan) == {"conv[1]": "float"}
