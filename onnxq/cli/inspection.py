"""The facts of a model file, float or quantized. Imports onnx: only `onnxq inspect` itself may import this module.

JSON (onnxq.model/1): {schema, path, size_bytes, ir_version, opsets: {domain: version}, producer, parameters,
inputs and outputs: [{name, dtype, shape}], operators: {type: count}, metadata: {key: value},
pairs: [{tensor, kind, dtype, axis, block_size, scale: [..], zero_point: [..], group, rule, writer, readers}],
nodes (of a quantized model): [{node, op, action, reason, rule, macs, mac_share}], int8_mac_share,
weight_shares: {type: share}, sizes: {input: shape} where arithmetic was counted for sizes that the model leaves open}.
An unknown size in a shape is null. Filters pick among pairs and nodes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnx import NodeProto
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnxq.cli.tables import counts, node_table, tensor_table
from onnxq.graph.messages import bodies, nodes_within, type_name
from onnxq.graph.model import get_metadata, load_graph, quantized_nodes, size_bytes
from onnxq.graph.view import Dim, Graph
from onnxq.passes.simplify.lift_constants import constant_tensor
from onnxq.planning.kept_reasons import REASONS_KEY
from onnxq.report.explanation import Explanation, NodeRow, RowFilter, TensorRow
from onnxq.report.quantized_model import explain_model
from onnxq.targets import TARGET_NAMES, resolve_target
from onnxq.targets.schema import Target
from onnxq.wording.sizes import size_text


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
        kind: "activation" (a Q in the graph), "constant" (codes in the file behind a DQ), "weight" (codes that an
            operator reads itself), "table" or "codes" (anything else behind a DQ).
        dtype: Type of the codes.
        axis: Channel axis, or that along which blocks run; None for per-tensor.
        block_size: Values along it that share a scale; None without blocks.
        scale: One value, or one for each channel; empty if it is computed in the graph.
        zero_point: Likewise; empty if the model leaves it out.
        group: Activations with equal parameters have the name of the first of them; "" for one that stands alone.
        rule: Rules of the target for the nodes that write and read it, where the target is known.
        writer: Name of the node that computes it.
        readers: Names of the nodes that read it dequantized.
    """

    tensor: str
    kind: str
    dtype: str
    axis: int | None
    block_size: int | None
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    group: str = ""
    rule: str = ""
    writer: str = ""
    readers: tuple[str, ...] = ()


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
    nodes: tuple[NodeRow, ...]
    int8_mac_share: float | None
    weight_shares: dict[str, float]
    sizes: dict[str, tuple[int, ...]]

    def to_dict(self) -> dict[str, Any]:
        """The facts as plain values."""
        return {"schema": "onnxq.model/1", **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """A model file, looked at.

    Attributes:
        facts: All facts, with the rows that were picked.
        shown: The picked rows.
        whole: All rows.
        target: Name of the target whose rules are named; None where it is not known.
    """

    facts: ModelFacts
    shown: Explanation
    whole: Explanation
    target: str | None


def inspect_model(path: Path, rows: RowFilter, target: str | None = None) -> Inspected:
    """Read the facts of a model file.

    Args:
        path: The file.
        rows: Which nodes and quantized tensors to show.
        target: Whose rules to name; None takes the target that the file names.

    Raises:
        ModelError: the model cannot be read or is not valid.
        ConfigError: there is no such target, or a pattern fits nothing.
    """
    graph = load_graph(path)
    operators = Counter(_operator(node) for node in graph.nodes)
    frame = graph.frame
    metadata = get_metadata(frame)
    table = _table_of(target, metadata)
    size = size_bytes(path, graph)
    inputs = tuple(_value(graph, name) for name in graph.inputs)
    outputs = tuple(_value(graph, name) for name in graph.outputs)
    whole = Explanation(nodes=(), tensors=(), int8_mac_share=None)
    if quantized_nodes(graph):
        whole = explain_model(graph, table, likely_sizes=True)
    shown = rows.pick(whole) if whole.nodes else whole
    facts = ModelFacts(
        path=str(path),
        size_bytes=size,
        ir_version=frame.ir_version,
        opsets={entry.domain or "ai.onnx": entry.version for entry in frame.opset_import},
        producer=f"{frame.producer_name} {frame.producer_version}".strip(),
        parameters=_values_held(graph),
        inputs=inputs,
        outputs=outputs,
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        metadata=metadata,
        pairs=tuple(_pair(row) for row in shown.tensors),
        nodes=shown.nodes,
        int8_mac_share=whole.int8_mac_share,
        weight_shares=dict(whole.weight_shares),
        sizes=dict(whole.sizes),
    )
    return Inspected(facts=facts, shown=shown, whole=whole, target=None if table is None else table.name)


def _table_of(target: str | None, metadata: Mapping[str, str]) -> Target | None:
    """The table to name rules by: the one asked for, or that of the file's metadata if it is built in."""
    if target is not None:
        return resolve_target(target)[0]
    named = metadata.get("onnxq.target", "")
    return resolve_target(named)[0] if named in TARGET_NAMES else None


def _values_held(graph: Graph) -> int:
    """Values in initializers and Constant nodes, also in those of bodies."""
    nodes = [*nodes_within(graph.nodes)]
    held = [*graph.initializers.values(), *(t for node in nodes for body in bodies(node) for t in body.initializer)]
    held += [t for n in nodes if n.op_type == "Constant" and (t := constant_tensor(n)) is not None]
    return sum(math.prod(tensor.dims) for tensor in held)


def _operator(node: NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _value(graph: Graph, name: str) -> ValueFacts:
    return ValueFacts(name=name, dtype=_type_name(graph.dtype(name)), shape=graph.shape(name))


def _type_name(dtype: int | None) -> str:
    return "unknown" if dtype is None else type_name(dtype)


def _pair(row: TensorRow) -> PairFacts:
    return PairFacts(
        tensor=row.tensor,
        kind=row.role,
        dtype=row.dtype,
        axis=row.axis,
        block_size=row.block_size,
        scale=row.scale,
        zero_point=row.zero_point,
        group=row.group,
        rule=row.rule,
        writer=row.writer,
        readers=row.readers,
    )


def facts_table(seen: Inspected, *, tensors: bool, nodes: bool) -> RenderableType:
    """The facts as a person reads them.

    Args:
        seen: The facts.
        tensors: Whether to list the quantized tensors.
        nodes: Whether to list the nodes.
    """
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in _rows(seen.facts):
        rows.add_row(name, escape(value))
    parts: list[RenderableType] = [rows]
    if seen.whole.nodes:
        by = "as the graph has them" + (f", rules of {seen.target}" if seen.target else "")
        if nodes:
            parts += [Text(""), node_table(seen.shown.nodes, title=f"Nodes, {by}; `onnxq verify` asks the engine")]
        if tensors and seen.shown.tensors:
            parts += [Text(""), tensor_table(seen.shown.tensors, title=f"{len(seen.shown.tensors)} quantized tensors")]
        parts += [Text(""), counts(seen.whole.nodes, seen.whole.int8_mac_share, seen.whole.weight_shares)]
        if seen.whole.sizes:
            sizes = ", ".join(f"{name} {shape}" for name, shape in seen.whole.sizes.items())
            parts += [Text(f"note: the model leaves sizes open; arithmetic is counted for {sizes}", style="cyan")]
    return Group(*parts)


def _rows(facts: ModelFacts) -> Iterable[tuple[str, str]]:
    yield "model", facts.path
    values = "1 value" if facts.parameters == 1 else f"{facts.parameters:,} values"
    yield "size", f"{size_text(facts.size_bytes)}, {values} in initializers and Constant nodes"
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
        yield "metadata", f"{key} = {text}" if key != REASONS_KEY else f"{key} = (the reasons of its nodes in float)"


def _value_text(value: ValueFacts) -> str:
    if value.shape is None:
        return f"{value.name}: {value.dtype} of unknown shape"
    sizes = ", ".join("?" if size is None else str(size) for size in value.shape)
    return f"{value.name}: {value.dtype} ({sizes})"
