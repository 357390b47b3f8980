"""onnxruntime's quantization functions with their signatures: a script that calls them works by changing one import.

    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxq.compat import CalibrationDataReader, QuantType, quantize_static

Every parameter does what it says, or an error or a CompatWarning says what is different (docs/from-onnxruntime.md).
"""

from onnxq.compat.functions import quant_pre_process, quantize_dynamic, quantize_static
from onnxq.compat.names import CalibrationDataReader, CalibrationMethod, CompatWarning, QuantFormat, QuantType

__all__ = [
    "CalibrationDataReader",
    "CalibrationMethod",
    "CompatWarning",
    "QuantFormat",
    "QuantType",
    "quant_pre_process",
    "quantize_dynamic",
    "quantize_static",
]
