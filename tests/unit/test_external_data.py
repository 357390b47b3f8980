"""Weights beside the model: what is read, what is refused before any work, and what a digest counts."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxq
from onnxq.errors import ModelError
from onnxq.graph import external_data
from onnxq.graph.external_data import is_external
from onnxq.graph.model import load_graph, model_digest, size_bytes
from onnxq.graph.scratch_weights import ScratchWeights
from tests.graphs import model_of, normal
from tests.versions import RUNTIME

WEIGHTS = normal(300, 40)


def float_model() -> ModelProto:
    return model_of("(float[N,300] x) => (float[N,40] y) { t = MatMul(x, w) y = Relu(t) }", w=WEIGHTS)


def external(folder: Path, model: ModelProto | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "m.onnx"
    onnx.save(model or float_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def changed(path: Path, **entries: str | None) -> Path:
    """The model with other entries of external data; None removes one."""
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    kept: dict[str, str | None] = {e.key: e.value for e in tensor.external_data}
    kept.update(entries)
    del tensor.external_data[:]
    for key, value in kept.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def test_values(tmp_path: Path) -> None:
    np.testing.assert_array_equal(load_graph(external(tmp_path)).constant("w"), WEIGHTS)


def test_loading_reads_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path)
    monkeypatch.delattr(external_data.ExternalData, "chunks")
    load_graph(path)


@pytest.mark.parametrize("entries", [{"offset": None}, {"length": None}, {"checksum": "0" * 40}])
def test_entries_that_may_be_left_out(tmp_path: Path, entries: dict[str, str | None]) -> None:
    np.testing.assert_array_equal(load_graph(changed(external(tmp_path), **entries)).constant("w"), WEIGHTS)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "absent.bin"}, r"absent.bin': No such file or directory"),
        ({"location": "."}, r"is not a regular file"),
        ({"offset": "4"}, r"weights.bin' has 47996 bytes for it, expected 48000"),
        ({"offset": "999999999999"}, r"has 0 bytes for it, expected 48000"),
        ({"offset": "-4"}, r"its offset is '-4'"),
        ({"offset": "9" * 5000}, r"its offset is '99999"),
        ({"length": "12"}, r"12 bytes are named, its shape \(300, 40\) needs 48000"),
        ({"length": "many"}, r"its length is 'many'"),
    ],
)
def test_data_that_is_not_there(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=rf"tensor 'w': its external data cannot be read: .*{message}") as caught:
        load_graph(changed(external(tmp_path), **entries))
    assert "in one folder" in (caught.value.hint or "")


def test_a_shape_that_claims_a_hundred_gigabytes(tmp_path: Path) -> None:
    path = external(tmp_path)
    model = onnx.load(path, load_external_data=False)
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([300, 10**8])
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"48000 bytes are named, its shape \(300, 100000000\) needs 120000000000"):
        load_graph(path)
    with pytest.raises(ModelError, match=r"has 48000 bytes for it, expected 120000000000"):
        load_graph(changed(path, length=None))


@pytest.mark.parametrize("command", [onnxq.plan, onnxq.quantize, onnxq.calibrate], ids=lambda f: f.__name__)
def test_every_command_notices_at_once(tmp_path: Path, command: Any) -> None:
    path = external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"tensor 'w': its external data cannot be read: .*weights.bin': No such"):
        command(path)


# ---- nothing outside the folder --------------------------------------------------------------------------------------


def _secret(tmp_path: Path) -> Path:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(WEIGHTS.tobytes())
    return secret


OUTSIDE = "is not a path inside the model's folder"


@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "ABSOLUTE", "", "a\0b"])
def test_locations_that_lead_out(tmp_path: Path, location: str) -> None:
    secret = _secret(tmp_path)
    path = changed(external(tmp_path / "model"), location=location.replace("ABSOLUTE", str(secret)))
    with pytest.raises(ModelError, match=OUTSIDE):
        load_graph(path)


@pytest.mark.parametrize("link", ["file", "folder"])
def test_links_that_lead_out(tmp_path: Path, link: str) -> None:
    secret = _secret(tmp_path)
    path = external(tmp_path / "model")
    if link == "file":
        (tmp_path / "model" / "weights.bin").unlink()
        (tmp_path / "model" / "weights.bin").symlink_to(secret)
    else:
        (tmp_path / "model" / "sub").symlink_to(tmp_path)
        changed(path, location="sub/secret.bin")
    with pytest.raises(ModelError, match=OUTSIDE) as caught:
        load_graph(path)
    assert "copy the files into one folder" in (caught.value.hint or "")
    # The runtime has the same rule now, so that nothing is refused that would run.
    if RUNTIME < (1, 24):
        return
    with pytest.raises(Exception, match="escapes"):
        onnxruntime.InferenceSession(str(path))


def test_links_that_stay_inside(tmp_path: Path) -> None:
    path = external(tmp_path / "model")
    (tmp_path / "model" / "blobs").mkdir()
    os.replace(tmp_path / "model" / "weights.bin", tmp_path / "model" / "blobs" / "1")  # noqa: PTH105
    (tmp_path / "model" / "weights.bin").symlink_to(Path("blobs/1"))
    np.testing.assert_array_equal(load_graph(path).constant("w"), WEIGHTS)
    # Also where the folder itself is reached over a link.
    (tmp_path / "link").symlink_to(tmp_path / "model")
    np.testing.assert_array_equal(load_graph(tmp_path / "link" / "m.onnx").constant("w"), WEIGHTS)


@pytest.mark.parametrize("place", ["constant", "body", "sparse"])
def test_every_tensor_of_a_model_is_looked_at(tmp_path: Path, place: str) -> None:
    bad = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    bad.external_data.add(key="location", value="../secret.bin")
    model = model_of("(float[N,300] x, bool c) => (float[N,300] y) { y = Abs(x) }")
    constant = helper.make_node("Constant", [], ["k"], value=bad)
    if place == "constant":
        model.graph.node.append(constant)
    elif place == "body":
        branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("k", TensorProto.FLOAT, [1])])
        model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    else:
        indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(bad, indices, [4]))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=OUTSIDE):
        load_graph(tmp_path / "m.onnx")


def test_a_message_has_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path)
    monkeypatch.chdir(tmp_path)  # where the file would be found by accident
    with pytest.raises(ModelError, match=OUTSIDE):
        onnxq.quantize(onnx.load(path, load_external_data=False))


# ---- the digest ------------------------------------------------------------------------------------------------------


def test_the_digest_counts_the_bytes(tmp_path: Path) -> None:
    path = external(tmp_path)
    first = model_digest(load_graph(path))
    with (tmp_path / "weights.bin").open("r+b") as file:
        file.seek(40_000)
        file.write(b"\1")
    assert model_digest(load_graph(path)) != first


def test_the_digest_does_not_depend_on_where_the_bytes_are(tmp_path: Path) -> None:
    path = external(tmp_path)
    inside = model_digest(float_model())
    assert model_digest(load_graph(path)) == inside
    shutil.copy(tmp_path / "weights.bin", tmp_path / "other.bin")
    assert model_digest(load_graph(changed(path, location="other.bin"))) == inside


def test_the_digest_counts_constants_of_nodes(tmp_path: Path) -> None:
    value = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="k.bin")
    model = model_of("(float[N,2] x) => (float[N,2] y) { y = Add(x, k) }")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=value))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    digests = set()
    for content in ([1, 2], [1, 3]):
        (tmp_path / "k.bin").write_bytes(np.array(content, np.float32).tobytes())
        digests.add(model_digest(load_graph(tmp_path / "m.onnx")))
    assert len(digests) == 2


def test_statistics_of_other_weights_are_refused(tmp_path: Path) -> None:
    path = external(tmp_path)
    data = [{"x": normal(1, 300, seed=n)} for n in range(4)]
    stats = onnxq.calibrate(path, data)
    (tmp_path / "weights.bin").write_bytes((2 * WEIGHTS).tobytes())
    with pytest.raises(onnxq.ArtifactError, match="the statistics were collected on another model"):
        onnxq.quantize(path, data, stats=stats)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    graph = load_graph(external(tmp_path))
    found = external_data.locate(graph.initializers["w"], tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"short")
    with pytest.raises(ModelError, match=r"weights\.bin' ends 47995 bytes too early"):
        list(found.chunks())
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"weights\.bin': No such file"):
        list(found.chunks())


def test_sizes(tmp_path: Path) -> None:
    path = external(tmp_path)
    graph = load_graph(path)
    both = path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert size_bytes(path, graph) == both
    assert size_bytes(path.read_bytes(), graph) == both
    assert size_bytes(float_model(), load_graph(float_model())) == len(float_model().SerializeToString())


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is told by Linux alone")
def test_what_lies_in_a_temporary_file_is_not_in_memory() -> None:
    """A message that once held data keeps the memory for it, so it is another one that refers to the file."""

    def anonymous_bytes() -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    scratch, before = ScratchWeights(), anonymous_bytes()
    kept = [scratch.stored(numpy_helper.from_array(np.ones((1024, 1024), np.float32), f"w{n}")) for n in range(24)]
    assert anonymous_bytes() - before < 48 * 2**20, "96 MB were stored"
    assert all(is_external(tensor) for tensor in kept)
