"""The minimum cut, against every cut there is."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from onnxq.planning.cut import ENDLESS, Network

NODES = "abcd"
EDGES = [(t, h) for t, h in itertools.permutations(("s", *NODES, "t"), 2) if h != "s" and t != "t"]


@given(st.dictionaries(st.sampled_from(EDGES), st.integers(0, 9), max_size=14))
def test_cheapest_of_all_cuts(edges: dict[tuple[str, str], int]) -> None:
    def cost(sink_side: set[str]) -> int:
        return sum(c for (tail, head), c in edges.items() if tail not in sink_side and head in sink_side)

    network = Network()
    for (tail, head), capacity in edges.items():
        network.add(tail, head, capacity)
    cuts = [{"t", *some} for n in range(len(NODES) + 1) for some in itertools.combinations(NODES, n)]
    least = min(map(cost, cuts))
    found = network.sink_side("s", "t")
    assert cost({str(node) for node in found}) == least
    # Of several minimum cuts the one with the fewest nodes on the sink's side: doubt speaks for int8.
    assert len(found) == min(len(cut) for cut in cuts if cost(cut) == least)


def test_endless_edges_are_not_cut() -> None:
    network = Network()
    network.add("s", "a", 5)
    network.add("a", "b", ENDLESS)
    network.add("b", "t", 9)
    assert network.sink_side("s", "t") == {"a", "b", "t"}


def test_parallel_edges_add_up() -> None:
    network = Network()
    network.add("s", "a", 2)
    network.add("s", "a", 2)
    network.add("a", "t", 3)
    assert network.sink_side("s", "t") == {"t"}
