"""Quantized types, parameters, array functions and error metrics: pure numpy, no graph."""

from onnxq.numerics.arrays import (
    dequantize,
    fake_quantize,
    qparams_from_amax,
    qparams_from_scale,
    qparams_from_values,
    quantize,
)
from onnxq.numerics.metrics import cosine, max_abs_error, sqnr_db
from onnxq.numerics.packing import pack_codes, unpack_codes
from onnxq.numerics.qparams import QuantParams, Range, qparams_from_range
from onnxq.numerics.qtypes import (
    FLOAT8E4M3FN,
    INT2,
    INT4,
    INT8,
    INT16,
    INT32,
    UINT2,
    UINT4,
    UINT8,
    UINT16,
    QType,
    qtype_from_name,
)
from onnxq.numerics.specs import QuantSpec

__all__ = [
    "FLOAT8E4M3FN",
    "INT2",
    "INT4",
    "INT8",
    "INT16",
    "INT32",
    "UINT2",
    "UINT4",
    "UINT8",
    "UINT16",
    "QType",
    "QuantParams",
    "QuantSpec",
    "Range",
    "cosine",
    "dequantize",
    "fake_quantize",
    "max_abs_error",
    "pack_codes",
    "qparams_from_amax",
    "qparams_from_range",
    "qparams_from_scale",
    "qparams_from_values",
    "qtype_from_name",
    "quantize",
    "sqnr_db",
    "unpack_codes",
]
