"""Functions of one number, as graphs write them: what a SiLU makes of its input, say.

    ("Mul", "x", ("Sigmoid", "x"))        x * sigmoid(x)
    ("HardSigmoid", "x", 0.2, 0.5)        attributes stand behind the inputs, as numbers

Operators by their ONNX definitions (https://onnx.ai/onnx/operators/), in float64. They are continuous and nowhere much
steeper than their constants make them: then the values of a curve are known as well as those of its argument, which is
why a square root, steep at 0, is none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

Expression = str | float | tuple[Any, ...]
"""ARGUMENT, a number, or an operator of OPERATORS with its operands, expressions themselves."""

ARGUMENT = "x"

MOST_TERMS = 32
"""In one expression: more than any activation function has."""

_ERF = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _erf(x: Array) -> Array:
    return np.asarray(_ERF(x), np.float64)


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1.0 + _erf(x / math.sqrt(2.0))))


def _gelu_by_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))))


OPERATORS: Mapping[str, tuple[int, Callable[..., Any]]] = {
    "Neg": (1, np.negative),
    "Sigmoid": (1, _sigmoid),
    "Tanh": (1, np.tanh),
    "Erf": (1, _erf),
    "Softplus": (1, lambda x: np.logaddexp(0.0, x)),
    "HardSwish": (1, lambda x: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
    "Gelu": (1, _gelu),
    "GeluByTanh": (1, _gelu_by_tanh),
    "LeakyRelu": (2, lambda x, alpha: np.where(x < 0.0, alpha * x, x)),
    "Elu": (2, lambda x, alpha: np.where(x < 0.0, alpha * np.expm1(np.minimum(x, 0.0)), x)),
    "HardSigmoid": (3, lambda x, alpha, beta: np.clip(alpha * x + beta, 0.0, 1.0)),
    "Add": (2, np.add),
    "Sub": (2, np.subtract),
    "Mul": (2, np.multiply),
}
"""By name, how many operands there are, and the function."""


@dataclass(frozen=True)
class Curve:
    """A function of one number.

    Attributes:
        expression: What it computes.

    Raises:
        ValueError: that is no expression, or one of more than MOST_TERMS terms.

    >>> Curve(("Mul", "x", ("Sigmoid", "x")))(np.array([0.0, 20.0])).round(3).tolist()
    [0.0, 20.0]
    """

    expression: Expression

    def __post_init__(self) -> None:
        if terms(self.expression) > MOST_TERMS:
            raise ValueError(f"an expression of more than {MOST_TERMS} terms")
        _check(self.expression)

    def __call__(self, x: Array) -> Array:
        """Its values at `x`, of the same shape; 0 where it has none."""
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            y = np.broadcast_to(_value(self.expression, x), x.shape)
        return np.where(np.isnan(y), 0.0, y)

    def to_json(self) -> Any:
        """The expression as lists, with numbers in exact hexadecimal."""
        return _to_json(self.expression)

    @classmethod
    def from_json(cls, written: object) -> Curve:
        """The reverse of `to_json`.

        Raises:
            ValueError: `written` is no expression.
        """
        return cls(_from_json(written))


def terms(expression: Expression) -> int:
    """How many operators, numbers and arguments there are."""
    return 1 + sum(map(terms, expression[1:])) if isinstance(expression, tuple) else 1


def _check(expression: Expression) -> None:
    match expression:
        case str() if expression == ARGUMENT:
            return
        case float() if math.isfinite(expression):
            return
        case (str() as name, *operands) if name in OPERATORS and len(operands) == OPERATORS[name][0]:
            for operand in operands:
                _check(operand)
            return
    raise ValueError(f"{expression!r} is no expression")


def _value(expression: Expression, x: Array) -> Any:
    if isinstance(expression, tuple):
        return OPERATORS[expression[0]][1](*(_value(operand, x) for operand in expression[1:]))
    return x if isinstance(expression, str) else expression


def _to_json(expression: Expression) -> Any:
    if isinstance(expression, tuple):
        return [expression[0], *map(_to_json, expression[1:])]
    return expression if isinstance(expression, str) else expression.hex()


def _from_json(written: object, depth: int = 0) -> Expression:
    if depth > MOST_TERMS:
        raise ValueError(f"an expression of more than {MOST_TERMS} terms")
    match written:
        case [str() as name, *operands]:
            return (name, *(_from_json(operand, depth + 1) for operand in operands))
        case str():
            return written if written == ARGUMENT else float.fromhex(written)
    raise ValueError(f"{written!r} is no expression")
