"""Which nodes cost more in int8 than they save: what all placements have in common.

Every int8 node has a cost in float and one in int8, and every tensor between the two a cost of conversion. The cheapest
choice is a minimum cut (J. Kleinberg, E. Tardos, "Algorithm Design", 7.10): nodes on the source's side run in int8.

    source --float cost--> node --int8 cost--> sink      what is cut is paid

A node with a weight whose sizes are unknown runs in int8. Open sizes of inputs are taken as usual ones: one sample,
images of 224 x 224, sequences of 128.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from onnxq.graph.view import Graph
from onnxq.planning.compute import ComputeSite, Refusal
from onnxq.planning.cut import ENDLESS, Network
from onnxq.planning.work import Works
from onnxq.targets.costs import CostTable, Work

INT8, FLOAT = "int8", "float"
"""Source and sink of the network; node names and tensors are tuples there."""

_STEPS = (1.0, 1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
"""By how much the margin is widened until something is left in int8."""
_NO_GAIN = (
    "int8 is not expected to be faster than float here: the layers are too small; tune='latency' (--tune latency) "
    "measures it"
)


class Payoff(ABC):
    """What the int8 nodes of a graph cost.

    Args:
        graph: The float graph that was planned.
        costs: The costs of the engine.
        members: Names of the int8 nodes when cost is no object.
        sites: Those with weights.

    Attributes:
        pays: After `refusals`, whether int8 is expected to be faster than float in this graph at all.
    """

    def __init__(
        self, graph: Graph, costs: CostTable, members: Iterable[str], sites: Mapping[str, ComputeSite]
    ) -> None:
        self._works = Works(graph, sites)
        self._graph = self._works.graph
        self._costs = costs
        self._members = tuple(members)
        self._sites = sites
        self._whole_ns = 0.0
        self.pays = True

    def refusals(self) -> dict[str, Refusal]:
        """Nodes that are better left in float, with the reason.

        Something stays in int8, since that is what was asked for: where nothing pays, what costs least.
        """
        kernels = {n: self._works.nanoseconds(self._graph.node(n), self._costs) for n in sorted(self._members)}
        self._whole_ns = sum(float_ns for float_ns, _ in kernels.values())
        for step in _STEPS:
            dear = self._cut(kernels, self._costs.margin * step)
            if not set(self._sites) <= set(dear):
                return {name: self._refusal(name, *kernels[name]) for name in dear}
            self.pays = False
        return {}

    @abstractmethod
    def _connect(self, network: Network) -> None:
        """Add to `network` what conversions cost."""

    @abstractmethod
    def _conversions_ns(self, name: str) -> float:
        """What the conversions of int8 node `name` cost where all its neighbours are float."""

    def _moved(self, tensor: str) -> Work:
        """The work of converting `tensor`."""
        return Work(elements=self._works.elements(tensor))

    def _cut(self, kernels: Mapping[str, tuple[float, float]], margin: float) -> list[str]:
        """The nodes on the float side of the cheapest cut."""
        network = Network()
        for name, (float_ns, int8_ns) in kernels.items():
            unknown = name in self._sites and int8_ns == 0.0
            network.add(INT8, (name,), ENDLESS if unknown else picoseconds(float_ns * margin))
            network.add((name,), FLOAT, picoseconds(int8_ns))
        self._connect(network)
        side = network.sink_side(INT8, FLOAT)
        return [name for name in kernels if (name,) in side]

    def _refusal(self, name: str, float_ns: float, int8_ns: float) -> Refusal:
        if int8_ns == 0.0:
            return Refusal("its int8 neighbours do not pay, so neither do codes here", self._costs.rule)
        return Refusal(
            f"int8 costs more here than it saves: about {_us(int8_ns + self._conversions_ns(name))} with its "
            f"conversions, {_us(float_ns)} in float",
            self._costs.rule,
        )


def dear_nodes(payoff: Payoff) -> tuple[dict[str, Refusal], tuple[str, ...]]:
    """Nodes that are better left in float, with the reason; and what a user should know about that.

    Args:
        payoff: The costs of the graph.
    """
    refusals = payoff.refusals()
    return refusals, () if payoff.pays else (_NO_GAIN,)


def picoseconds(ns: float) -> int:
    """Capacity of an edge that costs `ns`."""
    return round(ns * 1000)


def _us(ns: float) -> str:
    return f"{ns / 1000:.3g} us"
