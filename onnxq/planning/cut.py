"""Minimum cut of a small directed graph, by Dinic's algorithm (E. A. Dinic, 1970).

Capacities are integers, so that the result does not depend on rounding or on the order of edges.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

ENDLESS = 10**18
"""Capacity of an edge that no cut may go through."""


class Network:
    """A directed graph with capacities, to which edges are added one by one."""

    def __init__(self) -> None:
        self._heads: list[int] = []
        self._left: list[int] = []
        self._edges: list[list[int]] = []
        self._ids: dict[Hashable, int] = {}

    def add(self, tail: Hashable, head: Hashable, capacity: int) -> None:
        """Add an edge from `tail` to `head`; parallel edges add up."""
        for source, target, size in ((tail, head, capacity), (head, tail, 0)):
            self._edges[self._id(source)].append(len(self._heads))
            self._heads.append(self._id(target))
            self._left.append(size)

    def sink_side(self, source: Hashable, sink: Hashable) -> set[Hashable]:
        """The nodes on the side of `sink` of the minimum cut; of several such cuts the one where they are fewest."""
        start, end = self._id(source), self._id(sink)
        while (levels := self._levels(start))[end] >= 0:
            progress = [0] * len(self._edges)
            while self._push(start, end, levels, progress):
                pass
        reached, queue = {end}, deque([end])
        while queue:
            for edge in self._edges[queue.popleft()]:
                # The edge that leads here is the partner of the one that leads away.
                if self._left[edge ^ 1] and self._heads[edge] not in reached:
                    reached.add(self._heads[edge])
                    queue.append(self._heads[edge])
        return {key for key, index in self._ids.items() if index in reached}

    def _id(self, key: Hashable) -> int:
        if key not in self._ids:
            self._ids[key] = len(self._ids)
            self._edges.append([])
        return self._ids[key]

    def _levels(self, start: int) -> list[int]:
        """Steps from `start` along edges with capacity left; -1 where there is no way."""
        levels = [-1] * len(self._edges)
        levels[start], queue = 0, deque([start])
        while queue:
            node = queue.popleft()
            for edge in self._edges[node]:
                if self._left[edge] and levels[self._heads[edge]] < 0:
                    levels[self._heads[edge]] = levels[node] + 1
                    queue.append(self._heads[edge])
        return levels

    def _push(self, start: int, end: int, levels: list[int], progress: list[int]) -> int:
        """Send flow along one shortest way; 0 where none is left."""
        path: list[int] = []
        node = start
        while node != end:
            if progress[node] < len(self._edges[node]):
                edge = self._edges[node][progress[node]]
                if self._left[edge] and levels[self._heads[edge]] == levels[node] + 1:
                    path.append(edge)
                    node = self._heads[edge]
                else:
                    progress[node] += 1
            elif path:
                node = self._heads[path.pop() ^ 1]
                progress[node] += 1
            else:
                return 0
        flow = min(self._left[edge] for edge in path)
        for edge in path:
            self._left[edge] -= flow
            self._left[edge ^ 1] += flow
        return flow
