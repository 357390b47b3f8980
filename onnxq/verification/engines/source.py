"""Hands a model to an engine that reads files."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from onnxq.graph.saving import save_model
from onnxq.graph.scratch_weights import is_of_large_model


def model_file(model: ModelProto | str | Path, folder: Path, base_dir: Path | None = None) -> Path:
    """The path of a file that holds `model`: its own, or one written into `folder`.

    Args:
        model: The model, or the path of its file.
        folder: A temporary folder.
        base_dir: Folder of the external data that a model given as a message refers to.

    Returns:
        The path; large weights lie in a second file beside it.

    Raises:
        ModelError: the model refers to external data, and `base_dir` is not known or does not hold it.
    """
    if not isinstance(model, ModelProto):
        return Path(model).resolve()
    path = folder / "model.onnx"
    # Inside the file, the weights of a large model would be in memory several times.
    save_model(model, path, base_dir=base_dir, external=is_of_large_model(model.graph.initializer))
    return path
