"""The `max` method: the range of everything that was seen.

    symmetric: [-amax, amax], amax = max |x|        asymmetric: [min x, max x]

Clips nothing of the calibration data; one outlier decides the scale.
"""

from __future__ import annotations

from onnxq.calibration.methods.density import Density
from onnxq.numerics.qparams import Range
from onnxq.numerics.specs import QuantSpec


def solve_max(density: Density, spec: QuantSpec) -> Range:
    """The range from the smallest to the largest value.

    Args:
        density: The tensor's values.
        spec: Symmetric or not.

    Returns:
        A scalar range.
    """
    if spec.symmetric:
        return Range.of(-density.amax, density.amax)
    return Range.of(density.rmin, density.rmax)
