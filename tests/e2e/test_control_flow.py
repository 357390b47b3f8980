"""Int8 inside the branches of If, seen in the graph that onnxruntime runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import GraphProto, ModelProto

import onnxq
from onnxq.graph.model import load_graph
from onnxq.graph.view import bodies
from onnxq.numerics.metrics import sqnr_db
from onnxq.planning.plan import Action
from tests.e2e.conftest import present
from tests.graphs import computed, model_of, normal

ORT = "ort-x64-vnni"
W = normal(16, 16, 3, 3) / 12
IMAGE = "float[1,16,8,8]"

MODEL = f"""({IMAGE} x, bool flag) => ({IMAGE} y) {{
    a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a)
    b = If (flag) <
        then_branch = t () => ({IMAGE} p) {{ [inner] k = Conv<pads=[1,1,1,1]>(r, v) l = Relu(k) p = Conv<pads=[1,1,1,1]>(l, w) }},
        else_branch = e () => ({IMAGE} q) {{ m = Conv<pads=[1,1,1,1]>(x, v) q = Neg(m) }}>
    y = Conv<pads=[1,1,1,1]>(b, w) }}"""  # noqa: E501 - one branch, one line
NESTED = f"""({IMAGE} x, bool flag, bool other) => ({IMAGE} y) {{
    b = If (flag) <
        then_branch = t () => ({IMAGE} p) {{
            k = Conv<pads=[1,1,1,1]>(x, w)
            p = If (other) <
                then_branch = t2 () => ({IMAGE} g) {{ g = Conv<pads=[1,1,1,1]>(k, v) }},
                else_branch = e2 () => ({IMAGE} h) {{ h = Neg(k) }}> }},
        else_branch = e () => ({IMAGE} q) {{ q = Neg(x) }}>
    y = Identity(b) }}"""


def feeds(*flags: bool, **more: bool) -> list[dict[str, np.ndarray]]:
    fixed = {name: np.array(value) for name, value in more.items()}
    return [{"x": normal(1, 16, 8, 8, seed=i), "flag": np.array(flag), **fixed} for i, flag in enumerate(flags)]


BOTH = feeds(*[True, False] * 8)


def model() -> ModelProto:
    return model_of(MODEL, w=W, v=normal(16, 16, 3, 3, seed=1) / 12)


def kernels(made: ModelProto, folder: Path) -> Counter[str]:
    """What onnxruntime runs, bodies included."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(_ops(onnx.load(folder / "optimised.onnx").graph))


def _ops(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for body in bodies(node):
            yield from _ops(body)


def test_both_branches_run_in_int8(tmp_path: Path) -> None:
    result = onnxq.quantize(model(), BOTH, target=ORT, method="max")
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report.failed_checks == ()
    inside = [d for d in result.plan.nodes if d.node.startswith("If_b/")]
    assert Counter((d.op, d.action) for d in inside) == {
        ("Conv", Action.INT8): 3, ("Relu", Action.FUSED): 1, ("Neg", Action.FLOAT): 1
    }  # fmt: skip
    found = kernels(result.model, tmp_path)
    assert found["QLinearConv"] == 5 and "Conv" not in found and "FusedConv" not in found
    assert [o.sqnr_db > 25 for o in result.report.outputs] == [True]
    assert {t.data_type for t in result.model.graph.initializer if t.name in ("w", "v")} == set(), (
        "no float weight stays"
    )


def test_branch_that_no_data_takes_stays_float(tmp_path: Path) -> None:
    result = onnxq.quantize(model(), feeds(*[True] * 8), target=ORT)
    assert result.report.failed_checks == ()
    assert [n for n in result.report.notes if n.startswith("If_b/else_branch stays float")]
    told = {d.node: (d.action, d.reason) for d in result.plan.nodes}
    assert told["If_b/else_branch/Conv_m"] == (Action.FLOAT, "no calibration data runs it")
    assert told["If_b"][1].endswith("listed by its path; else_branch stays float: no calibration data runs it")
    found = kernels(result.model, tmp_path)
    assert (found["QLinearConv"], found["Conv"] + found["FusedConv"]) == (4, 1)


def test_branches_inside_branches(tmp_path: Path) -> None:
    nested = model_of(NESTED, w=W, v=normal(16, 16, 3, 3, seed=1) / 12)
    data = feeds(*[True, False] * 8, other=True)
    result = onnxq.quantize(nested, data, target=ORT)
    assert result.report.failed_checks == ()
    assert [d.node for d in result.plan.nodes if d.action is Action.INT8] == [
        "If_b/then_branch/Conv_k", "If_b/then_branch/If_p/then_branch/Conv_g"
    ]  # fmt: skip
    assert kernels(result.model, tmp_path)["QLinearConv"] == 2


def test_statistics_hold_what_is_inside() -> None:
    stats = onnxq.calibrate(model(), BOTH, target=ORT)
    assert {name.rpartition("/")[0] for name in stats.tensors} == {"", "If_b/then_branch", "If_b/else_branch"}
    again = onnxq.quantize(model(), target=ORT, stats=stats, recover="none")
    first = onnxq.quantize(model(), BOTH, target=ORT, stats=stats, recover="none")
    assert again.model.graph == first.model.graph
    assert set(again.stats.tensors) == set(stats.tensors)


def test_generator_is_kept_for_the_branches() -> None:
    listed = onnxq.quantize(model(), BOTH, target=ORT)
    generated = onnxq.quantize(model(), iter(BOTH), target=ORT)
    assert generated.model.graph == listed.model.graph


def test_nodes_inside_are_excluded_by_their_path() -> None:
    result = onnxq.quantize(model(), BOTH, target=ORT, exclude=["If_b/then_branch/inner"])
    kept = next(d for d in result.plan.nodes if d.node == "If_b/then_branch/inner")
    assert (kept.action, kept.rule) == (Action.FLOAT, "user")
    whole = onnxq.plan(model(), target=ORT, exclude=["If_b"])
    assert not [d for d in whole.nodes if d.node.startswith("If_b/")]
    with pytest.raises(onnxq.ConfigError, match="no node of the model matches 'If_b/then_branch/other'"):
        onnxq.plan(model(), target=ORT, exclude=["If_b/then_branch/other"])


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_other_targets_leave_branches_alone(target: str) -> None:
    plan = onnxq.plan(model(), target=target)
    reason = next(d.reason for d in plan.nodes if d.op == "If")
    assert reason.startswith("control flow; ")
    assert not [d for d in plan.nodes if d.node.startswith("If_b/")]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["silero_vad", "silero_vad_op18_ifless"])
def test_silero(name: str, tmp_path: Path) -> None:
    zoo = present(name)
    result = onnxq.quantize(str(zoo.path()), zoo.calib(16), target=ORT, placement="full")
    assert result.report.failed_checks == ()
    assert kernels(result.model, tmp_path)["QLinearConv"] == 6
    # Without the plan at hand, verification finds the int8 nodes inside the branches by itself.
    assert onnxq.verify(str(zoo.path()), result.model, zoo.held_out(4), target=ORT).failed_checks == ()


def test_shards_that_take_different_branches_merge() -> None:
    one = onnxq.calibrate(model(), BOTH, target=ORT, shard="1/2")
    other = onnxq.calibrate(model(), BOTH, target=ORT, shard="2/2")
    assert one["If_b/then_branch/l"].finite == 0 or other["If_b/then_branch/l"].finite == 0, "flags alternate"
    whole = onnxq.calibrate(model(), BOTH, target=ORT)
    assert one.merge(other).tensors == whole.tensors


def test_statistics_in_which_a_branch_is_empty_leave_it_float() -> None:
    stats = onnxq.calibrate(model(), feeds(*[True] * 8), target=ORT)
    result = onnxq.quantize(model(), target=ORT, stats=stats)
    assert [n for n in result.report.notes if n.startswith("If_b/else_branch stays float")]


LOOP = """(float[2,32] x, int64 trips) => (float[2,32] y, float[T,2,32] all) {
    a = MatMul(x, w)
    y, all = Loop (trips, , a) <body = b (int64 i, bool c, float[2,32] h) => (bool d, float[2,32] n, float[2,32] s) {
        d = Identity(c) g = MatMul(h, w) o = Add(g, bias) n = Tanh(o) s = MatMul(n, v) }> }"""
SCAN = """(float[2,32] x, float[5,2,32] seq) => (float[2,32] y, float[5,2,32] all) {
    y, all = Scan (x, seq) <num_scan_inputs=1,
        body = b (float[2,32] h, float[2,32] e) => (float[2,32] n, float[2,32] s) {
        u = MatMul(e, v) g = MatMul(h, w) o = Add(g, u) n = Tanh(o) s = Identity(n) }> }"""
SQUARE: dict[str, Any] = {"w": normal(32, 32) / 5, "v": normal(32, 32, seed=1) / 5}


def test_body_of_a_loop_runs_in_int8(tmp_path: Path) -> None:
    loop = model_of(LOOP, **SQUARE, bias=normal(32))
    data = [{"x": normal(2, 32, seed=i), "trips": np.array(2 + i % 3)} for i in range(12)]
    result = onnxq.quantize(loop, data, target=ORT, method="max")
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report.failed_checks == ()
    assert all(o.sqnr_db > 20 for o in result.report.outputs)
    inside = [d.node for d in result.plan.nodes if d.action is Action.INT8 and "/body/" in d.node]
    assert len(inside) == 2
    assert "MatMul" not in kernels(result.model, tmp_path) and "Gemm" not in kernels(result.model, tmp_path)


@pytest.mark.parametrize("backwards", [False, True])
def test_body_of_a_scan_runs_in_int8(tmp_path: Path, backwards: bool) -> None:
    directions = "scan_input_directions=[1], " if backwards else ""
    scan = model_of(SCAN.replace("body =", f"{directions}body ="), **SQUARE)
    data = [{"x": normal(2, 32, seed=i), "seq": normal(5, 2, 32, seed=i + 50)} for i in range(12)]
    result = onnxq.quantize(scan, data, target=ORT, method="max")
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report.failed_checks == ()
    assert all(o.sqnr_db > 20 for o in result.report.outputs)
    assert "MatMul" not in kernels(result.model, tmp_path)


@pytest.mark.parametrize("target", ["ort-x64-vnni", "openvino"])
def test_a_weight_of_two_branches_that_is_changed_in_one(target: str) -> None:
    """What a constant from outside becomes in one branch gets a name of its own (torch.cond is exported like this)."""
    model = model_of(
        """(float[N,16] x) => (float[N,4] y) { a = Gemm<transB=1>(x, v, c) s = ReduceSum<keepdims=0>(a)
        p = Greater(s, zero) i = If (p) < then_branch = t () => (float[N,16] t1) { t0 = Gemm<transB=1>(a, w, b)
        t1 = Relu(t0) }, else_branch = e () => (float[N,16] e1) { e0 = Gemm<transB=1>(a, w, b) e1 = Mul(e0, two) } >
        y = Gemm<transB=1>(i, u, d) }""",
        v=normal(16, 16), c=normal(16), w=normal(16, 16, seed=1), b=normal(16, seed=2), u=normal(4, 16), d=normal(4),
        zero=np.float32(0), two=np.float32(2),
    )  # fmt: skip
    data = [{"x": sign * np.abs(normal(8, 16, seed=seed))} for seed, sign in enumerate((1, -1) * 4)]
    result = onnxq.quantize(model, data, target=target)
    assert result.report.failed_checks == ()
    outside = {t.name for t in result.model.graph.initializer}
    for node in result.model.graph.node:
        for body in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
            assert not outside.intersection(t.name for t in body.initializer)
    assert min(float(output.sqnr_db or 99.0) for output in result.report.outputs) > 20


@pytest.mark.parametrize("recover", ["none", "best"])
def test_a_body_that_gives_one_tensor_twice(recover: str) -> None:
    """As the state and as a row of all states."""
    text = """(float[N,32] x, int64 trips) => (float[N,32] y, float[k,N,32] rows) { y, rows = Loop(trips, , x) <
        body = b (int64 i, bool c, float[N,32] s) => (bool c, float[N,32] n, float[N,32] n) {
            a = MatMul(s, w) n = Tanh(a) }> }"""
    model = model_of(text, w=normal(32, 32) / 6)
    data = [{"x": normal(4, 32, seed=seed), "trips": np.array(seed + 1)} for seed in range(4)]
    result = onnxq.quantize(model, data, target="ort-x64-vnni", recover=recover)
    assert result.report
    for feed in data:
        want, got = computed(load_graph(model), feed), computed(load_graph(result.model), feed)
        assert [v.shape for v in got] == [v.shape for v in want]
        assert min(sqnr_db(a, b) for a, b in zip(want, got, strict=True)) > 20  # one layer in int8, four times in a row


def test_a_state_that_starts_with_another_rank_leaves_the_loop_in_float() -> None:
    """As decoders of tables from Paddle do: onnxruntime lets it pass inside a Loop, where it broadcasts."""
    model = model_of(
        """(float[1,64] x, int64 trips) => (float[1,64] y) { start = MatMul(x, v)
        h0, y = Loop (trips, go, start, first) <body = b (int64 i, bool c, float[1,64] h, float[1,64] past)
            => (bool d, float[1,64] n, float[1,64] m) { d = Identity(c)
                p = MatMul(h, w) n = Tanh(p) m = Add(n, past) }> }""",
        v=normal(64, 64),
        w=normal(64, 64, seed=1),
        go=np.bool_(True),
        first=np.zeros(64, np.float32),
    )
    data = [{"x": normal(1, 64, seed=seed), "trips": np.array(3)} for seed in range(8)]
    made = onnxq.quantize(model, data, target=ORT, placement="full")
    assert made.report.failed_checks == ()
    assert [d.node for d in made.plan.nodes if d.action.value == "int8"] == ["MatMul_start"]
    why = "the type or rank of 'past' in it is not known"
    for plan in (made.plan, onnxq.plan(model, target=ORT, placement="full")):
        told = {d.node: d.reason for d in plan.nodes}
        assert told["Loop_h0"] == f"control flow; what is inside stays float: {why}"
        assert told["Loop_h0/body/MatMul_p"] == why
    # What runs on weights alone needs no rank.
    dynamic = {d.node: d.reason for d in onnxq.plan(model, target=ORT, mode="dynamic").nodes}
    assert dynamic["Loop_h0"] == "control flow; what is inside is planned on its own, and listed by its path"


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
def test_bodies_with_nothing_to_quantize_are_told_of(mode: str) -> None:
    model = model_of(
        """(float[4,64] x, bool c) => (float[4,64] y) { a = MatMul(x, w) y = If (c) <
        then_branch = t () => (float[4,64] p) { p = Neg(a) },
        else_branch = e () => (float[4,64] q) { q = If (c) <
            then_branch = t2 () => (float[4,64] r) { r = Abs(a) },
            else_branch = e2 () => (float[4,64] s) { s = Sin(a) }>
        }> }""",
        w=normal(64, 64),
    )
    told = {d.node: d for d in onnxq.plan(model, target=ORT, mode=mode, placement="full").nodes}
    assert told["If_y"].reason == "control flow; what is inside stays float: there is nothing to quantize"
    assert told["If_y/else_branch/If_q/then_branch/Abs_r"].action is Action.FLOAT
    made = onnxq.quantize(model, feeds_of_rows(), target=ORT, mode=mode, placement="full")
    assert {d.node for d in made.plan.nodes} == told.keys()


def feeds_of_rows() -> list[dict[str, np.ndarray]]:
    return [{"x": normal(4, 64, seed=seed), "c": np.array(seed % 2 == 0)} for seed in range(8)]
