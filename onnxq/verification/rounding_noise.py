"""Which tensors are nothing but rounding noise, or hang on it, so that no other computation can be like them.

    i = InstanceNormalization(a)    its mean over each plane is 0
    y = GlobalAveragePool(i)        so this is 0, up to the rounding of the sum: 1e-9 where i reaches 3
    z = Conv(y, w)                  and this is 0, with weights on it

    sums, means               noise where nothing of the result is above 2^-18 of the largest term (a rounding is 2^-24,
                              and a few of them add up), or where all terms are noise
    moves, Relu, ...          where what they take is
    Conv, MatMul, Gemm        where their data are and they add no bias
    Mul                       where one operand is
    all others                never: what is not known excuses no difference

A comparison of such a tensor with 0 is a toss-up, and so is what an If makes of it and all that is computed from that:

    y = If (ReduceMean(i) > 0) ...

Another order of summation, and all the more 8 bits, make something else of such tensors, which is no fault of either.
Not more than that is excused: 2^-18 is far below the smallest step of 8 bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.graph.float_types import FLOAT_TYPES
from onnxq.graph.messages import reads_of
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.inference.outputs import with_readable_outputs
from onnxq.passes.simplify.lift_constants import LiftConstants
from onnxq.verification.engines.onnxruntime import OrtModel

Feed = Mapping[str, NDArray[Any]]

_ROUNDING = 2.0**-18
_MOST_NODES = 64
"""So many nodes in front of a tensor are looked at: what they compute is kept in memory together."""
_SUMS = frozenset({"Add", "AveragePool", "GlobalAveragePool", "Mean", "ReduceMean", "ReduceSum", "Sub", "Sum"})
_MOVES = frozenset({
    "Abs", "Cast", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GlobalMaxPool", "Identity", "LeakyRelu",
    "MaxPool", "Neg", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_BIAS = 2


def noise_only(graph: Graph, tensors: Sequence[str], feeds: Iterable[Feed]) -> frozenset[str]:
    """Those of `tensors` that are rounding noise, or a toss-up, for every feed.

    Args:
        graph: A graph in topological order; it is not changed.
        tensors: Tensors of it.
        feeds: Its inputs, at least one.

    Raises:
        ModelError: onnxruntime cannot run the graph.
    """
    graph = graph.copy()
    LiftConstants().run(graph)
    infer_shapes(graph)
    nodes = _in_front(graph, tensors)
    sums = [node for node in nodes if node.op_type in _SUMS]
    if not sums:
        return frozenset()
    names = list(dict.fromkeys(t for node in sums for t in (node.output[0], *_read(graph, node))))
    model = OrtModel(with_readable_outputs(graph, names).to_model(), optimised=False, base_dir=graph.base_dir)
    found = frozenset(tensors)
    for feed in feeds:
        values = model({name: value for name, value in feed.items() if name in model.inputs})
        by_name = dict(zip(names, values.values(), strict=True))
        finite = {name for name, value in by_name.items() if np.isfinite(value).all()}
        found &= _noise(graph, nodes, {name: _peak(value) for name, value in by_name.items()}, finite)
        if not found:
            break
    return found


def _in_front(graph: Graph, tensors: Sequence[str]) -> list[NodeProto]:
    """The nodes that `tensors` are computed by, the nearest ones, in topological order."""
    found: dict[str, None] = {}
    front = list(tensors)
    while front and len(found) < _MOST_NODES:
        node = graph.producer(front.pop(0))
        if node is not None and node.name not in found and node.domain in STANDARD_DOMAINS:
            found[node.name] = None
            front += [tensor for tensor, _ in reads_of(node)]
    return [node for node in graph.nodes if node.name in found]


def _read(graph: Graph, node: NodeProto) -> list[str]:
    """The computed values that a node puts together."""
    several = node.op_type in _SUMS or node.op_type in _COMPARISONS or node.op_type == "Mul"
    names = node.input if several else node.input[:1]
    return [name for name in names if name and graph.dtype(name) in FLOAT_TYPES and not graph.is_constant(name)]


def _noise(
    graph: Graph, nodes: Iterable[NodeProto], peaks: Mapping[str, float], finite: Collection[str]
) -> frozenset[str]:
    """Tensors behind `nodes` that are noise or a toss-up.

    Args:
        graph: The graph.
        nodes: In topological order.
        peaks: The largest finite magnitudes of what sums read and give.
        finite: Those without NaN or Inf.
    """
    found, tossed = set[str](), set[str]()
    for node in nodes:
        if any(name in tossed for name, _ in reads_of(node)) or _is_tossed(graph, node, found):
            tossed.update(node.output)
            continue
        read = _read(graph, node)
        noisy = [name in found for name in read]
        if node.op_type in _SUMS:
            constants = (_peak(graph.constant(name)) for name in node.input if name and graph.is_constant(name))
            largest = max([*(peaks[name] for name in read), *constants], default=0.0)
            whole = all(noisy) and len(read) == _terms(node)
            small = node.output[0] in finite and peaks[node.output[0]] <= _ROUNDING * largest
            is_noise = bool(read) and (whole or small)
        elif node.op_type == "Mul":
            is_noise = any(noisy)
        elif node.op_type in _PRODUCTS:
            is_noise = noisy == [True] and not _adds_bias(graph, node)
        else:
            is_noise = node.op_type in _MOVES and noisy == [True]
        if is_noise:
            found.update(node.output)
    return frozenset(found | tossed)


def _is_tossed(graph: Graph, node: NodeProto, noise: Collection[str]) -> bool:
    """Whether a node compares noise with noise or 0."""
    if node.op_type not in _COMPARISONS or not any(name in noise for name in node.input):
        return False
    zeros = (name for name in node.input if graph.is_constant(name) and not np.any(graph.constant(name)))
    return {*noise, *zeros}.issuperset(node.input)


def _terms(node: NodeProto) -> int:
    """How many inputs of a sum are summed: axes are none."""
    return 1 if node.op_type.startswith("Reduce") else len(node.input)


def _adds_bias(graph: Graph, node: NodeProto) -> bool:
    if node.op_type == "MatMul" or len(node.input) <= _BIAS or not node.input[_BIAS]:
        return False
    bias = graph.constant(node.input[_BIAS])
    return bias is None or bool(np.any(bias))


def _peak(value: Any) -> float:
    array = np.asarray(value)
    if array.dtype.kind != "f" or not array.size:
        return 0.0
    return float(np.abs(array[np.isfinite(array)].astype(np.float64)).max(initial=0.0))
