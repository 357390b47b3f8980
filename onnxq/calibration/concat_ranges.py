"""Ranges of what goes into the Concats that run on codes.

onnxruntime's QLinearConcat copies an input whose parameters are those of the output and looks every other code up in a
table, at several times the cost. What an input holds beyond the output's range is cut off in the Concat anyway, so an
input that fills most of that range, and goes nowhere else, gets the output's range itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.numerics.qparams import Range
from onnxq.planning.plan import Observed, QuantPlan

_MOST = 0.9
"""Share of the output's range that an input has to fill: the rest costs it less than a sixth of a bit."""


def with_joined_concats(graph: Graph, plan: QuantPlan, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """`ranges` with those of inputs of Concats made equal to the output's, where the module's rule says so.

    Args:
        graph: The normalised float graph the plan was made for.
        plan: What to quantize.
        ranges: A range for each tensor in `plan.observed()`.
    """
    joined = dict(ranges)
    # Later Concats first: what goes into one may itself come from one.
    for node in reversed(graph.nodes):
        if node.op_type != "Concat" or node.domain not in STANDARD_DOMAINS or node.output[0] not in joined:
            continue
        output = joined[node.output[0]]
        for tensor in node.input:
            planned = plan.tensors.get(tensor)
            if (
                planned is not None
                and isinstance(planned.source, Observed)
                and planned.group is None
                and {use.node for use in planned.uses} == {node.name}
                and not graph.is_output(tensor)
                and tensor in joined
                and _fills(joined[tensor], output)
            ):
                joined[tensor] = output
    return joined


def _fills(own: Range, output: Range) -> bool:
    width = float(output.rmax - output.rmin)
    covered = min(float(own.rmax), float(output.rmax)) - max(float(own.rmin), float(output.rmin))
    return covered >= _MOST * width
