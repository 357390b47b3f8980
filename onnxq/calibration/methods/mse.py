"""The `mse` method: the range with the smallest expected squared error of the real quantizer.

    minimise over the ends    sum of rounding errors inside + sum of clipping errors outside      (see `noise`)

Symmetric, and asymmetric data on one side of zero: one end is searched on a geometric grid, eight steps an octave over
eight octaves, then ever finer around the best. Data on both sides: both ends on a coarser grid, each end possibly 0,
then the ends in turn. Every search contains the range of `max`, so the result is never worse than it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.methods.density import Density
from onnxq.calibration.methods.noise import expected_errors
from onnxq.numerics.qparams import Range
from onnxq.numerics.specs import QuantSpec

# Clips below amax / 256 would be resolved by fewer than 16 bins.
_OCTAVES = 8
_SPREADS = (0.5, 0.125, 0.03125, 0.0078125)
"""Octaves searched on either side of the best, in nine steps: the ends come out to 0.2 %, half a step of 8 bits."""

_GRID_BINS = 1024
"""Bins while both ends are on the grid: ranks ranges half an octave apart; the refinement sees them all."""


def solve_mse(density: Density, spec: QuantSpec, clip_weight: float = 1.0) -> Range:
    """The range with the smallest expected squared error.

    Args:
        density: The tensor's values.
        spec: The quantizer.
        clip_weight: How often the errors of clipped elements count; 1 is the plain squared error.

    Returns:
        A scalar range.
    """
    if density.nonzero == 0.0:
        return Range.of(0.0, 0.0)
    # As fractions of [-amax, amax] or of [rmin, rmax]; 0 stays 0.
    full = np.array([-density.amax, density.amax] if spec.symmetric else [density.rmin, density.rmax])
    if spec.symmetric or not full.all():
        octaves = np.arange(0.0, _OCTAVES, 0.125)
        best = _best(density, spec, clip_weight, full, np.stack([octaves, octaves], axis=1))
        for spread in _SPREADS[1:]:
            best = _best(density, spec, clip_weight, full, _around(best, (0, 1), spread))
    else:
        octaves = np.append(np.arange(0.0, _OCTAVES / 2, 0.5), np.inf)
        grid = np.stack(np.meshgrid(octaves, octaves, indexing="ij"), axis=-1).reshape(-1, 2)
        best = _best(density.coarser(_GRID_BINS), spec, clip_weight, full, grid)
        for spread in _SPREADS:
            for end in (1, 0):
                best = _best(density, spec, clip_weight, full, _around(best, (end,), spread))
        # The coarse ranking may have been wrong by a hair: `max` stays a candidate to the end.
        best = _best(density, spec, clip_weight, full, np.stack([np.zeros(2), best]))
    low, high = full * np.exp2(-best)
    return Range.of(float(low), float(high))


def _around(best: NDArray[np.float64], ends: tuple[int, ...], spread: float) -> NDArray[np.float64]:
    """Candidates within `spread` octaves of `best`, the moving ends together; never wider than the data."""
    candidates = np.tile(best, (9, 1))
    for end in ends:
        candidates[:, end] = np.maximum(best[end] + np.linspace(-spread, spread, 9), 0.0)
    return candidates


def _best(
    density: Density,
    spec: QuantSpec,
    clip_weight: float,
    full: NDArray[np.float64],
    octaves: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The row of `octaves` (how often each end is halved) with the least error; of equals the first: the widest."""
    ends = full * np.exp2(-octaves)
    errors = expected_errors(density, Range(rmin=ends[:, 0], rmax=ends[:, 1]), spec, clip_weight)
    return np.asarray(octaves[int(np.argmin(errors))], np.float64)
