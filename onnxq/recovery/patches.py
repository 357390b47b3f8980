"""What a node with weights multiplies its weights with, as rows of a matrix, for a few places of each sample.

A Conv is y = W p for the patch p of C/g * k values around each output position, g groups apart; a Gemm or MatMul is
y = W p for each row p of its input. In both W has the shape (g, m, K): groups, output channels of a group, values of a
patch. Operators: https://onnx.ai/onnx/operators/onnx__Conv.html (pads, strides, dilations, auto_pad).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.graph.view import attribute


def has_patches(node: NodeProto, weight_rank: int) -> bool:
    """Whether `node` is of a kind that this module knows: Conv, Gemm without transA, MatMul with a matrix."""
    if node.op_type == "Conv":
        return True
    if node.op_type == "Gemm":
        return not attribute(node, "transA", 0)
    return node.op_type == "MatMul" and weight_rank == 2


def weight_rows(node: NodeProto, weight: NDArray[Any]) -> NDArray[Any]:
    """The weight as (g, m, K)."""
    if node.op_type == "Conv":
        groups = int(attribute(node, "group", 1))
        return weight.reshape(groups, weight.shape[0] // groups, -1)
    return (weight if _transposed(node) else weight.T)[None]


def weight_from_rows(node: NodeProto, rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The inverse of `weight_rows`, for a weight of the shape given."""
    if node.op_type == "Conv":
        return rows.reshape(shape)
    return np.ascontiguousarray(rows[0] if _transposed(node) else rows[0].T)


def walked(node: NodeProto, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Columns of (g, m, K) in the order in which onnxruntime's int8 kernels reduce: (kh, kw, C) for a Conv."""
    if node.op_type != "Conv":
        return np.arange(shape[1 if _transposed(node) else 0])
    columns = np.arange(int(np.prod(shape[1:]))).reshape(shape[1:])
    return np.moveaxis(columns, 0, -1).reshape(-1)


def sampled_patches(
    node: NodeProto, x: NDArray[Any], weight_shape: tuple[int, ...], rows: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Patches at random places of `x`, the input of `node`.

    Args:
        node: A node of which `has_patches` holds.
        x: Its data input.
        weight_shape: Shape of its weight.
        rows: How many places to take; all, where there are not so many.
        rng: Chooses them.

    Returns:
        float64, shape (g, n, K).
    """
    if node.op_type != "Conv":
        matrix = x.reshape(-1, x.shape[-1])
        return matrix[_places(matrix.shape[0], rows, rng)].astype(np.float64)[None]
    kernel, strides, dilations, pads = _geometry(node, x.shape[2:], weight_shape[2:])
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    sizes = [(n - span) // s + 1 for n, span, s in zip(padded.shape[2:], spans, strides, strict=True)]
    places = _places(x.shape[0] * int(np.prod(sizes)), rows, rng)
    sample, *at = np.unravel_index(places, (x.shape[0], *sizes))
    dims = len(kernel)
    index: list[Any] = [sample.reshape(-1, *[1] * dims), slice(None)]
    for d in range(dims):
        offset = (np.arange(kernel[d]) * dilations[d]).reshape(1, *[-1 if i == d else 1 for i in range(dims)])
        index.append((at[d] * strides[d]).reshape(-1, *[1] * dims) + offset)
    # A slice between index arrays moves last: (n, k..., C) -> (n, C, k...).
    patches = np.moveaxis(padded[tuple(index)], -1, 1)
    groups = int(attribute(node, "group", 1))
    return np.ascontiguousarray(patches.reshape(places.size, groups, -1).transpose(1, 0, 2), np.float64)


def _places(count: int, rows: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return np.arange(count) if count <= rows else np.sort(rng.choice(count, rows, replace=False))


def _transposed(node: NodeProto) -> bool:
    return node.op_type == "Gemm" and bool(attribute(node, "transB", 0))


def _geometry(
    node: NodeProto, sizes: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], list[int], list[int], list[tuple[int, int]]]:
    """Kernel, strides, dilations and (begin, end) padding of a Conv, for each spatial axis."""
    dims = len(kernel)
    strides = [int(v) for v in attribute(node, "strides", [1] * dims)]
    dilations = [int(v) for v in attribute(node, "dilations", [1] * dims)]
    auto = attribute(node, "auto_pad", b"NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else str(auto)
    if auto in ("NOTSET", ""):
        flat = [int(v) for v in attribute(node, "pads", [0] * (2 * dims))]
        return kernel, strides, dilations, list(zip(flat[:dims], flat[dims:], strict=True))
    pads = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = 0 if auto == "VALID" else max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        pads.append((large, small) if auto == "SAME_LOWER" else (small, large))
    return kernel, strides, dilations, pads
