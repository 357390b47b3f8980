"""Hands a model to an engine that reads files."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import load_external_data_for_model

from onnxq.errors import ModelError

_EXTERNAL_ABOVE_BYTES = 1 << 30


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
    own = ModelProto()
    own.CopyFrom(model)  # both reading and writing external data change the message
    if any(t.data_location == TensorProto.EXTERNAL for t in own.graph.initializer):
        try:
            load_external_data_for_model(own, str(base_dir or ""))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelError(f"the model's external data cannot be read: {error}") from error
    large = sum(len(t.raw_data) for t in own.graph.initializer) > _EXTERNAL_ABOVE_BYTES
    onnx.save(own, str(path), save_as_external_data=large, location="weights.data" if large else None)
    return path
