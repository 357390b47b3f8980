"""The constant part of a graph: which nodes it has, how large its results are, and their values.

Values come from onnx-graphsurgeon's `fold_constants` (https://github.com/NVIDIA/TensorRT, tools/onnx-graphsurgeon),
which runs onnxruntime, on the cut-out part. Its folding of shapes is off: it moves integer casts past arithmetic and so
turns a factor 0.5 into 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import STANDARD_DOMAINS, Graph, bodies, tensor_value

# A result is kept out of the model from this size on, if it is also this many times larger than what it is made from.
_LARGE_BYTES = 1 << 20
_GROWTH = 4

# Severities of onnxruntime's logger, which cannot be asked for its own; it starts with warnings.
_WARNINGS, _FATAL_ONLY = 2, 4

RANDOM_OPS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout"}
)
"""Operators that may give something else in every run; a Dropout does in training mode alone."""
_QUANTIZATION_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# Operators whose result may be far larger than their operands.
_GROWING_OPS = frozenset(
    {
        "ConstantOfShape",
        "Expand",
        "Tile",
        "Range",
        "Pad",
        "Resize",
        "Upsample",
        "OneHot",
        "CenterCropPad",
        "BlackmanWindow",
    }
    | {"HannWindow", "HammingWindow", "MelWeightMatrix"}
)
# Types that numpy and onnx-graphsurgeon hold without loss.
_PLAIN_TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.DOUBLE,
        TensorProto.FLOAT16,
        TensorProto.INT8,
        TensorProto.INT16,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.UINT8,
        TensorProto.UINT16,
        TensorProto.UINT32,
        TensorProto.UINT64,
        TensorProto.BOOL,
    }
)


class EvaluationError(Exception):
    """onnxruntime could not evaluate a part of the graph. Never leaves the pass that asked."""


@dataclass(frozen=True)
class Evaluation:
    """A part of a graph that depends on initializers alone.

    Attributes:
        nodes: Its nodes, in topological order.
        results: The tensors in it that are read outside of it.
        refused: Nodes over constants that are left out, with the reason.
    """

    nodes: tuple[NodeProto, ...]
    results: tuple[str, ...]
    refused: dict[str, str]


def foldable_part(graph: Graph) -> Evaluation:
    """The part of `graph`, whose nodes stand in topological order, that is to be replaced by its values."""
    refused: dict[str, str] = {}
    candidates = _closure(graph, set(), refused)
    if candidates:
        oversized = _oversized(graph, candidates)
        refused |= oversized
        candidates = _closure(graph, set(oversized), {})
    inside = {node.name for node in candidates}
    results = tuple(
        tensor
        for node in candidates
        for tensor in node.output
        if any(use.node not in inside for use in graph.uses(tensor))
    )
    return Evaluation(tuple(candidates), results, refused)


def pieces_of(part: Evaluation) -> list[Evaluation]:
    """`part` cut to pieces that have no tensor in common: evaluated in turn, they need less memory."""
    piece_of: dict[str, int] = {}  # by tensor
    pieces: dict[int, list[NodeProto]] = {}
    for index, node in enumerate(part.nodes):
        joined = sorted({piece_of[tensor] for tensor in node.input if tensor in piece_of})
        nodes = [one for piece in joined for one in pieces.pop(piece)]
        pieces[index] = [*nodes, node]
        piece_of.update((tensor, index) for one in pieces[index] for tensor in one.output if tensor)
    results = frozenset(part.results)
    return [
        Evaluation(
            nodes=tuple(nodes),
            results=tuple(t for node in nodes for t in node.output if t in results),
            refused={},
        )
        for nodes in pieces.values()
    ]


def evaluate(graph: Graph, part: Evaluation) -> dict[str, NDArray[Any]]:
    """The values of `part.results`.

    Raises:
        EvaluationError: onnxruntime cannot run the part.
    """
    # Imported here: they are slow to load, and most models need them at most once.
    import onnx_graphsurgeon  # noqa: PLC0415
    from onnx_graphsurgeon.logger import G_LOGGER  # noqa: PLC0415

    from onnxq.runtime import ort  # noqa: PLC0415

    model = _cut_out(graph, part.nodes, [])
    # graphsurgeon evaluates tensors that nobody reads; the results are given such a reader each.
    for index, tensor in enumerate(part.results):
        model.graph.node.append(helper.make_node("Identity", [tensor], [f"result {index}"]))
        model.graph.output.append(helper.make_empty_tensor_value_info(f"result {index}"))
    severity = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL
    # graphsurgeon gives its session no options, so onnxruntime's remarks on it go by the process's default.
    ort.set_default_logger_severity(_FATAL_ONLY)
    try:
        folded = onnx_graphsurgeon.import_onnx(model).fold_constants(fold_shapes=False, error_ok=False)
        values = [np.asarray(tensor.values) for tensor in folded.outputs]
    except Exception as error:
        # onnxruntime and graphsurgeon raise exceptions of many unrelated types.
        raise EvaluationError(str(error).strip().splitlines()[0] if str(error).strip() else repr(error)) from error
    finally:
        G_LOGGER.severity = severity
        ort.set_default_logger_severity(_WARNINGS)
    return dict(zip(part.results, values, strict=True))


def _closure(graph: Graph, excluded: set[str], refused: dict[str, str]) -> list[NodeProto]:
    """Nodes that depend on initializers alone, without those `excluded` and what hangs on them."""
    known = {name for name, proto in graph.initializers.items() if proto.data_type in _PLAIN_TYPES}
    found: list[NodeProto] = []
    for node in graph.nodes:
        if node.name in excluded or not all(tensor in known for tensor in node.input if tensor):
            continue
        reason = _refusal(graph, node)
        if reason is None:
            found.append(node)
            known.update(tensor for tensor in node.output if tensor)
        else:
            refused[node.name] = reason
    return found


def _refusal(graph: Graph, node: NodeProto) -> str | None:
    if node.domain not in STANDARD_DOMAINS:
        return f"operators of domain {node.domain!r} are not evaluated"
    if node.op_type in RANDOM_OPS:
        return "its values are random"
    if node.op_type in _QUANTIZATION_OPS or node.op_type == "Constant":
        return f"{node.op_type} is kept as it is"
    if next(bodies(node), None) is not None:
        return "control flow is not evaluated"
    if any(graph.is_output(tensor) for tensor in node.output):
        return "its output is an output of the graph"
    return None


def _oversized(graph: Graph, nodes: list[NodeProto]) -> dict[str, str]:
    """Nodes whose result must not or may not be put into the model, with the reason."""
    part = Graph(
        _cut_out(graph, nodes, [t for node in nodes for t in node.output if t], with_data=False), graph.base_dir
    )
    infer_shapes(part)
    refused: dict[str, str] = {}
    for node in nodes:
        if any(_is_no_plain_tensor(part, tensor) for tensor in node.output if tensor):
            refused[node.name] = "it gives no tensor of plain numbers"
            continue
        if any(_is_empty_array(part, tensor) for tensor in node.output if tensor):
            refused[node.name] = "its result has no elements"
            continue
        after = [_size_bytes(part, tensor) for tensor in node.output if tensor]
        before = [_size_bytes(part, tensor) for tensor in node.input if tensor]
        if None in after:
            if node.op_type in _GROWING_OPS:
                refused[node.name] = "the size of its result cannot be told beforehand"
            continue
        result, made_from = sum(filter(None, after)), sum(filter(None, before))
        if result > _LARGE_BYTES and result > _GROWTH * made_from and None not in before:
            refused[node.name] = f"its result takes {result} bytes, made from {made_from}"
    return refused


def _is_no_plain_tensor(part: Graph, tensor: str) -> bool:
    value = part.outputs[tensor]
    kind = value.type.WhichOneof("value")
    return kind not in (None, "tensor_type") or (part.dtype(tensor) or TensorProto.FLOAT) not in _PLAIN_TYPES


def _is_empty_array(part: Graph, tensor: str) -> bool:
    """Whether `tensor` has two axes or more and no element: OpenVINO 2026.4 reads such a constant in another shape."""
    shape = part.shape(tensor)
    return shape is not None and len(shape) > 1 and 0 in shape


def _size_bytes(part: Graph, tensor: str) -> int | None:
    shape, dtype = part.shape(tensor), part.dtype(tensor)
    if shape is None or dtype is None or not all(isinstance(size, int) for size in shape):
        return None
    return math.prod(int(size or 0) for size in shape) * helper.tensor_dtype_to_np_dtype(dtype).itemsize


def _cut_out(
    graph: Graph, nodes: tuple[NodeProto, ...] | list[NodeProto], outputs: list[str], *, with_data: bool = True
) -> ModelProto:
    """A model of `nodes` alone, with the initializers that they read."""
    model = ModelProto(ir_version=graph.frame.ir_version)
    model.opset_import.extend(graph.frame.opset_import)
    model.graph.name = "constants"
    model.graph.node.extend(nodes)
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    read = dict.fromkeys(tensor for node in nodes for tensor in node.input if graph.is_constant(tensor))
    for tensor in read:
        proto = graph.initializers[tensor]
        if with_data and proto.data_location == TensorProto.EXTERNAL:
            proto = numpy_helper.from_array(tensor_value(proto, graph.base_dir), tensor)
        model.graph.initializer.append(proto)
    return model
