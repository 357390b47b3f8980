"""`onnxq.quantize`: from a float model to a quantized and verified one.

The order of the stages is in `onnxq.modes`: `static.py`, `dynamic.py` and `weight_only.py`.
Only loading and saving touch the disk, the caller's objects are never changed, and an output file appears whole or not
at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxq.calibration.progress import Progress
from onnxq.calibration.runner import CollectKeywords, CollectOptions
from onnxq.graph.model import ModelSource
from onnxq.graph.saving import check_output
from onnxq.keywords import complete, takes
from onnxq.modes.arguments import check_mode
from onnxq.modes.choices import Choices, StaticKeywords, TuneProgress
from onnxq.modes.dynamic import quantize_dynamic
from onnxq.modes.finishing import Request
from onnxq.modes.recorded_options import record_options
from onnxq.modes.result import QuantizeResult
from onnxq.modes.static import quantize_static
from onnxq.modes.weight_only import quantize_weights
from onnxq.pipeline.arguments import check_output_is_no_input, check_weights_stay
from onnxq.pipeline.reading import Reading, ReadingKeywords
from onnxq.planning.modes import DYNAMIC, STATIC, WEIGHT_ONLY
from onnxq.planning.options import PlacementKeywords, PlanOptions, TypeKeywords
from onnxq.planning.weight_form import FormKeywords, WeightForm
from onnxq.report.gates import GateKeywords, Gates
from onnxq.search.budget import SearchKeywords, budget_from
from onnxq.targets import ORT_CPU, TargetSource, resolve_target

if TYPE_CHECKING:
    from typing_extensions import Unpack

ProgressCallback = Callable[[Progress], None]


class QuantizeKeywords(
    TypeKeywords,
    StaticKeywords,
    FormKeywords,
    PlacementKeywords,
    ReadingKeywords,
    CollectKeywords,
    SearchKeywords,
    GateKeywords,
    total=False,
):
    """What shapes a quantized model, and what is demanded of it."""


@takes(QuantizeKeywords)
def quantize(  # noqa: PLR0913 - what every call is about; all else is in groups
    model: ModelSource,
    data: Any = None,
    *,
    target: TargetSource = ORT_CPU,
    mode: str = STATIC,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    details: bool = False,
    progress: ProgressCallback | None = None,
    tune_progress: TuneProgress | None = None,
    **options: Unpack[QuantizeKeywords],
) -> QuantizeResult:
    """Quantize a float model to int8 for one target, and prove the result on the target's engine.

    Args:
        model: Path, bytes or ModelProto of a float model, or of one that was trained with Q/DQ pairs
            (quantization-aware training): their scales are kept, and only what they leave open is calibrated.
        data: Calibration data: a path (.npz, .npy, a folder of them or of images, ONNX test data, a Python file that
            defines `load_data()`), an array or a dict of arrays (the first axis counts samples), an iterable of
            `{input name: array}`, a torch DataLoader or Dataset, an onnxruntime CalibrationDataReader, or one of these
            in an `onnxq.Data` that says more of it. The last batches are set aside to compare float and int8 on. None
            takes synthetic inputs, which leave the accuracy unknown; the report and the model's metadata say so.
        target: Name of the target: ort-cpu, ort-x64-avx2, ort-x64-vnni, ort-arm64, tensorrt, openvino,
            openvino-avx2, qnn or xnnpack; or the path of a .toml file with a table of your own.
        mode: "static" quantizes weights and activations, with ranges from data. "dynamic" (ONNX Runtime) quantizes
            weights, and activations while the model runs: no calibration, and `data` serves for the report alone.
            "weight-only" stores weights in few bits and computes in float. See docs/modes.md.
        output: Where to write the model; None writes nothing.
        force: Overwrite an existing output.
        details: Also measure what a report shows of the model's inside: the error of each tensor, histograms and ranges
            by every method, latency on this machine. Both models run a few times more.
        progress: Called now and then: with a Progress while calibrating, with a StageProgress in other long stages.
        tune_progress: Called after each placement that was raced, with their number and what was changed.
        options: How ranges are found and accuracy is kept: method, percentile, stats, momentum, tensorrt_cache,
            recover, tune, tune_seconds. Types and form of codes: activations, weights, float_type,
            block_size, symmetric, rounding,
            weight_format, accuracy_level. Which nodes: exclude, exclude_ops, exclude_between, include, include_ops,
            include_between, overrides, placement. How data is read: batch_size, limit, layout, images. How the model
            runs: threads, providers, nonfinite, full_histogram, memory_limit. Demands: max_drop, min_sqnr, min_cosine,
            metric, labels, eval_data, output_name, search_seconds, ranking, search, min_int8, require_engine.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
        ConfigError: an argument has an impossible value, or the output exists or is what is read.
        ArtifactError: `stats`, `tensorrt_cache` or `ranking` are damaged, belong to another model, or lack tensors.
        GateError: `min_int8` or `require_engine` need an engine that is not installed here; raised before any work.
            What is not met at the end is in `report.failed_checks`; `report.raise_if_failed()` makes it an error.
    """
    check_mode(mode, QuantizeKeywords, options)
    budget = budget_from(options)
    choices = Choices.of(options, budget, tune_progress) if mode == STATIC else None
    place = None if output is None else Path(output)
    check_output_is_no_input(place, model=model, data=data, tensorrt_cache=options.get("tensorrt_cache"))
    if place is not None:
        check_output(place, force=force)
        check_weights_stay(place, model)
    table, note = resolve_target(target, weights_alone=mode == WEIGHT_ONLY)
    gates = _gates(options)
    gates.check_possible(table)
    request = Request(
        model=model,
        data=data,
        target=table,
        target_note=note,
        wanted=PlanOptions.of(options, with_types=mode == STATIC),
        reading=Reading.of(options),
        collecting=CollectOptions.from_keywords(options),
        output=place,
        force=force,
        options=record_options(QuantizeKeywords, options, mode=mode, data=data),
        progress=progress,
        details=details,
        gates=gates,
    )
    if choices is not None:
        return quantize_static(request, choices)
    if mode == DYNAMIC:
        return quantize_dynamic(request, budget)
    return quantize_weights(request, WeightForm.of(options), budget)


def _gates(options: QuantizeKeywords) -> Gates:
    """The demands that are checked on the report alone: what is searched for is a check of the search.

    Raises:
        ConfigError: a value is impossible.
    """
    wanted = complete(SearchKeywords, options)
    return Gates.of(options, min_sqnr=None if wanted["search"] else wanted["min_sqnr"])
