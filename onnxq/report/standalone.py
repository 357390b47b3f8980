"""What a quantized model shows on its own: what its Q/DQ pairs ask for. No engine is asked, nothing is run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from onnxq.errors import ModelError
from onnxq.graph.model import get_metadata, load_graph, quantized_nodes, size_bytes
from onnxq.report.contents import LayerRow, NodeCounts
from onnxq.report.drawing import draw
from onnxq.report.quantized_model import explain_model, tensor_rows
from onnxq.report.report import Report
from onnxq.targets import ORT_CPU, TARGET_NAMES, TargetSource, resolve_target


def report_of_model(path: Path, target: TargetSource | None = None) -> Report:
    """The report of a quantized model, without checks.

    Args:
        path: The model.
        target: Target whose rules are named; None takes the one that the file says it was made for (without its
            rules, where it is none of the built-in ones), else ort-cpu.

    Raises:
        ModelError: the model cannot be read, or is not quantized.
        ConfigError: there is no such target.
    """
    graph = load_graph(path)
    if not quantized_nodes(graph):
        raise ModelError(
            "the model is not quantized, so there is nothing to show",
            where=f"model {str(path)!r}",
            hint="`onnxq plan MODEL` shows what would become of it; `onnxq quantize --report FILE.html` makes a page",
        )
    metadata = get_metadata(graph.frame)
    named = metadata.get("onnxq.target") or ORT_CPU
    # The table of a target of the user's own is no part of the file: its rules are left out.
    table = resolve_target(target or named)[0] if target or named in TARGET_NAMES else None
    found = explain_model(graph, table)
    actions = Counter(row.action for row in found.nodes)
    return Report(
        target=named if table is None else table.name,
        checks=(),
        method=metadata.get("onnxq.method"),
        asked=NodeCounts(
            int8=actions["int8"],
            fused=actions["fused"],
            float=actions["float"],
            weights=actions["weights"],
            other=actions["other"],
        ),
        int8_mac_share=found.int8_mac_share,
        size_after_bytes=size_bytes(path, graph),
        layers=tuple(
            LayerRow(node=r.node, op=r.op, decision=r.action, reason=r.reason, rule=r.rule, macs=r.macs or 0)
            for r in found.nodes
        ),
        tensors=tensor_rows(found),
        output_path=str(path),
        model_name=path.name,
        drawing=draw(graph, {row.node: row.action for row in found.nodes}),
    )
