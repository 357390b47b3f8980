"""Nodes that hand their input on unchanged go."""

from __future__ import annotations

from onnx import NodeProto

from onnxq.graph.constants import integers, integers_operand, operand, scalar
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult

# The element that changes nothing, and the input slots it may stand in.
_NEUTRAL = {"Mul": (1.0, (0, 1)), "Div": (1.0, (1,)), "Add": (0.0, (0, 1)), "Sub": (0.0, (1,))}


class RemoveIdentity(Pass):
    """Let the readers of a node that does nothing read its input.

    1. Identity.
    2. Dropout whose mask is not read; training mode absent or constant false.
    3. Cast to the type the tensor has.
    4. Transpose that keeps the order of the axes.
    5. Reshape or Expand by a constant to the shape the tensor has; Flatten of a matrix along its rows.
    6. Concat, Sum, Mean, Max or Min of a single input; Clip without bounds.
    7. Pad by nothing; Mul or Div by a single 1, Add or Sub of a single 0, that does not raise the rank.
    8. Where the output is an output of the graph and the input is computed by a node, that node takes over the output's
       name; all other readers follow.
    9. Left alone: the output is an output of the graph, and the input is an input, an initializer or itself an output
       of the graph. The copy is part of the interface.
    10. Left alone: Dropout in training mode or whose mask is read.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.domain not in STANDARD_DOMAINS:
                continue
            if node.op_type == "Dropout" and (reason := _dropout_reason(graph, node)):
                log.miss(reason, node.name)  # case 10
            elif (source := _handed_on(graph, node)) is not None:
                _bypass(graph, node, source, log)
        if log.edits:
            graph.prune()
        return log.result(graph)


def _bypass(graph: Graph, node: NodeProto, source: str, log: PassLog) -> None:
    target = node.output[0]
    if not graph.is_output(target):
        graph.replace_uses(target, source)
        graph.remove_node(node)
        log.edit(f"{node.op_type} did nothing", node.name)
        return
    producer = graph.producer(source)
    if producer is None or graph.is_output(source):  # case 9
        log.miss(f"{node.op_type} connects the interface of the model", node.name)
        return
    graph.remove_node(node)  # case 8
    graph.set_output(producer, list(producer.output).index(source), target)
    graph.replace_uses(source, target)
    graph.forget_shape(source)
    log.edit(f"{node.op_type} did nothing", node.name, producer.name)


def _handed_on(graph: Graph, node: NodeProto) -> str | None:
    """The input that `node` hands on unchanged, or None."""
    op = node.op_type
    if op in _NEUTRAL:
        return _beside_neutral(graph, node)
    if op in {"Identity", "Dropout"}:  # cases 1, 2
        return str(node.input[0])
    if op in {"Concat", "Sum", "Mean", "Max", "Min"}:  # case 6
        return str(node.input[0]) if len(node.input) == 1 else None
    return str(node.input[0]) if op in _KEEPS and _KEEPS[op](graph, node) else None


def _dropout_reason(graph: Graph, node: NodeProto) -> str | None:
    """Why a Dropout cannot go, or None."""
    if any(graph.uses(t) or graph.is_output(t) for t in node.output[1:] if t):
        return "the mask of the Dropout is read"
    if graph.opset < 7 and not attribute(node, "is_test", 0):
        return "the Dropout is in training mode"
    mode = operand(node, 2)
    if mode and scalar(graph, mode) is None:
        return "the training mode of the Dropout is not constant"
    return "the Dropout is in training mode" if mode and scalar(graph, mode) else None


def _beside_neutral(graph: Graph, node: NodeProto) -> str | None:
    neutral, slots = _NEUTRAL[node.op_type]  # case 7
    for slot in slots:
        constant, other = node.input[slot], node.input[1 - slot]
        if scalar(graph, constant) != neutral or graph.is_constant(other):
            continue
        rank = graph.rank(other)
        if graph.rank(constant) == 0 or (rank is not None and len(graph.initializers[constant].dims) <= rank):
            return str(other)
    return None


def _cast_keeps(graph: Graph, node: NodeProto) -> bool:  # case 3
    return graph.dtype(node.input[0]) == int(attribute(node, "to"))


def _transpose_keeps(graph: Graph, node: NodeProto) -> bool:  # case 4
    order = attribute(node, "perm")
    if order is None:
        rank = graph.rank(node.input[0])
        return rank is not None and rank < 2
    return list(order) == list(range(len(order)))


def _reshape_keeps(graph: Graph, node: NodeProto) -> bool:  # case 5
    shape, wanted = graph.shape(node.input[0]), integers_operand(graph, node, 1, "shape")
    if shape is None or wanted is None or len(shape) != len(wanted):
        return False
    copies_zero = not attribute(node, "allowzero", 0)
    # One size may be left to be computed: it follows from the others, if those hold and none of them is 0.
    free = [old for old, new in zip(shape, wanted, strict=True) if old != new and not (new == 0 and copies_zero)]
    return not free or (len(free) == 1 and wanted.count(-1) == 1 and 0 not in shape)


def _expand_keeps(graph: Graph, node: NodeProto) -> bool:  # case 5
    shape, wanted = graph.shape(node.input[0]), integers(graph, node.input[1])
    if shape is None or wanted is None or len(wanted) > len(shape):
        return False
    return all(new in (1, old) for old, new in zip(reversed(shape), reversed(wanted), strict=False))


def _flatten_keeps(graph: Graph, node: NodeProto) -> bool:  # case 5
    return graph.rank(node.input[0]) == 2 and attribute(node, "axis", 1) in (1, -1)


def _clip_keeps(graph: Graph, node: NodeProto) -> bool:  # case 6
    has_bounds = any(node.input[1:]) or any(attribute(node, name) is not None for name in ("min", "max"))
    return not has_bounds


def _pad_keeps(graph: Graph, node: NodeProto) -> bool:  # case 7
    pads = integers_operand(graph, node, 1, "pads")
    return pads is not None and not any(pads)


_KEEPS = {
    "Cast": _cast_keeps,
    "Transpose": _transpose_keeps,
    "Reshape": _reshape_keeps,
    "Expand": _expand_keeps,
    "Flatten": _flatten_keeps,
    "Clip": _clip_keeps,
    "Pad": _pad_keeps,
}
