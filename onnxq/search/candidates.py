"""Quantized forms of one model that differ in the layers left in float, made from one calibration.

Parameters, corrected biases and rounded weights are those of the plan for the whole model. A tensor that only now
stands alone, such as the output of a MaxPool whose Conv went to float, keeps the parameters that it shared: its values
are among those of the tensor it shared them with.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.batches import Batch
from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.view import Graph
from onnxq.graph.weights_file import WeightsFile
from onnxq.numerics.qparams import QuantParams
from onnxq.passes.adapt.settle_types import runnable
from onnxq.pipeline.stages import Prepared, rewrite
from onnxq.planning.modes import STATIC
from onnxq.planning.options import FULL, TUNE_RULE, PlanOptions
from onnxq.planning.plan import QuantPlan, Role, SharedWith
from onnxq.planning.planner import make_plan
from onnxq.search.effects import Bench
from onnxq.search.expected import expected_noise
from onnxq.search.fewest import Excluded
from onnxq.search.layers import Layer
from onnxq.search.space import NotMadeError, Space, Step
from onnxq.search.wider import Wider

REASON = "left in float for the accuracy budget"


@dataclass(frozen=True)
class Candidate:
    """One quantized form.

    Attributes:
        plan: Its plan.
        qparams: Its parameters.
        graph: The float graph with the constants that it was quantized from.
        widened: Whether that graph was brought from float16 to float32.
    """

    plan: QuantPlan
    qparams: QParamsTable
    graph: Graph
    widened: bool = False

    def quantized(self, weights: WeightsFile | None = None) -> Graph:
        """The quantized graph, its weights in the file `weights` if there is one."""
        return rewrite(self.graph, self.plan, self.qparams, widened=self.widened, weights=weights)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Makes quantized forms of a model.

    Attributes:
        prepared: The model and its whole plan.
        options: What the user keeps in float anyhow.
        qparams: Parameters of the whole plan.
        recovered: The float graph after recovery (corrected biases), of the same nodes.
        wider: The whole model with wider activations, where the target has such a step between 8 bits and float.
    """

    prepared: Prepared
    options: PlanOptions
    qparams: QParamsTable
    recovered: Graph
    wider: Wider | None = None

    def make(self, excluded: Collection[str], wide: Collection[str] = ()) -> Candidate:
        """The form with the layers `excluded` in float, besides what the plan leaves in float, and `wide` in 16 bits.

        Raises:
            NotMadeError: it would quantize a tensor that the whole plan does not, or in another way.
        """
        prepared = self.prepared
        # What the whole plan keeps in float for speed stays there: chosen anew, it might quantize other nodes.
        speed = {TUNE_RULE} if prepared.target.costs is None else {TUNE_RULE, prepared.target.costs.rule}
        slower = {d.node: d for d in prepared.plan.nodes if d.rule in speed}
        # Overrides are in the whole plan; here one might name what is in float now, which would be an error.
        options = replace(
            self.options,
            overrides=(),
            exclude=(*self.options.exclude, *(glob.escape(name) for name in sorted(excluded))),
            placement=FULL,
            slower=frozenset(slower),
        )
        plan = make_plan(
            prepared.graph, prepared.target, options=options, digest=prepared.plan.digest, notes=prepared.plan.notes
        )
        if self.options.overrides:
            plan = self._overridden(plan)
        nodes = tuple(
            replace(d, reason=REASON, rule="budget") if d.node in excluded else slower.get(d.node, d)
            for d in plan.nodes
        )
        qparams = self._params(plan)
        if self.wider is not None and wide:
            plan, qparams = self.wider.mixed(plan, qparams, wide)
            reason = f"activations are {self.wider.type} for the accuracy budget"
            nodes = tuple(replace(d, reason=reason) if d.node in wide else d for d in nodes)
        return Candidate(replace(plan, nodes=nodes), qparams, self._restored(excluded), prepared.widened)

    def space(self, layers: Sequence[Layer], stats: StatsTable | None) -> Space:
        """What a search over these forms chooses among.

        Args:
            layers: The layers of the whole plan.
            stats: Statistics of its activations, as far as there are any.
        """
        prepared = self.prepared

        def made(floats: Excluded, wide: Excluded) -> Graph:
            return self.make(floats, wide).quantized()

        def bench(samples: Sequence[Batch], options: CollectOptions) -> Bench:
            return Bench(graph=runnable(prepared.graph), qparams=self.qparams, samples=samples, options=options)

        names = frozenset(layer.node for layer in layers)
        return Space(
            mode=STATIC,
            source=prepared.source,
            digest=prepared.plan.digest,
            target=prepared.target.name,
            fused=prepared.target.name.startswith("ort-"),
            layers=layers,
            cost={layer.node: layer.cost for layer in layers},
            counted="arithmetic",
            own_noise=cache(lambda: expected_noise(prepared.graph, prepared.plan, self.qparams, stats, layers)),
            step=None if self.wider is None else Step(type=self.wider.type, role="activations", layers=names),
            make=made,
            bench=bench,
            measurable=names,
        )

    def _overridden(self, plan: QuantPlan) -> QuantPlan:
        """`plan` with the forms of tensors that overrides gave them in the whole plan."""
        whole = self.prepared.plan
        forms = {use: tensor.spec for tensor in whole.tensors.values() for use in tensor.uses}
        tensors = {
            key: replace(tensor, spec=whole.tensors[key].spec if key in whole.tensors else forms[tensor.uses[0]])
            for key, tensor in plan.tensors.items()
            if key in whole.tensors or tensor.uses[0] in forms
        }
        return replace(plan, tensors={**plan.tensors, **tensors}, opset=max(plan.opset, whole.opset))

    def _params(self, plan: QuantPlan) -> QParamsTable:
        """The whole plan's parameters for the tensors of `plan`; those of biases are found by who reads them."""
        whole = self.prepared.plan.tensors
        biases = {tensor.uses[0]: key for key, tensor in whole.items() if tensor.role is Role.BIAS}
        found = {}
        for key, tensor in plan.tensors.items():
            source = biases.get(tensor.uses[0], "") if tensor.role is Role.BIAS else key
            if source not in whole or whole[source].spec != tensor.spec:
                raise NotMadeError(key)
            found[key] = self.qparams[source]
        for key, tensor in plan.tensors.items():
            if isinstance(tensor.source, SharedWith) and not _equal(found[key], found[tensor.source.tensor]):
                raise NotMadeError(key)
        return found

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


def _equal(one: QuantParams, other: QuantParams) -> bool:
    return np.array_equal(one.scale, other.scale) and np.array_equal(one.zero_point, other.zero_point)
