"""A folder that holds what the pages name: model.onnx and its samples, photographs, sounds, statistics, caches.

model.onnx is a small network on colour pictures with the parts that pages talk about: a backbone, a head with a MatMul,
a Softmax. Recipes bring real models of their own.
"""

from __future__ import annotations

import atexit
import csv
import functools
import shutil
import tempfile
import wave
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxq
from onnxq.cli.main import cli
from onnxq.graph.view import Graph
from tests.cli.conftest import RUNNER
from tests.docs.pages import DOCS, blocks_of
from tests.qat_graphs import fake_quantized
from tests.zoo import ZOO
from tests.zoo.packages import package_file
from tests.zoo.silero import RATE, speech
from tests.zoo.text_lines import text_line

MODELS = Path(__file__).parents[2] / "models"
CLASSES = 4
SIDE = 64


def model() -> ModelProto:
    """images (n, 3, 64, 64) -> /backbone/output (n, 64, 16, 16) -> scores (n, 4)."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["images", "w1"], ["c1"], "/backbone/conv1", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "/backbone/relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "/backbone/conv2", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["/backbone/output"], "/backbone/relu2"),
        helper.make_node("GlobalAveragePool", ["/backbone/output"], ["p"], "/head/pool"),
        helper.make_node("Flatten", ["p"], ["f"], "/head/flatten"),
        helper.make_node("MatMul", ["f", "w3"], ["h"], "/head/MatMul"),
        helper.make_node("Relu", ["h"], ["hr"], "/head/relu"),
        helper.make_node("MatMul", ["hr", "w4"], ["logits"], "/head/MatMul_1"),
        helper.make_node("Softmax", ["logits"], ["scores"], "/head/Softmax"),
    ]
    weights = [weight("w1", 32, 3, 3, 3), weight("w2", 64, 32, 3, 3)]
    for name, shape, size in (("w3", (64, 64), 0.2), ("w4", (64, CLASSES), 2.0)):
        weights.append(numpy_helper.from_array(size * rng.standard_normal(shape).astype(np.float32), name))
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES])]
    graph = helper.make_graph(nodes, "pictures", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def pictures(count: int, seed: int) -> np.ndarray:
    """Flat colours with texture, float32 (count, 3, 64, 64) within 0..1."""
    rng = np.random.default_rng(seed)
    colours = rng.uniform(0.1, 0.9, (count, 3, 1, 1))
    return np.clip(colours + rng.normal(0, 0.08, (count, 3, SIDE, SIDE)), 0, 1).astype(np.float32)


def _classes(images: np.ndarray) -> np.ndarray:
    import onnxruntime as ort  # noqa: PLC0415

    session = ort.InferenceSession(model().SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0]).argmax(axis=1)


def _kept_till_the_end(prefix: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _made() -> Path:
    folder = _kept_till_the_end("onnxq-docs-")
    onnx.save(model(), str(folder / "model.onnx"))
    np.savez(folder / "samples.npz", images=pictures(64, 1))
    test = pictures(200, 2)
    np.savez(folder / "test.npz", images=test, labels=_classes(test))
    _photos(folder / "photos")
    _sounds(folder / "clips")
    source, samples = folder / "model.onnx", folder / "samples.npz"
    onnxq.quantize(source, samples, target="ort-x64-vnni", output=folder / "model.int8.onnx")
    for name in ("a.onnx", "b.onnx"):
        shutil.copy(folder / "model.int8.onnx", folder / name)
    onnxq.calibrate(source, samples).save(folder / "model.stats")
    for i in range(1, 17):
        onnxq.calibrate(source, samples, shard=(i, 16)).save(folder / f"part-{i}.stats")
    onnxq.calibrate(source, samples, target="tensorrt").save(folder / "trt.stats")
    written = RUNNER.invoke(cli, ["cache", str(folder / "trt.stats"), "-o", str(folder / "model.cache")])
    assert written.exit_code == 0, written.output
    _trained(folder)
    frames = next(b.text for b in blocks_of(DOCS / "data.md") if b.text.startswith("# frames.py"))
    (folder / "frames.py").write_text(frames, encoding="utf-8")
    if (vad := package_file("silero_vad", "data/silero_vad_op18_ifless.onnx")) is not None:
        shutil.copy(vad, folder / "vad.onnx")
    return folder


def _photos(folder: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    images = pictures(24, 3)
    for number, (image, label) in enumerate(zip(images, _classes(images), strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.transpose(1, 2, 0) * 255).astype(np.uint8)).resize((48, 40)).save(
            place / f"{number}.png"
        )


def _sounds(folder: Path) -> None:
    folder.mkdir()
    for seed in (21, 5):
        with wave.open(str(folder / f"{seed}.wav"), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(RATE)
            out.writeframes((speech(seed)[: 20 * 512] * 32767).astype("<i2").tobytes())


def _trained(folder: Path) -> None:
    """model.onnx as a training with fake quantization exports it."""
    graph = Graph(onnx.shape_inference.infer_shapes(model()))
    feeds = {"images": pictures(8, 4)}
    fake_quantized(
        graph, ["images", "r1", "f", "hr"], {"w1": 0, "w2": 0, "w3": 1, "w4": 1}, feeds, form="int8-symmetric"
    )
    onnx.save(graph.to_model(), str(folder / "trained.onnx"))


@functools.cache
def _real() -> Path:
    """What the recipes are about: models of this repository and of pip packages, with data in files."""
    folder = _kept_till_the_end("onnxq-recipes-")
    for name, model, data in (("resnet", "digits_resnet", "digits"), ("bert", "wordlang_transformer", "words")):
        shutil.copy(MODELS / f"{model}.onnx", folder / f"{name}.onnx")
        shutil.copy(MODELS / f"{model}.calib.npz", folder / f"{data}.npz")
        shutil.copy(MODELS / f"{model}.test.npz", folder / f"{data}_test.npz")
    _words(folder)
    _street(folder)
    _lines(folder)
    return folder


def _words(folder: Path) -> None:
    """The tokenizer of the transformer in the form of the package tokenizers, and words for it."""
    import tokenizers  # noqa: PLC0415

    meta = {p.key: p.value for p in onnx.load(str(folder / "bert.onnx")).metadata_props}
    vocabulary = {"[PAD]": 0, "[START]": 1, "[UNK]": 2, **{c: i for i, c in enumerate(meta["alphabet"], start=3)}}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[START] $A", special_tokens=[("[START]", 1)])
    made.enable_truncation(17)
    made.save(str(folder / "tokenizer.json"))
    words = (Path(__file__).parents[1] / "zoo" / "words.txt").read_text(encoding="utf-8").split()
    (folder / "words.txt").write_text("\n".join(words[:200]), encoding="utf-8")


def _street(folder: Path) -> None:
    yolo = ZOO["yolov8n_320"].path()
    if yolo is None:
        return
    from PIL import Image  # noqa: PLC0415

    shutil.copy(yolo, folder / "yolo.onnx")
    (folder / "street").mkdir()
    for number, batch in enumerate(ZOO["yolov8n_320"].load("calib", 8)):
        pixels = (batch.feed["images"][0].transpose(1, 2, 0) * 255).astype(np.uint8)
        Image.fromarray(pixels).crop((0, 20, 320, 300)).save(folder / "street" / f"{number:02}.png")


def _lines(folder: Path) -> None:
    recogniser = ZOO["ppocrv4_rec"].path()
    if recogniser is None:
        return
    from PIL import Image  # noqa: PLC0415

    shutil.copy(recogniser, folder / "rec.onnx")
    (folder / "lines").mkdir()
    rows, rng = [], np.random.default_rng(3)
    for number in range(24):
        pixels, text = text_line(rng, 48)
        Image.fromarray(np.ascontiguousarray(pixels[..., ::-1])).save(folder / "lines" / f"{number:02}.png")
        rows.append((f"{number:02}.png", text))
    with (folder / "lines.csv").open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows(rows)


def fill(folder: Path, *, recipes: bool = False) -> None:
    """Put everything into `folder`; for recipes also the real models."""
    shutil.copytree(_made(), folder, dirs_exist_ok=True)
    if recipes:
        shutil.copytree(_real(), folder, dirs_exist_ok=True)
