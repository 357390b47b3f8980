"""The layout in which onnxruntime's convolutions compute on x64 and ARM (it calls it NCHWc).

    the model's layout   (N, C, H, W)
    in blocks            (N, C' / B, H, W, B)      C' = C rounded up to a multiple of the block B, 8 or 16

Such a tensor still says that its shape is (N, C', H, W). Source: onnxruntime, `core/mlas/lib/snchwc.cpp`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DOMAIN = "com.microsoft.nchwc"
"""Of the operators that onnxruntime computes on blocks."""


@dataclass(frozen=True)
class Blocked:
    """One tensor's layout.

    Attributes:
        channels: C; the channels behind it are padding, whose values mean nothing.
        block: B.
    """

    channels: int
    block: int

    @property
    def blocks(self) -> int:
        """Blocks of a sample, C' / B."""
        return -(-self.channels // self.block)

    @property
    def padded(self) -> bool:
        """Whether there are channels without meaning."""
        return self.channels % self.block > 0

    @property
    def lanes(self) -> int:
        """Lanes of a block that are read: without the padding where there is one block alone."""
        return self.channels if self.blocks == 1 else self.block

    def in_memory(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape that onnxruntime gives a tensor of `shape`."""
        return (shape[0], self.blocks * self.block, *shape[2:])
