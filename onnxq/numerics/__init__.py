"""Quantized types, parameters, array functions and error metrics: pure numpy, no graph."""

from onnxq.numerics.arrays import dequantize, fake_quantize, qparams_from_scale, quantize
from onnxq.numerics.metrics import cosine, max_abs_error, sqnr_db
from onnxq.numerics.qparams import QuantParams, Range, qparams_from_range
from onnxq.numerics.qtypes import INT8, INT16, INT32, UINT8, UINT16, QType, qtype_from_name
from onnxq.numerics.specs import QuantSpec

__all__ = [
    "INT8",
    "INT16",
    "INT32",
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
    "qparams_from_range",
    "qparams_from_scale",
    "qtype_from_name",
    "quantize",
    "sqnr_db",
]
