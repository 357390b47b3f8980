"""How far outputs are from the float model's, in pieces that stay in the processor's cache: outputs may be large.

    sqnr_db = 10 log10( sum r^2 / sum (r - c)^2 )      cosine = sum r c / sqrt( sum r^2  sum c^2 )
    KL      = mean over rows of sum p log(p / q)       p and q are the softmax of r and c, or r and c themselves where
                                                       the rows of r are probabilities already

Sums run over all batches, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.graph.view import Graph
from onnxq.verification.output_parts import OutputParts

Arrays = Mapping[str, NDArray[Any]]

_PIECE = 2**15
"""Elements at a time: 256 KiB in float64."""

_SMALLEST = 1e-12
"""Below it a probability is a matter of rounding."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How far outputs moved; of several outputs, the worst.

    Attributes:
        sqnr_db: Signal to noise ratio in dB; inf where no output moved, -inf where one became NaN or Inf.
        cosine: Cosine similarity.
        kl: Kullback-Leibler divergence in nats; None where no output is a classifier's.
    """

    sqnr_db: float
    cosine: float
    kl: float | None


@dataclass
class _Sums:
    signal: float = 0.0
    noise: float = 0.0
    candidate: float = 0.0
    product: float = 0.0
    divergence: float = 0.0
    rows: int = 0
    broken: bool = False

    def sqnr_db(self) -> float:
        if self.broken or (self.signal == 0.0 and self.noise > 0.0):
            return -math.inf
        return math.inf if self.noise == 0.0 else 10.0 * math.log10(self.signal / self.noise)

    def cosine(self) -> float:
        if self.broken:
            return -1.0
        lengths = math.sqrt(self.signal) * math.sqrt(self.candidate)
        return max(-1.0, min(1.0, self.product / lengths)) if lengths else float(self.signal == self.candidate)


class Distance:
    """Sums over batches; `effect` gives the distance so far.

    Args:
        graph: The float model. Parts of its outputs that the sums of a whole would hide count as outputs.
    """

    def __init__(self, graph: Graph) -> None:
        self._sums: dict[str, _Sums] = {}
        self._parts = OutputParts(graph)

    def add(self, reference: Arrays, candidate: Arrays) -> None:
        """Take in the outputs of one batch; those that are not float are left out.

        Args:
            reference: The float model's, by name.
            candidate: Those of another model, of the same names.
        """
        wants, gots = self._parts.of(reference, candidate)
        for name, want in (*reference.items(), *wants.items()):
            got = gots[name] if name in gots else candidate[name]
            if want.dtype.kind == "f":
                sums = self._sums.setdefault(name, _Sums())
                if want.shape != got.shape:
                    sums.broken = True
                else:
                    _add(sums, want, got)

    def effect(self) -> Effect:
        """The worst of each measure."""
        sums = self._sums.values()
        return Effect(
            sqnr_db=min((s.sqnr_db() for s in sums), default=math.inf),
            cosine=min((s.cosine() for s in sums), default=1.0),
            kl=max((s.divergence / s.rows for s in sums if s.rows), default=None),
        )


def _add(sums: _Sums, want: NDArray[Any], got: NDArray[Any]) -> None:
    classes = want.shape[-1] if want.ndim else 1
    is_probability = _are_probabilities(want)
    is_classifier = is_probability or (want.ndim == 2 and classes > 1)
    rows = max(1, _PIECE // max(classes, 1))
    r_rows, c_rows = (a.reshape(-1, classes) if a.size else a.reshape(0, 1) for a in (want, got))
    for start in range(0, len(r_rows), rows):
        r = r_rows[start : start + rows].astype(np.float64)
        c = c_rows[start : start + rows].astype(np.float64)
        sound = np.isfinite(r)  # masked logits are infinite in both
        if not sound.all() or not np.isfinite(c).all():
            same = (r == c) | (np.isnan(r) & np.isnan(c))
            if not (np.isfinite(c) | same)[sound | ~same].all():
                sums.broken = True
                return
            r, c = np.where(sound, r, 0.0), np.where(sound, c, 0.0)
        gap = r - c
        sums.signal += _dot(r, r)
        sums.noise += _dot(gap, gap)
        sums.candidate += _dot(c, c)
        sums.product += _dot(r, c)
        if is_classifier:
            sums.divergence += _divergence(r, c, is_probability=is_probability)
            sums.rows += len(r)


def _dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    # Not BLAS: on pieces of this size its threads wait for each other, milliseconds at a time on a busy machine.
    return float(np.einsum("ij,ij->", a, b))


def _are_probabilities(output: NDArray[Any]) -> bool:
    """Whether the rows of an output sum up to 1; the first ones stand for all."""
    if output.ndim < 2 or output.shape[-1] < 2 or not output.size:
        return False
    rows = output.reshape(-1, output.shape[-1])[: max(1, _PIECE // output.shape[-1])]
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1, dtype=np.float64), 1.0, atol=1e-3))


def _divergence(r: NDArray[np.float64], c: NDArray[np.float64], *, is_probability: bool) -> float:
    """The sum over rows of KL(r || c) in nats."""
    if is_probability:
        log_p, log_q = (np.log(np.maximum(a, _SMALLEST)) for a in (r, c))
        return _dot(r, log_p - log_q)
    log_p, log_q = _log_softmax(r), _log_softmax(c)
    return _dot(np.exp(log_p), log_p - log_q)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
