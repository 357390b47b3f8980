"""Gates of the Python API: checks of the report, an error where that is wanted, and early where they cannot be met."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.errors import ConfigError, GateError
from onnxq.modes.recorded_options import recall_options
from onnxq.report.gates import Gates
from onnxq.targets import absent_machine
from onnxq.verification.engines import openvino, tensorrt
from tests.unit.test_search_effects import FEEDS, RESIDUAL

VNNI = "ort-x64-vnni"
OPTIONS: dict[str, Any] = {"placement": "full", "recover": "none"}


def unread() -> Iterator[dict[str, np.ndarray]]:
    pytest.fail("the data was read although a gate could not be met")
    yield {}


def test_gates_become_checks_of_the_report() -> None:
    made = onnxq.quantize(
        RESIDUAL, FEEDS, target=VNNI, **OPTIONS, min_sqnr=20, search=False, min_int8="50%", require_engine=True
    )
    assert [c.name for c in made.report.checks[-3:]] == [
        "SQNR at least 20 dB",
        "int8 nodes at least 50 %",
        "the engine was asked",
    ]
    assert made.report.passed
    assert made.search is None
    made.report.raise_if_failed()


def test_a_gate_that_is_not_met_fails_the_report_and_raises_where_asked() -> None:
    made = onnxq.quantize(
        RESIDUAL, FEEDS, target=VNNI, **OPTIONS, exclude="c3", min_sqnr=200, search=False, min_int8=100
    )
    assert not made.report
    assert [c.name for c in made.report.failed_checks] == ["SQNR at least 200 dB", "int8 nodes at least 100 %"]
    with pytest.raises(GateError, match=r"not passed: SQNR at least 200 dB: the worst output has .* dB; int8 nodes"):
        made.report.raise_if_failed()


def test_verify_has_the_same_gates() -> None:
    made = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, **OPTIONS)
    report = onnxq.verify(RESIDUAL, made.model, FEEDS, target=VNNI, min_sqnr=200, min_int8=10, require_engine=True)
    assert [c.name for c in report.failed_checks] == ["SQNR at least 200 dB"]


def test_gates_leave_no_trace_in_the_model() -> None:
    plain = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, **OPTIONS)
    gated = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, **OPTIONS, min_sqnr=20, search=False, min_int8="1%")
    assert gated.model.SerializeToString() == plain.model.SerializeToString()
    searched = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, **OPTIONS, min_sqnr=20)
    metadata = {entry.key: entry.value for entry in searched.model.metadata_props}
    assert recall_options(metadata)["min_sqnr"] == 20


def test_an_evaluation_raises_too() -> None:
    made = onnxq.quantize(RESIDUAL, FEEDS, target=VNNI, **OPTIONS)
    score = onnxq.evaluate(RESIDUAL, made.model, FEEDS, metric="sqnr", output="y", min_score=200)
    with pytest.raises(GateError, match="sqnr at least 200"):
        score.raise_if_failed()
    onnxq.evaluate(RESIDUAL, made.model, FEEDS, metric="sqnr", output="y").raise_if_failed()  # nothing was demanded


@pytest.mark.parametrize("target", ["tensorrt", "qnn"])
def test_a_share_that_no_engine_tells_is_refused_before_the_work(target: str) -> None:
    with pytest.raises(ConfigError, match=f"no engine tells how single nodes run for {target}, so min_int8= "):
        onnxq.quantize(RESIDUAL, unread(), target=target, min_int8=50)
    made = onnxq.quantize(RESIDUAL, FEEDS, target=target, **OPTIONS)
    with pytest.raises(ConfigError, match="no engine tells how single nodes run"):
        onnxq.verify(RESIDUAL, made.model, unread(), target=target, min_int8=50)


def test_an_engine_that_is_not_there_is_noticed_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    monkeypatch.setattr(tensorrt, "installed_package", lambda: None)
    for target, title in (("openvino", "OpenVINO"), ("tensorrt", "TensorRT")):
        with pytest.raises(GateError, match=rf"{title} is not installed here, and require_engine=") as caught:
            onnxq.quantize(RESIDUAL, unread(), target=target, require_engine=True)
        assert caught.value.hint == f"pip install 'onnxq[{target}]' (from a clone: pip install '.[{target}]')"
    with pytest.raises(GateError, match=r"OpenVINO is not installed here, and min_int8="):
        onnxq.quantize(RESIDUAL, unread(), target="openvino", min_int8=50)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_int8": 101}, "min_int8 is 101"),
        ({"min_int8": 0.9}, "min_int8 is 0.9, which may be 0.9 % or 90 %\nHint: .* in percent: '0.9%' or '90%'"),
        ({"min_int8": "most"}, "min_int8 is 'most'"),
        ({"min_sqnr": float("nan"), "search": False}, "min_sqnr is nan"),
        ({"require_engine": True, "target": "xnnpack"}, "the table of xnnpack names no engine"),
        ({"min_int8": 50, "mode": "weight-only"}, r"min_int8=50 \(--min-int8\) has no meaning in mode 'weight-only'"),
    ],
)
def test_impossible_gates_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        onnxq.quantize(RESIDUAL, unread(), **({"target": VNNI} | arguments))


def test_a_report_without_an_answer_fails_its_gates() -> None:
    report = onnxq.Report(target=VNNI, checks=())
    gated = Gates(min_sqnr=1.0, min_int8=1.0, require_engine=True).applied(report)
    assert [c.detail for c in gated.failed_checks] == [
        "no output is float",
        "the engine tells nothing of nodes",
        f"{VNNI}'s engine gave no answer",
    ]
    assert Gates().applied(report) is report
    with pytest.raises(GateError, match="not passed: nothing was checked"):
        report.raise_if_failed()


@pytest.mark.parametrize(
    ("here", "target", "meant"),
    [("x86_64", "ort-arm64", "ARM64"), ("arm64", VNNI, "x64"), ("aarch64", "ort-x64-avx2", "x64")],
)
def test_an_engine_of_another_machine_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, here: str, target: str, meant: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: here)
    with pytest.raises(GateError, match=rf"ONNX Runtime.* of {meant} cannot be asked on this machine"):
        onnxq.quantize(RESIDUAL, unread(), target=target, require_engine=True)
    report = onnxq.quantize(RESIDUAL, FEEDS, target=target, recover="none").report
    assert any(text.startswith(f"This machine's onnxruntime stood in for that of {meant}") for text in report.warnings)


def test_an_engine_of_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for here, target in (("arm64", "ort-arm64"), ("x86_64", VNNI), ("x86_64", "tensorrt")):
        monkeypatch.setattr("platform.machine", lambda here=here: here)
        assert absent_machine(target) is None
