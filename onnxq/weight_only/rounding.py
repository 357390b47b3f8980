"""Ways to choose scales and codes of a weight, without looking at data.

nearest  the range of each block, every value to the nearest code
mse      for each block the clipped range of least squared error, then alternately the best codes for a scale and the
         best scale for the codes:  scale = sum(w * q) / sum(q^2)
hqq      half-quadratic splitting (https://mobiusml.github.io/hqq_blog/): minimises a norm |w - w'|^p, p = 0.7, which
         forgives large errors of few outliers, in turns over

             e <- shrink(w - w')          sign(x) * max(|x| - |x|^(p - 1) / beta, 0), in units of the scale
             zero-point (symmetric: scale) <- best for w - e in place of w
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxq.planning.weight_form import HQQ, MSE, NEAREST
from onnxq.weight_only.blocks import Blocks, Grid, Rounded, Values

_FACTORS = np.linspace(1.0, 0.55, 7)
"""How much of its range a block keeps; the widest of equally good ones wins. More of them gain less than 0.1 dB."""
_TURNS = 3
_HQQ_TURNS = 20
_NORM = 0.7
_BETA, _BETA_GROWTH = 10.0, 1.01


def nearest(blocks: Blocks) -> Rounded:
    """Codes nearest to the values, on the grid that holds them all."""
    return blocks.rounded(blocks.covering())


def least_error(blocks: Blocks) -> Rounded:
    """Codes nearest to the values, on the grid of least squared error."""
    grid = least_error_grid(blocks)
    return blocks.rounded(grid)


def least_error_grid(blocks: Blocks) -> Grid:
    """The grid of least squared error of each block."""
    best = blocks.covering()
    least = blocks.error(best)
    for factor in _FACTORS[1:]:
        best, least = _better(blocks, best, least, blocks.covering(float(factor)))
    for _ in range(_TURNS):
        steps = blocks.steps(best)
        best, least = _better(blocks, best, least, _refitted(blocks, best, steps, blocks.values))
    return best


def half_quadratic(blocks: Blocks) -> Rounded:
    """Codes on the grid of least |w - w'|^0.7."""
    grid = best = blocks.covering()
    least = _norm(blocks, grid)
    beta = _BETA
    for _ in range(_HQQ_TURNS):
        steps = blocks.steps(grid)
        error = blocks.values / grid.scale[..., None] - steps
        target = blocks.values - _shrunk(error, beta) * grid.scale[..., None]
        if blocks.spec.symmetric:
            grid = _refitted(blocks, grid, steps, target)
        else:
            # The mean error of the codes is what the zero-point is off by.
            shift = (steps - target / grid.scale[..., None]).mean(axis=2)
            wanted = np.clip(np.rint(grid.zero_point + shift), blocks.spec.qmin, blocks.spec.qmax)
            moved = Grid(scale=grid.scale, zero_point=wanted.astype(np.float32))
            grid = _refitted(blocks, moved, blocks.steps(moved), target)
        norm = _norm(blocks, grid)
        take = norm < least
        best, least = _chosen(take, grid, best), np.where(take, norm, least)
        beta *= _BETA_GROWTH
    return blocks.rounded(best)


WITHOUT_DATA: dict[str, Callable[[Blocks], Rounded]] = {
    NEAREST: nearest,
    MSE: least_error,
    HQQ: half_quadratic,
}
"""By name. Each looks at one row at a time, so that rows may be taken in parts."""


def _better(blocks: Blocks, best: Grid, least: Values, other: Grid) -> tuple[Grid, Values]:
    """The better of two grids, block by block, and its error."""
    error = blocks.error(other)
    take = error < least
    return _chosen(take, other, best), np.where(take, error, least)


def _chosen(take: NDArray[np.bool_], one: Grid, other: Grid) -> Grid:
    return Grid(
        scale=np.where(take, one.scale, other.scale),
        zero_point=np.where(take, one.zero_point, other.zero_point),
    )


def _refitted(blocks: Blocks, grid: Grid, steps: Values, target: Values) -> Grid:
    """`grid` with the scale under which `steps` are nearest to `target`."""
    power = np.einsum("rbs,rbs->rb", steps, steps)
    scale = np.einsum("rbs,rbs->rb", target, steps) / np.where(power > 0, power, 1.0)
    return Grid(scale=blocks.stored(np.where((power > 0) & (scale > 0), scale, grid.scale)), zero_point=grid.zero_point)


def _shrunk(error: Values, beta: float) -> Values:
    """Errors, less what the norm does not forgive: the proximal step of |x|^p."""
    size = np.abs(error)
    with np.errstate(divide="ignore"):
        kept = np.maximum(size - np.power(size, _NORM - 1.0) / np.float32(beta), 0.0)
    return np.asarray(np.sign(error) * kept, np.float32)


def _norm(blocks: Blocks, grid: Grid) -> Values:
    error = blocks.steps(grid) * grid.scale[..., None] - blocks.values
    return np.asarray((np.abs(error) ** _NORM).sum(axis=2))
