"""Batches: how data is checked, converted, cut and counted (no onnxruntime involved)."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxq.data.batches import Batch
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import ConfigError, DataError, ModelError
from onnxq.graph.view import Graph
from tests.graphs import graph_of


def specs(**inputs):
    """InputSpecs of a model with these inputs: name=(elem_type, shape)."""
    values = [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    return InputSpecs.from_graph(Graph(helper.make_model(helper.make_graph([], "g", values, [out]))))


IMAGES = {"images": (TensorProto.FLOAT, ["N", 3, 8, 8])}


def ramp(*shape, dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


# ---- what is refused, with the exact text ----------------------------------------------------------------------------

REPAIR = (
    "remove this sample, or repair the preprocessing that made it. To calibrate a model that knows missing values by "
    "it: nonfinite='ignore' (--nonfinite ignore)"
)

REFUSED = {
    "channels-last": (
        IMAGES,
        {"images": ramp(1, 8, 8, 3)},
        "calibration batch 1: input 'images' has shape (1, 8, 8, 3), the model expects (N, 3, 8, 8)\n"
        "Hint: the data looks channels-last; pass layout='nhwc' (--layout nhwc).",
    ),
    "channels-first": (
        {"x": (1, [None, 8, 8, 3])},
        {"x": ramp(1, 3, 8, 8)},
        "calibration batch 1: input 'x' has shape (1, 3, 8, 8), the model expects (N, 8, 8, 3)\n"
        "Hint: the data looks channels-first; pass layout='nchw' (--layout nchw).",
    ),
    "wrong size": (
        IMAGES,
        {"images": ramp(1, 3, 9, 8)},
        "calibration batch 1: input 'images' has shape (1, 3, 9, 8), the model expects (N, 3, 8, 8)\n"
        "Hint: it has 9 in place of 8 on axis 2; bring it to the model's shape when you prepare the data, as in "
        "training; a folder of pictures is resized by images= (--images, --resize).",
    ),
    "channels": (
        IMAGES,
        {"images": ramp(1, 1, 8, 8)},
        "calibration batch 1: input 'images' has shape (1, 1, 8, 8), the model expects (N, 3, 8, 8)\n"
        "Hint: the data has 1 channel, the model takes 3; bring it to the model's shape when you prepare the data, as "
        "in training; a folder of pictures is converted by images= (--images, --mean, --std).",
    ),
    "batch too small": (
        {"x": (1, [4, 2])},
        {"x": ramp(3, 2)},
        "calibration batch 1: input 'x' has shape (3, 2), the model expects (4, 2)\n"
        "Hint: the model fixes its batch; give whole ones.",
    ),
    "misspelt": (
        IMAGES,
        {"image": ramp(1, 3, 8, 8), "other": ramp(1)},
        "calibration batch 1: no array for input 'images'; 'image', 'other' are not inputs of the model\n"
        "Hint: did you mean 'images' instead of 'image'?",
    ),
    "missing": (
        {"a": (1, ["N"]), "b": (1, ["N"])},
        {"a": ramp(1)},
        "calibration batch 1: no array for input 'b'\nHint: the model's inputs are 'a', 'b'.",
    ),
    "raw pixels": (
        IMAGES,
        {"images": ramp(1, 3, 8, 8, dtype=np.uint8)},
        "calibration batch 1: input 'images' is uint8, the model expects float32\n"
        "Hint: these look like raw pixels; scale them as in training, x = (pixel / 255 - mean) / std, "
        "or give the folder of images and pass images='imagenet' (--images imagenet).",
    ),
    "integers for floats": (
        {"x": (1, ["N"])},
        {"x": np.arange(3)},
        "calibration batch 1: input 'x' is int64, the model expects float32\n"
        "Hint: convert it when you prepare the data: array.astype('float32').",
    ),
    "strings": (
        {"x": (1, ["N"])},
        {"x": np.array(["a"])},
        "calibration batch 1: input 'x' is <U1, the model expects float32\n"
        "Hint: give texts as .jsonl, .csv or .txt with tokenizer= (--tokenizer) or preprocess= (--preprocess).",
    ),
    "NaN": (
        {"x": (1, ["N"])},
        {"x": np.float32([1, np.nan])},
        f"calibration batch 1: input 'x' holds NaN\nHint: {REPAIR}",
    ),
    "Inf": (
        {"x": (1, ["N"])},
        {"x": np.float32([1, np.inf])},
        f"calibration batch 1: input 'x' holds Inf\nHint: {REPAIR}",
    ),
    "beyond float16": (
        {"x": (TensorProto.FLOAT16, ["N"])},
        {"x": np.float32([1, 1e6])},
        "calibration batch 1: input 'x' holds values that float16 cannot hold (from 1.0 to 1000000.0 as float32)",
    ),
    "beyond int32": (
        {"x": (TensorProto.INT32, ["N"])},
        {"x": np.array([1, 2**40])},
        "calibration batch 1: input 'x' holds values that int32 cannot hold (from 1 to 1099511627776 as int64)",
    ),
    "lengths differ": (
        {"a": (1, ["N"]), "b": (1, ["N"])},
        {"a": ramp(3), "b": ramp(4)},
        "calibration batch 1: the inputs disagree on the number of samples: 'a' has 3, 'b' has 4",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    inputs, feed, text = REFUSED[case]
    with pytest.raises(DataError) as caught:
        list(open_data([feed], inputs=specs(**inputs)))
    assert str(caught.value) == text


def test_a_later_batch_is_named_by_its_number():
    feeds = [{"x": ramp(1)}, {"x": ramp(1)}, {"y": ramp(1)}]
    with pytest.raises(DataError, match=r"^calibration batch 3: no array for input 'x'; 'y' is not an input"):
        list(open_data(feeds, inputs=specs(x=(1, ["N"]))))


@pytest.mark.parametrize("feeds", [[], [{"x": np.zeros((0, 2), np.float32)}]])
def test_empty_data_is_refused(feeds):
    with pytest.raises(
        DataError, match=r"^no calibration data: the source holds no sample that the model can take\nHint"
    ):
        list(open_data(feeds, inputs=specs(x=(1, ["N", 2]))))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_size": 0}, "batch_size is 0\nHint: batch_size= (--batch-size) is a number of samples, 1 or more."),
        ({"limit": -1}, "limit is -1\nHint: limit= (--limit) is a number of samples, 1 or more."),
        ({"layout": "hwc"}, "unknown layout 'hwc'\nHint: layout= (--layout) is 'nchw' or 'nhwc'."),
    ],
)
def test_impossible_options_are_refused(options, text):
    with pytest.raises(ConfigError) as caught:
        open_data([], inputs=specs(x=(1, ["N"])), **options)
    assert str(caught.value) == text


def test_models_that_cannot_be_fed_are_refused():
    with pytest.raises(ModelError, match=r"^the model has no inputs, so there is nothing to calibrate with$"):
        specs()
    with pytest.raises(ModelError, match=r"^input 's': it is of type string, which cannot be fed from numpy arrays$"):
        specs(s=(TensorProto.STRING, ["N"]))


# ---- conversions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("have", "want"),
    [
        (np.float64, TensorProto.FLOAT),
        (np.float64, TensorProto.FLOAT16),
        (np.float32, TensorProto.FLOAT16),
        (np.float16, TensorProto.FLOAT),
        (np.float16, TensorProto.DOUBLE),
        (np.float32, TensorProto.DOUBLE),
        (np.int32, TensorProto.INT64),
        (np.int64, TensorProto.INT32),
        (np.uint8, TensorProto.UINT8),
    ],
)
def test_safe_conversions(have, want):
    (feed,) = open_data([{"x": np.array([0, 1, 2], have)}], inputs=specs(x=(want, ["N"])))
    assert feed["x"].dtype == helper.tensor_dtype_to_np_dtype(want)
    np.testing.assert_array_equal(feed["x"], [0, 1, 2])


def test_layout_moves_the_channels():
    nhwc = ramp(2, 8, 8, 3)
    (feed,) = open_data([{"images": nhwc}], inputs=specs(**IMAGES), layout="nhwc")
    np.testing.assert_array_equal(feed["images"], nhwc.transpose(0, 3, 1, 2))
    assert feed["images"].flags.c_contiguous
    (back,) = open_data([{"x": feed["images"]}], inputs=specs(x=(1, ["N", 8, 8, 3])), layout="nchw")
    np.testing.assert_array_equal(back["x"], nhwc)


def test_layout_that_the_model_has_already_changes_nothing():
    x = ramp(2, 3, 8, 8)
    (feed,) = open_data([{"images": x}], inputs=specs(**IMAGES), layout="nchw")
    np.testing.assert_array_equal(feed["images"], x)


def test_a_generator_that_reuses_its_buffer_is_copied():
    def feeds():
        buffer = np.zeros((1, 2), np.float32)
        for i in range(3):
            buffer[:] = i
            yield {"x": buffer}

    kept = list(open_data(feeds, inputs=specs(x=(1, ["N", 2]))))
    assert [float(f["x"][0, 0]) for f in kept] == [0, 1, 2]


# ---- cutting ---------------------------------------------------------------------------------------------------------


def sizes(batches):
    return [batch.samples for batch in batches.stream()]


def test_arrays_are_fed_one_by_one_or_by_batch_size():
    inputs = specs(x=(1, ["N", 2]))
    assert sizes(open_data({"x": ramp(5, 2)}, inputs=inputs)) == [1] * 5
    assert sizes(open_data({"x": ramp(5, 2)}, inputs=inputs, batch_size=2)) == [2, 2, 1]
    assert sizes(open_data([{"x": ramp(5, 2)}], inputs=inputs)) == [5]


def test_a_fixed_batch_splits_and_says_what_it_leaves_out():
    batches = open_data([{"x": ramp(7, 3)}], inputs=specs(x=(1, [2, 3])), batch_size=5)
    feeds = list(batches)
    np.testing.assert_array_equal(np.concatenate([f["x"] for f in feeds]), ramp(7, 3)[:6])
    assert [f["x"].shape for f in feeds] == [(2, 3)] * 3
    assert batches.notes == (
        "batch_size= (--batch-size) has no effect: the model's batch is fixed at 2",
        "1 of 7 samples left out: the model's batch is fixed at 2",
    )


def test_one_axis_more_stacks_samples():
    # A recurrent state's first axis is its layers, so samples come on top; a scalar becomes a vector.
    inputs = specs(x=(1, ["N", 4]), state=(1, [2, "N", 3]), sr=(TensorProto.INT64, []))
    data = {"x": ramp(5, 4), "state": ramp(5, 2, 1, 3), "sr": np.arange(5)}
    feeds = list(open_data(data, inputs=inputs))
    assert [(f["x"].shape, f["state"].shape, int(f["sr"])) for f in feeds] == [((1, 4), (2, 1, 3), i) for i in range(5)]
    np.testing.assert_array_equal(feeds[3]["state"], data["state"][3])


def test_a_value_that_comes_once_serves_every_sample_and_is_said():
    inputs = specs(x=(1, [1, 4]), state=(1, [2, 1, 3]), sr=(TensorProto.INT64, []))
    batches = open_data({"x": ramp(3, 4), "state": ramp(2, 1, 3), "sr": np.int64(16000)}, inputs=inputs)
    assert [(f["state"].shape, int(f["sr"])) for f in batches] == [((2, 1, 3), 16000)] * 3
    assert batches.notes == ("input 'state' came once and was used with every sample",)


def test_fixed_inputs_that_come_once_are_one_run():
    inputs = specs(x=(1, [1, 4]), state=(1, [2, 1, 3]))
    assert sizes(open_data([{"x": ramp(1, 4), "state": ramp(2, 1, 3)}], inputs=inputs)) == [1]
    assert sizes(open_data([{"x": ramp(4, 2)}], inputs=specs(x=(1, [4, 2])))) == [4]


def test_limit_counts_samples():
    inputs = specs(x=(1, ["N", 2]))
    assert sizes(open_data([{"x": ramp(4, 2)}] * 3, inputs=inputs, limit=6)) == [4, 2]
    assert sizes(open_data([{"x": ramp(4, 2)}] * 3, inputs=inputs, limit=8)) == [4, 4]
    assert sizes(open_data([{"x": ramp(4, 2)}] * 3, inputs=specs(x=(1, [4, 2])), limit=6)) == [4]
    assert open_data({"x": ramp(9, 2)}, inputs=inputs, limit=6).expected_samples == 6


def test_unknown_sizes_that_share_a_name_are_unknown():
    inputs = specs(x=(1, [-1, 3, "?", "?"]))
    assert inputs["x"].shape == (None, 3, None, None)
    assert sizes(open_data([{"x": ramp(1, 3, 4, 5)}], inputs=inputs)) == [1]


# ---- reading twice, holding out --------------------------------------------------------------------------------------


def test_a_one_shot_generator_is_read_once():
    batches = open_data(iter([{"x": ramp(1)}]), inputs=specs(x=(1, ["N"])))
    assert len(list(batches)) == 1
    with pytest.raises(DataError) as caught:
        list(batches)
    assert str(caught.value) == (
        "calibration data: it can be read only once, and it has been\n"
        "Hint: pass a function that returns a new generator, or a list, instead of a generator."
    )


def test_cached_batches_can_be_read_again():
    cached = open_data(iter([{"x": ramp(2)}, {"x": ramp(1)}]), inputs=specs(x=(1, ["N"]))).cached()
    assert [sizes(cached), sizes(cached), cached.expected_samples] == [[2, 1], [2, 1], 3]


def firsts(batches):
    return [int(feed["x"][0, 0]) for feed in batches]


@pytest.mark.parametrize("one_shot", [False, True])
@pytest.mark.parametrize("read_calibration_first", [False, True])
def test_hold_out_takes_the_last_batches(one_shot, read_calibration_first):
    feeds = [{"x": np.full((1, 1), i, np.float32)} for i in range(10)]
    batches = open_data(iter(feeds) if one_shot else feeds, inputs=specs(x=(1, ["N", 1])))
    calibration, held = batches.hold_out(2)
    if read_calibration_first:
        assert firsts(calibration) == list(range(8))
    assert firsts(held) == firsts(held) == [8, 9]
    assert held.notes == ()


def test_hold_out_takes_a_quarter_at_most():
    feeds = [{"x": np.full((1, 1), i, np.float32)} for i in range(9)]
    calibration, held = open_data(feeds, inputs=specs(x=(1, ["N", 1]))).hold_out(8)
    assert (firsts(calibration), firsts(held)) == (list(range(7)), [7, 8])


def test_hold_out_of_too_little_data_serves_both_and_says_so():
    feeds = [{"x": np.full((1, 1), i, np.float32)} for i in range(3)]
    calibration, held = open_data(feeds, inputs=specs(x=(1, ["N", 1]))).hold_out(8)
    assert (firsts(calibration), firsts(held)) == ([0, 1, 2], [0, 1, 2])
    assert held.notes == ()
    (warning,) = held.warnings
    assert warning.startswith("3 batches are too few to hold any out")


# ---- fingerprint -----------------------------------------------------------------------------------------------------


def fingerprint(batches):
    return sum(int(b.fingerprint(), 16) for b in batches.stream()) % 2**128


def test_fingerprint_ignores_order_and_batching_and_sees_every_value():
    inputs = specs(x=(1, ["N", 2]), y=(TensorProto.INT64, ["N"]))
    data = {"x": ramp(6, 2), "y": np.arange(6)}
    one = fingerprint(open_data(data, inputs=inputs))
    assert fingerprint(open_data(data, inputs=inputs, batch_size=4)) == one
    assert fingerprint(open_data({n: a[::-1] for n, a in data.items()}, inputs=inputs)) == one
    # The same values paired otherwise are other samples.
    assert fingerprint(open_data({"x": data["x"], "y": data["y"][::-1]}, inputs=inputs)) != one
    changed = data["x"].copy()
    changed[5, 1] += 1
    assert fingerprint(open_data({"x": changed, "y": data["y"]}, inputs=inputs)) != one


def test_fingerprint_layout_is_pinned():
    # A changed layout would orphan every saved statistics file.
    values = np.arange(20000, dtype=np.float32)
    batch = Batch(arrays={"x": values[None]}, samples=1, per_sample=frozenset("x"), label="")
    sums = b"".join(zlib.crc32(values.tobytes()[i : i + 65536]).to_bytes(4, "little") for i in (0, 65536))
    digest = hashlib.blake2b(b"x\0<f4\0(20000,)\0" + sums, digest_size=16).digest()
    assert batch.fingerprint() == f"{int.from_bytes(digest, 'little'):032x}"


def test_minus_infinity_passes_for_masks() -> None:
    mask = np.float32([[0, -np.inf], [0, 0]])
    graph = graph_of("(float[N,2] x) => (float[N,2] y) { y = Neg(x) }")
    given = list(open_data([{"x": mask}], inputs=InputSpecs.from_graph(graph)))
    np.testing.assert_array_equal(given[0]["x"], mask)


def test_first_sizes_of_different_names_count_no_samples() -> None:
    graph = graph_of("(float[N,2] x, int64[R] s) => (float[A,B] y) { y = Reshape(x, s) }")
    feed = {"x": np.zeros((6, 2), np.float32), "s": np.array([4, 3])}
    [batch] = open_data([feed], inputs=InputSpecs.from_graph(graph)).stream()
    assert batch.samples == 1 and batch.per_sample == frozenset()


def test_operand_without_elements_counts_no_samples() -> None:
    graph = graph_of("(float[N,2] x, int64[0] a) => (float[N,2] y) { y = ReduceSum<noop_with_empty_axes=1>(x, a) }")
    feed = {"x": np.zeros((6, 2), np.float32), "a": np.zeros(0, np.int64)}
    [batch] = open_data([feed], inputs=InputSpecs.from_graph(graph)).stream()
    assert batch.samples == 6 and batch.per_sample == {"x"}


def test_a_layout_that_moves_axes_of_data_in_the_models_order_is_to_be_left_out() -> None:
    inputs = specs(**IMAGES)
    with pytest.raises(DataError) as caught:
        list(open_data({"images": ramp(4, 3, 8, 8)}, inputs=inputs, layout="nhwc"))
    assert caught.value.hint == "its axes are in the model's order already; leave out layout= (--layout)."
    with pytest.raises(DataError, match=r"layout= \(--layout\) makes \(4, 3, 9, 8\) of it; it has 9 in place of 8"):
        list(open_data({"images": ramp(4, 9, 8, 3)}, inputs=inputs, layout="nhwc"))
