"""The integer types that quantized tensors are stored in.

Code ranges follow the ONNX QuantizeLinear operator: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
`min_opset` is the first opset whose QuantizeLinear/DequantizeLinear accept the type.
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
        qmin: The smallest code.
        qmax: The largest code.
        min_opset: The first ONNX opset that can quantize to it.
    """

    name: str
    dtype: np.dtype[np.generic]
    onnx_type: int
    qmin: int
    qmax: int
    min_opset: int

    @property
    def signed(self) -> bool:
        return self.qmin < 0

    @property
    def bits(self) -> int:
        return int(self.qmax - self.qmin).bit_length()


INT8 = QType(name="int8", dtype=np.dtype(np.int8), onnx_type=3, qmin=-128, qmax=127, min_opset=10)
UINT8 = QType(name="uint8", dtype=np.dtype(np.uint8), onnx_type=2, qmin=0, qmax=255, min_opset=10)
INT16 = QType(name="int16", dtype=np.dtype(np.int16), onnx_type=5, qmin=-32768, qmax=32767, min_opset=21)
UINT16 = QType(name="uint16", dtype=np.dtype(np.uint16), onnx_type=4, qmin=0, qmax=65535, min_opset=21)
# int32 is a storage type of DequantizeLinear only: it carries biases with scale = x_scale * w_scale.
INT32 = QType(name="int32", dtype=np.dtype(np.int32), onnx_type=6, qmin=-(2**31), qmax=2**31 - 1, min_opset=10)

QTYPES: dict[str, QType] = {t.name: t for t in (INT8, UINT8, INT16, UINT16, INT32)}


def qtype_from_name(name: str) -> QType:
    """The type called `name`.

    Raises:
        ConfigError: no such type.
    """
    try:
        return QTYPES[name]
    except KeyError:
        raise ConfigError(f"unknown quantized type {name!r}; known: {', '.join(sorted(QTYPES))}") from None
