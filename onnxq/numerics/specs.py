"""How one tensor is to be quantized, before its range is known."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

from onnxq.errors import ConfigError
from onnxq.numerics.qtypes import INT4, INT8, INT16, UINT4, UINT8, UINT16, QType, qtype_from_name, type_text

SMALLEST_BITS, LARGEST_BITS = 2, 16


@dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """The form of one tensor's quantization: what other tools call a quantization descriptor.

    Attributes:
        qtype: Storage type of the codes.
        symmetric: Zero is the middle code (0 for signed types, 128 for uint8) and rmin == -rmax.
        axis: None for per-tensor; else the axis along which each slice has its own scale.
        narrow_range: The smallest code is left out, so that codes are symmetric ([-127, 127] for int8).
        block_size: None, or how many neighbours along the axis share a scale; all other axes have one for each index.
        bits: Bits of which codes make use, fewer than the storage type has; None for all.
        power_of_two: Scales are powers of two, for engines that shift instead of multiplying.

    Raises:
        ConfigError: the fields contradict each other.
    """

    qtype: QType
    symmetric: bool
    axis: int | None = None
    narrow_range: bool = False
    block_size: int | None = None
    bits: int | None = None
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if self.bits == self.qtype.bits:
            object.__setattr__(self, "bits", None)
        if self.bits is not None:
            self._check_bits(self.bits)
        if self.block_size is not None:
            if isinstance(self.block_size, bool) or not isinstance(self.block_size, Integral) or self.block_size < 1:
                raise ConfigError(f"block_size is {self.block_size!r}, expected a whole number of at least 1")
            if self.axis is None:
                raise ConfigError(
                    f"block_size is {self.block_size}, but axis is None: blocks run along an axis",
                    hint="pass axis= too; -1 is the last one",
                )
        if self.qtype.is_float and (not self.symmetric or self.narrow_range):
            raise ConfigError(
                f"{self.qtype.name} has no zero-point and no narrow range",
                hint="pass symmetric=True and narrow_range=False",
            )

    def _check_bits(self, bits: int) -> None:
        most = min(self.qtype.bits, LARGEST_BITS)
        whole = isinstance(bits, Integral) and not isinstance(bits, bool)
        if self.qtype.is_float or not whole or not SMALLEST_BITS <= bits <= most:
            expected = "8" if self.qtype.is_float else f"a whole number from {SMALLEST_BITS} to {most}"
            raise ConfigError(
                f"bits is {bits!r}, expected {expected} for codes stored as {self.qtype.name}",
                hint="choose a wider type of storage, or fewer bits",
            )

    @classmethod
    def of(  # noqa: PLR0913 - one keyword for each choice of the user
        cls,
        bits: int | None = None,
        signed: bool = True,
        *,
        dtype: str | None = None,
        symmetric: bool | None = None,
        narrow_range: bool = False,
        axis: int | None = None,
        block_size: int | None = None,
        power_of_two: bool = False,
    ) -> QuantSpec:
        """A form by its number of bits, in the smallest type of ONNX that holds them.

        Args:
            bits: 2 to 16; 8 unless `dtype` says otherwise.
            signed: Whether codes can be negative. Ignored where `dtype` is given.
            dtype: Storage type by name, "fp8" among them, in place of the smallest that fits.
            symmetric: Whether zero is the middle code; unless given, it is for signed codes.
            narrow_range: Leave out the smallest code.
            axis: None for per-tensor, else the axis that has a scale for each slice.
            block_size: How many neighbours along the axis share a scale.
            power_of_two: Whether scales are powers of two.

        Raises:
            ConfigError: an argument has an impossible value, or they contradict each other.

        >>> spec = QuantSpec.of(5, signed=False)
        >>> spec.qtype.name, spec.qmin, spec.qmax
        ('uint8', 0, 31)
        """
        qtype = _storage(8 if bits is None else bits, signed) if dtype is None else qtype_from_name(dtype)
        return cls(
            qtype=qtype,
            symmetric=qtype.signed if symmetric is None else symmetric,
            axis=axis,
            narrow_range=narrow_range,
            block_size=block_size,
            bits=bits,
            power_of_two=power_of_two,
        )

    @property
    def effective_bits(self) -> int:
        """Bits of which codes make use."""
        return self.qtype.bits if self.bits is None else self.bits

    @property
    def qmin(self) -> int:
        """The smallest code; of a float type, the smallest value."""
        lowest = self.qtype.qmin
        if self.bits is not None and self.qtype.signed:
            lowest = -(1 << (self.bits - 1))
        return lowest + 1 if self.narrow_range else lowest

    @property
    def qmax(self) -> int:
        """The largest code; of a float type, the largest value."""
        if self.bits is None:
            return self.qtype.qmax
        return (1 << (self.bits - 1)) - 1 if self.qtype.signed else (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The code of 0.0 in a symmetric form."""
        return 0 if self.qtype.signed else (self.qmax + 1) // 2

    @property
    def saturates_early(self) -> bool:
        """Whether the smallest or largest code lies inside the storage type, which QuantizeLinear saturates to."""
        return (self.qmin, self.qmax) != (self.qtype.qmin, self.qtype.qmax)

    @property
    def label(self) -> str:
        """The type in words: "int8", "uint8 (5 bits)"."""
        return self._with_bits(self.qtype.name)

    @property
    def codes(self) -> str:
        """What a node on such codes runs in, in words: "int8" (also for uint8), "fp8", "int8 (5 bits)"."""
        return self._with_bits(type_text(self.qtype.name))

    def _with_bits(self, name: str) -> str:
        return name if self.bits is None else f"{name} ({self.bits} bits)"


def _storage(bits: int, signed: bool) -> QType:
    """The smallest type of opset 21 that holds codes of `bits` bits."""
    if not isinstance(bits, Integral) or isinstance(bits, bool) or not SMALLEST_BITS <= bits <= LARGEST_BITS:
        raise ConfigError(f"bits is {bits!r}, expected a whole number from {SMALLEST_BITS} to {LARGEST_BITS}")
    for one, other in ((INT4, UINT4), (INT8, UINT8)):
        if bits <= one.bits:
            return one if signed else other
    return INT16 if signed else UINT16
