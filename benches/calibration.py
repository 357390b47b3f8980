"""What calibration costs beside plain inference: `python -m benches.calibration`.

Every variant runs the same batches in the same process, in short rounds that take turns; a cell is the lower quartile
over the rounds, as a multiple of plain inference under onnxruntime's default session options. Sessions are made before
the clock starts, for all variants alike; the first, cold round is not counted. Neither are rounds during which other
processes took more than a tenth of a core, where five others are left; where not, the time says `disturbed`. `CPU` is
the time of all threads of the process, which other work on the machine hardly disturbs; the waiting threads of a
default session spin and count too.
quantize_static's Entropy and Percentile keep every tensor: they run on few batches of two models.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benches import calibration_memory, machine
from benches.sections import RESULTS, write_section
from onnxq.calibration import runner
from onnxq.calibration.reused_sessions import ReusedSessions
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.pipeline import stages
from onnxq.planning.options import PlanOptions
from tests.zoo import ZOO, ZooModel

MODELS = ("yolov8n_320", "ppocrv4_rec", "efficientnet_lite0_224", "kwt1_speech_commands", "wordlang_transformer")
BATCH_SIZES = (1, 8)
STATIC = ("MinMax", "Entropy", "Percentile")
HEAVY = ("Entropy", "Percentile")
HEAVY_MODELS = ("efficientnet_lite0_224", "kwt1_speech_commands")
HEAVY_BATCHES = 4
PEER_TURNS = 4
ROUND_SECONDS = 0.6
MOST_BATCHES = 400
QUIET_CORES = 0.1
LEAST_QUIET = 5
LEAST_BATCHES = 16
"""Of fewer, one that is left over at the end would weigh much where two run at a time; calibrations have dozens."""

Feed = dict[str, NDArray[Any]]
Variant = Callable[[], None]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    rows: list[list[str]] = []
    memory: list[list[str]] = []
    for name in options.models:
        model = ZOO[name]
        if model.path() is None:
            print(f"{name}: absent ({model.source})")
            continue
        for size in BATCH_SIZES:
            made = _apart(name, size, options)
            print("\n".join(map(_line, made)), flush=True)
            rows += made
        memory += calibration_memory.rows(name)
        print(_line(memory[-1]), flush=True)
    write_section(options.output, "calibration", section(rows, memory))
    return 0 if rows else 1


def _apart(name: str, size: int, options: argparse.Namespace) -> list[list[str]]:
    """The rows from a process of its own; peers that keep every tensor can have it killed, and are left out then."""
    light = name not in HEAVY_MODELS or size > 1
    static, killed = [kind for kind in options.static if not (light and kind in HEAVY)], list[str]()
    while True:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            run = pool.submit(_bench_by_name, name, size, static, options.rounds, options.seconds)
            try:
                return run.result() + [
                    [name, str(size), f"quantize_static {k}", "killed: memory", "", ""] for k in killed
                ]
            except BrokenProcessPool:
                if not static:
                    raise
                killed.insert(0, static.pop())


def _bench_by_name(name: str, size: int, static: Sequence[str], rounds: int, seconds: float) -> list[list[str]]:
    return bench(ZOO[name], size, static, rounds=rounds, seconds=seconds)


def bench(model: ZooModel, size: int, static: Sequence[str], *, rounds: int, seconds: float) -> list[list[str]]:
    """Rows of the table for one model and batch size."""
    feeds = same_shape_feeds(model, size)
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder, _axis_is_kept():
        variants = _variants(model, feeds, static, Path(folder))
        taken, failed = race(variants, rounds=rounds, seconds=seconds)
    plain = taken["plain inference"]
    batches = len(feeds)
    rows = []
    for name in variants:
        if name in failed:
            rows.append([model.name, str(size), name, f"fails: {failed[name]}", "", ""])
            continue
        own = taken[name]
        share = min(HEAVY_BATCHES, batches) / batches if name.endswith(HEAVY) else 1.0
        per_batch = f"{own.wall / (batches * share) * 1e3:.2f}{'' if own.quiet else ' disturbed'}"
        ratios = (f"{own.wall / share / plain.wall:.2f}", f"{own.cpu / share / plain.cpu:.2f}")
        rows.append([model.name, str(size), name, *ratios, per_batch])
    return rows


def same_shape_feeds(model: ZooModel, size: int) -> list[Feed]:
    """Batches of `size` calibration samples of the most common shape: LEAST_BATCHES, or what takes ROUND_SECONDS."""
    samples = list(model.calib(4 * size + 8))
    shapes = [{name: array.shape[1:] for name, array in feed.items()} for feed in samples]
    usual = max(shapes, key=shapes.count)
    kept = [feed for feed, shape in zip(samples, shapes, strict=True) if shape == usual]
    whole = {name: np.concatenate([feed[name] for feed in kept]) for name in usual}
    count = len(next(iter(whole.values())))
    order = np.arange(max(size, count) // size * size).reshape(-1, size) % count
    feeds = [{name: np.ascontiguousarray(array[rows]) for name, array in whole.items()} for rows in order]
    session = ort.InferenceSession(str(model.path()), _quiet(), providers=["CPUExecutionProvider"])
    session.run(None, feeds[0])
    started = time.perf_counter()
    session.run(None, feeds[0])
    batches = min(max(LEAST_BATCHES, round(ROUND_SECONDS / (time.perf_counter() - started))), MOST_BATCHES)
    return [feeds[i % len(feeds)] for i in range(batches)]


def _variants(model: ZooModel, feeds: list[Feed], static: Sequence[str], folder: Path) -> dict[str, Variant]:
    path = str(model.path())
    plain = ort.InferenceSession(path, _quiet(), providers=["CPUExecutionProvider"])
    prepared = stages.prepare(path, "ort-cpu", PlanOptions())
    inputs, taps = InputSpecs.from_graph(prepared.graph), prepared.plan.observed()

    def run_plain() -> None:
        for feed in feeds:
            plain.run(None, feed)

    def onnxq(**options: bool) -> Variant:
        kept = ReusedSessions.of(CollectOptions(**options))
        return lambda: (
            collect(prepared.graph, taps, open_data(feeds, inputs=inputs), digest="bench", options=kept) and None
        )

    variants: dict[str, Variant] = {
        "plain inference": run_plain,
        "**onnxq, ranges only (max)**": onnxq(range_only=True),
        "**onnxq, full statistics**": onnxq(),
        "onnxq, every element counted": onnxq(full_histogram=True),
    }
    fewer = {name: feeds[:HEAVY_BATCHES] if name in HEAVY else feeds for name in static}
    return variants | {f"quantize_static {name}": _static(path, name, fewer[name], folder) for name in static}


def _static(path: str, method: str, feeds: list[Feed], folder: Path) -> Variant:
    """The calibrator of `quantize_static`: collecting and computing the ranges."""
    from onnxruntime import quantization as oq  # noqa: PLC0415 - slow to import
    from onnxruntime.quantization.calibrate import create_calibrator  # noqa: PLC0415

    class Reader(oq.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    made: list[Any] = []

    def run() -> None:
        if not made:
            kind = getattr(oq.CalibrationMethod, method)
            made.append(create_calibrator(path, None, str(folder / f"{method}.onnx"), kind))
        calibrator = made[0]
        calibrator.clear_collected_data()
        calibrator.collector = None
        calibrator.calibrate_tensors_range = None
        with contextlib.redirect_stdout(io.StringIO()):
            calibrator.collect_data(Reader())
            calibrator.compute_data()

    return run


@contextlib.contextmanager
def _axis_is_kept() -> Iterator[None]:
    """Shape inference of onnxq is made once: the clock sees what a batch costs."""
    axes: list[Any] = []
    sample_axis = runner.SampleAxis

    def axis(*arguments: Any) -> Any:
        if not axes:
            axes.append(sample_axis(*arguments))
        return axes[0]

    with mock.patch.object(runner, "SampleAxis", axis):
        yield


def race(variants: dict[str, Variant], *, rounds: int, seconds: float) -> tuple[dict[str, Taken], dict[str, str]]:
    """Let variants take turns.

    Args:
        variants: By name.
        rounds: How often, at most.
        seconds: No further round begins after so long.

    Returns:
        The lower quartile by variant, and the errors of those that failed.
    """
    times: dict[str, list[Taken]] = {name: [] for name in variants}
    failed: dict[str, str] = {}
    for name, variant in variants.items():
        try:
            variant()
        except Exception as error:  # noqa: PERF203 - a peer's failure is a result
            failed[name] = f"{type(error).__name__}"
    names = [name for name in variants if name not in failed]
    deadline = time.perf_counter() + seconds
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            # What takes many times as long gets every fourth round.
            if name.startswith(("quantize_static", "onnxq, every")) and turn % PEER_TURNS:
                continue
            times[name].append(timed(variants[name]))
        if time.perf_counter() > deadline:
            break
    return {name: quartile(times[name]) for name in names}, failed


@dataclass(frozen=True)
class Taken:
    """Seconds of one round on the clock, of this process, and of all other processes."""

    wall: float
    cpu: float
    others: float

    @property
    def quiet(self) -> bool:
        """Whether the others hardly disturbed it."""
        return self.others <= QUIET_CORES * self.wall


def timed(variant: Variant) -> Taken:
    """What one round takes."""
    busy, wall, cpu = machine.busy_seconds(), time.perf_counter(), time.process_time()
    variant()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = machine.busy_seconds()
    return Taken(wall, cpu, 0.0 if busy is None or after is None else after - busy - cpu)


def quartile(rounds: Sequence[Taken]) -> Taken:
    """Lower quartile of each clock over the rounds that count."""
    quiet = [taken for taken in rounds if taken.quiet]
    counted = quiet if len(quiet) >= min(LEAST_QUIET, len(rounds)) else rounds
    found = np.quantile([(taken.wall, taken.cpu, taken.others) for taken in counted], 0.25, axis=0)
    return Taken(*map(float, found))


def section(rows: list[list[str]], memory: list[list[str]]) -> str:
    """The section of RESULTS.md: ratios of time, and peak memory."""
    facts = "\n".join(f"- {key}: {value}" for key, value in machine.facts().items())
    head = ["model", "batch", "", "x plain", "x plain, CPU", "ms a batch"]
    table = "\n".join(_line(row) for row in [head, ["---"] * len(head), *rows])
    text = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    head = list(calibration_memory.HEAD)
    peaks = "\n".join(_line(row) for row in [head, ["---"] * len(head), *memory])
    return (
        f"## Cost of calibration\n\nWritten by `python -m benches.calibration`. {text}\n\n{facts}\n\n{table}\n\n"
        f"### Peak memory\n\n{' '.join(calibration_memory.EXPLAINED.split())}\n\n{peaks}"
    )


def _line(row: Sequence[str]) -> str:
    return "| " + " | ".join(row) + " |"


def _quiet() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return options


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=lambda text: text.split(","), default=MODELS, help="comma-separated names")
    parser.add_argument(
        "--static",
        type=lambda text: [name for name in text.split(",") if name],
        default=STATIC,
        help=f"calibrators of quantize_static, of {','.join(STATIC)}; '' for none",
    )
    parser.add_argument("--rounds", type=int, default=40, help="rounds, at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="no further round begins after so long")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown whose section is replaced")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
