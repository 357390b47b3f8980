"""Why planned and executed counts differ, and what a user hears of a model that was hardly quantized."""

from __future__ import annotations

from dataclasses import replace

import pytest

import onnxq
from onnxq.modes.hardly import hardly_quantized
from onnxq.planning.plan import Action, NodeDecision, QuantPlan
from onnxq.report.contents import LayerRow
from onnxq.report.differences import differences, executed_mac_share
from onnxq.verification.engines.result import EngineReport, NodeExecution, Precision
from tests.graphs import graph_of, model_of, normal


def decided(node: str, op: str, action: Action, macs: int | None = 0) -> NodeDecision:
    return NodeDecision(node=node, op=op, action=action, reason=f"because of {node}", rule="", macs=macs)


def ran(node: str, op: str, precision: Precision, why: str = "") -> NodeExecution:
    return NodeExecution(node=node, op=op, precision=precision, engine_op=op, why=why)


PLAN = QuantPlan(
    target="t", opset=17, tensors={}, digest="d",
    nodes=(
        decided("conv", "Conv", Action.INT8, 90),
        decided("fc", "Gemm", Action.INT8, 10),
        decided("move", "Transpose", Action.FLOAT),
        decided("shape", "Shape", Action.OTHER),
        decided("same", "Dropout", Action.FLOAT),
    ),
)  # fmt: skip
ENGINE = EngineReport(
    engine="e", version="1", accepted=True,
    nodes=(
        ran("conv", "Conv", Precision.INT8),
        ran("fc", "Gemm", Precision.FLOAT, "its output has no pair"),
        ran("move", "Transpose", Precision.INT8),
        ran("shape", "Shape", Precision.OTHER),
        ran("extra", "Mul", Precision.FUSED),
    ),
)  # fmt: skip


def test_every_difference_is_told() -> None:
    assert differences(PLAN, ENGINE) == (
        "1 node planned on codes runs in float, like Gemm 'fc': its output has no pair",
        "1 node planned in float runs on codes, like Transpose 'move': it stands between nodes on codes, and the "
        "engine moved the conversion past it",
        "1 node without float values is not counted there",
        "1 node is gone when the engine runs, computed while loading or needless, like Dropout 'same'",
        "1 node more: what quantizing wrote beside the plan's nodes (1 fused), like Mul 'extra'",
    )
    assert differences(None, ENGINE) == differences(PLAN, None) == ()


def test_bodies_that_the_engine_is_not_asked_about() -> None:
    """onnxruntime is asked about those with pairs in them."""
    loop, yes, no = "loop/body/mul", "if/then_branch/conv", "if/else_branch/abs"
    plan = replace(PLAN, nodes=(
        decided("conv", "Conv", Action.INT8),
        decided("loop", "Loop", Action.FLOAT), decided(loop, "Mul", Action.FLOAT),
        decided("if", "If", Action.FLOAT), decided(yes, "Conv", Action.INT8),
        decided("if/then_branch/gone", "Dropout", Action.FLOAT), decided(no, "Abs", Action.FLOAT),
    ))  # fmt: skip
    nodes = [
        ran("conv", "Conv", Precision.INT8),
        ran("loop", "Loop", Precision.FLOAT),
        ran("if", "If", Precision.FLOAT),
    ]
    engine = replace(ENGINE, nodes=(*nodes, ran(yes, "Conv", Precision.INT8)))
    assert differences(plan, engine) == (
        f"2 nodes inside If, Loop or Scan where nothing is quantized are not counted there, like Mul {loop!r}",
        "1 node is gone when the engine runs, computed while loading or needless, like Dropout 'if/then_branch/gone'",
    )


def test_the_share_of_the_arithmetic_as_it_runs() -> None:
    by_node = {n.node: n.precision.value for n in ENGINE.nodes}
    bare = [LayerRow(node=d.node, op=d.op, decision="", reason="", rule="", macs=d.macs or 0) for d in PLAN.nodes]
    rows = [replace(row, executed=by_node.get(row.node, "")) for row in bare]
    assert executed_mac_share(rows, PLAN) == 0.9
    assert executed_mac_share(bare, PLAN) is None


def test_counts_of_a_dynamic_model_add_up() -> None:
    model = model_of(
        "(float[N,64] x) => (float[N,64] y) { [fc] a = MatMul(x, w) [bent] b = Relu(a) [out] y = MatMul(b, w) }",
        w=normal(64, 64),
    )
    report = onnxq.quantize(model, [{"x": normal(4, 64)}] * 2, mode="dynamic", target="ort-x64-avx2").report
    assert report.planned is not None and report.proven is not None
    more = report.proven.total - report.planned.total
    assert f"{more} nodes more: what quantizing wrote" in report.to_text()
    page = report.to_html()
    assert f"<dt>difference</dt><dd>{more} nodes more: what quantizing wrote" in page
    assert page.count("100.0% of the arithmetic in int8") == 2
    # DynamicQuantizeLinear is part of the kernel behind it, not of the float node in front of it.
    assert report.proven.float == 1
    assert report.proven_mac_share == report.int8_mac_share == 1.0


def test_the_steps_of_a_run_are_all_timed() -> None:
    model = model_of("(float[N,64] x) => (float[N,64] y) { [fc] y = MatMul(x, w) }", w=normal(64, 64))
    feeds = [{"x": normal(4, 64)}] * 2
    made = onnxq.quantize(model, feeds, target="ort-x64-avx2", placement="full", details=True)
    assert list(made.report.seconds) == [
        "plan", "calibrate", "recover", "rewrite", "compare", "engine", "latency", "look inside", "write"
    ]  # fmt: skip
    assert list(onnxq.verify(model, made.model, feeds).seconds) == ["read", "compare", "engine", "report"]


def test_a_model_that_is_hardly_quantized_is_told() -> None:
    model = model_of(
        """(float[N,8,32,32] x) => (float[N,8] y) {
        [conv] a = Conv<pads=[1,1,1,1]>(x, w) [mean] b = GlobalAveragePool(a) [flat] c = Flatten(b) [fc] y = Gemm(c, v)
        }""",
        w=normal(8, 8, 3, 3), v=normal(8, 8),
    )  # fmt: skip
    report = onnxq.quantize(model, [{"x": normal(1, 8, 32, 32)}] * 2, mode="dynamic", target="ort-x64-avx2").report
    (said,) = [w for w in report.warnings if "quantized" in w]
    assert said.startswith(
        "hardly anything was quantized (1 of 4 nodes): 0.0% of the arithmetic is in int8. Most of the rest: "
        "onnxruntime's ConvInteger is 3 to 20 times slower than its float Conv"
    )
    assert "mode='static' (--mode static)" in said


def test_a_gate_counts_the_nodes_of_the_float_model() -> None:
    """Of the nodes that a dynamic product is written as, four of five are fused: they made any gate."""
    model = model_of(
        "(float[N,64] x) => (float[N,64] y) { a = Tanh(x) b = Sin(a) c = Cos(b) [fc] y = MatMul(c, w) }",
        w=normal(64, 64),
    )
    feeds = [{"x": normal(4, 64)}] * 2
    made = onnxq.quantize(model, feeds, mode="dynamic", target="ort-x64-avx2", min_int8=26)
    (check,) = made.report.failed_checks
    assert (check.name, check.detail) == ("int8 nodes at least 26 %", "25.0 % of the nodes, 100.0% of the arithmetic")
    again = onnxq.verify(model, made.model, feeds, min_int8=26)
    assert [c.detail for c in again.failed_checks] == ["25.0 % of the nodes"]
    assert onnxq.quantize(model, feeds, mode="dynamic", target="ort-x64-avx2", min_int8=25).report.passed


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_nothing_in_int8_is_told_whatever_the_sizes(mode: str) -> None:
    plan = replace(PLAN, nodes=(decided("conv", "Conv", Action.FLOAT, None),))
    graph = graph_of("(float[1] x) => (float[1] y) { y = Relu(x) }")
    (said,) = hardly_quantized(plan, graph, mode)
    assert said.startswith(
        "nothing was quantized: 0.0% of the arithmetic is in int8. Most of the rest: because of conv."
    )


@pytest.mark.parametrize(
    ("rule", "way_out"), [("budget", "a looser demand"), ("user", "include more nodes"), ("C4", "placement='full'")]
)
def test_the_way_out_of_a_hardly_quantized_model_follows_its_reason(rule: str, way_out: str) -> None:
    plan = replace(PLAN, nodes=(replace(decided("conv", "Conv", Action.FLOAT), rule=rule),))
    (said,) = hardly_quantized(plan, graph_of("(float[1] x) => (float[1] y) { y = Relu(x) }"), "static")
    assert f"The way out: {way_out}" in said


def test_weights_alone_are_judged_by_their_number() -> None:
    model = model_of(
        "(float[N,8,8,64] x) => (float[N,8,8,64] y) { [fc] a = MatMul(x, w) [out] y = MatMul(a, v) }",
        w=normal(64, 64), v=normal(64, 64, seed=1),
    )  # fmt: skip
    feeds = [{"x": normal(1, 8, 8, 64)}] * 2
    said = onnxq.quantize(model, feeds, mode="weight-only", target="ort-x64-avx2").report.warnings
    assert not any("quantized" in w for w in said)
    floats = graph_of("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=normal(64, 64))
    plan = replace(PLAN, nodes=(decided("fc", "MatMul", Action.FLOAT),))
    (said_of_none,) = hardly_quantized(plan, floats, "weight-only")
    assert said_of_none.startswith("nothing was quantized: 0.0% of the weights are stored in few bits.")
