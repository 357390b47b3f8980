"""The facts of a model file, float or quantized. Imports onnx: only `onnxq inspect` itself may import this module.

JSON (onnxq.model/1): {schema, path, size_bytes, ir_version, opsets: {domain: version}, producer, parameters,
inputs and outputs: [{name, dtype, shape}], operators: {type: count}, metadata: {key: value},
pairs: [{tensor, kind, dtype, axis, scale: [..], zero_point: [..]}]}. An unknown size in a shape is null.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnxq.graph.messages import type_name
from onnxq.graph.model import get_metadata, load_graph, size_bytes
from onnxq.graph.view import Dim, Graph, attribute
from onnxq.plural import counted
from onnxq.sizes import size_text

_SHOWN_CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class ValueFacts:
    """An input or output: its name, ONNX type and sizes (None where unknown; shape None where the rank is)."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None


@dataclass(frozen=True, kw_only=True)
class PairFacts:
    """A quantized tensor.

    Attributes:
        tensor: Name of the tensor that is quantized, or of the codes where only those are in the model.
        kind: "activation" (a Q in the graph), "constant" (codes in the file) or "codes" (anything else behind a DQ).
        dtype: Type of the codes.
        axis: Channel axis; None for per-tensor.
        scale: One value, or one for each channel; empty if it is computed in the graph.
        zero_point: Likewise; empty if the model leaves it out.
    """

    tensor: str
    kind: str
    dtype: str
    axis: int | None
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is in a model file; see the module's docstring."""

    path: str
    size_bytes: int
    ir_version: int
    opsets: dict[str, int]
    producer: str
    parameters: int
    inputs: tuple[ValueFacts, ...]
    outputs: tuple[ValueFacts, ...]
    operators: dict[str, int]
    metadata: dict[str, str]
    pairs: tuple[PairFacts, ...]

    def to_dict(self) -> dict[str, Any]:
        """The facts as plain values."""
        return {"schema": "onnxq.model/1", **asdict(self)}


def inspect_model(path: Path) -> ModelFacts:
    """Read the facts of a model file.

    Raises:
        ModelError: the model cannot be read or is not valid.
    """
    graph = load_graph(path)
    operators = Counter(_operator(node) for node in graph.nodes)
    frame = graph.frame
    return ModelFacts(
        path=str(path),
        size_bytes=size_bytes(path, graph),
        ir_version=frame.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in frame.opset_import},
        producer=f"{frame.producer_name} {frame.producer_version}".strip(),
        parameters=sum(math.prod(tensor.dims) for tensor in graph.initializers.values()),
        inputs=tuple(_value(graph, name) for name in graph.inputs),
        outputs=tuple(_value(graph, name) for name in graph.outputs),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        metadata=get_metadata(frame),
        pairs=tuple(_pairs(graph)),
    )


def _operator(node: NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _value(graph: Graph, name: str) -> ValueFacts:
    return ValueFacts(name=name, dtype=_type_name(graph.dtype(name)), shape=graph.shape(name))


def _type_name(dtype: int | None) -> str:
    return "unknown" if dtype is None else type_name(dtype)


def _pairs(graph: Graph) -> Iterable[PairFacts]:
    """Each Q, and each DQ that no Q feeds, in graph order; a tensor that several DQs read comes once."""
    seen: set[str] = set()
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in seen:
            continue
        kind = _kind(graph, node)
        if kind is not None:
            seen.add(node.input[0])
            yield _pair(graph, node, kind)


def _kind(graph: Graph, node: NodeProto) -> str | None:
    if node.op_type == "QuantizeLinear":
        return "activation"
    if graph.is_constant(node.input[0]):
        return "constant"
    producer = graph.producer(node.input[0])
    return None if producer is not None and producer.op_type == "QuantizeLinear" else "codes"


def _pair(graph: Graph, node: NodeProto, kind: str) -> PairFacts:
    scale = graph.constant(node.input[1])
    zero_name = node.input[2] if len(node.input) > 2 else ""
    zero_point = graph.constant(zero_name) if zero_name else None
    # Without a zero-point the codes of a Q are uint8 (ONNX, QuantizeLinear).
    carrier = zero_name or (node.input[0] if kind == "constant" else "")
    return PairFacts(
        tensor=node.input[0],
        kind=kind,
        dtype=_type_name(graph.dtype(carrier)) if carrier else "uint8",
        axis=None if scale is None or scale.size == 1 else int(attribute(node, "axis", 1)),
        scale=() if scale is None else tuple(np.asarray(scale, np.float64).reshape(-1).tolist()),
        zero_point=() if zero_point is None else tuple(np.asarray(zero_point, np.int64).reshape(-1).tolist()),
    )


def facts_table(facts: ModelFacts) -> RenderableType:
    """The facts as a person reads them."""
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in _rows(facts):
        rows.add_row(name, escape(value))
    return Group(rows, Text(""), _pairs_table(facts.pairs)) if facts.pairs else rows


def _rows(facts: ModelFacts) -> Iterable[tuple[str, str]]:
    yield "model", facts.path
    values = "1 value" if facts.parameters == 1 else f"{facts.parameters:,} values"
    yield "size", f"{size_text(facts.size_bytes)}, {values} in initializers"
    opsets = ", ".join(f"{domain} {version}" for domain, version in facts.opsets.items())
    yield "opset", f"{opsets} (IR version {facts.ir_version})"
    if facts.producer:
        yield "made by", facts.producer
    for value in facts.inputs:
        yield "input", _value_text(value)
    for value in facts.outputs:
        yield "output", _value_text(value)
    yield "operators", ", ".join(f"{count} {op}" for op, count in facts.operators.items())
    for key, text in facts.metadata.items():
        yield "metadata", f"{key} = {text}"


def _value_text(value: ValueFacts) -> str:
    if value.shape is None:
        return f"{value.name}: {value.dtype} of unknown shape"
    sizes = ", ".join("?" if size is None else str(size) for size in value.shape)
    return f"{value.name}: {value.dtype} ({sizes})"


def _pairs_table(pairs: tuple[PairFacts, ...]) -> Table:
    table = Table(title=counted(len(pairs), "quantized tensor"), title_justify="left", box=None, pad_edge=False)
    for heading in ("tensor", "kind", "type", "axis", "zero-point", "scale"):
        table.add_column(heading, overflow="fold")
    for pair in pairs:
        table.add_row(
            escape(pair.tensor),
            pair.kind,
            pair.dtype,
            "" if pair.axis is None else str(pair.axis),
            _several([str(z) for z in dict.fromkeys(pair.zero_point)]),
            _several([f"{s:.6g}" for s in pair.scale]),
        )
    return table


def _several(values: list[str]) -> str:
    if len(values) <= _SHOWN_CHANNELS:
        return ", ".join(values)
    return ", ".join(values[:_SHOWN_CHANNELS]) + f", ... ({len(values)} channels)"
