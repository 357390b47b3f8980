"""What can be computed from constants alone is computed, once.

The constant part of the graph is cut out and evaluated by onnx-graphsurgeon (which runs onnxruntime on it); only values
come back, so nothing else of the model passes through another library. The shape of a tensor whose sizes are all known
is a constant too.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto

from onnxq.graph.evaluate import Evaluation, EvaluationError, evaluate, foldable_part, pieces_of
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult


class FoldConstants(Pass):
    """Replace tensors that depend on initializers alone by initializers of the same name.

    1. A chain of nodes over initializers folds as a whole; only tensors that other nodes read are kept.
    2. Shape (with start and end) and Size of a tensor whose sizes are all known fold; what hangs on them follows.
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
        if node.op_type not in ("Shape", "Size") or node.domain not in STANDARD_DOMAINS:
            continue
        sizes = None if graph.is_output(node.output[0]) else _static_sizes(graph, node)
        if sizes is not None:  # case 2
            graph.remove_node(node)
            value = sizes if node.op_type == "Shape" else math.prod(sizes)
            graph.add_initializer(node.output[0], np.array(value, np.int64))
            log.edit("the shape is known", node.name)
            found = True
    return found


def _static_sizes(graph: Graph, node: NodeProto) -> list[int] | None:
    shape = graph.shape(node.input[0])
    if shape is None:
        return None
    part = shape[attribute(node, "start", 0) : attribute(node, "end", None)]
    sizes = [size for size in part if isinstance(size, int)]
    return sizes if len(sizes) == len(part) else None
