"""OpenVINO's account of a quantized model: the precision that each executed operator has in the compiled model.

`CompiledModel.get_runtime_model()` is the graph as executed. Each of its nodes carries `runtimePrecision`, and in
`originalLayersNames` the names of the nodes it was made from.
Source: https://docs.openvino.ai/2024/openvino-workflow/running-inference/optimize-inference/
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto

from onnxq.graph.view import Graph
from onnxq.verification.engines.result import EngineMissingError, EngineReport, NodeExecution, Precision
from onnxq.verification.engines.source import model_file
from onnxq.verification.structure import is_qdq, placement

ENGINE = "openvino"
_INT8_PRECISIONS = frozenset({"i8", "u8"})
_FLOAT_PRECISIONS = frozenset({"f32", "f16", "bf16", "f64"})
_PLUMBING = frozenset({"Reorder", "Convert", "Subgraph", "FakeQuantize", "Reshape", "Transpose", "Parameter", "Result"})


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return importlib.util.find_spec("openvino") is not None


def executed_precision(model: ModelProto | str | Path, *, base_dir: Path | None = None) -> EngineReport:
    """Ask OpenVINO's CPU plugin how it runs each node of a quantized model on this machine.

    Args:
        model: The quantized model, or the path of its file.
        base_dir: Folder of the external data that a model given as a message refers to.

    Returns:
        One entry for each node but Q and DQ. A model that OpenVINO cannot load is not accepted; `problems` says why.

    Raises:
        EngineMissingError: OpenVINO is not installed.
    """
    if not is_installed():
        raise EngineMissingError(
            "OpenVINO is not installed",
            hint="pip install onnxq[openvino], or leave the engine out of the verification",
        )
    import openvino  # noqa: PLC0415  # an optional package

    if not isinstance(model, ModelProto):
        model = onnx.load(str(model))
    graph = Graph(model)
    marked = graph.to_model()
    marks: dict[str, str] = {}
    for index, node in enumerate(marked.graph.node):
        marks[f"@onnxq{index}@"] = node.name
        node.name = f"@onnxq{index}@"
    started = time.perf_counter()
    try:
        compiled = _compile(openvino, marked, base_dir)
    except Exception as error:  # openvino raises plain RuntimeError and others
        return EngineReport(
            engine=ENGINE, version=str(openvino.__version__), accepted=False, problems=(_first_line(error),)
        )
    seconds = time.perf_counter() - started
    executed = [(op.get_friendly_name(), _runtime_info(op)) for op in compiled.get_runtime_model().get_ordered_ops()]
    return EngineReport(
        engine=ENGINE,
        version=str(openvino.__version__),
        accepted=True,
        nodes=_executions(graph, marks, [info for _, info in executed]),
        engine_ops=dict(Counter(f"{i['layerType']}:{i['runtimePrecision']}" for _, i in executed)),
        build_seconds=seconds,
    )


def _compile(openvino: Any, model: ModelProto, base_dir: Path | None) -> Any:
    with tempfile.TemporaryDirectory(prefix="onnxq-") as folder:
        path = model_file(model, Path(folder), base_dir)
        core = openvino.Core()
        return core.compile_model(core.read_model(str(path)), "CPU")


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _runtime_info(op: Any) -> dict[str, str]:
    info = op.get_rt_info()
    return {
        key: _text(info[key]) if key in info else "" for key in ("layerType", "runtimePrecision", "originalLayersNames")
    }


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") and not isinstance(value, str) else str(value)


def _executions(graph: Graph, marks: Mapping[str, str], executed: list[dict[str, str]]) -> tuple[NodeExecution, ...]:
    by_node: dict[str, dict[str, str]] = {}
    found: dict[str, str] | None
    # A kernel that computes (Convolution) speaks for a node before one that only moves data for it (Reorder).
    for info in sorted(executed, key=lambda i: i["layerType"] in _PLUMBING):
        for name in info["originalLayersNames"].split(","):
            # A Conv with a bias is read as two operators; the first may be all that is left of it.
            mark = name.removesuffix("/WithoutBiases")
            if mark in marks:
                by_node.setdefault(marks[mark], info)
    done = {}
    for node in graph.nodes:
        if not is_qdq(node):
            own = by_node.get(node.name)
            found = own or _neighbour(graph, node, by_node)
            done[node.name] = _execution(graph, node, found, own=own is not None)
    return tuple(done.values())


def _neighbour(graph: Graph, node: NodeProto, by_node: Mapping[str, dict[str, str]]) -> dict[str, str] | None:
    """The kernel that `node` disappeared into: that of the first reader which has one, else of what it reads.

    OpenVINO gives folded nodes new names (a Conv multiplied by its BatchNorm becomes `Multiply_10375`), but keeps the
    names of the readers it merged into the same kernel.
    """
    if all(graph.is_constant(t) for t in node.input if t):
        return None
    queue = list(graph.consumers(node.output[0]))
    seen: set[str] = set()
    while queue:
        reader = queue.pop(0)
        if reader.name in seen or is_qdq(reader):
            continue
        seen.add(reader.name)
        info = by_node.get(reader.name)
        if info is None:
            queue.extend(graph.consumers(reader.output[0]))
        elif info["layerType"] not in _PLUMBING:
            return info
    before = [graph.producer(t) for t in node.input if t]
    return next((by_node[b.name] for b in before if b is not None and b.name in by_node), None)


def _execution(graph: Graph, node: NodeProto, info: Mapping[str, str] | None, *, own: bool) -> NodeExecution:
    kind, why = Precision.OTHER, ""
    precision = info["runtimePrecision"].lower() if info is not None else ""
    if info is None:
        why = "removed or computed while loading"
    elif precision in _INT8_PRECISIONS:
        kind, why = (Precision.INT8, "") if own else (Precision.FUSED, f"part of {info['layerType']}")
    elif precision in _FLOAT_PRECISIONS:
        kind, why = Precision.FLOAT, _why_float(graph, node)
    kernel = info["layerType"] if info is not None else ""
    return NodeExecution(node=node.name, op=node.op_type, precision=kind, engine_op=kernel, why=why)


def _why_float(graph: Graph, node: NodeProto) -> str:
    around = placement(graph, node)
    if around.plain:
        return f"its input {node.input[around.plain[0]]!r} does not come out of a DequantizeLinear"
    if around.touched:
        return "Q/DQ surrounds it, yet OpenVINO runs it in float"
    return "no Q/DQ pair around it"
