"""What is measured on a finished model: right answers, SQNR, integer kernels, latency."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import GraphProto

from benches.job import shortened
from onnxq.evaluation.evaluation import compare
from onnxq.evaluation.metrics import Metric, TopK, UserMetric
from tests.zoo import Batch, Feed, ZooModel
from tests.zoo.entry import samples_in

FLOAT_MATRIX_KERNELS = frozenset({
    "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulNBits",
})  # fmt: skip
INT8_MATRIX_KERNELS = frozenset({
    "QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger",
    "DynamicQuantizeMatMul",
})  # fmt: skip
LATENCY_SECONDS = 40.0
"""No further round of a race for latency begins after so long."""

Cell = dict[str, Any]
"""What was measured of one model, or why it was not."""


class Session:
    """A model under onnxruntime's CPU provider; `int8` and `float` count the matrix kernels of its optimised graph."""

    def __init__(self, path: str | Path, *, threads: int = 0, optimise: bool = True) -> None:
        with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
            optimised = Path(folder) / "optimised.onnx"
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = threads
            if not optimise:
                options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.optimized_model_filepath = str(optimised)
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            ops = list(_ops(onnx.load(str(optimised)).graph))
        self.int8 = sum(op in INT8_MATRIX_KERNELS for op in ops)
        self.float = sum(op in FLOAT_MATRIX_KERNELS for op in ops)

    def __call__(self, feed: Feed) -> list[NDArray[Any]]:
        return list(self._session.run(None, feed))


def _ops(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _ops(attribute.g)


@dataclass
class Tally:
    """Right answers and error power of one model, summed over batches."""

    right: list[float] = field(default_factory=list)
    signal: dict[int, float] = field(default_factory=dict)
    noise: dict[int, float] = field(default_factory=dict)

    def add(self, model: ZooModel, outputs: list[NDArray[Any]], reference: list[NDArray[Any]], expected: Any) -> None:
        """Count one batch; `expected` holds labels, or the float model's own predictions."""
        if model.decode is not None:
            self.right += [model.agree(p, e) for p, e in zip(model.decode(outputs), expected, strict=True)]
        for index, (value, truth) in enumerate(zip(outputs, reference, strict=True)):
            exact = truth.astype("float64").ravel()
            error = exact - value.astype("float64").ravel()
            self.signal[index] = self.signal.get(index, 0.0) + float(exact @ exact)
            self.noise[index] = self.noise.get(index, 0.0) + float(error @ error)

    @property
    def score(self) -> float | None:
        """Share of right answers, 0..1."""
        return statistics.fmean(self.right) if self.right else None

    @property
    def sqnr_db(self) -> float:
        """Of the worst output; inf for equal outputs."""
        return min(_db(self.signal[i], self.noise[i]) for i in self.signal)


def _db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0.0 and math.isfinite(noise) else -math.inf


def judge(
    model: ZooModel, sessions: Mapping[str, Session], data: Iterable[Batch]
) -> tuple[dict[str, Tally], dict[str, str]]:
    """Run every session on the same batches.

    Args:
        model: Tells right from wrong.
        sessions: By variant; "float" is the reference.
        data: Batches, with labels or without.

    Returns:
        A tally for each session, and the errors of those that failed while running.
    """
    tallies = {name: Tally() for name in sessions}
    errors: dict[str, str] = {}
    for feed, labels in data:
        reference = sessions["float"](feed)
        expected = model.decode(reference) if labels is None and model.decode else labels
        for name, session in sessions.items():
            if name in errors:
                continue
            try:
                outputs = reference if name == "float" else session(feed)
            except Exception as error:  # a model that fails to run is a result
                errors[name] = shortened(f"fails when run: {error}")
                continue
            tallies[name].add(model, outputs, reference, expected)
    return tallies, errors


def paired(plain: Tally, tally: Tally) -> Cell:
    """Score and interval, and the paired difference from float; shares are 0..1."""
    values, baseline = (np.asarray(t.right, np.float64)[:, None] for t in (tally, plain))
    binary = bool(np.isin(np.concatenate([values, baseline]), (0.0, 1.0)).all())
    metric: Metric = TopK(1) if binary else UserMetric(lambda *_: None, "mean")
    score, gap = metric.interval(values), compare(metric, ("float", "quantized"), baseline, values)
    return {
        "samples": len(values),
        "score": metric.score(values),
        "low": score.low,
        "high": score.high,
        "difference": gap.difference,
        "difference_low": gap.low,
        "difference_high": gap.high,
        "verdict": gap.verdict,
        "sqnr_db": tally.sqnr_db if np.isfinite(tally.sqnr_db) else None,
    }


def one_sample(feed: Feed) -> Feed:
    """The first sample of a feed, for batch-1 latency; arrays that do not share the first dimension stay whole."""
    count = samples_in(feed)
    return {k: v[:1] if v.ndim and v.shape[0] == count else v for k, v in feed.items()}
