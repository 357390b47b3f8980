"""OpenVINO's account of a quantized model: the precision that each executed operator has in the compiled model.

`CompiledModel.get_runtime_model()` is the graph as executed. Each of its nodes carries `runtimePrecision`, and in
`originalLayersNames` the names of the nodes it was made from, with endings that OpenVINO added (`/WithoutBiases`).
Every node is given a marker for a name before, so that the marker leads back to it.
Source: https://docs.openvino.ai/2024/openvino-workflow/running-inference/optimize-inference/
"""

from __future__ import annotations

import importlib.util
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from onnxq.errors import EngineMissingError, ModelError
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.verification.engines.openvino_model import OpenvinoModel, said, version
from onnxq.verification.engines.result import EngineReport, NodeExecution, Precision
from onnxq.verification.reasons.openvino import INT8_OPS, why_float
from onnxq.verification.reasons.reason import Reason, past_pairs
from onnxq.verification.structure import MATRIX_OPS, is_float_type, is_qdq, quantizes_by_pairs

ENGINE = "openvino"
_EXACT = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Properties of a model that computes as ONNX defines it."""
_MARKER = re.compile(r"@onnxq(\d+)@")
_INT8_PRECISIONS = frozenset({"i8", "u8"})
_NARROW_PRECISIONS = frozenset({"i4", "u4", "nf4"})
_FLOAT_PRECISIONS = frozenset({"f32", "f16", "bf16", "f64"})
_ELEMENTWISE = frozenset({"Eltwise", "Subgraph"})
_PRODUCTS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
_HANDED_ON = frozenset({"Identity", "Dropout", "Optional", "OptionalGetElement", "SequenceConstruct", "SequenceAt"})
_PLUMBING = frozenset({"Reorder", "Convert", "Subgraph", "FakeQuantize", "Reshape", "Transpose", "Parameter", "Result"})


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


def not_installed() -> EngineMissingError:
    """What is raised where it cannot."""
    return EngineMissingError(
        "OpenVINO is not installed",
        hint="pip install 'onnxq[openvino]' (from a clone: pip install '.[openvino]')",
    )


def executed_precision(
    model: ModelProto | str | Path,
    *,
    base_dir: Path | None = None,
    feeds: Sequence[Mapping[str, NDArray[Any]]] = (),
) -> EngineReport:
    """Ask OpenVINO's CPU plugin how it runs each node of a quantized model on this machine.

    What is float computes in float32, so that it computes alike on all CPUs (V11).

    Args:
        model: The quantized model, or the path of its file.
        base_dir: Folder of the external data that a model given as a message refers to.
        feeds: Batches to run it on.

    Returns:
        One entry for each node but Q and DQ. A model that OpenVINO cannot load is not accepted; `problems` says why.

    Raises:
        EngineMissingError: OpenVINO is not installed.
    """
    if not is_installed():
        raise not_installed()
    if not isinstance(model, ModelProto):
        model = onnx.load(str(model))
    graph = Graph(model)
    infer_shapes(graph)
    marked = graph.to_model()
    names = [node.name for node in marked.graph.node]
    for index, node in enumerate(marked.graph.node):
        node.name = f"@onnxq{index}@"
    started = time.perf_counter()
    try:
        loaded = OpenvinoModel(marked, base_dir=base_dir)
    except ModelError as error:
        return EngineReport(engine=ENGINE, version=version(), accepted=False, problems=(said(error),))
    seconds = time.perf_counter() - started
    # Activations of weight-only products are quantized in groups by default: not what is to be compared here.
    as_it_is = quantizes_by_pairs(graph) or not feeds
    exact = loaded if as_it_is else OpenvinoModel(marked, base_dir=base_dir, properties=_EXACT)
    outputs, run_problem = _run(exact, feeds)
    executed = [_Kernel.of(op) for op in loaded.compiled.get_runtime_model().get_ordered_ops()]
    return EngineReport(
        engine=ENGINE,
        version=version(),
        accepted=True,
        nodes=_Reader(graph, names, executed).executions(),
        engine_ops=dict(Counter(f"{k.kind}:{k.precision}" for k in executed)),
        build_seconds=seconds,
        outputs=outputs,
        run_problem=run_problem,
    )


def _run(
    model: OpenvinoModel, feeds: Sequence[Mapping[str, NDArray[Any]]]
) -> tuple[tuple[Mapping[str, NDArray[Any]], ...], str]:
    """The outputs for each batch; or none, and why."""
    try:
        return tuple(model(feed) for feed in feeds), ""
    except ModelError as error:
        return (), said(error)


@dataclass(frozen=True)
class _Kernel:
    """An operator of the compiled model.

    Attributes:
        kind: What it is, as `Convolution`.
        precision: What it computes in, as `i8` or `f32`.
        layers: The operators it was made from, with commas between them.
        product: What it reads first, where that is a product of no name of the model's.
    """

    kind: str
    precision: str
    layers: str
    product: _Kernel | None = None

    @classmethod
    def of(cls, op: Any) -> _Kernel:
        info = op.get_rt_info()
        kind, precision, layers = (
            _text(info[key]) if key in info else "" for key in ("layerType", "runtimePrecision", "originalLayersNames")
        )
        product = None
        if kind in _ELEMENTWISE and op.get_input_size():
            first = cls.of(op.input_value(0).get_node())
            if first.kind in _PRODUCTS and not _MARKER.search(first.layers):
                product = first
        return cls(kind, precision, layers, product)


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") and not isinstance(value, str) else str(value)


class _Reader:
    """Matches the kernels of the compiled model to the nodes they came from.

    A kernel lists the operators it was made from, but not all: what was folded into constants or into the scales of
    a quantization is in no list. Such a node belongs to the kernel of its first reader that is in one, else to the
    kernel of what it reads.
    """

    def __init__(self, graph: Graph, names: Sequence[str], executed: Sequence[_Kernel]) -> None:
        self._graph = graph
        self._by_pairs = quantizes_by_pairs(graph)
        self._kernels: dict[str, _Kernel] = {}
        # A kernel that computes (Convolution) speaks for a node before one that only moves data for it (Reorder).
        for kernel in sorted(executed, key=lambda k: k.kind in _PLUMBING):
            for name in self._named(kernel.layers, names):
                self._kernels.setdefault(name, kernel)

    def _named(self, listed: str, names: Sequence[str]) -> Iterator[str]:
        yield from (names[int(mark)] for mark in _MARKER.findall(listed))
        # What computes an output of the model is called after the output.
        for name in listed.split(","):
            producer = self._graph.producer(name.removesuffix("_original"))
            if producer is None or not self._graph.is_output(name.removesuffix("_original")):
                continue
            yield producer.name
            # So is what computes it where nothing but names lies between.
            while producer is not None and producer.op_type in _HANDED_ON:
                producer = self._graph.producer(producer.input[0])
                if producer is not None:
                    yield producer.name

    def executions(self) -> tuple[NodeExecution, ...]:
        return tuple(self._execution(node) for node in self._graph.nodes if not is_qdq(node))

    def _execution(self, node: NodeProto) -> NodeExecution:
        own = self._kernels.get(node.name)
        if own is None and (gone := self._gone(node)):
            return _told(node, Precision.OTHER, "", Reason(text=gone))
        found = own or self._neighbour(node)
        if found is None:
            return _told(node, Precision.OTHER, "", Reason(text="removed: it changes nothing"))
        if found.product is not None and node.op_type in MATRIX_OPS:
            found = found.product  # its name went to what adds the bias
        kernel, precision = found.kind, found.precision.lower()
        if precision in _NARROW_PRECISIONS or (precision in _INT8_PRECISIONS and not self._by_pairs):
            return self._weight_only(node, kernel, precision)
        if precision in _INT8_PRECISIONS and kernel in _ELEMENTWISE and node.op_type not in INT8_OPS:
            # Such a kernel is said to have the precision of what it reads; it converts the codes and computes in float.
            return _told(node, Precision.FLOAT, kernel, why_float(self._graph, node, kernel, precision))
        if precision in _INT8_PRECISIONS:
            if own is not None:
                return _told(node, Precision.INT8, kernel, Reason(text=""))
            return _told(node, Precision.FUSED, kernel, Reason(text=f"part of {kernel}"))
        if precision not in _FLOAT_PRECISIONS:
            return _told(node, Precision.OTHER, kernel, Reason(text=""))
        if own is None and kernel == "FakeQuantize":
            return _told(node, Precision.FUSED, kernel, Reason(text="part of the quantization of its result"))
        if own is None and node.op_type not in MATRIX_OPS:
            return _told(node, Precision.FLOAT, kernel, Reason(text=f"part of {kernel}, which runs in {precision}"))
        return _told(node, Precision.FLOAT, kernel, why_float(self._graph, node, kernel, precision))

    def _weight_only(self, node: NodeProto, kernel: str, precision: str) -> NodeExecution:
        """A node of a kernel that is said to have the precision of its weights."""
        if node.op_type not in (*MATRIX_OPS, "Gather"):
            return _told(node, Precision.FLOAT, kernel, Reason(text=f"part of {kernel}, which computes in float"))
        reason = f"weight-only: it reads {precision} and computes in float"
        return _told(node, Precision.WEIGHTS, kernel, Reason(text=reason))

    def _gone(self, node: NodeProto) -> str:
        """Why a node that no kernel lists was never going to run; "" where it became part of a neighbour."""
        if all(self._graph.is_constant(past_pairs(self._graph, t)) for t in node.input if t):
            return "computed while loading"
        types = [self._graph.dtype(t) for t in node.output if t]
        if types and all(t is not None and not is_float_type(t) for t in types):
            return "shape arithmetic, computed while loading or merged"
        return ""

    def _neighbour(self, node: NodeProto) -> _Kernel | None:
        queue, seen = list(self._graph.consumers(node.output[0])), set[str]()
        while queue:
            reader = queue.pop(0)
            if reader.name in seen or reader.op_type == "DequantizeLinear":
                continue
            seen.add(reader.name)
            kernel = self._kernels.get(reader.name)
            if kernel is None:
                queue.extend(self._graph.consumers(reader.output[0]))
            elif kernel.kind == "FakeQuantize" or kernel.kind not in _PLUMBING:
                return kernel
        before = (self._graph.producer(past_pairs(self._graph, t)) for t in node.input if t)
        return next((self._kernels[b.name] for b in before if b is not None and b.name in self._kernels), None)


def _told(node: NodeProto, precision: Precision, kernel: str, reason: Reason) -> NodeExecution:
    return NodeExecution(
        node=node.name, op=node.op_type, precision=precision, engine_op=kernel, why=reason.text, rule=reason.rule
    )
