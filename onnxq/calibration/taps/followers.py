"""Which tapped tensors are functions of another tapped one alone, element by element: their histograms follow from it.

    x = Conv(..)          counted
    s = Sigmoid(x)        follows x along sigmoid(x)
    y = Mul(x, s)         follows x along x * sigmoid(x), whether s is tapped or not

Every element of such a tensor has an element of x behind it, so counting it would tell nothing new.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import NodeProto

from onnxq.calibration.statistics.curves import ARGUMENT, MOST_TERMS, OPERATORS, Curve, Expression, terms
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute

_MOST_STEPS = 8
"""Nodes between two taps, at most."""

# Attributes that are operands behind the inputs, with their defaults: https://onnx.ai/onnx/operators/
_ATTRIBUTES: dict[str, tuple[tuple[str, float], ...]] = {
    "LeakyRelu": (("alpha", 0.01),),
    "Elu": (("alpha", 1.0),),
    "HardSigmoid": (("alpha", 0.2), ("beta", 0.5)),
}


@dataclass(frozen=True)
class Follower:
    """What a tensor is a function of.

    Attributes:
        source: The tap that is counted.
        curve: The function.
    """

    source: str
    curve: Curve


def followers_among(graph: Graph, taps: Sequence[str]) -> dict[str, Follower]:
    """By name, those of the taps that are functions of another one, which is not among them.

    Args:
        graph: The model.
        taps: Names of tensors in the order in which the model computes them.
    """
    found: dict[str, Follower] = {}
    search = _Search(graph, frozenset(taps), found)
    for name in taps:
        producer = graph.producer(name)
        made = search.result_of(producer, 0) if producer is not None and graph.is_float(name) else None
        if made is not None and made.source is not None and terms(made.expression) <= MOST_TERMS:
            found[name] = Follower(made.source, Curve(made.expression))
    return found


@dataclass(frozen=True)
class _Made:
    """An expression of a tap; of none, if it is a number."""

    source: str | None
    expression: Expression


@dataclass(frozen=True)
class _Search:
    graph: Graph
    taps: frozenset[str]
    found: dict[str, Follower]

    def result_of(self, node: NodeProto, steps: int) -> _Made | None:
        """What a node computes; None where that is no function of one tap."""
        name = _operator(node)
        if name is None or steps == _MOST_STEPS:
            return None
        operands = [self._value_of(tensor, steps) for tensor in node.input]
        made = [operand for operand in operands if operand is not None]
        sources = {operand.source for operand in made} - {None}
        numbers = [_number(node, key, default) for key, default in _ATTRIBUTES.get(node.op_type, ())]
        if len(made) < len(operands) or len(sources) != 1 or len(made) + len(numbers) != OPERATORS[name][0]:
            return None
        return _Made(sources.pop(), (name, *(operand.expression for operand in made), *numbers))

    def _value_of(self, tensor: str, steps: int) -> _Made | None:
        if tensor in self.found:
            return _Made(self.found[tensor].source, self.found[tensor].curve.expression)
        if tensor in self.taps:
            return _Made(tensor, ARGUMENT) if self.graph.is_float(tensor) else None
        if self.graph.is_constant(tensor):
            return self._number(tensor)
        producer = self.graph.producer(tensor)
        return None if producer is None else self.result_of(producer, steps + 1)

    def _number(self, tensor: str) -> _Made | None:
        # Not before its size is known: it may be a large one in an external file.
        value = self.graph.constant(tensor) if all(size == 1 for size in self.graph.shape(tensor) or ()) else None
        number = math.nan if value is None else float(value.reshape(-1)[0])
        return _Made(None, number) if math.isfinite(number) else None


def _number(node: NodeProto, key: str, default: float) -> float:
    value = attribute(node, key)
    return default if value is None else float(value)


def _operator(node: NodeProto) -> str | None:
    """The name of a node's operator in expressions; None if there is none."""
    if node.domain not in STANDARD_DOMAINS or len(node.output) != 1:
        return None
    if node.op_type == "Gelu" and attribute(node, "approximate") in ("tanh", b"tanh"):
        return "GeluByTanh"
    return node.op_type if node.op_type in OPERATORS else None
