"""What computes in float32 computes in float16, but for nodes that float16 would ruin.

    Conv (int8) -> Resize -> Concat       the same, float16 between them
    Pow -> ReduceMean -> Sqrt             float32: squares and sums leave float16 soon

TensorRT from 11 on, and TensorRT-RTX, compute each layer in the type that the model gives it (strongly typed networks),
so half precision has to be in the file. float16 ends at 65504, has 11 bits, and below 6.1e-5 fewer: which tensors come
near the ends is measured on samples (`calibration/reach.py`), not guessed from operators. Inputs and outputs of the
model stay float32, with a Cast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from onnxq.graph.float_types import FLOAT_TYPES
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph, attribute
from onnxq.passes.adapt.compute_in_type import ComputeInType
from onnxq.passes.base import Pass, PassResult
from onnxq.planning.masks import hidden_tensors

LARGEST = 65504.0
_MARGIN = 4.0
"""Other inputs than the samples may reach so many times as far."""
_SMALLEST = 2.0**-11
"""A tensor that stays below has values an eighth as large among the subnormal numbers, which have fewer bits."""
_COARSE = 0.02
"""Of a single number, such as the epsilon of a norm, more than this share may not be lost."""

_INEXACT_OPS = frozenset(
    {
        *(f"Reduce{what}" for what in ("L1", "L2", "LogSum", "LogSumExp", "Mean", "Prod", "Sum", "SumSquare")),
        *("CumSum", "Exp", "Log", "Pow"),
    }
)
"""Sums over many elements, and functions that turn a small relative error into a large one."""

_SHAPE_OPS = frozenset({"Shape", "Size"})
_CHOOSING_OPS = frozenset({"Gather", "Slice"})
_MOVING_OPS = frozenset(
    {
        *(
            "Abs",
            "Add",
            "Ceil",
            "Clip",
            "Concat",
            "Div",
            "Expand",
            "Flatten",
            "Floor",
            "Gather",
            "Identity",
            "Max",
            "Min",
        ),
        *(
            "Mod",
            "Mul",
            "Neg",
            "Reshape",
            "Round",
            "Slice",
            "Split",
            "Squeeze",
            "Sub",
            "Transpose",
            "Unsqueeze",
            "Where",
        ),
    }
)
"""Operators behind which a position is still a position."""

_SUMS = frozenset({"Add", "Sub", "Sum"})
"""What is small beside other addends need not be exact."""

_HIDDEN = -20000.0
"""What hides a score from a Softmax in float16: of three masks the sum is still finite, where a row is hidden whole."""

_FRACTIONAL = FLOAT_TYPES | {TensorProto.BOOL}
"""What a Cast may lead to that is no position."""

_PAIR_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})


class ComputeInFloat16(Pass):
    """See the module's docstring. These nodes stay in float32, and a QuantizeLinear behind or a DequantizeLinear in
    front of one of them with it:

    1. Those that read or make a tensor which reaches beyond a quarter of 65504, or stays below 2^-11, on samples; sums
       may read the latter.
    2. Those with a constant that float16 cannot hold: beyond 65504, or a single number of which more than 2 % is lost.
    3. Sums, means and norms over axes, Pow, Exp and Log.
    4. What is computed from sizes alone, and what leads to integers (positions).
    5. Pairs whose scale float16 does not hold exactly.
    6. What exists in float32 alone, or is control flow or an operator of another domain (`ComputeInType`).

    Numbers that hide scores from a Softmax (-3.4e38) are no reason: they become -20000.

    Args:
        reach: The largest magnitude of each tensor on samples; of tensors that it lacks nothing is known.
    """

    def __init__(self, reach: Mapping[str, float]) -> None:
        self._reach = reach

    def run(self, graph: Graph) -> PassResult:
        infer_shapes(graph)
        kept = kept_in_float32(graph, self._reach)
        _hide_nearer(graph)
        graph.prune()
        result = ComputeInType({TensorProto.FLOAT}, TensorProto.FLOAT16, kept=kept).run(graph)
        graph.sort()
        return result


def kept_in_float32(graph: Graph, reach: Mapping[str, float]) -> dict[str, str]:
    """Names of the nodes that stay in float32 by cases 1 to 5 of `ComputeInFloat16`, and why.

    Args:
        graph: The graph, float or quantized, its types known.
        reach: As for `ComputeInFloat16`.
    """
    kept = _Kept(graph, reach)
    kept.by_themselves()
    kept.by_their_neighbours()
    return kept.reasons


@dataclass
class _Kept:
    """Decides for one graph.

    Attributes:
        graph: The graph.
        reach: As for `ComputeInFloat16`.
        reasons: By node.
    """

    graph: Graph
    reach: Mapping[str, float]
    reasons: dict[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.hidden = hidden_tensors(self.graph)

    def by_themselves(self) -> None:
        """Cases 1 to 5 without regard to pairs around."""
        positions = {node.name for node in _leading_to_integers(self.graph)}
        sizes = _from_sizes(self.graph)
        for node in self.graph.nodes:
            if not any(self._is_float32(tensor) for tensor in (*node.input, *node.output)):
                continue
            if node.op_type in _PAIR_OPS:
                reason = self._of_pair(node)
            elif node.name in sizes:
                if node.op_type in _SHAPE_OPS:
                    continue
                reason = "computed from sizes alone"
            elif node.name in positions:
                reason = "leads to integers"
            elif node.op_type in _INEXACT_OPS:
                reason = f"{node.op_type} in half precision loses too much"
            else:
                reason = self._of_reach(node)
            if reason:
                self.reasons[node.name] = reason

    def by_their_neighbours(self) -> None:
        """Pairs in the type of what they stand beside."""
        for node in self.graph.nodes:
            if node.op_type == "QuantizeLinear" and self._comes_in_float32(node.input[0]):
                self.reasons.setdefault(node.name, "what it quantizes is float32")
        waiting = list(self.reasons)
        while waiting:
            name = waiting.pop()
            for other, reason in self._of_one_type_with(self.graph.node(name)):
                if other not in self.reasons:
                    self.reasons[other] = reason
                    waiting.append(other)

    def _comes_in_float32(self, tensor: str) -> bool:
        producer = self.graph.producer(tensor)
        return self.graph.is_input(tensor) if producer is None else producer.name in self.reasons

    def _of_one_type_with(self, node: NodeProto) -> Iterator[tuple[str, str]]:
        """Nodes that have the type of one that stays: between a DequantizeLinear and its readers no Cast may stand."""
        if node.op_type == "QuantizeLinear":
            return
        if node.op_type == "DequantizeLinear":
            for use in self.graph.uses(node.output[0]):
                if self.graph.node(use.node).op_type != "Cast":
                    yield use.node, f"one input comes from {node.name!r} in float32"
            return
        for tensor in node.input:
            source = self.graph.producer(tensor)
            if source is not None and source.op_type == "DequantizeLinear":
                yield source.name, f"{node.name!r} stays in float32"

    def _is_float32(self, tensor: str) -> bool:
        return bool(tensor) and self.graph.dtype(tensor) == TensorProto.FLOAT

    def _of_pair(self, node: NodeProto) -> str:
        scale = self.graph.constant(node.input[1])
        if scale is None:
            return "its scale is computed while running"
        with np.errstate(over="ignore"):
            exact = np.array_equal(scale.astype(np.float16).astype(np.float32), scale)
        return "" if exact else "float16 does not hold its scale"

    def _of_reach(self, node: NodeProto) -> str:
        hides = not self.hidden.isdisjoint(node.output)
        for tensor in filter(self._is_float32, (*node.input, *node.output)):
            if tensor in self.hidden or (hides and self.graph.is_constant(tensor)):
                continue
            reach = self.reach.get(tensor, 0.0)
            if self.graph.is_constant(tensor):
                reason = self._of_constant(tensor)
            elif reach * _MARGIN > LARGEST:
                reason = f"{tensor!r} reaches {reach:.3g}, and float16 ends at 65504"
            elif 0.0 < reach < _SMALLEST and not (node.op_type in _SUMS and tensor in node.input):
                reason = f"{tensor!r} stays below {reach:.1g}, where float16 has few bits"
            else:
                reason = ""
            if reason:
                return reason
        return ""

    def _of_constant(self, tensor: str) -> str:
        values = self.graph.constant(tensor)
        if values is None or not values.size:
            return ""
        finite = np.abs(values[np.isfinite(values)])
        largest = float(finite.max(initial=0.0))
        if largest > LARGEST:
            return f"constant {tensor!r} reaches {largest:.3g}, and float16 ends at 65504"
        if values.size == 1 and abs(float(np.float16(largest)) - largest) > _COARSE * largest:
            return f"float16 has no {largest:.3g} (constant {tensor!r})"
        return ""


def _hide_nearer(graph: Graph) -> None:
    """Let constants that hide scores do so within the range of float16."""
    hidden = hidden_tensors(graph)
    for node in graph.nodes:
        if hidden.isdisjoint(node.output):
            continue
        for slot, name in enumerate(node.input):
            values = graph.constant(name) if name and graph.dtype(name) == TensorProto.FLOAT else None
            if values is None or not np.any((values < _HIDDEN) & np.isfinite(values)):
                continue
            nearer = graph.unique_name(f"{name}_float16")
            clipped = np.where(np.isfinite(values), np.maximum(values, np.float32(_HIDDEN)), values)
            graph.add_initializer(nearer, numpy_helper.from_array(clipped.astype(np.float32), nearer))
            graph.set_input(node, slot, nearer)


def _from_sizes(graph: Graph) -> set[str]:
    """Names of the nodes that compute with sizes and constants alone; positions up to 65504 would not be exact."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.op_type in _CHOOSING_OPS and graph.is_constant(node.input[0]):
            continue  # part of a table
        sources = [graph.producer(name) for name in node.input if name and not graph.is_constant(name)]
        if node.op_type in _SHAPE_OPS or (sources and all(s is not None and s.name in found for s in sources)):
            found.add(node.name)
    return found


def _leading_to_integers(graph: Graph) -> Iterator[NodeProto]:
    """Nodes between which a float that becomes an integer is computed."""
    casts = [n for n in graph.nodes if n.op_type == "Cast" and attribute(n, "to") not in _FRACTIONAL]
    yield from casts
    waiting, seen = [tensor for cast in casts for tensor in cast.input], set[str]()
    while waiting:
        node = graph.producer(waiting.pop())
        if node is None or node.name in seen or node.op_type not in _MOVING_OPS:
            continue
        seen.add(node.name)
        yield node
        waiting.extend(filter(None, node.input))
