"""Which tensors are taken out of the model, and how statistics find the samples in them.

A tapped tensor becomes an output of the model, with two exceptions:

    y = Sigmoid(x), x tapped too     is left inside: a monotone function's extremes are its values at the extremes, and
                                     its histogram follows as well (`followers`)
    bfloat16                         numpy has no such type: a Cast to float32 takes its place, which is exact
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxq.data.batches import Batch
from onnxq.errors import InternalError
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph

Function = Callable[[NDArray[np.float32]], NDArray[np.float32]]

# A size no model has: where it shows up as the first dimension, that dimension counts the samples.
_MARKER = 7919


def _sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    one = np.float32(1)
    y = np.negative(x, dtype=np.float32)
    with np.errstate(over="ignore"):
        np.exp(y, out=y)
    np.add(one, y, out=y)
    return np.asarray(np.divide(one, y, out=y))


# Relu, Clip and their like are missing on purpose: onnxruntime fuses them into the node before, whose own output is
# then never written; planners tap one of the two at most.
MONOTONE: Mapping[str, Function] = {"Sigmoid": _sigmoid, "Tanh": np.tanh}


def in_graph_order(graph: Graph, taps: Iterable[str]) -> list[str]:
    """Taps as the model computes them: inputs first, then by node; each once."""
    wanted = set(taps)
    order = [name for name in graph.inputs if name in wanted]
    order += [name for node in graph.nodes for name in node.output if name in wanted]
    unknown = wanted.difference(order)
    if unknown:
        raise InternalError(f"cannot tap {sorted(unknown)}: neither an input nor the output of a node")
    return order


def derived_taps(graph: Graph, taps: Sequence[str]) -> dict[str, tuple[str, Function]]:
    """Taps whose extremes follow from another tap's: by name, that tap and the function in between."""
    found: dict[str, tuple[str, Function]] = {}
    for name in taps:
        node = graph.producer(name)
        if node is None or node.op_type not in MONOTONE or node.domain not in ("", "ai.onnx"):
            continue
        source = node.input[0]
        if source in taps and source not in found and graph.is_float(name) and graph.is_float(source):
            found[name] = (source, MONOTONE[node.op_type])
    return found


class SampleAxis:
    """Knows for each tap where in its array one sample ends and the next begins.

    Only where that is certain may a part of a sample's elements stand for all of them: otherwise the choice would
    depend on how samples were put into batches.

    Args:
        graph: The model.
        batch: Any batch of the data; its sizes stand in for the model's open dimensions.
    """

    def __init__(self, graph: Graph, batch: Batch) -> None:
        firsts = {name: (graph.shape(name) or (None,))[0] for name in batch.per_sample}
        self._single = all(size == 1 for size in firsts.values())
        fixed = any(isinstance(size, int) for size in firsts.values())
        self._inputs = batch.per_sample
        self._graph = graph
        self._inferred_for_any = not (self._single or fixed)
        seen = _with_sizes(graph, batch, samples=_MARKER) if self._inferred_for_any else graph
        self._first = (_sizes(batch), seen)
        self._leading = frozenset(
            name for name in _outputs(seen) if not fixed and (seen.shape(name) or (0,))[0] == _MARKER
        )

    def shapes(self, taps: Sequence[str], batch: Batch) -> tuple[tuple[int, ...], ...] | None:
        """Shapes of these taps for a batch, as far as inference tells; None where one is unknown.

        Where the taps keep samples apart, their first size means nothing.
        """
        if self._inferred_for_any and not self.keeps_apart(taps):
            return None
        sizes, seen = self._first
        found = _known_shapes(seen, taps)
        if (found is None and not self._inferred_for_any) or sizes != _sizes(batch):
            samples = _MARKER if self._inferred_for_any else batch.samples
            found = _known_shapes(_with_sizes(self._graph, batch, samples=samples), taps)
        return found

    def keeps_apart(self, taps: Iterable[str]) -> bool:
        """Whether the first axis of all these taps counts samples: then a batch may as well be run in parts."""
        return bool(self._inputs) and not self._single and self._leading.issuperset(taps)

    def summarised(self, name: str) -> bool:
        """Whether the model itself can tell the samples of a tap apart: by a first axis that counts them."""
        shape = self._graph.shape(name)
        return shape is not None and shape[:1] != () and (shape[0] == 1 if self._single else name in self._leading)

    def rows(self, name: str, shape: tuple[int, ...], batch: Batch) -> int | None:
        """Samples along the first axis of a tap's array, 1 where all of it is one sample, None where unknown."""
        if self._single or not batch.per_sample:
            return 1
        known = name in self._leading or name in self._inputs
        return batch.samples if known and shape and shape[0] == batch.samples else None


def _outputs(graph: Graph) -> list[str]:
    return [name for node in graph.nodes for name in node.output if name]


def _sizes(batch: Batch) -> dict[str, tuple[int, ...]]:
    """What shapes depend on, the number of samples aside."""
    return {n: array.shape[1:] if n in batch.per_sample else array.shape for n, array in batch.arrays.items()}


def _known_shapes(graph: Graph, taps: Sequence[str]) -> tuple[tuple[int, ...], ...] | None:
    found: list[tuple[int, ...]] = []
    for name in taps:
        shape = graph.shape(name) if graph.dtype(name) == TensorProto.FLOAT else None
        sizes = tuple(size for size in shape or () if isinstance(size, int) and size)
        if shape is None or len(sizes) < len(shape):
            return None
        found.append(sizes)
    return tuple(found)


def _with_sizes(graph: Graph, batch: Batch, *, samples: int) -> Graph:
    """The model with shapes as for `batch`, but for its number of samples."""
    sized = graph.copy()
    for name, array in batch.arrays.items():
        sizes = (samples, *array.shape[1:]) if name in batch.per_sample else array.shape
        for dim, size in zip(sized.inputs[name].type.tensor_type.shape.dim, sizes, strict=False):
            dim.dim_value = size
    for value in sized.outputs.values():
        value.type.tensor_type.ClearField("shape")
    sized.set_value_info(())
    infer_shapes(sized)
    return sized
