"""`onnxq.quantize`: from a float model to a quantized and verified one.

The order of the stages is in `onnxq.modes`: `static.py`, `dynamic.py` and `weight_only.py`.
Only loading and saving touch the disk, the caller's objects are never changed, and an output file appears whole or not
at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnxq.calibration.progress import Progress
from onnxq.calibration.runner import NonFinite
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.images import ImageOptions
from onnxq.data.inputs import Layout
from onnxq.evaluation.metrics import Function
from onnxq.graph.model import ModelSource
from onnxq.modes.dispatch import quantize_in_mode
from onnxq.modes.recorded_options import record_options
from onnxq.modes.result import QuantizeResult
from onnxq.pipeline.stages import DEFAULT_RECOVERY
from onnxq.planning.modes import STATIC, check_mode
from onnxq.planning.options import FAST, Ends
from onnxq.planning.overrides import Override
from onnxq.search.ranking_file import RankingSource
from onnxq.targets import ORT_CPU, TargetSource
from onnxq.tuning.search import DEFAULT_SECONDS

DEFAULT_METHOD = "auto"

ProgressCallback = Callable[[Progress], None]


def quantize(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    data: Any = None,
    *,
    target: TargetSource = ORT_CPU,
    mode: str = STATIC,
    activations: str | None = None,
    weights: str | None = None,
    block_size: int | None = None,
    symmetric: bool | None = None,
    rounding: str | None = None,
    weight_format: str | None = None,
    accuracy_level: int | None = None,
    method: str = DEFAULT_METHOD,
    percentile: float | None = None,
    momentum: float | None = None,
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
    stats: StatsTable | None = None,
    tensorrt_cache: str | os.PathLike[str] | None = None,
    recover: str | Sequence[str] = DEFAULT_RECOVERY,
    batch_size: int | None = None,
    limit: int | None = None,
    layout: Layout | None = None,
    images: ImageOptions | str | None = None,
    exclude: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    exclude_between: Sequence[Ends] = (),
    include: Sequence[str] = (),
    include_ops: Sequence[str] = (),
    include_between: Sequence[Ends] = (),
    overrides: Sequence[Override | Mapping[str, Any]] = (),
    placement: str = FAST,
    tune: str | None = None,
    tune_seconds: float = DEFAULT_SECONDS,
    threads: int | None = None,
    providers: Sequence[str] | str | None = None,
    nonfinite: NonFinite = "error",
    full_histogram: bool = False,
    memory_limit: int | None = None,
    max_drop: float | str | None = None,
    min_sqnr: float | None = None,
    min_cosine: float | None = None,
    metric: str | Function | None = None,
    labels: Any = None,
    output_name: str | None = None,
    eval_data: Any = None,
    search_seconds: float | None = None,
    search: bool = True,
    ranking: RankingSource | None = None,
    min_int8: float | str | None = None,
    require_engine: bool = False,
    details: bool = False,
    progress: ProgressCallback | None = None,
    tune_progress: Callable[[int, str], None] | None = None,
) -> QuantizeResult:
    """Quantize a float model to int8 for one target, and prove the result on the target's engine.

    Args:
        model: Path, bytes or ModelProto of a float model, or of one that was trained with Q/DQ pairs (quantization-
            aware training): their scales are kept, and only what they leave open is calibrated.
        data: Calibration data: a path (.npz, .npy, a folder of them or of images, ONNX test data, a Python file that
            defines `load_data()`), an iterable of `{input name: array}`, or an onnxruntime CalibrationDataReader. The
            last batches are set aside to compare float and int8 on. None takes synthetic inputs, which leave the
            accuracy unknown; the report and the model's metadata say so.
        target: Name of the target: ort-cpu, ort-x64-avx2, ort-x64-vnni, ort-arm64, tensorrt, openvino, qnn or xnnpack;
            or the path of a .toml file with a table of your own.
        mode: "static" quantizes weights and activations, with ranges from data. "dynamic" (ONNX Runtime) quantizes
            weights, and activations while the model runs: no calibration, and `data` serves for the report alone.
            "weight-only" stores weights in few bits and computes in float. See docs/modes.md.
        activations: Type of the activations' codes, one that the target takes: int8, uint8, int16, uint16 or fp8. The
            target's own unless given (docs/types.md).
        weights: Type of the weights: in mode "static" one that the target takes, and what goes with the activations
            unless given; in "weight-only" int4 (the default), uint4 or int8. The following five are of that mode.
        block_size: How many weights share a scale: 16 to 256, or 0 for all of a channel; 32 for 4 bits, 0 for int8.
        symmetric: Whether weights have no zero-point; so for int4 and int8 unless given.
        rounding: How codes are chosen: "nearest", "mse" (the default), "hqq", or with some samples in `data` "gptq" or
            "awq".
        weight_format: "nbits" for onnxruntime's MatMulNBits and GatherBlockQuantized, "qdq" for DequantizeLinear; the
            target decides unless given.
        accuracy_level: Of MatMulNBits: 4 (the default) multiplies in int8, 0 in float32.
        method: How ranges are chosen from statistics: max, percentile, entropy, mse or auto; or moving-average, which
            follows the batches in their order as PyTorch's observer does.
        percentile: For method "percentile", the share of values inside the range, in percent (more than 50).
        momentum: For method "moving-average", the weight of the newest batch, 0.01 unless given.
        output: Where to write the model; None writes nothing.
        force: Overwrite an existing output.
        stats: Statistics from an earlier run; then nothing is calibrated, and `data` serves for recovery (its first
            samples) and the report (its last).
        tensorrt_cache: A calibration cache of TensorRT, for target "tensorrt": its scales are used, and nothing is
            calibrated.
        recover: What is done to win back accuracy, on some samples of `data` (so not where `stats` come without
            data). "fast" evens out channels where one scale serves them badly, then goes through the model layer by
            layer and lets each make up, in weights and bias, for the errors of rounding before it; "best" also rounds
            the weights so that the nodes' outputs come out right, which takes several times longer; "none" does
            nothing. Or single steps, such as ("rounding", "bias"): "equalize", "smooth", "absorb", "level", "clip",
            "rounding", "bias", "reconstruct".
        batch_size: Samples to feed at once, where the model leaves it open.
        limit: Most samples to use.
        layout: Where rank-4 data keeps its channels ("nchw" or "nhwc"), if not where the model does.
        images: How image files become arrays: "imagenet", "yolo", "paddleocr", or ImageOptions.
        exclude: Names, shell-style patterns or regular expressions (behind "re:") of nodes to keep in float; a single
            one may be a plain string.
        exclude_ops: Operator types to keep in float, likewise.
        exclude_between: Pairs of tensors: every node on a path from the first to the second stays float.
        include: Patterns of the only nodes to quantize; what fuses into them comes along, what is excluded does not.
        include_ops: Operator types to quantize, besides `include`.
        include_between: Pairs of tensors, between which nodes are quantized, besides `include`.
        overrides: Types, methods and ranges of single nodes and tensors: onnxq.Override, or a dict with its fields.
        placement: "fast" also keeps nodes in float that are faster there, as far as the target's table tells (the ort
            targets for x64); "full" runs every node in int8 that can.
        tune: "latency" races placements under onnxruntime on this machine and keeps the fastest whose outputs are as
            close to the float model's, within 1 dB, as those of the default one. Interrupted, it goes on with the best
            so far.
        tune_seconds: How long that may take.
        threads: Threads for calibration inference; None leaves it to onnxruntime.
        providers: onnxruntime's execution providers for calibration in fall-back order, such as ("cuda", "cpu"); None
            means the CPU.
        nonfinite: NaN and Inf in a tensor are an "error", or "ignore" leaves them out of the statistics.
        full_histogram: Count every element of every tensor, not a share of each sample's (see docs/calibration.md).
        memory_limit: Bytes that the tensors calibration looks at may take; where they do not fit, the data is read
            several times, with the same result.
        max_drop: Leave layers in float, as little arithmetic as possible, so that `metric` falls by so many percentage
            points at most (0.5 or "0.5%"). In mode "weight-only", weights of 4 bits get 8 before they stay float. See
            docs/accuracy.md for this and the following.
        min_sqnr: Likewise, so that every float output has this SQNR in dB.
        min_cosine: Likewise, so that every float output has this cosine similarity with the float model's.
        metric: For `max_drop`, as for `evaluate`; top1 unless given.
        labels: For `max_drop`, as for `evaluate`.
        output_name: For `max_drop`, the output to look at, where there are several.
        eval_data: Samples to judge models on; the calibration data unless given.
        search_seconds: Time limit of the search, 600 unless given. The best model found so far is the result.
        search: Whether layers may be changed until `max_drop`, `min_sqnr` and `min_cosine` are met. With False they are
            only checked: `min_sqnr` on the samples of the report (as --min-sqnr without --search), the others on those
            of the search.
        ranking: A ranking of the layers to search in the order of, in place of measuring it: what `sensitivity` gave,
            or the JSON file that it wrote.
        min_int8: A gate: share of the nodes, in percent (50 or "50%"), that the engine must run in int8 or fused into
            int8 nodes. A gate that is not met is a failed check of the report.
        require_engine: A gate: the target's engine must have been asked.
        details: Also measure what a report shows of the model's inside: the error of each tensor, histograms and ranges
            by every method, latency on this machine. Both models run a few times more.
        progress: Called now and then: with a Progress while calibrating, with a StageProgress in other long stages.
        tune_progress: Called after each placement that was raced, with their number and what was changed.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
        ConfigError: an argument has an impossible value, or the output exists or is what is read.
        ArtifactError: `stats`, `tensorrt_cache` or `ranking` are damaged, belong to another model, or lack tensors.
        GateError: `min_int8` or `require_engine` need an engine that is not installed here; raised before any work.
            What is not met at the end is in `report.failed_checks`; `report.raise_if_failed()` makes it an error.
    """
    given = dict(locals())
    check_mode(mode, quantize, given)
    return quantize_in_mode(mode, given, record_options(quantize, given))
