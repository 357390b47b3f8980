"""Options against the Python API: names, defaults and how values are handed over."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

import click
import pytest

import onnxq
from onnxq.calibration.methods.solve import AUTO, DEFAULT_PERCENTILE, METHOD_NAMES, METHODS
from onnxq.calibration.runner import NonFinite
from onnxq.cli import parameters
from onnxq.cli.main import cli
from onnxq.cli.options import DataOptions
from onnxq.data.images import PRESETS, ImageOptions, Resize
from onnxq.data.inputs import Layout
from onnxq.numerics import qtype_from_name
from onnxq.planning.modes import MODES, WEIGHT_TYPES
from onnxq.planning.weight_form import FORMATS, ROUNDINGS
from onnxq.targets import ORT_CPU, TARGET_NAMES
from onnxq.targets.forms import NO_ACTIVATIONS

NOTHING: dict[str, Any] = dict.fromkeys(DataOptions.__dataclass_fields__)


def option(command: str, name: str) -> click.Option:
    found = next(p for p in cli.commands[command].params if p.name == name)
    assert isinstance(found, click.Option)
    return found


def test_names_are_those_of_the_library() -> None:
    assert sorted(parameters.TARGETS) == sorted(TARGET_NAMES)
    assert sorted(parameters.MODES) == sorted(MODES)
    assert {name for names in WEIGHT_TYPES.values() for name in names} <= set(parameters.WEIGHTS)
    # What a static model may have is a matter of the target's table.
    assert parameters.NO_ACTIVATIONS == NO_ACTIVATIONS
    for name in {*parameters.WEIGHTS, *parameters.ACTIVATIONS} - {NO_ACTIVATIONS}:
        assert qtype_from_name(name).min_opset
    assert set(parameters.ROUNDINGS) == set(ROUNDINGS)
    assert set(parameters.WEIGHT_FORMATS) == set(FORMATS)
    assert sorted(parameters.METHODS) == sorted(METHODS)
    assert sorted(parameters.METHOD_NAMES) == sorted(METHOD_NAMES)
    assert sorted(parameters.IMAGE_PRESETS) == sorted(PRESETS)
    assert sorted(parameters.NONFINITE) == sorted(get_args(NonFinite))
    assert sorted(parameters.LAYOUTS) == sorted(get_args(Layout))
    assert sorted(parameters.RESIZES) == sorted(get_args(Resize))
    for color in parameters.COLORS:
        ImageOptions(color=color)  # type: ignore[arg-type]  # refuses unknown ones


def test_defaults_are_those_of_the_library() -> None:
    assert option("quantize", "target").default == ORT_CPU
    assert option("quantize", "method").default == AUTO
    assert f"[default: {DEFAULT_PERCENTILE:g}]" in str(option("quantize", "percentile").help)


def test_every_argument_of_quantize_has_an_option() -> None:
    named = {
        "exclude_ops": "exclude_op",
        "include_ops": "include_op",
        "overrides": "override",
        "providers": "ep",
        "tensorrt_cache": "calibration_cache",
        "placement": "where",
        "details": "report",
        "progress": None,
        "tune_progress": None,
        "model": None,
    }
    options = {p.name for p in cli.commands["quantize"].params}
    arguments = inspect.signature(onnxq.quantize).parameters
    assert {named.get(a, a) for a in arguments} - {None} <= options


def test_image_options() -> None:
    def images(**values: Any) -> Any:
        return DataOptions(**{**NOTHING, **values}).keywords()["images"]

    assert images() is None
    assert images(images="yolo") == "yolo", "by its name, for the model may note another size"
    assert images(mean=(0.5,), color="bgr") == ImageOptions(mean=(0.5,), color="bgr")
    changed = images(images="imagenet", image_size=(96, 64), crop_share=1.0)
    assert (changed.size, changed.crop_share) == ((96, 64), 1.0)
    assert changed.std == PRESETS["imagenet"].std


def test_data_beside_the_model_is_a_fallback(tmp_path: Path) -> None:
    (tmp_path / "m.calib.npz").touch()
    model = tmp_path / "m.onnx"
    assert DataOptions(**NOTHING).beside(model).data == tmp_path / "m.calib.npz"
    given = DataOptions(**{**NOTHING, "data": Path("d.npz")})
    assert given.beside(model) is given
    assert DataOptions(**NOTHING).beside(tmp_path / "n.onnx").data is None


@pytest.mark.parametrize(("text", "value"), [("0.5", (0.5,)), ("1,2.5,3", (1.0, 2.5, 3.0))])
def test_numbers(text: str, value: tuple[float, ...]) -> None:
    assert parameters.Numbers().convert(text, None, None) == value
    assert parameters.Numbers().convert(list(value), None, None) == value


@pytest.mark.parametrize(("text", "value"), [("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("4096", 4096)])
def test_bytes(text: str, value: int) -> None:
    assert parameters.Bytes().convert(text, None, None) == value


@pytest.mark.parametrize("text", ["0", "4 gigs", "-1GB", ""])
def test_no_bytes(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size such as 500MB or 4GB"):
        parameters.Bytes().convert(text, None, None)


def test_image_size() -> None:
    assert parameters.ImageSize().convert("48x320", None, None) == (48, 320)
    assert parameters.ImageSize().convert((48, 320), None, None) == (48, 320)
    assert parameters.ImageSize().convert("320", None, None) == (320, 320)
    assert parameters.ImageSize().convert(320, None, None) == (320, 320), "as TOML has it"
    for text in ("48x", "0x3", "axb", "0", "1x2x3", "-4", "4.5"):
        with pytest.raises(click.BadParameter, match="is not a size such as 224 or 224x320"):
            parameters.ImageSize().convert(text, None, None)


def test_a_bundle_of_recovery_among_steps() -> None:
    with pytest.raises(click.BadParameter, match="'none' stands alone: steps can be put together, not bundles of them"):
        parameters.Recover().convert("none,bias", None, None)
    assert parameters.Recover().convert("clip,bias", None, None) == ("clip", "bias")
