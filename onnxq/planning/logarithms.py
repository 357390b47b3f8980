"""Nodes with weights in front of a logarithm: front ends that make spectrograms of a waveform.

A logarithm makes the relative error of a value the absolute one of its result. Codes of 8 bits have a constant absolute
error, so what lies far below the largest value, and a spectrogram spans 80 dB, comes out of the logarithm as noise:

    wave -> Conv (sines) --> Mul (square) -+-> Add -> MatMul (bands) -> Max -> Log -> network
         -> Conv (cosines) -> Mul (square) -+

Followed backwards are operators that hand the error of small values on. A function that saturates ends the way: behind
Exp, Softmax or Sigmoid small values are exact in another sense, and what lies before is a network, not a front end.
"""

from __future__ import annotations

from onnxq.graph.view import STANDARD_DOMAINS, Graph

_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_MOVERS = frozenset({
    "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
})  # fmt: skip
_POWERS = frozenset({
    "Abs", "Add", "Div", "Mul", "Neg", "Pow", "ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare", "Sqrt", "Sub",
    "Sum",
})  # fmt: skip
# What keeps a logarithm from zero. Behind a node with weights it is an activation (Clip is ReLU6), and ends the way.
_FLOORS = frozenset({"Clip", "Max", "Where"})

LOGARITHM_RULE = "R35"


def logged_reason(log: str) -> str:
    """Why a node in front of the logarithm `log` stays float."""
    return f"its output goes into the logarithm {log!r}, which magnifies the rounding of small values"


def logged_nodes(graph: Graph) -> dict[str, str]:
    """Names of the nodes with weights whose outputs come into a logarithm as they are, with the name of that node."""
    found: dict[str, str] = {}
    for log in graph.nodes:
        if log.op_type == "Log" and log.domain in STANDARD_DOMAINS:
            for name in _linear_before(graph, log.input[0]):
                found.setdefault(name, log.name)
    return found


def _linear_before(graph: Graph, tensor: str) -> list[str]:
    """The nodes with weights that `tensor` comes from without a saturating function between."""
    found: list[str] = []
    front, seen = [(tensor, False)], set[tuple[str, bool]]()
    while front:
        name, passed = front.pop()
        node = graph.producer(name)
        if node is None or node.domain not in STANDARD_DOMAINS or (name, passed) in seen:
            continue
        seen.add((name, passed))
        if node.op_type in _LINEAR:
            found.append(node.name)
            passed = True
        elif node.op_type not in _MOVERS | _POWERS and (passed or node.op_type not in _FLOORS):
            continue
        front += [(t, passed) for t in node.input if t and not graph.is_constant(t)]
    return list(dict.fromkeys(found))
