"""Which nodes cost more in int8 than they save (rule C17).

Every int8 node has a cost in float and one in int8, and every tensor between the two a cost of conversion. The cheapest
choice is a minimum cut (J. Kleinberg, E. Tardos, "Algorithm Design", 7.10): nodes on the source's side run in int8.

    source --float cost--> node --int8 cost--> sink      what is cut is paid
    writer --DQ--> reader                                 the writer in int8, this reader in float
    reader --endless--> tensor --Q--> writer              the writer in float, any reader in int8
    Conv --layout--> Conv                                 one in int8, the other in float, elementwise operators between
    Conv --kernel--> activation                           the Conv in int8, so that its activation is a node of its own

A node with a weight whose sizes are unknown runs in int8. Open sizes of inputs are taken as usual ones: one sample,
images of 224 x 224, sequences of 128.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from onnx import NodeProto

from onnxq.graph.view import Dim, Graph, attribute
from onnxq.planning.compute import DATA, WEIGHT, ComputeSite, Refusal
from onnxq.planning.cut import ENDLESS, Network
from onnxq.planning.macs import with_input_shapes
from onnxq.planning.regions import Regions
from onnxq.targets.costs import CostTable, Work, conv_work, matmul_work
from onnxq.targets.schema import HARD_SWISH

INT8, FLOAT = "int8", "float"
"""Source and sink of the network; node names and tensors are tuples there."""

_USUAL_IMAGE, _USUAL_LENGTH = 224, 128
_IMAGE_RANK = 4
# onnxruntime's float image kernels keep channels in blocks, its int8 kernels keep them last. These operators take
# blocks (core/optimizer/nchwc_transformer.cc); any elementwise operator takes channels wherever they are.
_BINARY = frozenset({"Add", "Mul", "Sum"})
_BLOCKED = _BINARY | {
    "AveragePool", "BatchNormalization", "Clip", "Concat", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu", "MaxPool",
    "Relu", "Resize", "Sigmoid", "Tanh",
}  # fmt: skip
_STEM_CHANNELS = 8
"""Fewer input channels do not fill a block: the float kernel reads them as the model's input holds them."""
_STEPS = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
"""By how much the margin is widened until something is left in int8."""


_NO_GAIN = (
    "int8 is not expected to be faster than float here: the layers are too small; "
    "tune='latency' (--tune latency) measures it"
)


class Payoff:
    """What the int8 nodes of a graph cost.

    Args:
        graph: The float graph that was planned.
        costs: The costs of the engine.
        regions: The int8 nodes when cost is no object.
        sites: The nodes with weights.

    Attributes:
        pays: After `refusals`, whether int8 is expected to be faster than float in this graph at all.
    """

    def __init__(self, graph: Graph, costs: CostTable, regions: Regions, sites: Mapping[str, ComputeSite]) -> None:
        self._graph = _with_usual_sizes(graph)
        self._costs = costs
        self._regions = regions
        self._sites = sites
        self.pays = True

    def refusals(self) -> dict[str, Refusal]:
        """Nodes that are better left in float, with the reason.

        Something stays in int8, since that is what was asked for: where nothing pays, what costs least.
        """
        kernels = {name: self._kernels(self._graph.node(name)) for name in sorted(self._regions.members)}
        for step in _STEPS:
            dear = self._cut(kernels, self._costs.margin * step)
            if not set(self._sites) <= set(dear):
                return {name: self._refusal(name, *kernels[name]) for name in dear}
            self.pays = False
        return {}

    def _cut(self, kernels: Mapping[str, tuple[float, float]], margin: float) -> list[str]:
        """The nodes on the float side of the cheapest cut."""
        network = Network()
        for name, (float_ns, int8_ns) in kernels.items():
            unknown = name in self._sites and int8_ns == 0.0
            network.add(INT8, (name,), ENDLESS if unknown else _whole(float_ns * margin))
            network.add((name,), FLOAT, _whole(int8_ns))
        for tensor in self._regions.quantized:
            self._add_tensor(network, tensor)
        for name in kernels:
            if self._is_image(name):
                self._add_layout(network, name)
                self._add_absorbed(network, name)
        side = network.sink_side(INT8, FLOAT)
        return [name for name in kernels if (name,) in side]

    def _add_tensor(self, network: Network, tensor: str) -> None:
        """The conversions of one tensor with a pair."""
        graph, regions, costs = self._graph, self._regions, self._costs
        writer = regions.code_writer(tensor)
        elements = _elements(graph.shape(tensor)) or 0
        dequantize, quantize = costs.dequantize.ns(Work(elements=elements)), costs.quantize.ns(Work(elements=elements))
        # A MatMul writes codes or floats, whichever is wanted, at the same cost.
        site = None if writer is None else self._sites.get(writer)
        free = site is not None and not site.rule.output_quantized
        for name in dict.fromkeys(use.node for use in graph.uses(tensor)):
            reader = graph.node(name)
            reads_codes = name in regions.members and tensor in regions.data_inputs(reader)
            if writer is not None and not free:
                network.add((writer,), (name,) if reads_codes else FLOAT, _whole(dequantize))
            if reads_codes:
                network.add((name,), ("tensor", tensor), ENDLESS)
        if writer is not None and graph.is_output(tensor) and not free:
            network.add((writer,), FLOAT, _whole(dequantize))
        network.add(("tensor", tensor), FLOAT if writer is None else (writer,), _whole(quantize))

    def _add_layout(self, network: Network, conv: str) -> None:
        """The changes of layout around `conv`."""
        tensor = self._sites[conv].data
        elements = _elements(self._graph.shape(tensor))
        if not elements:
            return
        change = _whole(self._costs.layout.ns(Work(elements=elements)))
        before = self._blocked_convs(tensor)
        if before:
            network.add((conv,), ("layout", tensor), ENDLESS)
            for name in before:
                network.add((name,), (conv,), change)
                network.add(("layout", tensor), (name,), change)
        elif self._graph.is_input(tensor):
            network.add((conv,), FLOAT, change // 2)
        else:
            network.add(INT8, (conv,), change // 2)
        output = self._regions.output_of(conv)
        readers = self._graph.consumers(output)
        if any(node.op_type not in _BLOCKED and not self._is_image(node.name) for node in readers):
            size = _elements(self._graph.shape(output)) or 0
            network.add(INT8, (conv,), _whole(self._costs.layout.ns(Work(elements=size))) // 2)

    def _add_absorbed(self, network: Network, conv: str) -> None:
        """The activation that a float `conv` takes in, and that costs something behind an int8 one."""
        tensor = self._sites[conv].output
        readers = [] if self._graph.is_output(tensor) else self._graph.consumers(tensor)
        kind = _activation(readers, tensor)
        if kind in self._costs.absorbed and readers[0].name not in self._regions.fused:
            work = Work(elements=_elements(self._graph.shape(tensor)) or 0)
            own = (readers[0].name,) if readers[0].name in self._regions.members else FLOAT
            network.add((conv,), own, _whole(self._costs.absorbed[kind].ns(work)))

    def _blocked_convs(self, tensor: str) -> list[str]:
        """The Convs that `tensor` comes from by operators that keep blocks; empty where others take part."""
        found: list[str] = []
        seen, front = {tensor}, [tensor]
        while front:
            node = self._graph.producer(front.pop())
            if node is not None and self._is_image(node.name):
                found.append(node.name)
                continue
            if node is None or node.op_type not in _BLOCKED:
                return []
            inputs = [t for t in node.input if t]
            if node.op_type in _BINARY and len({self._graph.shape(t) for t in inputs}) > 1:
                return []
            front += [t for t in inputs if t not in seen and not self._graph.is_constant(t)]
            seen.update(inputs)
        return list(dict.fromkeys(found))

    def _kernels(self, node: NodeProto) -> tuple[float, float]:
        """Nanoseconds of `node` in float and in int8; equal where nothing is known."""
        float_ns = int8_ns = 0.0
        for kind, work in self._work(node):
            in_float, in_int8 = self._costs.float_kernels.get(kind), self._costs.int8_kernels.get(kind)
            if in_float is not None and in_int8 is not None:
                float_ns += in_float.ns(work)
                int8_ns += in_int8.ns(work)
        return float_ns, int8_ns

    def _work(self, node: NodeProto) -> Iterator[tuple[str, Work]]:
        """What `node` has to do, by kernel."""
        output = _known(self._graph.shape(node.output[0]))
        if output is None:
            return
        if node.name in self._sites:
            weight, data = _known(self._graph.shape(node.input[WEIGHT])), _known(self._graph.shape(node.input[DATA]))
            if weight is None or data is None:
                return
            if node.op_type != "Conv":
                yield node.op_type, matmul_work(data, data[-1], output[-1])
                return
            group = int(attribute(node, "group", 1))
            yield _conv_kind(weight, group), conv_work(output, weight, group)
            before = self._graph.producer(node.input[DATA])
            if before is not None and before.op_type == "Softmax" and attribute(before, "axis", -1) == 1:
                # With channels last, as an int8 Conv has them, a Softmax over channels need not jump through memory.
                yield "ChannelSoftmax", Work(elements=math.prod(data))
        elif node.op_type == "Mul" and any(self._is_gate(tensor, output) for tensor in node.input):
            positions = output[0] * math.prod(output[2:])
            yield "GateMul", Work(positions=positions, elements=positions * output[1])

    def _is_gate(self, tensor: str, output: tuple[int, ...]) -> bool:
        """Whether `tensor` holds one value for each channel of an image."""
        shape = _known(self._graph.shape(tensor))
        return (
            len(output) == _IMAGE_RANK
            and shape is not None
            and len(shape) == _IMAGE_RANK
            and shape[1] == output[1]
            and shape[2:] == (1, 1)
            and output[2:] != (1, 1)
        )

    def _is_image(self, name: str) -> bool:
        return name in self._sites and self._graph.node(name).op_type == "Conv"

    def _refusal(self, name: str, float_ns: float, int8_ns: float) -> Refusal:
        node = self._graph.node(name)
        if int8_ns == 0.0:
            return Refusal("its int8 neighbours do not pay, so neither do codes here", self._costs.rule)
        tensors = [*self._regions.data_inputs(node), self._regions.output_of(name)]
        sizes = [_elements(self._graph.shape(tensor)) or 0 for tensor in tensors]
        laws = [self._costs.quantize] * (len(sizes) - 1) + [self._costs.dequantize]
        around = sum(law.ns(Work(elements=size)) for law, size in zip(laws, sizes, strict=True))
        return Refusal(
            f"int8 costs more here than it saves: about {_us(int8_ns + around)} with its conversions, "
            f"{_us(float_ns)} in float",
            self._costs.rule,
        )


def _activation(readers: Sequence[NodeProto], tensor: str) -> str:
    """The one function that `readers`, all nodes that read `tensor`, compute of it; empty where they do not."""
    if len(readers) == 1:
        return readers[0].op_type
    types = sorted(node.op_type for node in readers)
    if types != ["HardSigmoid", "Mul"]:
        return ""
    gate, product = sorted(readers, key=lambda node: node.op_type)
    return HARD_SWISH if {*product.input} == {tensor, gate.output[0]} else ""


def dear_nodes(
    graph: Graph, costs: CostTable, regions: Regions, sites: Mapping[str, ComputeSite]
) -> tuple[dict[str, Refusal], tuple[str, ...]]:
    """Nodes of `regions` that are better left in float, with the reason; and what a user should know about that."""
    if not sites:
        return {}, ()
    payoff = Payoff(graph, costs, regions, sites)
    refusals = payoff.refusals()
    return refusals, () if payoff.pays else (_NO_GAIN,)


def _conv_kind(weight: Sequence[int], group: int) -> str:
    """Which kernel a Conv takes."""
    if group > 1:
        return "DepthwiseConv" if weight[1] == 1 else "Conv"
    return "StemConv" if len(weight) == _IMAGE_RANK and weight[1] < _STEM_CHANNELS else "Conv"


def _known(shape: tuple[Dim, ...] | None) -> tuple[int, ...] | None:
    """The sizes, where all but the first are known; an open first one is a batch of one sample."""
    if shape is None:
        return None
    sizes = tuple(d if isinstance(d, int) else 1 for d in shape)
    return sizes if all(isinstance(d, int) for d in shape[1:]) else None


def _elements(shape: tuple[Dim, ...] | None) -> int | None:
    sizes = _known(shape)
    return None if sizes is None else math.prod(sizes)


def _whole(ns: float) -> int:
    """Picoseconds."""
    return round(ns * 1000)


def _us(ns: float) -> str:
    return f"{ns / 1000:.3g} us"


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
            usual = 1 if axis == 0 else _USUAL_IMAGE if len(shape) == _IMAGE_RANK else _USUAL_LENGTH
            sizes.append(dim if isinstance(dim, int) else named.setdefault(dim, usual) if dim else usual)
        shapes[name] = tuple(sizes)
    return with_input_shapes(graph, shapes) if shapes else graph
