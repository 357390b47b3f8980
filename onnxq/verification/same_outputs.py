"""Outputs of the float model that are the same whatever is fed: what is like them says nothing of the quantized one.

Outputs that hang on sizes and constants alone (anchors, position tables) are meant to be so and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.graph.messages import reads_of
from onnxq.graph.view import Graph
from onnxq.wording.plural import counted

_SAME = 1e-3
_FEWEST = 4
"""A confident classifier says the same of two samples of one class."""
_OF_SIZES = frozenset({"Shape", "Size"})


@dataclass
class _Seen:
    low: NDArray[Any]
    high: NDArray[Any]
    feeds: int = 1

    def add(self, value: NDArray[Any]) -> None:
        self.low, self.high = np.minimum(self.low, value), np.maximum(self.high, value)
        self.feeds += 1

    @property
    def is_same(self) -> bool:
        """Whether each element stays within 0.1 % of the largest one."""
        size = max(float(np.abs(self.low).max()), float(np.abs(self.high).max()))
        # Halved first: the difference of two large half-precision numbers may not be finite.
        spread = float((self.high / 2 - self.low / 2).max())
        return bool(np.isfinite(size)) and spread <= _SAME * size


class SameOutputs:
    """Looks at the outputs of feed after feed; an output that differs is forgotten at once.

    Args:
        graph: The float model.
    """

    def __init__(self, graph: Graph) -> None:
        self._names = _of_values(graph)
        self._seen: dict[str, _Seen] = {}

    def add(self, outputs: Mapping[str, Any]) -> None:
        """The float model's outputs for one feed, by name; what is no tensor of floats is left out."""
        for name in sorted(self._names & outputs.keys()):
            value = outputs[name]
            if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
                self._names.discard(name)
                continue
            seen = self._seen.setdefault(name, _Seen(value, value, 0))
            if value.shape == seen.low.shape:
                seen.add(value)
            if value.shape != seen.low.shape or not seen.is_same:
                self._names.discard(name)
                del self._seen[name]

    def doubts(self) -> Iterator[str]:
        """A sentence for each output that was the same for every feed."""
        for name, seen in self._seen.items():
            if seen.feeds >= _FEWEST:
                yield (
                    f"output {name!r} of the float model is the same, within 0.1 %, for each of "
                    f"{counted(seen.feeds, 'feed')}: are the inputs prepared as in training? Check images=, layout=, "
                    "preprocess= (--images, --layout, --preprocess)"
                )


def _of_values(graph: Graph) -> set[str]:
    """The outputs that hang on values of inputs, not on their sizes alone."""
    found = set(graph.inputs)
    for node in graph.nodes:
        if node.op_type not in _OF_SIZES and any(tensor in found for tensor, _ in reads_of(node)):
            found.update(node.output)
    return found & set(graph.outputs)
