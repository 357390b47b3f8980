"""What onnxruntime's kernels cost, in float and in int8: `python -m benches.kernel_costs`.

Every kernel is measured in chains of two and of six, float and int8 in turns, on one thread; the difference is what
four of them take, without the borders. Convs on images of few channels and in groups are timed one by one. The law
of `onnxq.targets.costs.KernelCost` is fitted to the times by least squares of the relative error, without negative
terms. What is printed is the source of the literals in `onnxq/targets/ort_costs.py`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from benches import machine
from onnxq.targets.costs import KernelCost, Work, conv_work, matmul_work

SHORT, LONG = 2, 6
SECONDS = 0.003
CONVS = (
    (8, 24), (16, 24), (16, 56), (24, 28), (32, 14), (32, 56), (40, 14), (64, 7), (64, 28), (88, 17), (128, 14),
    (256, 7), (128, 28),
)  # fmt: skip
"""Channels and size of square images; a dense and a depthwise Conv of each."""
NARROW = ((8, 3, 1), (12, 3, 1), (12, 7, 1), (12, 1, 7), (12, 7, 3), (16, 7, 1), (20, 7, 1))
"""Channels, height and width of filters on images of 64 x 62."""
GROUPED = (
    (48, 96, 48, 7, 24), (96, 192, 96, 3, 12), (128, 128, 32, 3, 28), (256, 256, 32, 3, 14), (64, 64, 8, 3, 28),
    (128, 128, 8, 3, 28), (320, 320, 20, 3, 14), (128, 128, 4, 3, 14), (96, 96, 12, 1, 28), (64, 64, 4, 1, 28),
)  # fmt: skip
"""Channels in and out, groups, width of the filter and size of Convs in groups that are not depthwise."""
MATMULS = (
    (1, 256), (1, 512), (1, 1024), (17, 64), (17, 256), (98, 64), (98, 128), (98, 256), (128, 384), (128, 768),
    (16, 768),
)  # fmt: skip
"""Rows and inner size; the weight is square."""
STEMS = (
    (1, 16, 3, 1, 112),
    (3, 16, 3, 2, 224),
    (3, 32, 3, 2, 224),
    (3, 64, 7, 2, 224),
    (4, 16, 3, 2, 112),
    (1, 32, 3, 1, 96),
)
"""Channels in and out, width of the filter, stride and size of Convs on the input of a model."""
ACTIVATIONS = ("Sigmoid", "LeakyRelu", "HardSigmoid", "HardSwish", "Tanh")
"""What a float Conv before it takes in."""
IMAGES = ((16, 24), (64, 28), (32, 56))
"""Channels and size for operators without weights."""

Build = Callable[["Chain", str, bool], str]


class Chain:
    """A graph of repeated kernels from input `x`, in float or behind Q/DQ pairs."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def constant(self, value: Any) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def pair(self, x: str) -> str:
        params = [self.constant(np.float32(0.05)), self.constant(np.uint8(128))]
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *params), *params)

    def weight(self, shape: tuple[int, ...], axis: int, quantized: bool) -> str:
        if not quantized:
            return self.constant(self.rng.normal(0, 0.1, shape).astype(np.float32))
        codes = self.constant(self.rng.integers(-127, 128, shape).astype(np.int8))
        scale = self.constant(np.full(shape[axis], 1e-3, np.float32))
        return self.op("DequantizeLinear", codes, scale, self.constant(np.zeros(shape[axis], np.int8)), axis=axis)

    def model(self, shape: tuple[int, ...], out: str) -> ModelProto:
        """The graph from `x` of `shape` to the tensor `out`."""
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        outputs = [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "chain", inputs, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def session(
        self, shape: tuple[int, ...], out: str, *, profile: str = ""
    ) -> Callable[[NDArray[np.float32]], object]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling, options.profile_file_prefix = bool(profile), profile
        model = self.model(shape, out).SerializeToString()
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})


def kernel_us(build: Build, shape: tuple[int, ...], rounds: int) -> tuple[float, float]:
    """Microseconds that one kernel takes, in float and in int8."""
    runs = []
    for quantized in (False, True):
        for length in (SHORT, LONG):
            chain = Chain()
            x = chain.pair("x") if quantized else "x"
            for _ in range(length):
                x = build(chain, x, quantized)
            runs.append(chain.session(shape, x))
    taken = _least_us(runs, np.random.default_rng(1).standard_normal(shape).astype(np.float32), rounds)
    step = LONG - SHORT
    return (taken[1] - taken[0]) / step, (taken[3] - taken[2]) / step


def _least_us(runs: Sequence[Callable[[Any], object]], x: NDArray[np.float32], rounds: int) -> list[float]:
    """Of the rounds the least: other work on the machine only ever adds."""
    repeats = []
    for run in runs:
        run(x)
        started = time.thread_time()
        run(x)
        repeats.append(max(1, round(SECONDS / max(time.thread_time() - started, 1e-5))))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, repeat, taken in zip(runs, repeats, times, strict=True):
            started = time.thread_time()
            for _ in range(repeat):
                run(x)
            taken.append((time.thread_time() - started) / repeat * 1e6)
    return [min(t) for t in times]


def single_us(build: Build, shape: tuple[int, ...], rounds: int) -> tuple[float, float]:
    """Microseconds of a single Conv in float and in int8, by onnxruntime's own profile."""
    taken = []
    for quantized in (False, True):
        with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
            chain = Chain()
            out = build(chain, chain.pair("x") if quantized else "x", quantized)
            run = chain.session(shape, out, profile=str(Path(folder) / "profile"))
            x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
            for _ in range(rounds):
                run(x)
            del run  # the profile is written when the session ends
            events = json.loads(next(Path(folder).iterdir()).read_text(encoding="utf-8"))
        kernels = [e for e in events if e.get("args", {}).get("op_name") in ("Conv", "FusedConv", "QLinearConv")]
        taken.append(min(float(e["dur"]) for e in kernels if e["name"].endswith("_kernel_time")))
    return taken[0], taken[1]


# ---- the kernels ---------------------------------------------------------------------------------------------------


def conv(shape: tuple[int, ...], **attributes: Any) -> Build:
    """A Conv with a bias and a weight of `shape`; in int8 with a pair behind it."""

    def build(chain: Chain, x: str, quantized: bool) -> str:
        weight, zeros = chain.weight(shape, 0, quantized), np.zeros(shape[0], np.float32)
        if not quantized:
            return chain.op("Relu", chain.op("Conv", x, weight, chain.constant(zeros), **attributes))
        scale = chain.constant(np.full(shape[0], 5e-5, np.float32))
        codes, zero = chain.constant(zeros.astype(np.int32)), chain.constant(zeros.astype(np.int32))
        bias = chain.op("DequantizeLinear", codes, scale, zero, axis=0)
        return chain.pair(chain.op("Conv", x, weight, bias, **attributes))

    return build


def matmul(size: int) -> Build:
    """A MatMul with a square weight: codes to codes, which costs what codes to float does."""

    def build(chain: Chain, x: str, quantized: bool) -> str:
        product = chain.op("MatMul", x, chain.weight((size, size), 1, quantized))
        return chain.pair(product) if quantized else product

    return build


def unary(kind: str, operands: int = 1) -> Build:
    """An operator whose operands are all the tensor before it."""

    def build(chain: Chain, x: str, quantized: bool) -> str:
        made = chain.op(kind, *[x] * operands)
        return chain.pair(made) if quantized else made

    return build


def gated(channels: int) -> Build:
    """A pointwise Conv and a Mul by one value for each channel, as behind a squeeze-and-excite block."""
    before = conv((channels, channels, 1, 1))

    def build(chain: Chain, x: str, quantized: bool) -> str:
        gate = np.full((1, channels, 1, 1), 0.5, np.float32)
        made = before(chain, x, quantized)
        if not quantized:
            # A constant would be folded into the weights.
            return chain.op("Mul", made, chain.op("HardSigmoid", chain.op("GlobalAveragePool", made)))
        codes = chain.op(
            "DequantizeLinear",
            *[chain.constant(v) for v in ((gate * 255).astype(np.uint8), np.float32(1 / 255), np.uint8(0))],
        )
        return chain.pair(chain.op("Mul", made, codes))

    return build


def alternating(channels: int) -> Build:
    """A float and an int8 Conv, with all that lies between them; in float two float ones."""
    one = conv((channels, channels, 1, 1))

    def build(chain: Chain, x: str, quantized: bool) -> str:
        held = chain.op("Sum", one(chain, x, False))
        return one(chain, chain.pair(held), True) if quantized else one(chain, held, False)

    return build


def conversion(chain: Chain, x: str, quantized: bool) -> str:
    """A float operator, with a pair behind it or without."""
    made = chain.op("HardSigmoid", x)
    return chain.pair(made) if quantized else made


def samples(rounds: int) -> dict[str, list[tuple[Work, float, float]]]:
    """By kernel: work, float and int8 microseconds."""
    found: dict[str, list[tuple[Work, float, float]]] = {"Conv": [], "DepthwiseConv": [], "MatMul": []}
    for channels, size in CONVS:
        out = (1, channels, size, size)
        for width in (1, 3):
            weight = (channels, channels, width, width)
            taken = kernel_us(conv(weight, pads=[width // 2] * 4), out, rounds)
            found["Conv"].append((conv_work(out, weight, 1), *taken))
        for width in (3, 5):
            weight = (channels, 1, width, width)
            taken = kernel_us(conv(weight, pads=[width // 2] * 4, group=channels), out, rounds)
            found["DepthwiseConv"].append((conv_work(out, weight, channels), *taken))
    for channels, height, width in NARROW:
        weight, out = (channels, channels, height, width), (1, channels, 64, 62)
        taken = kernel_us(conv(weight, pads=[height // 2, width // 2] * 2), out, rounds)
        found["Conv"].append((conv_work(out, weight, 1), *taken))
    for channels, features, group, width, size in GROUPED:
        weight = (features, channels // group, width, width)
        build = conv(weight, pads=[width // 2] * 4, group=group)
        taken = single_us(build, (1, channels, size, size), rounds)
        found["Conv"].append((conv_work((1, features, size, size), weight, group), *taken))
    found["StemConv"] = []
    for channels, features, width, stride, size in STEMS:
        weight, side = (features, channels, width, width), (size - 1) // stride + 1
        taken = single_us(conv(weight, pads=[width // 2] * 4, strides=[stride] * 2), (1, channels, size, size), rounds)
        found["StemConv"].append((conv_work((1, features, side, side), weight, 1), *taken))
    for rows, size in MATMULS:
        taken = kernel_us(matmul(size), (rows, size), rounds)
        found["MatMul"].append((matmul_work((rows, size), size, size), *taken))
    for kind, operands in (("Add", 2), ("Mul", 2), *((activation, 1) for activation in ACTIVATIONS)):
        found[kind] = [
            (Work(elements=c * s * s), *kernel_us(unary(kind, operands), (1, c, s, s), rounds)) for c, s in IMAGES
        ]
    found["GateMul"], found["layout"] = [], []
    for channels, size in IMAGES:
        out, work = (1, channels, size, size), Work(positions=size * size, elements=channels * size * size)
        plain = kernel_us(conv((channels, channels, 1, 1)), out, rounds)
        both = kernel_us(gated(channels), out, rounds)
        found["GateMul"].append((work, max(both[0] - plain[0], 0.1), both[1] - plain[1]))
        two, mixed = kernel_us(alternating(channels), out, rounds)
        # What lies between a float and an int8 Conv, the pair included, for one way in and one way out.
        found["layout"].append((Work(elements=work.elements), 0.0, (mixed - two + plain[0] - plain[1]) / 2))
    pairs = [(c * s * s, kernel_us(conversion, (1, c, s, s), rounds)) for c, s in IMAGES]
    found["Q and DQ"] = [(Work(elements=n), 0.0, both - plain) for n, (plain, both) in pairs]
    return found


# ---- the law -------------------------------------------------------------------------------------------------------


def fitted(works: Sequence[Work], times_us: Sequence[float]) -> tuple[KernelCost, float]:
    """The law that fits best, and the median of its relative error."""
    wanted = np.array(times_us) * 1e3
    terms = np.array([(1.0, *astuple(work)) for work in works]) / wanted[:, None]
    active = [i for i in range(terms.shape[1]) if terms[:, i].any()]
    while True:
        weights = np.linalg.lstsq(terms[:, active], np.ones(len(wanted)), rcond=None)[0]
        if (weights >= 0).all():
            break
        active.pop(int(np.argmin(weights * terms[:, active].max(axis=0))))
    solved = np.zeros(terms.shape[1])
    solved[active] = weights
    names = [field.name for field in fields(KernelCost)]
    law = KernelCost(**{name: float(f"{v:.3g}") for name, v in zip(names, solved, strict=True)})
    return law, float(np.median(np.abs(terms @ solved - 1)))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each chain")
    rounds = parser.parse_args().rounds
    print("\n".join(f"# {key}: {value}" for key, value in machine.facts().items()))
    for kernel, measured in samples(rounds).items():
        works = [work for work, _, _ in measured]
        for name, times in (("float", [f for _, f, _ in measured]), ("int8", [q for _, _, q in measured])):
            if all(times):
                law, error = fitted(works, times)
                print(f"{kernel:14s} {name:5s} {law}  # median error {100 * error:.0f} %", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
