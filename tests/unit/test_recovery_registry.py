"""Names of recovery steps, bundles of them, and what a user may write."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.cli.parameters import RECOVERIES, RECOVERY_STEPS
from onnxq.recovery.registry import BUNDLES, STEPS, Recovery
from tests.graphs import model_of, normal

ORT = "ort-x64-vnni"


def model() -> onnx.ModelProto:
    text = "(float[N,16,8,8] x) => (float[N,16,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w) y = Relu(a) }"
    return model_of(text, w=normal(16, 16, 3, 3))


DATA = [{"x": normal(1, 16, 8, 8, seed=i) + np.float32(1)} for i in range(8)]


def test_the_command_line_knows_the_names() -> None:
    assert tuple(BUNDLES) == RECOVERIES
    assert tuple(step.name for step in STEPS) == RECOVERY_STEPS


def test_steps_run_in_their_own_order() -> None:
    assert Recovery.of(("bias", "rounding")).names == ("rounding", "bias")
    assert Recovery.of("best").names == ("level", "rounding", "reconstruct")
    assert Recovery.of("bias").names == ("bias",)
    assert Recovery.of("none").names == ()


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        (
            "rouding",
            "unknown recovery 'rouding'; known: none, fast, best, or one or more of",
            "did you mean 'rounding'",
        ),
        (("bias", "fast"), "'fast' is a bundle of recovery steps and cannot stand among single ones", "--recover fast"),
        (("bias", "more"), "unknown recovery 'more'", "--recover rounding,bias"),
    ],
)
def test_names_that_there_are_not(given: str | tuple[str, ...], message: str, hint: str) -> None:
    with pytest.raises(onnxq.ConfigError, match=message) as caught:
        onnxq.quantize(model(), target=ORT, recover=given)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    "recover", ["fast", "best", "rounding", ("rounding", "bias", "reconstruct"), ("clip", "rounding", "bias")]
)
def test_each_step_gives_the_same_bytes_again_and_runs_in_int8(recover: str | tuple[str, ...]) -> None:
    first = onnxq.quantize(model(), DATA, target=ORT, recover=recover)
    again = onnxq.quantize(model(), DATA, target=ORT, recover=recover)
    assert first.report.passed
    assert first.model.SerializeToString(deterministic=True) == again.model.SerializeToString(deterministic=True)
    plain = onnxq.quantize(model(), DATA, target=ORT, recover="none")
    assert first.model.graph != plain.model.graph


def test_clipping_makes_scales_smaller() -> None:
    """One weight of 1.3, all others halfway between two codes, unless the scale is 2 % smaller."""
    weights = np.sign(normal(16, 16, 3, 3)) * np.float32(0.98 * 75 * 1.3 / 127)
    weights[:, 0, 0, 0] = 1.3
    given = model_of("(float[N,16,8,8] x) => (float[N,16,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }", w=weights)
    whole = onnxq.quantize(given, DATA, target=ORT, recover="none").qparams["w"].scale
    clipped = onnxq.quantize(given, DATA, target=ORT, recover="clip").qparams["w"].scale
    assert (clipped <= whole).all()
    assert (clipped < whole).any()


@pytest.mark.parametrize("step", ["equalize", "smooth", "absorb"])
def test_rescaling_leaves_the_function_and_its_statistics_fit_no_other_graph(step: str) -> None:
    text = "(float[N,16,8,8] x) => (float[N,16,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, v) r = Relu(a) y = Conv(r, w) }"
    spread = np.logspace(-2, 2, 16, dtype=np.float32).reshape(16, 1, 1, 1)
    given = model_of(
        text, v=normal(16, 16, 3, 3) * spread, w=normal(16, 16, 1, 1, seed=1) / spread.reshape(1, 16, 1, 1)
    )
    result = onnxq.quantize(given, DATA, target="tensorrt", recover=(step, "bias"))
    assert result.report.passed
    assert any(note.split(":")[0] in ("equalization", "smoothing", "bias absorption") for note in result.report.notes)
    with pytest.raises(onnxq.ArtifactError, match="another model"):
        onnxq.quantize(given, DATA, target="tensorrt", stats=result.stats)
    plain = onnxq.quantize(given, DATA, target="tensorrt", recover="none")
    with pytest.raises(onnxq.ConfigError, match="rescales it before calibration"):
        onnxq.quantize(given, DATA, target="tensorrt", stats=plain.stats, recover=step)
    if step == "equalize":
        assert result.report.worst_sqnr_db > plain.report.worst_sqnr_db + 3  # one scale for all channels of `r`


def test_without_recovery_no_node_gets_a_bias() -> None:
    result = onnxq.quantize(model(), DATA, target=ORT, recover="none")
    (conv,) = (node for node in result.model.graph.node if node.op_type == "Conv")
    assert len(conv.input) == 2
