"""The `percentile` method: all but 100 - p percent of the elements lie within the range.

    symmetric:   the value below which p % of |x| lie
    asymmetric:  the same total loss of 100 - p %, shared between the two tails as the non-zero elements are

so data on one side of zero (a ReLU's output) loses exactly 100 - p % on that side, and even data half of it on each.
Zeros count as elements, as in NVIDIA's pytorch-quantization. Where zeros alone make up p % the percentile would be 0
and erase the tensor; the method then keeps everything, as `max` does. Ends are interpolated inside their bin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.methods.density import Density
from onnxq.calibration.methods.max import solve_max
from onnxq.numerics.qparams import Range
from onnxq.numerics.specs import QuantSpec


def solve_percentile(density: Density, spec: QuantSpec, percentile: float) -> Range:
    """The range that keeps `percentile` percent of the elements.

    Args:
        density: The tensor's values.
        spec: Symmetric or not.
        percentile: In (0, 100].

    Returns:
        A scalar range.
    """
    nonzero, lost = density.nonzero, _lost(density, percentile)
    if zeros_reach(density, percentile):
        return solve_max(density, spec)
    if spec.symmetric:
        magnitude = density.magnitude()
        amax = min(_upper_end(magnitude.edges, magnitude.counts, lost), density.amax)
        return Range.of(-amax, amax)
    share = lost / nonzero
    split = int(np.searchsorted(density.edges, 0.0))
    above = _upper_end(density.edges[split:], density.counts[split:], share * float(density.counts[split:].sum()))
    below = _upper_end(
        -density.edges[split::-1], density.counts[:split][::-1], share * float(density.counts[:split].sum())
    )
    return Range.of(max(-below, density.rmin), min(above, density.rmax))


def zeros_reach(density: Density, percentile: float) -> bool:
    """Whether zeros alone make up `percentile` percent of the elements, so that everything is kept."""
    return bool(_lost(density, percentile) >= density.nonzero)


def _lost(density: Density, percentile: float) -> float:
    """Number of elements to be left outside the range."""
    return float((density.zeros + density.nonzero) * (100.0 - percentile) / 100.0)


def _upper_end(edges: NDArray[np.float64], counts: NDArray[np.float64], lost: float) -> float:
    """The value above which `lost` elements lie; 0 where there are none."""
    above = np.cumsum(counts[::-1])
    if not counts.size or above[-1] == 0.0:
        return 0.0
    # From the top: the first bin that cannot be lost whole.
    index = min(int(np.searchsorted(above, lost, side="right")), counts.size - 1)
    beyond = float(above[index - 1]) if index else 0.0
    place = counts.size - 1 - index
    part = (lost - beyond) / float(counts[place])
    return float(edges[place + 1] - part * (edges[place + 1] - edges[place]))
