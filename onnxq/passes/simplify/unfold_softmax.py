"""A Softmax of a tensor that was made a matrix for it works on the tensor itself.

    Reshape(Softmax(Flatten<axis=3>(x)), Shape(x))   ->  Softmax<axis=-1>(x), x of rank 4

Before opset 13 Softmax worked on a matrix, and onnx's version converter writes that matrix out wherever it cannot tell
that the axis is the last one; it does not know shapes. Nothing is known of the shape behind such a Reshape, and the
detour is run each time. Operators: https://onnx.ai/onnx/operators/onnx__Softmax.html, onnx__LogSoftmax.html,
onnx__Hardmax.html, onnx__Flatten.html
"""

from __future__ import annotations

from onnx import NodeProto

from onnxq.graph.match import Miss, sole_consumer
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult, rewrite_each

_ALONG_AN_AXIS_SINCE = 13
_ALONG_AN_AXIS = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
_OF_A_MATRIX = (1, -1)


class UnfoldSoftmax(Pass):
    """See the module's docstring.

    1. Flatten along the last axis, Softmax, LogSoftmax or Hardmax of its rows, Reshape to the Shape of what was
       flattened.
    2. The same where the Reshape is to a shape that both are known to have.
    3. Left alone: the rank is not known, or the Flatten keeps more than the last axis together.
    4. Left alone: what follows is no Softmax of the rows and a Reshape back.
    5. Left alone: a tensor in between is read elsewhere or is an output of the graph.
    6. Left alone: before opset 13 a Softmax along the last axis has a matrix made of its input anyway.
    """

    def run(self, graph: Graph) -> PassResult:
        if graph.opset < _ALONG_AN_AXIS_SINCE:  # case 6
            return PassLog().result(graph)
        return rewrite_each(graph, "Flatten", _unfold)


def _unfold(graph: Graph, flatten: NodeProto, log: PassLog) -> str | None:
    data = flatten.input[0]
    softmax = sole_consumer(graph, flatten)
    if isinstance(softmax, Miss) or softmax.op_type not in _ALONG_AN_AXIS or softmax.domain not in STANDARD_DOMAINS:
        return None
    rank = graph.rank(data)
    if rank is None or attribute(flatten, "axis", 1) not in (rank - 1, -1):  # case 3
        return "its rows are not along the last axis"
    reshape = sole_consumer(graph, softmax)
    if isinstance(reshape, Miss):
        return reshape.reason  # case 5
    if attribute(softmax, "axis", -1) not in _OF_A_MATRIX or not _goes_back(graph, reshape, data):  # case 4
        return f"no {softmax.op_type} of its rows and a Reshape back follow"
    output = reshape.output[0]
    graph.remove_node(reshape)
    graph.remove_node(softmax)
    graph.add_node(softmax.op_type, [data], [output], name=softmax.name, attributes={"axis": -1})  # cases 1, 2
    log.edit("it works along the last axis", softmax.name)
    return None


def _goes_back(graph: Graph, reshape: NodeProto, data: str) -> bool:
    """Whether a node gives a tensor the shape of `data`."""
    if reshape.op_type != "Reshape" or reshape.domain not in STANDARD_DOMAINS:
        return False
    target = graph.producer(reshape.input[1])
    if target is not None and target.op_type == "Shape" and target.domain in STANDARD_DOMAINS:
        whole = not attribute(target, "start", 0) and attribute(target, "end") is None
        return target.input[0] == data and whole
    known = graph.shape(data)
    return known is not None and known == graph.shape(reshape.output[0]) and all(isinstance(n, int) for n in known)
