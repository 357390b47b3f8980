"""Ranges of what comes out of a GlobalAveragePool that runs on codes.

onnxruntime's QLinearGlobalAveragePool multiplies sums of codes by scale(input) / (scale(output) * positions), and
refuses to run where that is 256 or more ("parameter out of computation range", mlas/lib/qlgavgpool.cpp). So fine a
scale tells nothing: a code of the output would be less than 1/256 of what one code at one position makes of the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.numerics.qparams import Range
from onnxq.planning.plan import Fixed, Observed, QuantPlan, root_of

_FINEST = 100.0
"""Times finer than a mean's own step that an output may be: 256, less what symmetric forms and powers of two add."""


def with_pooled_ranges(graph: Graph, plan: QuantPlan, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """`ranges` with those of outputs of GlobalAveragePool wide enough for the kernel.

    Args:
        graph: The normalised float graph the plan was made for.
        plan: What to quantize.
        ranges: A range for each tensor in `plan.observed()`.
    """
    found = dict(ranges)
    for node in graph.nodes:
        output = node.output[0] if node.output else ""
        if node.op_type != "GlobalAveragePool" or node.domain not in STANDARD_DOMAINS or output not in found:
            continue
        planned = plan.tensors.get(output)
        if planned is None or not isinstance(planned.source, Observed):
            continue
        sizes = (graph.shape(node.input[0]) or ())[2:]
        positions = prod(size for size in sizes if isinstance(size, int) and size > 0)
        least = _width(plan, node.input[0], found) / (_FINEST * positions)
        own = found[output]
        if float(own.rmax - own.rmin) < least:
            upwards = float(own.rmax) > 0.0 or float(own.rmin) == 0.0
            ends = (own.rmin, float(own.rmin) + least) if upwards else (float(own.rmax) - least, own.rmax)
            found[output] = Range.of(*ends)
    return found


def _width(plan: QuantPlan, tensor: str, ranges: Mapping[str, Range]) -> float:
    """The width of the range of `tensor`; 0 where it has no codes."""
    tensor = root_of(plan.tensors, tensor)
    if tensor in ranges:
        return float(ranges[tensor].rmax - ranges[tensor].rmin)
    fixed = plan.tensors[tensor].source if tensor in plan.tensors else None
    return fixed.rmax - fixed.rmin if isinstance(fixed, Fixed) else 0.0
