"""Data sources: each kind opens, is counted, can be read twice where that is possible, and fails with a way out."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.data.images import PRESETS, ImageOptions
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import ConfigError, DataError
from onnxq.graph.view import Graph
from tests.graphs import graph_of

RNG = np.random.default_rng(0)


def specs(**inputs):
    values = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    return InputSpecs.from_graph(Graph(helper.make_model(helper.make_graph([], "g", values, [out]))))


ONE = specs(x=(TensorProto.FLOAT, ["N", 3]))
TWO = specs(a=(TensorProto.FLOAT, ["N", 3]), b=(TensorProto.INT64, ["N"]))
X = RNG.random((5, 3), dtype=np.float32)


def joined(batches, name="x"):
    """All samples, read twice to show that the source can be read again."""
    first, second = (np.concatenate([feed[name] for feed in batches]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    return first


# ---- arrays in files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path, save, order):
    save(tmp_path / "d.npz", a=np.asarray(X, order=order), b=np.arange(5))
    batches = open_data(tmp_path / "d.npz", inputs=TWO, batch_size=2)
    assert batches.expected_samples == 5
    np.testing.assert_array_equal(joined(batches, "a"), X)
    np.testing.assert_array_equal(joined(batches, "b"), np.arange(5))
    assert [b.label for b in batches.stream()] == [f"calibration batch {i} (d.npz)" for i in (1, 2, 3)]


def test_npy_and_a_lone_array_of_any_name_feed_a_lone_input(tmp_path):
    np.save(tmp_path / "d.npy", X)
    np.savez(tmp_path / "e.npz", arr_0=X)
    for name in ("d.npy", "e.npz"):
        np.testing.assert_array_equal(joined(open_data(str(tmp_path / name), inputs=ONE)), X)
    np.testing.assert_array_equal(joined(open_data(X, inputs=ONE)), X)
    np.testing.assert_array_equal(joined(open_data({"x": X}, inputs=ONE)), X)


def test_scalars_in_files(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, sr=np.int64(16000))
    inputs = specs(x=(TensorProto.FLOAT, ["N", 3]), sr=(TensorProto.INT64, []))
    assert [int(feed["sr"]) for feed in open_data(tmp_path / "d.npz", inputs=inputs)] == [16000] * 5


def test_folder_of_arrays_is_read_in_sorted_order(tmp_path):
    np.save(tmp_path / "2.npy", X[3:])
    np.savez(tmp_path / "1.npz", x=X[:3])
    batches = open_data(tmp_path, inputs=ONE)
    assert batches.expected_samples == 5
    np.testing.assert_array_equal(joined(batches), X)


def test_labels_are_skipped_and_said_other_extras_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, labels=np.arange(5))
    batches = open_data(tmp_path / "d.npz", inputs=ONE)
    np.testing.assert_array_equal(joined(batches), X)
    assert batches.notes == ("the array 'labels' was skipped: it is not an input of the model",)
    used = open_data(tmp_path / "d.npz", inputs=ONE, skip=("labels",))
    np.testing.assert_array_equal(joined(used), X)
    assert used.notes == ()  # whoever names them makes use of them
    np.savez(tmp_path / "d.npz", x=X, names=np.arange(5))
    with pytest.raises(DataError, match=r"^calibration batch 1 \(d.npz\): 'names' is not an input of the model\nHint"):
        list(open_data(tmp_path / "d.npz", inputs=ONE))


def test_one_array_for_two_inputs_is_refused(tmp_path):
    np.save(tmp_path / "d.npy", X)
    with pytest.raises(DataError) as caught:
        list(open_data(tmp_path / "d.npy", inputs=TWO))
    assert str(caught.value) == (
        "a single array cannot feed the model's 2 inputs\nHint: use a .npz file with the arrays 'a', 'b'."
    )


def test_files_that_are_not_arrays_are_refused(tmp_path):
    (tmp_path / "d.npz").write_bytes(b"not a zip")
    with pytest.raises(
        DataError, match=r"d.npz: not a readable .npz file: File is not a zip file\nHint: write it again"
    ):
        open_data(tmp_path / "d.npz", inputs=ONE)
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object))
    with pytest.raises(
        DataError, match=r"o.npy: it holds Python objects, which are not read from files\nHint: save plain"
    ):
        open_data(tmp_path / "o.npy", inputs=ONE)


def test_damaged_files_are_refused(tmp_path):
    np.save(tmp_path / "d.npy", X)
    whole = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"d.npy: the file is cut short: 5 bytes are missing$"):
        list(open_data(tmp_path / "d.npy", inputs=ONE))
    path = tmp_path / "c.npz"
    np.savez(path, x=np.zeros((40_000, 3), np.float32))  # larger than what is read together with the header
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"c.npz, array 'x': the file is damaged: Bad CRC-32"):
        list(open_data(path, inputs=ONE))


# ---- paths -----------------------------------------------------------------------------------------------------------


def test_paths_of_no_use_are_refused(tmp_path):
    kinds = "data= (--data) takes a .npz or .npy file, a folder of them"
    with pytest.raises(DataError, match=r"^the path of the data is empty\nHint: check the path in data= \(--data\)\.$"):
        open_data("", inputs=ONE)
    with pytest.raises(DataError, match=r"none: no such file or folder\nHint: check the path in data= \(--data\)\.$"):
        open_data(tmp_path / "none", inputs=ONE)
    with pytest.raises(DataError, match=r"/null: this is neither a file nor a folder\nHint: check the path"):
        open_data("/dev/null", inputs=ONE)
    for text, reason in (("a" * 300, "too long|no such file"), ("a\0b", "null byte|no such file")):
        with pytest.raises(DataError, match=reason):
            open_data(text, inputs=ONE)
    (tmp_path / "d.dat").write_text("1,2")
    with pytest.raises(DataError) as caught:
        open_data(tmp_path / "d.dat", inputs=ONE)
    assert "d.dat: .dat is no known kind of data" in str(caught.value)
    assert kinds in str(caught.value)
    with pytest.raises(DataError) as caught:
        open_data(tmp_path, inputs=ONE)
    assert ": no calibration data: the folder holds neither arrays nor images\nHint: " + kinds in str(caught.value)
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"the folder holds both arrays \(a.npy\) and images \(b.png\)\nHint: pass a folder"
    ):
        open_data(tmp_path, inputs=ONE)


def test_objects_of_no_use_are_refused():
    with pytest.raises(DataError, match=r"^data of type int is of no known kind\nHint: pass data= \(--data\) a .npz"):
        open_data(7, inputs=ONE)
    with pytest.raises(DataError) as caught:
        list(open_data([X], inputs=TWO))
    assert str(caught.value) == (
        "item 1 of the data is of type ndarray\nHint: yield a dict {input name: array} for each batch."
    )


# ---- iterables -------------------------------------------------------------------------------------------------------


def test_functions_and_lists_can_be_read_again():
    feeds = [{"x": X[:2]}, {"x": X[2:]}]
    np.testing.assert_array_equal(joined(open_data(feeds, inputs=ONE)), X)
    np.testing.assert_array_equal(joined(open_data(lambda: iter(feeds), inputs=ONE)), X)


class Reader:
    """As onnxruntime's CalibrationDataReader."""

    def __init__(self):
        self.left = iter([{"x": X[:2]}, {"x": X[2:]}])

    def get_next(self):
        return next(self.left, None)


class RewindingReader(Reader):
    def rewind(self):
        self.__init__()


def test_calibration_data_reader():
    batches = open_data(Reader(), inputs=ONE)
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in batches]), X)
    with pytest.raises(DataError, match="it can be read only once, and it has been"):
        list(batches)
    np.testing.assert_array_equal(joined(open_data(RewindingReader(), inputs=ONE)), X)


def test_python_file(tmp_path):
    path = tmp_path / "loader.py"
    path.write_text(
        "import numpy as np\ndef load_data():\n    for i in range(3):\n        yield {'x': np.ones((2, 3)) * i}\n"
    )
    assert joined(open_data(path, inputs=ONE))[:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    path.write_text("def load_data():\n    yield {}[1]\n")
    with pytest.raises(DataError, match=r"loader.py: load_data\(\) failed: KeyError: 1$"):
        list(open_data(path, inputs=ONE))
    path.write_text("load_data = 3\n")
    with pytest.raises(DataError, match=r"loader.py: the file defines no load_data\(\)\nHint: define load_data\(\) so"):
        list(open_data(path, inputs=ONE))


# ---- ONNX test data --------------------------------------------------------------------------------------------------


def test_onnx_test_data(tmp_path):
    for i in range(2):
        folder = tmp_path / f"test_data_set_{i}"
        folder.mkdir()
        # One file is found by its position, the other by the name inside.
        (folder / "input_0.pb").write_bytes(numpy_helper.from_array(X[i : i + 1]).SerializeToString())
        (folder / "input_1.pb").write_bytes(numpy_helper.from_array(np.array([i]), "b").SerializeToString())
    batches = open_data(tmp_path, inputs=TWO)
    np.testing.assert_array_equal(joined(batches, "a"), X[:2])
    np.testing.assert_array_equal(joined(batches, "b"), [0, 1])
    assert [b.label for b in batches.stream()][1] == "calibration batch 2 (test_data_set_1)"
    np.testing.assert_array_equal(joined(open_data(tmp_path / "test_data_set_1", inputs=TWO), "a"), X[1:2])
    (folder / "input_0.pb").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match=r"input_0.pb: not a readable tensor: "):
        list(open_data(tmp_path, inputs=TWO))


# ---- images ----------------------------------------------------------------------------------------------------------

IMAGES = specs(x=(TensorProto.FLOAT, ["N", 3, 4, 6]))


@pytest.fixture
def pictures(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    for i in range(4):
        folder = tmp_path / f"class{i // 2}"
        folder.mkdir(exist_ok=True)
        pixels = np.full((8, 12, 3), (10 * i, 100, 200), np.uint8)
        pillow.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path


def test_images_need_options(pictures):
    with pytest.raises(DataError) as caught:
        open_data(pictures, inputs=IMAGES)
    assert str(caught.value) == (
        f"{pictures}: a folder of images needs to be told how pixels become the numbers of input 'x'\n"
        "Hint: pass images='imagenet', 'yolo' or 'paddleocr', or images=ImageOptions(mean=..., std=...) "
        "(--images imagenet, or --mean and --std)."
    )
    with pytest.raises(ConfigError, match=r"^unknown image preset 'foo'\nHint: images= \(--images\) is one of '"):
        open_data(pictures, inputs=IMAGES, images="foo")


def test_images_are_normalised(pictures):
    options = ImageOptions(mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.5))
    x = joined(open_data(pictures, inputs=IMAGES, images=options, batch_size=3))
    assert x.shape == (4, 3, 4, 6)
    expected = (np.float32([30, 100, 200]) / 255 - np.float32(options.mean)) / np.float32(options.std)
    # The picture is flat, so resizing changes nothing; 1e-6 covers float32 rounding of values below 6.
    np.testing.assert_allclose(x[3, :, 2, 3], expected, atol=1e-6)
    bgr = joined(open_data(pictures, inputs=IMAGES, images=ImageOptions(color="bgr")))
    np.testing.assert_allclose(bgr[3, :, 0, 0], np.float32([200, 100, 30]) / 255, atol=1e-6)


def test_images_for_channels_last_grey_and_uint8_models(pictures):
    nhwc = specs(x=(TensorProto.UINT8, [2, 5, 6, 3]))
    x = joined(open_data(pictures, inputs=nhwc))
    assert (x.shape, x.dtype, x[1, 0, 0].tolist()) == ((4, 5, 6, 3), np.uint8, [10, 100, 200])
    grey = specs(x=(TensorProto.FLOAT, ["N", 1, 4, 6]))
    batches = open_data(pictures, inputs=grey, images=ImageOptions())
    assert joined(batches).shape == (4, 1, 4, 6)
    assert batches.notes == ("4 of 4 pictures have colours and were made grey: input 'x' (N, 1, 4, 6) has one channel",)


def test_grey_pictures_for_a_model_in_colour_are_said(pictures):
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("L", (6, 4), 100).save(pictures / "grey.png")
    batches = open_data(pictures, inputs=IMAGES, images=ImageOptions())
    list(batches)
    assert batches.notes == ("1 of 5 pictures is grey, and all channels of input 'x' (N, 3, 4, 6) got the same",)


def test_a_preset_for_colours_does_not_fit_one_channel(pictures):
    grey = specs(x=(TensorProto.FLOAT, ["N", 1, 4, 6]))
    with pytest.raises(DataError) as caught:
        open_data(pictures, inputs=grey, images="imagenet")
    assert str(caught.value) == (
        f"{pictures}: images='imagenet' (--images imagenet) prepares pictures in colour, but input 'x' (N, 1, 4, 6) "
        "has one channel\nHint: pictures in colour are made grey for it; say how it was trained by one value each: "
        "images=ImageOptions(mean=..., std=...) (--mean and --std)."
    )


def test_images_beyond_a_fixed_batch_are_left_out_and_said(pictures):
    batches = open_data(pictures, inputs=specs(x=(TensorProto.UINT8, [3, 3, 4, 6])))
    assert joined(batches).shape == (3, 3, 4, 6)
    assert batches.notes == ("1 of 4 images left out: the model's batch is fixed at 3",)


def test_limit_spreads_over_the_folder(pictures):
    x = joined(open_data(pictures, inputs=IMAGES, images=ImageOptions(), limit=2))
    np.testing.assert_allclose(x[:, 0, 0, 0] * 255, [0, 20], atol=1e-4)  # one picture of each class


def picture(tmp_path, width, height):
    """Left half 0, right half 200."""
    pillow = pytest.importorskip("PIL.Image")
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 200
    pillow.fromarray(pixels).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def test_resize_modes(tmp_path):
    square = specs(x=(TensorProto.UINT8, ["N", 3, 16, 16]))
    wide = picture(tmp_path, 32, 16)

    def row(how, y=8, **options):
        return joined(open_data(wide, inputs=square, images=ImageOptions(resize=how, **options)))[0, 0, y].tolist()

    assert row("crop", crop_share=1.0) == [0] * 8 + [200] * 8
    assert row("letterbox", y=0) == [114] * 16
    assert row("letterbox")[:6] == [0] * 6
    assert row("stretch")[10:] == [200] * 6
    assert row("height") == row("stretch")  # too wide for the model: squeezed


def test_height_pads_the_right_with_zeros_after_scaling(tmp_path):
    inputs = specs(x=(TensorProto.FLOAT, ["N", 3, 8, None]))
    x = joined(open_data(picture(tmp_path, 16, 16), inputs=inputs, images="paddleocr"))
    assert x.shape == (1, 3, 8, 320)
    np.testing.assert_allclose(x[0, 0, 4, [0, 7, 8, 319]], [-1, 200 / 127.5 - 1, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("imgsz", "size"),
    [("[64, 96]", (64, 96)), ("[64]", (64, 64)), ("96", (96, 96)), ("", (640, 640)), ("?", (640, 640))],
)
def test_the_size_that_ultralytics_notes_in_a_model(pictures, imgsz, size):
    graph = graph_of("(float[N,3,H,W] x) => (float[N,3,H,W] y) { y = Relu(x) }")
    if imgsz:
        entry = graph.frame.metadata_props.add()
        entry.key, entry.value = "imgsz", imgsz
    inputs = specs(x=(1, [None, 3, None, None]))
    assert joined(open_data(pictures, inputs=inputs, images="yolo", graph=graph)).shape[2:] == size
    given = replace(PRESETS["yolo"], size=(32, 32))
    assert joined(open_data(pictures, inputs=inputs, images=given, graph=graph)).shape[2:] == (32, 32)


def test_a_size_beside_that_of_the_model_is_refused(pictures):
    fixed = specs(x=(1, ["N", 3, 32, 48]))
    for same in (replace(PRESETS["imagenet"], size=(32, 48)), PRESETS["imagenet"]):  # a preset's own size is for others
        assert joined(open_data(pictures, inputs=fixed, images=same)).shape[2:] == (32, 48)
    with pytest.raises(DataError, match=r"takes images of 32x48, and the size given is 64x64\n.*pass 32x48"):
        open_data(pictures, inputs=fixed, images=replace(PRESETS["imagenet"], size=(64, 64)))
    half_open = specs(x=(1, ["N", 3, 48, None]))
    with pytest.raises(DataError, match="takes images of 48x200, and the size given is 32x200"):
        open_data(pictures, inputs=half_open, images=replace(PRESETS["paddleocr"], size=(32, 200)))


def test_image_errors(tmp_path, pictures, monkeypatch):
    with pytest.raises(DataError, match=r"images fit only a model with one input of .* this one has 'x' \(N, 3\)\n"):
        open_data(pictures, inputs=ONE, images="yolo")
    with pytest.raises(DataError, match=r"input 'x' \(N, 3, \?, \?\) leaves the image size open\nHint: pass images="):
        open_data(pictures, inputs=specs(x=(1, [None, 3, None, None])), images=ImageOptions())
    with pytest.raises(ConfigError, match=r"^unknown resize 'zoom'\nHint: resize= \(--resize\) is one of 'str"):
        ImageOptions(resize="zoom")
    assert ImageOptions(size=320).size == (320, 320)
    for size in ((320,), (0, 3), (1.5, 2), -4):
        with pytest.raises(ConfigError, match=r"^size is .*\nHint: size= \(--image-size\) is \(height, width\)"):
            ImageOptions(size=size)
    with pytest.raises(ConfigError, match=r"must be finite, and std positive\nHint: mean= and std= \(--mean, --std\)"):
        ImageOptions(std=(0.0,))
    (pictures / "z.png").write_bytes(b"no image")
    hint = r"z.png: not a readable image: cannot identify image file\nHint: mend the file, or take it out"
    with pytest.raises(DataError, match=hint):
        list(open_data(pictures, inputs=IMAGES, images="imagenet"))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"^reading images needs Pillow, which is not installed\nHint: pip install"):
        open_data(pictures, inputs=IMAGES, images="imagenet")


# ---- options that mean nothing for the data --------------------------------------------------------------------------


@pytest.mark.parametrize("data", [X, {"x": X}, [{"x": X}]], ids=["array", "dict", "feeds"])
@pytest.mark.parametrize("images", ["imagenet", ImageOptions(mean=(0.5,))])
def test_image_options_without_images_are_refused(data, images):
    with pytest.raises(ConfigError, match="images are described, but the data is not a folder of images") as caught:
        open_data(data, inputs=ONE, images=images)
    assert "--images, --mean, --std" in caught.value.hint


def test_a_batch_size_that_has_no_effect_is_said():
    fixed = specs(x=(TensorProto.FLOAT, [2, 3]))
    no_effect = "batch_size= (--batch-size) has no effect: "
    assert open_data(X[:4], inputs=fixed, batch_size=4).notes == (f"{no_effect}the model's batch is fixed at 2",)
    assert open_data(X[:4], inputs=fixed, batch_size=2).notes == ()
    feeds = [{"x": X}, {"x": X[:2]}]
    batches = open_data(feeds, inputs=ONE, batch_size=4)
    assert batches.notes == (f"{no_effect}the data comes in batches, which are fed as they are",)
    assert [len(feed["x"]) for feed in batches] == [5, 2]


def test_a_lone_array_of_another_name_is_said(tmp_path):
    np.savez(tmp_path / "d.npz", image=X)
    batches = open_data(tmp_path / "d.npz", inputs=ONE)
    np.testing.assert_array_equal(joined(batches), X)
    assert batches.notes == ("the only array, 'image', was taken for the only input, 'x'",)
    np.savez(tmp_path / "e.npz", X)  # numpy calls it arr_0
    batches = open_data(tmp_path / "e.npz", inputs=ONE)
    joined(batches)
    assert batches.notes == ()


def test_one_mean_and_std_serve_all_channels() -> None:
    assert ImageOptions(mean=0, std=np.float32(0.5)) == ImageOptions(mean=(0.0,), std=(0.5,))  # type: ignore[arg-type]
    assert ImageOptions(mean=[0.1, 0.2, 0.3]).mean == (0.1, 0.2, 0.3)  # type: ignore[arg-type]


@pytest.mark.parametrize("mean", ["0", None, (), (True,), ("0.5",)])
def test_a_mean_is_of_numbers(mean: Any) -> None:
    with pytest.raises(ConfigError, match="expected a number for each channel, or one for all"):
        ImageOptions(mean=mean)
