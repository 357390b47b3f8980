"""Files with bytes changed, cut out, doubled or exchanged: read as what they still are, or refused with a typed error.

Nothing else: no other exception, no endless loop, no memory that grows with what the file says.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import onnxq
from onnxq.calibration.statistics.file import MAGIC
from onnxq.calibration.tensorrt_cache import load_tensorrt_cache
from onnxq.config import Keys, Kind, load_config
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import OnnxqError
from onnxq.graph.model import load_graph, model_digest
from tests.fuzzing import budget
from tests.graphs import model_of, normal

Edit = tuple[int, int, int, bytes]


def edits() -> st.SearchStrategy[list[Edit]]:
    """(kind, place in parts per million, length, bytes)."""
    return st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 10**6), st.integers(1, 40), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=4,
    )


def mutated(content: bytes, changes: list[Edit]) -> bytes:
    for kind, place, length, data in changes:
        at = place * len(content) // 10**6
        if kind == 0:  # one bit
            content = content[:at] + bytes(b ^ (1 << length % 8) for b in content[at : at + 1]) + content[at + 1 :]
        elif kind == 1:  # other bytes
            content = content[:at] + data + content[at + len(data) :]
        elif kind == 2:  # cut out
            content = content[:at] + content[at + length :]
        elif kind == 3:  # doubled
            content = content[:at] + content[at : at + length] + content[at:]
        else:  # cut off
            content = content[: max(at, 1)]
    return content


def model(*, control_flow: bool = False) -> onnx.ModelProto:
    """Convolution, normalization, clipping, a matrix product; or an If with a body."""
    if control_flow:
        return model_of(
            """(float[N,16] x, bool c) => (float[N,8] y) { m = MatMul(x, w) y = If (c) <
            then_branch = a () => (float[N,8] p) { p = Relu(m) }, else_branch = b () => (float[N,8] q) { q = Add(m, k) }
            > }""",
            w=normal(16, 8),
            k=normal(8),
        )
    ones = np.ones(4, np.float32)
    return model_of(
        """(float[N,3,4,4] x) => (float[N,2] y) { c = Conv<pads=[1,1,1,1]>(x, w) b = BatchNormalization(c, s, o, m, v)
        r = Clip(b, lo, hi) k = Constant<value_ints=[0, -1]>() f = Reshape(r, k) g = Gemm<transB=1>(f, u, z)
        y = Identity(g) }""",
        w=normal(4, 3, 3, 3), s=ones, o=0 * ones, m=0 * ones, v=ones, lo=np.float32(0), hi=np.float32(6),
        u=normal(2, 64), z=normal(2),
    )  # fmt: skip


MODELS = [model().SerializeToString(), model(control_flow=True).SerializeToString()]


@budget(80)
@given(which=st.integers(0, 1), changes=edits())
@example(which=0, changes=[(1, 37827, 1, b"\x80")])  # a string that is not UTF-8
@example(which=0, changes=[(0, 37827, 2, b"\0")])  # BatchNormalization with parameters of different lengths
def test_models(which: int, changes: list[Edit]) -> None:
    content = mutated(MODELS[which], changes)
    with contextlib.suppress(OnnxqError):
        model_digest(load_graph(content))
        for target in ("ort-x64-vnni", "tensorrt"):
            onnxq.plan(content, target=target)


@budget(8)
@given(
    which=st.integers(0, 1), changes=edits(), target=st.sampled_from(["ort-x64-vnni", "tensorrt", "openvino", "qnn"])
)
def test_quantizing_models(which: int, changes: list[Edit], target: str) -> None:
    """As far as the model goes: ranges, recovery, comparison."""
    with contextlib.suppress(OnnxqError):
        onnxq.quantize(mutated(MODELS[which], changes), target=target)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


@pytest.fixture(scope="module")
def statistics(folder: Path) -> bytes:
    small = model_of("(float[N,16] x) => (float[N,8] y) { m = MatMul(x, w) y = Relu(m) }", w=normal(16, 8))
    onnxq.calibrate(small, {"x": normal(8, 16)}).save(folder / "good.stats")
    return (folder / "good.stats").read_bytes()


@budget(80)
@given(changes=edits(), sealed=st.booleans())
def test_statistics(folder: Path, statistics: bytes, changes: list[Edit], sealed: bool) -> None:
    """Sealed: with a checksum that fits the damage, as an attacker would write."""
    start = len(MAGIC) + 4 + 32
    content = statistics[:start] + mutated(statistics[start:], changes) if sealed else mutated(statistics, changes)
    if sealed:
        content = content[: len(MAGIC) + 4] + hashlib.sha256(content[start:]).digest() + content[start:]
    (folder / "m.stats").write_bytes(content)
    with contextlib.suppress(OnnxqError):
        table = onnxq.load_stats(folder / "m.stats")
        table.merge(table)


TOML = b"""target = "tensorrt"  # a remark
data = "samples.npz"
exclude = ["/head/*", 'a\\b']
mean = [0.485, 0.456, 4.06e-1]
limit = 500
percentile = 99.9
full-histogram = true
"""
KINDS = {
    "target": Kind.TEXT, "data": Kind.PATH, "exclude": Kind.TEXTS, "mean": Kind.NUMBERS, "limit": Kind.INTEGER,
    "percentile": Kind.NUMBER, "full-histogram": Kind.SWITCH,
}  # fmt: skip


@budget(80)
@given(changes=edits())
@example(changes=[(1, 0, 1, b"a = " + b"[" * 5000)])
@example(changes=[(1, 0, 1, b"limit = " + b"9" * 5000 + b"\n#")])
def test_configuration(folder: Path, changes: list[Edit]) -> None:
    (folder / "c.toml").write_bytes(mutated(TOML, changes))
    with contextlib.suppress(OnnxqError):
        load_config(folder / "c.toml", Keys(kinds=KINDS))


CACHE = b"TRT-8601-EntropyCalibration2\nimages: 3c010a14\n/model.0/conv/Conv_output_0: 3d4c2f11\nz: 0\n"


@budget(80)
@given(changes=edits())
def test_calibration_caches(folder: Path, changes: list[Edit]) -> None:
    (folder / "t.cache").write_bytes(mutated(CACHE, changes))
    with contextlib.suppress(OnnxqError):
        assert load_tensorrt_cache(folder / "t.cache").scales


def arrays(kind: str) -> bytes:
    stream = io.BytesIO()
    data = normal(5, 3, 4, 4)
    if kind == ".npy":
        np.save(stream, np.asfortranarray(data))
    else:
        (np.savez if kind == "stored" else np.savez_compressed)(stream, x=data, labels=np.arange(5))
    return stream.getvalue()


ARRAYS = {kind: arrays(kind) for kind in (".npy", "stored", "packed")}
INPUTS = InputSpecs.from_graph(load_graph(MODELS[0]))


@pytest.mark.parametrize("kind", ARRAYS)
@budget(80)
@given(changes=edits())
def test_arrays(folder: Path, kind: str, changes: list[Edit]) -> None:
    path = folder / f"d{'.npy' if kind == '.npy' else '.npz'}"
    path.write_bytes(mutated(ARRAYS[kind], changes))
    with contextlib.suppress(OnnxqError):
        for _ in open_data(path, inputs=INPUTS):
            pass


@budget(80)
@given(changes=edits())
def test_test_vectors(folder: Path, changes: list[Edit]) -> None:
    tensor: Any = onnx.numpy_helper.from_array(normal(1, 3, 4, 4), "x")
    (folder / "set").mkdir(exist_ok=True)
    (folder / "set" / "input_0.pb").write_bytes(mutated(tensor.SerializeToString(), changes))
    with contextlib.suppress(OnnxqError):
        for _ in open_data(folder / "set", inputs=INPUTS):
            pass
