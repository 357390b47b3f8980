"""How far each tensor of a quantized model is from the float model's: where in the model the noise comes from.

Both models run with their inner tensors as outputs, the quantized one as ONNX defines Q and DQ. A tensor that goes into
a pair is looked at behind it, as its readers see it. The error of a tensor is that of all layers before it and its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxq.graph.view import Graph
from onnxq.inference.outputs import with_readable_outputs
from onnxq.passes.adapt.settle_types import runnable
from onnxq.planning.macs import with_input_shapes
from onnxq.verification.compare import OutputComparison, OutputError
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.structure import is_float_tensor, is_qdq

Feed = Mapping[str, NDArray[Any]]
Bounds = Mapping[str, tuple[float | None, float | None]]

GROUP_BYTES = 192 * 2**20
"""Tensors of one model that are held at a time; what does not fit together takes another run."""
LOOKED_AT = 2**17
"""Elements of one tensor that are compared, about: enough for a tenth of a dB."""
_UNKNOWN_BYTES = 8 * 2**20
_LARGEST_GROUPS = 64
"""Groups at most: a model whose tensors need more is looked at as far as they reach."""


def tensor_errors(  # noqa: PLR0913 - both models, what to run, and how
    float_graph: Graph,
    quantized: Graph,
    feeds: Sequence[Feed],
    *,
    bounds: Bounds | None = None,
    group_bytes: int = GROUP_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, OutputError]:
    """The error of each float tensor that a node computes, by its name in the float model.

    Args:
        float_graph: The float model, its tensors named as in the quantized one.
        quantized: The quantized model.
        feeds: Batches to run both on.
        bounds: Between which values readers of a tensor tell values apart, by its name; beyond, all count as equal.
        group_bytes: Memory for the tensors of one model.
        progress: Called with the runs done and the runs in all.

    Returns:
        Tensors that both models have; those without elements are left out.

    Raises:
        ModelError: a model cannot be loaded or run.
    """
    if not feeds:
        return {}
    float_graph, quantized = runnable(float_graph), runnable(quantized)
    shaped = with_input_shapes(float_graph, {name: array.shape for name, array in feeds[0].items()})
    seen = {name: _behind_pair(quantized, name) for name in _computed(shaped) if quantized.producer(name)}
    groups = _groups({name: _bytes(shaped, name) for name in seen}, group_bytes)
    comparison = OutputComparison()
    for number, names in enumerate(groups):
        # One model after the other: of large ones there is room for one at a time.
        reference = _model(float_graph, names)
        wanted = [_within(_values(reference, feed, names), bounds or {}) for feed in feeds]
        del reference
        candidate = _model(quantized, [seen[name] for name in names])
        for index, (feed, want) in enumerate(zip(feeds, wanted, strict=True)):
            comparison.add(want, _within(_values(candidate, feed, names), bounds or {}))
            if progress is not None:
                progress(number * len(feeds) + index + 1, len(groups) * len(feeds))
    return {error.name: error for error in comparison.result() if error.elements} if groups else {}


def _model(graph: Graph, outputs: Sequence[str]) -> OrtModel:
    return OrtModel(with_readable_outputs(graph, outputs).to_model(), optimised=False, base_dir=graph.base_dir)


def _values(model: OrtModel, feed: Feed, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    needed = {name: feed[name] for name in model.inputs if name in feed}
    return {name: _looked_at(value) for name, value in zip(names, model(needed).values(), strict=True)}


def _within(values: Mapping[str, NDArray[Any]], bounds: Bounds) -> dict[str, NDArray[Any]]:
    return {name: np.clip(v, *bounds[name]) if name in bounds else v for name, v in values.items()}


def _looked_at(values: NDArray[Any]) -> NDArray[Any]:
    """Elements spread evenly over a tensor; the step is odd, so that it does not stay in one channel of NHWC data."""
    step = max(1, values.size // LOOKED_AT) | 1
    return values if values.size <= LOOKED_AT else np.ascontiguousarray(values.reshape(-1)[::step])


def _computed(graph: Graph) -> Iterable[str]:
    """Float tensors that nodes compute, in graph order."""
    for node in graph.nodes:
        if not is_qdq(node):
            yield from (t for t in node.output if t and is_float_tensor(graph, t) and graph.dtype(t))


def _behind_pair(graph: Graph, tensor: str) -> str:
    """The dequantized form of `tensor` where all that reads it reads that, else `tensor`."""
    readers = graph.consumers(tensor)
    if graph.is_output(tensor) or len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
        return tensor
    behind = graph.consumers(readers[0].output[0])
    found = [n for n in behind if n.op_type == "DequantizeLinear"]
    return str(found[0].output[0]) if found else tensor


def _bytes(graph: Graph, tensor: str) -> int:
    shape, dtype = graph.shape(tensor), graph.dtype(tensor)
    sizes = [size for size in shape or () if isinstance(size, int)]
    if shape is None or len(sizes) < len(shape):
        return _UNKNOWN_BYTES
    return math.prod(sizes) * (helper.tensor_dtype_to_np_dtype(dtype).itemsize if dtype else 4)


def _groups(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    return groups[:_LARGEST_GROUPS]
