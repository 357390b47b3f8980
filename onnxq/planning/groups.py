"""Tensors that must share parameters, by union-find.

a --+                          a, b and c feed one Concat, and c leaves it: with one scale for all of them
    +--> Concat --> c          the Concat moves codes; with several, one of its inputs is requantized.
b --+
"""

from __future__ import annotations

from collections.abc import Iterable


class Groups:
    """Disjoint sets of tensor names. A group's id is its member that was seen first."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def union(self, tensors: Iterable[str]) -> None:
        """Put all `tensors` into one group."""
        roots = [self._find(t) for t in tensors]
        if roots:
            order = list(self._parent)
            first = min(roots, key=order.index)
            for root in roots:
                self._parent[root] = first

    def group_of(self, tensor: str) -> str | None:
        """Id of the group of `tensor`, None if it stands alone."""
        if tensor not in self._parent:
            return None
        root = self._find(tensor)
        return root if sum(self._find(t) == root for t in self._parent) > 1 else None

    def _find(self, tensor: str) -> str:
        self._parent.setdefault(tensor, tensor)
        while self._parent[tensor] != tensor:
            self._parent[tensor] = self._parent[self._parent[tensor]]
            tensor = self._parent[tensor]
        return tensor
