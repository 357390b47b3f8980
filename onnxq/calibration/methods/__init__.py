"""Methods that choose a tensor's range from its statistics. Pure: one set of statistics serves them all."""

from onnxq.calibration.methods.noise import expected_sqnr_db
from onnxq.calibration.methods.solve import (
    AUTO,
    METHOD_NAMES,
    METHODS,
    MOVING_AVERAGE,
    Method,
    method_from_name,
    solve_range,
)

__all__ = [
    "AUTO",
    "METHODS",
    "METHOD_NAMES",
    "MOVING_AVERAGE",
    "Method",
    "expected_sqnr_db",
    "method_from_name",
    "solve_range",
]
