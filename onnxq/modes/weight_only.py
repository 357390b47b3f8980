"""Weight-only quantization from a float model to a verified one: `onnxq.quantize(mode="weight-only")`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxq.calibration.progress import Callback, report_to
from onnxq.data.batches import Batch, Batches
from onnxq.data.kept import keep_first
from onnxq.dynamic.kernels import import_domains_of, use_domain
from onnxq.errors import ConfigError, UnsupportedModelError
from onnxq.graph.messages import MICROSOFT
from onnxq.graph.model import load_graph
from onnxq.graph.saving import file_for_weights
from onnxq.graph.subgraphs import with_subgraph
from onnxq.graph.view import Graph
from onnxq.inference.faults import blamed_on
from onnxq.modes.finishing import Made, Request, finish
from onnxq.modes.result import QuantizeResult
from onnxq.numerics.qparams import QuantParams
from onnxq.passes.adapt.part_fused_sums import PartFusedSums
from onnxq.passes.adapt.share_constants import ShareConstants
from onnxq.pipeline.facts import Clock
from onnxq.pipeline.stages import nothing_to_quantize, read_through
from onnxq.pipeline.uncalibrated_plans import WeightTree, plan_weights_of
from onnxq.planning.modes import WEIGHT_ONLY
from onnxq.planning.options import FAST
from onnxq.planning.plan import Action
from onnxq.planning.weight_form import NEED_DATA, QDQ, WeightForm
from onnxq.search.budget import Budget
from onnxq.search.measuring import Subject, counted_plan
from onnxq.search.mixed import search_within
from onnxq.search.reading import Judged, first_samples
from onnxq.search.result import SearchResult, checks_of, notes_of
from onnxq.search.space import Space
from onnxq.search.weights import weight_layers, weight_space, with_weights
from onnxq.targets.schema import Engine
from onnxq.weight_only.activation_aware import scale_channels
from onnxq.weight_only.kept import KeptWeights, Quality
from onnxq.weight_only.moments import moments_in_order
from onnxq.weight_only.rewriting import Sink, WeightRewriter
from onnxq.weight_only.sites import PRODUCT, TABLE
from onnxq.weight_only.solving import qparams_of, rounded_weights
from onnxq.wording.plural import counted

SAMPLES = 256
"""Most samples that methods look at, spread over the data."""

_LARGEST_SHOWN = 2**16
"""Scales of a weight that are kept for reports."""

_INT4_IR = 10
"""First IR version with 4-bit types."""


def quantize_weights(request: Request, form: WeightForm, budget: Budget | None = None) -> QuantizeResult:
    """Store the weights of a model in few bits, or some of them in more or in float, as a budget demands.

    Raises:
        ConfigError: an option names what is not there, or a method or a search has no data to look at.
        ArtifactError: the ranking of a search is of another model.
        ModelError: the model cannot be read, is quantized already, or has no weight to quantize.
    """
    clock = Clock()
    source = load_graph(request.model)
    notes = [request.target_note] if request.target_note else []
    tree = plan_weights_of(source, request.target, form, request.wanted, notes)
    with blamed_on(source):
        batches = None if request.data is None and budget is None else request.feeds(source, budget)
        run = _Run(request=request, form=form, source=source, batches=batches)
        run.check(tree)
        samples = run.samples(tree)
    clock.lap("plan")
    found = None
    if budget is not None and batches is not None:
        judged = request.judged(source, batches, budget)
        tree, found = run.searched(tree, samples, budget, judged)
        clock.lap("search")
    with file_for_weights(request.output, tree.graph.initializers.values()) as file:
        with blamed_on(source):
            quantized = run.rewritten(tree, _kept if file is None else file.moved, samples)
            run.note_other_methods(tree)
            ShareConstants().run(quantized)
        clock.lap("quantize")
        made = Made(
            source=source,
            planned=tree.graph,
            quantized=quantized,
            plan=tree.whole.plan,
            qparams=run.qparams,
            expected=(),
            expected_weights=run.expected(tree),
            metadata={"onnxq.mode": WEIGHT_ONLY, "onnxq.weights": form.weights, "onnxq.rounding": form.rounding},
            mode=WEIGHT_ONLY,
            label=f"{form.weights}, {form.rounding}",
            qualities=run.qualities,
            checks=checks_of(found),
            notes=(*run.notes, *notes_of(found)),
            held_out=run.batches,
            search=found,
        )
        return finish(made, request, clock, file)


def weight_subject(request: Request, form: WeightForm, samples: int, clock: Clock) -> Subject:
    """The weights of a model as layers to be measured on so many samples.

    Raises:
        OnnxqError: as `quantize_weights`.
    """
    source = load_graph(request.model)
    tree = plan_weights_of(source, request.target, form, request.wanted, ())
    with blamed_on(source):
        batches = request.feeds(source)
        batches = batches.cached() if batches.one_shot else batches
        run = _Run(request=request, form=form, source=source, batches=batches)
        run.check(tree)
        seen = run.samples(tree)
        reader, kept = keep_first(batches, samples=samples)
        read_through(reader)
        clock.lap("plan")
        plan = counted_plan(tree.planned.plan, tree.graph, kept)
        space = run.space(replace(tree, planned=replace(tree.planned, plan=plan)), seen, request.progress)
        space.make(frozenset(), frozenset())  # finds the codes of all weights
        clock.lap("round")
    return Subject(space=space, samples=kept, method=f"{form.weights}, {form.rounding}")


def _kept(tensor: TensorProto) -> TensorProto:
    return tensor


@dataclass(kw_only=True)
class _Run:
    """One run, and what it finds.

    Attributes:
        request: What the user asked for.
        form: How weights are stored.
        source: The float model.
        batches: The data; None where there is none.
        kept: Codes that were found in a search; None where there is none.
        qparams: Parameters of weights that have few enough scales to be shown, by key with its path.
        qualities: How near each weight's codes are, likewise.
        notes: Facts worth knowing.
    """

    request: Request
    form: WeightForm
    source: Graph
    batches: Batches | None
    kept: KeptWeights | None = None
    qparams: dict[str, QuantParams] = field(default_factory=dict)
    qualities: dict[str, Quality] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def check(self, tree: WeightTree) -> None:
        """Refuse a plan that stores no weight in few bits."""
        if any(d.action is Action.WEIGHTS for d in tree.whole.plan.nodes):
            return
        error = nothing_to_quantize(tree.whole.plan)
        if self.request.wanted.placement == FAST and isinstance(error, UnsupportedModelError):
            error = UnsupportedModelError(
                error.message,
                hint="placement='full' (--placement full) stores weights of Conv, LSTM and GRU as int8, too",
            )
        raise error

    def samples(self, tree: WeightTree) -> list[Batch]:
        """Some batches for the methods that look at data; none where there is no such method.

        Raises:
            ConfigError: there is one, and no data.
        """
        tensors = tree.whole.plan.tensors.values()
        wanted = {t.rounding or self.form.rounding for t in tensors} & NEED_DATA
        if not wanted:
            return []
        method = min(wanted)
        if self.batches is None or self.request.data is None:
            raise ConfigError(
                f"rounding {method!r} looks at what weights are multiplied with, and there are no data",
                hint="pass data= (--data), or rounding='mse' (--rounding mse)",
            )
        if self.batches.one_shot:
            self.batches = self.batches.cached()  # both models are compared on them later
        reader, kept = keep_first(self.batches, samples=SAMPLES)
        read_through(reader)
        return kept

    def searched(
        self, tree: WeightTree, samples: Sequence[Batch], budget: Budget, judged: Judged
    ) -> tuple[WeightTree, SearchResult]:
        """The plan that meets a budget, and what was found."""
        request, layers = self.request, weight_layers(tree)
        floats, wide, found = search_within(
            budget,
            self.space(tree, samples, None),
            judged,
            first_samples(judged.batches),
            options=request.collecting,
            progress=request.progress,
        )
        return with_weights(tree, layers, floats, wide, request.target), found

    def space(self, tree: WeightTree, samples: Sequence[Batch], progress: Callback | None) -> Space:
        """What there is to choose among; codes that are found on the way are kept."""
        self.kept = KeptWeights()
        trial = replace(self, request=replace(self.request, progress=progress))

        def made(one: WeightTree) -> Graph:
            graph = replace(trial, qparams={}, qualities={}, notes=[]).rewritten(one, _kept, samples)
            ShareConstants().run(graph)
            return graph

        return weight_space(tree, self.request.target, self.source, self.kept, made)

    def rewritten(self, tree: WeightTree, sink: Sink, samples: Sequence[Batch], path: str = "") -> Graph:
        """The graph of `tree` with its weights in few bits, which go through `sink`."""
        graph = tree.graph.copy()
        for one, inner in tree.nested:
            content = self.rewritten(inner, sink, (), f"{path}{one.subgraph.path}/")
            with_subgraph(graph, one.subgraph, content)
            import_domains_of(graph, content)
        if tree.nested:
            graph.prune()
            graph.sort()
        floats, scales = tree.graph, dict[str, NDArray[np.float32] | None]()
        if samples:
            collecting = self.request.collecting
            scales = scale_channels(
                graph, tree.planned, self.form, moments_in_order(floats, tree.planned, samples, collecting), self.kept
            )
        moments = moments_in_order(floats, tree.planned, samples, self.request.collecting) if samples else None
        engine = self.request.target.engine
        explicit, wide = engine is Engine.TENSORRT, engine is Engine.ONNXRUNTIME
        rewriter = WeightRewriter(graph, tree.planned, self.form, sink, explicit=explicit, wide=wide)
        for key, rounded, quality in rounded_weights(
            floats, tree.planned, self.form, moments, scales, kept=self.kept, path=path
        ):
            tensor, site = tree.planned.plan.tensors[key], tree.planned.sites[key][0]
            rewriter.replace(key, rounded)
            self.qualities[f"{path}{key}"] = quality
            expected = len(tree.planned.plan.tensors)
            report_to(self.request.progress, "rounding weights", len(self.qualities), expected, unit="weight")
            if rounded.grid.scale.size <= _LARGEST_SHOWN:
                self.qparams[f"{path}{key}"] = qparams_of(rounded, tensor.spec, site)
        use_domain(graph, MICROSOFT)
        if self.request.target.slow_sums:
            PartFusedSums().run(graph)
        graph.frame.ir_version = max(graph.frame.ir_version, _INT4_IR)
        graph.prune()
        graph.sort()
        return graph

    def note_other_methods(self, tree: WeightTree) -> None:
        """Say which products were rounded by another method than the user chose."""
        other: dict[str, list[str]] = {}
        for path, one in tree.walk():
            for key, tensor in one.planned.plan.tensors.items():
                asked, used = tensor.rounding or self.form.rounding, self.qualities[f"{path}{key}"].method
                if asked != used and one.planned.sites[key][0].kind == PRODUCT:
                    other.setdefault(f"rounded by {used!r} instead of {asked!r}", []).append(f"{path}{key}")
        for what, keys in other.items():
            self.notes.append(
                f"{counted(len(keys), 'product')} {what}, first {keys[0]!r}: nothing was seen of what it multiplies "
                "(in subgraphs, where branches share weights, that is not looked at)"
            )

    def expected(self, tree: WeightTree) -> list[str]:
        """Nodes whose weights the engine must read in few bits: those that it has kernels for."""
        kinds = (PRODUCT,) if tree.planned.storage == QDQ else (PRODUCT, TABLE)
        return [
            f"{path}{site.node}"
            for path, one in tree.walk()
            for sites in one.planned.sites.values()
            for site in sites
            if site.kind in kinds
        ]
