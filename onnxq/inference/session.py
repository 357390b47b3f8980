"""onnxruntime sessions: the one place where calibration and verification create and run them.

A session takes the model from memory. Weights that lie in external files stay there where onnxruntime can be told the
folder (1.21 and later); where it cannot, or where the message would pass protobuf's 2 GiB, the model goes through a
temporary folder that lives as long as the session.

Outputs come without a copy: since 1.21 `InferenceSession.run` hands out arrays over onnxruntime's own buffer (1.18
still copies, at 0.6 ns an element). Callers that run a model often and keep nothing of its outputs give it arrays to
write into (`Session.bind`): memory that is asked for anew in every run costs more than a small model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxq.errors import DataError, ModelError
from onnxq.files.scratch import ScratchFolder, blamed_on_room
from onnxq.graph.external_data import in_draft, is_external, take_inside, weights_are_large
from onnxq.graph.messages import attribute, frame_of
from onnxq.graph.scratch_weights import is_of_large_model
from onnxq.inference.custom_ops import session_options
from onnxq.inference.hints import hint_of_loading
from onnxq.inference.mapped_weights import with_drafts_mapped
from onnxq.inference.providers import DEFAULT_PROVIDERS, known_providers
from onnxq.numerics.qtypes import QTYPES
from onnxq.runtime import ort

# Protobuf refuses messages of 2 GiB; what is left covers the message around the weights.
_MESSAGE_LIMIT = 2**31 - 2**20

# Errors reach the user as exceptions; onnxruntime would print the same text to stderr once more at level 3.
_FATAL_ONLY = 4

_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
_FOLDER_OPTION_SINCE = (1, 21)

_TENSOR_TYPES = {
    f"tensor({name})": dtype
    for name, dtype in (
        ("float", TensorProto.FLOAT),
        ("float16", TensorProto.FLOAT16),
        ("bfloat16", TensorProto.BFLOAT16),
        ("double", TensorProto.DOUBLE),
        ("int64", TensorProto.INT64),
        ("int32", TensorProto.INT32),
        ("uint8", TensorProto.UINT8),
        ("int8", TensorProto.INT8),
        ("bool", TensorProto.BOOL),
        ("string", TensorProto.STRING),
    )
}
"""onnxruntime's words for types."""

_FAILED_NODE = re.compile(r"while running (\S+) node\. Name:'(.*?)' Status Message: (.*)", re.DOTALL)
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")
_SOURCE_LINE = re.compile(r"\S+\.(?:h|cc|cpp):\d+ (?:onnxruntime::)?[^(]*\([^)]*\) ")


class Session:
    """A model loaded into onnxruntime.

    Attributes:
        output_names: Names of the model's outputs, in order.
        providers: Execution providers in use, first choice first.
    """

    def __init__(self, session: ort.InferenceSession, held: object = None) -> None:
        self._session = session
        # What `loadable` wants to outlive the session.
        self._held = held
        self.output_names: tuple[str, ...] = tuple(o.name for o in session.get_outputs())
        self.providers: tuple[str, ...] = tuple(session.get_providers())

    def output_types(self) -> list[ValueInfoProto]:
        """What onnxruntime knows of the outputs, in order; without a type where they are no tensors."""
        return [_value_info(output) for output in self._session.get_outputs()]

    def run(self, feed: Mapping[str, NDArray[Any]], *, where: str = "input") -> list[NDArray[Any]]:
        """Run the model once.

        Args:
            feed: An array for each input of the model.
            where: What the feed is called in errors, such as "calibration batch 3".

        Returns:
            The outputs in the order of `output_names`.

        Raises:
            DataError: onnxruntime refuses the arrays, or a node fails on them.
        """
        try:
            outputs: list[NDArray[Any]] = self._session.run(None, dict(feed))
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's own classes share no base but Exception
            raise _run_error(error, feed, where) from error
        return outputs

    def bind(
        self, outputs: Mapping[str, NDArray[Any]], inputs: Mapping[str, NDArray[Any]], *, others: Sequence[str] = ()
    ) -> Binding:
        """Arrays for `run_into` to write into.

        Args:
            outputs: C-contiguous arrays by output, of its shape and element type.
            inputs: Inputs that are the same in every run.
            others: Outputs for which onnxruntime takes memory itself.
        """
        return Binding(self._session, outputs, inputs, others)

    def run_into(
        self, feed: Mapping[str, NDArray[Any]], binding: Binding, *, where: str = "input"
    ) -> list[NDArray[Any]]:
        """As `run`, with outputs in the arrays of `binding`.

        Args:
            feed: As for `run`, without the inputs of `binding`.
            binding: From `bind`.
            where: As for `run`.

        Returns:
            The `others` of `bind`.

        Raises:
            DataError: as for `run`; also where an output has another shape than its array.
        """
        try:
            for name, array in feed.items():
                binding.io.bind_cpu_input(name, array)
            self._session.run_with_iobinding(binding.io)
            # Bindings wait for their next run without the arrays of the last one.
            for name, array in feed.items():
                binding.io.bind_cpu_input(name, np.empty(0, array.dtype))
            return binding.others()
        except MemoryError:
            raise
        except Exception as error:  # as in `run`
            raise _run_error(error, feed, where) from error


class Binding:
    """Outputs and inputs of a session bound to arrays, which it keeps alive."""

    def __init__(
        self,
        session: ort.InferenceSession,
        outputs: Mapping[str, NDArray[Any]],
        inputs: Mapping[str, NDArray[Any]],
        others: Sequence[str],
    ) -> None:
        self.io = session.io_binding()
        self._arrays = (outputs, inputs)
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in outputs.items()}
        for name, value in self._values.items():
            self.io.bind_ortvalue_output(name, value)
        for name in others:
            self.io.bind_output(name)
        for name, array in inputs.items():
            self.io.bind_cpu_input(name, array)
        self._others = len(others)

    def others(self) -> list[NDArray[Any]]:
        """What the last run left in memory of onnxruntime's own."""
        return [value.numpy() for value in self.io.get_outputs()[-self._others :]] if self._others else []


# Before a Q with fp8 or 4-bit codes onnxruntime 1.32 drops a Relu as if codes were uint8, and cannot load a Clip.
_WRONG_FOR_OTHER_CODES = ("ReluQuantRewrite", "ClipQuantRewrite")
_OTHER_CODES = frozenset(t.onnx_type for t in QTYPES.values() if t.is_float or t.bits < 8)


def make_session(  # noqa: PLR0913 - one keyword for each option of onnxruntime that callers set
    model: ModelProto | Path,
    *,
    optimise: bool = True,
    threads: int | None = None,
    providers: Sequence[str] | str | None = None,
    base_dir: Path | None = None,
    optimised_model_path: Path | None = None,
    disabled_optimizers: Sequence[str] = (),
    stop_spinning: bool = False,
    in_stored_order: bool = False,
) -> Session:
    """Load a model into onnxruntime.

    Args:
        model: The model, or the file it lies in.
        optimise: All of onnxruntime's graph optimisations (its default), or none.
        threads: Threads within a node; None leaves the choice to onnxruntime.
        providers: Execution providers in fall-back order, by a name of PROVIDERS or onnxruntime's; None means the CPU.
        base_dir: Folder that the external data of a model in memory is relative to.
        optimised_model_path: Where onnxruntime writes the graph that it really runs.
        disabled_optimizers: Names of onnxruntime's optimisers to leave out.
        stop_spinning: Whether idle threads of onnxruntime let go of their core as soon as a run has ended; by default
            they keep it busy for a while.
        in_stored_order: Whether nodes run in the order of the model's list; by default nodes that nothing but outputs
            depends on run last.

    Raises:
        ConfigError: a provider is not part of this onnxruntime.
        ModelError: onnxruntime cannot load the model.
    """
    options = session_options()
    options.log_severity_level = _FATAL_ONLY
    read = onnx.load(model, load_external_data=False) if isinstance(model, Path) else model
    options.graph_optimization_level = optimisation_level(read, optimise)
    if threads is not None:
        options.intra_op_num_threads = threads
    if stop_spinning:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if in_stored_order:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if optimised_model_path is not None:
        options.optimized_model_filepath = str(optimised_model_path)
    chosen = known_providers(providers, ort.get_available_providers())
    left_out = [*disabled_optimizers, *(_WRONG_FOR_OTHER_CODES if _quantizes_to_other_codes(read) else ())]
    extra = {"disabled_optimizers": left_out} if left_out else {}
    source, held = (str(model), None) if isinstance(model, Path) else loadable(model, base_dir, options)
    del model, read  # a copy of the weights, unless the caller keeps it, while onnxruntime makes more
    try:
        session = ort.InferenceSession(source, options, providers=chosen, **extra)
    except MemoryError:
        raise
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        raise ModelError(
            f"onnxruntime cannot load the model: {_useful(str(error))}", hint=hint_of_loading(str(error))
        ) from error
    if tuple(chosen) == DEFAULT_PROVIDERS:
        # onnxruntime keeps the bytes that it was given, to fall back to the CPU; nothing public makes it let go.
        session.disable_fallback()
        session._model_bytes = None
    return Session(session, held)


def optimisation_level(model: ModelProto, optimise: bool = True) -> ort.GraphOptimizationLevel:
    """All optimisations, or none; for models that compute in float16, all but those of layouts.

    onnxruntime 1.32 folds constants once more for layouts, and ends the process by that on float16 graphs of PyTorch
    (a TransformerEncoder exported with dynamo=True). Its blocked layouts are for float32 alone.
    """
    level = ort.GraphOptimizationLevel
    if not optimise:
        return level.ORT_DISABLE_ALL
    return level.ORT_ENABLE_EXTENDED if _computes_in_half(model) else level.ORT_ENABLE_ALL


def _computes_in_half(model: ModelProto) -> bool:
    half = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    half |= {i.name for i in model.graph.input if i.type.tensor_type.elem_type == TensorProto.FLOAT16}
    for node in model.graph.node:
        # Constants that are only stored in float16 are read by a Cast.
        if node.op_type != "Cast" and not half.isdisjoint(node.input):
            return True
        if attribute(node, "to") == TensorProto.FLOAT16:
            return True
    return False


def _quantizes_to_other_codes(model: ModelProto) -> bool:
    return any(tensor.data_type in _OTHER_CODES for tensor in model.graph.initializer)


def loadable(model: ModelProto, base_dir: Path | None, options: ort.SessionOptions) -> tuple[bytes | str, object]:
    """`model` in a form that this onnxruntime loads, with its external data and whatever its size.

    Args:
        model: The model.
        base_dir: Folder that its external data is relative to.
        options: The session's options, which learn where the data is where onnxruntime knows how, and how to do with
            little memory where the weights are large.

    Returns:
        Bytes or a path, and what has to outlive the session.

    Raises:
        ModelError: external data cannot be read.
    """
    tensors = model.graph.initializer
    if weights_are_large(tensors):
        # Packed for its kernels, onnxruntime would hold all weights in memory; as they are it maps them from the files.
        # Smaller ones, such as the codes of a large model, are packed: products of 4-bit weights are ten times faster.
        options.add_session_config_entry("session.disable_prepacking", "1")
        outside = {tensor.name for tensor in tensors if is_external(tensor)}
        if any(node.op_type == "Cast" and node.input[0] in outside for node in model.graph.node):
            # Else all weights that lie in float16 would be in memory in float32. What optimises layouts folds them too.
            options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
            level = ort.GraphOptimizationLevel
            options.graph_optimization_level = min(options.graph_optimization_level, level.ORT_ENABLE_EXTENDED, key=int)
    if is_of_large_model(tensors):
        # What is let go is for the next weight that is converted. An arena would keep it, and double what it asks for
        # each time; a pattern would take one block for all that lives at a time, beside what the first run took.
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        model = _converting_late(model)
    external = any(map(is_external, tensors))
    held: object = None
    if external and _version() >= _FOLDER_OPTION_SINCE:
        if any(map(in_draft, tensors)):
            model, base_dir, held = with_drafts_mapped(model, base_dir, options)
        if base_dir is not None:
            options.add_session_config_entry(_FOLDER_OPTION, str(base_dir))
    if external and (base_dir is None or _version() < _FOLDER_OPTION_SINCE):
        whole = ModelProto()
        whole.CopyFrom(model)
        for tensor in filter(is_external, whole.graph.initializer):
            take_inside(tensor, base_dir)
        model = whole
    if model.ByteSize() < _MESSAGE_LIMIT:
        return model.SerializeToString(), held
    return _through_folder(model)


def _converting_late(model: ModelProto) -> ModelProto:
    """`model` with the weights' DequantizeLinear and Casts in front of all other nodes.

    onnxruntime orders nodes from the outputs back, and of a node's inputs the one that stands first in the model comes
    last: each weight is then converted right before its use, not all of them before anything else.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    from_weights = [
        n for n in model.graph.node if n.op_type in ("Cast", "DequantizeLinear") and n.input[0] in constants
    ]
    first = sorted(from_weights, key=lambda node: node.op_type)  # Casts, which give scales, too
    if not first:
        return model
    moved = {node.output[0] for node in first}
    ordered = frame_of(model)
    ordered.graph.node.extend(first)
    ordered.graph.node.extend(n for n in model.graph.node if not moved.intersection(n.output))
    for name in ("initializer", "input", "output", "value_info"):
        getattr(ordered.graph, name).extend(getattr(model.graph, name))
    return ordered


def _through_folder(model: ModelProto) -> tuple[str, ScratchFolder]:
    folder = ScratchFolder()
    path = Path(folder.name) / "model.onnx"
    whole = ModelProto()
    whole.CopyFrom(model)  # saving with external data empties the message that it is given
    with blamed_on_room(path.parent):
        onnx.save_model(whole, str(path), save_as_external_data=True, location="weights.bin")
    return str(path), folder


def runtime_version() -> str:
    """Version of the onnxruntime in use."""
    return str(ort.__version__)


def _version() -> tuple[int, int]:
    major, minor = ort.__version__.split(".")[:2]
    return int(major), int(minor)


def _value_info(output: ort.NodeArg) -> ValueInfoProto:
    if output.type not in _TENSOR_TYPES:
        return ValueInfoProto(name=output.name)
    # Of a scalar and of a tensor of unknown rank onnxruntime says the same.
    return helper.make_tensor_value_info(output.name, _TENSOR_TYPES[output.type], output.shape or None)


def _run_error(error: Exception, feed: Mapping[str, NDArray[Any]], where: str) -> DataError:
    shapes = ", ".join(f"{name!r} {array.dtype} {array.shape}" for name, array in feed.items())
    return DataError(
        f"onnxruntime cannot run the model: {_useful(str(error))} (fed {shapes})",
        where=where,
        hint="check the shapes and values of the data; the same input has to run in onnxruntime itself.",
    )


def _useful(text: str) -> str:
    """onnxruntime's message without error codes, its own source lines and stack."""
    text = _CODE.sub("", text.strip())
    failed = _FAILED_NODE.search(text)
    if failed:
        op_type, name, status = failed.groups()
        return f"{op_type} node {name!r}: {' '.join(_SOURCE_LINE.sub('', status).split())}"
    return " ".join(text.split())
