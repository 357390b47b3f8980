"""Where NaN in a tensor is bound to show in a tensor further on, so that one of the two need not be searched for it.

Arithmetic passes NaN on: a sum with NaN is NaN, and so is a product, by 0 too (IEEE 754-2019, 6.2.3). An operator keeps
NaN if each element of its input takes part in some element of its output. Activations are comparisons, which may lose
it; how this machine's kernels compare is seen by running them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxq.errors import OnnxqError
from onnxq.graph.view import CAPTURED, STANDARD_DOMAINS, Graph, attribute
from onnxq.inference.session import make_session

_KEEPING = frozenset(
    {
        "Add", "Sub", "Mul", "MatMul", "Neg", "Concat", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze",
        "Identity", "GlobalAveragePool", "LayerNormalization",
    }
)  # fmt: skip

_ACTIVATIONS = ("Relu", "Clip", "Sigmoid", "Tanh", "LeakyRelu", "HardSigmoid", "HardSwish", "Softmax")


def shown_behind(graph: Graph, taps: Iterable[str]) -> set[str]:
    """Taps in which NaN cannot be without being in another of the taps, too, that is not in this set."""
    wanted = set(taps)
    shows: dict[str, bool] = {}
    # From the outputs to the inputs: what follows from a tensor is known before the tensor is looked at.
    for node in reversed(graph.nodes):
        for tensor in set(node.output) | set(node.input):
            shows[tensor] = any(
                all(output in wanted or shows.get(output, False) for output in kept)
                for use in graph.uses(tensor)
                if use.slot != CAPTURED and (kept := _kept_in(graph, graph.node(use.node), use.slot))
            )
    return {name for name in wanted if shows.get(name, False)}


def _kept_in(graph: Graph, node: NodeProto, slot: int) -> list[str]:
    """Outputs of a node of which one holds NaN if input `slot` does; none where that is not certain."""
    if node.domain not in STANDARD_DOMAINS:
        return []
    if node.op_type == "Split":
        return [output for output in node.output if output] if slot == 0 else []
    if node.op_type == "Conv":
        kept = slot == 0 and _sees_everything(graph, node)
    elif node.op_type in _ACTIVATIONS:
        kept = slot == 0 and node.op_type in _keeping_activations()
    else:
        kept = node.op_type in _KEEPING
    return [node.output[0]] if kept else []


def _sees_everything(graph: Graph, conv: NodeProto) -> bool:
    """Whether a Conv reads every element of its input."""
    strides = attribute(conv, "strides") or [1]
    if all(stride == 1 for stride in strides):
        return True
    shape, kernel = graph.shape(conv.input[0]), graph.shape(conv.input[1])
    automatic = attribute(conv, "auto_pad") not in (None, "NOTSET", b"NOTSET")
    if shape is None or kernel is None or automatic or any(d != 1 for d in attribute(conv, "dilations") or [1]):
        return False
    sizes, windows = shape[2:], kernel[2:]
    pads = attribute(conv, "pads") or [0] * (2 * len(sizes))
    for size, window, stride, begin, end in zip(sizes, windows, strides, pads, pads[len(sizes) :], strict=False):
        if not isinstance(window, int) or window < stride:
            return False
        # Behind the last window; of an unknown size, at most.
        left_over = (size + begin + end - window) % stride if isinstance(size, int) else stride - 1
        if left_over > end:
            return False
    return True


@functools.cache
def _keeping_activations() -> frozenset[str]:
    """Activations that keep NaN on this machine, alone and fused to a Conv."""
    nodes, outputs = [], []
    weights = {"w": np.ones((32, 32, 3, 3), np.float32), "d": np.ones((32, 1, 3, 3), np.float32)}
    for op_type in _ACTIVATIONS:
        limits = ["low", "high"] if op_type == "Clip" else []
        for kind, groups in (("w", 1), ("d", 32), ("", 0)):
            before, after = f"{op_type}_{kind}_in", f"{op_type}_{kind}"
            if kind:
                nodes.append(helper.make_node("Conv", ["x", kind], [before], pads=[1, 1, 1, 1], group=groups))
            nodes.append(helper.make_node(op_type, [before if kind else "x", *limits], [after]))
            outputs.append(helper.make_tensor_value_info(after, TensorProto.FLOAT, None))
    made = helper.make_graph(
        nodes,
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32, 9, 9])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in weights.items()]
        + [numpy_helper.from_array(np.float32(value), name) for name, value in (("low", 0), ("high", 6))],
    )
    x = np.ones((1, 32, 9, 9), np.float32)
    # In the midst of vectors, and in the remainder of rows that they do not fill.
    x[0, 3, 4, 4] = x[0, 31, 8, 8] = np.nan
    try:
        session = make_session(
            helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), threads=1
        )
        kept = [np.isnan(value[0, [3, 31], [4, 8], [4, 8]]).all() for value in session.run({"x": x})]
    except OnnxqError:
        return frozenset()
    return frozenset(op for i, op in enumerate(_ACTIVATIONS) if all(kept[3 * i : 3 * i + 3]))
