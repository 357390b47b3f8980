"""What can be computed from constants alone is computed, once.

The constant part of the graph is cut out and evaluated by onnx-graphsurgeon (which runs onnxruntime on it); only values
come back, so nothing else of the model passes through another library. The shape of a tensor whose sizes are all known
is a constant too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.graph.evaluate import Evaluation, EvaluationError, evaluate, foldable_part, pieces_of
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.sizes import entries, sizes
from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.passes.base import Pass, PassLog, PassResult


class FoldConstants(Pass):
    """Replace tensors that depend on initializers alone by initializers of the same name.

    1. A chain of nodes over initializers folds as a whole; only tensors that other nodes read are kept.
    2. Shape (with start and end) and Size of a tensor whose sizes are all known fold; what hangs on them follows.
       Where some sizes are open, such as the batch, a Gather or Slice that takes known ones from the Shape folds.
    3. Left alone: random numbers, control flow, quantization, operators outside the standard set, sequences, strings.
    4. Left alone: a result over 1 MB that is more than 4 times the size of what it is made from, or whose size cannot
       be told beforehand (Expand, Tile, Range, ConstantOfShape ...).
    5. Left alone: a node whose output is an output of the graph.
    6. Left alone: a part that onnxruntime cannot run.
    7. Left alone: a result without elements, unless it is a vector.
    8. In a large model, parts that have nothing to do with each other fold one after another, into a file.
    """

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        while True:
            shapes = _fold_shapes(graph, log)
            part = foldable_part(graph)
            pieces = pieces_of(part) if graph.scratch is not None else [part]
            folded = [piece for piece in pieces if _fold_part(graph, piece, log)]
            for piece in pieces:
                part.refused.update(piece.refused)
            if not shapes and not folded:
                break
            graph.prune()
            infer_shapes(graph)
        # Only the last round's misses hold: what was missed before may have folded since.
        for node, reason in part.refused.items():
            log.miss(reason, node)
        return log.result(graph)


def _fold_part(graph: Graph, part: Evaluation, log: PassLog) -> bool:
    if not part.nodes:
        return False
    try:
        values = evaluate(graph, part)
    except EvaluationError as error:
        part.refused.update({node.name: f"onnxruntime cannot evaluate it: {error}" for node in part.nodes})  # case 6
        return False
    for node in part.nodes:
        graph.remove_node(node)
        log.edit(f"{node.op_type} of constants is a constant", node.name)
    for name, value in values.items():
        graph.add_initializer(name, value)
    return True


def _fold_shapes(graph: Graph, log: PassLog) -> bool:
    found = False
    for node in graph.nodes:
        value = None if graph.is_output(node.output[0]) else _known_sizes(graph, node)
        if value is not None:  # case 2
            graph.remove_node(node)
            graph.add_initializer(node.output[0], value)
            log.edit("the shape is known", node.name)
            found = True
    return found


def _known_sizes(graph: Graph, node: NodeProto) -> NDArray[np.int64] | None:
    """The value of a node that gives sizes, if all that it gives is known."""
    if node.domain not in STANDARD_DOMAINS:
        return None
    if node.op_type in ("Shape", "Size"):
        rank: int | None = 1 if node.op_type == "Shape" else 0
        found = sizes(graph, node)
    elif node.op_type in ("Gather", "Slice") and _is_of_sizes(graph, node.input[0]):
        found, rank = entries(graph, node.output[0]), graph.rank(node.output[0])
    else:
        return None
    if found is None or rank not in (0, 1) or not all(isinstance(entry, int) for entry in found):
        return None
    known = np.array(found, np.int64)
    return known if rank else np.array(known.prod(), np.int64)


def _is_of_sizes(graph: Graph, tensor: str) -> bool:
    source = graph.producer(tensor)
    return source is not None and source.op_type == "Shape" and source.domain in STANDARD_DOMAINS
