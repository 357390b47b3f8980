"""What finding one tensor's range takes, by method: `python -m benches.solvers`.

From statistics as calibration leaves them (4096 bins on each side of zero) to the range, on one thread; CPU time,
median over the rounds. "Codes" is the form that the range is for: int8 symmetric, as TensorRT takes it, or uint8
asymmetric, as onnxruntime does. onnxruntime's entropy, whose default is 128 bins, is run with 2048 bins for 128 codes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benches import machine
from benches.sections import RESULTS, write_section
from onnxq.calibration.methods.solve import METHODS, method_from_name, solve_range
from onnxq.calibration.statistics.table import TensorStats
from onnxq.numerics.qtypes import INT8, UINT8
from onnxq.numerics.specs import QuantSpec

ELEMENTS = 1_000_000
SPECS = {
    "int8 symmetric": QuantSpec(qtype=INT8, symmetric=True),
    "uint8 asymmetric": QuantSpec(qtype=UINT8, symmetric=False),
}
PEER_BINS, PEER_CODES = 2048, 128


def tensors() -> dict[str, NDArray[np.float32]]:
    """Values of the kinds that activations have."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(ELEMENTS).astype(np.float32)
    return {
        "normal": normal,
        "behind Relu": np.maximum(normal, 0),
        "long tails": rng.standard_t(3, ELEMENTS).astype(np.float32),
        "behind SiLU": normal * 3 / (1 + np.exp(-3 * normal)),
    }


def median_ms(run: Callable[[], object], rounds: int) -> float:
    """Median CPU time of a run, after one that is not counted."""
    run()
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        run()
        taken.append((time.process_time() - started) * 1e3)
    return statistics.median(taken)


def rows(rounds: int) -> list[list[str]]:
    """A row for each tensor and form of codes."""
    found = []
    for kind, values in tensors().items():
        stats = TensorStats.of(values)
        for codes, spec in SPECS.items():
            cells = [median_ms(partial(solve_range, stats, spec, method_from_name(name)), rounds) for name in METHODS]
            found.append([kind, codes, *(f"{ms:.2f}" for ms in cells), f"{_peer_ms(values):.0f}"])
    return found


def _peer_ms(values: NDArray[np.float32]) -> float:
    """onnxruntime's entropy on the same values; once, since it takes so long."""
    from onnxruntime.quantization.calibrate import HistogramCollector  # noqa: PLC0415 - slow to import

    threshold = float(np.abs(values).max())
    counts, edges = np.histogram(values, bins=PEER_BINS, range=(-threshold, threshold))
    histogram = (counts, edges, values.min(), values.max(), threshold)
    settings: dict[str, Any] = {"num_bins": PEER_BINS, "num_quantized_bins": PEER_CODES, "percentile": 99.99}
    collector = HistogramCollector(method="entropy", symmetric=True, scenario="same", **settings)
    started = time.process_time()
    collector.get_entropy_threshold(histogram, PEER_CODES)
    return (time.process_time() - started) * 1e3


def section(found: Sequence[Sequence[str]], facts: Mapping[str, str]) -> str:
    """The section of RESULTS.md."""
    text = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    head = ["values", "codes", *METHODS, "onnxruntime's entropy"]
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *found)]
    said = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    title = "## From statistics to ranges\n\nWritten by `python -m benches.solvers`; in ms a tensor."
    return f"{title} {text}\n\n{said}\n\n" + "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown whose section is replaced; - for none")
    options = parser.parse_args(arguments)
    made = section(rows(options.rounds), machine.facts())
    print(made)
    if options.output.name != "-":
        write_section(options.output, "solvers", made)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
