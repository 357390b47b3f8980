"""What the graph alone says about a tensor's values: nothing behind a Relu is negative, and so on.

And what it says about the values that matter: a tensor that goes into a hard swish alone, x * clip(x / 6 + 1/2, 0, 1),
may be cut off at -3, because everything below gives 0. Without that half of the codes of such a tensor can be spent on
values that all mean the same.
"""

from __future__ import annotations

import math

from onnx import NodeProto

from onnxq.graph.view import CAPTURED, STANDARD_DOMAINS, Graph, attribute
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.plan import Observed

# Output ranges by operator definition: https://onnx.ai/onnx/operators/
_RANGES: dict[str, tuple[float | None, float | None]] = {
    "Relu": (0.0, None),
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "HardSwish": (-0.375, None),
    "Sqrt": (0.0, None),
    "Exp": (0.0, None),
    "Softplus": (0.0, None),
    "Abs": (0.0, None),
}

# Operators whose output values are among the values of input 0 (or zero).
_KEEP_VALUES = frozenset(
    {
        "MaxPool", "GlobalMaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split",
        "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "Identity", "AveragePool", "GlobalAveragePool",
    }
)  # fmt: skip

# Operators whose outputs hold each element of their data inputs as it came.
_MOVERS = frozenset(
    {"Concat", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity", "Cast"}
)

# Operators that pick by value: what they read is a score as much as an output of the model is.
_PICKERS = frozenset({"TopK", "NonMaxSuppression", "ArgMax", "ReduceMax", "Greater", "GreaterOrEqual"})

_SIGMOID_END = 8.0
_SCORE_REACH = (-4.0, 4.0)
"""Scores of 0.018 to 0.982, in steps of 0.008 and less with 8 bits."""


def clip_limits(graph: Graph, node: NodeProto) -> tuple[float | None, float | None]:
    """Lower and upper limit of a Clip; None where absent or not constant."""
    if len(node.input) == 1:  # opset 6 keeps the limits in attributes
        return attribute(node, "min"), attribute(node, "max")
    limits: list[float | None] = []
    for slot in (1, 2):
        value = graph.constant(node.input[slot]) if len(node.input) > slot and node.input[slot] else None
        limits.append(None if value is None or not value.size else float(value.reshape(-1)[0]))
    return limits[0], limits[1]


def known_bounds(graph: Graph, tensor: str) -> Observed:
    """Bounds on the values of `tensor` that hold for every input."""
    while (node := graph.producer(tensor)) is not None and node.domain in STANDARD_DOMAINS:
        if node.op_type == "Clip":
            return Observed(*clip_limits(graph, node))
        if node.op_type in _RANGES:
            return Observed(*_RANGES[node.op_type])
        if node.op_type not in _KEEP_VALUES:
            break
        tensor = node.input[0]
    return Observed()


def needs_clip(graph: Graph, tensor: str, spec: QuantSpec) -> bool:
    """Whether values of `tensor` can get codes of the type that the form leaves out, for which a Clip has to care.

    Zero has a code, so values that are never negative lie above the smallest one.
    """
    if not spec.saturates_early or spec.qmax < spec.qtype.qmax:
        return spec.saturates_early
    lower = known_bounds(graph, tensor).lower
    return lower is None or lower < 0.0


def reading_bounds(graph: Graph, tensor: str) -> Observed:
    """Bounds beyond which all readers of `tensor` answer as they do at the bound.

    Exact for HardSigmoid, HardSwish, Relu, Clip and gates made of them. A Sigmoid is taken as saturated from 8 on
    either side, where it is within 0.0004 of its limit, a tenth of the smallest step that 8 bits can give it.
    """
    lower, upper = -math.inf, math.inf
    first = True
    for use in graph.uses(tensor):
        low, high = (None, None) if use.slot == CAPTURED else _saturation(graph, graph.node(use.node), tensor)
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        lower, upper = (low, high) if first else (min(lower, low), max(upper, high))
        first = False
    if graph.is_output(tensor) or not lower < upper:
        return Observed()
    return Observed(lower if math.isfinite(lower) else None, upper if math.isfinite(upper) else None)


def score_reach(graph: Graph, tensor: str) -> tuple[float, float] | None:
    """What the range of `tensor` has to hold because a Sigmoid makes scores of it that leave the model, or None.

    Calibration data of a detector need not hold one detection. The largest logit seen is negative then, and a range
    that ends at 0 lets no score above 1/2 through, ever.
    """
    sigmoids = [n.output[0] for n in _readers_behind(graph, tensor) if n.op_type == "Sigmoid"]
    return _SCORE_REACH if any(_is_score(graph, name) for name in sigmoids) else None


def _is_score(graph: Graph, tensor: str) -> bool:
    names = {tensor}
    for node in _readers_behind(graph, tensor):
        if node.op_type in _PICKERS:
            return True
        if node.op_type in _MOVERS:
            names.update(node.output)
    return any(graph.is_output(name) for name in names)


def _readers_behind(graph: Graph, tensor: str) -> list[NodeProto]:
    """What reads the elements of `tensor`, directly or moved, the movers included."""
    found: dict[str, NodeProto] = {}
    waiting = [tensor]
    while waiting:
        for use in graph.uses(waiting.pop()):
            node = None if use.slot == CAPTURED else graph.node(use.node)
            if node is None or node.name in found or node.domain not in STANDARD_DOMAINS:
                continue
            found[node.name] = node
            if node.op_type in _MOVERS:
                waiting.extend(node.output)
    return list(found.values())


def cut(known: Observed, reading: Observed) -> Observed:
    """`known` without what no reader tells apart; `known` where nothing would be left of it."""
    lowers = [b for b in (known.lower, reading.lower) if b is not None]
    uppers = [b for b in (known.upper, reading.upper) if b is not None]
    lower, upper = max(lowers, default=None), min(uppers, default=None)
    return known if lower is not None and upper is not None and not lower < upper else Observed(lower, upper)


def _saturation(graph: Graph, reader: NodeProto, tensor: str) -> tuple[float | None, float | None]:
    """The bounds beyond which `reader` gives what it gives at the bound."""
    if reader.domain not in STANDARD_DOMAINS:
        return None, None
    match reader.op_type:
        case "Relu":
            return 0.0, None
        case "Clip" if reader.input[0] == tensor:
            return clip_limits(graph, reader)
        case "HardSigmoid":
            return _hard_sigmoid_ends(reader)
        case "HardSwish":
            return -3.0, None
        case "Sigmoid":
            return -_SIGMOID_END, _SIGMOID_END
        case "Mul":
            return _gate_end(graph, reader, tensor), None
    return None, None


def _hard_sigmoid_ends(node: NodeProto) -> tuple[float | None, float | None]:
    """Where max(0, min(1, alpha x + beta)) becomes 0, and where 1."""
    alpha, beta = float(attribute(node, "alpha", 0.2)), float(attribute(node, "beta", 0.5))
    return (-beta / alpha, (1.0 - beta) / alpha) if alpha > 0.0 else (None, None)


def _gate_end(graph: Graph, mul: NodeProto, tensor: str) -> float | None:
    """Where x * gate(x) has become 0 for good, if `mul` computes that."""
    others = [t for t in mul.input if t != tensor]
    gate = graph.producer(others[0]) if len(others) == 1 else None
    if gate is None or gate.domain not in STANDARD_DOMAINS or list(gate.input) != [tensor]:
        return None
    if gate.op_type == "HardSigmoid":
        return _hard_sigmoid_ends(gate)[0]
    return -_SIGMOID_END if gate.op_type == "Sigmoid" else None
