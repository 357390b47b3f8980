"""The same model, data and options give the same bytes: in every process, with any number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxq
from onnxq.errors import ConfigError
from tests.cli.conftest import samples
from tests.graphs import model_of, normal

ROOT = Path(__file__).parents[2]


def network(seed: int = 0) -> ModelProto:
    """Branches, a residual, a gate, a group, shared weights: every table that could come in another order."""
    rng = np.random.default_rng(seed)

    def he(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    return model_of(
        """(float[N,3,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] z) {
        a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w1) s = Add(c, r)
        g = GlobalAveragePool(s) h = Conv(g, w2) k = Sigmoid(h) m = Mul(s, k) d = Conv<pads=[1,1,1,1]>(m, w1)
        e = Concat<axis=1>(d, s) y = Conv(e, w3) z = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(s) }""",
        w0=he(16, 3, 3, 3), b0=normal(16), w1=he(16, 16, 3, 3), w2=he(16, 16, 1, 1), w3=he(16, 32, 1, 1),
    )  # fmt: skip


PROGRAM = """
import hashlib, sys
import onnxq
stats = onnxq.calibrate("m.onnx", "d.npz", target=sys.argv[1], threads=int(sys.argv[2]))
stats.save(sys.argv[3] + ".stats")
result = onnxq.quantize("m.onnx", "d.npz", target=sys.argv[1], threads=int(sys.argv[2]), output=sys.argv[3] + ".onnx")
"""


@pytest.mark.parametrize("target", ["ort-x64-vnni", pytest.param("tensorrt", marks=pytest.mark.slow)])
def test_processes_hash_seeds_and_threads(tmp_path: Path, target: str) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=samples(16))
    written: set[tuple[bytes, bytes]] = set()
    for number, (seed, threads) in enumerate((("0", "1"), ("1", "2"), ("random", "4"))):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PROGRAM, target, threads, f"q{number}"]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
        written.add(tuple((tmp_path / f"q{number}{suffix}").read_bytes() for suffix in (".onnx", ".stats")))  # type: ignore[arg-type]
    assert len(written) == 1


def test_a_path_bytes_and_a_message(tmp_path: Path) -> None:
    model = network()
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=samples(8))
    feeds = [{"x": one[None]} for one in samples(8)]
    sources: list[tuple[Any, Any]] = [
        (tmp_path / "m.onnx", tmp_path / "d.npz"), (model, {"x": samples(8)}), (model.SerializeToString(), feeds),
    ]  # fmt: skip
    made = {
        onnxq.quantize(source, data, target="ort-x64-vnni").model.SerializeToString(deterministic=True)
        for source, data in sources
    }
    assert len(made) == 1


# ---- several at once -------------------------------------------------------------------------------------------------

JOBS: list[Mapping[str, Any]] = [
    {"target": "ort-x64-vnni"}, {"target": "tensorrt", "method": "entropy"}, {"target": "openvino", "method": "max"},
    {"target": "ort-x64-avx2", "exclude_ops": ["Sigmoid"]},
]  # fmt: skip


def _made(job: Mapping[str, Any], seed: int) -> bytes:
    result = onnxq.quantize(network(seed), {"x": samples(8)}, threads=1, **job)
    return bytes(result.model.SerializeToString(deterministic=True))


def test_threads_of_one_process() -> None:
    alone = [_made(job, seed) for seed, job in enumerate(JOBS)]
    assert len(set(alone)) == len(JOBS)
    with ThreadPoolExecutor(len(JOBS)) as pool:
        together = list(pool.map(_made, JOBS, range(len(JOBS))))
    assert together == alone


def test_many_of_one_output(tmp_path: Path) -> None:
    """All write one file: without `force` one wins and the others say so; with it the file is that of one of them."""
    np.savez(tmp_path / "d.npz", x=samples(8))
    output = tmp_path / "q.onnx"
    barrier = threading.Barrier(4)
    refused: list[ConfigError] = []

    def run(seed: int, *, force: bool) -> bytes:
        barrier.wait()
        try:
            result = onnxq.quantize(
                network(seed), tmp_path / "d.npz", target="ort-x64-vnni", output=output, force=force, threads=1
            )
        except ConfigError as error:
            refused.append(error)
            return b""
        return bytes(result.model.SerializeToString(deterministic=True))

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda seed: run(seed, force=False), range(4)))
    assert len(refused) == 3
    assert all("the file exists" in error.message for error in refused)
    assert output.read_bytes() in made
    refused.clear()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda seed: run(seed, force=True), range(4)))
    assert not refused
    assert output.read_bytes() in made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.npz", "q.onnx"]


def test_several_processes_in_one_folder(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=samples(8))
    command = [sys.executable, "-m", "onnxq", "quantize", "m.onnx", "--data", "d.npz", "--threads", "1", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([*command, "-o", f"q{n}.onnx", "--save-stats", f"q{n}.stats"], cwd=tmp_path, env=environment)
        for n in range(3)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert len({(tmp_path / f"q{n}.onnx").read_bytes() for n in range(3)}) == 1
    assert len({(tmp_path / f"q{n}.stats").read_bytes() for n in range(3)}) == 1
    assert len(list(tmp_path.iterdir())) == 8
