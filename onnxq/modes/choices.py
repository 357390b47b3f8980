"""What is chosen in mode "static" alone: how ranges are found and how accuracy is kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from onnxq.calibration.methods import Method, method_from_name
from onnxq.calibration.methods.solve import RangeKeywords
from onnxq.calibration.statistics.file import stats_from
from onnxq.calibration.statistics.table import StatsTable
from onnxq.calibration.tensorrt_cache import TensorRTCache, load_tensorrt_cache
from onnxq.errors import ConfigError
from onnxq.keywords import Keyword, complete
from onnxq.modes.tuned import check_tuning
from onnxq.pipeline.arguments import check_sources
from onnxq.pipeline.stages import DEFAULT_RECOVERY
from onnxq.recovery.registry import Recovery
from onnxq.search.budget import Budget
from onnxq.tuning.search import DEFAULT_SECONDS

TuneProgress = Callable[[int, str], None]

FLOAT_TYPES = ("float32", "float16")
"""What nodes that are not quantized may compute in."""


class StaticKeywords(RangeKeywords, total=False):
    """How ranges are found, and what is done to win back accuracy and speed."""

    momentum: Annotated[
        float | None,
        Keyword(None, 'For method "moving-average", the weight of the newest batch, 0.01 unless given.'),
    ]
    tensorrt_cache: Annotated[
        str | os.PathLike[str] | None,
        Keyword(
            None,
            'A calibration cache of TensorRT, for target "tensorrt": its scales are used, and nothing is calibrated.',
        ),
    ]
    recover: Annotated[
        str | Sequence[str],
        Keyword(
            DEFAULT_RECOVERY,
            "What is done to win back accuracy, on some samples of `data` (so not where `stats` come without data). "
            '"fast" evens out channels where one scale serves them badly, then goes through the model layer by layer '
            'and lets each make up, in weights and bias, for the errors of rounding before it; "best" also rounds the '
            "weights so that the nodes' outputs come out right, which takes several times longer; "
            '"none" does nothing. Or single steps, such as ("rounding", "bias"): "equalize", "smooth", "absorb", '
            '"level", "clip", "rounding", "bias", "reconstruct".',
        ),
    ]
    float_type: Annotated[
        str | None,
        Keyword(
            None,
            'What the nodes compute in that are not quantized: "float32" as in the model, the default, or for target '
            '"tensorrt" "float16", but for nodes whose tensors leave its range on samples (docs/tensorrt.md).',
        ),
    ]
    tune: Annotated[
        str | None,
        Keyword(
            None,
            '"latency" races placements on this machine under the engine of the target, onnxruntime or OpenVINO, and '
            "keeps the fastest whose outputs are as close to the float model's, within 1 dB, as those of the default "
            "one. Interrupted, it goes on with the best so far.",
        ),
    ]
    tune_seconds: Annotated[float, Keyword(DEFAULT_SECONDS, "How long that may take.")]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How ranges are found and how accuracy is kept.

    Attributes:
        method: From statistics to ranges.
        stats: Statistics of an earlier run; None to collect them.
        cache: Scales that TensorRT found; None for ranges of our own.
        recovery: What is done to win back accuracy.
        budget: What accuracy is demanded, at the cost of layers in float; None for no demand.
        float16: Whether what is not quantized computes in float16.
        tune: What placements are raced for; None for no race.
        tune_seconds: How long that may take.
        tune_progress: Called after each placement, with their number and what was changed.
    """

    method: Method
    stats: StatsTable | None
    cache: TensorRTCache | None
    recovery: Recovery
    budget: Budget | None
    float16: bool
    tune: str | None
    tune_seconds: float
    tune_progress: TuneProgress | None

    @classmethod
    def of(cls, options: StaticKeywords, budget: Budget | None, tune_progress: TuneProgress | None) -> Choices:
        """What keywords say.

        Raises:
            ConfigError: there is no such method, recovery or aim, or the arguments do not go together.
            ArtifactError: the calibration cache of TensorRT is damaged.
        """
        given = complete(StaticKeywords, options)
        cache, recovery = given["tensorrt_cache"], Recovery.of(given["recover"])
        choices = cls(
            method=method_from_name(given["method"], percentile=given["percentile"], momentum=given["momentum"]),
            cache=None if cache is None else load_tensorrt_cache(cache),
            stats=stats_from(given["stats"]),
            recovery=recovery.layer_by_layer() if budget is not None and budget.search else recovery,
            budget=budget,
            float16=_is_float16(given["float_type"]),
            tune=given["tune"],
            tune_seconds=given["tune_seconds"],
            tune_progress=tune_progress,
        )
        check_sources(choices.method, choices.stats, choices.cache)
        check_tuning(choices.tune, choices.tune_seconds, choices.method, choices.cache)
        return choices

    @property
    def are_given(self) -> bool:
        """Whether the ranges come from an earlier run, so that no data is calibrated on."""
        return self.stats is not None or self.cache is not None


def _is_float16(float_type: str | None) -> bool:
    if float_type not in FLOAT_TYPES and float_type is not None:
        raise ConfigError(
            f"float_type is {float_type!r}, expected one of {', '.join(FLOAT_TYPES)}",
            hint="pass --float-type float16 (float_type=), or leave it out",
        )
    return float_type == "float16"
