"""A hard sigmoid spelled out in four operators becomes one.

    clip(x + b, 0, c) / c        = HardSigmoid(x), alpha = 1 / c, beta = b / c
    y * clip(x + b, 0, c) / c    = y * HardSigmoid(x)             (hard-swish where y is x, with b = 3 and c = 6)

Exporters of older opsets write it so; onnxruntime runs the spelled-out form at half the speed. Operator:
https://onnx.ai/onnx/operators/onnx__HardSigmoid.html (max(0, min(1, alpha x + beta)), opset 6)
"""

from __future__ import annotations

from onnx import NodeProto

from onnxq.graph.constants import scalar
from onnxq.graph.match import Miss, sole_consumer
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult, rewrite_each

_TOLERANCE = 1e-6
"""How far 1 / c written as a float32 constant may be from the quotient."""


class FuseHardSigmoid(Pass):
    """See the module's docstring.

    1. Add of a scalar, Clip from 0 to c, Div by c or Mul by 1 / c.
    2. The same with a Mul by another tensor between Clip and Div.
    3. Left alone: a Clip with other limits, or limits that are not constant.
    4. Left alone: no Add of a positive scalar before the Clip.
    5. Left alone: what follows does not divide by c.
    6. Left alone: a tensor in between is read elsewhere or is an output of the graph.
    """

    def run(self, graph: Graph) -> PassResult:
        return rewrite_each(graph, "Clip", _fuse)


def _fuse(graph: Graph, clip: NodeProto, log: PassLog) -> str | None:
    if not graph.is_float(clip.output[0]):
        return None
    ceiling = _ceiling(graph, clip)
    if ceiling is None:
        return "its limits are not 0 and a positive constant"  # case 3
    add = graph.producer(clip.input[0])
    shift = _shift(graph, add) if add is not None else None
    if add is None or shift is None:
        return "no Add of a scalar comes before it"  # case 4
    tensor, offset = shift
    follower = sole_consumer(graph, clip)
    if isinstance(follower, Miss):
        return follower.reason  # case 6
    gated = None
    if follower.op_type == "Mul" and not any(graph.is_constant(t) for t in follower.input):  # case 2
        gated, found = follower, sole_consumer(graph, follower)
        if isinstance(found, Miss):
            return found.reason
        follower = found
    if not _divides(graph, follower, ceiling):
        return f"what follows does not divide by {ceiling:g}"  # case 5
    last, result = follower.output[0], follower.output[0]
    if gated is not None:
        result = graph.unique_name(f"{clip.output[0]}_hard_sigmoid")
    name = clip.name
    graph.remove_node(follower)
    graph.remove_node(clip)
    graph.add_node(
        "HardSigmoid", [tensor], [result], name=name, attributes={"alpha": 1.0 / ceiling, "beta": offset / ceiling}
    )
    graph.copy_value_info(clip.output[0], result)
    if gated is not None:
        graph.set_input(gated, list(gated.input).index(clip.output[0]), result)
        graph.set_output(gated, 0, last)
    log.edit("spelled-out hard sigmoid", add.name, clip.name, follower.name)
    return None


def _ceiling(graph: Graph, clip: NodeProto) -> float | None:
    """The upper limit of a Clip from 0 to a positive constant."""
    if len(clip.input) == 1:  # opset 6 keeps the limits in attributes
        lower, upper = attribute(clip, "min"), attribute(clip, "max")
    elif len(clip.input) == 3 and clip.input[1] and clip.input[2]:
        lower, upper = scalar(graph, clip.input[1]), scalar(graph, clip.input[2])
    else:
        return None
    return float(upper) if lower == 0.0 and upper is not None and upper > 0.0 else None


def _shift(graph: Graph, add: NodeProto) -> tuple[str, float] | None:
    """The tensor and the scalar of an Add of a scalar that does not raise the tensor's rank."""
    if add.op_type != "Add" or add.domain not in STANDARD_DOMAINS:
        return None
    for tensor, constant in (tuple(add.input), tuple(reversed(add.input))):
        value = scalar(graph, constant)
        if value is not None and not graph.is_constant(tensor):
            rank, own = graph.rank(tensor), graph.rank(constant) or 0
            return (tensor, value) if own == 0 or (rank is not None and own <= rank) else None
    return None


def _divides(graph: Graph, node: NodeProto, divisor: float) -> bool:
    if node.domain not in STANDARD_DOMAINS or node.op_type not in {"Div", "Mul"}:
        return False
    slots = (1,) if node.op_type == "Div" else (0, 1)
    values = [v for slot in slots if (v := scalar(graph, node.input[slot])) is not None]
    if len(values) != 1 or (graph.rank(node.input[1]) or 0) > (graph.rank(node.output[0]) or 0):
        return False
    factor = values[0] * divisor if node.op_type == "Mul" else values[0] / divisor
    return abs(factor - 1.0) <= _TOLERANCE
