"""Do the nodes that were meant to run in few bits do so? By the engine's own account of its nodes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnxq.graph.view import Graph
from onnxq.verification.check import Check, check_all
from onnxq.verification.engines.result import EngineReport, Precision
from onnxq.verification.structure import CODE_OPS, INTEGER_OPS, meant_for_int8, quantizes_by_pairs

_INT8 = frozenset({Precision.INT8, Precision.FUSED, Precision.OTHER})


def kernel_checks(
    engine: EngineReport,
    quantized: Graph,
    expected_int8: Sequence[str],
    expected_weights: Sequence[str] = (),
    *,
    inside: Sequence[str] = (),
) -> list[Check]:
    """The checks of one model.

    Args:
        engine: The engine's account.
        quantized: The quantized model.
        expected_int8: Nodes that must compute on codes; empty asks for what the graph shows.
        expected_weights: Nodes whose weights must be read in few bits.
        inside: Nodes inside subgraphs that the graph shows to be meant for int8.
    """
    meant = set(expected_int8) or {*_meant(quantized), *inside}
    checks = []
    if meant or quantizes_by_pairs(quantized):
        # A plan's are those of Conv, MatMul and the like: fewer than its int8 nodes, which a report counts as well.
        subject = f"{'arithmetic ' if expected_int8 else ''}nodes meant to run in int8"
        checks.append(_check(engine, meant, _INT8, "int8 nodes run in int8", subject))
    if expected_weights:
        wanted = set(expected_weights)
        read = frozenset({Precision.WEIGHTS, Precision.INT8})
        checks.append(_check(engine, wanted, read, "weights are read in few bits", "nodes with weights in few bits"))
    return checks


def _meant(quantized: Graph) -> set[str]:
    """Matrix operators whose operands are dequantized, and operators that compute on codes by definition."""
    by_definition = {n.name for n in quantized.nodes if n.op_type in INTEGER_OPS | CODE_OPS}
    return by_definition | (set(meant_for_int8(quantized)) if quantizes_by_pairs(quantized) else set())


def _check(engine: EngineReport, meant: set[str], accepted: Collection[Precision], name: str, subject: str) -> Check:
    ran = {n.node: n for n in engine.nodes}
    bad = [
        f"{ran[node].op} {node!r} runs in float: {ran[node].why}"
        if node in ran
        else f"node {node!r} is not in the model"
        for node in sorted(meant)
        if node not in ran or ran[node].precision not in accepted
    ]
    return check_all(name, bad, len(meant), subject)
