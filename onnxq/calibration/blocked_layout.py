"""The layout in which onnxruntime's convolutions compute on x64 and ARM (it calls it NCHWc).

    the model's layout   (N, C, H, W)
    in blocks            (N, C' / B, H, W, B)      C' = C rounded up to a multiple of the block B, 8 or 16

Such a tensor still says that its shape is (N, C', H, W). Source: onnxruntime, `core/mlas/lib/snchwc.cpp`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    def full_channels(self) -> int:
        """Channels in blocks without padding."""
        return self.channels // self.block * self.block

    def places(self, logical: NDArray[np.int64], spatial: int) -> NDArray[np.int64]:
        """Where elements of one sample lie in its memory, padding included.

        Args:
            logical: int64, shape (n,): their places in (C, H, W) order.
            spatial: H * W.

        Returns:
            int64, shape (n,).
        """
        channel, place = np.divmod(logical, spatial)
        block, lane = np.divmod(channel, self.block)
        return np.asarray((block * spatial + place) * self.block + lane, np.int64)

    def plain(self, array: NDArray[Any]) -> NDArray[Any]:
        """The tensor in the model's layout.

        Args:
            array: shape (N, C', H, W).

        Returns:
            shape (N, C, H, W), a copy.
        """
        samples, padded, *spatial = array.shape
        blocks = array.reshape(samples, padded // self.block, -1, self.block)
        plain = np.swapaxes(blocks, 2, 3).reshape(samples, padded, *spatial)
        return np.ascontiguousarray(plain[:, : self.channels])
