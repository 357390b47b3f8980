"""Previews of data: figures, doubts, thumbnails, and how sure a classifier is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxq
from onnxq.data.images import ImageOptions
from onnxq.errors import ConfigError, DataError
from onnxq.graph.view import Graph
from onnxq.previews.doubts import scales_pixels
from onnxq.previews.thumbnails import thumbnail
from tests.cli.conftest import tiny_model
from tests.graphs import model_of

RNG = np.random.default_rng(0)
DIGITS = Path(__file__).parents[2] / "models" / "digits_resnet.onnx"


def images(low, high, count=6):
    return RNG.uniform(low, high, (count, 3, 8, 8)).astype(np.float32)


def test_figures_are_those_of_the_data():
    x = images(-1, 2)
    x[:, 0] = np.where(x[:, 0] < 0, 0, x[:, 0])
    found = onnxq.preview(tiny_model(), {"x": x}, batch_size=4)
    (view,) = found.inputs
    assert (found.samples, found.batches) == (6, 2)
    assert (view.name, view.dtype, view.expected, view.shapes) == (
        "x",
        "float32",
        "(n, 3, 8, 8)",
        ((4, 3, 8, 8), (2, 3, 8, 8)),
    )
    assert (view.low, view.high) == (float(x.min()), float(x.max()))
    # Sums of 1152 float64: rounding is below 1e-12 of values near 1.
    assert view.mean == pytest.approx(float(x.astype(np.float64).mean()), abs=1e-9)
    assert view.std == pytest.approx(float(x.astype(np.float64).std()), abs=1e-9)
    assert view.zeros == pytest.approx((x == 0).mean())
    assert [c.mean for c in view.channels] == pytest.approx(x.astype(np.float64).mean((0, 2, 3)).tolist(), abs=1e-9)
    (output,) = found.outputs
    assert (output.name, output.shape) == ("y", (4, 16, 1, 1))
    assert found.warnings == ()


def test_raw_pixels_and_channels_without_content_are_told():
    x = images(0, 255)
    x[:, 2] = 7
    found = onnxq.preview(tiny_model(), {"x": x})
    assert "like raw pixels, and the model does not scale them" in found.warnings[0]
    assert found.warnings[1] == "channel 2 of input 'x' is 7 everywhere: check the files, and layout= (--layout)"
    found = onnxq.preview(tiny_model(), {"x": images(-3e4, 3e4)})
    assert "is it meant to?" in found.warnings[0]


def test_quantize_tells_of_raw_pixels_too():
    raw, right = ({"x": images(low, high)} for low, high in ((0, 255), (-1, 1)))
    warned, quiet = (onnxq.quantize(tiny_model(), data, recover="none").report.warnings for data in (raw, right))
    assert any("like raw pixels" in text for text in warned)
    assert not any("pixels" in text for text in quiet)


def scaling_model(op, value, *, as_node=False):
    model, by = tiny_model(), numpy_helper.from_array(np.float32([value]), "by")
    model.graph.node[0].input[0] = "scaled"
    model.graph.node.insert(0, helper.make_node(op, ["x", "by"], ["scaled"]))
    if as_node:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["by"], value=by))
    else:
        model.graph.initializer.append(by)
    return model


@pytest.mark.parametrize("as_node", [False, True])
@pytest.mark.parametrize(
    ("op", "value", "scales"),
    [("Sub", 127.5, True), ("Div", 255, True), ("Mul", 1 / 255, True), ("Sub", 0.5, False), ("Mul", 2, False)],
)
def test_models_that_scale_pixels_themselves_are_known(op, value, scales, as_node):
    model = scaling_model(op, value, as_node=as_node)
    assert scales_pixels(Graph(model), "x") is scales
    raw, small = (onnxq.preview(model, {"x": images(0, high)}).warnings for high in (255, 1))
    assert any("like raw pixels" in text for text in raw) is not scales
    assert any("the model scales pixels from 0 to 255 itself" in text for text in small) is scales


def test_outputs_that_are_always_the_same_are_told():
    found = onnxq.preview(tiny_model(), {"x": 1000 + images(0, 0.001)})
    assert any("output 'y' of the float model is the same, within 0.1 %" in text for text in found.warnings)


def test_data_that_does_not_fit_is_an_error():
    with pytest.raises(DataError, match=r"input 'x' has shape \(6, 8, 8, 3\).*\n.*layout='nhwc'"):
        onnxq.preview(tiny_model(), {"x": images(0, 1).transpose(0, 2, 3, 1)})
    with pytest.raises(ConfigError, match="there is no data to look at"):
        onnxq.preview(tiny_model(), None)


@pytest.mark.parametrize("lengths", [(0, 3, 5), (3, 0)])
def test_an_empty_cache_is_data_like_any_other(lengths):
    """Four heads look like the channels of a picture, of which there is none where nothing is cached yet."""
    given = model_of("(float[N,4,p,16] past) => (float[N,4,q,16] y) { y = Concat<axis=2>(past, past) }")
    found = onnxq.preview(given, [{"past": RNG.normal(size=(1, 4, n, 16)).astype(np.float32)} for n in lengths])
    (view,) = found.inputs
    assert view.shapes == tuple((1, 4, n, 16) for n in lengths)


def test_a_hundred_samples_are_looked_at_unless_told_otherwise():
    found = onnxq.preview(tiny_model(), {"x": images(0, 1, 150)})
    assert found.samples == 100
    assert found.notes[-1] == "the first 100 samples were looked at; limit= (--limit) looks at more"
    assert onnxq.preview(tiny_model(), {"x": images(0, 1, 150)}, limit=120).samples == 120


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_thumbnails_are_pictures(layout):
    pillow = pytest.importorskip("PIL.Image")
    pixels = RNG.integers(0, 256, (5, 7, 3)).astype(np.float32)
    pixels.flat[:2] = 0, 255
    sample = pixels / 255 - 0.5
    png = thumbnail(sample if layout == "nhwc" else sample.transpose(2, 0, 1), layout)
    np.testing.assert_array_equal(np.asarray(pillow.open(io.BytesIO(png))), pixels.astype(np.uint8))
    wide = thumbnail(np.zeros((1, 500, 1000), np.float32), "nchw")
    assert pillow.open(io.BytesIO(wide)).size == (143, 72)


# Of the order red, green, blue: read the other way round, a colour is near to none of the others.
COLORS = np.array([(r, g, b) for r in (153, 204, 255) for g in (77, 128) for b in (0, 51)], np.float32)


def classifier(as_probabilities=False):
    """Twelve colours told apart where pixels are RGB in 0..1: logits are minus the squared distances to them."""
    centres, sharp = COLORS / 255, 60
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["z" if as_probabilities else "y"], transB=1),
    ]
    if as_probabilities:
        nodes.append(helper.make_node("Softmax", ["z"], ["y"], axis=1))
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["n", 3, 8, 8]), ("y", ["n", 12]))
    ]
    weights = {"w": 2 * sharp * centres, "b": -sharp * (centres**2).sum(axis=1)}
    held = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("as_probabilities", [False, True])
def test_the_right_preparation_tells_pictures_apart_best(tmp_path, as_probabilities):
    """A scale 255 times too large makes the model certain of one class for every picture: that must not look good."""
    pillow = pytest.importorskip("PIL.Image")
    for i, color in enumerate(COLORS.astype(int)):
        pillow.new("RGB", (9, 9), tuple(map(int, color))).save(tmp_path / f"{i:02}.png")
    model = classifier(as_probabilities)
    found = onnxq.preview(model, tmp_path, images=ImageOptions(mean=(0,), std=(1 / 255,), color="rgb"))
    best = found.preparations[0]
    assert (best.name, best.color) == ("0..1", "rgb")
    separations = [p.separation for p in found.preparations]
    assert separations == sorted(separations, reverse=True)
    (given,) = [p for p in found.preparations if p.given]
    assert given.certainty > best.certainty
    assert given.separation < best.separation - 0.1
    assert "tells the same pictures apart better" in found.warnings[-1]
    assert "--mean 0 --std 1 --color rgb" in found.warnings[-1]
    assert any("grows with the scale of the input" in note for note in found.notes)
    assert len(found.pictures) == 12
    as_best = ImageOptions(mean=best.mean, std=best.std, color=best.color)
    assert not any("apart better" in text for text in onnxq.preview(model, tmp_path, images=as_best).warnings)


@pytest.mark.parametrize(
    ("op", "why"),
    [
        ("Flatten", "with 5 classes too little is left to tell apart"),
        ("Identity", "its output of shape (1, 5, 8, 8) is not one of classes"),
    ],
)
def test_preparations_that_are_not_tried_are_said(tmp_path, op, why):
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("RGB", (9, 9), (10, 20, 30)).save(tmp_path / "a.png")
    pooled = op == "Flatten"
    text = f"{{ c = Conv(x, w) p = {'GlobalAveragePool' if pooled else 'Relu'}(c) y = {op}(p) }}"
    shape = "float[N,5] y" if pooled else "float[N,5,8,8] y"
    model = model_of(f"(float[N,3,8,8] x) => ({shape}) {text}", w=RNG.standard_normal((5, 3, 1, 1)).astype(np.float32))
    found = onnxq.preview(model, tmp_path, images="imagenet")
    assert found.preparations == ()
    assert [note for note in found.notes if "preparations" in note] == [
        f"other preparations were not tried: {why}; they are compared for classifiers of 10 classes or more. Labels "
        "tell which is right: onnxq evaluate"
    ]
    arrays = onnxq.preview(model, {"x": images(0, 1)})
    assert not any("preparations" in note for note in arrays.notes)


def test_the_page_and_the_document(tmp_path):
    x = images(0, 1)
    model = tiny_model()
    found = onnxq.preview(model, {"x": x})
    page = found.to_html()
    assert page.count("data:image/png;base64,") == 6
    assert page.count("://") == page.count("http://www.w3.org/2000/svg")
    document = json.loads(found.to_json())
    assert document["schema"] == "onnxq.data/1"
    assert document["inputs"][0]["shapes"] == [[1, 3, 8, 8]]
    onnx.save(model, str(tmp_path / "m.onnx"))
