"""Quantized forms of one model that differ in the layers left in float, made from one calibration.

Statistics, ranges and corrected biases are those of the plan for the whole model. A tensor that only now stands alone,
such as the output of a MaxPool whose Conv went to float, gets the range of the tensor that it took its parameters from:
its values are among that tensor's.
"""

from __future__ import annotations

import glob
from collections.abc import Collection
from dataclasses import dataclass, replace

from onnxq.calibration.solve import QParamsTable, RangeTable, solve_from_ranges
from onnxq.errors import InternalError
from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import Graph
from onnxq.numerics.qparams import Range
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import QuantPlan, SharedWith
from onnxq.planning.planner import make_plan
from onnxq.stages import Prepared, rewrite

REASON = "left in float for the accuracy budget"


@dataclass(frozen=True)
class Candidate:
    """One quantized form.

    Attributes:
        plan: Its plan.
        qparams: Its parameters.
        graph: The float graph with the constants that it was quantized from.
    """

    plan: QuantPlan
    qparams: QParamsTable
    graph: Graph

    def quantized(self) -> Graph:
        """The quantized graph."""
        return rewrite(self.graph, self.plan, self.qparams)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Makes quantized forms of a model.

    Attributes:
        prepared: The model and its whole plan.
        options: What the user keeps in float anyhow.
        ranges: Ranges of all observed tensors of the whole plan.
        recovered: The float graph after recovery (corrected biases), of the same nodes.
    """

    prepared: Prepared
    options: PlanOptions
    ranges: RangeTable
    recovered: Graph

    def make(self, excluded: Collection[str]) -> Candidate:
        """The form that leaves the layers `excluded` in float, besides what the plan leaves in float."""
        prepared = self.prepared
        options = replace(
            self.options, exclude=(*self.options.exclude, *(glob.escape(name) for name in sorted(excluded)))
        )
        plan = make_plan(
            prepared.graph, prepared.target, options=options, digest=prepared.plan.digest, notes=prepared.plan.notes
        )
        graph = self._restored(excluded)
        ranges = {name: self._range(name) for name in plan.observed()}
        qparams = solve_from_ranges(graph, plan, ranges, prepared.target)
        nodes = tuple(replace(d, reason=REASON, rule="budget") if d.node in excluded else d for d in plan.nodes)
        return Candidate(replace(plan, nodes=nodes), qparams, graph)

    def _range(self, tensor: str) -> Range:
        whole = self.prepared.plan.tensors
        name = tensor
        while name not in self.ranges:
            known = whole.get(name)
            if known is None or not isinstance(known.source, SharedWith):
                raise InternalError(f"there is no range for tensor {tensor!r}, which only a part of the plan quantizes")
            name = known.source.tensor
        return self.ranges[name]

    def _restored(self, excluded: Collection[str]) -> Graph:
        """The recovered graph, with the float constants of layers that stay float."""
        source = self.prepared.graph
        graph = self.recovered.copy()
        for name in excluded:
            node = source.node(name)
            constants = list(node.input[1:])
            found = biased_matmul(source, node) if node.op_type == "MatMul" else None
            if found is not None and not isinstance(found, Miss):
                constants.append(found.bindings["bias"])
            for tensor in constants:
                if tensor in source.initializers:
                    graph.add_initializer(tensor, source.initializers[tensor])
        return graph
