"""What operators of other domains give is asked of onnxruntime.

onnx's inference stops at an operator that it does not know, and nothing behind one of unknown type can be quantized.
Where onnxruntime knows the operator, from a library that was registered (`inference/custom_ops.py`), it tells the type,
and the sizes if the library does.
"""

from __future__ import annotations

from onnx import NodeProto

from onnxq.errors import ModelError
from onnxq.graph.messages import MICROSOFT
from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.inference.outputs import with_outputs
from onnxq.inference.session import make_session
from onnxq.passes.base import Pass, PassLog, PassResult


class TypeCustomOperators(Pass):
    """Complete what is known of the outputs of operators that are not ONNX's own.

    1. Outputs of which no type is known get type and shape that onnxruntime infers.
    2. Left alone: onnxruntime cannot load the nodes; what runs the model will say why.
    3. Left alone: outputs whose types are known, and onnxruntime's own operators, which shape inference knows.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        untyped = {name: node.name for node in graph.nodes for name in _untyped(graph, node)}
        if not untyped:  # case 3
            return log.result(graph)
        try:
            session = make_session(
                with_outputs(graph, list(untyped)).to_model(), optimise=False, base_dir=graph.base_dir
            )
        except ModelError:
            log.miss("onnxruntime does not know it", *dict.fromkeys(untyped.values()))  # case 2
            return log.result(graph)
        told = [value for value in session.output_types() if value.name in untyped and value.type.WhichOneof("value")]
        graph.set_value_info([*(v for v in graph.value_infos.values() if v.name not in untyped), *told])
        for value in told:
            log.edit(f"type of {value.name!r}", untyped[value.name])  # case 1
        return log.result(graph)


def _untyped(graph: Graph, node: NodeProto) -> list[str]:
    if node.domain in (*STANDARD_DOMAINS, MICROSOFT):
        return []
    return [name for name in node.output if name and graph.dtype(name) is None and not graph.is_output(name)]
