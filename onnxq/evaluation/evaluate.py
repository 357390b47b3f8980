"""`onnxq.evaluate`: a float model and its quantized forms side by side on the same samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.progress import Progress, report_to
from onnxq.calibration.runner import CollectOptions, RunningKeywords
from onnxq.data.batches import Batch, Batches
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.data.user_code import function_from
from onnxq.errors import ConfigError
from onnxq.evaluation.agreement import Agreement, Postprocess
from onnxq.evaluation.demands import demands_from
from onnxq.evaluation.evaluation import Comparison, Evaluation, ModelScore, compare
from onnxq.evaluation.judging import Judge, judge_for, judged, labelled
from onnxq.evaluation.labels import label_key, load_labels
from onnxq.evaluation.metrics import Function, Metric, metric_from
from onnxq.graph.model import ModelSource, get_metadata, load_graph
from onnxq.graph.view import Graph
from onnxq.keywords import complete, takes
from onnxq.passes.adapt.settle_types import runnable
from onnxq.pipeline.arguments import check_order
from onnxq.pipeline.reading import Reading, ReadingKeywords
from onnxq.targets import TARGETS, resolve_target
from onnxq.verification.engines.ort_products import has_kernels_of
from onnxq.verification.engines.unsigned_codes import unsaturated
from onnxq.verification.side_by_side import check_same_inputs

if TYPE_CHECKING:
    from typing_extensions import Unpack

_FLOAT = "onnxruntime"
_FUSED = "onnxruntime, int8 kernels"
_UNFUSED = "Q and DQ as written"

_AGAINST_FLOAT = (
    "without labels, scores say how near each model is to {name}, not how right it is; labels= (--labels) tell that"
)

_CHANCE = 3.0
"""A float model whose share of right answers is below this many times that of guessing has the wrong labels."""


class EvaluateKeywords(ReadingKeywords, RunningKeywords, total=False):
    """How data is read and models run."""


@takes(EvaluateKeywords)
def evaluate(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    quantized: ModelSource | Sequence[ModelSource] = (),
    data: Any = None,
    *,
    labels: Any = None,
    metric: str | Function | None = None,
    postprocess: Postprocess | str | None = None,
    output: str | None = None,
    max_drop: float | str | None = None,
    min_score: float | str | None = None,
    target: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[EvaluateKeywords],
) -> Evaluation:
    """Score a float model and its quantized forms on the same samples, and say which differences are more than chance.

    Args:
        model: The float model: path, bytes or ModelProto.
        quantized: Its quantized forms, one or several; any files with the same inputs and outputs.
        data: Samples to judge on, as for `quantize`; not those that were calibrated on.
        labels: An array or sequence, a .npy, .npz, .txt or .csv file, the name of an array in the .npz of the data, or
            "folders", one for each class. None looks for class folders, or an array "labels", where the samples are.
        metric: "top1", "top5", "cosine", "sqnr", "file.py:function", or a function of outputs by name and labels
            that gives one number for each sample, larger is better. None is top1 where there are labels, else sqnr.
        postprocess: In place of a metric, the last step of a pipeline: a function of outputs by name that gives one
            result for each sample (a text, a decision), or "file.py:function". Scored is the share of results that
            equal the labels, or, without labels, the float model's results.
        output: Name of the output to judge, where there are several.
        max_drop: A demand: most percentage points that a quantized model's score may lie below the float model's, such
            as 0.5 or "0.5%"; a metric of 0..1 is taken as a share. `passed` and `checks` of the result tell.
        min_score: A demand: least score of a quantized model; percent for shares, else in the metric's unit.
        target: The engine the quantized models are for. For tensorrt and openvino they run without onnxruntime's
            optimisations, Q and DQ as written; so do those for CPUs with VNNI on a CPU without it. None takes what each
            model's metadata say, else onnxruntime.
        progress: Called after each batch, with a StageProgress.
        options: As for `quantize`: batch_size, limit, layout, images, threads, providers.

    Raises:
        ModelError: a model cannot be read or loaded.
        DataError: the data or labels do not fit the model or each other.
        ConfigError: an argument has an impossible value, or something has to be chosen.
    """
    if data is None:
        raise ConfigError("there are no samples to judge on", hint="pass data= (--data)")
    graphs = _named(model, quantized)
    source, *others = graphs.values()
    check_order(source, others)
    for name, graph in graphs.items():
        check_same_inputs(source, graph, f"{name!r}")
    reading = Reading.of(options)
    found = load_labels(labels, data, limit=reading.limit)
    chosen = _metric(metric, postprocess, labelled=found is not None)
    demands = demands_from(max_drop, min_score, metric=chosen, quantized=len(graphs) - 1)
    judge = judge_for(source, chosen, output, found if chosen.needs_labels or not chosen.against_float else None)
    batches = labelled_data(source, data, labels, reading)
    running = CollectOptions(**complete(RunningKeywords, options))
    sessions, run_as = {}, {}
    for name, graph in graphs.items():
        fused = True if graph is source else _is_fused(graph, target)
        judged_graph = runnable(graph)
        sessions[name] = running.session(judged_graph if fused else unsaturated(judged_graph), optimise=fused)
        run_as[name] = _FLOAT if graph is source else _FUSED if fused else _UNFUSED
    source_batches = labelled(batches, judge, limited=reading.limit is not None)
    values = judged(judge, sessions, next(iter(graphs)), _shown(source_batches, batches.expected_samples, progress))
    by_default = (metric is None or postprocess is not None) and found is None
    notes = (*batches.notes, *([_AGAINST_FLOAT.format(name=next(iter(graphs)))] if by_default else []))
    scores = _evaluation(judge, values, run_as, notes=notes)
    return demands.judged(scores)


def _metric(metric: str | Function | None, postprocess: Postprocess | str | None, *, labelled: bool) -> Metric:
    if postprocess is None:
        return metric_from(metric if metric is not None else "top1" if labelled else "sqnr")
    if metric is not None:
        raise ConfigError(
            "both a metric and postprocess are given",
            hint="postprocess= (--postprocess) stands for a metric; do its work in the metric, or leave metric= out",
        )
    if isinstance(postprocess, str):
        argument = "postprocess= (--postprocess)"
        function = function_from(postprocess, what="postprocess", argument=argument)
        return Agreement(function, postprocess, against_float=not labelled)
    return Agreement(postprocess, getattr(postprocess, "__name__", "postprocess"), against_float=not labelled)


def labelled_data(graph: Graph, data: Any, labels: Any, reading: Reading) -> Batches:
    """The samples that belong to `labels`, without an array of labels that lies among them."""
    key = label_key(labels, data)
    return open_data(
        data,
        inputs=InputSpecs.from_graph(graph),
        graph=runnable(graph),
        batch_size=reading.batch_size,
        limit=reading.limit,
        layout=reading.layout,
        images=reading.images,
        label="evaluation",
        skip=() if key is None else (key,),
    )


def _shown(
    batches: Iterator[Batch], expected: int | None, progress: Callable[[Progress], None] | None
) -> Iterator[Batch]:
    done = 0
    for batch in batches:
        report_to(progress, "evaluating", done, expected)
        yield batch
        done += batch.samples


def _named(model: ModelSource, quantized: ModelSource | Sequence[ModelSource]) -> dict[str, Graph]:
    """The models by name, the float one first."""
    several = cast("list[ModelSource]", list(quantized) if isinstance(quantized, (list, tuple)) else [quantized])
    named: dict[str, Graph] = {}
    for i, given in enumerate([model, *several]):
        name = os.fspath(given) if isinstance(given, (str, Path)) else "float" if i == 0 else f"quantized {i}"
        if name in named:
            raise ConfigError(f"the model {name!r} is given twice", hint="name each model once")
        named[str(name)] = load_graph(given)
    short = [Path(name).name for name in named]  # tables are narrow; folders only where they tell models apart
    return dict(zip(short, named.values(), strict=True)) if len(set(short)) == len(short) else named


def _is_fused(graph: Graph, target: str | None) -> bool:
    """Whether a quantized model is run by int8 kernels, as its engine would, or by Q and DQ."""
    if target is not None:
        return has_kernels_of(resolve_target(target)[0])
    named = get_metadata(graph.frame).get("onnxq.target", "ort-")
    return has_kernels_of(TARGETS[named]) if named in TARGETS else named.startswith("ort-")


def _evaluation(
    judge: Judge, values: Mapping[str, NDArray[np.float64]], run_as: Mapping[str, str], *, notes: tuple[str, ...]
) -> Evaluation:
    metric, names = judge.metric, list(values)
    scores = []
    for name in names:
        interval = metric.interval(values[name])
        scores.append(
            ModelScore(
                name=name,
                score=metric.score(values[name]),
                low=interval.low,
                high=interval.high,
                run_as=run_as[name],
            )
        )
    if metric.against_float:
        pairs = [(names[1], other) for other in names[2:]]
    else:
        pairs = [(names[0], other) for other in names[1:]] + [(names[1], other) for other in names[2:]]
    found: list[Comparison] = [compare(metric, (a, b), values[a], values[b]) for a, b in pairs]
    return Evaluation(
        metric=metric.name,
        unit=metric.unit,
        output=judge.output,
        samples=len(values[names[0]]),
        models=tuple(scores),
        comparisons=tuple(found),
        warnings=_guessing(judge, scores[0]),
        notes=notes,
    )


def _guessing(judge: Judge, score: ModelScore) -> tuple[str, ...]:
    """A warning where the float model does not know its own classes."""
    labels = judge.labels
    if not judge.metric.counts_right_answers or labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return ()
    classes = int(np.max(labels, initial=0)) + 1
    k = 5 if judge.metric.name == "top5" else 1
    if classes <= _CHANCE * k or score.high > _CHANCE * k / classes:
        return ()
    return (
        f"the float model itself gets only {score.score:.1%} right: check labels= (--labels), which may belong to "
        "other samples or count from another number, and how inputs are prepared, images=, layout= (--images, "
        "--layout); `onnxq data SRC MODEL` shows what is fed",
    )
