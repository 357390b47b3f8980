"""Counts what runs of the model left behind.

Statistics are values, so neither the order in which runs are counted nor the way in which they were read shows in the
result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.statistics.histogram import BINS, Binner
from onnxq.calibration.statistics.sampling import Extract, extract
from onnxq.calibration.statistics.seen_samples import EMPTY_FINGERPRINT, SeenBuilder, combine_fingerprints
from onnxq.calibration.statistics.table import StatsBuilder, TensorStats
from onnxq.calibration.taps.readings import Arrays, Rows
from onnxq.calibration.taps.selection import Function
from onnxq.data.batches import Batch, fingerprint_of


@dataclass(frozen=True, kw_only=True)
class CountOptions:
    """What the statistics keep.

    Attributes:
        stop_at_nonfinite: Whether NaN and Inf are an error.
        hidden: Names of the tensors in which -Inf is none: it hides scores from a Softmax.
        full_histogram: Whether every element enters the histogram.
        histograms: Names of the tensors that get a histogram.
    """

    stop_at_nonfinite: bool = True
    hidden: frozenset[str] = frozenset()
    full_histogram: bool = False
    histograms: frozenset[str] = frozenset()


class NonFiniteError(Exception):
    """A tapped tensor of a batch holds NaN or Inf."""

    def __init__(self, tensor: str, array: NDArray[Any], batch: Batch) -> None:
        super().__init__(tensor)
        self.tensor = tensor
        self.array = array
        self.batch = batch


class Counter:
    """Statistics of some taps.

    Args:
        taps: Names of the tensors that are read, as the model computes them.
        derived: Tensors whose extremes follow from those of one of these; they have no histogram.
        options: What to keep.
    """

    def __init__(self, taps: Sequence[str], derived: Mapping[str, tuple[str, Function]], options: CountOptions) -> None:
        binner = Binner(Binner.CHUNK)
        histograms = [name for name in taps if name in options.histograms]
        # All histograms side by side: on few pages, they take turns in the processor's cache at less cost.
        memory = dict(zip(histograms, np.zeros((len(histograms), 2 * BINS), np.int64), strict=True))
        self._builders = {name: StatsBuilder(binner, memory.get(name)) for name in (*taps, *derived)}
        self._taps = tuple(taps)
        self._derived = {
            tap: [(name, function) for name, (source, function) in derived.items() if source == tap] for tap in taps
        }
        self._options = options
        self.samples = 0
        self.fingerprint = EMPTY_FINGERPRINT
        self.seen = SeenBuilder()

    def note(self, batch: Batch) -> None:
        """Count the samples of a batch, and hash them."""
        self.samples += batch.samples
        hashes = batch.hashes()
        self.fingerprint = combine_fingerprints(self.fingerprint, fingerprint_of(hashes))
        self.seen.add(hashes)

    def count(self, found: Arrays | Rows) -> None:
        """Count all that was found.

        Raises:
            NonFiniteError: a tensor holds NaN or Inf, and that is to be an error.
        """
        if isinstance(found, Arrays):
            self._count_arrays(found)
            return
        for tap, part in zip(found.layout.taps, found.layout.extracts(found.values), strict=True):
            self._add(tap.name, part)

    def statistics(self) -> dict[str, TensorStats]:
        """What was counted."""
        return {name: builder.freeze() for name, builder in self._builders.items()}

    def _count_arrays(self, found: Arrays) -> None:
        for name in self._taps:
            if name not in found.tapped:
                continue
            tapped = found.tapped[name]
            rows = None if self._options.full_histogram else tapped.rows
            part = extract(tapped.array, rows=rows, blocked=tapped.blocked, histogram=name in self._options.histograms)
            if part.nonfinite and self._options.stop_at_nonfinite and not self._hides(name, tapped.array):
                raise NonFiniteError(name, tapped.array, found.batch)
            self._add(name, part)

    def _hides(self, name: str, array: NDArray[Any]) -> bool:
        return name in self._options.hidden and bool(np.isneginf(array[~np.isfinite(array)]).all())

    def _add(self, name: str, part: Extract) -> None:
        self._builders[name].add(part)
        for other, function in self._derived[name]:
            self._builders[other].add(part.mapped(function))
