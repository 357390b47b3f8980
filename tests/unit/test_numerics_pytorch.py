"""`fake_quantize` beside PyTorch's own operators: every width, forms of all kinds; skipped where torch is absent.

PyTorch multiplies by the reciprocal of the scale where ONNX divides (aten/src/ATen/native/quantized/cpu, FakeQuantize),
so the two may fall on different sides of a tie. For scales that are powers of two both are exact, and equal to the bit.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.numerics import QuantParams, QuantSpec, fake_quantize, qparams_from_amax, qparams_from_values

torch = pytest.importorskip("torch")

FORMS = [(bits, signed, narrow) for bits in range(2, 17) for signed in (True, False) for narrow in (False, True)]
SHAPE = (6, 32)
SPECIAL = 16  # values of each row that ties, ends and far values take


def by_pytorch(x: NDArray[np.float32], params: QuantParams) -> NDArray[np.float32]:
    """The same values, through torch; blocks along the last axis are its channels, one row for each."""
    spec = params.spec
    given = torch.from_numpy(x)
    scale, zero_point = torch.tensor(params.scale), torch.tensor(params.zero_point.astype(np.int32))
    if spec.axis is None:
        rounded = torch.fake_quantize_per_tensor_affine(given, scale, zero_point, spec.qmin, spec.qmax)
    elif spec.block_size is None:
        rounded = torch.fake_quantize_per_channel_affine(given, scale, zero_point, spec.axis, spec.qmin, spec.qmax)
    else:
        rows = given.reshape(-1, spec.block_size)
        rounded = torch.fake_quantize_per_channel_affine(
            rows, scale.reshape(-1), zero_point.reshape(-1), 0, spec.qmin, spec.qmax
        ).reshape(given.shape)
    return np.asarray(rounded.numpy())


def steps_of(x: NDArray[np.float32], params: QuantParams) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Each value's scale, and the value in steps of it."""
    scale = params.scale
    if params.spec.block_size is not None:
        scale = np.repeat(scale, params.spec.block_size, axis=-1)
    elif params.spec.axis is not None:
        scale = scale.reshape([-1 if axis == params.spec.axis else 1 for axis in range(x.ndim)])
    return np.broadcast_to(scale, x.shape), x.astype(np.float64) / scale


def with_ties(x: NDArray[np.float32], params: QuantParams) -> NDArray[np.float32]:
    """`x`, some of it moved to the middle between two codes, to both ends and half a step beyond, and far outside."""
    spec, scale = params.spec, steps_of(x, params)[0]
    chosen = x.copy()
    middles = np.arange(-4, 4) + 0.5
    ends = np.array([spec.qmin - 0.5, spec.qmin, spec.qmax, spec.qmax + 0.5])
    far = np.array([-3.0, 3.0, -1000.0, 1000.0]) * (spec.qmax - spec.qmin)
    special = np.concatenate([middles, ends, far])
    chosen[:, :SPECIAL] = special * scale[:, :SPECIAL]
    return chosen


def forms_of(bits: int, signed: bool, narrow: bool, power_of_two: bool) -> list[QuantSpec]:
    common = {"narrow_range": narrow, "power_of_two": power_of_two}
    return [
        QuantSpec.of(bits, signed, **common),
        QuantSpec.of(bits, signed, symmetric=not signed, **common),
        QuantSpec.of(bits, signed, axis=0, **common),
        QuantSpec.of(bits, signed, axis=1, **common),
        QuantSpec.of(bits, signed, axis=1, block_size=8, **common),
    ]


@pytest.mark.parametrize(("bits", "signed", "narrow"), FORMS)
def test_powers_of_two_are_equal_to_the_bit(bits: int, signed: bool, narrow: bool) -> None:
    values = np.random.default_rng(bits).normal(size=SHAPE).astype(np.float32) * 1.3
    for spec in forms_of(bits, signed, narrow, power_of_two=True):
        params = qparams_from_values(values, spec)
        x = with_ties(values, params)
        np.testing.assert_array_equal(fake_quantize(x, params), by_pytorch(x, params), err_msg=str(spec))


@pytest.mark.parametrize(("bits", "signed", "narrow"), FORMS)
def test_any_scale_is_equal_but_on_ties(bits: int, signed: bool, narrow: bool) -> None:
    """Where the two differ, the value is a tie to within the rounding of x / scale, and they differ by one step."""
    values = np.random.default_rng(100 + bits).normal(size=SHAPE).astype(np.float32)
    for spec in forms_of(bits, signed, narrow, power_of_two=False):
        params = qparams_from_values(values * 0.8, spec)
        x = with_ties(values, params)
        ours, theirs = fake_quantize(x, params), by_pytorch(x, params)
        scale, steps = steps_of(x, params)
        apart = ours != theirs
        from_tie = np.abs(np.abs(steps - np.rint(steps)) - 0.5)
        # Reciprocal, product and quotient each round once: 3 half-ulps of a step's number.
        assert (from_tie[apart] <= 1.5 * np.spacing(np.abs(steps[apart]).astype(np.float32))).all(), spec
        assert (np.rint((np.abs(ours - theirs) / scale)[apart]) == 1).all(), spec
        assert apart[:, SPECIAL:].sum() <= 2, spec  # of 96 values that no one put on a tie


@pytest.mark.parametrize("bits", range(2, 17))
def test_a_given_amax_clips_alike(bits: int) -> None:
    x = np.linspace(-3, 3, 1009, dtype=np.float32)
    for signed in (True, False):
        params = qparams_from_amax(1.5, QuantSpec.of(bits, signed, narrow_range=signed, power_of_two=True))
        ours = fake_quantize(x, params)
        np.testing.assert_array_equal(ours, by_pytorch(x, params))
        assert ours.max() == params.scale * params.spec.qmax  # a multiple of a power of two: exact
        assert ours.min() == (params.scale * params.spec.qmin if signed else 0.0)
