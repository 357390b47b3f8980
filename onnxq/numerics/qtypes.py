"""The types that quantized tensors are stored in.

Code ranges follow the ONNX QuantizeLinear operator: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
`min_opset` is the first opset whose QuantizeLinear/DequantizeLinear accept the type.

Arrays of codes are numpy arrays of `dtype`: 2- and 4-bit codes take a whole byte each (`packing` makes the bytes of a
model of them), and 8-bit floats are uint8 that hold their bit patterns (`float8`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxq.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class QType:
    """A storage type for codes.

    Attributes:
        name: Lower-case name, as used in flags and files.
        dtype: The numpy dtype that carries the codes.
        onnx_type: The TensorProto.DataType value.
        qmin: The smallest code; of a float type, the smallest value.
        qmax: The largest code; of a float type, the largest value.
        bits: Bits that a code takes in a model.
        min_opset: The first ONNX opset that can quantize to it.
        is_float: Whether codes are floating-point numbers, whose steps grow with the value.
    """

    name: str
    dtype: np.dtype[np.generic]
    onnx_type: int
    qmin: int
    qmax: int
    bits: int
    min_opset: int
    is_float: bool = False

    @property
    def signed(self) -> bool:
        return self.qmin < 0


def _integer(name: str, carrier: type[np.integer], onnx_type: int, bits: int, min_opset: int) -> QType:
    signed = np.issubdtype(carrier, np.signedinteger)
    qmin, qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return QType(
        name=name, dtype=np.dtype(carrier), onnx_type=onnx_type, qmin=qmin, qmax=qmax, bits=bits, min_opset=min_opset
    )


INT2 = _integer("int2", np.int8, 26, 2, 25)
UINT2 = _integer("uint2", np.uint8, 25, 2, 25)
INT4 = _integer("int4", np.int8, 22, 4, 21)
UINT4 = _integer("uint4", np.uint8, 21, 4, 21)
INT8 = _integer("int8", np.int8, 3, 8, 10)
UINT8 = _integer("uint8", np.uint8, 2, 8, 10)
INT16 = _integer("int16", np.int16, 5, 16, 21)
UINT16 = _integer("uint16", np.uint16, 4, 16, 21)
# int32 is a storage type of DequantizeLinear only: it carries biases with scale = x_scale * w_scale.
INT32 = _integer("int32", np.int32, 6, 32, 10)
FLOAT8E4M3FN = QType(
    name="float8e4m3fn",
    dtype=np.dtype(np.uint8),
    onnx_type=17,
    qmin=-448,
    qmax=448,
    bits=8,
    min_opset=19,
    is_float=True,
)

QTYPES: dict[str, QType] = {
    t.name: t for t in (INT2, UINT2, INT4, UINT4, INT8, UINT8, INT16, UINT16, INT32, FLOAT8E4M3FN)
}

_ALIASES = {"fp8": FLOAT8E4M3FN.name, "float8": FLOAT8E4M3FN.name, "e4m3fn": FLOAT8E4M3FN.name}

_CALLED = {"float8e4m3fn": "fp8", "uint8": "int8"}


def type_text(name: str) -> str:
    """A type of codes as people call it: uint8 activations make an int8 node, float8e4m3fn is fp8."""
    return _CALLED.get(name, name)


def qtype_from_name(name: str) -> QType:
    """The type called `name`; "fp8" stands for float8e4m3fn.

    Raises:
        ConfigError: no such type.
    """
    try:
        return QTYPES[_ALIASES.get(name, name)]
    except (KeyError, TypeError):
        known = ", ".join(sorted([*QTYPES, "fp8"]))
        raise ConfigError(f"unknown quantized type {name!r}; known: {known}") from None
