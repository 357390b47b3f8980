"""Forms of quantization: bits, narrow ranges, blocks, powers of two; packing; and every refusal."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxq.errors import ConfigError, DataError, InternalError, ModelError
from onnxq.graph.code_tensors import code_tensor, code_values
from onnxq.numerics import (
    INT4,
    INT8,
    UINT8,
    QuantParams,
    QuantSpec,
    Range,
    dequantize,
    fake_quantize,
    pack_codes,
    qparams_from_amax,
    qparams_from_range,
    qparams_from_scale,
    qparams_from_values,
    qtype_from_name,
    quantize,
    unpack_codes,
)
from onnxq.numerics.blocks import range_of_values, scale_shape, spread
from onnxq.numerics.clipping import clipped_params, nearest_power_of_two
from tests.pairs import through_onnxruntime, through_reference

SMALL = ("int2", "uint2", "int4", "uint4")
RUN_BY_ONNXRUNTIME = ("int4", "uint4", "int8", "uint8", "int16", "uint16", "fp8")


# ---- bits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 17))
def test_codes_of_every_width(bits: int) -> None:
    signed, unsigned = QuantSpec.of(bits), QuantSpec.of(bits, signed=False)
    assert (signed.qmin, signed.qmax) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert (unsigned.qmin, unsigned.qmax) == (0, 2**bits - 1)
    assert signed.effective_bits == unsigned.effective_bits == bits
    assert signed.symmetric and not unsigned.symmetric
    x = np.linspace(-3, 3, 4001).astype(np.float32)
    for spec in (signed, unsigned, QuantSpec.of(bits, narrow_range=True)):
        codes = quantize(x, spec)
        assert (codes.min(), codes.max()) == ((spec.qmin + (spec.symmetric and not spec.narrow_range)), spec.qmax)
        assert len(np.unique(codes)) == min(spec.qmax - int(codes.min()) + 1, 4001) or bits > 10
        step = float(qparams_from_values(x, spec).scale)
        # Half a step, and half a step more at an end where the zero-point was rounded.
        assert np.abs(fake_quantize(x, spec) - x).max() <= step * (0.5 if spec.symmetric else 1.0) + 1e-6


def test_widths_are_stored_in_the_smallest_type() -> None:
    pairs = {bits: (QuantSpec.of(bits), QuantSpec.of(bits, signed=False)) for bits in (2, 4, 5, 9)}
    names = {bits: (signed.qtype.name, unsigned.qtype.name) for bits, (signed, unsigned) in pairs.items()}
    assert names == {2: ("int4", "uint4"), 4: ("int4", "uint4"), 5: ("int8", "uint8"), 9: ("int16", "uint16")}
    assert QuantSpec.of(6, dtype="int16").qmax == 31


def test_all_bits_of_the_type_are_the_type() -> None:
    assert QuantSpec.of(8) == QuantSpec(qtype=INT8, symmetric=True) == QuantSpec.of(dtype="int8")
    assert QuantSpec.of(8).label == "int8" and QuantSpec.of(5).label == "int8 (5 bits)"
    assert QuantSpec.of(5).saturates_early and not QuantSpec.of(8).saturates_early


@pytest.mark.parametrize(("arguments", "message"), [
    ({"bits": 1}, "from 2 to 16"),
    ({"bits": 17}, "from 2 to 16"),
    ({"bits": True}, "from 2 to 16"),
    ({"bits": 9, "dtype": "int8"}, "from 2 to 8 for codes stored as int8"),
    ({"block_size": 32}, "axis is None"),
    ({"block_size": 0, "axis": 0}, "at least 1"),
    ({"block_size": 2.5, "axis": 0}, "at least 1"),
    ({"dtype": "int7"}, "unknown quantized type 'int7'.*fp8"),
])  # fmt: skip
def test_impossible_forms(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        QuantSpec.of(**arguments)


# ---- array functions ---------------------------------------------------------------------------------------------


def test_example_of_pytorch_quantization_unsigned() -> None:
    # Tensor of its documentation, x in [0, 1), 4 bits unsigned: amax / 15, codes 0 to 15.
    x = np.array([0.9817, 0.8796, 0.9921, 0.4611, 0.0832], np.float32)
    assert quantize(x, bits=4, signed=False, amax=x.max()).tolist() == [15, 13, 15, 7, 1]


def test_a_given_range_holds_for_all_three() -> None:
    x = np.array([[-1.0, 0.2], [0.4, 3.0]], np.float32)
    form = {"bits": 6, "narrow_range": True, "axis": 0}
    codes = quantize(x, amax=[0.5, 2.0], **form)
    assert codes.tolist() == [[-31, 12], [6, 31]]
    np.testing.assert_array_equal(dequantize(codes, amax=[0.5, 2.0], **form), fake_quantize(x, amax=[0.5, 2.0], **form))


def test_one_amax_serves_every_slice() -> None:
    x = np.linspace(-1, 1, 12).astype(np.float32).reshape(3, 4)
    for axis, block_size in ((0, None), (1, 2)):
        form = {"axis": axis, "block_size": block_size}
        np.testing.assert_array_equal(quantize(x, amax=1.0, **form), quantize(x, amax=1.0))


def test_without_a_range_it_is_that_of_each_slice() -> None:
    x = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    codes = quantize(x, QuantSpec.of(8, narrow_range=True, axis=1, block_size=4))
    for row in range(6):
        for start in (0, 4, 8):
            assert np.abs(codes[row, start : start + 4]).max() == 127


def test_parameters_and_keywords_exclude_each_other() -> None:
    params = qparams_from_scale(0.1)
    with pytest.raises(ConfigError, match="bits= both say how"):
        quantize([1.0], params, bits=4)
    with pytest.raises(ConfigError, match="holds a range already"):
        fake_quantize([1.0], params, amax=1.0)
    with pytest.raises(ConfigError, match="do not tell the range"):
        dequantize([1], bits=4)
    with pytest.raises(TypeError, match="bitz"):
        quantize([1.0], bitz=4)


def test_values_without_a_range() -> None:
    with pytest.raises(DataError, match="2 of 3 values are NaN or infinite"):
        qparams_from_values([1.0, np.inf, np.nan], QuantSpec.of(8))


@pytest.mark.parametrize(("amax", "form", "message"), [
    (-1.0, {}, "not negative"),
    (np.inf, {}, "finite"),
    ([1.0, 2.0], {}, r"shape \(2,\).*need \(\)"),
    (1.0, {"axis": 0}, r"shape \(\).*need \(C,\)"),
    (1.0, {"axis": 0, "block_size": 4}, "need one for each block"),
])  # fmt: skip
def test_impossible_amax(amax: object, form: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        qparams_from_amax(amax, QuantSpec.of(8, **form))


# ---- blocks ------------------------------------------------------------------------------------------------------


def test_shapes_of_scales() -> None:
    assert scale_shape((3, 7), QuantSpec.of(8)) == ()
    assert scale_shape((3, 7), QuantSpec.of(8, axis=-1)) == (7,)
    assert scale_shape((3, 7, 2), QuantSpec.of(8, axis=1, block_size=3)) == (3, 3, 2)
    with pytest.raises(ConfigError, match=r"shape \(3, 7\) has no axis 2"):
        scale_shape((3, 7), QuantSpec.of(8, axis=2))


def test_ranges_of_blocks() -> None:
    values = np.array([[1.0, -2.0, 3.0, 4.0, -5.0]])
    found = range_of_values(values, QuantSpec.of(8, axis=1, block_size=2))
    assert found.rmin.tolist() == [[-2.0, 0.0, -5.0]] and found.rmax.tolist() == [[1.0, 4.0, 0.0]]
    empty = range_of_values(np.zeros((0, 4)), QuantSpec.of(8, axis=1, block_size=2))
    assert empty.rmin.shape == (0, 2)


def test_scales_that_do_not_fit_say_both_shapes() -> None:
    params = qparams_from_scale(np.ones((2, 3)), axis=1, block_size=4)
    said = r"scales of shape \(2, 3\) along axis 1 in blocks of 4 do not fit .* \(2, 16\), which needs shape \(2, 4\)"
    with pytest.raises(ConfigError, match=said):
        quantize(np.zeros((2, 16)), params)
    with pytest.raises(ConfigError, match=r"scale has shape \(\), but axis=1"):
        qparams_from_scale(1.0, axis=1, block_size=4)
    with pytest.raises(InternalError, match=r"shape \(\) does not fit axis 0 in blocks of 4"):
        QuantParams(scale=np.float32(1), zero_point=np.int8(0), spec=QuantSpec.of(8, axis=0, block_size=4))


def test_blocks_of_one_are_elements() -> None:
    scales = np.arange(1.0, 7.0, dtype=np.float32).reshape(2, 3)
    spec = QuantSpec.of(8, axis=1, block_size=1)
    np.testing.assert_array_equal(spread(scales, (2, 3), spec), scales)


@pytest.mark.parametrize("name", RUN_BY_ONNXRUNTIME)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blocks_equal_onnxruntime(name: str, axis: int) -> None:
    qtype = qtype_from_name(name)
    rng = np.random.default_rng(axis)
    shape = [4, 6, 4]
    shape[axis] = 8
    scales_shape = tuple(2 if a == axis else d for a, d in enumerate(shape))
    scales = rng.uniform(0.01, 0.4, scales_shape).astype(np.float32)
    middle = 0 if qtype.is_float else rng.integers(qtype.qmin, qtype.qmax + 1, scales_shape)
    params = qparams_from_scale(scales, middle, qtype=qtype, axis=axis, block_size=4)
    x = rng.normal(0, 0.15 * min(qtype.qmax, 400), shape).astype(np.float32)
    codes, y = through_onnxruntime(x, params)
    np.testing.assert_array_equal(quantize(x, params), codes)
    np.testing.assert_array_equal(fake_quantize(x, params), y)


@pytest.mark.parametrize("name", ["int4", "uint4", "int8", "uint8"])
def test_a_short_last_block_equals_onnxruntime(name: str) -> None:
    x = np.random.default_rng(1).normal(size=(3, 10)).astype(np.float32)
    params = qparams_from_values(x, QuantSpec.of(dtype=name, axis=1, block_size=4))
    assert params.scale.shape == (3, 3)
    codes, y = through_onnxruntime(x, params)
    np.testing.assert_array_equal(quantize(x, params), codes)
    np.testing.assert_array_equal(fake_quantize(x, params), y)


# ---- types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RUN_BY_ONNXRUNTIME)
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_types_equal_onnxruntime(name: str, axis: int | None) -> None:
    x = np.random.default_rng(2).standard_t(3, size=(5, 40)).astype(np.float32)
    params = qparams_from_values(x[:, :20] if axis == 0 else x * np.float32(0.6), QuantSpec.of(dtype=name, axis=axis))
    codes, y = through_onnxruntime(x, params)
    np.testing.assert_array_equal(quantize(x, params), codes)
    np.testing.assert_array_equal(fake_quantize(x, params), y)


@pytest.mark.parametrize("name", [*SMALL, "int8", "uint8", "int16", "uint16", "fp8"])
def test_types_equal_the_reference_evaluator(name: str) -> None:
    if not hasattr(onnx.TensorProto, "INT2") and name in ("int2", "uint2"):
        pytest.skip("this version of onnx has no 2-bit types")
    x = np.random.default_rng(2).normal(size=(5, 40)).astype(np.float32)
    params = qparams_from_values(x * np.float32(0.7), QuantSpec.of(dtype=name))
    codes, y = through_reference(x, params)
    np.testing.assert_array_equal(quantize(x, params), codes)
    np.testing.assert_array_equal(fake_quantize(x, params), y)


# ---- powers of two -----------------------------------------------------------------------------------------------


def test_powers_of_two_cover_the_range() -> None:
    for amax in (1.0, 0.99, 127 / 64, 128 / 64, 3e-9, 0.0):
        spec = QuantSpec.of(8, narrow_range=True, power_of_two=True)
        scale = float(qparams_from_range(Range.of(-amax, amax), spec).scale)
        assert np.log2(scale) == round(np.log2(scale))
        assert scale * 127 >= amax and (scale * 127 / 2 < amax or amax == 0.0)
    params = qparams_from_range(Range.of(-1.0, 3.0), QuantSpec.of(8, signed=False, power_of_two=True))
    assert (float(params.scale), int(params.zero_point)) == (2.0**-5, 32)


def test_half_of_a_power_of_two_where_it_loses_less() -> None:
    # Of 1000 values one is 1.0: 1/127 rounds up to 1/64; 1/128 cuts off 1/128 of the one and halves all other errors.
    values = np.append(np.random.default_rng(0).uniform(-0.9, 0.9, 1000), 1.0).astype(np.float32)
    spec = QuantSpec.of(8, narrow_range=True, power_of_two=True)
    params = qparams_from_values(values, spec)
    assert float(params.scale) == 1 / 64
    assert float(nearest_power_of_two(values, params).scale) == 1 / 128
    steps = np.array([-1.9, 1.9], np.float32)
    assert float(nearest_power_of_two(steps, qparams_from_values(steps, spec)).scale) == 1 / 64


def test_clipping_of_blocks_is_that_of_each_alone() -> None:
    values = np.random.default_rng(5).standard_t(3, size=(4, 64)).astype(np.float32)
    spec = QuantSpec.of(4, narrow_range=True, axis=1, block_size=32)
    whole = clipped_params(values, qparams_from_values(values, spec))
    for row in range(4):
        for half in range(2):
            part = values[row, 32 * half : 32 * half + 32]
            alone = clipped_params(part, qparams_from_values(part, QuantSpec.of(4, narrow_range=True)))
            assert whole.scale[row, half] == alone.scale


# ---- packing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 9])
def test_packing_is_that_of_onnx(name: str, size: int) -> None:
    qtype = qtype_from_name(name)
    if name.upper() not in onnx.TensorProto.DataType.keys():  # noqa: SIM118 - no dict
        pytest.skip("this version of onnx has no such type")
    codes = np.random.default_rng(size).integers(qtype.qmin, qtype.qmax + 1, size).astype(qtype.dtype)
    tensor = helper.make_tensor("codes", qtype.onnx_type, [size], codes.tolist())
    packed = pack_codes(codes, qtype)
    as_raw = onnx.TensorProto(data_type=qtype.onnx_type, dims=[size], raw_data=packed)
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(as_raw).astype(np.int32), onnx.numpy_helper.to_array(tensor).astype(np.int32)
    )
    np.testing.assert_array_equal(unpack_codes(packed, [size], qtype), codes)
    # make_tensor writes typed fields, which hold the same bytes.
    np.testing.assert_array_equal(code_values(tensor, None), codes)


@pytest.mark.parametrize("name", ["int4", "uint2", "int8", "uint16", "fp8", "int32"])
def test_codes_come_back_from_an_initializer(name: str) -> None:
    qtype = qtype_from_name(name)
    low, high = (0, 126) if qtype.is_float else (qtype.qmin, qtype.qmax)
    codes = np.random.default_rng(0).integers(low, high, (3, 5), endpoint=True).astype(qtype.dtype)
    tensor = code_tensor(codes, qtype, "codes")
    assert (tensor.name, tensor.data_type, list(tensor.dims)) == ("codes", qtype.onnx_type, [3, 5])
    np.testing.assert_array_equal(code_values(tensor, None), codes)
    assert code_values(tensor, None).dtype == qtype.dtype


def test_what_does_not_fit_a_type() -> None:
    with pytest.raises(DataError, match=r"run from -9 to 3; int4 holds \[-8, 7\]"):
        pack_codes([3, -9], INT4)
    with pytest.raises(DataError, match=r"2 bytes of int4 for shape \(5,\), which needs 3"):
        unpack_codes(b"ab", [5], INT4)
    damaged = onnx.TensorProto(name="codes", data_type=INT4.onnx_type, dims=[5], raw_data=b"ab")
    with pytest.raises(ModelError, match="its data cannot be read"):
        code_values(damaged, None)
    with pytest.raises(ModelError, match="DOUBLE is none of codes"):
        code_values(onnx.numpy_helper.from_array(np.zeros(1), "x"), None)


def test_unsigned_symmetric_forms_have_their_middle() -> None:
    assert QuantSpec(qtype=UINT8, symmetric=True).middle == 128
    assert QuantSpec(qtype=UINT8, symmetric=True, bits=6).middle == 32
    assert quantize([0.0, 1.0], QuantSpec.of(6, signed=False, symmetric=True)).tolist() == [32, 63]
