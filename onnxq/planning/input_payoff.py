"""Which nodes cost more in int8 than they save where pairs stand on inputs (rule V12).

An int8 kernel writes codes or floats, whatever is read behind it, and so does an elementwise operator; operators that
move values, Concat among them, take either. A float Conv or MatMul or an input of the model needs a kernel of its own
to give codes. To the network of `onnxq.planning.payoff` come, for each tensor that some node would read as codes,

    reader --endless--> codes --Q--> writer              the writer in float, any reader in int8
    codes --Q--> floats --endless--> reader              both are wanted, so one is converted
    writer --DQ--> floats                                 the writer in int8, any reader in float
    writer --kernel--> sink                               the writer in int8, where a GELU behind it costs more
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from onnxq.graph.view import STANDARD_DOMAINS, Graph
from onnxq.planning.compute import ComputeSite
from onnxq.planning.cut import ENDLESS, Network
from onnxq.planning.payoff import FLOAT, Payoff, picoseconds
from onnxq.targets.costs import CostTable

# Operators that OpenVINO computes with the node before them, or in one kernel that writes codes where all that read
# them want codes, as its profile shows.
_ELEMENTWISE = frozenset({
    "Abs", "Add", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Mul",
    "PRelu", "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh",
})  # fmt: skip
_WRITES_CODES = _ELEMENTWISE | {"GlobalAveragePool", "ReduceMean"}
_MOVES_CODES = frozenset({
    "Concat", "DepthToSpace", "Flatten", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip
HANDS_ON_CODES = _WRITES_CODES | _MOVES_CODES
"""Operators behind an int8 node that do not end what runs on codes."""
_GELU = "Gelu"


class InputPayoff(Payoff):
    """What the int8 nodes with weights of a graph cost.

    Args:
        graph: The float graph that was planned.
        costs: The costs of the engine.
        sites: The nodes with weights.
    """

    def __init__(self, graph: Graph, costs: CostTable, sites: Mapping[str, ComputeSite]) -> None:
        super().__init__(graph, costs, sites, sites)
        self._writers, self._gelus = self._followed()
        self._readers: dict[str, list[str]] = {}
        for name in sorted(sites):
            self._readers.setdefault(sites[name].data, []).append(name)

    def _connect(self, network: Network) -> None:
        for tensor, readers in self._readers.items():
            self._add_tensor(network, tensor, readers)
        if (gelu := self._costs.absorbed.get(_GELU)) is not None:
            for name in self._gelus:
                network.add((name,), FLOAT, picoseconds(gelu.ns(self._moved(self._sites[name].output))))

    def _conversions_ns(self, name: str) -> float:
        return self._costs.quantize.ns(self._moved(self._sites[name].data))

    def _add_tensor(self, network: Network, tensor: str, readers: list[str]) -> None:
        """The conversions of one tensor that `readers` would read as codes."""
        graph, writers = self._graph, sorted(self._writers.get(tensor, ()))
        quantize = picoseconds(self._costs.quantize.ns(self._moved(tensor)))
        dequantize = picoseconds(self._costs.dequantize.ns(self._moved(tensor)))
        codes, floats = ("codes", tensor), ("floats", tensor)
        for name in readers:
            network.add((name,), codes, ENDLESS)
            network.add(floats, (name,), ENDLESS)
        if graph.is_output(tensor) or any(use.node not in readers for use in graph.uses(tensor)):
            network.add(floats, FLOAT, ENDLESS)
        producer = graph.producer(tensor)
        for writer in writers:
            network.add(codes, (writer,), quantize // len(writers))
            network.add((writer,), floats, dequantize // len(writers))
        if not writers and not (producer is not None and _is_of(producer, _WRITES_CODES)):
            network.add(codes, FLOAT, quantize)
            return
        network.add(codes, floats, quantize)

    def _followed(self) -> tuple[dict[str, frozenset[str]], list[str]]:
        """By tensor, the nodes with weights that it is computed from alone, by an elementwise operator from one or by
        moving what several give; and the nodes with a GELU behind them."""
        found, gelus = {site.output: frozenset({name}) for name, site in self._sites.items()}, list[str]()
        for node in self._graph.nodes:
            moves = _is_of(node, _MOVES_CODES)
            if not (moves or _is_of(node, _ELEMENTWISE)):
                continue
            origins = [found.get(t, frozenset()) for t in node.input if t and not self._graph.is_constant(t)]
            writers = frozenset().union(*origins)
            if not origins or not all(origins) or not (moves or len(writers) == 1):
                continue
            found.update((t, writers) for t in node.output if t and t not in found)
            if node.op_type in ("Erf", _GELU):
                gelus += [name for name in writers if name not in gelus]
        return found, gelus


def _is_of(node: NodeProto, types: frozenset[str]) -> bool:
    return node.op_type in types and node.domain in STANDARD_DOMAINS
