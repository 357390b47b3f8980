"""Parts of an output that the SQNR of the whole cannot show.

A detector's output may hold boxes in pixels and scores from 0 to 1 in one array. The noise of the boxes outweighs the
scores a thousand times, and an output with all detections lost still has 40 dB. So where a Concat writes an output, and
stretches along its axis are a hundred times smaller than the largest, each of them is compared on its own as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute

Arrays = Mapping[str, NDArray[Any]]

_FAINT = 0.01
"""Peak of a part, as a share of the output's peak, from which on it is lost in the sums of the whole."""
_MOST_PARTS = 4


class OutputParts:
    """The faint parts of a model's outputs, as the first batch shows them.

    Args:
        graph: The float model.
    """

    def __init__(self, graph: Graph) -> None:
        self._axes = {name: axis for name in graph.outputs if (axis := _concat_axis(graph, name)) is not None}
        self._parts: dict[str, list[tuple[str, tuple[slice, ...]]]] = {}

    def of(self, reference: Arrays, candidate: Arrays) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Each faint part of both models' outputs, by a name such as `output0[:, 4:84]`.

        Args:
            reference: Outputs of the float model, all or some.
            candidate: The same ones of another model.
        """
        wants, gots = dict[str, NDArray[Any]](), dict[str, NDArray[Any]]()
        for name, axis in self._axes.items():
            if name not in reference:
                continue
            if name not in self._parts:
                self._parts[name] = [_part(name, axis, *ends) for ends in _faint(reference[name], axis)]
            for part, index in self._parts[name]:
                wants[part], gots[part] = reference[name][index], candidate[name][index]
        return wants, gots


def _part(output: str, axis: int, start: int, stop: int) -> tuple[str, tuple[slice, ...]]:
    index = (*[slice(None)] * axis, slice(start, stop))
    return f"{output}[{', '.join([':'] * axis + [f'{start}:{stop}'])}]", index


def _concat_axis(graph: Graph, output: str) -> int | None:
    node = graph.producer(output)
    if node is None or node.op_type != "Concat" or node.domain not in STANDARD_DOMAINS:
        return None
    axis, shape = int(attribute(node, "axis", 1)), graph.shape(output)
    if axis < 0:
        return None if shape is None else axis + len(shape)
    return axis


def _faint(values: NDArray[Any], axis: int) -> list[tuple[int, int]]:
    """Stretches along `axis` that stay below a hundredth of the peak: start and end of each."""
    if values.dtype.kind != "f" or values.ndim <= axis or not values.size:
        return []
    others = tuple(i for i in range(values.ndim) if i != axis)
    peaks = np.abs(np.where(np.isfinite(values), values, 0)).max(axis=others)
    faint = np.concatenate(([False], (peaks > 0) & (peaks < _FAINT * peaks.max()), [False]))
    starts, stops = np.flatnonzero(~faint[:-1] & faint[1:]), np.flatnonzero(faint[:-1] & ~faint[1:])
    found = [(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
    return found if len(found) <= _MOST_PARTS else []
