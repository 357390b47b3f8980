"""Second moments of what nodes multiply their weights with, gathered while samples stream through onnxruntime.

    H = E[(p - E p)(p - E p)^T] + s^2 / 12        p: patches of the input, s: its scale (0 where it is not rounded)

Centred, since bias correction takes care of the mean; a node without a bias of its own gets E[p p^T]. The last term is
the rounding of the input itself. A few thousand patches are enough; which ones is fixed. The sums are float64, so they
depend on the number of threads in the last bits at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.graph.view import Graph
from onnxq.inference.outputs import with_outputs
from onnxq.passes.adapt.settle_types import runnable
from onnxq.recovery.patches import sampled_patches, weight_rows

LEAST_ROWS = 4096
"""Patches of one node, at least; twice the length of a patch where that is more."""

GROUP_BYTES = 2**28
"""Size of the matrices that are gathered in one pass over the samples, 256 MiB; at least those of one node."""


@dataclass
class _Sums:
    """Over some patches: how many, their sum (g, K) and their products (g, K, K)."""

    count: int
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(self.count + other.count, self.first + other.first, self.second + other.second)

    def matrix(self, *, centred: bool) -> NDArray[np.float64]:
        matrix, mean = self.second / self.count, self.first / self.count
        return matrix - mean[:, :, None] * mean[:, None, :] if centred else matrix


@dataclass
class Moments:
    """Running sums over patches, of every other batch apart: how far they differ tells how much they are worth."""

    halves: list[_Sums | None] = field(default_factory=lambda: [None, None])
    batches: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add_sampled(self, node: NodeProto, x: NDArray[Any], weight_shape: tuple[int, ...], share: float) -> None:
        """Take in patches at some places of `x`, an input of `node` that holds `share` (0..1) of all samples."""
        rows = math.ceil(max(LEAST_ROWS, 2 * _patch_size(node, weight_shape)) * share)
        self.add(sampled_patches(node, x, weight_shape, rows, self.rng))

    def add(self, patches: NDArray[np.float64]) -> None:
        """Take in the patches of one batch, shape (g, n, K)."""
        found = _Sums(patches.shape[1], patches.sum(axis=1), patches.transpose(0, 2, 1) @ patches)
        if found.count:
            half, self.batches = self.batches % 2, self.batches + 1
            before = self.halves[half]
            self.halves[half] = found if before is None else before.plus(found)

    def matrix(self, *, centred: bool) -> NDArray[np.float64] | None:
        """E[p p^T], or the covariance; None where nothing was seen."""
        one, other = self.halves
        if one is None:
            return None
        return (one if other is None else one.plus(other)).matrix(centred=centred)

    def shrunk(self, *, centred: bool) -> NDArray[np.float64] | None:
        """The same, drawn towards a multiple of the identity as far as so few samples say little of other ones.

            (1 - r) S + r m I,   m = tr S / K,   r = E|S - true S|^2 / |S - m I|^2

        which is nearest to the true moments (Ledoit and Wolf, doi:10.1016/S0047-259X(03)00096-4). What S is wrong by is
        seen from its halves: patches of one sample are alike, so their number says nothing. With a single batch it is
        the oracle approximating shrinkage of arXiv 0907.4698, equation 23, which takes them for independent.
        """
        matrix = self.matrix(centred=centred)
        one, other = self.halves
        if matrix is None or one is None:
            return None
        if other is None:
            return _drawn(matrix, *_as_independent(matrix, one.count))
        share = one.count * other.count / (one.count + other.count) ** 2
        return _drawn(matrix, share * _gap(one, other, centred=centred), _spread(matrix))

    def folds(self, *, centred: bool) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """For each half its moments, drawn as far as half of the patches ask for, and those of the other half as seen.

        What is chosen by the first can be judged by the second. Empty where there are no two halves.
        """
        one, other = self.halves
        if one is None or other is None:
            return []
        gap, found = _gap(one, other, centred=centred), []
        for half, rest in ((one, other), (other, one)):
            matrix = half.matrix(centred=centred)
            drawn = _drawn(matrix, rest.count / (half.count + rest.count) * gap, _spread(matrix))
            found.append((drawn, rest.matrix(centred=centred)))
        return found


def _gap(one: _Sums, other: _Sums, *, centred: bool) -> NDArray[np.float64]:
    """|A - B|^2 of two estimates, for each group: n / n_B times what A is wrong by, n n / (n_A n_B) what both are."""
    gap = one.matrix(centred=centred) - other.matrix(centred=centred)
    return np.asarray(np.einsum("gij,gij->g", gap, gap))


def _spread(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """|S - m I|^2."""
    return np.asarray(np.einsum("gij,gij->g", matrix, matrix) - np.einsum("gii->g", matrix) ** 2 / matrix.shape[-1])


def _as_independent(matrix: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numerator and denominator of the share for `count` independent patches."""
    size, trace = matrix.shape[-1], np.einsum("gii->g", matrix)
    wrong = (1.0 - 2.0 / size) * np.einsum("gij,gij->g", matrix, matrix) + trace**2
    return wrong, (count + 1.0 - 2.0 / size) * _spread(matrix)


def _drawn(matrix: NDArray[np.float64], wrong: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 - r) S + r m I with r = wrong / spread."""
    size, trace = matrix.shape[-1], np.einsum("gii->g", matrix)
    # No spread: all vary alike, or nothing does, and there is nothing to draw to.
    share = np.clip(np.divide(wrong, spread, out=np.ones_like(wrong), where=spread > 0.0), 0.0, 1.0)[:, None, None]
    return np.asarray((1.0 - share) * matrix + share * (trace / size)[:, None, None] * np.eye(size))


def gather_moments(
    graph: Graph, nodes: Sequence[str], samples: Sequence[Batch], options: CollectOptions
) -> Iterator[Mapping[str, Moments]]:
    """Moments of the data inputs of `nodes`, in parts that fit into memory.

    Args:
        graph: The float graph.
        nodes: Names of nodes of which `patches.has_patches` holds.
        samples: Batches to run; each part runs all of them.
        options: How to run them.

    Raises:
        DataError: onnxruntime fails on the samples.
    """
    total = sum(batch.samples for batch in samples)
    for part in _parts(graph, nodes):
        found = {name: Moments() for name in part}
        taps = list(dict.fromkeys(graph.node(name).input[0] for name in part))
        inner = [tap for tap in taps if not graph.is_input(tap)]
        session = options.session(with_outputs(runnable(graph), inner)) if inner else None
        for batch in samples:
            arrays: dict[str, NDArray[Any]] = dict(batch.arrays)
            if session is not None:
                arrays |= zip(session.output_names, session.run(batch.arrays, where=batch.label), strict=True)
            for name in part:
                node, shape = graph.node(name), _shape(graph, name)
                found[name].add_sampled(node, arrays[node.input[0]], shape, batch.samples / total)
        yield found


def _parts(graph: Graph, nodes: Sequence[str]) -> Iterator[list[str]]:
    """Nodes in runs whose matrices fit."""
    part: list[str] = []
    size = 0
    for name in nodes:
        node, shape = graph.node(name), _shape(graph, name)
        groups = weight_rows(node, np.empty(shape, np.bool_)).shape[0]
        need = 16 * groups * _patch_size(node, shape) ** 2  # two halves
        if part and size + need > GROUP_BYTES:
            yield part
            part, size = [], 0
        part.append(name)
        size += need
    if part:
        yield part


def _shape(graph: Graph, node: str) -> tuple[int, ...]:
    return tuple(int(d) for d in graph.initializers[graph.node(node).input[1]].dims)


def _patch_size(node: NodeProto, shape: tuple[int, ...]) -> int:
    return int(weight_rows(node, np.empty(shape, np.bool_)).shape[-1])
