"""onnxruntime's account of a quantized model: its own optimised graph, read back node by node.

onnxruntime decides while a session is made which Q/DQ groups become integer kernels, and can write the graph it arrived
at (`SessionOptions.optimized_model_filepath`). Before that every node is given a marker for a name; fused and
re-laid-out nodes keep the name of a node they came from (with suffixes like `_token_17`), so the marker leads back.
Fusions that invent a name (LayerNormalization, Gelu) are recognised by the tensor they compute.
Source: https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from onnxq.errors import ModelError
from onnxq.files.scratch import scratch_folder
from onnxq.graph.external_data import weights_are_large
from onnxq.graph.float_types import FLOAT_TYPES
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.inference.custom_ops import session_options
from onnxq.inference.hints import hint_of_loading
from onnxq.inference.session import loadable, optimisation_level
from onnxq.runtime import ort
from onnxq.verification.engines.result import EngineReport, NodeExecution, Precision
from onnxq.verification.reasons.ort import why_float
from onnxq.verification.reasons.reason import Reason, because, past_pairs
from onnxq.verification.structure import MATRIX_OPS, WEIGHT_OPS, dequantizer, is_qdq, quantizes_by_pairs

ENGINE = "onnxruntime"

_MARKER = re.compile(r"@onnxq(\d+)@")
_INTEGER_KERNELS = re.compile(
    r"^(QLinear|QGemm|MatMulInteger|ConvInteger|DynamicQuantize(MatMul|LSTM|Linear)|QAttention|QMoE)"
)
_CODE_TYPES = (TensorProto.INT8, TensorProto.UINT8)
_EXPLAINED = (Precision.FLOAT, Precision.WEIGHTS)
_LAYOUT_OPS = frozenset({"Transpose", "ReorderInput", "ReorderOutput"})
_SMALL_INITIALIZER_BYTES = 1024
_DATA = ".data"


class OrtModel:
    """A model loaded into onnxruntime's CPU provider, callable on a feed.

    Args:
        model: The model, or the path of its file.
        optimised: Whether onnxruntime may optimise the graph. Without, Q and DQ are executed as ONNX defines them.
        base_dir: Folder of the external data that a model given as a message refers to.
        threads: Threads inside one operator; None lets onnxruntime choose.
        optimised_path: Where to write the graph that onnxruntime executes (weights go to a file beside it).
        exact: Whether products with weights behind a DequantizeLinear are computed in float32, not in int8.
        unsaturated: Whether kernels that do not saturate are taken also where this CPU is faster with others. No two
            nodes may read the same int8 constants (`own_codes.py`).

    Raises:
        ModelError: onnxruntime cannot load the model.
    """

    def __init__(  # noqa: PLR0913 - what a session is made with
        self,
        model: ModelProto | str | Path,
        *,
        optimised: bool = True,
        base_dir: Path | None = None,
        threads: int | None = None,
        optimised_path: Path | None = None,
        exact: bool = False,
        unsaturated: bool = False,
    ) -> None:
        options = session_options()
        options.log_severity_level = 4
        read = model if isinstance(model, ModelProto) else onnx.load(model, load_external_data=False)
        options.graph_optimization_level = optimisation_level(read, optimised)
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if unsaturated:
            options.add_session_config_entry("session.x64quantprecision", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        if optimised_path is not None:
            strings = isinstance(model, ModelProto) and any(
                t.data_type == TensorProto.STRING for t in model.graph.initializer
            )
            _write_optimised(options, optimised_path, has_strings=strings)
        source, self._held = loadable(model, base_dir, options) if isinstance(model, ModelProto) else (str(model), None)
        try:
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exception types have no public common base
            raise ModelError(f"onnxruntime cannot load the model: {error}", hint=hint_of_loading(str(error))) from error
        self.inputs: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def __call__(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one batch.

        Args:
            feed: An array for each input of the model.

        Returns:
            An array (or, for sequence outputs, a list) for each output of the model.

        Raises:
            ModelError: onnxruntime fails while running.
        """
        try:
            values = self._session.run(None, dict(feed))
        except Exception as error:
            raise ModelError(f"onnxruntime cannot run the model: {error}") from error
        return dict(zip(self.outputs, values, strict=True))


def _write_optimised(options: ort.SessionOptions, path: Path, *, has_strings: bool) -> None:
    options.optimized_model_filepath = str(path)
    if has_strings:
        return  # onnxruntime 1.20 cannot write strings beside a file of weights
    # Weights go to a file of their own: the graph stays small and models over 2 GB can be written at all.
    prefix = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(prefix + "file_name", path.name + _DATA)
    options.add_session_config_entry(prefix + "min_size_in_bytes", str(_SMALL_INITIALIZER_BYTES))


def executed_precision(model: ModelProto | str | Path, *, base_dir: Path | None = None) -> EngineReport:
    """Ask onnxruntime's CPU provider how it runs each node of a quantized model on this machine.

    Args:
        model: The quantized model, or the path of its file.
        base_dir: Folder of the external data that a model given as a message refers to.

    Returns:
        One entry for each node but Q and DQ.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    if not isinstance(model, ModelProto):
        base_dir = Path(model).resolve().parent
        model = onnx.load(str(model), load_external_data=False)
    graph = _typed_graph(model, base_dir)
    started = time.perf_counter()
    executed = _optimised(_marked(graph), base_dir)
    seconds = time.perf_counter() - started
    return EngineReport(
        engine=ENGINE,
        version=ort.__version__,
        accepted=True,
        nodes=_Reader(graph, executed).executions(),
        engine_ops=dict(Counter(n.op_type for n in executed.graph.node)),
        build_seconds=seconds,
    )


def _typed_graph(model: ModelProto, base_dir: Path | None) -> Graph:
    graph = Graph(model, base_dir)
    infer_shapes(graph)
    return graph


def _marked(graph: Graph) -> ModelProto:
    model = graph.to_model()
    for index, node in enumerate(model.graph.node):
        node.name = f"@onnxq{index}@"
    return model


def _optimised(model: ModelProto, base_dir: Path | None) -> ModelProto:
    with scratch_folder() as folder:
        path = folder / "optimised.onnx"
        if weights_are_large(model.graph.initializer) and os.devnull == "/dev/null":
            # Only nodes are looked at: the weights, as many gigabytes again, need not be written.
            path.with_name(path.name + _DATA).symlink_to(os.devnull)
        OrtModel(model, base_dir=base_dir, optimised_path=path)
        return onnx.load(str(path), load_external_data=False)


class _Reader:
    """Matches the nodes of the optimised graph to those they came from."""

    def __init__(self, graph: Graph, executed: ModelProto) -> None:
        self._graph = graph
        self._originals = graph.nodes
        self._types = _tensor_types(executed)
        self._by_pairs = quantizes_by_pairs(graph)
        self._found: dict[str, NodeProto] = {}
        # Layout conversions and moved Q/DQ are named after the node they serve: they count only if nothing better does.
        for node in sorted(executed.graph.node, key=lambda n: is_qdq(n) or n.op_type in _LAYOUT_OPS):
            for original in self._sources(node):
                self._found.setdefault(original, node)

    def _sources(self, node: NodeProto) -> list[str]:
        marks = [self._originals[int(m)] for m in _MARKER.findall(node.name)]
        names = [n.name for n in marks if not is_qdq(n)]
        if names:
            return names
        # A name that onnxruntime made up: the tensor it computes tells where it came from. Blocked-layout kernels are
        # called after that tensor.
        tensors = [*node.output, node.name.removesuffix("_nchwc")]
        producers = (self._graph.producer(t) for t in tensors if t)
        return [p.name for p in producers if p is not None and not is_qdq(p) and not is_qdq(node)]

    def executions(self) -> tuple[NodeExecution, ...]:
        done: dict[str, NodeExecution] = {}
        for node in self._originals:
            if not is_qdq(node):
                done[node.name] = self._execution(node, done)
        return tuple(done.values())

    def _execution(self, node: NodeProto, done: Mapping[str, NodeExecution]) -> NodeExecution:
        found = self._found.get(node.name)
        if found is None:
            precision, text = self._absorbed(node, done)
            reason, kernel = Reason(text=text), ""
            if precision is Precision.FLOAT and node.op_type in MATRIX_OPS:
                reason = why_float(self._graph, node)
        else:
            precision, kernel = self._precision(found), found.op_type
            if precision is Precision.FLOAT and self._is_integer(node):
                precision = Precision.OTHER
            reason = self._why(node, found) if precision in _EXPLAINED else Reason(text="")
        return NodeExecution(
            node=node.name, op=node.op_type, precision=precision, engine_op=kernel, why=reason.text, rule=reason.rule
        )

    def _precision(self, found: NodeProto) -> Precision:
        if found.op_type in WEIGHT_OPS:
            return Precision.WEIGHTS
        if _INTEGER_KERNELS.match(found.op_type):
            return Precision.INT8
        types = [self._types.get(t) for t in (*found.input[:1], *found.output[:1])]
        if types and types[0] in _CODE_TYPES:
            return Precision.INT8
        known = [t for t in types if t is not None]
        if known and not any(t in FLOAT_TYPES for t in known):
            return Precision.OTHER
        return Precision.FLOAT

    def _why(self, node: NodeProto, found: NodeProto) -> Reason:
        if found.op_type == "MatMulNBits":
            return because("C15", "weight-only: the kernel dequantizes the weight and multiplies in float")
        if found.op_type in WEIGHT_OPS:
            return Reason(text="weight-only: the kernel dequantizes the rows that it takes")
        if not self._by_pairs:
            return Reason(text=self._why_in_float(node, found))
        return why_float(self._graph, node)

    def _why_in_float(self, node: NodeProto, found: NodeProto) -> str:
        """Of a node in a model without pairs."""
        if not any(tensor and dequantizer(self._graph, tensor) is not None for tensor in node.input):
            return "nothing quantizes its inputs"
        text = "its weight is dequantized in every run"
        if node.op_type not in MATRIX_OPS:
            return text
        if found.op_type == "FusedGemm":
            text += ", since onnxruntime puts it and the activation behind it together first"
        return f"{text}; weight_format='nbits' (--weight-format nbits) keeps it in few bits"

    def _is_integer(self, node: NodeProto) -> bool:
        """Whether `node` computes shapes, indices or masks."""
        types = [self._graph.dtype(t) for t in node.output if t]
        return bool(types) and all(t is not None and t not in FLOAT_TYPES for t in types)

    def _absorbed(self, node: NodeProto, done: Mapping[str, NodeExecution]) -> tuple[Precision, str]:
        """What became of a node that has no trace: part of a neighbour, or a constant."""
        sources = [t for t in node.input if t and not self._graph.is_constant(past_pairs(self._graph, t))]
        if not sources:
            return Precision.OTHER, "computed while loading"
        if self._is_integer(node):
            return Precision.OTHER, "shape arithmetic, computed while loading or merged"
        if node.op_type == "DynamicQuantizeLinear" and (on_codes := self._integer_reader(node)) is not None:
            return Precision.FUSED, f"part of {on_codes.op_type} {on_codes.name!r}"
        reader = self._fused_reader(node)
        if reader is not None:
            return Precision.FLOAT, f"part of the float kernel {reader.op_type}"
        for tensor in sources:
            before = self._graph.producer(past_pairs(self._graph, tensor))
            ran = done.get(before.name) if before is not None else None
            if ran is not None and ran.precision in (Precision.INT8, Precision.FUSED):
                return Precision.FUSED, f"part of {ran.op} {ran.node!r}"
            if ran is not None and ran.precision is Precision.FLOAT:
                return Precision.FLOAT, f"part of {ran.op} {ran.node!r}, which runs in float"
        return Precision.OTHER, "removed: it changes nothing"

    def _integer_reader(self, node: NodeProto) -> NodeProto | None:
        """The node whose integer kernel quantizes its input itself."""
        readers = self._graph.consumers(node.output[0])
        kernels = {r.name: self._found.get(r.name) for r in readers}
        on_codes = {name for name, k in kernels.items() if k is not None and self._precision(k) is Precision.INT8}
        return next((reader for reader in readers if reader.name in on_codes), None)

    def _fused_reader(self, node: NodeProto) -> NodeProto | None:
        """The float kernel under another name (Gelu, LayerNormalization ...) that took `node` in, if one did."""
        seen: set[str] = set()
        queue = list(self._graph.consumers(node.output[0]))
        while queue:
            reader = queue.pop()
            if reader.name in seen or is_qdq(reader):
                continue
            seen.add(reader.name)
            found = self._found.get(reader.name)
            if found is None:
                queue.extend(self._graph.consumers(reader.output[0]))
            elif found.op_type != reader.op_type and self._precision(found) is Precision.FLOAT:
                return found
        return None


def _tensor_types(model: ModelProto) -> dict[str, int]:
    """Element types of the optimised graph's tensors; onnxruntime writes only part of them, the rest follows from Q."""
    types = {t.name: t.data_type for t in model.graph.initializer}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
    for node in model.graph.node:
        for tensor in node.output:
            if tensor not in types and (guess := _output_type(node, types)) is not None:
                types[tensor] = guess
    return types


def _output_type(node: NodeProto, types: Mapping[str, int]) -> int | None:
    if node.op_type == "QuantizeLinear":
        zero_point = node.input[2] if len(node.input) > 2 else ""
        return types.get(zero_point, TensorProto.UINT8)
    if node.op_type in ("DequantizeLinear", "MatMulIntegerToFloat"):
        return TensorProto.FLOAT
    if _INTEGER_KERNELS.match(node.op_type):
        # The zero-points of the operands; the output's has the type of the activations.
        codes = [types.get(t) for t in node.input if types.get(t) in _CODE_TYPES]
        return codes[0] if codes else None
    return types.get(node.input[0]) if node.input and node.input[0] else None


def as_array(value: Any) -> NDArray[Any]:
    """An output of onnxruntime as an array: a sequence of tensors end to end, other sequences as objects."""
    if isinstance(value, list) and value and all(isinstance(one, np.ndarray) for one in value):
        return np.concatenate([one.reshape(-1) for one in value])
    return value if isinstance(value, np.ndarray) else np.asarray(value, dtype=object)
