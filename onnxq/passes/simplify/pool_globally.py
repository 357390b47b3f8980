"""The mean over a whole image is a GlobalAveragePool, however the exporter writes it.

    ReduceMean<axes=(2, 3)>(x)               ->  GlobalAveragePool(x)
    ReduceMean<axes=(2, 3), keepdims=0>(x)   ->  Flatten(GlobalAveragePool(x))
    AveragePool<kernel_shape=(7, 7)>(x)      ->  GlobalAveragePool(x), x of (N, C, 7, 7)

onnxruntime has an int8 kernel for that operator and none that pays for the other two (C10), so a squeeze-and-excite
block or a classifier's head need not leave the codes. Operators: https://onnx.ai/onnx/operators/
onnx__GlobalAveragePool.html, onnx__ReduceMean.html, onnx__AveragePool.html
"""

from __future__ import annotations

from onnx import NodeProto, TensorProto

from onnxq.graph.constants import integers_operand
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult

_IMAGE_RANK = 4
_SPATIAL = (2, 3)
_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})


class PoolGlobally(Pass):
    """Write means over both spatial axes of an image as GlobalAveragePool.

    1. ReduceMean over axes 2 and 3, counted from either end, that keeps them.
    2. The same that drops them: a Flatten follows.
    3. AveragePool whose window is the whole image, without pads.
    4. Left alone: other axes, axes that are not constant, another rank, other types.
    5. Left alone: a window that is not the whole image, or an image of open size.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        for node in graph.nodes:
            if node.domain not in STANDARD_DOMAINS or node.op_type not in ("ReduceMean", "AveragePool"):
                continue
            if graph.rank(node.input[0]) != _IMAGE_RANK or graph.dtype(node.input[0]) not in _TYPES:  # case 4
                continue
            if node.op_type == "AveragePool":
                if _covers_the_image(graph, node):  # case 3, else 5
                    _replace(graph, node, keeps_axes=True)
                    log.edit("its window is the whole image", node.name)
            elif _is_spatial(graph, node):  # else case 4
                _replace(graph, node, keeps_axes=bool(attribute(node, "keepdims", 1)))  # cases 1, 2
                log.edit("the mean over an image is a GlobalAveragePool", node.name)
        if log.edits:
            graph.prune()
        return log.result(graph)


def _is_spatial(graph: Graph, node: NodeProto) -> bool:
    axes = integers_operand(graph, node, 1, "axes")
    return axes is not None and sorted(axis % _IMAGE_RANK for axis in axes) == list(_SPATIAL)


def _covers_the_image(graph: Graph, node: NodeProto) -> bool:
    shape = graph.shape(node.input[0]) or ()
    plain = not any(attribute(node, "pads") or ()) and attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return plain and tuple(attribute(node, "kernel_shape")) == shape[2:]


def _replace(graph: Graph, node: NodeProto, *, keeps_axes: bool) -> None:
    data, output = node.input[0], node.output[0]
    graph.remove_node(node)
    if keeps_axes:
        graph.add_node("GlobalAveragePool", [data], [output], name=node.name)
        return
    pooled = graph.unique_name(f"{output}_pooled")
    graph.add_node("GlobalAveragePool", [data], [pooled], name=node.name)
    graph.add_node("Flatten", [pooled], [output], name=f"{node.name}_Flatten", attributes={"axis": 1})
