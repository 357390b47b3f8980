"""Float models whose outputs differ from run to run: what the quantized one is compared with is a matter of chance."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto, TensorProto, numpy_helper

from onnxq.graph.evaluate import RANDOM_OPS
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.simplify.fold_batchnorm import in_training_mode
from onnxq.wording.plural import counted

_DRAWING_OPS = RANDOM_OPS - {"Dropout"}
_EXPORT = "export the model in evaluation mode (model.eval() in PyTorch, training=False in Keras)"


def random_warnings(graph: Graph) -> Iterator[str]:
    """A sentence for each kind of node by which outputs of the float model are random, or hang on the whole batch.

    Args:
        graph: The float model, as it was given.
    """
    nodes = [node for node in graph.nodes if node.domain in STANDARD_DOMAINS]
    dropouts = [node.name for node in nodes if node.op_type == "Dropout" and _drops(graph, node)]
    norms = [node.name for node in nodes if node.op_type == "BatchNormalization" and in_training_mode(graph, node)]
    drawing = [node.name for node in nodes if node.op_type in _DRAWING_OPS and attribute(node, "seed") is None]
    if dropouts:
        yield (
            f"The float model has {counted(len(dropouts), 'Dropout')} in training mode, first {dropouts[0]!r}: its "
            f"outputs are random, and so is how far the quantized model is from them; {_EXPORT}."
        )
    if norms:
        yield (
            f"The float model has {counted(len(norms), 'BatchNormalization')} in training mode, first {norms[0]!r}: "
            f"outputs for a sample hang on what else is in its batch; {_EXPORT}."
        )
    if drawing:
        yield (
            f"The float model draws random numbers, first in {drawing[0]!r}: where its outputs hang on them, how far "
            "the quantized model is from them says little."
        )


def _drops(graph: Graph, node: NodeProto) -> bool:
    """Whether a Dropout is known to leave out values."""
    if graph.opset < 7:
        return not attribute(node, "is_test", 0)
    mode = node.input[2] if len(node.input) > 2 else ""
    return bool(mode) and _is_true(graph, mode) and not _is_zero(graph, node.input[1])


def _is_true(graph: Graph, tensor: str) -> bool:
    value = _value(graph, tensor)
    return value is not None and value != 0.0


def _is_zero(graph: Graph, tensor: str) -> bool:
    return bool(tensor) and _value(graph, tensor) == 0.0


def _value(graph: Graph, tensor: str) -> float | None:
    """The number that an initializer or a Constant node holds."""
    values = graph.constant(tensor)
    node = graph.producer(tensor)
    if values is None and node is not None and node.op_type == "Constant":
        held = attribute(node, "value")
        values = numpy_helper.to_array(held) if isinstance(held, TensorProto) else None
    return None if values is None or values.size != 1 else float(values.reshape(-1)[0])
