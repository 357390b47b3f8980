"""Models in and out: from a path, bytes or a message to a `Graph`, a digest that names the model, and what is asked of
it.

Loading reads no external data: large weights stay in their files until a value is asked for. A model is checked on the
way in, so everything after it may rely on a valid graph.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, NodeProto

from onnxq.errors import ModelError
from onnxq.graph.formats import TF_SAVED_MODEL, FileFormat, foreign_format
from onnxq.graph.messages import external_size_bytes
from onnxq.graph.opset import upgrade_opset
from onnxq.graph.saving import save_model
from onnxq.graph.view import STANDARD_DOMAINS, Graph, bodies

__all__ = [
    "ModelSource",
    "get_metadata",
    "is_quantized",
    "load_graph",
    "model_digest",
    "quantized_nodes",
    "save_model",
    "set_metadata",
    "size_bytes",
    "upgrade_opset",
]

ModelSource = str | os.PathLike[str] | bytes | ModelProto
"""What a model may be given as."""

_NOT_ONNX = "check that the model argument (MODEL) names a complete ONNX file; a download may have been cut off"

# Before version 3 a model names no operator set, and no current tool can run it.
_OLDEST_IR = 3

_QUANTIZED_OPS = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "ConvInteger",
        "MatMulInteger",
        # com.microsoft
        "ConvIntegerToFloat",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "MatMulNBits",
        "GatherBlockQuantized",
        "QAttention",
        "QGemm",
        "QMoE",
        "QEmbedLayerNormalization",
        "QOrderedMatMul",
    }
)


def load_graph(model: ModelSource) -> Graph:
    """Read and check a model.

    Args:
        model: A path, the bytes of a file, or a message (which is not changed).

    Returns:
        The model as a graph in topological order; local functions are inlined.

    Raises:
        ModelError: there is no such file, it is not ONNX, is cut off, is newer than the installed onnx, or is not
        valid.
    """
    if isinstance(model, ModelProto):
        return _checked(model, None, "the model")
    if isinstance(model, bytes):
        return _checked(_parsed(model, "the model"), None, "the model")
    if not isinstance(model, (str, os.PathLike)):
        raise ModelError(
            f"a model is a path, bytes or an onnx.ModelProto, not {type(model).__name__}",
            hint="pass the path of an .onnx file",
        )
    path = Path(model)
    return _checked(_parsed(_file_content(path), f"model {str(path)!r}"), path.parent, f"model {str(path)!r}")


def model_digest(model: Graph | ModelProto) -> str:
    """A name for the content of a model: equal for the same model given as a path, as bytes or as a message.

    External data counts by reference (location, offset, length), not by its bytes.

    Returns:
        64 hexadecimal digits (SHA-256 over the deterministic serialization, part by part).
    """
    graph = model if isinstance(model, Graph) else _checked(model, None, "the model")
    sha = hashlib.sha256()
    for part in _parts(graph):
        data = part.SerializeToString(deterministic=True)
        # With its length before it, no two lists of parts run together into the same bytes.
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()


def size_bytes(graph: Graph) -> int:
    """Size of the model as stored, external data included (without protobuf's few bytes of framing)."""
    external = sum(external_size_bytes(tensor) for tensor in graph.initializers.values())
    return int(external + sum(part.ByteSize() for part in _parts(graph)))


def quantized_nodes(graph: Graph) -> list[str]:
    """Names of the nodes that quantize, dequantize or compute on integers in place of floats, bodies included."""
    return [node.name for node in graph.nodes if _holds_quantized_op(node)]


def is_quantized(graph: Graph) -> bool:
    """Whether the model was quantized before."""
    return bool(quantized_nodes(graph))


def set_metadata(model: ModelProto, entries: Mapping[str, str]) -> None:
    """Write `entries` to the metadata of `model`, in place, over entries of the same name, in sorted order."""
    merged = {**get_metadata(model), **entries}
    del model.metadata_props[:]
    for key in sorted(merged):
        model.metadata_props.add(key=key, value=merged[key])


def get_metadata(model: ModelProto) -> dict[str, str]:
    """The metadata entries of `model`."""
    return {entry.key: entry.value for entry in model.metadata_props}


def _file_content(path: Path) -> bytes:
    where = f"model {str(path)!r}"
    if path.is_dir():
        if (path / "saved_model.pb").exists():
            raise _foreign(TF_SAVED_MODEL, where)
        raise ModelError("this is a folder, not a file", where=where, hint="pass the .onnx file inside it")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError("there is no such file", where=where, hint="check the model argument (MODEL)") from None
    except OSError as error:
        raise ModelError(f"the file cannot be read: {error.strerror}", where=where, hint=_NOT_ONNX) from error


def _parsed(data: bytes, where: str) -> ModelProto:
    if not data:
        raise ModelError("the file is empty", where=where, hint=_NOT_ONNX)
    if (form := foreign_format(data)) is not None:
        raise _foreign(form, where)
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError("this is not an ONNX model, or it is cut off", where=where, hint=_NOT_ONNX) from None
    return model


def _foreign(form: FileFormat, where: str) -> ModelError:
    return ModelError(f"this is {form.what}, not an ONNX model", where=where, hint=form.hint)


def _checked(model: ModelProto, base_dir: Path | None, where: str) -> Graph:
    _check_frame(model, where)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = Graph(model, base_dir)
    # The order of nodes is a matter of writing: runtimes accept any, the checker and the passes do not.
    graph.sort()
    try:
        onnx.checker.check_model(graph.skeleton())
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"this is not a valid ONNX model: {str(error).strip()}", where=where, hint="export the model again"
        ) from error
    return graph


def _check_frame(model: ModelProto, where: str) -> None:
    """What can be told from the outside: a graph with content, of versions that can be worked with."""
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError("the model has no nodes", where=where, hint=_NOT_ONNX)
    if model.ir_version < _OLDEST_IR:
        raise ModelError(
            f"IR version {model.ir_version} is older than any supported one ({_OLDEST_IR})",
            where=where,
            hint="export the model again with a current exporter",
        )
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"IR version {model.ir_version} is newer than the installed onnx {onnx.__version__} knows "
            f"({onnx.IR_VERSION})",
            where=where,
            hint="upgrade onnx (pip install -U onnx onnxruntime)",
        )
    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in STANDARD_DOMAINS and entry.version > newest:
            raise ModelError(
                f"opset {entry.version} is newer than the installed onnx {onnx.__version__} knows ({newest})",
                where=where,
                hint="upgrade onnx (pip install -U onnx onnxruntime)",
            )


def _parts(graph: Graph) -> Iterator[Message]:
    yield graph.frame
    yield from graph.inputs.values()
    yield from graph.outputs.values()
    yield from graph.initializers.values()
    yield from graph.nodes


def _holds_quantized_op(node: NodeProto) -> bool:
    if node.op_type in _QUANTIZED_OPS or node.op_type.startswith("QLinear"):
        return True
    return any(_holds_quantized_op(inner) for body in bodies(node) for inner in body.node)
