"""How much work the nodes of a graph do, kernel by kernel, as the tables of costs count it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from onnx import NodeProto

from onnxq.graph.view import Dim, Graph, attribute
from onnxq.planning.compute import DATA, WEIGHT, ComputeSite
from onnxq.planning.macs import with_input_shapes
from onnxq.targets.costs import CostTable, Work, conv_work, matmul_work

_USUAL_IMAGE, _USUAL_LENGTH = 224, 128
IMAGE_RANK = 4
_STEM_CHANNELS = 8
"""Fewer input channels do not fill a block: the float kernel reads them as the model's input holds them."""


class Works:
    """The work of the nodes of one graph.

    Args:
        graph: The float graph.
        sites: The nodes with weights.

    Attributes:
        graph: The same with a number for every open size of its inputs: one sample, images of 224 x 224, sequences of
            128.
    """

    def __init__(self, graph: Graph, sites: Mapping[str, ComputeSite]) -> None:
        self.graph = _with_usual_sizes(graph)
        self._sites = sites

    def elements(self, tensor: str) -> int:
        """Elements of `tensor`; 0 where that is not known."""
        sizes = _known(self.graph.shape(tensor))
        return 0 if sizes is None else math.prod(sizes)

    def nanoseconds(self, node: NodeProto, costs: CostTable) -> tuple[float, float]:
        """Nanoseconds of `node` in float and in int8; 0 for both where nothing is known."""
        float_ns = int8_ns = 0.0
        for kind, work in self._works(node):
            in_float, in_int8 = costs.float_kernels.get(kind), costs.int8_kernels.get(kind)
            if in_float is not None and in_int8 is not None:
                float_ns += in_float.ns(work)
                int8_ns += in_int8.ns(work)
        return float_ns, int8_ns

    def _works(self, node: NodeProto) -> Iterator[tuple[str, Work]]:
        """What `node` has to do, by kernel."""
        output = _known(self.graph.shape(node.output[0]))
        if output is None:
            return
        if node.name in self._sites:
            weight, data = _known(self.graph.shape(node.input[WEIGHT])), _known(self.graph.shape(node.input[DATA]))
            if weight is None or data is None:
                return
            if node.op_type != "Conv":
                yield node.op_type, matmul_work(data, data[-1], output[-1])
                return
            group = int(attribute(node, "group", 1))
            work = conv_work(output, weight, group)
            yield _conv_kind(weight, group, work.positions), work
            before = self.graph.producer(node.input[DATA])
            if before is not None and before.op_type == "Softmax" and attribute(before, "axis", -1) == 1:
                # With channels last, as an int8 Conv has them, a Softmax over channels need not jump through memory.
                yield "ChannelSoftmax", Work(elements=math.prod(data))
        elif node.op_type == "Mul" and any(self._is_gate(tensor, output) for tensor in node.input):
            positions = output[0] * math.prod(output[2:])
            yield "GateMul", Work(positions=positions, elements=positions * output[1])

    def _is_gate(self, tensor: str, output: tuple[int, ...]) -> bool:
        """Whether `tensor` holds one value for each channel of an image."""
        shape = _known(self.graph.shape(tensor))
        return (
            len(output) == IMAGE_RANK
            and shape is not None
            and len(shape) == IMAGE_RANK
            and shape[1] == output[1]
            and shape[2:] == (1, 1)
            and output[2:] != (1, 1)
        )


def _conv_kind(weight: Sequence[int], group: int, positions: int) -> str:
    """Which kernel a Conv takes."""
    if group > 1:
        return "DepthwiseConv" if weight[1] == 1 else "Conv"
    is_stem = len(weight) == IMAGE_RANK and weight[1] < _STEM_CHANNELS and positions > 1
    return "StemConv" if is_stem else "Conv"


def _known(shape: tuple[Dim, ...] | None) -> tuple[int, ...] | None:
    """The sizes, where all but the first are known; an open first one is a batch of one sample.

    An open side of an image of which the other is known is taken to be as long: what computes such a side (framing of
    sound, say) is often more than can be inferred.
    """
    if not shape:
        return None if shape is None else ()
    batch, *rest = shape
    if len(shape) == IMAGE_RANK and isinstance(rest[0], int):
        sides = [d for d in rest[1:] if isinstance(d, int)]
        rest = [d if isinstance(d, int) or not sides else sides[0] for d in rest]
    sizes = tuple(d for d in (batch if isinstance(batch, int) else 1, *rest) if isinstance(d, int))
    return sizes if len(sizes) == len(shape) else None


def _with_usual_sizes(graph: Graph) -> Graph:
    """`graph` with a number for every open size of its inputs."""
    shapes: dict[str, tuple[int, ...]] = {}
    named: dict[str, int] = {}
    for name in graph.inputs:
        shape = graph.shape(name)
        if shape is None or all(isinstance(d, int) for d in shape):
            continue
        sizes = []
        for axis, dim in enumerate(shape):
            usual = 1 if axis == 0 else _USUAL_IMAGE if len(shape) == IMAGE_RANK else _USUAL_LENGTH
            sizes.append(dim if isinstance(dim, int) else named.setdefault(dim, usual) if dim else usual)
        shapes[name] = tuple(sizes)
    return with_input_shapes(graph, shapes) if shapes else graph
