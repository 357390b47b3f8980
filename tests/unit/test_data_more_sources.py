"""Data that says how it is read: shuffled, tokenized, through a hook, from data sets, with a state."""

from __future__ import annotations

import json
import struct
import wave
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxq
from onnxq.data.description import Data
from onnxq.data.images import ImageOptions
from onnxq.data.inputs import InputSpec, InputSpecs
from onnxq.data.mapped_arrays import MappedArrays
from onnxq.data.sounds import read_wav
from onnxq.data.sources import open_data
from onnxq.errors import ConfigError, DataError
from onnxq.evaluation.labels import load_labels
from onnxq.graph.view import Graph
from tests.unit.test_data_sources import ONE, TWO, X, joined, specs

# ---- random order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_shuffled_arrays_are_the_same_samples_in_an_order_of_the_seed(tmp_path, save):
    save(tmp_path / "d.npz", a=np.asarray(X, order="F"), b=np.arange(5))
    orders = {}
    for seed in (0, 1):
        batches = open_data(Data(tmp_path / "d.npz", shuffle=seed), inputs=TWO, batch_size=2)
        orders[seed] = joined(batches, "b").tolist()
        np.testing.assert_array_equal(joined(batches, "a"), X[orders[seed]])
        assert sorted(orders[seed]) == [0, 1, 2, 3, 4]
        in_memory = open_data(Data({"a": X, "b": np.arange(5)}, shuffle=seed), inputs=TWO)
        assert joined(in_memory, "b").tolist() == orders[seed]
    assert orders[0] != orders[1] != [0, 1, 2, 3, 4]


def test_the_order_of_a_seed_is_settled():
    counted = np.repeat(np.arange(5, dtype=np.float32)[:, None], 3, axis=1)
    batches = open_data(Data(counted, shuffle=7), inputs=ONE)
    assert [int(feed["x"][0, 0]) for feed in batches] == [3, 4, 0, 2, 1]


def test_a_limit_takes_the_first_of_a_random_order(tmp_path):
    np.save(tmp_path / "d.npy", X)
    every = joined(open_data(Data(tmp_path / "d.npy", shuffle=3), inputs=ONE))
    np.testing.assert_array_equal(
        joined(open_data(Data(tmp_path / "d.npy", shuffle=3), inputs=ONE, limit=2)), every[:2]
    )


def test_statistics_do_not_depend_on_the_order(tmp_path):
    model = onnx.load(str(Path(__file__).parents[2] / "models" / "digits_resnet.onnx"))
    data = Path(__file__).parents[2] / "models" / "digits_resnet.calib.npz"
    plain, shuffled = (onnxq.calibrate(model, Data(data, shuffle=seed)) for seed in (None, 5))
    assert plain.data_fingerprint == shuffled.data_fingerprint
    for file, stats in (("a", plain), ("b", shuffled)):
        stats.save(tmp_path / file)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_folders_are_shuffled_and_labels_with_them(tmp_path):
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", x=X + 10 * i, labels=np.arange(5) + 10 * i)
    data = Data(tmp_path, shuffle=2)
    x, labels = joined(open_data(data, inputs=ONE)), load_labels(None, data, limit=None)
    for row, label in zip(x, labels, strict=True):
        np.testing.assert_array_equal(row, (X + 10 * int(label // 10))[label % 10])
    assert labels.tolist() != sorted(labels)
    with pytest.raises(ConfigError, match="the data is shuffled, and nothing says which of these labels"):
        load_labels(np.arange(15), data, limit=None)


def test_what_is_read_from_its_start_is_not_shuffled():
    with pytest.raises(ConfigError, match=r"^data of type generator cannot be shuffled: it is read from its start"):
        open_data(Data(({"x": X} for _ in range(3)), shuffle=0), inputs=ONE)
    feeds = [{"x": X[i : i + 1]} for i in range(5)]
    shuffled = joined(open_data(Data(feeds, shuffle=0), inputs=ONE))
    assert sorted(shuffled[:, 0]) == sorted(X[:, 0])
    with pytest.raises(ConfigError, match=r"^shuffle is -1\nHint: shuffle= \(--shuffle\) is the seed"):
        Data(X, shuffle=-1)


def test_mapped_arrays_of_damaged_files(tmp_path):
    (tmp_path / "d.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"not a readable \.npy file"):
        MappedArrays(tmp_path / "d.npy")


# ---- data sets -------------------------------------------------------------------------------------------------------


class Tensor:
    """As torch's: knows detach, cpu and numpy, but not numpy's protocol where it needs a gradient."""

    shape, dtype = (2, 3), "float32"

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.array

    def __array__(self, *_):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


def test_a_loader_of_tensors_and_labels():
    batches = open_data([(Tensor(X[:2]), [0, 1]), (Tensor(X[2:4]), [0, 1])], inputs=ONE)
    np.testing.assert_array_equal(joined(batches), X[:4])
    assert batches.notes == ("items of the data hold 2 values: 'x' took the first, the rest (labels?) was left out",)
    batches = open_data([({"x": X}, 7)], inputs=ONE)
    np.testing.assert_array_equal(joined(batches), X)
    with pytest.raises(DataError, match=r"^item 1 of the data holds 1 array, the model has 2 inputs"):
        list(open_data([(X,)], inputs=TWO))


def test_rows_of_a_data_set_without_a_batch_axis():
    rows = [{"ids": [1, 2, 3], "text": "one two three", "label": 0}, {"ids": [4, 5, 6], "text": "", "label": 1}]
    batches = open_data(rows, inputs=specs(ids=(TensorProto.INT64, ["N", "L"])))
    assert joined(batches, "ids").tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batches.notes == (
        "'text' was left out: it is not an input of the model",
        "'label' was left out: it is not an input of the model",
        "items of the data have no batch axis: each was taken for one sample",
    )
    with pytest.raises(DataError, match=r"no array for input 'ids'; 'idz' is not an input of the model"):
        list(open_data([{"idz": [[1]]}], inputs=specs(ids=(TensorProto.INT64, ["N", "L"]))))
    with pytest.raises(DataError, match=r"^a value is no array: .*\nHint: pad the rows of a batch to one length"):
        list(open_data([{"ids": [[1], [1, 2]]}], inputs=specs(ids=(TensorProto.INT64, ["N", "L"]))))
    with pytest.raises(DataError, match=r"^a value of type str is no array of numbers"):
        list(open_data([{"ids": "text"}], inputs=specs(ids=(TensorProto.INT64, ["N", "L"]))))


def test_a_data_set_with_a_length_and_items():
    class Dataset:
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return X[index], index

    np.testing.assert_array_equal(joined(open_data(Dataset(), inputs=ONE)), X)


# ---- Polygraphy ------------------------------------------------------------------------------------------------------


def test_inputs_of_polygraphy(tmp_path):
    json_tools = pytest.importorskip("polygraphy.json")
    path = tmp_path / "inputs.json"
    json_tools.save_json([{"a": X[:2], "b": np.arange(2)}, {"a": X[2:], "b": np.arange(3)}], str(path))
    batches = open_data(path, inputs=TWO)
    np.testing.assert_array_equal(joined(batches, "a"), X)
    assert [b.label for b in batches.stream()] == [f"calibration batch {i} (inputs.json)" for i in (1, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "this is no list of {input name: array}"),
        ("[1]", "this is no list of {input name: array}"),
        ("[", "not a readable JSON file: "),
        ('[{"x": 1}]', "feed 1, input 'x': it is of class int, not an array"),
        ('[{"x": {"array": "!", "polygraphy_class": "ndarray"}}]', "it is no base64"),
        ('[{"x": {"array": "AAAA", "polygraphy_class": "ndarray"}}]', "not in the .npy format"),
    ],
)
def test_json_that_holds_no_inputs(tmp_path, text, message):
    (tmp_path / "i.json").write_text(text)
    with pytest.raises(DataError) as caught:
        list(open_data(tmp_path / "i.json", inputs=ONE))
    assert message in str(caught.value)


# ---- hooks -----------------------------------------------------------------------------------------------------------


def write_wav(path, samples, rate=8000, width=2):
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        out.setsampwidth(width)
        out.setframerate(rate)
        scaled = np.round(samples * (1 << (8 * width - 1))).astype("<i4")
        raw = (
            scaled.astype("<i2").tobytes()
            if width == 2
            else b"".join(int(v).to_bytes(3, "little", signed=True) for v in scaled.reshape(-1))
        )
        out.writeframes(raw)


@pytest.mark.parametrize("width", [2, 3])
def test_wav_files_of_whole_numbers(tmp_path, width):
    samples = np.array([[0.0, 0.5], [-1.0, 0.25]])
    write_wav(tmp_path / "s.wav", samples, width=width)
    sound = read_wav(tmp_path / "s.wav")
    np.testing.assert_array_equal(sound.samples, samples.astype(np.float32))
    assert (sound.rate, sound.samples.dtype) == (8000, np.float32)


def riff(tag, bits, data, extensible=False):
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, 1, 16000, 0, 0, bits)
    form += struct.pack("<HHIH", 22, bits, 0, tag) + bytes(14) if extensible else b""
    body = b"WAVE" + b"LIST\x03\0\0\0abc\0" + b"fmt " + struct.pack("<I", len(form)) + form
    return b"RIFF" + struct.pack("<I", 0) + body + b"data" + struct.pack("<I", 0xFFFFFFFF) + data


def test_wav_files_of_other_codings(tmp_path):
    path = tmp_path / "s.wav"
    path.write_bytes(riff(3, 32, np.array([0.5, -1.5], "<f4").tobytes()))
    assert read_wav(path).samples.tolist() == [0.5, -1.5]
    path.write_bytes(riff(1, 8, bytes([128, 0, 255]), extensible=True))
    assert read_wav(path).samples.tolist() == [0.0, -1.0, 127 / 128]
    path.write_bytes(riff(6, 8, b"abc"))
    with pytest.raises(DataError, match=r"sound of format 6 with 8 bits and 1 channel is not read\nHint: convert it"):
        read_wav(path)
    for content in (b"", b"RIFF0000WAVE", b"OggS"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not a (readable )?\.wav file"):
            read_wav(path)


def test_sounds_go_through_a_hook(tmp_path):
    for i in range(3):
        write_wav(tmp_path / f"{i}.wav", np.full(6, i / 4))
    data = Data(tmp_path, preprocess=lambda sound: sound.samples.reshape(-1, 3) * sound.rate)
    batches = open_data(data, inputs=ONE, batch_size=2)
    assert joined(batches)[:, 0].tolist() == [0, 0, 2000, 2000, 4000, 4000]
    with pytest.raises(DataError, match=r"sounds do not say how they become model input\nHint: pass preprocess="):
        open_data(tmp_path, inputs=ONE)


def test_hooks_of_a_file_get_any_file_and_may_give_single_samples(tmp_path):
    code = "import numpy as np\ndef load(p):\n    return np.frombuffer(p.read_bytes(), 'f4')\n"
    (tmp_path / "hook.py").write_text(code)
    hook = f"{tmp_path / 'hook.py'}:load"
    folder = tmp_path / "raw"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.bin").write_bytes(X[i].tobytes())
    batches = open_data(Data(folder, preprocess=hook), inputs=ONE, batch_size=2)
    np.testing.assert_array_equal(joined(batches), X)
    assert [b.samples for b in batches.stream()] == [2, 2, 1]
    fixed = open_data(Data(folder, preprocess=hook), inputs=specs(x=(TensorProto.FLOAT, [5, 3])))
    np.testing.assert_array_equal(joined(fixed), X)
    assert joined(open_data(Data(folder, preprocess=hook, shuffle=1), inputs=ONE)).tolist() != X.tolist()
    for bad, message in ((hook + "s", "the file defines no function 'loads'"), ("hook", "no file or no")):
        with pytest.raises(ConfigError, match=message):
            open_data(Data(folder, preprocess=bad), inputs=ONE)


def test_images_through_a_hook(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("L", (2, 3), 7).save(tmp_path / "a.png")
    data = Data(tmp_path, preprocess=lambda image: np.float32(np.asarray(image)[:, 0]))
    assert joined(open_data(data, inputs=ONE)).tolist() == [[7, 7, 7]]


def test_hooks_of_iterables_and_generators():
    def halves(item):
        yield {"x": item[:2]}
        yield {"x": item[2:]}

    np.testing.assert_array_equal(joined(open_data(Data([X], preprocess=halves), inputs=ONE)), X)


def test_a_hook_that_returns_nothing_is_to_blame(tmp_path):
    with pytest.raises(DataError, match=r"^item 1 of the data: preprocess returned nothing\nHint: the function in pre"):
        list(open_data(Data([X], preprocess=lambda item: None), inputs=ONE))
    with pytest.raises(DataError, match=r"preprocess returned a value of type int"):
        list(open_data(Data([X], preprocess=lambda item: 3), inputs=ONE))
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"^a\.bin: preprocess returned nothing"):
        list(open_data(Data(tmp_path, preprocess=lambda path: None), inputs=ONE))


def test_hooks_that_fail():
    def later(item):
        yield {"x": item}
        raise KeyError("b")

    for hook in (lambda item: item["b"], later):
        with pytest.raises(DataError, match=r"^item 1 of the data: preprocess failed: (IndexError|KeyError)"):
            list(open_data(Data([X], preprocess=hook), inputs=ONE))
    with pytest.raises(ConfigError, match="arrays are fed as they are, preprocess has nothing to do"):
        open_data(Data(X, preprocess=len), inputs=ONE)


# ---- texts -----------------------------------------------------------------------------------------------------------

BERT = specs(
    input_ids=(TensorProto.INT64, ["N", "L"]),
    attention_mask=(TensorProto.FLOAT, ["N", "L"]),
    token_type_ids=(TensorProto.INT64, ["N", "L"]),
)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat"]


@pytest.fixture
def tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_texts_are_tokenized_and_padded(tmp_path, tokenizer):
    (tmp_path / "t.txt").write_text("the cat\n\nthe cat sat\n")
    batches = open_data(Data(tmp_path / "t.txt", tokenizer=tokenizer), inputs=BERT, batch_size=2)
    (feed,) = batches
    assert feed["input_ids"].tolist() == [[2, 4, 5, 3, 0], [2, 4, 5, 6, 3]]
    assert feed["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert feed["attention_mask"].dtype == np.float32
    one_by_one = open_data(Data(tmp_path / "t.txt", tokenizer=tokenizer), inputs=BERT)
    assert [feed["input_ids"].shape for feed in one_by_one] == [(1, 4), (1, 5)]
    fixed = specs(input_ids=(TensorProto.INT32, ["N", 3]))
    batches = open_data(Data(tmp_path / "t.txt", tokenizer=tokenizer), inputs=fixed)
    assert joined(batches, "input_ids").tolist() == [[2, 4, 3], [2, 4, 3]]
    assert batches.notes[:1] == ("2 of 2 texts were cut to 3 tokens: max_length= (--max-length)",)


def test_pairs_and_columns(tmp_path, tokenizer):
    rows = [{"q": "the cat", "a": "sat", "id": 1}, {"q": "sat", "a": "the", "id": 2}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "t.csv").write_text("q,a\nthe cat,sat\nsat,the\n")
    for file in ("t.jsonl", "t.csv"):
        data = Data(tmp_path / file, tokenizer=tokenizer, text_column=("q", "a"))
        first, _ = open_data(data, inputs=BERT)
        assert first["input_ids"].tolist() == [[2, 4, 5, 3, 6, 3]]
        assert first["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]
        with pytest.raises(DataError, match=r"row 1: a row has texts in 'q', 'a'\nHint: name the column with text_col"):
            list(open_data(Data(tmp_path / file, tokenizer=tokenizer), inputs=BERT))
        with pytest.raises(DataError, match=r"row 1: a row has no text in column 'z'; it has 'q', 'a'"):
            list(open_data(Data(tmp_path / file, tokenizer=tokenizer, text_column="z"), inputs=BERT))
    hook = Data(tmp_path / "t.jsonl", preprocess=lambda row: {"x": np.full((1, 3), row["id"], np.float32)}, shuffle=0)
    assert sorted(joined(open_data(hook, inputs=ONE))[:, 0]) == [1, 2]


def test_texts_need_a_tokenizer_that_fits(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "t.txt").write_text("the cat\n")
    with pytest.raises(DataError, match=r"texts do not say how they become model input\nHint: pass tokenizer="):
        open_data(tmp_path / "t.txt", inputs=BERT)
    with pytest.raises(DataError, match=r"^a tokenizer does not fill input 'pixels'"):
        two = specs(input_ids=(TensorProto.INT64, ["N", "L"]), pixels=(TensorProto.FLOAT, ["N"]))
        open_data(Data(tmp_path / "t.txt", tokenizer=tokenizer), inputs=two)
    with pytest.raises(ConfigError, match=r"no such file\nHint: check the path in tokenizer="):
        open_data(Data(tmp_path / "t.txt", tokenizer="none.json"), inputs=BERT)
    with pytest.raises(ConfigError, match=r"not a tokenizer\.json: "):
        open_data(Data(tmp_path / "t.txt", tokenizer=tmp_path / "t.txt"), inputs=BERT)
    with pytest.raises(ConfigError, match=r"^a tokenizer is given, but the data is no text"):
        open_data(Data(X, tokenizer=tokenizer), inputs=ONE)
    (tmp_path / "b.jsonl").write_text('{"text": "a"}\n{oops')
    with pytest.raises(DataError, match=r"line 2 is no JSON"):
        list(open_data(Data(tmp_path / "b.jsonl", tokenizer=tokenizer), inputs=BERT))


# ---- images ----------------------------------------------------------------------------------------------------------


def test_mean_and_std_of_raw_pixels_are_refused_with_the_right_ones():
    with pytest.raises(ConfigError, match=r"are in units of 0\.\.255, but those of pixel / 255 are expected") as caught:
        ImageOptions(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    assert "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225" in caught.value.hint


# ---- states ----------------------------------------------------------------------------------------------------------


def counter():
    """y = x + s, t = s + mean(x): the state counts what has been."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Add", ["s", "m"], ["t"]),
        helper.make_node("Mul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "counter",
        [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ["N", 3]), ("s", [None, 1]))],
        [helper.make_tensor_value_info(n, 1, s) for n, s in (("y", ["N", 3]), ("t", ["N", 1]))],
        [numpy_helper.from_array(np.ones((1, 3), np.float32), "w")],
    )
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


COUNTER = counter()


def states(source, batch_size=None, **said):
    inputs = InputSpecs.from_graph(COUNTER)
    data = Data(source, state={"t": "s"}, **said)
    batches = open_data(data, inputs=inputs, graph=COUNTER, batch_size=batch_size)
    first, second = ([feed["s"].reshape(-1).tolist() for feed in batches] for _ in range(2))
    assert first == second
    return first


ONES = np.ones((3, 3), np.float32)


def test_each_file_is_a_sequence(tmp_path):
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", ONES)
    assert states(tmp_path, batch_size=3) == [[0], [1], [2], [0], [1], [2]]
    np.save(tmp_path / "0.npy", np.ones((3, 2, 3), np.float32))  # steps of two sequences side by side
    assert states(tmp_path) == [[0, 0], [1, 1], [2, 2], [0], [1], [2]]


def test_lists_and_hooks_are_sequences_and_plain_feeds_are_one():
    feeds = [{"x": ONES[:1]}, {"x": ONES[:1]}]
    assert states(feeds) == [[0], [1]]
    assert states([feeds, feeds]) == [[0], [1], [0], [1]]
    assert states([1, 2], preprocess=lambda _: iter(feeds)) == [[0], [1], [0], [1]]
    assert states([{"x": ONES[:1], "s": np.full((1, 1), 5.0)}, *feeds, {"x": ONES[:1], "s": np.zeros((1, 1))}]) == [
        [5], [6], [7], [0],
    ]  # fmt: skip


def test_several_sequences_in_a_feed_count_as_one_sample():
    data = Data([[{"x": ONES}, {"x": ONES}]], state={"t": "s"})
    batches = open_data(data, inputs=InputSpecs.from_graph(COUNTER), graph=COUNTER)
    assert [(b.samples, len(b.arrays["s"])) for b in batches.stream()] == [(1, 3), (1, 3)]


def test_states_that_are_wrong():
    for state, message in (
        ({"z": "s"}, r"^state: the model has no output 'z'\nHint: its outputs are 'y', 't'"),
        ({"t": "ss"}, r"^state: the model has no input 'ss'\nHint: did you mean 's'\?"),
        ({"s": "t"}, r"'s' is an input and 't' an output; outputs come first\nHint: pass .*\(--state t=s\)"),
        ({"t": "s", "y": "s"}, "two outputs lead to one input"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_data(Data(ONES, state=state), inputs=InputSpecs.from_graph(COUNTER), graph=COUNTER)
    with pytest.raises(DataError, match=r"input 's' has shape \(2, 4\), the model expects \(N, 1\)"):
        states([{"x": ONES[:1], "s": np.zeros((2, 4), np.float32)}])


def test_data_that_lacks_a_state_is_told_of_it():
    with pytest.raises(DataError, match=r"no array for input 's'\nHint: where outputs are inputs .*\(--state t=s\)\."):
        list(open_data({"x": ONES}, inputs=InputSpecs.from_graph(COUNTER), graph=COUNTER))


def test_shards_of_a_sequence_add_up_to_the_whole():
    x = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
    model, data = COUNTER.to_model(), Data({"x": x}, state={"t": "s"})
    whole = onnxq.calibrate(model, data, target="ort-x64-vnni", include_ops=["Mul", "Add"], placement="full")
    parts = [
        onnxq.calibrate(model, data, target="ort-x64-vnni", placement="full", include_ops=["Mul", "Add"], shard=(i, 3))
        for i in (1, 2, 3)
    ]
    merged = parts[0].merge(parts[2]).merge(parts[1])
    assert (
        (merged.samples, merged.data_fingerprint)
        == (whole.samples, whole.data_fingerprint)
        == (7, whole.data_fingerprint)
    )
    assert dict(merged) == dict(whole)


def test_pictures_in_items_are_prepared_as_files_are(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    inputs = InputSpecs([InputSpec(name="x", dtype=np.dtype(np.float32), shape=(None, 3, 8, 8))])
    rng = np.random.default_rng(0)
    pictures = [image_module.fromarray(rng.integers(0, 255, (10, 12, 3), dtype=np.uint8)) for _ in range(3)]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")

    def fed(data):
        return np.concatenate([feed["x"] for feed in open_data(data, inputs=inputs, images="imagenet")])

    expected = fed(tmp_path)
    for items in (pictures, [{"image": p, "label": 1} for p in pictures], [(p, 1) for p in pictures]):
        np.testing.assert_array_equal(fed(items), expected)
    with pytest.raises(ConfigError, match="images are described, but the data is not a folder of images and holds no"):
        fed([{"x": np.zeros((1, 3, 8, 8), np.float32)}])


def test_a_preset_for_colours_does_not_fit_a_grey_model(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    image_module.new("L", (8, 8)).save(tmp_path / "a.png")
    grey = InputSpecs([InputSpec(name="x", dtype=np.dtype(np.float32), shape=(None, 1, 8, 8))])
    with pytest.raises(DataError, match=r"images='imagenet' .* input 'x' .* has one channel\n.*\(--mean and --std\)"):
        open_data(tmp_path, inputs=grey, images="imagenet")
    for images in ("paddleocr", "yolo"):
        assert next(iter(open_data(tmp_path, inputs=grey, images=images)))["x"].shape == (1, 1, 8, 8)
