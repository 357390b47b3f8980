"""The whole verification, target by target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.errors import ConfigError, DataError
from onnxq.graph.view import Graph
from onnxq.targets.schema import Engine, WeightGuard
from onnxq.verification.compare import OutputComparison, OutputError, worse_than
from onnxq.verification.engines import openvino as openvino_engine
from onnxq.verification.engines import tensorrt as tensorrt_engine
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.result import EngineReport
from onnxq.verification.same_outputs import SameOutputs
from onnxq.verification.sizes import resized
from onnxq.verification.verify import VerifyResult, _unsound, verify_model
from tests.graphs import model_of, normal
from tests.verify_models import conv_feeds, float_conv, int8_conv, tensorrt_conv

FLOAT_GRAPH = Graph(float_conv())


def _checks(result: VerifyResult) -> dict[str, bool]:
    return {c.name: c.passed for c in result.checks}


def test_a_good_model_for_onnxruntime_passes():
    result = verify_model(FLOAT_GRAPH, int8_conv(), iter(conv_feeds(3)), "ort-x64-vnni", expected_int8=["Conv_c"])
    assert _checks(result) == {
        "outputs are sound": True,
        "optimised as accurate as unoptimised": True,
        "fused and unfused agree": True,
        "int8 nodes run in int8": True,
    }
    assert result
    assert result.checks[-1].detail == "1 of 1 arithmetic node meant to run in int8"
    assert result.batches == 3
    assert set(result.seconds) == {"compare", "engine"}


def test_a_graph_is_taken_as_well_and_left_as_it_was():
    graph = Graph(int8_conv())
    before = graph.to_model().SerializeToString(deterministic=True)
    assert verify_model(FLOAT_GRAPH, graph, conv_feeds(), "ort-x64-vnni")
    assert graph.to_model().SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("target", "guard", "stood_in"),
    [
        ("ort-x64-vnni", None, True),
        ("ort-arm64", None, True),
        ("ort-x64-avx2", None, False),
        ("my-cpu", WeightGuard.NONE, True),
        ("my-cpu", WeightGuard.PAIR_SUM, False),
    ],
)
def test_a_cpu_that_saturates_is_not_asked_about_others(
    monkeypatch: pytest.MonkeyPatch, target: str, guard: WeightGuard | None, stood_in: bool
) -> None:
    asked = list[str | None]()

    class Asked(OrtModel):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            if options.get("optimised", True):
                asked.append(_config(self, "session.x64quantprecision"))

    monkeypatch.setattr("onnxq.verification.verify.saturates", lambda: True)
    monkeypatch.setattr("onnxq.verification.agreement.OrtModel", Asked)
    result = verify_model(FLOAT_GRAPH, int8_conv(), conv_feeds(), target, engine=Engine.ONNXRUNTIME, guard=guard)
    assert asked == ["1" if stood_in else None]
    said = [w for w in result.warnings if w.startswith("This CPU has no VNNI: onnxruntime's int8 kernels saturate")]
    assert len(said) == stood_in
    assert all(f"those that {target} is for do not" in one for one in said)


def _config(model: OrtModel, key: str) -> str | None:
    try:
        return model._session.get_session_options().get_session_config_entry(key)
    except RuntimeError:  # it was not set
        return None


def test_sums_that_saturate_on_some_cpus_are_right_for_others() -> None:
    """Codes of 127 times codes of 255: wherever this runs, it passes for CPUs that do not saturate."""
    text = "(float[N,16] x) => (float[N,8] y) { y = MatMul(x, w) }"
    model, data = model_of(text, w=np.ones((16, 8), np.float32)), [{"x": np.full((2, 16), 3, np.float32)}] * 2
    result = onnxq.quantize(model, data, target="ort-x64-vnni", placement="full", recover="none")
    assert not result.report.failed_checks
    assert onnxq.evaluate(model, result.model, data[0], metric="sqnr").models[-1].score > 30  # dB; saturated: 6


def test_what_could_not_be_compared_without_saturation_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxq.verification.verify.saturates", lambda: True)
    text = """(float[N,64] x, bool c) => (float[N,64] y) {
        a = MatMul(x, w)
        y = If (c) <then_branch = t () => (float[N,64] p) { p = MatMul(a, v) },
                    else_branch = e () => (float[N,64] q) { q = Abs(a) }> }"""
    rng = np.random.default_rng(0)
    model = model_of(text, **{name: rng.standard_normal((64, 64)).astype(np.float32) for name in "vw"})
    data = [{"x": rng.standard_normal((4, 64)).astype(np.float32), "c": np.array(flag)} for flag in [True, False] * 8]
    report = onnxq.quantize(model, data, target="ort-x64-vnni", placement="full").report
    assert report.failed_checks == ()
    assert "optimised as accurate as unoptimised" not in [check.name for check in report.checks]
    assert any("their bodies were, alone" in warning for warning in report.warnings)


def test_a_wrong_axis_fails_twice():
    result = verify_model(FLOAT_GRAPH, int8_conv(weight_axis=1), conv_feeds(), "ort-x64-avx2")
    assert not result
    assert {c.name for c in result.failed} == {"optimised as accurate as unoptimised", "fused and unfused agree"}


def test_a_model_placed_for_tensorrt_does_not_run_in_int8_on_onnxruntime():
    result = verify_model(FLOAT_GRAPH, tensorrt_conv(), conv_feeds(), "ort-x64-avx2")
    failed = {c.name: c.detail for c in result.failed}
    assert failed["int8 nodes run in int8"] == (
        "1 of 1 node meant to run in int8: Conv 'Conv_c' runs in float: "
        "its output 'c' goes to Relu 'Relu_y' without QuantizeLinear (C1)"
    )


def test_a_float_model_in_place_of_a_quantized_one_fails():
    failed = {c.name: c.detail for c in verify_model(FLOAT_GRAPH, float_conv(), conv_feeds(), "ort-x64-avx2").failed}
    assert failed["int8 nodes run in int8"] == "nothing was checked: there are no nodes meant to run in int8"
    assert failed["fused and unfused agree"] == "nothing was checked: there are no quantized tensors"


def test_an_expected_node_that_is_not_there_fails():
    result = verify_model(FLOAT_GRAPH, int8_conv(), conv_feeds(), "ort-x64-avx2", expected_int8=["gone"])
    assert "node 'gone' is not in the model" in {c.name: c.detail for c in result.failed}["int8 nodes run in int8"]


@pytest.mark.skipif(tensorrt_engine.installed_package() is None, reason="TensorRT is not installed")
def test_a_good_model_for_tensorrt_builds():
    result = verify_model(FLOAT_GRAPH, tensorrt_conv(), conv_feeds(2, batch=2), "tensorrt")
    assert _checks(result) == {
        "outputs are sound": True,
        "rules of TensorRT": True,
        "engine builds": True,
    }
    assert result.engine is not None
    assert result.engine.size_bytes > 0


@pytest.mark.skipif(tensorrt_engine.installed_package() is None, reason="TensorRT is not installed")
def test_a_model_for_onnxruntime_fails_for_tensorrt_in_lint_and_build():
    result = verify_model(FLOAT_GRAPH, int8_conv(), conv_feeds(), "tensorrt")
    assert {c.name for c in result.failed} == {"rules of TensorRT", "engine builds"}


def test_rules_that_the_float_model_breaks_too_are_said_so():
    """A model may quantize what it gives out, whatever becomes of its layers."""
    text = """(float[N,32] x, float s, uint8 z) => (float[N,32] y, uint8[N,32] codes) {
        y = MatMul(x, w) codes = QuantizeLinear(y, s, z) }"""
    model = Graph(model_of(text, w=normal(32, 32)))
    feed = {"x": normal(4, 32), "s": np.array(0.1, np.float32), "z": np.array(128, np.uint8)}
    failed = {c.name: c.detail for c in verify_model(model, model, [feed], "tensorrt").failed}
    assert failed["rules of TensorRT"].startswith(
        "the float model does so too, so quantization is not to blame; 1 node breaks"
    )
    failed = {c.name: c.detail for c in verify_model(FLOAT_GRAPH, int8_conv(), conv_feeds(), "tensorrt").failed}
    assert "not to blame" not in failed["rules of TensorRT"]


def test_without_tensorrt_the_linter_decides_and_a_warning_says_so(monkeypatch):
    monkeypatch.setattr(tensorrt_engine, "PACKAGES", ("no_such_tensorrt",))
    result = verify_model(FLOAT_GRAPH, tensorrt_conv(), conv_feeds(), "tensorrt")
    assert result
    assert result.warnings[0].startswith("No engine was built: TensorRT is not installed")
    assert "pip install 'onnxq[tensorrt]'" in result.warnings[0]


@pytest.mark.skipif(not openvino_engine.is_installed(), reason="OpenVINO is not installed")
def test_a_good_model_for_openvino_passes():
    # Codes that do not saturate on CPUs without VNNI either.
    result = verify_model(FLOAT_GRAPH, int8_conv(amax=63.0), conv_feeds(), "openvino")
    assert _checks(result) == {
        "outputs are sound": True,
        "model compiles": True,
        "engine's outputs are sound": True,
        "engine as accurate as Q/DQ": True,
        "int8 nodes run in int8": True,
    }


@pytest.mark.skipif(not openvino_engine.is_installed(), reason="OpenVINO is not installed")
@pytest.mark.parametrize(("noise_db", "fails"), [(20.0, False), (0.0, True)])
@pytest.mark.parametrize("saturates", [True, False])
def test_openvino_s_outputs_warn_where_they_are_noisier_and_fail_where_they_are_something_else(
    monkeypatch, noise_db, fails, saturates
):
    asked = openvino_engine.executed_precision

    def noisy(model, **options):
        report, rng, share = asked(model, **options), np.random.default_rng(0), 10 ** (-noise_db / 20)
        outputs = [
            {n: v + share * np.sqrt(np.mean(v**2)) * rng.standard_normal(v.shape) for n, v in out.items()}
            for out in report.outputs
        ]
        return replace(report, outputs=tuple(outputs))

    monkeypatch.setattr(openvino_engine, "executed_precision", noisy)
    monkeypatch.setattr("onnxq.verification.answers.saturates", lambda: saturates)
    result = verify_model(FLOAT_GRAPH, int8_conv(amax=63.0), conv_feeds(), "openvino")  # some 35 dB as written
    assert ("engine as accurate as Q/DQ" in {c.name for c in result.failed}) is fails
    assert any("less accurately than their Q/DQ" in w for w in result.warnings) is not fails
    assert any(w.startswith("This CPU has no VNNI, and OpenVINO's int8 sums sat") for w in result.warnings) is saturates


def test_without_openvino_a_warning_says_so(monkeypatch):
    monkeypatch.setattr(openvino_engine, "is_installed", lambda: False)
    result = verify_model(FLOAT_GRAPH, int8_conv(), conv_feeds(), "openvino")
    assert result.warnings == (
        "The executed precision is unknown: OpenVINO is not installed. "
        "pip install 'onnxq[openvino]' (from a clone: pip install '.[openvino]').",
    )


def test_an_unknown_target_is_refused():
    with pytest.raises(ConfigError, match="unknown target 'tpu'"):
        verify_model(FLOAT_GRAPH, int8_conv(), conv_feeds(), "tpu")


def test_no_batch_is_refused():
    with pytest.raises(DataError, match="there is no batch to verify with"):
        verify_model(FLOAT_GRAPH, int8_conv(), [], "ort-x64-avx2")


def test_models_with_other_inputs_are_refused():
    other = int8_conv()
    for node in other.graph.node:
        for slot, tensor in enumerate(node.input):
            if tensor == other.graph.input[0].name:
                node.input[slot] = "image"
    other.graph.input[0].name = "image"
    with pytest.raises(DataError, match="the quantized model has an input 'image', the float model has 'x'"):
        verify_model(FLOAT_GRAPH, other, conv_feeds(), "ort-x64-avx2")


def test_no_checks_is_not_a_pass():
    assert not VerifyResult(target="ort-x64-avx2", checks=())


def _error(sqnr_db: float | None = None, mismatch: float = 0.0, **counts: int) -> OutputError:
    return OutputError(
        name="y", sqnr_db=sqnr_db, cosine=None, max_abs=None, peak=1.0, mismatch_share=mismatch,
        **{"elements": 1, **counts},
    )  # fmt: skip


def _compared(values: np.ndarray, noise: np.ndarray) -> OutputComparison:
    comparison = OutputComparison()
    comparison.add({"y": values}, {"y": values + noise})
    return comparison


def test_optimisations_may_redraw_noise_but_not_double_it():
    values = np.tile([1.0, -1.0], 2048)
    noise = 0.01 * np.random.default_rng(0).permutation(values)  # 40 dB
    reference = _compared(values, noise)
    assert worse_than(_compared(values, 1.3 * noise[::-1]), reference, "unoptimised") == []
    assert worse_than(_compared(values, 1.6 * noise[::-1]), reference, "unoptimised") == [
        "'y' has 35.9 dB, unoptimised 40.0 dB"
    ]
    assert worse_than(_compared(values, 1e-4 * noise), _compared(values, 0.0 * noise), "unoptimised") == []
    codes = np.arange(100)
    for differing, told in ((1, []), (10, ["'y' differs in 10.0%, unoptimised in 0.0%"])):
        assert worse_than(_compared(codes, codes < differing), _compared(codes, codes < 0), "unoptimised") == told


def test_a_few_values_with_most_of_the_noise_may_double_it():
    """Behind a softmax: most values are settled, and a few that are not have a thousand times their noise."""
    values = np.tile([1.0, -1.0], 2048)

    def undecided(first: int, step: int, size: float) -> OutputComparison:
        noise = np.full(4096, 1e-3)
        noise[first::step] = size
        return _compared(values, noise)

    reference = undecided(100, 1000, 1.0)
    moved, more = undecided(600, 1000, 1.5), undecided(100, 250, 1.0)
    for found in (moved, more):
        assert found.result()[0].sqnr_db < reference.result()[0].sqnr_db - 3.0
    assert worse_than(moved, reference, "unoptimised") == []  # five parts against four
    assert worse_than(more, reference, "unoptimised") != []  # twelve against none


def test_unsound_outputs_are_described():
    assert _unsound(_error(nonfinite=3)) == "output 'y' has 3 values of NaN or Inf in one model only"
    assert _unsound(_error(shape_mismatches=2)) == "output 'y' has another shape in 2 batches"
    assert _unsound(_error(elements=0)) == "output 'y' has no values"


def test_zeros_of_two_runtimes_differ_by_the_last_bit():
    """What OpenVINO's Sigmoid gives where onnxruntime's gives 0."""
    zeros = np.zeros(100)
    assert worse_than(_compared(zeros, zeros + 8e-8), _compared(zeros, zeros), "unoptimised") == []
    assert worse_than(_compared(zeros, zeros + 8e-7), _compared(zeros, zeros), "unoptimised") != []


KEPT = """(float[1,16,8,8] x) => (float[N] y) { c = Conv<pads=[1,1,1,1]>(x, w) s = Sigmoid(c)
    kept = Greater(s, least) flat = Reshape(s, all) which = Reshape(kept, all) y = Compress(flat, which) }"""
FLAT = """(float[1,16,8,8] x) => (float[N] y) { c = Conv<pads=[1,1,1,1]>(x, w) s = Sigmoid(c)
    flat = Reshape(s, all) y = Slice(flat, first, last) }"""


def _sized(text: str, **values: Any) -> Graph:
    weights = {"w": 0.1 * normal(16, 16, 3, 3), "all": np.array([-1])}
    return Graph(model_of(text, **weights, **values))


def test_a_size_that_follows_from_values_may_change():
    """One of four batches has a value between both thresholds, all others keep as many."""
    feeds = [{"x": normal(1, 16, 8, 8, seed=seed)} for seed in range(4)]
    scores = [OrtModel(_sized(FLAT, first=np.array([0]), last=np.array([1024])).to_model())(f)["y"] for f in feeds]
    ranked = np.sort(np.concatenate(scores))[::-1]
    least, more = ((ranked[n] + ranked[n + 1]) / 2 for n in (99, 100))
    floats, other = _sized(KEPT, least=np.float32(least)), _sized(KEPT, least=np.float32(more))
    result = verify_model(floats, other, feeds, "ort-x64-vnni")
    assert _checks(result)["outputs are sound"]
    assert result.outputs[0].shape_mismatches == 1
    assert [w for w in result.warnings if w.startswith("Output 'y' has another size than the float model's in 1 batch")]
    everywhere = _sized(KEPT, least=np.float32(0.1))
    assert not _checks(verify_model(floats, everywhere, feeds, "ort-x64-vnni"))["outputs are sound"]  # in all batches


def test_a_size_that_follows_from_sizes_may_not():
    short, whole = (_sized(FLAT, first=np.array([0]), last=np.array([last])) for last in (9, 1024))
    assert not _checks(verify_model(whole, short, [{"x": normal(1, 16, 8, 8)}], "ort-x64-vnni"))["outputs are sound"]
    error = _error(shape_mismatches=1)
    assert not resized(whole, error)
    assert resized(_sized(KEPT, least=np.float32(0.5)), error)


def test_an_engine_that_ran_is_compared(monkeypatch: pytest.MonkeyPatch):
    """What a GPU would have answered: once as Q/DQ says, once far from it."""
    feeds = conv_feeds(2)
    right = [OrtModel(tensorrt_conv(), optimised=False)(feed) for feed in feeds]

    def checks(outputs: list[dict[str, np.ndarray]], problem: str = "") -> VerifyResult:
        report = EngineReport(
            engine="tensorrt", version="10", accepted=True, outputs=tuple(outputs), run_problem=problem
        )
        monkeypatch.setattr(tensorrt_engine, "build_engine", lambda *_args, **_more: report)
        return verify_model(FLOAT_GRAPH, tensorrt_conv(), feeds, "tensorrt")

    assert _checks(checks(right)) == {
        "outputs are sound": True,
        "rules of TensorRT": True,
        "engine builds": True,
        "engine's outputs are sound": True,
        "engine as accurate as Q/DQ": True,
    }
    found = checks([{"y": values["y"] * np.float32(1.5)} for values in right])
    assert [c.name for c in found.failed] == ["engine as accurate as Q/DQ"]
    assert "computed as ONNX defines it" in found.failed[0].detail
    found = checks([{"y": np.full_like(values["y"], np.nan)} for values in right])
    assert "engine's outputs are sound" in [c.name for c in found.failed]
    assert checks([], "the engine fails while running").warnings == (
        "The engine was built but not run: the engine fails while running. "
        "Run `onnxq verify` on the machine that will use it.",
    )


DEAD = "(float[1,16] x) => (float[1,8] y, float[1,16] z) { a = MatMul(x, w) y = Mul(a, none) z = Relu(x) }"


def test_an_output_that_never_changes_is_doubted() -> None:
    """A product with 0 is equal to float in any quantized model."""
    model = model_of(DEAD, w=normal(16, 8), none=np.zeros(8, np.float32))
    data = {"x": normal(32, 16)}
    made = onnxq.quantize(model, data, target="ort-x64-vnni")
    for report in (made.report, onnxq.verify(model, made.model, data)):
        (doubt,) = [text for text in report.warnings if "within 0.1 %" in text]
        assert doubt.startswith("output 'y' of the float model is the same")
    assert not any("within 0.1 %" in text for text in onnxq.quantize(model, target="ort-x64-vnni").report.warnings)


def test_what_is_the_same_by_design_is_not_doubted() -> None:
    graph = Graph(
        model_of(
            """(float[n,16] x, float[n,16] c) => (float[n,16] y, float[k] sizes, float[n,16] v) {
            s = Shape(x) sizes = Cast<to=1>(s) y = Relu(x) v = Relu(c) }"""
        )
    )
    seen = SameOutputs(graph)
    for seed in range(4):
        seen.add({"y": normal(2, 16, seed=seed), "sizes": np.float32([2, 16]), "v": np.full((2, 16), 0.99, np.float16)})
        assert bool(list(seen.doubts())) is (seed == 3)
    assert [text.split()[1] for text in seen.doubts()] == ["'v'"]
