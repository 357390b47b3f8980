"""Rows that explain a plan or a quantized model: one for each node, one for each quantized tensor; and picking rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import ConfigError
from onnxq.graph.view import Graph
from onnxq.numerics.qparams import QuantParams
from onnxq.numerics.qtypes import type_text
from onnxq.planning.names import selected, unmatched_filter
from onnxq.planning.plan import Action, QuantPlan, Role, TensorPlan
from onnxq.report.build import int8_mac_share
from onnxq.report.rows import origin_text


@dataclass(frozen=True, kw_only=True)
class NodeRow:
    """One node.

    Attributes:
        node: Name of the node.
        op: Its operator type.
        action: "int8", "fused", "weights" or "float".
        reason: Why, in the user's words.
        rule: The target's rule that decided; "" where none did.
        macs: Multiply-accumulates for one sample; None where open dimensions leave it open.
        mac_share: Its share of the whole model's, 0 to 1; None where a part of them is unknown.
        codes: Type of the codes that it computes on, or that its weights are stored in: "int8" (also for uint8), "fp8",
            "uint16", "int4"; "" for a node in float.
    """

    node: str
    op: str
    action: str
    reason: str
    rule: str
    macs: int | None
    mac_share: float | None = None
    codes: str = ""

    @property
    def runs(self) -> str:
        """How it runs, in a word or two for people: "fp8", "fused", "int4 weights", "float"."""
        if self.action == Action.INT8.value:
            return self.codes or self.action
        return f"{self.codes} {self.action}" if self.action == Action.WEIGHTS.value and self.codes else self.action


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One quantized tensor.

    Attributes:
        tensor: Name of the tensor.
        role: "activation", "weight", "bias", "constant", or "codes" where a model does not tell.
        dtype: Type of the codes.
        axis: Channel axis, or that along which blocks run; None for per-tensor.
        block_size: Values along it that share a scale; None without blocks.
        scale: One value, or one for each channel; empty where it is not known yet.
        zero_point: As many.
        source: Where the parameters come from ("observed", "its own values"); "" where a model does not tell.
        group: Tensors of one group share their parameters; "" for one that stands alone.
        rule: Rules of the nodes that want it quantized.
        writer: Name of the node that computes it; "" for an input or a constant.
        readers: Names of the nodes that read the dequantized tensor.
    """

    tensor: str
    role: str
    dtype: str
    axis: int | None = None
    block_size: int | None = None
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    source: str = ""
    group: str = ""
    rule: str = ""
    writer: str = ""
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Nodes and tensors, in graph order.

    Attributes:
        nodes: All nodes but Q and DQ.
        tensors: All quantized tensors.
        int8_mac_share: Share of the multiply-accumulates that run in int8, 0 to 1; None where some are unknown.
        weight_shares: Of a quantized model, the share of its weights that each type has, the largest first.
        sizes: Sizes of the inputs that the arithmetic was counted for, where the model leaves some open.
    """

    nodes: tuple[NodeRow, ...]
    tensors: tuple[TensorRow, ...]
    int8_mac_share: float | None
    weight_shares: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def explain_plan(
    graph: Graph,
    plan: QuantPlan,
    qparams: Mapping[str, QuantParams] | None = None,
    codes: Mapping[str, str] | None = None,
    *,
    path: str = "",
) -> Explanation:
    """The rows of a plan.

    Args:
        graph: The normalised graph it was made for.
        plan: The plan.
        qparams: Parameters by key of the plan's tensors, as far as they are known.
        codes: What `codes_of_nodes` finds; of this plan unless given.
        path: Where the graph stands inside the model; ends in a slash or is empty. All names begin with it.
    """
    known = qparams or {}
    rules = {d.node: d.rule for d in plan.nodes if d.action not in (Action.FLOAT, Action.OTHER)}
    codes = codes_of_nodes(plan) if codes is None else codes
    macs = [d.macs for d in plan.nodes]
    total = None if any(m is None for m in macs) else sum(m or 0 for m in macs)
    nodes = tuple(
        NodeRow(
            node=f"{path}{d.node}",
            op=d.op,
            action=d.action.value,
            reason=d.reason,
            rule=d.rule,
            macs=d.macs,
            mac_share=None if not total or d.macs is None else d.macs / total,
            codes=codes.get(d.node, ""),
        )
        for d in plan.nodes
    )
    families = plan.families()
    tensors = tuple(
        replace(
            _planned_row(graph, key, tensor, rules, path),
            group=f"{path}{families[key]}" if key in families else "",
            scale=scales(known[key].scale) if key in known else (),
            zero_point=zero_points(known[key].zero_point) if key in known else (),
        )
        for key, tensor in plan.tensors.items()
    )
    return Explanation(nodes=nodes, tensors=tensors, int8_mac_share=int8_mac_share(plan))


def codes_of_nodes(plan: QuantPlan) -> dict[str, str]:
    """The type of codes of each quantized node: that of its activations, or of its weights where those stay float."""
    found: dict[str, dict[Role, str]] = {}
    for tensor in plan.tensors.values():
        for use in tensor.uses:
            found.setdefault(use.node, {}).setdefault(tensor.role, type_text(tensor.spec.qtype.name))
    quantized = {d.node for d in plan.nodes if d.action in (Action.INT8, Action.WEIGHTS)}
    roles = (Role.ACTIVATION, Role.TABLE, Role.WEIGHT, Role.CONSTANT)
    return {
        node: next((types[role] for role in roles if role in types), "int8")
        for node, types in found.items()
        if node in quantized
    }


def codes_of_rows(rows: Iterable[TensorRow]) -> dict[str, str]:
    """Likewise from the quantized tensors of a model."""
    found: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row.role != "activation"):
        for node in row.readers:
            found.setdefault(node, type_text(row.dtype) if row.role == "activation" else row.dtype)
    return found


def _planned_row(graph: Graph, key: str, tensor: TensorPlan, rules: Mapping[str, str], path: str) -> TensorRow:
    writer = graph.producer(tensor.name)
    readers = tuple(dict.fromkeys(use.node for use in tensor.uses))
    wanting = [*readers, *([writer.name] if writer is not None else [])]
    return TensorRow(
        tensor=f"{path}{key}",
        role=tensor.role.value,
        dtype=tensor.spec.qtype.name,
        axis=tensor.spec.axis,
        block_size=tensor.spec.block_size,
        source=origin_text(tensor.at_path(path)),
        rule=" ".join(dict.fromkeys(word for name in wanting for word in rules.get(name, "").split())),
        writer="" if writer is None else f"{path}{writer.name}",
        readers=tuple(f"{path}{name}" for name in readers),
    )


def scales(values: NDArray[Any]) -> tuple[float, ...]:
    """Scales as plain numbers."""
    return tuple(np.asarray(values, np.float64).reshape(-1).tolist())


def zero_points(values: NDArray[Any]) -> tuple[int, ...]:
    """Zero-points as plain numbers."""
    return tuple(np.asarray(values, np.int64).reshape(-1).tolist())


# ---- picking rows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """Which rows to show. What is not given does not restrict.

    Attributes:
        nodes: Names or patterns of nodes.
        tensors: Names or patterns of tensors.
        ops: Operator types.
        decisions: "int8", "fused", "weights" or "float".
        words: Each must occur in the row, upper or lower case.
    """

    nodes: Sequence[str] = ()
    tensors: Sequence[str] = ()
    ops: Sequence[str] = ()
    decisions: Sequence[str] = ()
    words: Sequence[str] = ()

    def pick(self, rows: Explanation) -> Explanation:
        """The rows that fit. A tensor fits where one of its readers or its writer does.

        Raises:
            ConfigError: a pattern or operator fits nothing at all.
        """
        named = self._named([r.node for r in rows.nodes])
        self._check_ops({r.op for r in rows.nodes})
        fitting = [
            r
            for r in rows.nodes
            if (not self.nodes or r.node in named)
            and (not self.ops or r.op in self.ops)
            and (not self.decisions or r.action in self.decisions)
        ]
        around = {r.node for r in fitting}
        restricted = bool(self.nodes or self.ops or self.decisions)
        wanted = self._wanted_tensors([r.tensor for r in rows.tensors])
        tensors = [
            r
            for r in rows.tensors
            if (not self.tensors or r.tensor in wanted)
            and (not restricted or around.intersection((r.writer, *r.readers)))
        ]
        nodes = fitting if not self.tensors else [r for r in fitting if r.node in _touching(tensors)]
        return Explanation(
            nodes=tuple(r for r in nodes if self._has_words(f"{r.node} {r.op} {r.runs} {r.rule} {r.reason}")),
            tensors=tuple(
                r
                for r in tensors
                if self._has_words(f"{r.tensor} {r.role} {r.dtype} {r.source} {r.group} {r.rule} {' '.join(r.readers)}")
            ),
            int8_mac_share=rows.int8_mac_share,
        )

    def _named(self, names: list[str]) -> set[str]:
        found: set[str] = set()
        for pattern in self.nodes:
            matching = selected(pattern, names, where="--node")
            if not matching:
                raise unmatched_filter("node", pattern, names, "--node")
            found.update(matching)
        return found

    def _wanted_tensors(self, names: list[str]) -> set[str]:
        found: set[str] = set()
        for pattern in self.tensors:
            matching = selected(pattern, names, where="--tensor")
            if not matching:
                raise unmatched_filter("quantized tensor", pattern, names, "--tensor")
            found.update(matching)
        return found

    def _check_ops(self, known: set[str]) -> None:
        for op in self.ops:
            if op not in known:
                raise unmatched_filter("operator", op, known, "--op")
        for decision in self.decisions:
            if decision not in {a.value for a in Action}:
                raise ConfigError(
                    f"unknown decision {decision!r}", where="--decision", hint="int8, fused, weights or float"
                )

    def _has_words(self, text: str) -> bool:
        return all(word.lower() in text.lower() for word in self.words)


def _touching(tensors: Iterable[TensorRow]) -> set[str]:
    """Nodes that write or read one of `tensors`."""
    return {name for row in tensors for name in (row.writer, *row.readers)}
