"""The picture of a quantized model: which nodes and edges it has, and what they carry."""

from __future__ import annotations

from onnxq.graph.view import Graph
from onnxq.report.drawing import draw
from onnxq.report.html.page_data import run_data
from tests.verify_models import float_conv, int8_conv


def edges(graph: Graph, runs: dict[str, str]) -> dict[tuple[str, str], str]:
    found = draw(graph, runs)
    return {(found.nodes[e.source].name, found.nodes[e.target].name): e.kind for e in found.edges}


def test_pairs_are_edges_and_weights_are_not_drawn() -> None:
    graph = Graph(int8_conv())
    found = draw(graph, {"Conv_c": "int8", "Relu_r": "fused"})
    assert [(n.op, n.runs) for n in found.nodes] == [
        ("Input", "input"), ("Conv", "int8"), ("Relu", "fused"), ("Output", "output"),
    ]  # fmt: skip
    assert [e.kind for e in found.edges] == ["quantize", "int8", "dequantize"]
    assert all(e.source < e.target for e in found.edges)


def test_without_pairs_all_is_float() -> None:
    assert set(edges(Graph(float_conv()), {}).values()) == {"float"}


def test_a_pair_between_float_nodes_is_no_boundary() -> None:
    assert set(edges(Graph(int8_conv()), {}).values()) == {"float"}


def test_a_graph_too_large_for_a_browser_is_left_out() -> None:
    nodes = [{"name": str(i), "op": "Relu", "runs": "float"} for i in range(7000)]
    assert run_data({"graph": {"nodes": nodes, "edges": []}})["graph"] is None
    assert run_data({"graph": {"nodes": nodes[:3], "edges": []}})["graph"]["nodes"][2]["name"] == "2"
