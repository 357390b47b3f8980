"""What a part of a plan costs at the outputs of the network: quantize that part alone, run some samples, compare.

Estimates of noise look at one layer; whether it matters at the output depends on what follows. A trial measures it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.methods import method_from_name
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.solve import RangeTable, ranges_from_stats, solve_from_ranges
from onnxq.data.batches import Batch, Batches
from onnxq.data.inputs import InputSpecs
from onnxq.graph.view import Graph
from onnxq.inference.outputs import FLOATS, with_readable_outputs
from onnxq.passes.adapt.settle_types import runnable
from onnxq.passes.base import PassManager
from onnxq.passes.quantize.fold_weights import FoldWeights
from onnxq.passes.quantize.insert_qdq import InsertQDQ
from onnxq.planning.plan import Derived, QuantPlan, SharedWith
from onnxq.recovery.bias_correction import correct_biases
from onnxq.targets.schema import Target


class Trial:
    """Quantizes parts of graphs that compute the same, and measures their outputs on the same samples.

    Args:
        graph: The float graph.
        plan: What would be quantized in all.
        target: The table the plan was made with.
        samples: Batches to measure on.
        options: How to run them.
    """

    def __init__(
        self, graph: Graph, plan: QuantPlan, target: Target, samples: Sequence[Batch], options: CollectOptions
    ) -> None:
        self._plan = plan
        self._target = target
        self._samples = samples
        self._options = options
        self._inputs = InputSpecs.from_graph(runnable(graph))
        self._outputs = [name for name in graph.outputs if graph.dtype(name) in FLOATS]
        self._expected = self._run(graph)

    def ranges(self, graph: Graph) -> RangeTable:
        """Ranges of every observed tensor of the plan in `graph`, by the default method."""
        batches = Batches(lambda: iter(self._samples), inputs=self._inputs)
        taps = self._plan.observed()
        stats = collect(runnable(graph), taps, batches, digest=self._plan.digest, options=self._options)
        return ranges_from_stats(self._plan, stats, method_from_name("auto")).ranges

    def noise(self, graph: Graph, ranges: RangeTable, names: Collection[str] | None = None) -> float:
        """Noise to signal at the outputs, summed over them, with only `names` of the plan quantized (None: all).

        Args:
            graph: The float graph, or one that computes the same.
            ranges: The ranges of its tensors.
            names: Keys of the plan.
        """
        part = self._plan if names is None else self._part(set(names))
        qparams = solve_from_ranges(graph, part, ranges, self._target)
        corrected = correct_biases(graph, part, qparams, self._samples, self._options)
        quantized = corrected.copy()
        PassManager([InsertQDQ(part, qparams), FoldWeights(part, qparams)], name="trial").run(quantized)
        total = 0.0
        for found, expected in zip(self._run(quantized), self._expected, strict=True):
            signal = float(np.sum(expected**2))
            error = float(np.sum((found - expected) ** 2))
            total += error / signal if signal > 0.0 else 0.0
        return total

    def _part(self, names: set[str]) -> QuantPlan:
        """The plan without the tensors that are not in `names`, and those that depend on them."""

        def stays(key: str) -> bool:
            source = self._plan.tensors[key].source
            if isinstance(source, SharedWith):
                return stays(source.tensor)
            return key in names and not isinstance(source, Derived)

        return replace(self._plan, tensors={k: t for k, t in self._plan.tensors.items() if stays(k)}, holds=())

    def _run(self, graph: Graph) -> list[NDArray[np.float64]]:
        """All values of each float output, one after another."""
        if not self._outputs:
            return []
        session = self._options.session(with_readable_outputs(runnable(graph), self._outputs), optimise=False)
        found: list[list[NDArray[Any]]] = [[] for _ in self._outputs]
        for batch in self._samples:
            for values, one in zip(found, session.run(batch.arrays, where=batch.label), strict=True):
                values.append(one.astype(np.float64).reshape(-1))
        return [np.concatenate(values) if values else np.zeros(0) for values in found]


def decibels(before: float, after: float) -> float:
    """By how much a power falls, in dB; 0 where either is 0."""
    return 10.0 * float(np.log10(before / after)) if before > 0.0 and after > 0.0 else 0.0
