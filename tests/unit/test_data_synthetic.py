"""Made-up inputs: deterministic, accepted by the model, inside every embedding."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.data.synthetic import index_limit, synthetic_batches
from onnxq.errors import DataError
from onnxq.graph.model import set_metadata
from onnxq.graph.view import Graph


def graph(nodes, initializers=None, **inputs):
    model = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (initializers or {}).items()],
    )
    return Graph(helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def test_images_are_deterministic_differ_between_batches_and_carry_the_note():
    g = graph([node("Relu", "x", "y")], x=(FLOAT, ["N", 3, None, None]))
    batches = synthetic_batches(g, count=3)
    first, again = list(batches), list(synthetic_batches(g, count=3))
    assert [f["x"].shape for f in first] == [(1, 3, 224, 224)] * 3
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0]["x"], first[1]["x"])
    assert not np.array_equal(first[0]["x"], next(iter(synthetic_batches(g, seed=1)))["x"])
    assert batches.label == "synthetic"
    # Unit variance: 150,528 values in 16x16 blocks at the coarsest scale leave about 3 % of uncertainty.
    assert 0.9 < first[0]["x"].std() < 1.1


def test_other_sizes_are_tried_when_the_first_does_not_run():
    # Flattened to rows of 48 * 320 * 3: only that image size divides.
    g = graph([node("Reshape", "x s", "y")], {"s": np.array([1, 3, 48, 320])}, x=(FLOAT, ["N", 3, "h", "w"]))
    assert next(iter(synthetic_batches(g)))["x"].shape == (1, 3, 48, 320)


def test_the_size_that_the_model_notes_comes_first():
    g = graph([node("Relu", "x", "y")], x=(FLOAT, ["N", 3, "h", "w"]))
    set_metadata(g.frame, {"imgsz": "[64, 96]"})
    assert next(iter(synthetic_batches(g)))["x"].shape == (1, 3, 64, 96)
    assert next(iter(synthetic_batches(g, image_size=(40, 48))))["x"].shape == (1, 3, 40, 48)


def test_fixed_sizes_and_channels_last_are_kept():
    g = graph([node("Relu", "x", "y")], x=(FLOAT, [4, 32, None, 3]))
    assert next(iter(synthetic_batches(g)))["x"].shape == (4, 32, 224, 3)


def test_tokens_stay_inside_the_embedding():
    g = graph(
        [
            node("Cast", "ids", "i32", to=TensorProto.INT32),
            node("Gather", "words i32", "e1"),
            node("Gather", "types token_type_ids", "e2"),
            node("Gather", "places position_ids", "e3"),
            node("Cast", "attention_mask", "m", to=FLOAT),
            node("Unsqueeze", "m axes", "m3"),
            node("Add", "e1 e2", "e12"),
            node("Add", "e12 e3", "e"),
            node("Mul", "e m3", "y"),
        ],
        {
            "words": np.zeros((30, 4), np.float32),
            "types": np.zeros((2, 4), np.float32),
            "places": np.zeros((512, 4), np.float32),
            "axes": np.array([-1]),
        },
        ids=(INT64, ["batch", "sequence"]),
        token_type_ids=(INT64, ["batch", "sequence"]),
        position_ids=(INT64, ["batch", "sequence"]),
        attention_mask=(INT64, ["batch", "sequence"]),
    )
    assert [index_limit(g, n) for n in g.inputs] == [30, 2, 512, None]
    feed = next(iter(synthetic_batches(g)))
    assert {n: a.shape for n, a in feed.items()} == dict.fromkeys(g.inputs, (1, 128))
    assert set(np.unique(feed["ids"])) == set(range(30))
    assert set(np.unique(feed["token_type_ids"])) == {0, 1}
    np.testing.assert_array_equal(feed["position_ids"][0], np.arange(128))
    assert feed["attention_mask"].min() == feed["attention_mask"].max() == 1


@pytest.mark.parametrize("slot", [0, 1])
def test_one_hot_limits_the_classes(slot):
    g = graph(
        [node("OneHot", "ids depth values", "y")],
        {"depth": np.int64(7), "values": np.float32([0, 1])},
        ids=(INT64, [1, 9]),
    )
    assert index_limit(g, "ids") == 7
    pair = ["column", "range"] if slot == 0 else ["range", "column"]
    g = graph(
        [
            node("Unsqueeze", "ids axes", "column"),
            node("Equal", " ".join(pair), "hot"),
            node("Cast", "hot", "y", to=FLOAT),
        ],
        {"axes": np.array([-1]), "range": np.arange(11)},
        ids=(INT64, [1, 9]),
    )
    assert index_limit(g, "ids") == 11


def test_recurrent_state_sample_rate_flags_and_pixels():
    g = graph(
        [
            node("Cast", "flag", "f", to=FLOAT),
            node("Cast", "pixels", "p", to=FLOAT),
            node("Cast", "sr", "r", to=FLOAT),
            node("ReduceSum", "state", "s", keepdims=0),
            node("ReduceSum", "audio", "a", keepdims=0),
            node("Sum", "f p r s a", "y"),
        ],
        audio=(FLOAT, ["batch", None]),
        state=(FLOAT, [2, None, 8]),
        sr=(INT64, []),
        flag=(TensorProto.BOOL, [1]),
        pixels=(TensorProto.UINT8, [64]),
    )
    feed = next(iter(synthetic_batches(g)))
    assert (feed["audio"].shape, feed["state"].shape, int(feed["sr"]), bool(feed["flag"][0])) == (
        (1, 128),
        (2, 1, 8),
        16000,
        True,
    )
    assert feed["pixels"].max() > 127


@pytest.mark.parametrize("name", ["attention_mask", "encoder_attention_mask"])
def test_a_cache_is_as_long_as_the_tokens_and_the_mask_of_a_decoder_counts_both(name):
    """As exporters write decoders: scores over old and new tokens plus a mask of both; an encoder's is its own."""
    g = graph(
        [
            node("Gather", "table ids", "new"),
            node("Unsqueeze", "new zero", "heads"),
            node("Concat", "past_key_values.0.key heads", "key", axis=2),
            node("ReduceSum", "key last", "scores", keepdims=0),
            node("Cast", f"{name}", "mask", to=FLOAT),
            *([node("Add", "scores mask", "y")] if name == "attention_mask" else [node("Identity", "scores", "y")]),
        ],
        {"table": np.ones((50, 8), np.float32), "zero": np.array([1]), "last": np.array([3])},
        **{
            "ids": (INT64, ["batch", "sequence"]),
            name: (INT64, ["batch", "total"]),
            "past_key_values.0.key": (FLOAT, ["batch", 1, "past", 8]),
        },
    )
    feed = next(iter(synthetic_batches(g)))
    assert feed["ids"].shape == (1, 128)
    assert feed["past_key_values.0.key"].shape == (1, 1, 128, 8)
    assert feed[name].shape == (1, 256 if name == "attention_mask" else 128)


def test_a_model_that_takes_no_guess_is_refused():
    g = graph([node("Reshape", "x s", "y")], {"s": np.array([1, 7, 11])}, x=(FLOAT, ["N", "L"]))
    with pytest.raises(DataError) as caught:
        synthetic_batches(g)
    text = str(caught.value)
    assert text.startswith(
        "no synthetic input fits the model (8 shapes tried): synthetic input: onnxruntime cannot run"
    )
    assert text.endswith("\nHint: pass real data= (--data).")
    assert text.count("Hint:") == 1


@pytest.mark.parametrize(("value", "blamed"), [(np.nan, True), (-np.inf, False)])
def test_a_constant_of_nan_is_blamed_for_it(value, blamed):
    constants = {"w": np.full((4, 4), value, np.float32)}
    g = graph([node("MatMul", "x w", "y")], constants, x=(FLOAT, [1, 4]))
    text = "constant 'w' holds NaN\nHint: the training" if blamed else "its outputs are NaN or Inf\nHint: pass real"
    with pytest.raises(DataError, match=text):
        synthetic_batches(g)


def test_a_model_that_gives_nan_on_every_guess_is_refused():
    g = graph([node("Log", "x", "y")], x=(FLOAT, [1, 64]))
    with pytest.raises(DataError, match=r"\(1 shape tried\): its outputs are NaN or Inf\n"):
        synthetic_batches(g)


def test_unknown_rank_is_refused():
    g = graph([node("Relu", "x", "y")], x=(FLOAT, None))
    with pytest.raises(
        DataError, match=r"^the shape of input 'x' is unknown, so no input can be made up\nHint: pass real"
    ):
        synthetic_batches(g)
