"""The names that scripts import beside the functions. onnxruntime's own members are taken just as well.

Source: onnxruntime.quantization of onnxruntime 1.32, whose names and values these are.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import Any

from onnxq.errors import ConfigError


class CompatWarning(UserWarning):
    """Something that onnxruntime's function would have done otherwise."""


class QuantType(enum.Enum):
    """Types of codes."""

    QInt8 = 0
    QUInt8 = 1
    QFLOAT8E4M3FN = 2
    QInt16 = 3
    QUInt16 = 4
    QInt4 = 5
    QUInt4 = 6


class QuantFormat(enum.Enum):
    """Quantized operators, or Q/DQ pairs."""

    QOperator = 0
    QDQ = 1


class CalibrationMethod(enum.Enum):
    """How ranges are chosen."""

    MinMax = 0
    Entropy = 1
    Percentile = 2
    Distribution = 3


class CalibrationDataReader(ABC):
    """Base class of calibration data: `get_next` gives `{input name: array}`, and None at the end."""

    @abstractmethod
    def get_next(self) -> dict[str, Any] | None:
        """The next feed."""

    def __iter__(self) -> CalibrationDataReader:
        return self

    def __next__(self) -> dict[str, Any]:
        feed = self.get_next()
        if feed is None:
            raise StopIteration
        return feed


def member(value: Any, kind: type[enum.Enum], argument: str) -> str:
    """The name of a member, whether of `kind` or of the class of the same name in onnxruntime.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(value, enum.Enum) and type(value).__name__ == kind.__name__ and value.name in kind.__members__:
        return value.name
    known = ", ".join(f"{kind.__name__}.{name}" for name in kind.__members__)
    raise ConfigError(f"{argument} is {value!r}", hint=f"{argument}= is one of {known}.")
