"""The public functions, and the one place that knows the order of the stages.

    load -> normalise -> plan -> collect -> solve -> rewrite -> verify

Each stage is a function of its own; only loading and saving touch the disk, and an output file appears whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxq.calibration.batches import Batches
from onnxq.calibration.inputs import InputSpecs
from onnxq.calibration.methods import DEFAULT_METHOD, Method, method_from_name
from onnxq.calibration.runner import Progress, collect
from onnxq.calibration.solve import QParamsTable, solve
from onnxq.calibration.sources import DataOptions, open_data
from onnxq.calibration.statistics import StatsTable
from onnxq.calibration.synthetic import synthetic_batches
from onnxq.errors import ArtifactError, ModelError
from onnxq.graph.model import (
    ModelSource,
    load_graph,
    model_digest,
    quantized_nodes,
    save_model,
    set_metadata,
    upgrade_opset,
)
from onnxq.graph.view import Graph
from onnxq.passes.base import PassManager, PassResult
from onnxq.passes.fold_weights import FoldWeights
from onnxq.passes.insert_qdq import InsertQDQ
from onnxq.passes.normalise import normalise_float
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import QuantPlan
from onnxq.planning.planner import make_plan
from onnxq.report.report import Report
from onnxq.targets import ORT_CPU, resolve_target
from onnxq.targets.schema import Target
from onnxq.verify.verify import verify_model
from onnxq.version import VERSION

HELD_OUT_BATCHES = 8
"""Batches that the report compares float and int8 on, set aside from calibration where the data allows it."""


@dataclass(frozen=True, kw_only=True)
class QuantizeResult:
    """What `quantize` made.

    Attributes:
        model: The quantized model.
        plan: Where Q/DQ pairs went, and why.
        stats: Statistics of the activations; give them to another `quantize` of the same model to skip inference.
        qparams: Scale and zero-point of every quantized tensor.
        report: What was measured; truthy when every check passed.
        output: Where the model was written, if it was.
    """

    model: ModelProto
    plan: QuantPlan
    stats: StatsTable
    qparams: QParamsTable
    report: Report
    output: Path | None = None


@dataclass(frozen=True)
class Prepared:
    """A model ready for calibration.

    Attributes:
        source: The model as given.
        graph: The same function after the float passes.
        target: The resolved target.
        plan: The plan for it.
        passes: What the float passes did.
    """

    source: Graph
    graph: Graph
    target: Target
    plan: QuantPlan
    passes: PassResult


def quantize(  # noqa: PLR0913 - keyword arguments, each one documented
    model: ModelSource,
    data: Any = None,
    *,
    target: str = ORT_CPU,
    method: str = DEFAULT_METHOD,
    percentile: float | None = None,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    stats: StatsTable | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    data_options: DataOptions | None = None,
    exclude: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    threads: int | None = None,
    verify: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> QuantizeResult:
    """Quantize a float model to int8 for one target.

    Args:
        model: Path, bytes or ModelProto of a float model.
        data: Calibration data: a path or an iterable of `{input name: array}`; see `onnxq.calibration.sources`. None takes
            synthetic inputs, which give a model of unknown accuracy; the report and the metadata say so.
        target: Name of the target.
        method: How ranges are chosen: max, percentile, entropy, mse or auto.
        percentile: For method "percentile", the share of values that lies inside the range, in percent.
        output: Where to write the model; None writes nothing.
        force: Overwrite an existing output.
        stats: Statistics from an earlier run; then no calibration is run, and `data` serves only for the report.
        batch_size: Samples to feed at once.
        limit: Largest number of samples to use.
        data_options: How to read images and other data that leaves questions open.
        exclude: Names or shell-style patterns of nodes to keep in float.
        exclude_ops: Operator types to keep in float.
        threads: Threads for inference; None leaves it to onnxruntime.
        verify: Prove the result on the target's engine and compare outputs with the float model.
        progress: Called now and then while calibrating.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
        ConfigError: an argument has an impossible value, or the output exists.
        ArtifactError: `stats` belong to another model or lack tensors.
    """
    chosen = method_from_name(method, percentile=percentile)
    options = PlanOptions(exclude=tuple(exclude), exclude_ops=tuple(exclude_ops))
    prepared = prepare(model, target, options)
    batches = _open(prepared.source, data, batch_size=batch_size, limit=limit, options=data_options)
    calibration, held_out = batches.hold_out(HELD_OUT_BATCHES)
    if stats is None:
        stats = collect(
            prepared.graph,
            prepared.plan.observed(),
            calibration,
            digest=prepared.plan.digest,
            threads=threads,
            progress=progress,
        )
    elif stats.digest != prepared.plan.digest:
        raise ArtifactError(
            "the statistics were collected on another model",
            hint="calibrate this model: onnxq.calibrate(model, data) (onnxq calibrate)",
        )
    qparams = solve(prepared.graph, prepared.plan, stats, chosen, prepared.target)
    quantized = rewrite(prepared.graph, prepared.plan, qparams)
    result = quantized.to_model()
    set_metadata(result, _metadata(prepared.plan, chosen, stats, synthetic=data is None))
    report = verify_model(prepared, result, held_out, qparams, stats) if verify else None
    written = None
    if output is not None:
        written = Path(output)
        save_model(result, written, force=force, base_dir=quantized.base_dir)
    return QuantizeResult(
        model=result, plan=prepared.plan, stats=stats, qparams=qparams, report=report, output=written
    )
