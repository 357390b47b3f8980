"""Models with operators from a library: onnxruntime-extensions, whose NegPos parts a tensor into its two signs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, save_model

import onnxq
from onnxq.errors import ConfigError, ModelError

extensions = pytest.importorskip("onnxruntime_extensions", reason="tests/requirements-models.txt is not installed")
SHAPE = (32, 16, 16)


def model() -> ModelProto:
    """Conv, NegPos, Conv of 32 channels: nothing in onnx tells what lies between them."""
    rng = np.random.default_rng(0)
    size = SHAPE[0]
    weights = [rng.normal(size=(size, size, 3, 3)).astype(np.float32) / 17 for _ in range(2)]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", pads=[1] * 4),
        helper.make_node("NegPos", ["a"], ["below", "above"], name="parted", domain="ai.onnx.contrib"),
        helper.make_node("Conv", ["above", "w1"], ["y"], name="second", pads=[1] * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "signs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *SHAPE])],
        [numpy_helper.from_array(values, f"w{i}") for i, values in enumerate(weights)],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.contrib", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and 24 samples beside it."""
    path = tmp_path_factory.mktemp("custom")
    save_model(model(), path / "signs.onnx")
    x = np.random.default_rng(1).normal(size=(24, *SHAPE)).astype(np.float32)
    np.savez(path / "signs.calib.npz", x=x)
    return path


def onnxq_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Libraries stay loaded for the life of a process.
    return subprocess.run([sys.executable, "-m", "onnxq", *arguments], capture_output=True, text=True, check=False)


def test_an_unknown_operator_names_the_way_out(folder: Path) -> None:
    done = onnxq_command("quantize", str(folder / "signs.onnx"), "-o", str(folder / "never.onnx"))
    assert done.returncode == ModelError.exit_code
    assert "NegPos" in done.stderr
    assert "--custom-ops LIB" in done.stderr
    assert not (folder / "never.onnx").exists()


def test_what_lies_behind_such_an_operator_runs_in_int8(folder: Path) -> None:
    library = extensions.get_library_path()
    made = folder / "signs.int8.onnx"
    done = onnxq_command(
        "quantize", str(folder / "signs.onnx"), "-o", str(made), "--custom-ops", library, "--placement", "full",
        "--min-int8", "60%", "--min-sqnr", "25",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert onnxq_command("verify", str(folder / "signs.onnx"), str(made), "--custom-ops", library).returncode == 0


def test_the_configuration_file_may_name_the_library(folder: Path) -> None:
    config = folder / "onnxq.toml"
    config.write_text(f'custom-ops = ["{extensions.get_library_path()}"]\n', encoding="utf-8")
    done = onnxq_command("plan", str(folder / "signs.onnx"), "--config", str(config), "--placement", "full")
    assert done.returncode == 0, done.stderr
    assert "2 int8" in done.stdout


@pytest.mark.parametrize("content", [None, b"no library"])
def test_what_is_no_library(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "lib.so"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"(?s)no such file.*--custom-ops LIB" if content is None else "cannot load"):
        onnxq.register_custom_ops(path)
