"""Which nodes cost more in int8 than they save where int8 kernels read and write codes (rule C17).

To the network of `onnxq.planning.payoff` come

    writer --DQ--> reader                                 the writer in int8, this reader in float
    writer --DQ and copy--> floats --DQ--> reader         likewise, where there are many: they share one DQ
    reader --endless--> tensor --Q--> writer              the writer in float, any reader in int8
    Conv --layout--> Conv                                 one in int8, the other in float, elementwise operators between
    Conv --kernel--> activation                           the Conv in int8, so that its activation is a node of its own
    writer --rounding--> outputs                          the writer in int8, and no int8 node behind it (`_LAST_TIME`)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnx import NodeProto

from onnxq.graph.view import Graph
from onnxq.planning.compute import ComputeSite, Refusal
from onnxq.planning.cut import ENDLESS, Network
from onnxq.planning.payoff import FLOAT, INT8, Payoff, picoseconds
from onnxq.planning.regions import MOST_DEQUANTIZERS, Regions
from onnxq.targets.costs import CostTable
from onnxq.targets.schema import HARD_SWISH

# onnxruntime's float image kernels keep channels in blocks, its int8 kernels keep them last. These operators take
# blocks (core/optimizer/nchwc_transformer.cc); any elementwise operator takes channels wherever they are.
_BINARY = frozenset({"Add", "Mul", "Sum"})
_BLOCKED = _BINARY | {
    "AveragePool", "BatchNormalization", "Clip", "Concat", "GlobalAveragePool", "GlobalMaxPool", "LeakyRelu", "MaxPool",
    "Relu", "Resize", "Sigmoid", "Tanh",
}  # fmt: skip

_LAST_TIME, _LAST_WEIGHTS = 0.03, 0.01
"""What it is worth, of the float model's time and of all weights, that outputs of the model are not rounded to codes.

Classes of one and the same code, which 2 % of SqueezeNet's images and 0.04 % of a segmentation's pixels had, are all
told as the first of them.
"""


class RegionPayoff(Payoff):
    """What the int8 nodes of a graph's regions cost.

    Args:
        graph: The float graph that was planned.
        costs: The costs of the engine.
        regions: The int8 nodes when cost is no object.
        sites: The nodes with weights.
    """

    def __init__(self, graph: Graph, costs: CostTable, regions: Regions, sites: Mapping[str, ComputeSite]) -> None:
        super().__init__(graph, costs, regions.members, sites)
        self._regions = regions
        self._last = frozenset[str]()

    def _connect(self, network: Network) -> None:
        self._last = self._last_writers()
        for name in sorted(self._last):
            network.add((name,), FLOAT, picoseconds(_LAST_TIME * self._whole_ns))
        for tensor in self._regions.quantized:
            self._add_tensor(network, tensor)
        for name in sorted(self._members):
            if self._is_image(name):
                self._add_layout(network, name)
                self._add_absorbed(network, name)

    def _conversions_ns(self, name: str) -> float:
        tensors = [*self._regions.data_inputs(self._graph.node(name)), self._regions.output_of(name)]
        laws = [self._costs.quantize] * (len(tensors) - 1) + [self._costs.dequantize]
        return sum(law.ns(self._moved(tensor)) for law, tensor in zip(laws, tensors, strict=True))

    def _add_tensor(self, network: Network, tensor: str) -> None:
        """The conversions of one tensor with a pair."""
        graph, regions, costs = self._graph, self._regions, self._costs
        writer = regions.code_writer(tensor)
        work = self._moved(tensor)
        dequantize, quantize = costs.dequantize.ns(work), costs.quantize.ns(work)
        # A MatMul writes codes or floats, whichever is wanted, at the same cost.
        site = None if writer is None else self._sites.get(writer)
        free = site is not None and not site.rule.output_quantized
        readers = list(dict.fromkeys(use.node for use in graph.uses(tensor)))
        floats = (writer,) if len(readers) <= MOST_DEQUANTIZERS else ("floats", tensor)
        if writer is not None and not free and len(readers) > MOST_DEQUANTIZERS:
            network.add((writer,), floats, picoseconds(dequantize * MOST_DEQUANTIZERS))
        for name in readers:
            reader = graph.node(name)
            reads_codes = name in regions.members and tensor in regions.data_inputs(reader)
            if writer is not None and not free:
                network.add(floats, (name,) if reads_codes else FLOAT, picoseconds(dequantize))
            if reads_codes:
                network.add((name,), ("tensor", tensor), ENDLESS)
        if writer is not None and graph.is_output(tensor) and not free:
            network.add((writer,), FLOAT, picoseconds(dequantize))
        network.add(("tensor", tensor), FLOAT if writer is None else (writer,), picoseconds(quantize))

    def _refusal(self, name: str, float_ns: float, int8_ns: float) -> Refusal:
        if name in self._last and int8_ns <= float_ns:
            return Refusal("its codes would round the model's outputs, and save little time", self._costs.rule)
        return super()._refusal(name, float_ns, int8_ns)

    def _last_writers(self) -> frozenset[str]:
        """The nodes with few weights that write codes and have no int8 node behind them but those that move them on."""
        graph, regions = self._graph, self._regions
        sizes = {name: math.prod(graph.initializers[site.weight].dims) for name, site in self._sites.items()}
        most = _LAST_WEIGHTS * sum(sizes.values())
        followed, found = set[str](), set[str]()
        for node in reversed(graph.nodes):
            behind = {user.name for tensor in node.output for user in graph.consumers(tensor)}
            if node.name in regions.members and not regions.moves_codes(node):
                if regions.writes_codes(node.name) and sizes.get(node.name, 0) <= most and not behind & followed:
                    found.add(node.name)
                followed.add(node.name)
            elif behind & followed:
                followed.add(node.name)
        return frozenset(found)

    def _add_layout(self, network: Network, conv: str) -> None:
        """The changes of layout around `conv`."""
        tensor = self._sites[conv].data
        if not self._works.elements(tensor):
            return
        change = picoseconds(self._costs.layout.ns(self._moved(tensor)))
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
            network.add(INT8, (conv,), picoseconds(self._costs.layout.ns(self._moved(output))) // 2)

    def _add_absorbed(self, network: Network, conv: str) -> None:
        """The activation that a float `conv` takes in, and that costs something behind an int8 one."""
        tensor = self._sites[conv].output
        readers = [] if self._graph.is_output(tensor) else self._graph.consumers(tensor)
        kind = _activation(readers, tensor)
        if kind in self._costs.absorbed and readers[0].name not in self._regions.fused:
            work = self._moved(tensor)
            own = (readers[0].name,) if readers[0].name in self._regions.members else FLOAT
            network.add((conv,), own, picoseconds(self._costs.absorbed[kind].ns(work)))

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

    def _is_image(self, name: str) -> bool:
        return name in self._sites and self._graph.node(name).op_type == "Conv"


def _activation(readers: Sequence[NodeProto], tensor: str) -> str:
    """The one function that `readers`, all nodes that read `tensor`, compute of it; empty where they do not."""
    if len(readers) == 1:
        return readers[0].op_type
    types = sorted(node.op_type for node in readers)
    if types != ["HardSigmoid", "Mul"]:
        return ""
    gate, product = sorted(readers, key=lambda node: node.op_type)
    return HARD_SWISH if {*product.input} == {tensor, gate.output[0]} else ""
