"""Models in and out: from a path, bytes or a message to a `Graph`, a digest that names the model, and what is asked of
it.

Loading reads no external data, but sees that it is there: large weights stay in their files until a value is asked for.
A model is checked on the way in, so everything after it may rely on a valid graph.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from onnxq.errors import ModelError
from onnxq.graph.checking import check_graph, lacks_type
from onnxq.graph.external_data import (
    check_data,
    is_external,
    locate,
    named_length,
    take_inside,
    tensors_in,
    tensors_of,
)
from onnxq.graph.formats import TF_SAVED_MODEL, FileFormat, foreign_format
from onnxq.graph.functions import with_functions_inlined
from onnxq.graph.opset import upgrade_opset
from onnxq.graph.saving import save_model
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import STANDARD_DOMAINS, Graph, bodies
from onnxq.wording.sizes import size_text

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

_LARGEST_MESSAGE_BYTES = 2**31 - 1

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
        ModelError: there is no such file, it is not ONNX, is cut off, is newer than the installed onnx, is not valid,
            or lacks external data.
    """
    if isinstance(model, ModelProto):
        return _checked(model, None, "the model")
    if isinstance(model, bytes):
        return _checked(_parsed(model, "the model"), None, "the model")
    if not isinstance(model, (str, os.PathLike)):
        raise ModelError(
            f"a model is a path, bytes or an onnx.ModelProto, not {type(model).__name__}",
            hint="pass its attribute `model`: result.model"
            if isinstance(getattr(model, "model", None), ModelProto)
            else "pass the path of an .onnx file",
        )
    if model == "":  # to Path, the working folder
        raise ModelError("the path of the model is empty", hint="pass the path of an .onnx file")
    path = Path(model)
    return _checked(_parsed(_file_content(path), f"model {str(path)!r}"), path.parent, f"model {str(path)!r}")


def model_digest(model: Graph | ModelProto) -> str:
    """A name for the content of a model: equal for the same model given as a path, as bytes or as a message.

    External data counts by its bytes, so that a model has one digest with its weights inside or beside it. In a
    message, which has no folder to find them in, it counts by reference.

    Returns:
        64 hexadecimal digits (SHA-256 over the deterministic serialization, part by part).

    Raises:
        ModelError: external data cannot be read.
    """
    graph = model if isinstance(model, Graph) else _checked(model, None, "the model")
    sha = hashlib.sha256()
    for part in _parts(graph):
        if isinstance(part, TensorProto):
            # With the weights inside or beside the model: the same bytes.
            bare, length, chunks = _taken_apart(part, graph.base_dir)
            _update(sha, bare.SerializeToString(deterministic=True))
            sha.update(length.to_bytes(8, "little"))
            for chunk in chunks:
                sha.update(chunk)
            continue
        _update(sha, part.SerializeToString(deterministic=True))
    return sha.hexdigest()


def _update(sha: Any, data: bytes) -> None:
    """Add a part with its length before it: no two lists of parts run together into the same bytes."""
    sha.update(len(data).to_bytes(8, "little"))
    sha.update(data)


def _taken_apart(tensor: TensorProto, base_dir: Path | None) -> tuple[TensorProto, int, Iterable[bytes]]:
    """An initializer without its raw bytes, how many those are, and the bytes."""
    if is_external(tensor) and base_dir is not None:
        found = locate(tensor, base_dir)
        length, chunks = found.length, found.chunks()
    elif tensor.HasField("raw_data"):
        length, chunks = len(tensor.raw_data), iter((tensor.raw_data,))
    else:
        return tensor, 0, ()
    bare = TensorProto(name=tensor.name, data_type=tensor.data_type, doc_string=tensor.doc_string, dims=tensor.dims)
    return bare, length, chunks


def size_bytes(model: ModelSource, graph: Graph) -> int:
    """Size of a model as it is stored.

    Args:
        model: What it was given as: a path stands for the file and the files of its external data.
        graph: The same model, loaded.
    """
    external = [tensor for tensor in graph.initializers.values() if is_external(tensor)]
    if isinstance(model, (str, os.PathLike)):
        files = {locate(tensor, graph.base_dir).path for tensor in external}
        return sum(file.stat().st_size for file in (Path(model), *files))
    return (len(model) if isinstance(model, bytes) else int(model.ByteSize())) + sum(map(named_length, external))


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
    try:
        if path.is_dir():
            if (path / "saved_model.pb").exists():
                raise _foreign(TF_SAVED_MODEL, where)
            raise ModelError("this is a folder, not a file", where=where, hint="pass the .onnx file inside it")
        if (size := path.stat().st_size) > _LARGEST_MESSAGE_BYTES:
            raise ModelError(
                f"the file has {size_text(size)}, and protobuf reads at most 2 GiB",
                where=where,
                hint="save it with its weights as external data: onnx.save(..., save_as_external_data=True)",
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise ModelError("there is no such file", where=where, hint="check the model argument (MODEL)") from None
    except PermissionError as error:
        raise ModelError(
            f"the file cannot be read: {error.strerror}", where=where, hint="check the permissions of file and folder"
        ) from error
    except OSError as error:
        raise ModelError(f"the file cannot be read: {error.strerror}", where=where, hint=_NOT_ONNX) from error
    except ValueError as error:  # a null character
        raise ModelError(f"this is no path: {error}", where=where, hint="check the model argument (MODEL)") from error
    if path.suffix.lower() in (".npz", ".npy"):  # bytes of a damaged one may parse as an empty message
        raise ModelError(
            "this is a file of arrays by its name, not an ONNX model",
            where=where,
            hint="pass it as data= (--data), and an ONNX file as the model",
        )
    return content


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


_ORT_OPERATOR = "SimplifiedLayerNormalization"
"""What onnxruntime's optimizer writes under ONNX's own domain, where ONNX has no such operator."""
_SAVED_BY_ORT = (
    f"onnxruntime's optimizer wrote {_ORT_OPERATOR}, which ONNX does not have: give the model as it was before that"
)


def _checked(model: ModelProto, base_dir: Path | None, where: str) -> Graph:
    _check_frame(model, where)
    model = with_functions_inlined(model, where)
    for message in (model, model.graph, *model.opset_import, *model.metadata_props):
        for field, text in message.ListFields():
            if field.type == field.TYPE_STRING:
                _check_text(text, where)
    _check_texts(model.graph, where)
    check_data(tensors_of(model.graph), base_dir)
    _check_names(model, where)
    graph = Graph(model, base_dir)
    if base_dir is not None:
        # The checker would look for the data of constants in the working directory.
        constants = chain(tensors_of(graph.frame.graph), chain.from_iterable(map(tensors_in, graph.nodes)))
        for tensor in filter(is_external, constants):
            take_inside(tensor, base_dir)
    # The order of nodes is a matter of writing: runtimes accept any, the checker and the passes do not.
    graph.sort()
    if any(map(lacks_type, graph.outputs.values())):
        infer_shapes(graph)
    try:
        check_graph(graph)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:  # a text that is none, in a name or attribute
        saved = any(node.op_type == _ORT_OPERATOR for node in graph.nodes)
        hint = _SAVED_BY_ORT if saved else "export the model again"
        raise ModelError(f"this is not a valid ONNX model: {str(error).strip()}", where=where, hint=hint) from error
    return graph


def _check_texts(graph: GraphProto, where: str) -> None:
    """Names are texts: protobuf hands out bytes where they are not in UTF-8."""
    for node in graph.node:
        for name in (node.name, node.op_type, node.domain, *node.input, *node.output):
            _check_text(name, where)
        for attribute in node.attribute:
            _check_text(attribute.name, where)
            if attribute.ref_attr_name:
                raise ModelError(
                    f"attribute {attribute.name!r} of {node.op_type} node {node.name!r} is that of a function, and the "
                    "node is in none",
                    where=where,
                    hint="export the model again",
                )
        for body in bodies(node):
            _check_texts(body, where)
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        for name in (value.name, *(dim.dim_param for dim in dims if dim.HasField("dim_param"))):
            _check_text(name, where)
    for tensor in graph.initializer:
        _check_text(tensor.name, where)


def _check_text(name: str | bytes, where: str) -> None:
    if not isinstance(name, str):
        raise ModelError(f"the name {name!r} is not in UTF-8", where=where, hint=_NOT_ONNX)


def _check_names(model: ModelProto, where: str) -> None:
    """Every tensor is made once: what is made twice would look like a cycle, or hide what it was."""
    made = {v.name: "an input of the model" for v in model.graph.input}
    made |= {t.name: "a constant" for t in model.graph.initializer if t.name not in made}
    for node in model.graph.node:
        by = f"{node.op_type} node {node.name!r}" if node.name else f"a node {node.op_type}"
        for name in filter(None, node.output):
            if name in made:
                raise ModelError(
                    f"tensor {name!r} is defined twice: it is {made[name]}, and the output of {by}",
                    where=where,
                    hint="no runtime loads such a model: give the output another name and export it again "
                    "(a PyTorch module that returns an input as it is can return x.clone())",
                )
            made[name] = f"the output of {by}"
    outputs = Counter(value.name for value in model.graph.output)
    if twice := next((name for name, count in outputs.items() if count > 1), None):
        raise ModelError(
            f"output {twice!r} is listed {outputs[twice]} times, and outputs are known by their names",
            where=where,
            hint="let a node Identity give the value another name (a PyTorch module can return x.clone())",
        )


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
