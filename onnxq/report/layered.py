"""Places the nodes of a directed acyclic graph in layers, for a picture whose arrows go down.

The method is that of Sugiyama, Tagawa and Toda (IEEE Trans. SMC 11(2), 1981) in its usual steps: a layer for each node
(the longest path to it, then as close to its readers as they allow), a chain of waypoints for each edge over several
layers, an order in each layer by the medians of the neighbours (Gansner et al., IEEE TSE 19(3), 1993, section 3), and
positions that pull neighbours over each other without changing the order. Nothing is random: one graph, one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

NODE_WIDTH, NODE_HEIGHT = 132.0, 38.0
GAP_X, GAP_Y = 26.0, 46.0
_WAYPOINT_WIDTH = 14.0
_ORDERINGS = 8
_PULLS = 12


@dataclass(frozen=True)
class Layout:
    """Where nodes stand.

    Attributes:
        centers: Center (x, y) of each node.
        bends: For each edge, the points between its ends, from the source to the target.
        width: Of the picture.
        height: Of the picture.
    """

    centers: list[tuple[float, float]]
    bends: list[list[tuple[float, float]]]
    width: float
    height: float


def place(count: int, edges: Sequence[tuple[int, int]]) -> Layout:
    """Places for `count` nodes.

    Args:
        count: Number of nodes.
        edges: (source, target) of each edge; a source comes before its target in the order of the nodes.
    """
    if not count:
        return Layout(centers=[], bends=[], width=0.0, height=0.0)
    layer = _layers(count, edges)
    net = _Net(layer, edges)
    net.order()
    x = net.positions()
    left = min(x[v] - net.width[v] / 2 for v in range(len(x)))
    right = max(x[v] + net.width[v] / 2 for v in range(len(x)))
    row = NODE_HEIGHT + GAP_Y
    at = [(x[v] - left, net.layer[v] * row + NODE_HEIGHT / 2) for v in range(len(x))]
    bends = [[at[v] for v in chain[1:-1]] for chain in net.chains]
    height = (max(net.layer) + 1) * row - GAP_Y
    return Layout(centers=at[:count], bends=bends, width=right - left, height=height)


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The longest path to each node; what nothing before it holds up moves down to its first reader."""
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        before[target].append(source)
        after[source].append(target)
    layer = [0] * count
    for v in range(count):
        layer[v] = max((layer[u] + 1 for u in before[v]), default=0)
    for v in reversed(range(count)):
        # With more inputs than outputs, moving down would make edges longer on the whole.
        if after[v] and len(before[v]) <= len(after[v]):
            layer[v] = max(layer[v], min(layer[w] for w in after[v]) - 1)
    return layer


class _Net:
    """Nodes and waypoints, each linked to neighbours one layer up and down only."""

    def __init__(self, layer: Sequence[int], edges: Sequence[tuple[int, int]]) -> None:
        self.layer = list(layer)
        self.width = [NODE_WIDTH] * len(layer)
        self.chains: list[list[int]] = []
        for source, target in edges:
            chain = [source]
            for level in range(layer[source] + 1, layer[target]):
                self.layer.append(level)
                self.width.append(_WAYPOINT_WIDTH)
                chain.append(len(self.layer) - 1)
            self.chains.append([*chain, target])
        self.up: list[list[int]] = [[] for _ in self.layer]
        self.down: list[list[int]] = [[] for _ in self.layer]
        for chain in self.chains:
            for a, b in pairwise(chain):
                self.down[a].append(b)
                self.up[b].append(a)
        self.rows: list[list[int]] = [[] for _ in range(max(self.layer) + 1)]
        for v in self._depth_first():
            self.rows[self.layer[v]].append(v)

    def _depth_first(self) -> list[int]:
        """A first order: branches stay together."""
        seen = [False] * len(self.layer)
        found: list[int] = []
        roots = sorted(range(len(self.layer)), key=lambda v: (len(self.up[v]) > 0, v))
        for root in roots:
            stack = [root]
            while stack:
                v = stack.pop()
                if seen[v]:
                    continue
                seen[v] = True
                found.append(v)
                stack += reversed(self.down[v])
        return found

    def order(self) -> None:
        """Sort rows by the medians of their neighbours, down and up in turns; keep the order with fewest crossings."""
        best, least = [list(row) for row in self.rows], self._crossings()
        for turn in range(_ORDERINGS):
            if not least:
                break
            downwards = turn % 2 == 0
            links = self.up if downwards else self.down
            for row in self.rows[1:] if downwards else self.rows[-2::-1]:
                self._sort(row, links)
            crossings = self._crossings()
            if crossings < least:
                best, least = [list(row) for row in self.rows], crossings
        self.rows = best

    def _sort(self, row: list[int], links: list[list[int]]) -> None:
        place = self._places()
        keys = {}
        for i, v in enumerate(row):
            near = sorted(place[u] for u in links[v])
            keys[v] = _median(near) if near else float(i)
        row.sort(key=lambda v: keys[v])

    def _places(self) -> list[int]:
        place = [0] * len(self.layer)
        for row in self.rows:
            for i, v in enumerate(row):
                place[v] = i
        return place

    def _crossings(self) -> int:
        """Pairs of crossing links: inversions, counted with a Fenwick tree (Barth et al., JGAA 8(2), 2004)."""
        place = self._places()
        total = 0
        for row, below in pairwise(self.rows):
            ends = [place[w] for v in row for w in sorted(self.down[v], key=lambda w: place[w])]
            tree = [0] * (len(below) + 1)
            for seen, end in enumerate(ends):
                at, smaller = end + 1, 0
                while at:
                    smaller += tree[at]
                    at -= at & -at
                total += seen - smaller
                at = end + 1
                while at <= len(below):
                    tree[at] += 1
                    at += at & -at
        return total

    def positions(self) -> list[float]:
        """An x for each node: neighbours pull, weights keep chains straight, and the order is kept."""
        x = [0.0] * len(self.layer)
        for row in self.rows:
            at = 0.0
            for v in row:
                at += self.width[v] / 2
                x[v] = at
                at += self.width[v] / 2 + GAP_X
            middle = (at - GAP_X) / 2
            for v in row:
                x[v] -= middle
        for turn in range(_PULLS):
            downwards = turn % 2 == 0
            links = self.up if downwards else self.down
            for row in self.rows if downwards else self.rows[::-1]:
                self._pull(row, links, x)
        return x

    def _pull(self, row: list[int], links: list[list[int]], x: list[float]) -> None:
        wanted = [_median(sorted(x[u] for u in links[v])) if links[v] else x[v] for v in row]
        weights = [_weight(self.width[v], len(links[v])) for v in row]
        offsets = [0.0]
        for a, b in pairwise(row):
            offsets.append(offsets[-1] + (self.width[a] + self.width[b]) / 2 + GAP_X)
        for v, position in zip(row, _isotonic([w - o for w, o in zip(wanted, offsets, strict=True)], weights),
                               strict=True):  # fmt: skip
            x[v] = position
        for v, offset in zip(row, offsets, strict=True):
            x[v] += offset


def _weight(width: float, links: int) -> float:
    """Waypoints pull harder: a long edge that is straight is easy to follow."""
    if not links:
        return 0.05
    return 4.0 if width == _WAYPOINT_WIDTH else 1.0


def _median(values: Sequence[float]) -> float:
    middle = len(values) // 2
    return float(values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2)


def _isotonic(wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to `wanted` in weighted least squares: pool adjacent violators."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(wanted, weights, strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, w, n = blocks.pop()
            total = w + block[1]
            block = ((mean * w + block[0] * block[1]) / total, total, n + block[2])
        blocks.append(block)
    return [mean for mean, _, n in blocks for _ in range(n)]
