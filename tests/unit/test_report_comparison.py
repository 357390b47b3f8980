"""Two reports side by side: which numbers are compared, and when one is called better."""

from __future__ import annotations

from typing import Any

import pytest

from onnxq.report.html.comparison_page import Difference, differences, render_comparison

QUIET = {"float_ms": 10.0, "quantized_ms": 8.3}


def report(latency: dict[str, Any] | None) -> dict[str, Any]:
    checks = [{"name": "outputs are sound", "passed": True, "detail": ""}]
    return {"target": "ort-x64-vnni", "checks": checks, "engine": {"name": "ort"}, "latency": latency}


def of_latency(a: dict[str, Any] | None, b: dict[str, Any] | None) -> Difference | None:
    return next((d for d in differences(report(a), report(b)) if d.name.startswith("latency")), None)


def test_latency_is_compared_with_each_run_s_own_float_model() -> None:
    busy = {"float_ms": 200.0, "quantized_ms": 170.0}  # 20 times the milliseconds of the other run
    found = of_latency(QUIET, busy)
    assert found is not None
    assert (found.a, found.b, found.text, found.better) == ("0.83", "0.85", "+2.4%", None)


@pytest.mark.parametrize(("quantized_ms", "better"), [(4.0, True), (8.0, None), (12.0, False)])
def test_a_ratio_that_differs_is_judged(quantized_ms: float, better: bool | None) -> None:
    found = of_latency(QUIET, {"float_ms": 10.0, "quantized_ms": quantized_ms})
    assert found is not None
    assert found.better is better


def test_milliseconds_alone_are_not_judged() -> None:
    found = of_latency({"quantized_ms": 1.0}, {"quantized_ms": 20.0})
    assert found is not None
    assert (found.a, found.b, found.text, found.better) == ("1 ms", "20 ms", "", None)
    assert of_latency(QUIET, None) is None


def test_the_page_s_head_says_nothing_of_a_busy_machine() -> None:
    page = render_comparison(report(QUIET), report({"float_ms": 200.0, "quantized_ms": 170.0}), ("a", "b"))
    assert "No difference to speak of" in page
    assert "170 ms" not in page


@pytest.mark.parametrize(
    ("a", "b", "shown"),
    [
        (["level", "reconstruct"], [], ("level, reconstruct", "none", "differs")),
        (["bias"], ["bias"], ("bias", "bias", "")),
        (["bias"], None, ("bias", "", "differs")),  # a report of an earlier version does not know
    ],
)
def test_recovery_is_compared(a: list[str], b: list[str] | None, shown: tuple[str, str, str]) -> None:
    found = differences({**report(None), "recovery": a}, {**report(None), **({} if b is None else {"recovery": b})})
    assert [(d.a, d.b, d.text) for d in found if d.name == "recovery"] == [shown]


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    one, other = ({**report(None), "outputs": [{"name": "y", "sqnr_db": value}]} for value in (33.21, 33.19))
    (found,) = [d for d in differences(one, other) if d.name == "closeness to float"]
    assert (found.a, found.b, found.text) == ("33.2 dB", "33.2 dB", "")
