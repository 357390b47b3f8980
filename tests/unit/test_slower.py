"""A user hears of a quantized model that is clearly slower than the float one."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import onnxq
from onnxq.modes import slower
from onnxq.modes.slower import slower_notes
from onnxq.planning.modes import MODES
from onnxq.targets import TARGETS
from onnxq.targets.forms import with_types
from onnxq.tuning import latency
from onnxq.tuning.race import Race, race
from onnxq.tuning.timers import ONNXRUNTIME, Timer
from onnxq.verification.engines import openvino
from tests.graphs import graph_of, model_of, normal

DEPTHWISE = """(float[1,16,160,160] x) => (float[1,16,160,160] y) {
[d1] a = Conv<pads=[2,2,2,2], group=16>(x, w)
[d2] y = Conv<pads=[2,2,2,2], group=16>(a, w)
}"""
"""Its int8 kernels take several times as long as its float ones (measured, C17)."""
WEIGHT = normal(16, 1, 5, 5)
DATA = [{"x": normal(1, 16, 160, 160, seed=i)} for i in range(2)]
WORDS = "times as long as the float one on this machine"
TIMERS = (ONNXRUNTIME,)


needs_openvino = pytest.mark.skipif(not openvino.is_installed(), reason="OpenVINO is not installed")
X64 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="times kernels of x64")


def full() -> onnxq.QuantizeResult:
    return onnxq.quantize(model_of(DEPTHWISE, w=WEIGHT), DATA, target="ort-x64-vnni", placement="full")


@X64
def test_a_slow_model_is_noted_and_fails_no_check() -> None:
    report = full().report
    found = [note for note in report.notes if WORDS in note]
    assert report.passed
    assert len(found) == 1
    assert all(way in found[0] for way in ("--tune latency", "--placement fast", "--mode dynamic"))


def test_the_model_does_not_depend_on_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = latency.Timed(Race(ratio=2.0, low_ratio=2.0, champion_ms=1.0, challenger_ms=2.0), "an engine")
    monkeypatch.setattr(slower, "timers_for", lambda *_: TIMERS)
    monkeypatch.setattr(slower, "clearly_slower", lambda *_: slow)
    with_note = full()
    monkeypatch.setattr(slower, "clearly_slower", lambda *_: None)
    without = full()
    assert with_note.model.SerializeToString(deterministic=True) == without.model.SerializeToString(deterministic=True)
    assert any(WORDS in n for n in with_note.report.notes)
    assert not any(WORDS in n for n in without.report.notes)


@pytest.mark.parametrize("ratios", [[1.05] * 8, [1.4, 0.9, 1.5, 1.0, 1.4, 1.05, 1.6]], ids=["hardly", "who knows"])
def test_nothing_is_said_where_it_cannot_be_told(ratios: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is a busy machine: the median is 1.4, and a quarter of the rounds say 1.0 or less."""
    low = float(np.quantile(ratios, 0.25, method="weibull"))
    outcome = Race(ratio=float(np.median(ratios)), low_ratio=low, champion_ms=1.0, challenger_ms=1.4)
    monkeypatch.setattr(latency, "race", lambda *_, **__: outcome)
    graph = graph_of(DEPTHWISE, w=WEIGHT)
    assert latency.clearly_slower(TIMERS, graph, graph, DATA[0]) is None


def test_nothing_is_said_of_runs_too_short_to_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "race", lambda *_, **__: pytest.fail("raced"))
    monkeypatch.setattr(latency, "_LEAST_MS", 1e4)
    tiny = graph_of("(float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    assert latency.clearly_slower(TIMERS, tiny, tiny, {"x": normal(1, 4)}) is None


def test_nothing_is_said_of_runs_too_long_to_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "race", lambda *_, **__: pytest.fail("raced"))
    monkeypatch.setattr(latency, "_FEW_SECONDS", 1e-6)
    graph = graph_of(DEPTHWISE, w=WEIGHT)
    assert latency.clearly_slower(TIMERS, graph, graph, DATA[0]) is None


@pytest.mark.parametrize("name", ["tensorrt", "qnn", "ort-arm64", "openvino"])
def test_engines_that_are_not_here_are_not_timed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slower, "clearly_slower", lambda *_: pytest.fail("timed"))
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    graph = graph_of(DEPTHWISE, w=WEIGHT)
    assert slower_notes(graph, graph, DATA, TARGETS[name], "static") == ()


def test_types_that_gain_no_speed_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slower, "clearly_slower", lambda *_: pytest.fail("timed"))
    graph = graph_of(DEPTHWISE, w=WEIGHT)
    target, _ = with_types(TARGETS["ort-x64-vnni"], "uint16", None)
    assert slower_notes(graph, graph, DATA, target, "static") == ()


@needs_openvino
def test_openvino_times_its_own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Timer] = []

    def timed(timers: Sequence[Timer], *_: Any) -> latency.Timed:
        seen.extend(timers)
        return latency.Timed(Race(ratio=1.5, low_ratio=1.4, champion_ms=2.0, challenger_ms=3.0), timers[0].title)

    monkeypatch.setattr(slower, "clearly_slower", timed)
    made = onnxq.quantize(model_of(DEPTHWISE, w=WEIGHT), DATA, target="openvino")
    note = next(n for n in made.report.notes if WORDS in n)
    assert "takes 1.5 times as long" in note
    assert "under OpenVINO with floats in " in note
    assert "on one thread: tune='latency'" in note
    assert {timer.title.split()[0] for timer in seen} == {"OpenVINO"}


@needs_openvino
def test_reports_tell_latency_under_openvino() -> None:
    made = onnxq.quantize(model_of(DEPTHWISE, w=WEIGHT), DATA, target="openvino", details=True)
    assert made.report.latency is not None
    assert made.report.latency.engine.startswith("OpenVINO with floats in ")
    assert made.report.latency.float_ms > 0.0


def test_every_mode_has_ways_out() -> None:
    ort = TARGETS["ort-x64-vnni"]
    assert all("mode=" in slower.ways_out(mode, "fast", ort) for mode in MODES)


@pytest.mark.parametrize("mode", ["static", "weight-only"])
def test_ways_out_are_those_of_the_engine(mode: str) -> None:
    """Mode "dynamic" is onnxruntime's alone."""
    way = slower.ways_out(mode, "fast", TARGETS["openvino"])
    assert "dynamic" not in way
    assert "--tune latency" in way or "--mode static" in way


def test_the_default_placement_is_no_way_out_of_itself() -> None:
    ort = TARGETS["ort-x64-vnni"]
    assert "--placement" not in slower.ways_out("static", "fast", ort)
    assert "--placement fast" in slower.ways_out("static", "full", ort)
    assert "--placement" not in slower.ways_out("static", "full", replace(ort, costs=None))


def test_three_quarters_of_the_rounds_lie_above_the_lower_ratio() -> None:
    def spin(ms: float) -> None:
        ends = time.thread_time() + ms / 1e3
        while time.thread_time() < ends:
            pass

    found = race(lambda _: spin(1.0), lambda _: spin(2.0), {}, one_thread=True, rounds=7)
    assert found.low_ratio <= found.ratio
    assert found.low_ratio > 1.5  # twice the time, and the clock counts neither other processes nor sleep
