"""Questions to ONNX protobuf messages that need no graph around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxq.errors import ModelError
from onnxq.graph.external_data import is_external, read_external, take_inside

Dim = int | str | None
"""A dimension: a size, the name of a symbolic size, or unknown."""

CAPTURED = -1
"""The slot of a use from inside a node's body (If, Loop, Scan), which has no input position."""

STANDARD_DOMAINS = ("", "ai.onnx")
MICROSOFT = "com.microsoft"
"""Domain of onnxruntime's own operators."""

# Types whose typed fields hold one element per entry.
_PLAIN_TYPES = frozenset(
    {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}
)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute of `node`, or `default` (strings as str)."""
    for attr in node.attribute:
        if attr.name == name:
            value = helper.get_attribute_value(attr)
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return default


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The subgraphs of a control-flow node."""
    for attr in node.attribute:
        if attr.type == AttributeProto.GRAPH:
            yield attr.g
        elif attr.type == AttributeProto.GRAPHS:
            yield from attr.graphs


def nodes_within(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, each followed by those in its bodies, to any depth."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from nodes_within(body.node)


def captured_names(body: GraphProto) -> set[str]:
    """Names that `body` reads from the scopes around it."""
    known = {v.name for v in body.input} | {t.name for t in body.initializer}
    known |= {t.values.name for t in body.sparse_initializer}
    captured: set[str] = set()
    for node in body.node:
        captured |= {name for name in node.input if name and name not in known}
        for inner in bodies(node):
            captured |= captured_names(inner) - known
        known |= set(node.output)
    return captured | {v.name for v in body.output if v.name not in known}


def rename_captured(body: GraphProto, old: str, new: str) -> None:
    """Let everything in `body` that reads `old` from outside read `new`, in place."""
    for node in body.node:
        for slot, name in enumerate(node.input):
            if name == old:
                node.input[slot] = new
        for inner in bodies(node):
            rename_captured(inner, old, new)
    for value in body.output:
        if value.name == old:
            value.name = new


def tensor_value(proto: TensorProto, base_dir: Path | None) -> NDArray[Any]:
    """The array in a tensor message, read from external data where it lies there.

    Raises:
        ModelError: the data is missing, truncated, or lies outside the model's folder.
    """
    try:
        return numpy_helper.to_array(_with_data(proto, base_dir) if is_external(proto) else proto)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"its data cannot be read: {error}", where=f"initializer {proto.name!r}") from error


def tensor_bytes(proto: TensorProto, base_dir: Path | None) -> bytes | None:
    """The little-endian bytes of a tensor message as `raw_data` holds them; None for strings and packed typed fields.

    Raises:
        ModelError: external data is missing, truncated, or lies outside the model's folder.
    """
    if is_external(proto):
        return read_external(proto, base_dir)
    if proto.HasField("raw_data"):
        return bytes(proto.raw_data)
    if proto.data_type in _PLAIN_TYPES:
        value = numpy_helper.to_array(proto)
        return bytes(value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes())
    return None


def _with_data(proto: TensorProto, base_dir: Path | None) -> TensorProto:
    """`proto` with its external data inside."""
    whole = TensorProto()
    whole.CopyFrom(proto)
    take_inside(whole, base_dir)
    return whole


def reads_of(node: NodeProto) -> list[tuple[str, int]]:
    """Every tensor that `node` reads, with the slot; reads from its bodies come last, as `CAPTURED`."""
    reads = [(tensor, slot) for slot, tensor in enumerate(node.input) if tensor]
    captured: set[str] = set()
    for body in bodies(node):
        captured |= captured_names(body)
    return reads + [(tensor, CAPTURED) for tensor in sorted(captured)]


def type_name(dtype: int) -> str:
    """An element type as people write it; the number of one that this onnx does not know."""
    return TensorProto.DataType.Name(dtype).lower() if dtype in TensorProto.DataType.values() else f"number {dtype}"


def dim_of(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    """A dimension as the graph has it: a size, a name, or None."""
    if dim.HasField("dim_value"):
        # Some exporters write -1 for a size they do not know.
        return int(dim.dim_value) if dim.dim_value >= 0 else None
    return dim.dim_param or None


def frame_of(model: ModelProto) -> ModelProto:
    """A copy of `model` without nodes, initializers, inputs, outputs and what is known of tensors."""
    # Field by field, so that weights (possibly gigabytes) are never copied.
    frame = ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED:
            getattr(frame, field.name).extend(value)
        elif field.message_type is not None:
            getattr(frame, field.name).CopyFrom(value)
        else:
            setattr(frame, field.name, value)
    graph = model.graph
    frame.graph.name = graph.name
    frame.graph.doc_string = graph.doc_string
    frame.graph.quantization_annotation.extend(graph.quantization_annotation)
    frame.graph.sparse_initializer.extend(graph.sparse_initializer)
    if hasattr(graph, "metadata_props"):
        frame.graph.metadata_props.extend(graph.metadata_props)
    return frame


def free_name(stem: str, taken: Iterable[str]) -> str:
    """A name that is not `taken`: `stem` where it is free, else with a number."""
    known = taken if isinstance(taken, (set, dict)) else set(taken)
    name, n = stem, 1
    while name in known:
        n += 1
        name = f"{stem}_{n}"
    return name
