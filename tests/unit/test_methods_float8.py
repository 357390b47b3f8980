"""Range methods for fp8: the expected error against a measured one, and what each method makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.calibration.methods import expected_sqnr_db, method_from_name, solve_range
from onnxq.calibration.statistics.table import TensorStats
from onnxq.numerics import QuantSpec, fake_quantize, qparams_from_range, qparams_from_scale, sqnr_db

SPEC = QuantSpec.of(dtype="fp8")


def stats_of(values: np.ndarray) -> TensorStats:
    return TensorStats.of(values)


@pytest.mark.parametrize("scale", [0.002, 0.01, 0.05])
@pytest.mark.parametrize("shape", ["normal", "heavy", "positive"])
def test_expected_noise_is_the_measured_one(scale: float, shape: str) -> None:
    rng = np.random.default_rng(0)
    draw = {
        "normal": rng.standard_normal,
        "heavy": lambda n: rng.standard_t(3, n),
        "positive": rng.standard_exponential,
    }
    values = draw[shape](200_000).astype(np.float32)
    params = qparams_from_scale(scale, qtype="fp8")
    # Bins of a histogram hold their values evenly; 2048 bins leave a few hundredths of a dB, the tails a little more.
    assert expected_sqnr_db(stats_of(values), params) == pytest.approx(
        sqnr_db(values, fake_quantize(values, params)), abs=0.3
    )


@pytest.mark.parametrize("method", ["max", "entropy"])
def test_entropy_is_max(method: str) -> None:
    values = np.random.default_rng(1).standard_t(3, 20_000).astype(np.float32)
    found = solve_range(stats_of(values), SPEC, method_from_name(method))
    assert float(found.rmax) == np.abs(values).max()
    assert float(qparams_from_range(found, SPEC).scale) == np.float32(np.abs(values).max() / 448)


@pytest.mark.parametrize("method", ["mse", "auto"])
def test_methods_that_weigh_errors_are_no_worse_than_max(method: str) -> None:
    values = np.random.default_rng(2).standard_t(3, 20_000).astype(np.float32)
    stats = stats_of(values)

    def measured(name: str) -> float:
        params = qparams_from_range(solve_range(stats, SPEC, method_from_name(name)), SPEC)
        return sqnr_db(values, fake_quantize(values, params))

    assert measured(method) > measured("max") - 0.05
