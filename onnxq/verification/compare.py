"""How far one model's outputs are from another's, over any number of batches; of each a number or two are kept.

    sqnr_db = 10 log10( sum r^2 / sum (r - c)^2 )        cosine = sum r c / sqrt( sum r^2  sum c^2 )

with r the reference's values and c the candidate's, summed over all batches in float64. Outputs that are not float are
compared by the share of values that differ.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxq.errors import DataError
from onnxq.verification.engines.onnxruntime import OrtModel, as_array

Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""A model, ready to run: feed in, outputs by name out."""

SLACK_DB = 3.0
"""Twice the noise power."""
_CLEAN_DB = 60.0
"""Above this, single flipped ties decide the SQNR."""
_MISMATCH_SLACK = 0.02

_EPSILON = float(np.finfo(np.float32).eps)
"""Behind a Sigmoid or Softmax that detects nothing, two runtimes differ by so much where both mean 0."""

_PARTS = 16
"""Parts of a batch's output in which errors are told apart."""
_FEWEST_PARTS = 8
"""Of fewer parts that differ, their directions tell nothing."""


@dataclass(frozen=True, kw_only=True)
class OutputError:
    """How far one output is from its reference.

    Attributes:
        name: Name of the output.
        sqnr_db: Signal to noise ratio in dB, inf where the values are equal; None for an output that is not float.
        cosine: Cosine similarity in [-1, 1]; None for an output that is not float.
        max_abs: Largest absolute difference; None for an output that is not a number.
        peak: Largest absolute value of the reference.
        mismatch_share: Share of the values that differ.
        elements: Number of values compared.
        nonfinite: Values that are NaN or Inf in one of the two and not the same in the other; left out of the sums.
        shape_mismatches: Batches in which the two had different shapes (data-dependent outputs); left out of the sums.
        worst_batch_sqnr_db: The smallest SQNR of a single batch, in dB; None likewise.
        median_batch_sqnr_db: The median over the batches.
    """

    name: str
    sqnr_db: float | None
    cosine: float | None
    max_abs: float | None
    peak: float
    mismatch_share: float
    elements: int
    nonfinite: int = 0
    shape_mismatches: int = 0
    worst_batch_sqnr_db: float | None = None
    median_batch_sqnr_db: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether both models gave no element, and in the same shape."""
        return self.elements == 0 and self.nonfinite == 0 and self.shape_mismatches == 0

    @property
    def is_sound(self) -> bool:
        """Whether values were compared and none of them was NaN or Inf on one side only."""
        return self.elements > 0 and self.nonfinite == 0 and self.shape_mismatches == 0


@dataclass
class _Sums:
    """Running sums of one output."""

    is_float: bool = True
    is_number: bool = True
    signal: float = 0.0
    noise: float = 0.0
    candidate: float = 0.0
    product: float = 0.0
    max_abs: float = 0.0
    peak: float = 0.0
    differing: int = 0
    elements: int = 0
    nonfinite: int = 0
    shape_mismatches: int = 0
    by_batch: list[float] = field(default_factory=list)
    noise_by_part: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, want: NDArray[Any], got: NDArray[Any]) -> None:
        self.is_float = want.dtype.kind == "f" or want.dtype.name == "bfloat16"
        self.is_number = self.is_float or want.dtype.kind in "iu"
        if want.shape != got.shape:
            self.shape_mismatches += 1
            return
        if not self.is_number:
            self.elements += want.size
            self.differing += int(np.count_nonzero(want != got))
            return
        r, c = want.astype(np.float64).reshape(-1), got.astype(np.float64).reshape(-1)
        usable = np.isfinite(r) & np.isfinite(c)
        if not usable.all():
            same = (r == c) | (np.isnan(r) & np.isnan(c))
            self.nonfinite += int(np.count_nonzero(~usable & ~same))
            r, c = r[usable], c[usable]
        self._add_numbers(r, c)

    def _add_numbers(self, r: NDArray[np.float64], c: NDArray[np.float64]) -> None:
        gap = r - c
        signal, noise = _dot(r, r), _dot(gap, gap)
        self.signal += signal
        self.noise += noise
        if r.size:
            self.by_batch.append(_sqnr_db(signal, noise))
            self.noise_by_part.append(np.array([_dot(part, part) for part in np.array_split(gap, _PARTS)]))
        self.candidate += _dot(c, c)
        self.product += _dot(r, c)
        self.max_abs = max(self.max_abs, float(np.abs(gap).max(initial=0.0)))
        self.peak = max(self.peak, float(np.abs(r).max(initial=0.0)))
        self.differing += int(np.count_nonzero(gap))
        self.elements += r.size

    def result(self, name: str) -> OutputError:
        return OutputError(
            name=name,
            sqnr_db=_sqnr_db(self.signal, self.noise) if self.is_float else None,
            cosine=_cosine(self.product, self.signal, self.candidate) if self.is_float else None,
            max_abs=self.max_abs if self.is_number else None,
            peak=self.peak,
            mismatch_share=self.differing / self.elements if self.elements else 0.0,
            elements=self.elements,
            nonfinite=self.nonfinite,
            shape_mismatches=self.shape_mismatches,
            worst_batch_sqnr_db=min(self.by_batch) if self.is_float and self.by_batch else None,
            median_batch_sqnr_db=statistics.median_low(self.by_batch) if self.is_float and self.by_batch else None,
        )


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """On one thread: those of np.dot wait for each other, spinning, for longer than the sum takes on a busy machine."""
    return float(np.einsum("i,i->", a, b))


def _sqnr_db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def _cosine(product: float, signal: float, candidate: float) -> float:
    if signal == 0.0 and candidate == 0.0:
        return 1.0
    scale = math.sqrt(signal) * math.sqrt(candidate)
    return max(-1.0, min(1.0, product / scale)) if scale > 0.0 else 0.0


@dataclass
class OutputComparison:
    """Collects batches of outputs of two models; `result` gives the errors so far."""

    batches: int = 0
    _sums: dict[str, _Sums] = field(default_factory=dict)

    def add(self, reference: Mapping[str, NDArray[Any]], candidate: Mapping[str, NDArray[Any]]) -> None:
        """Take in the outputs of one batch.

        Args:
            reference: Output name to array.
            candidate: The same names.

        Raises:
            DataError: the two do not have the same outputs.
        """
        if set(reference) != set(candidate):
            raise DataError(
                f"the models have different outputs: {sorted(reference)} and {sorted(candidate)}",
                hint="compare a model with the quantized form of the same model",
            )
        for name, want in reference.items():
            self._sums.setdefault(name, _Sums()).add(as_array(want), as_array(candidate[name]))
        self.batches += 1

    def result(self) -> tuple[OutputError, ...]:
        """The error of each output, in the reference's order.

        Raises:
            DataError: nothing was compared.
        """
        if not any(s.elements or s.nonfinite or s.shape_mismatches for s in self._sums.values()):
            raise DataError(
                "there is nothing to compare: no batch gave a single output value",
                hint="pass data with at least one sample (data=, --data)",
            )
        return self.errors()

    def noise_by_part(self, name: str) -> NDArray[np.float64]:
        """Noise power of output `name` in each of at most 16 parts of each batch, one batch behind the other."""
        parts = self._sums[name].noise_by_part
        return np.concatenate(parts) if parts else np.empty(0)

    def errors(self) -> tuple[OutputError, ...]:
        """The error of each output, in the reference's order; none where nothing was compared."""
        return tuple(sums.result(name) for name, sums in self._sums.items())


def compare_outputs(
    reference: ModelProto | Run, candidate: ModelProto | Run, feeds: Iterable[Mapping[str, NDArray[Any]]]
) -> tuple[OutputError, ...]:
    """Run two models on the same batches and measure how far their outputs are apart.

    Args:
        reference: The float model, or a function that runs it.
        candidate: The quantized model, or a function that runs it.
        feeds: Batches: an array for each input. Read once, nothing is kept.

    Returns:
        One entry for each output.

    Raises:
        DataError: there was nothing to compare, or the models do not have the same outputs.
        ModelError: a model cannot be loaded or run.
    """
    run_reference = OrtModel(reference) if isinstance(reference, ModelProto) else reference
    run_candidate = OrtModel(candidate) if isinstance(candidate, ModelProto) else candidate
    comparison = OutputComparison()
    for feed in feeds:
        comparison.add(run_reference(feed), run_candidate(feed))
    return comparison.result()


def worse_than(
    found: OutputComparison,
    reference: OutputComparison,
    called: str,
    *,
    slack_db: float = SLACK_DB,
    noise: Collection[str] = (),
) -> list[str]:
    """Outputs that one way of computing a quantized model pushes away from the float model, and another does not.

    Flipped ties only re-draw the quantization noise; doubled noise power means that the function was changed. Where a
    few undecided values hold most of the noise, as behind a softmax, a new draw alone can double it: then it has grown
    in some parts of the output and shrunk in as many others.

    Args:
        found: Errors of the way in question, on some batches.
        reference: Errors of Q and DQ computed as ONNX defines them, on the same ones.
        called: What the reference is called in sentences ("unoptimised").
        slack_db: Noise that may be added without a word, in dB.
        noise: Outputs that are left out, see `rounding_noise`.

    Returns:
        A sentence for each output that is worse.

    Raises:
        DataError: nothing was compared.
    """
    worse = []
    for one, other in zip(found.result(), reference.result(), strict=True):
        if one.name in noise:
            continue
        if one.sqnr_db is None or other.sqnr_db is None:
            if one.mismatch_share > other.mismatch_share + _MISMATCH_SLACK:
                worse.append(
                    f"{one.name!r} differs in {one.mismatch_share:.1%}, {called} in {other.mismatch_share:.1%}"
                )
        elif (
            max(one.peak, one.max_abs or 0.0) > _EPSILON
            and one.sqnr_db < min(other.sqnr_db, _CLEAN_DB) - slack_db
            and not _is_redrawn(found.noise_by_part(one.name), reference.noise_by_part(one.name))
        ):
            worse.append(f"{one.name!r} has {one.sqnr_db:.1f} dB, {called} {other.sqnr_db:.1f} dB")
    return worse


def _is_redrawn(found: NDArray[np.float64], reference: NDArray[np.float64]) -> bool:
    """Whether noise has doubled in about as many parts as it has halved in: no more than two standard deviations of a
    fair coin between them."""
    if found.shape != reference.shape:
        return False
    more, less = np.count_nonzero(found > 2.0 * reference), np.count_nonzero(reference > 2.0 * found)
    return bool(more + less >= _FEWEST_PARTS and more - less <= 2.0 * math.sqrt(more + less))
