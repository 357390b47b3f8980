"""Shares and points as a user writes them: what could be a share of 1 as well as percent is refused."""

from __future__ import annotations

import numpy as np
import pytest

import onnxq
from onnxq.errors import ConfigError
from onnxq.evaluation.demands import demands_from
from onnxq.evaluation.metrics import metric_from
from onnxq.wording.percent import percent_from, points_from


def test_points_are_percentage_points() -> None:
    assert points_from("0.5%") == points_from(0.5) == 0.5


@pytest.mark.parametrize("given", [0.9, "0.9", 1, "1", np.float32(0.25), 1e-9])
def test_a_bare_number_that_may_be_a_share_is_refused_with_both_ways_out(given: float | str) -> None:
    percent = float(given)
    with pytest.raises(ConfigError) as caught:
        percent_from(given, "min_int8")
    for way in (percent, 100 * percent):
        assert f"'{way:g}%'" in str(caught.value.hint)


@pytest.mark.parametrize(("given", "percent"), [("0.9%", 0.9), ("90%", 90), (90, 90), (1.5, 1.5), (0, 0), ("1%", 1)])
def test_what_is_surely_percent_is_taken(given: float | str, percent: float) -> None:
    assert percent_from(given, "min_int8") == percent


@pytest.mark.parametrize("metric", ["top1", "top5"])
@pytest.mark.parametrize("given", [0.9, "0.9", 101, "101%", -1, "many", float("nan")])
def test_a_share_is_demanded_in_percent(metric: str, given: float | str) -> None:
    with pytest.raises(ConfigError, match="min_score is") as caught:
        demands_from(None, given, metric=metric_from(metric), quantized=1)
    assert "min_score= (--min-score)" in str(caught.value.hint)


def test_a_metric_with_a_unit_of_its_own_takes_any_number_and_no_percent() -> None:
    assert demands_from(None, 0.99, metric=metric_from("cosine"), quantized=1).min_score == 0.99
    assert demands_from(None, 200, metric=metric_from("sqnr"), quantized=1).min_score == 200
    with pytest.raises(ConfigError, match="cosine is no share"):
        demands_from(None, "99%", metric=metric_from("cosine"), quantized=1)


@pytest.mark.parametrize("given", [-1, 100, "many"])
def test_a_drop_is_the_same_number_of_points_in_evaluate_as_in_quantize(given: float | str) -> None:
    with pytest.raises(ConfigError, match="max_drop is"):
        demands_from(given, None, metric=metric_from("top1"), quantized=1)
    with pytest.raises(ConfigError, match="max_drop is"):
        onnxq.quantize("no.onnx", max_drop=given)
