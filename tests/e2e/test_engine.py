"""`onnxq.build_engine` and `onnxq engine` with the TensorRT that is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

import onnxq
from onnxq.cli.main import cli
from onnxq.graph.model import set_metadata
from onnxq.modes.recorded_options import OPTIONS_KEY
from onnxq.verification.engines import tensorrt
from tests.cli.conftest import RUNNER
from tests.e2e.conftest import quantized
from tests.foreign import feeds, float_model, inputs_only
from tests.graphs import model_of, normal
from tests.verify_models import ModelBuilder, int8_conv

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(tensorrt.installed_package() is None, reason="TensorRT is not installed"),
]

SMALL, LARGE = (1, 16, 8, 8), (4, 16, 8, 8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(inputs_only(), tmp_path / "model.onnx")
    return tmp_path


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != "model.onnx")


def test_shapes_as_they_are_given(folder: Path) -> None:
    built = onnxq.build_engine(
        "model.onnx", "model.engine", min_shapes={"x": SMALL}, opt_shapes={"": (2, *SMALL[1:])}, max_shapes={"x": LARGE}
    )
    assert built.profile == {"x": (SMALL, (2, *SMALL[1:]), LARGE)}
    assert built.size_bytes == (folder / "model.engine").stat().st_size > 0
    assert built.engine == tensorrt.installed_package()
    assert built.notes == ()
    assert left_behind(folder) == ["model.engine"]


def test_inputs_that_follow_are_not_said_to_have_one_size(folder: Path) -> None:
    model = model_of("(float[n, 16] x, float[n, 16] z) => (float[n, 16] y) { y = Add(x, z) }")
    built = onnxq.build_engine(model, "a.engine", min_shapes={"x": (1, 16)}, max_shapes={"x": (4, 16)})
    assert built.profile["z"] == ((1, 16), (4, 16), (4, 16))
    assert built.notes == ()
    built = onnxq.build_engine(model, "b.engine", max_shapes={"x": (4, 16), "z": (4, 16)})
    assert built.notes[0].startswith(
        "The engine takes one size only, x:4x16, z:4x16: the smallest or the largest shape"
    )


def test_shapes_of_the_data(folder: Path) -> None:
    data = [{"x": normal(*SMALL)}, {"x": normal(*LARGE)}, {"x": normal(*LARGE)}]
    built = onnxq.build_engine(inputs_only(), "model.engine", data=data)
    assert built.profile == {"x": (SMALL, LARGE, LARGE)}


def test_nothing_said_about_shapes_builds_for_one_and_says_so(folder: Path) -> None:
    built = onnxq.build_engine("model.onnx", "model.engine")
    assert built.profile == {"x": (SMALL, SMALL, SMALL)}
    assert built.notes[0].startswith("The engine takes one size only, x:1x16x8x8: the model leaves it open")


@pytest.mark.parametrize(
    ("metadata", "size"),
    [
        ({"imgsz": "[24, 40]"}, (24, 40)),
        ({OPTIONS_KEY: '{"images": {"size": [40, 24]}}', "imgsz": "[24, 40]"}, (40, 24)),
        ({OPTIONS_KEY: '{"images": "yolo"}', "imgsz": "[24, 40]"}, (24, 40)),
    ],
    ids=["export", "calibration", "preset"],
)
def test_the_size_that_the_metadata_name(folder: Path, metadata: dict[str, str], size: tuple[int, int]) -> None:
    b = ModelBuilder()
    b.output(b.node("Relu", [b.input("x", ["N", 3, "H", "W"])], "y"), ["N", 3, "H", "W"])
    model = b.model()
    set_metadata(model, metadata)
    built = onnxq.build_engine(model, "sized.engine")
    assert built.profile["x"][1] == (1, 3, *size)
    assert "height and width are those that the model's metadata names" in built.notes[0]


def test_several_inputs_some_given_some_from_the_data(folder: Path) -> None:
    b = ModelBuilder()
    product = b.node("MatMul", [b.input("x", ["N", 4, "K"]), b.input("z", ["N", "K", 5])], "p")
    b.node("Add", [product, b.input("bias", [1, 1, 5])], "y")
    b.output("y", ["N", 4, 5])
    data = [{"x": normal(n, 4, 6), "z": normal(n, 6, 5), "bias": normal(1, 1, 5)} for n in (1, 2)]
    built = onnxq.build_engine(
        b.model(), "model.engine", data=data, max_shapes={"x": (2, 4, 6)}, min_shapes={"x": (1, 4, 6)}
    )
    assert built.profile == {"x": ((1, 4, 6), (2, 4, 6), (2, 4, 6)), "z": ((1, 6, 5), (2, 6, 5), (2, 6, 5))}
    with pytest.raises(onnxq.ConfigError, match="a shape needs the name of its input: there are 'x', 'z', 'bias'"):
        onnxq.build_engine(b.model(), "other.engine", opt_shapes={"": (1, 4, 6)})


def test_a_model_that_is_refused_leaves_nothing(folder: Path) -> None:
    with pytest.raises(onnxq.ModelError, match="refuses it: QuantizeLinear") as caught:
        onnxq.build_engine(int8_conv(), "model.engine", opt_shapes={"x": (1, 8, 6, 6)})
    assert "places break TensorRT's rules, first " in (caught.value.hint or "")
    assert left_behind(folder) == []


def test_fp16_is_refused_where_networks_are_strongly_typed(folder: Path) -> None:
    if tensorrt.installed_package() != "tensorrt_rtx":
        pytest.skip("TensorRT itself may take the flag")
    with pytest.raises(onnxq.ConfigError, match="takes no fp16 flag: its networks are strongly typed") as caught:
        onnxq.build_engine("model.onnx", "model.engine", fp16=True)
    assert "docs/tensorrt.md" in (caught.value.hint or "")
    assert left_behind(folder) == []


@pytest.mark.parametrize("shapes", [[1, 3, 16, 16], {"x": 3}, {"x": "1x3"}, {"x": [1.5, 3]}])
def test_shapes_are_given_by_the_name_of_their_input(folder: Path, shapes: Any) -> None:
    with pytest.raises(onnxq.ConfigError, match=r"opt_shapes is .*, expected a dict.*\nHint: pass opt_shapes="):
        onnxq.build_engine("model.onnx", "model.engine", opt_shapes=shapes)


def test_an_existing_file_stays_and_the_model_is_never_overwritten(folder: Path) -> None:
    (folder / "model.engine").write_text("mine")
    with pytest.raises(onnxq.ConfigError, match="the file exists"):
        onnxq.build_engine("model.onnx", "model.engine")
    assert (folder / "model.engine").read_text() == "mine"
    with pytest.raises(onnxq.ConfigError, match="this is the file given as model=, which is read"):
        onnxq.build_engine("model.onnx", "model.onnx", force=True)


def test_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "PACKAGES", ("no_such_tensorrt",))
    result = RUNNER.invoke(cli, ["engine", "model.onnx"])
    assert result.exit_code == 2
    assert "error: TensorRT is not installed" in result.stderr
    assert "pip install 'onnxq[tensorrt]'" in result.stderr
    assert left_behind(folder) == []


def test_tensorrt_comes_first_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(tensorrt, "no_device", lambda: "")
    assert tensorrt.installed_package() == "tensorrt"
    monkeypatch.setattr(tensorrt, "no_device", lambda: "there is no GPU here")
    assert tensorrt.installed_package() == "tensorrt_rtx"


def test_command(folder: Path) -> None:
    arguments = ["engine", "model.onnx", "--min-shape", "1x16x8x8", "--max-shape", "x:4x16x8x8", "--workspace", "64MB"]
    result = RUNNER.invoke(cli, [*arguments, "--timing-cache", "times.cache"])
    assert result.exit_code == 0, result.output
    assert "input x: 1x16x8x8 to 4x16x8x8, tuned for 4x16x8x8" in result.stdout
    assert left_behind(folder) == ["model.engine", "times.cache"]
    assert RUNNER.invoke(cli, arguments).exit_code == 2  # it exists
    result = RUNNER.invoke(cli, [*arguments, "--force", "--json"])
    document = json.loads(result.stdout)
    assert document["schema"] == "onnxq.engine/1"
    assert document["profile"] == {"x": {"min": [1, 16, 8, 8], "opt": [4, 16, 8, 8], "max": [4, 16, 8, 8]}}
    assert document["size_bytes"] == (folder / "model.engine").stat().st_size


def test_command_with_data_and_without(folder: Path) -> None:
    np.savez(folder / "data.npz", x=np.concatenate([f["x"] for f in feeds(4)]))
    result = RUNNER.invoke(cli, ["engine", "model.onnx", "--data", "data.npz", "--batch-size", "2"])
    assert result.exit_code == 0, result.output
    assert "input x: 2x16x8x8\n" in result.stdout
    result = RUNNER.invoke(cli, ["engine", "model.onnx", "-o", "one.engine"])
    assert "note: The engine takes one size only, x:1x16x8x8" in result.stderr


@pytest.mark.parametrize("shape", ["x:1x", "x:", "1x3xfour", "x:-1x3"])
def test_a_shape_that_is_none(folder: Path, shape: str) -> None:
    result = RUNNER.invoke(cli, ["engine", "model.onnx", "--opt-shape", shape])
    assert result.exit_code == 2
    assert "is not a shape such as images:1x3x224x224" in result.stderr


# ---- whose fault is it? ----------------------------------------------------------------------------------------------


def with_a_loop(model: ModelProto) -> ModelProto:
    """`model` behind an operator that TensorRT does not know."""
    first = model.graph.node[0]
    first.input[0] = "unique"
    model.graph.node.insert(0, helper.make_node("Identity", ["x_shaped"], ["unique"], name="last_of_it"))
    shape = helper.make_tensor("x_shape", TensorProto.INT64, [4], [-1, 16, 8, 8])
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("Reshape", ["chosen", "x_shape"], ["x_shaped"], name="shaped"))
    model.graph.node.insert(0, helper.make_node("Unique", ["x"], ["chosen"], name="unknown"))
    return model


def test_a_float_model_that_is_refused_in_the_same_way_is_told(folder: Path) -> None:
    feed = [{"x": np.linspace(-1, 1, 1024, dtype=np.float32).reshape(SMALL)}]
    report = onnxq.verify(with_a_loop(float_model()), with_a_loop(inputs_only()), feed, target="tensorrt")
    (failed,) = [c for c in report.failed_checks if c.name == "engine builds"]
    assert failed.detail.startswith("the float model is refused in the same way, so quantization is not to blame; ")
    assert "Unique" in failed.detail


def test_a_conv_text_model_builds_float_too(folder: Path) -> None:
    model = model_of("(float[1,4,8,8] x) => (float[1,4,6,6] y) { [c] y = Conv(x, w) }", w=normal(4, 4, 3, 3))
    assert onnxq.build_engine(model, "float.engine").profile == {}


# ---- open sizes of real models ---------------------------------------------------------------------------------------


def test_open_resolutions_of_a_text_detector(folder: Path) -> None:
    result = quantized("ppocrv4_det", "tensorrt")
    assert result.report.failed_checks == ()
    assert {"rules of TensorRT", "engine builds"} <= {c.name for c in result.report.checks}
    made = result.model
    data = [{"x": normal(1, 3, height, width)} for height, width in ((320, 480), (480, 320), (320, 480))]
    built = onnxq.build_engine(made, "det.engine", data=data)
    assert built.profile == {"x": ((1, 3, 320, 320), (1, 3, 320, 480), (1, 3, 480, 480))}


def test_open_batch_and_length_of_two_inputs(folder: Path) -> None:
    made = quantized("wordlang_transformer", "tensorrt").model
    sizes = ((1, 8), (4, 16), (4, 16))
    data = [{name: np.ones(size, np.int64) for name in ("input_ids", "attention_mask")} for size in sizes]
    built = onnxq.build_engine(made, "words.engine", data=data)
    assert built.profile == dict.fromkeys(("input_ids", "attention_mask"), ((1, 8), (4, 16), (4, 16)))
    given = {"opt_shapes": {"input_ids": (2, 12)}, "max_shapes": {"input_ids": (2, 17)}}
    built = onnxq.build_engine(made, "given.engine", **given)
    with pytest.raises(onnxq.ModelError, match="refuses it: ") as caught:  # it knows 17 positions
        onnxq.build_engine(made, "long.engine", opt_shapes={"input_ids": (2, 24)})
    assert "whether the model takes these sizes: opt_shapes=" in (caught.value.hint or "")
    assert built.profile["attention_mask"] == built.profile["input_ids"] == ((2, 12), (2, 12), (2, 17))
