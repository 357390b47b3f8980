"""Quantized forms of one model that differ in the layers left in float, made from one calibration.

Parameters, corrected biases and rounded weights are those of the plan for the whole model. A tensor that only now
stands alone, such as the output of a MaxPool whose Conv went to float, keeps the parameters that it shared: its values
are among those of the tensor it shared them with.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.batches import Batch
from onnxq.graph.match import Miss, biased_matmul
from onnxq.graph.subgraphs import with_subgraph
from onnxq.graph.view import Graph
from onnxq.graph.weights_file import WeightsFile
from onnxq.numerics.qparams import QuantParams
from onnxq.passes.adapt.settle_types import runnable
from onnxq.passes.adapt.share_constants import ShareConstants
from onnxq.pipeline.nested import SolvedInside
from onnxq.pipeline.nested_plans import Nested, whole_plan
from onnxq.pipeline.stages import Prepared, rewrite
from onnxq.planning.modes import STATIC
from onnxq.planning.options import FULL, TUNE_RULE, PlanOptions
from onnxq.planning.plan import QuantPlan, Role, SharedWith
from onnxq.planning.planner import make_plan
from onnxq.recovery.dividers import RULE as LEVEL_RULE
from onnxq.search.effects import Bench
from onnxq.search.expected import expected_noise
from onnxq.search.fewest import Excluded
from onnxq.search.layers import Layer, at_path, below, layers_of
from onnxq.search.measuring import counted_plan
from onnxq.search.space import NotMadeError, Space, Step
from onnxq.search.wider import Wider
from onnxq.verification.engines.ort_products import has_kernels_of

REASON = "left in float for the accuracy budget"


@dataclass(frozen=True)
class Candidate:
    """One quantized form.

    Attributes:
        plan: Its plan.
        qparams: Its parameters.
        graph: The float graph with the constants that it was quantized from.
        widened: Whether that graph was brought from float16 to float32.
        reach: As in `Prepared`.
        inside: The forms of the subgraphs of If, Loop and Scan that are quantized.
        left: Those that stay float.
    """

    plan: QuantPlan
    qparams: QParamsTable
    graph: Graph
    widened: bool = False
    reach: Mapping[str, float] = field(default_factory=dict, repr=False)
    inside: tuple[tuple[Nested, Candidate], ...] = ()
    left: tuple[Nested, ...] = ()

    @property
    def whole_plan(self) -> QuantPlan:
        """The plan with what is in subgraphs, by path."""
        bodies = [replace(one, plan=form.whole_plan, inner=()) for one, form in self.inside]
        return whole_plan(self.plan, [*bodies, *self.left])

    @property
    def all_params(self) -> QParamsTable:
        """The parameters with those of what is in subgraphs, by key with the path."""
        found = dict(self.qparams)
        for one, form in self.inside:
            found |= {f"{one.subgraph.path}/{key}": params for key, params in form.all_params.items()}
        return found

    def quantized(self, weights: WeightsFile | None = None) -> Graph:
        """The quantized graph, its weights in the file `weights` if there is one."""
        graph = self._with_bodies()
        if self.inside:
            ShareConstants().run(graph)
        return rewrite(graph, self.plan, self.qparams, widened=self.widened, reach=self.reach, weights=weights)

    def _with_bodies(self) -> Graph:
        """The float graph with quantized subgraphs."""
        if not self.inside:
            return self.graph
        graph = self.graph.copy()
        for one, form in self.inside:
            with_subgraph(graph, one.subgraph, rewrite(form._with_bodies(), form.plan, form.qparams))
        graph.prune()
        graph.sort()
        return graph


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Makes quantized forms of a model.

    Attributes:
        prepared: The model and its whole plan.
        options: What the user keeps in float anyhow.
        qparams: Parameters of the whole plan.
        recovered: The float graph after recovery (corrected biases), of the same nodes.
        wider: The whole model with wider activations, where the target has such a step between 8 bits and float.
        stats: Statistics of its activations, as far as there are any.
        inside: The forms of its subgraphs of If, Loop and Scan, as far as they are quantized.
        left: Those that stay float.
    """

    prepared: Prepared
    options: PlanOptions
    qparams: QParamsTable
    recovered: Graph
    wider: Wider | None = None
    stats: StatsTable | None = None
    inside: tuple[tuple[Nested, Candidates], ...] = ()
    left: tuple[Nested, ...] = ()

    def with_inside(self, parts: Sequence[SolvedInside], left: tuple[Nested, ...]) -> Candidates:
        """These, with the forms of subgraphs, and those that stay float."""
        found = []
        for part in parts:
            one = part.nested
            forms = Candidates(
                prepared=replace(self.prepared, source=one.graph, graph=one.graph, plan=one.plan, nested=()),
                options=one.options,
                qparams=part.qparams,
                recovered=part.recovered,
                stats=part.stats,
            )
            found.append((one, forms.with_inside(part.inner, part.left)))
        return replace(self, inside=tuple(found), left=left)

    def whole(self) -> Candidate:
        """The form of the whole plan."""
        prepared = self.prepared
        inside = tuple((one, forms.whole()) for one, forms in self.inside)
        return Candidate(
            plan=prepared.plan,
            qparams=self.qparams,
            graph=self.recovered,
            widened=prepared.widened,
            reach=prepared.reach,
            inside=inside,
            left=self.left,
        )

    def make(self, excluded: Collection[str], wide: Collection[str] = ()) -> Candidate:
        """The form with the layers `excluded` in float, besides what the plan leaves in float, and `wide` in 16 bits.

        Args:
            excluded: Names of layers; of those in subgraphs with their path.
            wide: Names of layers outside of subgraphs.

        Raises:
            NotMadeError: it would quantize a tensor that the whole plan does not, or in another way.
        """
        inside = tuple((one, forms.make(below(excluded, f"{one.subgraph.path}/"))) for one, forms in self.inside)
        excluded = frozenset(name for name in excluded if self.prepared.graph.has_node(name))
        return replace(self._made(excluded, wide) if excluded or wide else self.whole(), inside=inside, left=self.left)

    def _made(self, excluded: Collection[str], wide: Collection[str]) -> Candidate:
        prepared = self.prepared
        # What the whole plan keeps in float for speed stays there, and so does what divides channels: chosen anew, it
        # might quantize other nodes.
        rules = {TUNE_RULE, LEVEL_RULE, *([] if prepared.target.costs is None else [prepared.target.costs.rule])}
        slower = {d.node: d for d in prepared.plan.nodes if d.rule in rules}
        path = f"{self.options.path}/" if self.options.path else ""
        # Overrides are in the whole plan; here one might name what is in float now, which would be an error.
        options = replace(
            self.options,
            overrides=(),
            exclude=(*self.options.exclude, *(glob.escape(f"{path}{name}") for name in sorted(excluded))),
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
        return Candidate(
            plan=replace(plan, nodes=nodes),
            qparams=qparams,
            graph=self._restored(excluded),
            widened=prepared.widened,
            reach=prepared.reach,
        )

    def layers(self, plan: QuantPlan) -> list[Layer]:
        """The layers of the whole plan, in graph order, those in subgraphs behind the graph around.

        Args:
            plan: The plan of the model's own graph, with its arithmetic counted.
        """
        found = layers_of(self.prepared.graph, plan, self.prepared.target)
        for one, forms in self.inside:
            found += [at_path(layer, f"{one.subgraph.path}/") for layer in forms.layers(one.plan)]
        return found

    def expected(self) -> dict[str, float]:
        """Expected noise of each layer alone, by name in the order of `layers`."""
        prepared = self.prepared
        own = layers_of(prepared.graph, prepared.plan, prepared.target)
        found = expected_noise(prepared.graph, prepared.plan, self.qparams, self.stats, own)
        for one, forms in self.inside:
            found |= {f"{one.subgraph.path}/{name}": noise for name, noise in forms.expected().items()}
        return found

    def space(self, samples: Sequence[Batch]) -> Space:
        """What a search over these forms chooses among.

        Args:
            samples: Batches whose shapes arithmetic is counted for.
        """
        prepared = self.prepared
        layers = self.layers(counted_plan(prepared.plan, prepared.graph, samples))

        def made(floats: Excluded, wide: Excluded) -> Graph:
            return self.make(floats, wide).quantized()

        def bench(samples: Sequence[Batch], options: CollectOptions) -> Bench:
            return Bench(graph=runnable(prepared.graph), qparams=self.qparams, samples=samples, options=options)

        # What is in subgraphs is run in whole models alone, and has no wider form.
        names = frozenset(layer.node for layer in layers if prepared.graph.has_node(layer.node))
        return Space(
            mode=STATIC,
            source=prepared.source,
            digest=prepared.plan.digest,
            target=prepared.target.name,
            fused=has_kernels_of(prepared.target),
            layers=layers,
            cost={layer.node: layer.cost for layer in layers},
            counted="arithmetic",
            own_noise=cache(self.expected),
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
