"""A linear fit is taken only where it holds on samples that it was not made from."""

from __future__ import annotations

import numpy as np

from onnxq.recovery.least_squares import fitted

GENERATOR = 5


def test_a_linear_error_is_found_in_every_group() -> None:
    rng = np.random.default_rng(GENERATOR)
    inputs, wanted = rng.normal(size=(2, 400, 5)), rng.normal(size=(2, 3, 5))
    found = fitted(inputs, inputs @ wanted.transpose(0, 2, 1) + 7.0)  # an offset is the bias's to take
    assert found is not None
    # The least damping is 1 % of the variance: each coefficient comes out 1 % too small.
    np.testing.assert_allclose(found, wanted, rtol=0.03, atol=0.01)


def test_noise_is_not_fitted_even_where_unknowns_are_as_many_as_samples() -> None:
    rng = np.random.default_rng(GENERATOR)
    for rows, columns in ((400, 5), (40, 38), (24, 200)):
        assert fitted(rng.normal(size=(1, rows, columns)), rng.normal(size=(1, rows, 4))) is None


def test_a_change_between_samples_is_not_fitted() -> None:
    """The quarters of the rows contradict each other: what one half says, the other refutes."""
    rng = np.random.default_rng(GENERATOR)
    inputs = rng.normal(size=(1, 400, 3))
    sign = np.where((np.arange(400) * 4 // 400) % 2 == 0, 1.0, -1.0)[None, :, None]
    assert fitted(inputs, inputs * sign) is None


def test_inputs_that_never_vary_and_too_few_samples_give_nothing() -> None:
    rng = np.random.default_rng(GENERATOR)
    assert fitted(np.ones((1, 100, 3)), rng.normal(size=(1, 100, 2))) is None
    assert fitted(rng.normal(size=(1, 8, 1)), rng.normal(size=(1, 8, 1))) is None
    assert fitted(np.full((1, 100, 3), 1.0), np.zeros((1, 100, 2))) is None
