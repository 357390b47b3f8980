"""What an activation passes of the error in front of it, and the shift of a channel that is best for what it passes.

A layer's output y goes through f, often alone: Relu, HardSwish, x * Sigmoid(x). Of an error e at y only f(y + e) - f(y)
goes on. Where most of a channel lies on the flat side, the mean of e is mostly of values that do not count, and taking
it away moves those that do. The shift d that counts minimises |f(y + e - d) - f(y)|^2; one Gauss-Newton step from 0 is

    d = sum s (f(y + e) - f(y)) / sum s^2,        s = f'(y + e), by central differences

It is taken, or 0 where that is better, for channels in which the mean of e would leave clearly more than was there
before. In all others the mean is, whose errors do not add up in the layers behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from onnxq.calibration.runner import CollectOptions
from onnxq.graph.cut import subgraph
from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.passes.adapt.settle_types import runnable

_BENT = frozenset({
    "Abs", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Max", "Min", "Mish", "PRelu",
    "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu",
})  # fmt: skip
_STRAIGHT = frozenset({"Add", "Div", "Identity", "Mul", "Neg", "Sub"})
_MOST_NODES = 12
_STEP_SHARE = 0.02
"""Step of the central differences, as a share of the root mean square of the values."""

_CLEARLY = 1.25
"""By how much more squared error (1 dB) the mean has to leave before it is not taken: less is luck of the samples."""


class Activation:
    """The function of each element that a graph computes of a tensor before anything else.

    Args:
        graph: The graph.
        tensor: The tensor.
        nodes: The nodes that compute the function, in graph order.
        result: What they give.
        options: How to run them.
    """

    def __init__(self, graph: Graph, tensor: str, nodes: Sequence[str], result: str, options: CollectOptions) -> None:
        part = subgraph(graph, nodes, [result], types={tensor: TensorProto.FLOAT})
        part.inputs[tensor] = helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None)  # of any number of places
        self._session, self._tensor = options.session(runnable(part)), tensor

    def __call__(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The function of `values`, of the tensor's rank, with its channels where the tensor has them."""
        feed = {self._tensor: np.ascontiguousarray(values, np.float32)}
        return np.asarray(self._session.run(feed, where="an activation")[0])


def activation_behind(graph: Graph, tensor: str, options: CollectOptions) -> Activation | None:
    """The function that all readers of `tensor` are part of; None where there is none, or it is a straight line.

    None as well for tensors that are not float32.
    """
    if graph.dtype(tensor) != TensorProto.FLOAT or graph.is_output(tensor):
        return None
    inside, derived = list[str](), {tensor}
    best: tuple[list[str], str] | None = None
    front = list(graph.consumers(tensor))
    while front and len(inside) < _MOST_NODES:
        node = next((n for n in front if _is_pointwise(graph, n, derived)), None)
        if node is None:
            break
        front = [n for n in front if n.name != node.name]
        inside.append(node.name)
        derived.add(node.output[0])
        front += [n for n in graph.consumers(node.output[0]) if n.name not in {f.name for f in front}]
        if all(_stays(graph, t, inside) for t in derived - {node.output[0]}):
            best = list(inside), node.output[0]
    if best is None or not any(graph.node(name).op_type in _BENT for name in best[0]):
        return None
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    return Activation(graph, tensor, sorted(best[0], key=order.__getitem__), best[1], options)


def _is_pointwise(graph: Graph, node: NodeProto, derived: set[str]) -> bool:
    if node.domain not in STANDARD_DOMAINS or node.op_type not in _BENT | _STRAIGHT or len(node.output) != 1:
        return False
    return all(t in derived or _goes_along(graph, t) for t in node.input if t)


def _goes_along(graph: Graph, tensor: str) -> bool:
    """Whether `tensor` is a constant, one number or one for each channel."""
    return graph.is_constant(tensor) and sum(size != 1 for size in graph.shape(tensor) or ()) <= 1


def _stays(graph: Graph, tensor: str, inside: Sequence[str]) -> bool:
    """Whether only nodes of `inside` read `tensor`."""
    return not graph.is_output(tensor) and all(use.node in inside for use in graph.uses(tensor))


def best_shift(
    passed: Activation, got: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What to take off each channel.

    Args:
        passed: The activation.
        got: Values with errors, one array for each batch.
        wanted: Those without.
        mean: The mean error, shaped so that it broadcasts along the channels.

    Returns:
        The shifts, shaped as `mean`.
    """
    others = tuple(axis for axis, size in enumerate(mean.shape) if size == 1)
    targets = [passed(want) for want in wanted]
    size = sum(want.size for want in wanted)
    step = _STEP_SHARE * float(np.sqrt(sum(float(np.square(w, dtype=np.float64).sum()) for w in wanted) / max(size, 1)))
    moved, slopes = np.zeros(mean.shape), np.zeros(mean.shape)
    plain = np.zeros(mean.shape)
    for value, target in zip(got, targets, strict=True):
        slope = (passed(value + step) - passed(value - step)) / (2.0 * step or 1.0)
        error = passed(value) - target
        moved += np.sum(slope * error, axis=others, keepdims=True, dtype=np.float64)
        slopes += np.sum(np.square(slope), axis=others, keepdims=True, dtype=np.float64)
        plain += np.sum(np.square(error), axis=others, keepdims=True, dtype=np.float64)
    shifts = [np.zeros(mean.shape), np.divide(moved, slopes, out=np.zeros(mean.shape), where=slopes > 0.0), mean]
    left = [plain, np.zeros(mean.shape), np.zeros(mean.shape)]
    for value, target in zip(got, targets, strict=True):
        for index in (1, 2):
            error = passed(value - shifts[index]) - target
            left[index] += np.sum(np.square(error), axis=others, keepdims=True, dtype=np.float64)
    least = np.where(left[1] < left[0], shifts[1], shifts[0])
    return np.where(left[2] <= _CLEARLY * left[0], mean, least)
