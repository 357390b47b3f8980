"""Codes of weights, kept for other models that have a weight in the same form."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxq.numerics.specs import QuantSpec
from onnxq.weight_only.blocks import Rounded

Scale = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How near the codes of a weight are.

    Attributes:
        sqnr_db: Signal to noise of the weight itself.
        method: How its codes were chosen.
    """

    sqnr_db: float
    method: str


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptWeight:
    """One weight in one form.

    Attributes:
        rounded: Its codes.
        quality: How near they are.
        scale: float32, shape (K,): what its columns were multiplied with before; None for nothing.
    """

    rounded: Rounded
    quality: Quality
    scale: Scale | None = None


@dataclass(kw_only=True)
class KeptWeights:
    """Weights in the forms that were asked for, in a byte for each code and form.

    Attributes:
        weights: By key with its path, and form.
        scales: For "awq", the scale of weights that are multiplied with the same tensor, by their keys and forms.
    """

    weights: dict[tuple[str, QuantSpec], KeptWeight] = field(default_factory=dict)
    scales: dict[tuple[tuple[str, QuantSpec], ...], Scale | None] = field(default_factory=dict)

    def of(self, key: str, spec: QuantSpec) -> KeptWeight:
        """A weight in a form that it was rounded in."""
        return self.weights[key, spec]

    def known(self, key: str, spec: QuantSpec, scale: Scale | None) -> KeptWeight | None:
        """The weight in this form, if it was rounded with this scale."""
        found = self.weights.get((key, spec))
        if found is None or (scale is None) != (found.scale is None):
            return None
        return found if scale is None or np.array_equal(scale, found.scale) else None  # type: ignore[arg-type]
