"""Tapped tensors in the layout that onnxruntime's convolutions compute in, instead of a copy in the model's own layout.

On x64 and ARM onnxruntime runs 2-D convolutions on blocks of channels (see `blocked_layout`).

A tapped tensor would be brought back by a ReorderOutput node, which costs as much as a small convolution. Statistics do
not depend on the order of elements, so that node is cut away and the blocks are read as they are.

The graph as onnxruntime optimised it is the only one that says which tensors are blocked, so the model is optimised
once, saved, edited and loaded again without optimisation. Anything unexpected on the way leaves the taps as they were.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, ValueInfoProto, helper

from onnxq.calibration.blocked_layout import Blocked
from onnxq.calibration.session import Session, make_session
from onnxq.errors import OnnxqError
from onnxq.graph.external_data import is_external
from onnxq.graph.view import Graph

_DOMAIN = "com.microsoft.nchwc"

_LARGEST_MODEL_BYTES = 1 << 29
"""Larger models are not saved and read once more: their time goes into weights, not into the layout of taps."""


def blocked_session(
    graph: Graph, outputs: Sequence[str], *, threads: int | None
) -> tuple[Session, tuple[Blocked | None, ...]] | None:
    """A session of `graph` on the CPU whose outputs are blocked where onnxruntime computes them so.

    Args:
        graph: A model whose outputs are all tapped tensors.
        outputs: Those that the session is to have. The others are kept from being fused all the same, so that a tensor
            is computed alike whatever it is tapped together with.
        threads: Threads within a node; None leaves the choice to onnxruntime.

    Returns:
        The session and the layout of each of `outputs`, None for the model's own; or None where nothing is gained.
    """
    some = len(outputs) < len(graph.outputs)
    block = block_size() if any(node.op_type == "Conv" for node in graph.nodes) else 0
    model = graph.to_model()
    if not (block or some) or any(map(is_external, model.graph.initializer)) or model.ByteSize() > _LARGEST_MODEL_BYTES:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="onnxq-", ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "optimised.onnx"
            make_session(model, threads=threads, optimised_model_path=path)
            optimised = Graph(onnx.load(path))
        layouts = _cut_reorders(optimised, outputs, block)
        if not (some or any(layouts)):
            return None
        return make_session(optimised.to_model(), optimise=False, threads=threads, stop_spinning=True), layouts
    except (OnnxqError, OSError, ValueError, KeyError):
        # A graph that only onnxruntime understands is worth an attempt, not an error.
        return None


def _cut_reorders(graph: Graph, outputs: Sequence[str], block: int) -> tuple[Blocked | None, ...]:
    """Make `outputs` the outputs, or where one is reordered from blocks, the blocks."""
    names, layouts = [], list[Blocked | None]()
    for name in outputs:
        node = graph.producer(name)
        attributes = {} if node is None else {a.name: helper.get_attribute_value(a) for a in node.attribute}
        blocked = node is not None and (node.domain, node.op_type) == (_DOMAIN, "ReorderOutput")
        if node is not None and blocked and not attributes.get("channels_last") and node.input[0] not in names:
            names.append(node.input[0])
            layouts.append(Blocked(channels=int(attributes["channels"]), block=block))
        else:
            names.append(name)
            layouts.append(None)
    graph.outputs = {name: ValueInfoProto(name=name) for name in names}
    graph.prune()
    return tuple(layouts)


@functools.cache
def block_size() -> int:
    """Channels in a block of this machine's onnxruntime, seen by running one of its nodes; 0 where there are none."""
    channels, spatial = 32, 3
    value = np.arange(channels * spatial, dtype=np.float32)
    made = helper.make_graph(
        [helper.make_node("ReorderInput", ["x"], ["y"], domain=_DOMAIN)],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 1, spatial])],
        [ValueInfoProto(name="y")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_DOMAIN, 1)]
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
