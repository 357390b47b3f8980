"""Tables that a Gather takes rows from (embeddings): int8 codes in the file, dequantized behind the Gather.

    table -> Gather -> e          codes -> Gather -> DQ -+-> Mul -> e
                                  scales -> Gather ------+

No arithmetic runs in int8 here: what it gives is a file, and memory, of a quarter the size. Rows of an embedding differ
in size by orders, so each has a scale of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnx import NodeProto

from onnxq.graph.float_types import is_quantizable
from onnxq.graph.view import STANDARD_DOMAINS, Graph, Use, attribute
from onnxq.numerics.qtypes import INT8
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.compute import Refusal
from onnxq.planning.plan import Action, FromValues, Role, TensorPlan
from onnxq.targets.schema import Target
from onnxq.wording.plural import counted

TABLE = 0
"""Input slot of Gather."""
SMALLEST_TABLE = 2**14
"""Values in the smallest table that is worth two more nodes."""

_SPEC = QuantSpec(qtype=INT8, symmetric=True, narrow_range=True, axis=0)


Decided = tuple[Action, str, str]
"""Action, reason, rule."""


def place_tables(
    graph: Graph, target: Target, placed: Mapping[str, TensorPlan], refused: Mapping[str, Refusal]
) -> tuple[dict[str, TensorPlan], dict[str, Decided]]:
    """The tables to quantize, and what becomes of each Gather from a constant table and why.

    Args:
        graph: The float graph.
        target: Its table of rules.
        placed: What is quantized besides.
        refused: Nodes that the user wants in float.
    """
    if not target.tables:
        return {}, {}
    nodes = [n for n in graph.nodes if _takes_rows(graph, n)]
    reasons = {n.name: refused.get(n.name) or _refusal(graph, n, target) for n in nodes}
    uses: dict[str, list[Use]] = {}
    for node in nodes:
        if reasons[node.name] is None:
            uses.setdefault(str(node.input[TABLE]), []).append(Use(node.name, TABLE))
    plans: dict[str, TensorPlan] = {}
    for name, own in uses.items():
        if reader := _float_reader(graph, name, own, placed):
            refusal = Refusal(f"its table {name!r} is read in float by {reader} too", target.tables)
            reasons |= dict.fromkeys((use.node for use in own), refusal)
            continue
        # As the weight of other nodes it has codes of another form.
        key = name if name not in placed else f"{name}@{own[0].node}"
        plans[key] = TensorPlan(name=name, role=Role.TABLE, spec=_SPEC, source=FromValues(), uses=tuple(own))
    return plans, {name: _decided(target, refusal) for name, refusal in reasons.items()}


def _decided(target: Target, refusal: Refusal | None) -> Decided:
    if refusal is not None:
        return Action.FLOAT, refusal.reason, refusal.rule
    return Action.INT8, "takes rows of an int8 table, which are dequantized behind it", target.tables


def _float_reader(graph: Graph, name: str, own: Sequence[Use], placed: Mapping[str, TensorPlan]) -> str:
    """What keeps the float form of table `name` in the file, which would then hold both; "" for nothing."""
    quantized = {*own, *(use for t in placed.values() if t.name == name for use in t.uses)}
    others = [use.node for use in graph.uses(name) if use not in quantized]
    if others:
        return repr(others[0])
    return "who reads the outputs of the model" if graph.is_output(name) else ""


def _takes_rows(graph: Graph, node: NodeProto) -> bool:
    return (
        node.op_type == "Gather"
        and node.domain in STANDARD_DOMAINS
        and graph.is_constant(node.input[TABLE])
        and graph.is_float(node.input[TABLE])
        and not graph.is_constant(node.input[1])
    )


def _refusal(graph: Graph, node: NodeProto, target: Target) -> Refusal | None:
    name = str(node.input[TABLE])
    shape = [int(size) for size in graph.initializers[name].dims]
    if not is_quantizable(graph, name, half_types=target.half_types):
        return Refusal(f"its table {name!r} is not float32", target.tables)
    if len(shape) < 2:
        return Refusal("its table has one value in a row", target.tables)
    if attribute(node, "axis", 0) not in (0, -len(shape)):
        return Refusal("it takes slices along another axis than the first", target.tables)
    if math.prod(shape) < SMALLEST_TABLE:
        return Refusal(
            f"its table has {counted(math.prod(shape), 'value')}; fewer than {SMALLEST_TABLE} do not pay in int8",
            target.tables,
        )
    return None
