"""From statistics to a range, by a named method.

`auto` minimises the expected squared error as `mse` does, but counts what is clipped ten times: an error of clipping
has one direction, which the next node adds up where errors of rounding average out, and it strikes the largest values,
which a network looks at most. It takes the range it finds where that gains at least 0.1 dB on this measure and
otherwise keeps `max`, which is safer on data not seen. The weight was chosen on calibration data of real models.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from numbers import Real
from typing import Annotated, TypedDict

import numpy as np

from onnxq.calibration.methods.density import Density
from onnxq.calibration.methods.entropy import solve_entropy
from onnxq.calibration.methods.max import solve_max
from onnxq.calibration.methods.mse import solve_mse
from onnxq.calibration.methods.noise import expected_errors
from onnxq.calibration.methods.percentile import solve_percentile
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.errors import ArtifactError, ConfigError, InternalError
from onnxq.keywords import Keyword
from onnxq.numerics.qparams import Range
from onnxq.numerics.specs import QuantSpec

AUTO = "auto"
METHODS = (AUTO, "entropy", "max", "mse", "percentile")
"""Methods that work on statistics: one set of statistics serves them all."""

MOVING_AVERAGE = "moving-average"
"""Follows the batches in their order instead: see `observers`."""

METHOD_NAMES = (*METHODS, MOVING_AVERAGE)
DEFAULT_PERCENTILE = 99.99
_SMALLEST_PERCENTILE = 50.0
DEFAULT_MOMENTUM = 0.01
"""The `averaging_constant` of PyTorch's MovingAverageMinMaxObserver."""
AUTO_GAIN_DB = 0.1
AUTO_CLIP_WEIGHT = 10.0


@dataclass(frozen=True, kw_only=True)
class Method:
    """A range method and its settings. Made by `method_from_name`, which checks them.

    Attributes:
        name: One of METHOD_NAMES.
        percentile: Percent of the elements that `percentile` keeps, in (50, 100].
        momentum: Weight of the newest batch in `moving-average`, in (0, 1].
    """

    name: str
    percentile: float = DEFAULT_PERCENTILE
    momentum: float = DEFAULT_MOMENTUM

    @property
    def label(self) -> str:
        """The name with what it was set to, for reports and metadata."""
        if self.name == MOVING_AVERAGE:
            return f"{self.name} {self.momentum:g}"
        return f"{self.name} {self.percentile:g} %" if self.name == "percentile" else self.name


class RangeKeywords(TypedDict, total=False):
    """How ranges are chosen, and from which statistics."""

    method: Annotated[
        str,
        Keyword(
            AUTO,
            "How ranges are chosen from statistics: max, percentile, entropy, mse or auto; in `quantize` also "
            "moving-average, which follows the batches in their order as PyTorch's observer does.",
        ),
    ]
    percentile: Annotated[
        float | None,
        Keyword(
            None,
            'For method "percentile", the share of values inside the range, in percent (more than 50); None is 99.99.',
        ),
    ]
    stats: Annotated[
        StatsTable | str | os.PathLike[str] | None,
        Keyword(
            None,
            "Statistics from an earlier run, or their file; then nothing is calibrated, and `data` serves for recovery "
            "(its first samples) and the report (its last), or in `sensitivity` to measure on.",
        ),
    ]


def method_from_name(name: str, *, percentile: float | None = None, momentum: float | None = None) -> Method:
    """The method called `name`.

    Args:
        name: One of METHOD_NAMES.
        percentile: For the method `percentile` alone; 99.99 unless given.
        momentum: For the method `moving-average` alone; 0.01 unless given.

    Raises:
        ConfigError: no such method, a percentile outside (50, 100] or a momentum outside (0, 1], or one given to
            another method.

    >>> method_from_name("percentile", percentile=99.9).label
    'percentile 99.9 %'
    """
    if name not in METHOD_NAMES:
        close = difflib.get_close_matches(name, METHOD_NAMES, n=1, cutoff=0.5)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(
            f"unknown calibration method {name!r}; known: {', '.join(METHOD_NAMES)}",
            hint=f"{guess}pass method= (--method)",
        )
    if momentum is not None:
        return Method(name=name, momentum=_checked_momentum(name, momentum))
    if percentile is None:
        return Method(name=name)
    if name != "percentile":
        raise ConfigError(
            f"percentile={percentile} (--percentile) has no meaning for the method {name!r}",
            hint="pass method='percentile' (--method percentile), or leave percentile= (--percentile) out",
        )
    return Method(name=name, percentile=_checked_percentile(percentile))


def _checked_percentile(percentile: object) -> float:
    # At 50 and below half of the values are cut off: a fraction was meant, or something else.
    number = float(percentile) if isinstance(percentile, Real) and not isinstance(percentile, bool) else 0.0
    if not _SMALLEST_PERCENTILE < number <= 100.0:
        raise ConfigError(
            f"percentile is {percentile!r}, expected a number in ({_SMALLEST_PERCENTILE:g}, 100]",
            hint="percentile= (--percentile) is in percent: 99.9, not 0.999",
        )
    return number


def _checked_momentum(name: str, momentum: float) -> float:
    if name != MOVING_AVERAGE:
        raise ConfigError(
            f"momentum={momentum} (--momentum) has no meaning for the method {name!r}",
            hint="pass method='moving-average' (--method moving-average), or leave momentum= (--momentum) out",
        )
    if not 0.0 < momentum <= 1.0:
        raise ConfigError(
            f"momentum is {momentum}, expected a number in (0, 1]",
            hint="momentum= (--momentum) is the weight of the newest batch, 0.01 in PyTorch",
        )
    return float(momentum)


def solve_range(
    stats: TensorStats,
    spec: QuantSpec,
    method: Method,
    lower: float | None = None,
    upper: float | None = None,
) -> Range:
    """The range of one tensor.

    Args:
        stats: What was seen of the tensor.
        spec: How it will be quantized. Symmetric specs get [-t, t] before the bounds cut it.
        method: How to choose.
        lower: Smallest value the graph lets through (0 behind a Relu), if known: the range does not go below it.
        upper: Largest value the graph lets through, if known.

    Returns:
        A scalar range; [0, 0] for a tensor of zeros.

    Raises:
        DataError: `stats` holds no finite element.
        ArtifactError: `stats` holds a range only, and `method` needs a histogram.
    """
    if stats.range_only and method.name != "max":
        raise ArtifactError(
            f"the statistics hold ranges only, but the method {method.name!r} needs histograms",
            hint="use method='max' (--method max), or calibrate without range_only= (--range-only)",
        )
    density = Density.of(stats, lower, upper)
    solved = _solve(density, spec, method)
    rmin, rmax = float(solved.rmin), float(solved.rmax)
    return Range.of(
        rmin if lower is None else max(rmin, lower),
        rmax if upper is None else min(rmax, upper),
    )


def _solve(density: Density, spec: QuantSpec, method: Method) -> Range:
    if method.name == "max":
        return solve_max(density, spec)
    if method.name == "percentile":
        return solve_percentile(density, spec, method.percentile)
    if method.name == "entropy":
        return solve_entropy(density, spec)
    if method.name == "mse":
        return solve_mse(density, spec)
    if method.name == "auto":
        return _solve_auto(density, spec)
    raise InternalError(f"method {method.name!r} was not made by method_from_name")


def _solve_auto(density: Density, spec: QuantSpec) -> Range:
    whole, least = solve_max(density, spec), solve_mse(density, spec, AUTO_CLIP_WEIGHT)
    ends = Range(rmin=np.stack([whole.rmin, least.rmin]), rmax=np.stack([whole.rmax, least.rmax]))
    errors = expected_errors(density, ends, spec, AUTO_CLIP_WEIGHT)
    return least if errors[1] < errors[0] * 10.0 ** (-AUTO_GAIN_DB / 10.0) else whole
