"""The model as onnxruntime optimises it, in which tensors are found in the layout that convolutions compute in.

On x64 and ARM onnxruntime runs 2-D convolutions on blocks of channels (see `blocked_layout`). A tapped tensor would be
brought back by a ReorderOutput node, which costs as much as a small convolution. Statistics do not depend on the order
of elements, so the blocks in front of that node are read as they are.

The graph as onnxruntime optimised it is the only one that says which tensors are blocked, so the model is optimised
once, saved, edited and loaded again without optimisation. Anything unexpected on the way leaves the model as it was.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxq.calibration.statistics.blocked_layout import DOMAIN, Blocked
from onnxq.calibration.taps.memory import give_back_freed
from onnxq.errors import OnnxqError
from onnxq.files.scratch import scratch_folder
from onnxq.graph.external_data import named_length
from onnxq.graph.saving import self_contained
from onnxq.graph.view import Graph, attribute, bodies
from onnxq.inference.outputs import with_readable_outputs
from onnxq.inference.session import make_session

_LARGEST_MODEL_BYTES = 1 << 29
"""Larger models are not saved and read once more: their time goes into weights, not into the layout of taps."""


def optimised_graph(graph: Graph, *, threads: int | None) -> Graph | None:
    """What onnxruntime makes of a model on the CPU; None where it cannot be edited.

    Args:
        graph: A model whose outputs are all tapped tensors: none of them is fused away.
        threads: Threads within a node; None leaves the choice to onnxruntime.
    """
    constants = graph.initializers.values()
    if sum(constant.ByteSize() + named_length(constant) for constant in constants) > _LARGEST_MODEL_BYTES:
        return None
    try:
        with scratch_folder() as folder:
            path = folder / "optimised.onnx"
            # Without a name the message is gone while onnxruntime makes its own copies.
            make_session(self_contained(graph.to_model(), graph.base_dir), threads=threads, optimised_model_path=path)
            give_back_freed()
            optimised = Graph(onnx.load(path))
    except (OnnxqError, OSError, ValueError, KeyError):
        # A graph that only onnxruntime understands is worth an attempt, not an error.
        return None
    return None if _makes_names_twice(optimised) else optimised


def layouts_on_cpu(
    graph: Graph, taps: Sequence[str], chosen: Sequence[str], *, threads: int | None
) -> dict[str, Blocked]:
    """Layouts in which onnxruntime computes tensors on the CPU, by name, where they are not the model's.

    Args:
        graph: The model; it is not changed.
        taps: All tensors that are tapped.
        chosen: Those in question.
        threads: Threads within a node; None leaves the choice to onnxruntime.
    """
    every = with_readable_outputs(graph, taps, as_float32=True)
    optimised = optimised_graph(every, threads=threads)
    if optimised is None:
        return {}
    names = dict(zip(taps, every.outputs, strict=True))
    found = {name: in_blocks(optimised, names[name]) for name in chosen}
    return {name: form[1] for name, form in found.items() if form is not None}


def _makes_names_twice(graph: Graph) -> bool:
    """Whether a body makes a tensor of a name that the graph around makes too.

    onnxruntime counts the tensors that it reorders (`reorder_token_0`) in each graph anew, and does not load what it
    saved then.
    """
    made = {*graph.inputs, *graph.initializers, *(name for node in graph.nodes for name in node.output)}
    inside = (name for node in graph.nodes for body in bodies(node) for name in _made_in(body))
    return not made.isdisjoint(inside)


def _made_in(body: GraphProto) -> Iterator[str]:
    yield from (tensor.name for tensor in body.initializer)
    for node in body.node:
        yield from filter(None, node.output)
        for inner in bodies(node):
            yield from _made_in(inner)


def in_blocks(optimised: Graph, tensor: str) -> tuple[str, Blocked] | None:
    """The tensor that `tensor` of an optimised graph is reordered from, and its layout; None for any other."""
    node = optimised.producer(tensor)
    if node is None or (node.domain, node.op_type) != (DOMAIN, "ReorderOutput") or attribute(node, "channels_last"):
        return None
    block = block_size()
    return (node.input[0], Blocked(channels=int(attribute(node, "channels")), block=block)) if block else None


def padding_is_not_negative(optimised: Graph, tensor: str, blocked: Blocked) -> bool:
    """Whether what stands in the padding of a tensor in blocks is known to be 0 or more.

    Args:
        optimised: The graph as onnxruntime optimised it.
        tensor: Its name there.
        blocked: Its layout.
    """
    node = optimised.producer(tensor)
    if node is None:
        return False
    match node.op_type:
        case "Conv":
            sums = node.input[3:]
            if not (_has_empty_padding(optimised, node, blocked) and _keeps_from_below_zero(node)):
                return False
        case "Add" | "Sum" | "Mul" | "Relu" | "Tanh" | "QuickGelu":
            sums = node.input
        case "Sigmoid":
            return True
        case _:
            return False
    return all(padding_is_not_negative(optimised, name, blocked) for name in sums if name)


def _has_empty_padding(optimised: Graph, conv: NodeProto, blocked: Blocked) -> bool:
    """Whether the filters and biases of channels that are padding are 0."""
    if conv.domain != DOMAIN:
        return False
    for name in filter(None, conv.input[1:3]):
        values = optimised.constant(name)
        # Filters: blocks of output channels outermost, the channels of a block innermost.
        if values is None or values.size % (blocked.blocks * blocked.block):
            return False
        last = values.reshape(blocked.blocks, -1, blocked.block)[-1]
        if last[:, blocked.channels % blocked.block :].any():
            return False
    return True


def _keeps_from_below_zero(conv: NodeProto) -> bool:
    """Whether the activation fused to a Conv gives no less than 0 for what is not less."""
    activation = attribute(conv, "activation")
    name = activation.decode() if isinstance(activation, bytes) else activation
    if name == "Clip":
        _, high = attribute(conv, "activation_params")
        return float(high) >= 0.0
    return name in (None, "", "Relu", "LeakyRelu", "Sigmoid", "Tanh")


@functools.cache
def block_size() -> int:
    """Channels in a block of this machine's onnxruntime, seen by running one of its nodes; 0 where there are none."""
    channels, spatial = 32, 3
    value = np.arange(channels * spatial, dtype=np.float32)
    made = helper.make_graph(
        [helper.make_node("ReorderInput", ["x"], ["y"], domain=DOMAIN)],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 1, spatial])],
        [ValueInfoProto(name="y")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    try:
        session = make_session(helper.make_model(made, opset_imports=opsets, ir_version=8), optimise=False)
        seen = session.run({"x": value.reshape(1, channels, 1, spatial)})[0].ravel()
    except OnnxqError:
        return 0
    for block in (8, 16, 32, 4):
        expected = value.reshape(channels // block, block, spatial).transpose(0, 2, 1)
        if np.array_equal(seen, expected.ravel()):
            return block
    return 0
