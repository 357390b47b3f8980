"""What OpenVINO's CPU kernels cost, in float and in int8: `python -m benches.openvino_costs`.

Kernels stand in chains of four, float32 or behind Q/DQ pairs, on one thread; OpenVINO's own profile tells what the
second and the third take, which read and write what their neighbours do. Of the runs the fastest third counts, for
other work on the machine only ever adds. For `openvino` all is measured twice, in processes of their own: with all
that the CPU has (AMX, say), and with AVX512-VNNI at most, since one placement has to serve both. The law of
`onnxq.targets.costs.KernelCost` is fitted to both together. For `openvino-avx2` (`--target`) it is measured with AVX2
at most. What is printed is the source of the literals in `onnxq/targets/openvino_costs.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from benches import machine
from benches.kernel_costs import STEMS, Chain, fitted
from onnxq.targets.costs import Work, conv_work, matmul_work

ISAS = {"openvino": ("", "AVX512_CORE_VNNI"), "openvino-avx2": ("AVX2",)}
"""Values of ONEDNN_MAX_CPU_ISA by target; empty for no limit."""
KINDS = frozenset({"Convolution", "GroupConvolution", "FullyConnected"})
CONVERSIONS = frozenset({"FakeQuantize", "Reorder", "Subgraph"})
POINTWISE = (
    (8, 8, 48), (8, 24, 48), (8, 32, 24), (16, 16, 48), (16, 96, 40), (16, 64, 56), (24, 144, 28), (32, 64, 56),
    (64, 64, 28), (40, 240, 14), (16, 88, 24), (128, 128, 14), (256, 256, 7), (320, 1280, 7), (240, 960, 1),
    (256, 1024, 1), (96, 200, 3), (128, 256, 28),
)  # fmt: skip
"""Channels on one side and on the other, and size of square images."""
DENSE = (
    (8, 8, 48), (16, 32, 28), (32, 32, 56), (64, 64, 28), (64, 128, 14), (128, 128, 14), (256, 256, 7), (64, 64, 3),
    (24, 48, 40),
)  # fmt: skip
"""Likewise, for filters of 3 x 3."""
DEPTHWISE = (
    (8, 48), (16, 56), (24, 28), (32, 56), (88, 17), (144, 28), (96, 56), (256, 14), (480, 7), (200, 3), (32, 112),
)  # fmt: skip
MATMULS = (
    (1, 256, 256), (1, 512, 512), (1, 1024, 1024), (17, 64, 64), (17, 64, 256), (98, 64, 64), (98, 64, 256),
    (98, 128, 512), (98, 256, 256), (128, 384, 384), (128, 384, 1536), (16, 768, 768), (98, 32, 32), (64, 192, 192),
    (256, 120, 360), (16, 8, 64),
)  # fmt: skip
"""Rows, and features on one side and on the other."""

Layer = tuple[tuple[int, ...], dict[str, Any]]
"""Shape of a weight, and attributes of the Conv; a weight of rank 2 is that of a MatMul."""
Sample = tuple[str, Work, float, float]
"""Kernel, work, float and int8 microseconds."""


def chain(layers: list[Layer], shape: tuple[int, ...], codes: list[bool]) -> ModelProto:
    """Layers in a row; those with `codes` behind a pair."""
    made, x = Chain(), "x"
    for (weight, attributes), quantized in zip(layers, codes, strict=True):
        x = made.pair(x) if quantized else x
        axis = 0 if attributes or len(weight) > 2 else 1
        w, bias = made.weight(weight, axis, quantized), made.constant(np.full(weight[axis], 1e-2, np.float32))
        if axis:
            x = made.op("Add", made.op("MatMul", x, w), bias)
        else:
            x = made.op("Relu", made.op("Conv", x, w, bias, **attributes))
    return made.model(shape, x)


def kernels_us(model: ModelProto, shape: tuple[int, ...], runs: int) -> list[tuple[str, float]]:
    """What OpenVINO runs, in order: type and microseconds."""
    import openvino  # noqa: PLC0415 - an extra

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
        "PERF_COUNT": True,
    }  # fmt: skip
    core = openvino.Core()
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
        path = Path(folder) / "chain.onnx"
        path.write_bytes(model.SerializeToString())
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
    request, x = compiled.create_infer_request(), np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    taken: dict[tuple[int, str], list[float]] = {}
    for _ in range(runs):
        request.infer({"x": x}, share_inputs=True, share_outputs=True)
        for index, info in enumerate(request.profiling_info):
            if info.status == openvino.ProfilingInfo.Status.EXECUTED:
                taken.setdefault((index, info.node_type), []).append(info.real_time.total_seconds() * 1e6)
    return [(kind, float(np.mean(sorted(us)[: max(1, runs // 3)]))) for (_, kind), us in taken.items()]


def inner(there: Layer, back: Layer, shape: tuple[int, ...], runs: int) -> list[tuple[float, float]]:
    """Float and int8 microseconds of `back`, then of `there`, in the middle of a chain."""
    taken = []
    for quantized in (False, True):
        model = chain([there, back, there, back], shape, [quantized] * 4)
        taken.append([us for kind, us in kernels_us(model, shape, runs) if kind in KINDS])
    return [(max(taken[0][i], 0.5), max(taken[1][i], 0.5)) for i in (1, 2)]  # the profile counts in microseconds


def conv_samples(runs: int) -> Iterator[Sample]:
    for sizes, width in ((POINTWISE, 1), (DENSE, 3)):
        for few, many, size in sizes:
            weights = [(many, few, width, width), (few, many, width, width)]
            layers = [(weight, {"pads": [width // 2] * 4}) for weight in weights]
            times = inner(layers[0], layers[1], (1, few, size, size), runs)
            for weight, (in_float, in_int8) in zip(reversed(weights), times, strict=True):
                yield "Conv", conv_work((1, weight[0], size, size), weight, 1), in_float, in_int8
    for channels, size in DEPTHWISE:
        for width in (3, 5):
            weight = (channels, 1, width, width)
            layer = (weight, {"pads": [width // 2] * 4, "group": channels})
            shape = (1, channels, size, size)
            in_float, in_int8 = inner(layer, layer, shape, runs)[0]
            yield "DepthwiseConv", conv_work(shape, weight, channels), in_float, in_int8


def stem_samples(runs: int) -> Iterator[Sample]:
    """The first Conv of a model, in int8 without the quantization of the image in front."""
    for channels, features, width, stride, size in STEMS:
        layer = ((features, channels, width, width), {"pads": [width // 2] * 4, "strides": [stride] * 2})
        second = ((features, features, 1, 1), {"pads": [0] * 4})
        taken = []
        for quantized in (False, True):
            shape = (1, channels, size, size)
            run = kernels_us(chain([layer, second], shape, [quantized] * 2), shape, runs)
            first = next(i for i, (kind, _) in enumerate(run) if kind in KINDS)
            taken.append(sum(us for kind, us in run[: first + 1] if kind in KINDS or kind == "Reorder"))
        side = (size - 1) // stride + 1
        yield "StemConv", conv_work((1, features, side, side), layer[0], 1), taken[0], taken[1]


def matmul_samples(runs: int) -> Iterator[Sample]:
    for rows, few, many in MATMULS:
        times = inner(((few, many), {}), ((many, few), {}), (1, rows, few), runs)
        for (reduced, features), (in_float, in_int8) in zip(((many, few), (few, many)), times, strict=True):
            yield "MatMul", matmul_work((1, rows, reduced), reduced, features), in_float, in_int8


def conversion_samples(runs: int) -> Iterator[Sample]:
    """A float Conv in the middle of int8 ones: what its result takes to become codes."""
    for channels, size in DEPTHWISE:
        layer = ((channels, channels, 1, 1), {"pads": [0] * 4})
        depthwise = ((channels, 1, 3, 3), {"pads": [1] * 4, "group": channels})
        shape = (1, channels, size, size)
        run = kernels_us(chain([layer, depthwise, layer], shape, [True, False, True]), shape, runs)
        at = [i for i, (kind, _) in enumerate(run) if kind in KINDS]
        between = sum(us for kind, us in run[at[1] : at[2]] if kind in CONVERSIONS)
        yield "quantize", Work(elements=channels * size * size), 0.0, max(between, 0.5)


def samples(runs: int) -> Iterator[Sample]:
    for measured in (conv_samples, stem_samples, matmul_samples, conversion_samples):
        yield from measured(runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=90, help="runs of each chain")
    parser.add_argument("--target", choices=sorted(ISAS), default="openvino")
    parser.add_argument("--raw", action="store_true", help="print the measurements as JSON lines, do not fit")
    options = parser.parse_args()
    if options.raw:
        for kind, work, in_float, in_int8 in samples(options.runs):
            print(json.dumps([kind, asdict(work), in_float, in_int8]), flush=True)
        return 0
    print("\n".join(f"# {key}: {value}" for key, value in machine.facts().items()))
    found: dict[str, list[tuple[Work, float, float]]] = {}
    for isa in ISAS[options.target]:
        command = [sys.executable, "-m", "benches.openvino_costs", "--raw", "--runs", str(options.runs)]
        limited = {**os.environ, "OMP_NUM_THREADS": "1", **({"ONEDNN_MAX_CPU_ISA": isa} if isa else {})}
        done = subprocess.run(command, env=limited, check=True, capture_output=True, text=True)
        for line in done.stdout.splitlines():
            kind, work, in_float, in_int8 = json.loads(line)
            found.setdefault(kind, []).append((Work(**work), in_float, in_int8))
    for kind, measured in found.items():
        for name, column in (("float", 1), ("int8", 2)):
            if all(row[column] for row in measured):
                law, error = fitted([row[0] for row in measured], [row[column] for row in measured])
                print(f"{kind:14s} {name:5s} {law}  # median error {100 * error:.0f} %", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
