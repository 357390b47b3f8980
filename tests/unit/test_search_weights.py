"""Mixed precision of weights: 4 bits, 8 bits and float in one model, as few of the larger ones as a demand needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

import onnxq
from onnxq.errors import ConfigError
from onnxq.planning.plan import Action
from tests.graphs import model_of, normal

VNNI = "ort-x64-vnni"

# Four products and a table; `loud` is read at a tenth of the size of what goes around it.
MODEL = model_of(
    """(int64[n] ids, float[n, 64] x) => (float[n, 64] y) {
       [emb] e = Gather(table, ids)
       [first] a = MatMul(x, wa)
       [turned] t = Gemm<transB = 1>(a, wt)
       [add] s = Add(t, e)
       [loud] b = MatMul(s, wb)
       [last] c = MatMul(b, wc)
       [out] y = Tanh(c)
    }""",
    table=normal(100, 64, seed=1), wa=normal(64, 64, seed=2) * 0.1, wt=normal(64, 64, seed=3) * 0.1,
    wb=normal(64, 64, seed=4) * 0.02, wc=normal(64, 64, seed=5) * 0.1,
)  # fmt: skip
FEEDS = [{"ids": np.random.default_rng(s).integers(0, 100, 8), "x": normal(8, 64, seed=s)} for s in (10, 11, 12, 13)]
LAYERS = ["emb", "first", "turned", "loud", "last"]
OPTIONS: dict[str, Any] = {"target": VNNI, "mode": "weight-only", "accuracy_level": 0}


def worst(**options: Any) -> float:
    """SQNR in dB on all samples."""
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, **options)
    assert made.report.worst_sqnr_db is not None
    return made.report.worst_sqnr_db


def types_of(made: onnxq.QuantizeResult) -> dict[str, str]:
    """The type of each weight by its node, from the plan."""
    found = {use.node: tensor.spec.qtype.name for tensor in made.plan.tensors.values() for use in tensor.uses}
    return {name: found.get(name, "float32") for name in LAYERS}


def test_a_demand_between_4_and_8_bits_raises_some_weights() -> None:
    four, eight = worst(), worst(weights="int8")
    goal = four + 4.0
    assert goal < eight - 10
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, min_sqnr=goal)
    assert made.search is not None
    assert made.report, made.report.to_text()
    assert made.report.worst_sqnr_db is not None and made.report.worst_sqnr_db >= goal - 1e-6
    found = types_of(made)
    assert set(found.values()) == {"int4", "int8"}
    assert [name for name in LAYERS if found[name] == "int8"] == list(made.search.wide_layers)
    assert (made.search.wide_type, made.search.wide_role, made.search.counted) == ("int8", "weights", "weights")
    assert made.search.weights == 4 * 64 * 64 + 100 * 64
    assert 0 < made.search.wide_weights < made.search.weights
    assert made.search.float_layers == ()
    assert any("of the weights" in note for note in made.report.notes)
    bits = {n.name: next(a.i for a in n.attribute if a.name == "bits") for n in made.model.graph.node
            if n.op_type in ("MatMulNBits", "GatherBlockQuantized")}  # fmt: skip
    assert bits == {name: int(found[name].removeprefix("int")) for name in LAYERS}


def test_no_weight_is_raised_without_need() -> None:
    goal = worst() + 4.0
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, min_sqnr=goal)
    assert made.search is not None
    for name in made.search.wide_layers:
        others = [
            {"nodes": other, "weight": "int8", "block_size": 0} for other in made.search.wide_layers if other != name
        ]
        assert worst(overrides=others) < goal


def test_a_demand_above_8_bits_leaves_weights_in_float() -> None:
    eight = worst(weights="int8")
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, min_sqnr=eight + 3.0)
    assert made.search is not None and made.search.met
    found = types_of(made)
    assert 0 < len(made.search.float_layers) < len(LAYERS)
    assert [name for name in LAYERS if found[name] == "float32"] == list(made.search.float_layers)
    reasons = {d.node: (d.action, d.rule) for d in made.plan.nodes if d.node in made.search.float_layers}
    assert set(reasons.values()) == {(Action.FLOAT, "budget")}
    source = {t.name: numpy_helper.to_array(t) for t in MODEL.graph.initializer}
    kept = {t.name: numpy_helper.to_array(t) for t in made.model.graph.initializer}
    for node in MODEL.graph.node:
        if node.name in made.search.float_layers:
            weight = node.input[0] if node.op_type == "Gather" else node.input[1]
            assert np.array_equal(kept[weight], source[weight])


def test_models_that_meet_the_demand_are_left_alone() -> None:
    goal = worst() - 1.0
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, min_sqnr=goal)
    assert made.search is not None
    assert (made.search.judged, made.search.wide_layers, made.search.float_layers) == (1, (), ())
    assert set(types_of(made).values()) == {"int4"}
    assert "no layer left in float" in made.search.check().detail


def test_a_layer_alone_does_what_the_whole_model_with_it_alone_does() -> None:
    """Cut out of the float model, or the model with this one weight in 4 bits: the same arithmetic in float32."""
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, min_sqnr=worst() + 4.0)
    assert made.search is not None
    assert [row.node for row in made.search.layers] == LAYERS
    for row in made.search.layers:
        # float32 sums in another order: noise at 120 dB beside that of 4 bits.
        assert row.effect.sqnr_db == pytest.approx(worst(include=[row.node]), abs=0.05), row.node


@pytest.mark.parametrize("rounding", ["gptq", "awq", "nearest", "hqq"])
def test_every_rounding_is_searched(rounding: str) -> None:
    plain = worst(rounding=rounding)
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, rounding=rounding, min_sqnr=plain + 4.0)
    assert made.search is not None and made.search.met
    assert made.report, made.report.to_text()
    assert made.report.worst_sqnr_db is not None and made.report.worst_sqnr_db >= plain + 4.0 - 1e-6
    assert made.search.wide_layers


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_other_engines_are_searched(target: str) -> None:
    options = {"target": target, "mode": "weight-only"}
    plain = onnxq.quantize(MODEL, FEEDS, **options)
    assert plain.report.worst_sqnr_db is not None
    made = onnxq.quantize(MODEL, FEEDS, **options, min_sqnr=plain.report.worst_sqnr_db + 3.0)
    assert made.search is not None and made.search.met
    assert made.report, made.report.to_text()
    assert made.search.wide_layers


def test_with_8_bits_float_is_the_only_step() -> None:
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, weights="int8", min_sqnr=worst(weights="int8") + 3.0)
    assert made.search is not None and made.search.met
    assert (made.search.wide_layers, made.search.wide_type) == ((), "")
    assert made.search.float_layers


def test_a_metric_of_labels_is_met() -> None:
    """Labels of the float model's own largest entry: 4 bits lose some of 32, and may lose none."""
    float_labels = _labels(MODEL)
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, max_drop=0, labels=float_labels)
    assert made.search is not None and made.search.met
    assert np.array_equal(_labels(made.model), float_labels)


def _labels(model: ModelProto) -> NDArray[np.int64]:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["y"], feed)[0].argmax(1) for feed in FEEDS])


def test_an_interrupt_and_a_time_limit_keep_the_best_so_far() -> None:
    def stop(now: Any) -> None:
        if getattr(now, "stage", "") == "searching" and now.samples >= 2:
            raise KeyboardInterrupt

    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, min_sqnr=200.0, progress=stop)
    assert made.search is not None
    assert (made.search.stopped, made.search.judged) == ("interrupted", 2)
    assert not made.report.passed
    short = onnxq.quantize(MODEL, FEEDS, **OPTIONS, min_sqnr=200.0, search_seconds=1e-6)
    assert short.search is not None
    assert (short.search.stopped, short.search.judged) == ("the time was over", 1)
    assert set(short.search.unranked) == set(LAYERS)


def test_data_that_can_be_read_once_is_enough() -> None:
    made = onnxq.quantize(MODEL, iter(FEEDS), **OPTIONS, rounding="gptq", min_sqnr=15.0)
    assert made.search is not None
    assert made.search.samples == 32
    assert made.report.data is not None and made.report.data.held_out_samples == 32
    plain = onnxq.quantize(MODEL, iter(FEEDS), **OPTIONS, rounding="gptq")
    assert plain.report.data is not None and plain.report.data.held_out_samples == 32


def test_a_search_without_samples_is_refused() -> None:
    with pytest.raises(ConfigError, match="a search needs real samples to judge models on"):
        onnxq.quantize(MODEL, **OPTIONS, min_sqnr=30.0)


def test_a_gate_is_no_search() -> None:
    made = onnxq.quantize(MODEL, FEEDS, **OPTIONS, min_sqnr=200.0, search=False)
    assert made.search is None
    assert [c.name for c in made.report.failed_checks] == ["SQNR at least 200 dB"]


# ---- weights that are read in several places ---------------------------------------------------------------------


def nested() -> ModelProto:
    """A product in front of an If whose branches have one each, then a shared weight read by two products."""
    branches = {
        name: helper.make_graph(
            [helper.make_node("MatMul", ["a", f"w_{name}"], [f"{name}_out"], name=f"{name}_product")],
            name, [], [helper.make_tensor_value_info(f"{name}_out", 1, ["n", 64])],
            [numpy_helper.from_array(normal(64, 64, seed=7 + i) * 0.1, f"w_{name}")],
        )
        for i, name in enumerate(("yes", "no"))
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "wa"], ["a"], name="first"),
        helper.make_node("If", ["flag"], ["b"], name="choice", then_branch=branches["yes"], else_branch=branches["no"]),
        helper.make_node("MatMul", ["b", "shared"], ["c"], name="once"),
        helper.make_node("MatMul", ["c", "shared"], ["y"], name="twice"),
    ]
    inputs = [helper.make_tensor_value_info("x", 1, ["n", 64]), helper.make_tensor_value_info("flag", 9, [])]
    constants = [numpy_helper.from_array(normal(64, 64, seed=s) * 0.1, name) for name, s in (("wa", 5), ("shared", 6))]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, ["n", 64])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_weights_in_branches_and_of_several_nodes_are_raised_too() -> None:
    model = nested()
    feeds: list[Mapping[str, Any]] = [{"x": normal(4, 64, seed=s), "flag": np.array(s % 2 == 0)} for s in range(6)]
    eight = onnxq.quantize(model, feeds, **OPTIONS, weights="int8").report.worst_sqnr_db
    assert eight is not None
    made = onnxq.quantize(model, feeds, **OPTIONS, min_sqnr=eight - 0.5)
    assert made.search is not None and made.search.met
    assert made.report, made.report.to_text()
    # So near to 8 bits, everything that both samples reach has to have them.
    assert {"first", "once"} <= set(made.search.wide_layers)
    assert set(made.search.unranked) == {"choice/then_branch/yes_product", "choice/else_branch/no_product", "once"}
    assert {row.node for row in made.search.layers} == {"first"}
    floats = onnxq.quantize(model, feeds, **OPTIONS, min_sqnr=eight + 40.0)
    assert floats.search is not None
    assert "once" in floats.search.float_layers
    assert {d.node for d in floats.plan.nodes if d.rule == "budget"} >= {"once", "twice"}


def test_weights_that_a_node_reads_together_stay_together() -> None:
    model = model_of(
        """(float[5, 2, 32] x) => (float[5, 1, 2, 32] h) {
           [lstm] h, hn, cn = LSTM<hidden_size = 32>(x, w, r)
        }""",
        w=normal(1, 128, 32, seed=1) * 0.2, r=normal(1, 128, 32, seed=2) * 0.2,
    )  # fmt: skip
    feeds = [{"x": normal(5, 2, 32, seed=s)} for s in range(3)]
    made = onnxq.quantize(model, feeds, **OPTIONS, placement="full", min_sqnr=300.0)
    assert made.search is not None
    assert made.search.weights == 2 * 128 * 32
    assert not made.search.met  # one layer at least stays quantized, and there is one
    assert made.search.unranked == ("lstm",)
