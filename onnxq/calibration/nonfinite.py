"""Where NaN and Inf come from: the tensor and the node that an error names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from onnxq.calibration.counting import NonFiniteError
from onnxq.errors import DataError, OnnxqError
from onnxq.graph.view import Graph
from onnxq.inference.outputs import with_outputs, with_readable_outputs
from onnxq.inference.session import Session


def nonfinite_error(graph: Graph, found: NonFiniteError, session: Callable[[Graph], Session]) -> DataError:
    """What a user is told.

    Args:
        graph: The model.
        found: What was found in which tapped tensor.
        session: Makes a session that computes as the one in which it was found, without optimisation.
    """
    kind = "NaN" if np.isnan(found.array).any() else "Inf"
    tensor = _origin(graph, found, session)
    node = graph.producer(tensor)
    maker = "" if node is None else f", computed by {node.op_type} node {node.name!r},"
    return DataError(
        f"tensor {tensor!r}{maker} holds {kind}",
        where=found.batch.label,
        hint=_hint(graph, found),
    )


def _hint(graph: Graph, found: NonFiniteError) -> str:
    ignored = "nonfinite='ignore' (--nonfinite ignore) leaves such values out"
    maker = graph.producer(found.tensor)
    if maker is None or not np.isneginf(found.array[~np.isfinite(found.array)]).all():
        return f"remove this sample or check the model on it; {ignored}."
    around = sorted({node.name for node in (maker, *graph.consumers(found.tensor))})
    return (
        f"if it is a mask, no code stands for its -Inf: keep what makes and reads it in float, exclude={around} "
        f"(--exclude), and so on to the Softmax behind it; else check the model on this sample. {ignored}, and the "
        "mask then counts as the lowest code."
    )


def _origin(graph: Graph, found: NonFiniteError, session: Callable[[Graph], Session]) -> str:
    """Where it went wrong: the first tensor on the way to the tapped one that holds NaN (or Inf), tapped or not.

    Of the same kind: a mask of -Inf ahead of a Softmax is no fault, and says nothing of a NaN behind it.
    """
    wrong = np.isnan if np.isnan(found.array).any() else np.isinf
    ancestors = with_outputs(graph, [found.tensor])
    every: list[str] = [name for node in ancestors.nodes for name in node.output if name and _maybe_float(graph, name)]
    try:
        values = session(with_readable_outputs(ancestors, every)).run(found.batch.arrays)
    except OnnxqError:
        # Some tensors cannot be outputs (optional, sequence); then the tapped one has to do.
        return found.tensor
    for name, value in zip(every, values, strict=True):
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and wrong(value).any():
            return name
    return found.tensor


def _maybe_float(graph: Graph, tensor: str) -> bool:
    return graph.dtype(tensor) in (
        None,
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.BFLOAT16,
    )
