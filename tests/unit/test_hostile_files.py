"""Files made to harm: nothing in them is executed, and nothing is allocated because they say so."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxq
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import ArtifactError, DataError, ModelError
from onnxq.evaluation.labels import load_labels
from onnxq.graph.model import load_graph
from onnxq.graph.view import Graph
from tests.graphs import model_of, normal

resource = pytest.importorskip("resource")

SIZE = 1_000


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def inputs(*shape: Any) -> InputSpecs:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    return InputSpecs.from_graph(Graph(helper.make_model(helper.make_graph([], "g", [value], [out]))))


def npy(shape: tuple[int, ...], content: bytes, order: bool = False) -> bytes:
    """A .npy file whose header claims `shape` of float32."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": order, "shape": shape})
    return stream.getvalue() + content


def npz(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED, name: str = "x.npy") -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(name, content)
    return path


def read(path: Path, *shape: Any) -> None:
    for _ in open_data(path, inputs=inputs(*(shape or ("N", SIZE)))):
        pass


# ---- nothing is executed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_in_arrays(tmp_path: Path, suffix: str) -> None:
    trace = tmp_path / "executed"
    array = np.array([Bomb(trace)], dtype=object)
    path = tmp_path / f"d{suffix}"
    if suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    else:
        np.savez(path, x=array)
    with pytest.raises(DataError, match="it holds Python objects, which are not read from files"):
        read(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["m.onnx", "m.stats", "m.checkpoint", "m.cache", "d.npy", "d.npz", "input_0.pb"])
def test_pickles_in_place_of_anything(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "executed"
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb(trace), protocol=2))
    readers: dict[str, Any] = {
        ".onnx": onnxq.plan,
        ".stats": onnxq.load_stats,
        ".cache": lambda p: onnxq.quantize(_model(), tensorrt_cache=p, target="tensorrt"),
        ".checkpoint": lambda p: onnxq.calibrate(_model(), checkpoint=p, resume=True),
        ".npy": read,
        ".npz": read,
        ".pb": lambda p: read(p.parent),
    }
    with pytest.raises(onnxq.OnnxqError):
        readers[path.suffix](path)
    assert not trace.exists()


def _model() -> onnx.ModelProto:
    return model_of("(float[N,16] x) => (float[N,8] y) { y = MatMul(x, w) }", w=normal(16, 8))


def test_python_files_run_only_where_they_are_named(tmp_path: Path) -> None:
    """A folder of data may hold Python files; they are no data."""
    trace = tmp_path / "executed"
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "load.py").write_text(f"open({str(trace)!r}, 'w')\ndef load_data(): return []\n")
    with pytest.raises(DataError, match="the folder holds neither arrays nor images"):
        read(folder)
    np.save(folder / "x.npy", normal(2, SIZE))
    read(folder)
    assert not trace.exists()
    with pytest.raises(DataError):
        read(folder / "load.py")
    assert trace.exists()


# ---- nothing is allocated --------------------------------------------------------------------------------------------

HUNDRED_GB = (25_000_000, SIZE)


def claims(tmp_path: Path) -> dict[str, Path]:
    """Small files that claim 100 GB, each in its own way."""
    header = npy(HUNDRED_GB, b"")
    deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = deflated.compress(header + bytes(10_000_000)) + deflated.flush()
    made = {
        "header of .npy": tmp_path / "a.npy",
        "header of .npy by columns": tmp_path / "b.npy",
        "header of a member": npz(tmp_path / "c.npz", npy(HUNDRED_GB, bytes(10_000_000))),
        "stored header of a member": npz(tmp_path / "d.npz", npy(HUNDRED_GB, bytes(1000)), zipfile.ZIP_STORED),
        "header and directory": tmp_path / "e.npz",
    }
    made["header of .npy"].write_bytes(npy(HUNDRED_GB, bytes(1000)))
    made["header of .npy by columns"].write_bytes(npy(HUNDRED_GB, bytes(1000), order=True))
    made["header and directory"].write_bytes(_zip_that_claims(zeros, 100_000_000_000))
    return made


def _zip_that_claims(deflated: bytes, size: int) -> bytes:
    """A zip file with one member x.npy, whose directory says that it unpacks to `size` bytes (zip64)."""
    name = b"x.npy"
    extra = struct.pack("<HHQQ", 1, 16, size, len(deflated))
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, 0, 8, 0, 33, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra))
    body = local + name + extra + deflated
    central = struct.pack(
        "<IHHHHHHIIIHHHHHII", 0x02014B50, 45, 45, 0, 8, 0, 33, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra), 0, 0,
        0, 0, 0,
    )  # fmt: skip
    directory = central + name + extra
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(directory), len(body), 0)
    return body + directory + end


@pytest.mark.parametrize("how", range(5))
def test_claims_of_a_hundred_gigabytes(tmp_path: Path, how: int) -> None:
    path = list(claims(tmp_path).values())[how]
    assert path.stat().st_size < 10_000_000
    with _memory_limit(2_000_000_000), pytest.raises(DataError, match=r"cut short|claims 100000000000 bytes"):
        read(path)


class _memory_limit:  # noqa: N801 - reads as a function
    """Further memory that this process may take."""

    def __init__(self, more_bytes: int) -> None:
        self._more = more_bytes

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + self._more, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)


def test_an_honest_file_that_compresses_well_is_read(tmp_path: Path) -> None:
    """Zeros are packed about a thousand to one, which is no claim but the truth."""
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((20_000, SIZE), np.float32))
    assert (tmp_path / "d.npz").stat().st_size < 200_000
    read(tmp_path / "d.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_numpy_does_not_write(tmp_path: Path, method: int) -> None:
    with pytest.raises(DataError, match="array 'x' is packed in a way that numpy does not write"):
        read(npz(tmp_path / "d.npz", npy((2, SIZE), bytes(8 * SIZE)), method))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_arrays_that_are_there_twice(tmp_path: Path) -> None:
    path = npz(tmp_path / "d.npz", npy((2, SIZE), bytes(8 * SIZE)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", npy((1, SIZE), bytes(4 * SIZE)))
    with pytest.raises(DataError, match="array 'x' is there twice"):
        read(path)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 2), }",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (4, 2), }",
        "{'descr': [], 'fortran_order': False, 'shape': (4,), }",
        "{'descr': '<f4', 'fortran_order': 7, 'shape': (4,), }",
        "{'descr': 'what', 'fortran_order': False, 'shape': (4,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 4, }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807), }",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (0, 9223372036854775807), }",
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1, ' * 65}), }}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 16), }",
        "__import__('os').getcwd()",
        "(" * 3000,
        "{" * 90,
        "",
    ],
)
def test_headers(tmp_path: Path, header: str) -> None:
    text = header.encode() + b"\n"
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(64))
    with pytest.raises(DataError):
        read(tmp_path / "d.npy")
    with pytest.raises(DataError):
        load_labels(tmp_path / "d.npy", None, limit=None)


def test_test_data_that_points_to_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(bytes(4 * SIZE))
    tensor = TensorProto(name="x", data_type=1, dims=[1, SIZE], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.bin")
    (tmp_path / "input_0.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(DataError, match="not a readable tensor: its data lies in another file"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["bomb.png", "cut.png", "cut.jpg", "empty.webp", "text.tiff"])
def test_images(tmp_path: Path, name: str) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / name
    if name == "bomb.png":  # 400 million pixels in a few hundred kilobytes
        path.write_bytes(_png(20_000, 20_000))
    elif name.startswith("cut"):
        image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:-40])
    else:
        path.write_bytes(b"" if name.startswith("empty") else b"hello" * 50)
    with pytest.raises(DataError, match="not a readable image"):
        for _ in open_data(path, inputs=inputs("N", 3, 32, 32), images="imagenet"):
            pass


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width // 8 + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


# ---- models ----------------------------------------------------------------------------------------------------------


def test_bodies_in_bodies_without_end() -> None:
    """protobuf refuses more than a hundred levels; deeper code of onnxq is never reached."""

    def field(number: int, content: bytes) -> bytes:
        """A field of the wire format that holds another message."""
        length, size = len(content), b""
        while length > 127:
            size += bytes([length & 127 | 128])
            length >>= 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    node = helper.make_node("Identity", ["x"], ["y"]).SerializeToString()
    for _ in range(300):
        graph = field(1, node) + field(2, b"g")
        node = field(5, field(1, b"then_branch") + field(6, graph)) + field(4, b"If")
    data = onnx.ModelProto(ir_version=8).SerializeToString() + field(7, field(1, node))
    with pytest.raises(ModelError):
        load_graph(data)


def test_a_weight_whose_shape_claims_a_hundred_gigabytes() -> None:
    model = _model()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([16, 1_600_000_000])
    with _memory_limit(2_000_000_000), pytest.raises(onnxq.OnnxqError):
        onnxq.quantize(model, {"x": normal(4, 16)})


def test_a_constant_that_would_fill_the_memory() -> None:
    """Folding it would cost a hundred gigabytes."""
    model = model_of(
        "(float[N,16] x) => (float[N,8] y) { m = MatMul(x, w) big = ConstantOfShape(s) t = ReduceMax<keepdims=0>(big) "
        "y = Add(m, t) }",
        w=normal(16, 8),
        s=np.array([25_000, 1_000_000], np.int64),
    )
    with _memory_limit(4_000_000_000):
        assert onnxq.plan(model).nodes


def test_larger_than_protobuf_can_hold(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # holes take no room on the disk
    with pytest.raises(ModelError, match=r"the file has 2\.1 GB, and protobuf reads at most 2 GiB") as caught:
        load_graph(path)
    assert "external data" in (caught.value.hint or "")


def test_statistics_that_claim_more_than_there_is(tmp_path: Path) -> None:
    """Counts, lengths and names in the header are believed only as far as the file reaches."""
    onnxq.calibrate(_model(), {"x": normal(4, 16)}).save(tmp_path / "m.stats")
    content = (tmp_path / "m.stats").read_bytes()
    (tmp_path / "m.stats").write_bytes(content[:48] + b"\xff\xff\xff\x7f" + content[52:])
    with pytest.raises(ArtifactError, match="damaged"):
        onnxq.load_stats(tmp_path / "m.stats")


def test_values_of_tensors_that_do_not_match_their_shape() -> None:
    model = _model()
    model.graph.initializer[0].raw_data = b"\0" * 10
    with pytest.raises(ModelError):
        onnxq.quantize(model, {"x": normal(4, 16)})
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(normal(16, 8), "w"))
    onnxq.quantize(model, {"x": normal(4, 16)})


def test_no_network_and_no_other_programs(tmp_path: Path) -> None:
    """A whole run under an audit hook that refuses sockets, processes and files outside of its folders."""
    onnx.save(_model(), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=normal(8, 16))
    program = """
import sys, os, tempfile
allowed = (os.getcwd(), tempfile.gettempdir())
refused = ("socket.", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "urllib.")
def hook(event, arguments):
    if event.startswith(refused):
        print("refused:", event, arguments, file=sys.stderr)
        os._exit(99)
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.startswith(allowed):
            print("refused:", event, arguments, file=sys.stderr)
            os._exit(98)
sys.addaudithook(hook)
import onnxq
onnxq.quantize("m.onnx", "d.npz", target="ort-x64-vnni", output="q.onnx").report.to_html()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "q.onnx").exists()
