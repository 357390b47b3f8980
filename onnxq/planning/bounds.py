"""What the graph alone says about a tensor's values: nothing behind a Relu is negative, and so on."""

from __future__ import annotations

from onnx import NodeProto

from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
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
