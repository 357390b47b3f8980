"""Explains a quantized model by where its Q/DQ stand: which nodes they put into int8, and with which parameters.

This is what the graph asks for, whichever tool made it. What an engine makes of it, `onnxq verify` asks the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import NodeProto, TensorProto

from onnxq.data.synthetic import likely_shapes
from onnxq.graph.float_types import computes_no_float
from onnxq.graph.model import get_metadata
from onnxq.graph.subgraphs import own_graph, subgraphs
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.simplify.infer_shapes import InferShapes
from onnxq.passes.simplify.settle_parameters import settle_constants
from onnxq.planning.decisions import NO_FLOAT
from onnxq.planning.kept_reasons import KeptReasons, kept_reasons
from onnxq.planning.macs import macs, with_input_shapes
from onnxq.planning.plan import Action
from onnxq.report.contents import TensorRow as ReportRow
from onnxq.report.explanation import Explanation, NodeRow, TensorRow, codes_of_rows, scales, zero_points
from onnxq.report.weight_shares import weight_shares
from onnxq.report.without_pairs import decision_without_pairs, stored_weights
from onnxq.targets.schema import Target
from onnxq.verification.structure import (
    INTEGER_OPS,
    MATRIX_OPS,
    WEIGHT_OPS,
    is_qdq,
    output_problem,
    placement,
    quantizes_by_pairs,
)
from onnxq.verification.tables import TableRows, table_rows

_FUSED = frozenset({"Relu", "Clip"})
"""Activations that every engine takes into the node before them."""

_BIAS = 2

_UNQUANTIZED = frozenset({Action.FLOAT.value, Action.OTHER.value})

_CODES = {
    "int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127), "uint8": (0, 255), "int16": (-(2**15), 2**15 - 1),
    "uint16": (0, 2**16 - 1), "int32": (-(2**31), 2**31 - 1),
}  # fmt: skip
"""Smallest and largest code of each type."""

_Decision = tuple[Action, str]


def explain_model(graph: Graph, target: Target | None = None, *, likely_sizes: bool = False) -> Explanation:
    """The rows of a quantized model, those inside of If, Loop and Scan behind all others and by their paths.

    Args:
        graph: A model with Q/DQ; of a float model every node is float. Constants are settled and shapes inferred in
            place.
        target: The table that names rules; None leaves them out.
        likely_sizes: Where the model leaves sizes open, count arithmetic for those of synthetic inputs that it runs on,
            if there is arithmetic in int8.
    """
    nodes, tensors = _rows(settle_constants(graph), target)
    nodes = _as_planned(nodes, kept_reasons(get_metadata(graph.frame)))
    sizes: dict[str, tuple[int, ...]] = {}
    on_codes = any(row.action == Action.INT8.value for row in nodes)
    if likely_sizes and on_codes and any(row.macs is None for row in nodes):
        sizes = likely_shapes(graph)
        counts = {row.node: row.macs for row in _rows(with_input_shapes(graph, sizes), target)[0]} if sizes else {}
        nodes = [replace(row, macs=counts.get(row.node, row.macs)) for row in nodes]
    macs_of = [row.macs for row in nodes]
    total = None if None in macs_of else sum(row.macs or 0 for row in nodes)
    in_int8 = sum(row.macs or 0 for row in nodes if row.action == Action.INT8.value)
    shares = [None if not total or row.macs is None else row.macs / total for row in nodes]
    return Explanation(
        nodes=tuple(replace(row, mac_share=share) for row, share in zip(nodes, shares, strict=True)),
        tensors=tuple(tensors),
        int8_mac_share=in_int8 / total if total else None,
        weight_shares=weight_shares(graph),
        sizes=sizes if total else {},
    )


def _as_planned(rows: Sequence[NodeRow], reasons: KeptReasons) -> list[NodeRow]:
    """Rows in which nodes in float have the reason of the plan that left them so, where the model keeps it."""
    found = [(row, reasons.of(row.node, row.op) if row.action == Action.FLOAT.value else None) for row in rows]
    return [row if kept is None else replace(row, reason=kept[0], rule=kept[1]) for row, kept in found]


def _rows(graph: Graph, target: Target | None) -> tuple[list[NodeRow], list[TensorRow]]:
    """Rows of a graph and of all graphs in it; shares of the arithmetic are left out."""
    InferShapes().run(graph)
    decided: dict[str, _Decision] = {}
    pairs = quantizes_by_pairs(graph)
    for node in graph.nodes:
        if not is_qdq(node):
            by_pairs = _of_table(graph, node) or _decide(graph, node, decided, target) if pairs else None
            decided[node.name] = by_pairs or decision_without_pairs(graph, node)
    nodes = []
    for name, (action, reason) in decided.items():
        node, rule = graph.node(name), _rule(graph, name, action, target)
        row = NodeRow(node=name, op=node.op_type, action=action.value, reason=reason, rule=rule, macs=macs(graph, node))
        nodes.append(row)
    rules = {row.node: row.rule for row in nodes if row.action not in _UNQUANTIZED}
    tensors = [*_with_groups(_tensors(graph, rules)), *stored_weights(graph)]
    codes = codes_of_rows(tensors)
    nodes = [row if row.action in _UNQUANTIZED else replace(row, codes=codes.get(row.node, "")) for row in nodes]
    for subgraph in subgraphs(graph):
        inner_nodes, inner_tensors = _rows(own_graph(graph, subgraph), target)
        nodes += [replace(row, node=f"{subgraph.path}/{row.node}") for row in inner_nodes]
        tensors += [_inside(subgraph.path, row) for row in inner_tensors]
    return nodes, tensors


def _inside(path: str, row: TensorRow) -> TensorRow:
    """A row of the graph at `path`, in names of the whole model."""
    return replace(
        row,
        tensor=f"{path}/{row.tensor}",
        writer=f"{path}/{row.writer}" if row.writer else "",
        group=f"{path}/{row.group}" if row.group else "",
        readers=tuple(f"{path}/{reader}" for reader in row.readers),
    )


# ---- nodes -------------------------------------------------------------------------------------------------------


def _of_table(graph: Graph, node: NodeProto) -> _Decision | None:
    rows = table_rows(graph, node)
    if rows is None:
        return None
    if node.name == rows.gather.name:
        return Action.INT8, "takes rows of an int8 table, which are dequantized behind it"
    return Action.FLOAT, f"dequantizes the rows that {rows.gather.name!r} takes"


def _decide(graph: Graph, node: NodeProto, decided: Mapping[str, _Decision], target: Target | None) -> _Decision:
    if node.op_type.startswith("QLinear") or node.op_type in INTEGER_OPS:
        return Action.INT8, "computes on codes"
    if node.op_type in WEIGHT_OPS:
        return decision_without_pairs(graph, node)
    if computes_no_float(graph, node):
        return Action.OTHER, NO_FLOAT
    stands = placement(graph, node)
    if (before := _fuses_behind(graph, node, decided, target)) is not None:
        return Action.FUSED, f"follows {before!r} with nothing between"
    if node.op_type in MATRIX_OPS and {0, 1} <= set(stands.dequantized) and set(stands.plain) <= {_BIAS}:
        rule = None if target is None else target.compute.get(node.op_type)
        if target is not None and rule is None:
            return Action.FLOAT, f"{target.title} has no int8 kernel for {node.op_type}"
        if rule is not None and rule.output_quantized:
            problem = output_problem(graph, _behind_activations(graph, node, target))
            if problem:
                return Action.FLOAT, f"its data and weight are dequantized, but {problem}"
        return Action.INT8, "its data and weight are dequantized" + ("; its bias is float" if stands.plain else "")
    if stands.dequantized and not stands.plain and node.op_type not in MATRIX_OPS:
        problem = "" if len(node.output) > 1 else output_problem(graph, _behind_activations(graph, node, target))
        if not problem:
            return Action.INT8, "its inputs are dequantized and its output is quantized"
        return Action.FLOAT, f"its inputs are dequantized, but {problem}"
    if stands.plain:
        return Action.FLOAT, f"its input {node.input[stands.plain[0]]!r} is not dequantized"
    return Action.FLOAT, "reads no float values"


def _fuses_behind(graph: Graph, node: NodeProto, decided: Mapping[str, _Decision], target: Target | None) -> str | None:
    """The int8 node that `node` becomes part of: its activation, its bias, or the residual add behind it."""
    activations = _FUSED if target is None else target.fused_activations
    if node.domain not in STANDARD_DOMAINS or (node.op_type not in activations and node.op_type != "Add"):
        return None
    for slot, tensor in enumerate(node.input):
        before = graph.producer(tensor) if tensor else None
        if before is None or decided.get(before.name, (Action.FLOAT, ""))[0].value in _UNQUANTIZED:
            continue
        if len(graph.uses(tensor)) != 1 or graph.is_output(tensor) or is_qdq(before):
            continue
        others = [i for i, other in enumerate(node.input) if i != slot and other]
        if node.op_type != "Add" or all(
            graph.is_constant(node.input[i]) or i in placement(graph, node).dequantized for i in others
        ):
            return before.name
    return None


def _behind_activations(graph: Graph, node: NodeProto, target: Target | None) -> str:
    """The tensor behind the activations that follow `node`."""
    tensor = str(node.output[0])
    activations = _FUSED if target is None else target.fused_activations
    while len(uses := graph.uses(tensor)) == 1 and not graph.is_output(tensor):
        follower = graph.node(uses[0].node)
        if follower.op_type not in activations or uses[0].slot != 0:
            break
        tensor = str(follower.output[0])
    return tensor


def _rule(graph: Graph, name: str, action: Action, target: Target | None) -> str:
    if target is None or action.value in _UNQUANTIZED:
        return ""
    if action is Action.FUSED:
        return target.fusion_rule
    op = graph.node(name).op_type
    if table_rows(graph, graph.node(name)) is not None:
        return target.tables
    for table in (target.compute, target.elementwise, target.pass_through):
        if op in table:
            return str(table[op].rules)
    return ""


# ---- tensors -----------------------------------------------------------------------------------------------------


def _tensors(graph: Graph, rules: Mapping[str, str]) -> Iterator[TensorRow]:
    """Each Q, and each DQ that no Q feeds, in graph order; a tensor that several DQs read comes once."""
    seen: set[str] = set()
    for node in graph.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in seen:
            continue
        if (rows := table_rows(graph, node)) is not None:
            yield _table(graph, rows, rules)
            continue
        role = _role(graph, node)
        if role is not None:
            seen.add(node.input[0])
            yield _tensor(graph, node, role, rules)


def _role(graph: Graph, node: NodeProto) -> str | None:
    if graph.is_constant(node.input[0]):  # the weights of a training are floats behind a Q
        return "constant"
    if node.op_type == "QuantizeLinear":
        return "activation"
    producer = graph.producer(node.input[0])
    return None if producer is not None and producer.op_type == "QuantizeLinear" else "codes"


def _tensor(graph: Graph, node: NodeProto, role: str, rules: Mapping[str, str]) -> TensorRow:
    scale = graph.constant(node.input[1])
    zero_name = node.input[2] if len(node.input) > 2 else ""
    zero_point = graph.constant(zero_name) if zero_name else None
    # Without a zero-point the codes of a Q are uint8 (ONNX, QuantizeLinear).
    carrier = zero_name or (node.input[0] if role == "constant" and node.op_type == "DequantizeLinear" else "")
    dtype = graph.dtype(carrier) if carrier else TensorProto.UINT8
    writer = graph.producer(node.input[0])
    readers = tuple(dict.fromkeys(_readers(graph, node)))
    wanting = [*readers, *([writer.name] if writer is not None else [])]
    return TensorRow(
        tensor=node.input[0],
        role=role,
        dtype="unknown" if dtype is None else TensorProto.DataType.Name(dtype).lower(),
        axis=None if scale is None or scale.size == 1 else int(attribute(node, "axis", 1)),
        block_size=int(attribute(node, "block_size", 0)) or None,
        scale=() if scale is None else scales(np.asarray(scale)),
        zero_point=() if zero_point is None else zero_points(np.asarray(zero_point)),
        rule=" ".join(dict.fromkeys(word for name in wanting for word in rules.get(name, "").split())),
        writer="" if writer is None else writer.name,
        readers=readers,
    )


def _table(graph: Graph, rows: TableRows, rules: Mapping[str, str]) -> TensorRow:
    table, reader = rows.gather.input[0], rows.gather.name
    dtype, scale = graph.dtype(table), graph.constant(rows.scales.input[0])
    per_row = () if scale is None else scales(np.asarray(scale).reshape(-1))
    return TensorRow(
        tensor=table,
        role="table",
        dtype="unknown" if dtype is None else TensorProto.DataType.Name(dtype).lower(),
        axis=0,
        scale=per_row,
        zero_point=(0,) * len(per_row),
        rule=rules.get(reader, ""),
        writer="",
        readers=(reader,),
    )


def _readers(graph: Graph, node: NodeProto) -> Iterator[str]:
    """Names of the nodes behind a DQ, or behind the DQs of a Q."""
    for reader in graph.consumers(node.output[0]):
        if node.op_type == "QuantizeLinear" and reader.op_type == "DequantizeLinear":
            yield from (behind.name for behind in graph.consumers(reader.output[0]))
        else:
            yield reader.name


def _with_groups(rows: Iterator[TensorRow]) -> Iterator[TensorRow]:
    """Rows of activations whose parameters are equal to the last bit get the name of the first such tensor."""
    listed = list(rows)
    first: dict[tuple[object, ...], str] = {}
    shared: set[str] = set()
    for row in listed:
        if row.role == "activation" and row.scale:
            known = first.setdefault((row.dtype, row.axis, row.scale, row.zero_point), row.tensor)
            if known != row.tensor:
                shared.add(known)
    for row in listed:
        group = first.get((row.dtype, row.axis, row.scale, row.zero_point), "") if row.role == "activation" else ""
        yield replace(row, group=group if group in shared else "")


# ---- rows of a report ----------------------------------------------------------------------------------------------


def tensor_rows(found: Explanation) -> tuple[ReportRow, ...]:
    """The quantized tensors of a model as rows of its report; those whose scales are not constant are left out."""
    return tuple(_report_row(row) for row in found.tensors if row.scale)


def _report_row(row: TensorRow) -> ReportRow:
    scale = np.asarray(row.scale)
    zero_point = np.asarray(row.zero_point or (0,) * len(row.scale), np.int64)
    low, high = _CODES.get(row.dtype, (0, 0))
    return ReportRow(
        name=row.tensor,
        role=row.role,
        dtype=row.dtype,
        axis=row.axis,
        block_size=row.block_size,
        scale=row.scale,
        zero_point=tuple(zero_point.tolist()),
        rmin=float(((low - zero_point) * scale).min()),
        rmax=float(((high - zero_point) * scale).max()),
        source=row.source,
        group=row.group or None,
        writer=row.writer,
        readers=row.readers,
    )
