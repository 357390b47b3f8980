"""Additive masks in front of a Softmax: where scores get a large negative number so that their weight becomes 0.

    Softmax(scores + mask)              mask: 0 or -10000, the smallest float, -Inf
    Softmax(Where(hidden, -Inf, scores))

The numbers say no more than "below all others". A range that holds them leaves the scores a step of 39 (uint8) or 0.15
(uint16), while their differences decide. Scores at least as far below the smallest one as `REACH` weigh nothing:

    sum  from  lowest score - REACH                      mask  from  lowest score - highest score - REACH

A hidden place then is REACH or more below the largest score of its row, whichever that is, since none is smaller than
the lowest of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from onnxq.graph.float_types import FLOAT_TYPES
from onnxq.graph.view import CAPTURED, STANDARD_DOMAINS, Graph, Use

MASK_RULE = "R36"
MASK_REASON = "hidden scores end where Softmax gives nothing"

REACH = 12.0
"""exp(-12): 500 hidden places together weigh 0.3 % of the smallest possible largest score, and mostly far less."""

_FAR_BELOW = -50.0
"""What a mask adds at most: Swin transformers take -100, others -10000 and less."""

_MOVERS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "Slice", "Tile"})
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "LSTM", "GRU", "RNN", "Softmax"})
_FLOATS = FLOAT_TYPES | {None}


@dataclass(frozen=True, kw_only=True)
class MaskedScores:
    """A node that hides scores.

    Attributes:
        node: Its name: an Add, or a Where.
        total: The tensor that it writes, which only such nodes and a Softmax read.
        scores: The tensor with the scores.
        mask: What it adds to them; "" of a Where.
        unseen: Whether hidden scores are known to be -Inf, which statistics leave out.
    """

    node: str
    total: str
    scores: str
    mask: str
    unseen: bool = False


def masked_scores(graph: Graph) -> list[MaskedScores]:
    """All nodes that hide scores, in graph order."""
    found = dict[str, MaskedScores]()
    waiting = [str(n.input[0]) for n in graph.nodes if n.op_type == "Softmax" and n.domain in STANDARD_DOMAINS]
    while waiting:
        node = _behind_moves(graph, waiting.pop())
        if node is None or node.name in found:
            continue
        masked = _masked(graph, node)
        if masked is not None and _only_weighed(graph, masked.total, found):
            found[node.name] = masked
            waiting.append(masked.scores)  # several masks may be added one after another
    return [found[node.name] for node in graph.nodes if node.name in found]


def hidden_tensors(graph: Graph) -> frozenset[str]:
    """Tensors in which -Inf is no fault, because it hides scores: masks, what they are made of, and their sums."""
    found = set[str]()
    for masked in masked_scores(graph):
        found |= {masked.total, *_moved(graph, masked.total), *_parts(graph, masked.mask)}
    return frozenset(found)


def mask_source(graph: Graph, tensor: str) -> str:
    """The tensor whose elements `tensor` holds, moved."""
    while (node := graph.producer(tensor)) is not None and node.op_type in _MOVERS:
        tensor = str(node.input[0])
    return tensor


def readers_of_mask(graph: Graph, tensor: str) -> set[str]:
    """Names of the nodes that read the elements of `tensor`, directly or moved; "" stands for any other use of them."""
    found = {""} if graph.is_output(tensor) else set[str]()
    for use in graph.uses(tensor):
        node = None if use.slot == CAPTURED else graph.node(use.node)
        if node is None or (node.op_type in _MOVERS and use.slot > 0):
            found.add("")
        elif node.op_type in _MOVERS:
            found |= readers_of_mask(graph, str(node.output[0]))
        else:
            found.add(node.name)
    return found


def _behind_moves(graph: Graph, tensor: str) -> NodeProto | None:
    return graph.producer(mask_source(graph, tensor))


def _masked(graph: Graph, node: NodeProto) -> MaskedScores | None:
    if node.domain not in STANDARD_DOMAINS or node.op_type not in ("Add", "Where"):
        return None
    first, second = node.input[-2:]
    if node.op_type == "Where":
        hiding = [_is_far_below(graph, tensor) and not _holds_zero(graph, tensor) for tensor in (first, second)]
    else:
        hiding = [_is_mask(graph, tensor) for tensor in (first, second)]
    if hiding[0] == hiding[1]:
        return None
    scores, mask = (second, first) if hiding[0] else (first, second)
    return MaskedScores(
        node=node.name,
        total=str(node.output[0]),
        scores=str(scores),
        mask=str(mask) if node.op_type == "Add" else "",
        unseen=_holds(graph, mask_source(graph, mask), {-np.inf, 0.0}),
    )


def _is_mask(graph: Graph, tensor: str) -> bool:
    """Whether all values of `tensor` are 0 or far below, as far as the graph tells."""
    node = _behind_moves(graph, tensor)
    if node is None:
        return _is_far_below(graph, mask_source(graph, tensor))
    reads = [str(name) for name in node.input]
    match node.op_type:
        case "Cast" | "Max" | "Min":
            masks = [_is_mask(graph, name) for name in reads]
            return any(masks) and all(m or graph.is_constant(name) for m, name in zip(masks, reads, strict=True))
        case "Add":
            return all(_is_mask(graph, name) for name in reads)
        case "Mul":
            pairs = (reads, reads[::-1])
            return any(_is_far_below(graph, one) and _is_flag(graph, other) for one, other in pairs)
        case "Where":
            chosen = reads[1:]
            hides = [_is_mask(graph, name) for name in chosen]
            return any(hides) and all(h or _holds(graph, name, {0.0}) for h, name in zip(hides, chosen, strict=True))
    return False


def _is_flag(graph: Graph, tensor: str) -> bool:
    """Whether values of `tensor` are 0 and 1, as far as the graph tells: made of inputs, conditions and integers."""
    source = mask_source(graph, tensor)
    node = graph.producer(source)
    if graph.is_constant(source):
        return _holds(graph, source, {0.0, 1.0})
    if node is None or (node.op_type == "Cast" and graph.dtype(node.input[0]) not in _FLOATS):
        return True
    return node.op_type in ("Sub", "Mul", "Cast") and all(_is_flag(graph, str(name)) for name in node.input)


def _holds(graph: Graph, tensor: str, allowed: set[float]) -> bool:
    """Whether `tensor` is a constant of no other values."""
    values = graph.constant(tensor) if graph.is_constant(tensor) else None
    return values is not None and values.size > 0 and bool(np.isin(values, list(allowed)).all())


def _parts(graph: Graph, tensor: str) -> set[str]:
    """The float tensors that `tensor` is made of, itself among them, up to the products that make some of them."""
    waiting, found = [tensor], set[str]()
    while waiting:
        name = waiting.pop()
        if not name or name in found or graph.dtype(name) not in _FLOATS:
            continue  # what is no float is a shape, an index or a condition
        found.add(name)
        node = graph.producer(name)
        if node is not None and node.op_type not in _PRODUCTS:
            waiting += [str(read) for read in node.input]
    return found


def _moved(graph: Graph, tensor: str) -> set[str]:
    """The tensors that hold the elements of `tensor` moved."""
    movers = [node for node in graph.consumers(tensor) if node.op_type in _MOVERS]
    outputs = {str(node.output[0]) for node in movers}
    return outputs.union(*(_moved(graph, output) for output in outputs))


def _holds_zero(graph: Graph, tensor: str) -> bool:
    values = graph.constant(tensor)
    return values is None or bool((values == 0.0).any())


def _is_far_below(graph: Graph, tensor: str) -> bool:
    """Whether `tensor` is a constant of large negative numbers, and of zeros beside them."""
    if not graph.is_constant(tensor) or graph.dtype(tensor) not in _FLOATS:
        return False
    values = graph.constant(tensor)
    if values is None or not values.size:
        return False
    far = values <= _FAR_BELOW
    return bool(far.any() and (far | (values == 0.0)).all())


def _only_weighed(graph: Graph, tensor: str, masked: dict[str, MaskedScores]) -> bool:
    """Whether all that becomes of `tensor`, moved or with a further mask, are the weights of a Softmax."""
    if graph.is_output(tensor) or not graph.uses(tensor):
        return False
    return all(_weighs(graph, use, masked) for use in graph.uses(tensor))


def _weighs(graph: Graph, use: Use, masked: dict[str, MaskedScores]) -> bool:
    if use.slot == CAPTURED:
        return False
    node = graph.node(use.node)
    if node.op_type == "Softmax":
        return True
    if node.name in masked:
        return True
    return node.op_type in _MOVERS and use.slot == 0 and _only_weighed(graph, str(node.output[0]), masked)
