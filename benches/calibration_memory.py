"""Peak memory of calibration beside that of plain inference, each in a process of its own.

    python -m benches.calibration_memory MODEL plain|onnxq SAMPLES     prints megabytes: peak, tensors, histograms

Samples are fed one at a time and made anew when they are fed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import onnxruntime as ort

from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.statistics.histogram import BINS
from onnxq.calibration.taps.followers import followers_among
from onnxq.calibration.taps.memory import tap_bytes
from onnxq.calibration.taps.selection import in_graph_order
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.inference.outputs import with_output_shapes
from onnxq.pipeline import stages
from onnxq.planning.options import PlanOptions
from tests.zoo import ZOO, Feed

FEW, MANY = 50, 1000

EXPLAINED = f"""
Megabytes that a process has at most, in processes that load and plan the model and do nothing else: plain inference of
{MANY} samples, one at a time, and onnxq's collecting of full statistics over {FEW} and {MANY} of them. *taps*: all
tapped tensors of one batch together; *histograms*: those of all tensors that are counted; *x allowed*: {MANY} samples
as a multiple of plain inference, taps and histograms.
"""
DIFFERENT_SAMPLES = 16
MEGABYTE = 1e6


def rows(name: str) -> list[list[str]]:
    """Rows of the table for one model."""
    plain, taps, histograms = _measured(name, "plain", MANY)
    few, many = _measured(name, "onnxq", FEW)[0], _measured(name, "onnxq", MANY)[0]
    allowed = plain + taps + histograms
    cells = [plain, taps, histograms, few, many]
    return [[name, *(f"{cell:.0f}" for cell in cells), f"{(many / few - 1) * 100:+.1f} %", f"{many / allowed:.2f}"]]


HEAD = ("model", "plain", "taps", "histograms", f"onnxq, {FEW}", f"onnxq, {MANY}", "growth", "x allowed")


def _measured(name: str, what: str, samples: int) -> list[float]:
    command = [sys.executable, "-m", "benches.calibration_memory", name, what, str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return [float(number) for number in done.stdout.split()]


def main(arguments: Sequence[str]) -> int:
    name, what, samples = arguments[0], arguments[1], int(arguments[2])
    model = ZOO[name]
    fed = list(model.calib(DIFFERENT_SAMPLES))
    kept = [{n: a[i : i + 1] for n, a in feed.items()} for feed in fed for i in range(len(next(iter(feed.values()))))]

    def feeds() -> Iterator[Feed]:
        for feed in islice(cycle(kept), samples):
            yield {n: a.copy() for n, a in feed.items()}

    path = str(model.path())
    prepared = stages.prepare(path, "ort-cpu", PlanOptions())
    taps = histograms = 0.0
    if what == "plain":
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for feed in feeds():
            session.run(None, feed)
        peak = _peak()
        names = in_graph_order(prepared.graph, prepared.plan.observed())
        inner = [n for n in names if not prepared.graph.is_input(n)]
        shapes = CollectOptions().session(with_output_shapes(prepared.graph, inner))
        first = next(open_data(feeds, inputs=InputSpecs.from_graph(prepared.graph)).stream())
        taps = sum(tap.tensor for tap in tap_bytes(prepared.graph, inner, shapes, first).values()) / MEGABYTE
        counted = len(names) - len(followers_among(prepared.graph, names))
        histograms = counted * 2 * BINS * np.dtype(np.int64).itemsize / MEGABYTE
    else:
        data = open_data(feeds, inputs=InputSpecs.from_graph(prepared.graph))
        collect(prepared.graph, prepared.plan.observed(), data, digest="bench")
        peak = _peak()
    print(f"{peak:.1f} {taps:.1f} {histograms:.1f}")
    return 0


def _peak() -> float:
    """Megabytes that the process has had at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / MEGABYTE


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
