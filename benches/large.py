"""Memory and time for models of many gigabytes: `python -m benches.large --gigabytes 2.5 8 --float16 2.5`.

Rows of other models, and of what `--only` leaves out, stay as they were measured before.

A transformer of random weights is written to a temporary folder tensor by tensor (and removed afterwards), then run by
onnxruntime alone and quantized by onnxq, each in a process of its own that is watched from outside.

Two peaks are told: *anonymous* memory, which the process cannot do without, and *resident* memory, which also counts
the pages of weight files that happen to be mapped and that the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from benches import machine
from benches.sections import RESULTS, write_section

VOCABULARY = 32000
HEAD = 64
TOKENS = 32
SAMPLES = 6
_PAGE_BYTES = 4096
_DATA = "model.onnx.data"
ALONE = "onnxruntime alone"
QUANTIZED = {"onnxq, static": (), "onnxq, weight-only": ("--mode", "weight-only")}
"""What is measured beside onnxruntime, and its options."""
_COLUMNS = ("model", "what", "anonymous GB", "resident GB", "s", "CPU s", "file GB", "SQNR dB", "commit, processor")
Rows = dict[tuple[str, str], tuple[str, ...]]
"""By model and what was measured, the other columns."""

_RUN = """
import sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for ids in np.load(sys.argv[2])["ids"]:
    session.run(None, {"ids": ids[None]})
"""


class Transformer:
    """A decoder's layers, written as they are made.

    Args:
        width: Size of a token's vector.
        layers: Their number.
        data: Takes the weights.
        dtype: What they are and what it computes in.
    """

    def __init__(self, width: int, layers: int, data: BinaryIO, dtype: type[np.floating[Any]] = np.float32) -> None:
        self._rng = np.random.default_rng(0)
        self._data = data
        self._width = width
        self._dtype = dtype
        self.tensors: list[TensorProto] = []
        self.nodes: list[NodeProto] = []
        self._constant("heads", np.array([0, 0, width // HEAD, HEAD]))
        self._constant("merged", np.array([0, 0, width]))
        self._constant("scale", dtype(HEAD**-0.5))
        last = self._node("Gather", [self._weight("embedding", VOCABULARY, width, std=1.0), "ids"], "embedded")
        for index in range(layers):
            last = self._layer(f"layer{index}", last)
        self._node("MatMul", [last, self._weight("head", width, VOCABULARY)], "logits")

    def _layer(self, name: str, last: str) -> str:
        normed = self._norm(f"{name}.norm1", last)
        parts = {}
        for part in ("query", "key", "value"):
            made = self._linear(f"{name}.{part}", normed, self._width, self._width)
            split = self._node("Reshape", [made, "heads"], f"{name}.{part}.heads")
            perm = [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3]
            parts[part] = self._node("Transpose", [split], f"{name}.{part}.turned", perm=perm)
        scores = self._node("MatMul", [parts["query"], parts["key"]], f"{name}.scores")
        scaled = self._node("Mul", [scores, "scale"], f"{name}.scaled")
        shares = self._node("Softmax", [scaled], f"{name}.shares", axis=-1)
        mixed = self._node("MatMul", [shares, parts["value"]], f"{name}.mixed")
        turned = self._node("Transpose", [mixed], f"{name}.back", perm=[0, 2, 1, 3])
        joined = self._node("Reshape", [turned, "merged"], f"{name}.joined")
        last = self._node("Add", [last, self._linear(f"{name}.out", joined, self._width, self._width)], f"{name}.sum1")
        hidden = self._linear(f"{name}.up", self._norm(f"{name}.norm2", last), self._width, 4 * self._width)
        active = self._node("Relu", [hidden], f"{name}.active")
        return self._node("Add", [last, self._linear(f"{name}.down", active, 4 * self._width, self._width)], name)

    def _norm(self, name: str, last: str) -> str:
        gain = self._constant(f"{name}.gain", np.ones(self._width, self._dtype))
        shift = self._constant(f"{name}.shift", np.zeros(self._width, self._dtype))
        return self._node("LayerNormalization", [last, gain, shift], name)

    def _linear(self, name: str, last: str, inputs: int, outputs: int) -> str:
        product = self._node("MatMul", [last, self._weight(f"{name}.weight", inputs, outputs)], f"{name}.product")
        bias = self._rng.standard_normal(outputs, np.float32) * np.float32(0.1)
        return self._node("Add", [product, self._constant(f"{name}.bias", bias.astype(self._dtype))], name)

    def _node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self.tensors.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _weight(self, name: str, *shape: int, std: float | None = None) -> str:
        drawn = self._rng.standard_normal(shape, np.float32)
        drawn *= np.float32(shape[0] ** -0.5 if std is None else std)
        value: NDArray[Any] = drawn.astype(self._dtype, copy=False)
        self._data.write(bytes(-self._data.tell() % _PAGE_BYTES))
        entries = {"location": _DATA, "offset": self._data.tell(), "length": value.nbytes}
        self._data.write(value.data.cast("B"))
        data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor = TensorProto(name=name, data_type=data_type, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, entry in entries.items():
            tensor.external_data.add(key=key, value=str(entry))
        self.tensors.append(tensor)
        return name


def write_transformer(folder: Path, gigabytes: float, dtype: type[np.floating[Any]] = np.float32) -> Path:
    """Write a transformer of about this size and return its path."""
    width = 4096 if gigabytes > 4 else 2048
    bytes_each = np.dtype(dtype).itemsize
    rest = gigabytes * 1e9 - 2 * bytes_each * VOCABULARY * width
    layers = max(round(rest / (12 * bytes_each * width**2)), 1)
    with (folder / _DATA).open("wb") as data:
        made = Transformer(width, layers, data, dtype)
    logits = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        made.nodes,
        "transformer",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "S"])],
        [helper.make_tensor_value_info("logits", logits, ["N", "S", VOCABULARY])],
        made.tensors,
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@dataclass(frozen=True)
class Watched:
    """What a process took, in GB and seconds."""

    anonymous: float
    resident: float
    seconds: float
    cpu_seconds: float
    output: str


def watch(*command: str) -> Watched:
    """Run a command and watch its memory."""
    peaks = {"RssAnon": 0, "VmRSS": 0}
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        before = _children_cpu()
        while process.poll() is None:
            for name, value in _memory(process.pid):
                peaks[name] = max(peaks[name], value)
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
        output.seek(0)
        cpu = _children_cpu() - before
        return Watched(peaks["RssAnon"] / 1e6, peaks["VmRSS"] / 1e6, seconds, cpu, output.read())


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(pid: int) -> Iterator[tuple[str, int]]:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "VmRSS"):
            yield name, int(value.split()[0])


def bench(
    gigabytes: float, dtype: type[np.floating[Any]], parent: Path | None, wanted: Sequence[str]
) -> Iterator[Rows]:
    """One model: a row of the table at a time."""
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-", dir=parent) as name:
        folder = Path(name)
        path = write_transformer(folder, gigabytes, dtype)
        label = f"{_gigabytes(folder, '*'):.1f} GB {np.dtype(dtype).name}"
        data = folder / "samples.npz"
        np.savez(data, ids=np.random.default_rng(1).integers(0, VOCABULARY, (SAMPLES, TOKENS)))
        if ALONE in wanted:
            yield _row(label, ALONE, watch(sys.executable, "-c", _RUN, str(path), str(data)))
        for what in (what for what in QUANTIZED if what in wanted):
            output = folder / "quantized.onnx"
            made = watch(
                sys.executable, "-m", "onnxq", "quantize", str(path), "--data", str(data), "-o", str(output), "--json",
                *QUANTIZED[what],
            )  # fmt: skip
            sqnr = min(one["sqnr_db"] for one in json.loads(made.output)["outputs"])
            yield _row(label, what, made, f"{_gigabytes(folder, 'quantized.onnx*'):.1f}", f"{sqnr:.1f}")
            for file in folder.glob("quantized.onnx*"):
                file.unlink()


def _gigabytes(folder: Path, pattern: str) -> float:
    return sum(file.stat().st_size for file in folder.glob(pattern)) / 1e9


def _row(model: str, what: str, took: Watched, file: str = "", noise: str = "") -> Rows:
    facts = machine.facts()
    where = f"{facts['onnxq'].removeprefix('commit ')}, {facts['Processor'].partition(',')[0]}"
    peaks = (f"{took.anonymous:.2f}", f"{took.resident:.2f}")
    row = (*peaks, f"{took.seconds:.0f}", f"{took.cpu_seconds:.0f}", file, noise, where)
    print(model, what, *row, flush=True)
    return {(model, what): row}


def rows_of(text: str) -> Rows:
    """The rows of a page that `section` wrote."""
    found: Rows = {}
    model = ""
    inside = text.partition("<!-- large -->")[2].partition("<!-- /large -->")[0]
    for line in inside.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == len(_COLUMNS) and cells[1] in (ALONE, *QUANTIZED):
            model = cells[0] or model
            found[model, cells[1]] = tuple(cells[2:])
    return found


def _table(rows: Rows) -> Iterator[str]:
    """By type and size; of a model the first row alone has its name."""
    order = [ALONE, *QUANTIZED]
    before = ""
    for model, what in sorted(rows, key=lambda key: (key[0].split()[2], float(key[0].split()[0]), order.index(key[1]))):
        yield "| " + " | ".join([model if model != before else "", what, *rows[model, what]]) + " |"
        before = model


def section(rows: Rows) -> str:
    """The section of RESULTS.md."""
    busy = {
        "Load": f"{os.getloadavg()[0]:.0f} processes wanted to run when this was written; s grows with them, CPU s less"
    }
    known = {name: value for name, value in machine.facts().items() if name not in ("onnxq", "Processor")}
    facts = "\n".join(f"- {name}: {value}" for name, value in {**known, **busy}.items())
    return f"""## Large models

Written by `python -m benches.large`; do not edit.

{facts}

Transformers of random weights in a file beside the model. *onnxruntime alone* loads the model and runs the {SAMPLES}
samples of {TOKENS} tokens that onnxq reads; *onnxq* is everything: digest, plan, calibration and recovery (static) or
rounding (weight-only, 4 bits), writing, and the proof on the engine. *Anonymous* memory is what the process needs;
*resident* also counts mapped pages of weight files, which the system takes back at need. float16 models compute in
float32, in onnxruntime and in what onnxq writes for it.

| {" | ".join(_COLUMNS)} |
|{" --- |" * len(_COLUMNS)}
{chr(10).join(_table(rows))}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Memory and time for large models")
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[2.5], help="sizes of the float32 models")
    parser.add_argument("--float16", type=float, nargs="*", default=[], help="sizes of the float16 models")
    parser.add_argument("--folder", type=Path, help="where the models are written (and removed)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="*", choices=(ALONE, *QUANTIZED), default=(ALONE, *QUANTIZED))
    options = parser.parse_args(arguments)
    wanted = [(size, np.float32) for size in options.gigabytes] + [(size, np.float16) for size in options.float16]
    for size, dtype in wanted:
        for rows in bench(size, dtype, options.folder, options.only):  # the next one may take an hour
            known = options.output.read_text(encoding="utf-8") if options.output.is_file() else ""
            write_section(options.output, "large", section({**rows_of(known), **rows}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
