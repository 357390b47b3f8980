"""Expressions: their values are onnxruntime's, and nothing else is read from a file."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxq.calibration.statistics.curves import MOST_TERMS, OPERATORS, Curve
from onnxq.inference.session import make_session

X = np.concatenate([np.linspace(-12, 12, 4001), [-300.0, -90.0, 90.0, 300.0, 0.0, -0.0]]).astype(np.float32)
ATTRIBUTES = {"LeakyRelu": {"alpha": 0.1}, "Elu": {"alpha": 1.5}, "HardSigmoid": {"alpha": 0.25, "beta": 0.4}}
BY_TANH = "GeluByTanh"


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_values_are_those_of_the_operator(name: str) -> None:
    attributes = ATTRIBUTES.get(name, {"approximate": "tanh"} if name == BY_TANH else {})
    numbers = [value for value in attributes.values() if isinstance(value, float)]
    inputs = ["x"] * (OPERATORS[name][0] - len(numbers))
    node = helper.make_node("Gelu" if name == BY_TANH else name, inputs, ["y"], **attributes)
    made = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    )
    session = make_session(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    found = Curve((name, *inputs, *numbers))(X.astype(np.float64))
    # onnxruntime computes in float32, and its exponentials and error functions by polynomials.
    np.testing.assert_allclose(found, session.run({"x": X})[0], rtol=1e-5, atol=2e-6)


def test_operands_may_be_numbers() -> None:
    curve = Curve(("Sub", ("Mul", 3.0, ("Sigmoid", "x")), 1.0))
    np.testing.assert_allclose(curve(np.zeros((2, 3))), np.full((2, 3), 0.5))
    assert Curve(2.0)(np.zeros((2, 1))).shape == (2, 1)


def test_where_there_is_no_value() -> None:
    """Products of products leave float64 in the end."""
    square = ("Mul", "x", "x")
    for _ in range(2):
        square = ("Mul", square, square)
    assert Curve(("Sub", square, square))(np.array([3e38, 1.0])).tolist() == [0.0, 0.0]


def test_lists_and_back() -> None:
    curve = Curve(("Mul", "x", ("HardSigmoid", "x", 0.2, 0.5)))
    assert curve.to_json() == ["Mul", "x", ["HardSigmoid", "x", (0.2).hex(), (0.5).hex()]]
    assert Curve.from_json(curve.to_json()) == curve


@pytest.mark.parametrize(
    "written",
    [
        "y", "0x", "nan", "inf", "", None, 1.0, [], [1], ["Sqrt", "x"], ["Sigmoid"], ["Sigmoid", "x", "x"],
        ["Mul", "x", None], ["__class__", "x"], {"Sigmoid": "x"},
    ],
)  # fmt: skip
def test_nothing_else_is_an_expression(written: object) -> None:
    with pytest.raises(ValueError, match=r"no expression|invalid hexadecimal"):
        Curve.from_json(written)


def test_expressions_are_short() -> None:
    long: tuple[object, ...] | str = "x"
    for _ in range(MOST_TERMS + 1):
        long = ("Neg", long)
    with pytest.raises(ValueError, match="more than 32 terms"):
        Curve(long)
    deep: list[object] | str = "x"
    for _ in range(50):
        deep = ["Neg", deep]
    with pytest.raises(ValueError, match="more than 32 terms"):
        Curve.from_json(deep)
