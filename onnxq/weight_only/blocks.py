"""Rows of a weight cut into blocks, each with a scale and a zero-point.

A weight is looked at as rows: (R, K), one row for each output channel (of a table, for each entry), K values that are
summed up. A block is `size` neighbours in a row; the last one is filled up with zeros, which every range holds.

    w ~ (code - zero_point) * scale
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxq.numerics.qparams import SMALLEST_SCALE
from onnxq.numerics.specs import QuantSpec

Values = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Values that codes can express, in each block.

    Attributes:
        scale: float32, shape (R, blocks), > 0; rounded to the type it is stored in.
        zero_point: float32 whole numbers, shape (R, blocks).
    """

    scale: Values
    zero_point: Values


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounded:
    """A weight in codes.

    Attributes:
        codes: In the dtype of the form's type, shape (R, K).
        grid: Scales and zero-points.
        size: Length of a block.
    """

    codes: NDArray[np.generic]
    grid: Grid
    size: int

    def values(self) -> Values:
        """What the codes stand for, shape (R, K)."""
        columns = self.codes.shape[1]
        scale = np.repeat(self.grid.scale, self.size, axis=1)[:, :columns]
        zero_point = np.repeat(self.grid.zero_point, self.size, axis=1)[:, :columns]
        return (self.codes.astype(np.float32) - zero_point) * scale


@dataclass(frozen=True, kw_only=True, eq=False)
class Blocks:
    """Rows of a weight in blocks.

    Attributes:
        values: float32, shape (R, blocks, size), filled up with zeros.
        columns: K.
        spec: Type of the codes, and whether they have a zero-point.
        half: Whether scales are stored in float16.
    """

    values: Values
    columns: int
    spec: QuantSpec
    half: bool = False

    @classmethod
    def of(cls, rows: NDArray[np.floating], spec: QuantSpec, *, half: bool = False) -> Blocks:
        """Rows of shape (R, K), cut as `spec` says; without a block size a row is one block."""
        count, columns = rows.shape
        size = spec.block_size or columns
        blocks = -(-columns // size)
        values = np.zeros((count, blocks * size), np.float32)
        values[:, :columns] = rows
        return cls(values=values.reshape(count, blocks, size), columns=columns, spec=spec, half=half)

    def stored(self, scale: NDArray[np.floating]) -> Values:
        """`scale` as it comes back from where it is stored: positive, and rounded."""
        if self.half:
            smallest = float(np.finfo(np.float16).tiny)
            return np.asarray(np.clip(scale, smallest, np.finfo(np.float16).max).astype(np.float16), np.float32)
        return np.asarray(np.maximum(scale, SMALLEST_SCALE), np.float32)

    def covering(self, factor: float = 1.0) -> Grid:
        """The grid whose range is `factor` times that of each block."""
        qmin, qmax = self.spec.qmin, self.spec.qmax
        if self.spec.symmetric:
            peak = np.abs(self.values).max(axis=2)
            scale = self.stored(np.where(peak > 0, peak * np.float32(factor / ((qmax - qmin) // 2)), 1.0))
            return Grid(scale=scale, zero_point=np.full(scale.shape, self.spec.middle, np.float32))
        low = np.minimum(self.values.min(axis=2), 0.0) * np.float32(factor)
        high = np.maximum(self.values.max(axis=2), 0.0) * np.float32(factor)
        scale = self.stored(np.where(high > low, (high - low) / np.float32(qmax - qmin), 1.0))
        return Grid(scale=scale, zero_point=np.clip(np.rint(qmin - low / scale), qmin, qmax).astype(np.float32))

    def steps(self, grid: Grid) -> Values:
        """Codes less the zero-point, in whole float32 numbers, shape (R, blocks, size)."""
        steps = self.values / grid.scale[..., None]
        np.rint(steps, out=steps)
        low, high = self.spec.qmin - grid.zero_point, self.spec.qmax - grid.zero_point
        return np.clip(steps, low[..., None], high[..., None], out=steps)

    def error(self, grid: Grid, steps: Values | None = None) -> Values:
        """Squared error of each block, shape (R, blocks)."""
        steps = self.steps(grid) if steps is None else steps.copy()
        steps *= grid.scale[..., None]
        steps -= self.values
        return np.asarray(np.einsum("rbs,rbs->rb", steps, steps), np.float32)

    def rounded(self, grid: Grid, steps: Values | None = None) -> Rounded:
        """The codes on `grid`."""
        codes = (self.steps(grid) if steps is None else steps) + grid.zero_point[..., None]
        flat = codes.reshape(codes.shape[0], -1)[:, : self.columns]
        return Rounded(codes=flat.astype(self.spec.qtype.dtype), grid=grid, size=self.values.shape[2])
