"""Forms of weights that engines other than ONNX Runtime take (W6), found by running them.

OpenVINO 2026.4 refuses a shorter last block. Its CPU kernels compute wrong values, for few or for many rows, where a
block holds another number of codes than a power of two, or a channel an odd number of 4-bit codes.

TensorRT-RTX 1.7 takes as many blocks as there are scales, of equal size, so that it would cut the blocks elsewhere than
ONNX does where the last one is shorter. It refuses 4-bit codes whose last dimension is odd (R10).
"""

from __future__ import annotations

from dataclasses import replace

from onnxq.graph.view import Graph
from onnxq.numerics.qtypes import INT8
from onnxq.planning.plan import TensorPlan
from onnxq.planning.weight_form import SMALLEST_BLOCK, with_form
from onnxq.targets.schema import Engine
from onnxq.weight_only.sites import PRODUCT, STORED, WeightSite


def taken_by(engine: Engine, graph: Graph, tensor: TensorPlan, site: WeightSite) -> TensorPlan:
    """`tensor` in the form that `engine` takes and that is nearest to its own.

    1. OpenVINO: blocks of the largest power of two that divides the axis and is no more than asked for, 16 at least.
    2. TensorRT: blocks of a size that divides the axis; of those no less than half of what was asked for, the one that
       differs least by factor.
    3. Where there is none, or codes of 4 bits cannot stand: int8 with a scale for each channel. Smaller blocks than 16
       would take as much space.
    """
    if site.kind == STORED:
        return tensor
    shape = tuple(graph.initializers[tensor.name].dims)
    summed, last = int(shape[site.axis]), int(shape[1 - site.axis] if site.kind == PRODUCT else shape[-1])
    size, openvino = tensor.spec.block_size, engine is Engine.OPENVINO
    narrow = tensor.spec.qtype.bits < INT8.bits
    if narrow and (summed if openvino else last) % 2:
        return with_form(tensor, weight=INT8.name, block_size=0)
    if size is None:
        return tensor
    if openvino:
        taken = min(size, summed & -summed)  # the largest power of two that divides it
        if taken < SMALLEST_BLOCK:
            return with_form(tensor, weight=INT8.name, block_size=0)
    else:
        fitting = [n for n in range(1, summed + 1) if summed % n == 0 and 2 * n >= size] or [summed]
        taken = min(fitting, key=lambda n: (max(n / size, size / n), n))
    return replace(tensor, spec=replace(tensor.spec, block_size=taken))
