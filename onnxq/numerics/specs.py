"""How one tensor is to be quantized, before its range is known."""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.numerics.qtypes import QType


@dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """The form of one tensor's quantization.

    Attributes:
        qtype: Storage type of the codes.
        symmetric: Zero is the middle code (0 for signed types, 128 for uint8) and rmin == -rmax.
        axis: None for per-tensor; else the axis along which each slice has its own scale.
        narrow_range: The smallest code is left out, so that codes are symmetric ([-127, 127] for int8).
    """

    qtype: QType
    symmetric: bool
    axis: int | None = None
    narrow_range: bool = False

    @property
    def qmin(self) -> int:
        return self.qtype.qmin + 1 if self.narrow_range else self.qtype.qmin

    @property
    def qmax(self) -> int:
        return self.qtype.qmax
