"""Whether onnxruntime multiplies codes right on this CPU.

Without VNNI x64 CPUs add two products of an unsigned and a signed code in 16 bits, which saturates where both are
large: 2 * 255 * 127 > 2^15 - 1. Target `ort-x64-avx2` is made for that. About models for other CPUs onnxruntime is
asked with `session.x64quantprecision`, by which it takes kernels for unsigned codes that do not saturate.
https://github.com/microsoft/onnxruntime/blob/main/include/onnxruntime/core/session/onnxruntime_session_options_config_keys.h

Before version 1.25 it does not where the CPU has AMX: of every 32 rows of a product the last one holds leftovers of
memory in its last columns, if those are 17 to 31 more than a multiple of 32. MatMul, Gemm, and Conv where it goes
through a matrix product (grouped, or channels that are no multiple of 4). The model is right, and so it is computed
elsewhere.
https://github.com/microsoft/onnxruntime/pull/27671
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxq.graph.view import Graph, attribute
from onnxq.runtime import ort
from onnxq.targets.schema import Engine, Target, WeightGuard
from onnxq.verification.agreement import Stretch
from onnxq.verification.check import Check
from onnxq.verification.engines.result import EngineReport, Precision
from onnxq.wording.plural import counted

_TILE = 32
"""Rows and columns that the kernel computes at a time; a half has 16."""
_SHOWN = 3


@functools.cache
def multiplies_codes_right() -> bool:
    """Whether a product of codes in one of those sizes comes out right."""
    rng = np.random.default_rng(0)
    left = rng.integers(0, 256, (2 * _TILE, 2 * _TILE)).astype(np.uint8)
    # No two products add up to more than 16 bits hold: saturation is another matter.
    right = rng.integers(-64, 65, (2 * _TILE, _TILE - 1)).astype(np.int8)
    zero_point = np.uint8(37)  # with none, leftovers of the row before are sometimes what they should be
    return bool(np.array_equal(_product(left, right, zero_point), (left.astype(np.int32) - zero_point) @ right))


@functools.cache
def saturates() -> bool:
    """Whether this CPU adds two products of an unsigned and a signed code in 16 bits."""
    left, right = np.full((1, _TILE), 255, np.uint8), np.full((_TILE, 1), 127, np.int8)
    return int(_product(left, right, np.uint8(0))[0, 0]) != _TILE * 255 * 127


def has_kernels_of(target: Target) -> bool:
    """Whether onnxruntime on this CPU computes in int8 what it does on the CPU that `target` is for."""
    return target.engine is Engine.ONNXRUNTIME and (target.guard is not WeightGuard.NONE or not saturates())


def saturation_note(target: Target) -> str | None:
    """What to say before a model for `target` is run here; None where this CPU computes as those that it is for."""
    if target.engine is not Engine.ONNXRUNTIME or has_kernels_of(target):
        return None
    return (
        f"this machine cannot run such a model exactly: its CPU has no VNNI, and onnxruntime's int8 kernels saturate "
        f"on it, which those that {target.name} is for do not; for this CPU plan for ort-x64-avx2, target= (--target)"
    )


def _product(left: NDArray[np.uint8], right: NDArray[np.int8], zero_point: np.uint8) -> NDArray[np.int32]:
    """(left - zero_point) @ right as onnxruntime computes it."""
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["left", "right", "zero_point"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", TensorProto.UINT8, left.shape)],
        [helper.make_tensor_value_info("product", TensorProto.INT32, None)],
        [numpy_helper.from_array(right, "right"), numpy_helper.from_array(np.array(zero_point), "zero_point")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"left": left})
    found: NDArray[np.int32] = product
    return found


def products_check(graph: Graph, engine: EngineReport, stretches: Iterable[Stretch]) -> Check | None:
    """What to say of a quantized model where products come out wrong.

    Args:
        graph: The quantized model, its shapes inferred.
        engine: How its nodes run.
        stretches: Fused against unfused computation.

    Returns:
        A check that fails; None where products come out right, or the model has none of those sizes.
    """
    if multiplies_codes_right():
        return None
    differs = any(not one.agrees for one in stretches)
    nodes = [
        f"{one.op} {one.node!r}"
        for one in engine.of(Precision.INT8)
        if graph.has_node(one.node) and _suffers(graph, graph.node(one.node), convs=differs)
    ]
    if not nodes:
        return None
    shown = ", ".join(nodes[:_SHOWN]) + (f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else "")
    return Check(
        name="engine multiplies codes right",
        passed=False,
        detail=f"onnxruntime {engine.version} does not on this CPU (it has AMX; version 1.25 mends it) in results of "
        f"32 or more rows and 17 to 31 columns beyond a multiple of 32; the model itself is right: "
        f"{counted(len(nodes), 'node')}, {shown}; upgrade onnxruntime, or keep them in float with exclude= (--exclude)",
    )


def _suffers(graph: Graph, node: NodeProto, *, convs: bool) -> bool:
    """Whether the result of `node` has such a size, or may have.

    Args:
        graph: Its graph.
        node: A node that runs on codes.
        convs: Whether Convs count. Most go another way, and those that do not show it on any picture.
    """
    if node.op_type == "Conv":
        weight = graph.shape(node.input[1])
        columns = weight[0] if weight else None
        rows: int | None = None
        if isinstance(columns, int):
            columns //= int(attribute(node, "group", 1))
        if not convs:
            return False
    elif node.op_type in ("MatMul", "Gemm", "MatMulInteger"):
        shape, right = graph.shape(node.output[0]), graph.shape(node.input[1])
        columns = shape[-1] if shape else None
        # A batch of matrices times one matrix is a single product of all their rows.
        rows = _rows(shape[:-1] if right is not None and len(right) == 2 else shape[-2:-1]) if shape else None
    else:
        return False
    return isinstance(columns, int) and columns % _TILE > _TILE // 2 and (rows is None or rows >= _TILE)


def _rows(sizes: Iterable[object]) -> int | None:
    """How many rows there are; None where that is open."""
    known = list(sizes)
    return (
        math.prod(size for size in known if isinstance(size, int)) if all(isinstance(s, int) for s in known) else None
    )
