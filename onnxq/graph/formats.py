"""Files that are often given in place of an ONNX model, recognised by their first bytes.

An ONNX file has no signature of its own: it is a bare protobuf message. What is recognised here is what people really
pass by mistake: checkpoints of other frameworks, compiled engines, and Git LFS pointers left by an incomplete clone.
"""

from __future__ import annotations

from dataclasses import dataclass

_EXPORT_TORCH = "export it with torch.onnx.export(model, args, 'model.onnx') and pass that file"
_EXPORT_TF = (
    "convert it with `python -m tf2onnx.convert` (--saved-model, --keras, --graphdef or --tflite) and pass the result"
)


@dataclass(frozen=True)
class FileFormat:
    """A format that is not ONNX.

    Attributes:
        what: What the file is, to follow "this is".
        hint: How to get from it to an ONNX file.
    """

    what: str
    hint: str


_FORMATS: tuple[tuple[int, bytes, FileFormat], ...] = (
    (0, b"PK\x03\x04", FileFormat("a zip archive (a PyTorch checkpoint, TorchScript or Keras file?)", _EXPORT_TORCH)),
    (0, b"\x80\x02", FileFormat("a Python pickle (a PyTorch checkpoint?)", _EXPORT_TORCH)),
    (0, b"\x80\x04", FileFormat("a Python pickle (a PyTorch checkpoint?)", _EXPORT_TORCH)),
    (0, b"\x89HDF\r\n\x1a\n", FileFormat("an HDF5 file (Keras weights?)", _EXPORT_TF)),
    (4, b"TFL3", FileFormat("a TensorFlow Lite model", _EXPORT_TF)),
    (4, b"ORTM", FileFormat("an onnxruntime .ort model", "pass the .onnx file that it was converted from")),
    (0, b"GGUF", FileFormat("a GGUF file", "pass the ONNX export of the model")),
    (8, b'{"', FileFormat("a safetensors file", "it holds weights without a graph: " + _EXPORT_TORCH)),
    (0, b"\x93NUMPY", FileFormat("a numpy array", "pass it as data= (--data), and an ONNX file as the model")),
    (0, b"ftrt", FileFormat("a TensorRT engine", "pass the ONNX file that it was built from")),
    (0, b"ptrt", FileFormat("a TensorRT engine", "pass the ONNX file that it was built from")),
    (
        0,
        b"version https://git-lfs",
        FileFormat("a Git LFS pointer, not the file it stands for", "fetch the file with `git lfs pull`"),
    ),
    (0, b"<?xml", FileFormat("an XML file (OpenVINO IR?)", "pass the ONNX file that it was converted from")),
    (
        0,
        b"<!DOCTYPE",
        FileFormat("an HTML page (a failed download?)", "download the file itself, not the page about it"),
    ),
    (0, b"<html", FileFormat("an HTML page (a failed download?)", "download the file itself, not the page about it")),
)


def foreign_format(data: bytes) -> FileFormat | None:
    """The format of a file that is known not to be ONNX, from its content or first bytes; None if unknown.

    >>> foreign_format(b"GGUF" + bytes(8)).what
    'a GGUF file'
    """
    for offset, magic, form in _FORMATS:
        if data[offset : offset + len(magic)] == magic:
            return form
    return None


TF_SAVED_MODEL = FileFormat("a TensorFlow SavedModel", _EXPORT_TF)
