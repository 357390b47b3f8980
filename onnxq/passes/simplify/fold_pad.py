"""Pad with zeros folds into the Conv or AveragePool behind it.

Conv pads its input with zeros itself; pads of both simply add up. AveragePool does the same where it counts the padding
(count_include_pad=1). Operators: https://onnx.ai/onnx/operators/onnx__Pad.html, onnx__Conv.html, onnx__AveragePool.html
"""

from __future__ import annotations

from onnx import NodeProto

from onnxq.graph.constants import integers, integers_operand, operand, scalar
from onnxq.graph.view import Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult, rewrite_each


class FoldPad(Pass):
    """Add a Pad's sizes to the pads of its only reader.

    1. Conv, pads given or none, auto_pad NOTSET or VALID; the pads of both add up, begin and end apart.
    2. AveragePool that has no pads of its own or counts them; it counts them from then on.
    3. Left alone: a mode other than constant, or a value other than 0.
    4. Left alone: sizes that are not constant, below 0, or along batch or channels.
    5. Left alone: the Pad's output has another reader or is an output of the graph.
    6. Left alone: a reader of another kind. MaxPool pads with minus infinity, not with 0.
    7. Left alone: auto_pad SAME; an AveragePool that leaves its own pads out, rounds up, or is narrower than the pads.
    """

    def run(self, graph: Graph) -> PassResult:
        return rewrite_each(graph, "Pad", _fold)


def _fold(graph: Graph, node: NodeProto, log: PassLog) -> str | None:
    pads = _spatial_pads(graph, node)
    if isinstance(pads, str):
        return pads
    tensor = node.output[0]
    if graph.is_output(tensor) or len(graph.uses(tensor)) != 1:  # case 5
        return "the padded tensor has another reader or is an output of the graph"
    reader = graph.consumers(tensor)[0]
    if reader.op_type not in {"Conv", "AveragePool"} or graph.uses(tensor)[0].slot != 0:  # case 6
        return f"{reader.op_type} does not pad with zeros itself"
    own = attribute(reader, "pads") or [0] * len(pads)
    if (reason := _reader_reason(reader, pads, own)) is not None:  # case 7
        return reason
    graph.set_attributes(reader, pads=[int(a) + b for a, b in zip(own, pads, strict=True)], auto_pad=None)
    if reader.op_type == "AveragePool":
        graph.set_attributes(reader, count_include_pad=1)
    graph.set_input(reader, 0, node.input[0])
    graph.remove_node(node)
    log.edit(f"folded into {reader.op_type}", node.name, reader.name)
    return None


def _reader_reason(reader: NodeProto, pads: list[int], own: list[int]) -> str | None:
    auto = attribute(reader, "auto_pad", "NOTSET")
    if auto not in {"NOTSET", "VALID"}:
        return f"auto_pad is {auto}: the pads depend on the size of the input"
    if len(own) != len(pads):
        return "the Pad and its reader disagree about the rank"
    if reader.op_type == "Conv":
        return None
    if any(own) and not attribute(reader, "count_include_pad", 0):
        return "the AveragePool does not count its own pads"
    if attribute(reader, "ceil_mode", 0):
        return "the AveragePool rounds its size up"
    kernel = list(attribute(reader, "kernel_shape"))
    if any(a + b >= k for a, b, k in zip(own, pads, kernel * 2, strict=True)):
        return "the pads are not narrower than the window of the AveragePool"
    return None


def _spatial_pads(graph: Graph, node: NodeProto) -> list[int] | str:
    """Begin pads of the spatial axes, then end pads, as Conv has them; or the reason why there are none."""
    if (mode := attribute(node, "mode", "constant")) != "constant":  # case 3
        return f"it pads in mode {mode}"
    value = operand(node, 2)
    if (scalar(graph, value) if value else attribute(node, "value", 0.0)) != 0.0:
        return "it pads with another value than 0"
    flat = integers_operand(graph, node, 1, "pads")
    if flat is None or any(size < 0 for size in flat):  # case 4
        return "its sizes are not constant or below 0"
    full = _all_axes(graph, node, flat)
    if isinstance(full, str):
        return full
    rank = len(full) // 2
    if any(full[:2]) or any(full[rank : rank + 2]):
        return "it pads batch or channels"
    return full[2:rank] + full[rank + 2 :]


def _all_axes(graph: Graph, node: NodeProto, flat: tuple[int, ...]) -> list[int] | str:
    tensor = operand(node, 3)
    if not tensor:
        return list(flat)
    axes, rank = integers(graph, tensor), graph.rank(node.input[0])
    if axes is None or rank is None or len(flat) != 2 * len(axes):
        return "its axes are not constant or the rank is not known"
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis % rank] = flat[i]
        full[axis % rank + rank] = flat[i + len(axes)]
    return full
