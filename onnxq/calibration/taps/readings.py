"""What reading a model's tapped tensors gives.

Rows      runs of a session that summarises its tensors itself (`summaries`): the rule
Arrays    the tensors of one run as they are: where shapes are not known yet, where something is not finite, where
          samples cannot be told apart, where every element is asked for, on other devices than the CPU
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.statistics.blocked_layout import Blocked
from onnxq.calibration.taps.summary_rows import RowLayout
from onnxq.data.batches import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Tapped:
    """What one run left of one tensor.

    Attributes:
        array: The tensor.
        rows: Samples along its first axis, None where they cannot be told apart.
        blocked: The layout in which it is computed, where that is not the array's.
    """

    array: NDArray[Any]
    rows: int | None
    blocked: Blocked | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrays:
    """Tensors of one run, by name."""

    batch: Batch
    tapped: Mapping[str, Tapped]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Summaries of some runs, all finite.

    Attributes:
        layout: Where they lie.
        values: One row for each run: float32, shape (layout.elements,).
    """

    layout: RowLayout
    values: Sequence[NDArray[np.float32]]
