"""What a subgraph of If, Loop or Scan reads while a model runs: found by carrying the node out, step by step.

    If      once, if the condition takes the branch
    Loop    once for each iteration: its number, the condition, what the iteration before gave out
    Scan    once for each element of the scanned inputs: the state, the slices

Whoever calls runs the subgraph itself (`step`), with whatever runtime; nothing here does.
Operators: https://onnx.ai/onnx/operators/onnx__Loop.html and onnx__Scan.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto

from onnxq.graph.messages import attribute
from onnxq.graph.subgraphs import Subgraph

Array = NDArray[Any]
Feed = Mapping[str, Array]
Step = Callable[[Feed], Sequence[Array]]
"""Runs a subgraph: an array for each input, the outputs in order."""


def subgraph_feeds(
    node: NodeProto, subgraph: Subgraph, captured: Sequence[str], values: Feed, step: Step
) -> Iterator[Feed]:
    """What `subgraph` of `node` reads in one run of the graph around it.

    Args:
        node: An If, Loop or Scan.
        subgraph: Which of its subgraphs.
        captured: Tensors that the subgraph reads from outside.
        values: Those tensors and the inputs of `node`, by name.
        step: Runs the subgraph; called between the feeds of a Loop or Scan.
    """
    around = {name: np.asarray(values[name], order="C") for name in captured}
    body: GraphProto = attribute(node, subgraph.name)
    given = [values[name] if name else None for name in node.input]
    if node.op_type == "If":
        if _truth(given[0]) is (subgraph.name == "then_branch"):
            yield around
    elif node.op_type == "Loop":
        yield from _loop(body, given, around, step)
    else:
        yield from _scan(node, body, given, around, step)


def _loop(body: GraphProto, given: Sequence[Array | None], around: Feed, step: Step) -> Iterator[Feed]:
    trips = None if given[0] is None else int(np.asarray(given[0]).reshape(()))
    going = len(given) < 2 or given[1] is None or _truth(given[1])
    names = [value.name for value in body.input]
    number, carried = 0, [np.asarray(value) for value in given[2:] if value is not None]
    while going and (trips is None or number < trips):
        first = [_scalar(number, np.int64, body, 0), _scalar(going, np.bool_, body, 1)]
        feed = {**around, **dict(zip(names, [*first, *carried], strict=True))}
        yield feed
        outputs = step(feed)
        going, carried, number = _truth(outputs[0]), list(outputs[1 : 1 + len(carried)]), number + 1


def _scalar(value: Any, dtype: Any, body: GraphProto, slot: int) -> Array:
    """The iteration's number or condition; exporters write both ranks 0 and 1."""
    return np.full([1] * len(body.input[slot].type.tensor_type.shape.dim), value, dtype)


def _scan(node: NodeProto, body: GraphProto, given: Sequence[Array | None], around: Feed, step: Step) -> Iterator[Feed]:
    scanned = int(attribute(node, "num_scan_inputs"))
    inputs = [np.asarray(value) for value in given if value is not None]
    state, sequences = inputs[: len(inputs) - scanned], inputs[len(inputs) - scanned :]
    axes = attribute(node, "scan_input_axes") or [0] * scanned
    backwards = attribute(node, "scan_input_directions") or [0] * scanned
    names = [value.name for value in body.input]
    length = sequences[0].shape[axes[0]]
    for number in range(length):
        slices = [
            np.take(sequence, length - 1 - number if back else number, axis)
            for sequence, axis, back in zip(sequences, axes, backwards, strict=True)
        ]
        feed = {**around, **{n: np.asarray(v, order="C") for n, v in zip(names, [*state, *slices], strict=True)}}
        yield feed
        if number + 1 < length:
            state = list(step(feed)[: len(state)])


def _truth(value: Any) -> bool:
    return bool(np.asarray(value).reshape(()))
