"""Statistics computed inside the model: of a tapped tensor only a few numbers leave it.

Behind every tap stand nodes that read it while it is in the processor's cache, on all of onnxruntime's threads, and its
memory is free again for the next tensor:

    high    largest element of each channel         GlobalMaxPool on blocks, ReduceMax elsewhere
    low     smallest element of each channel        ReduceMin; left out where the graph says that nothing is below 0
    mean    of each channel: NaN if there is one    GlobalAveragePool on blocks, ReduceMean elsewhere; left out where
                                                    NaN would show in a tensor further on
    taken   the elements for the histogram          Slice with the stride of `sampling.Choice`, an input of the session;
                                                    left out where the histogram follows from another one (`followers`)

onnxruntime's maximum and minimum lose NaN on their way through vector registers; sums do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxq.calibration.statistics.blocked_layout import DOMAIN, Blocked
from onnxq.calibration.statistics.sampling import LANES, Choice
from onnxq.graph.view import Graph

KINDS = ("high", "low", "mean", "taken")

_IMAGE_RANK = 4
_AXES_ARE_INPUTS_SINCE = 18
_TO_THE_END = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A tensor to be summarised.

    Attributes:
        name: Its name in the model.
        tensor: Its name in the graph that is edited.
        rank: Number of its axes, at least 1.
        last: Size of the last axis; None where that depends on the data.
        blocked: Its layout there, where that is not the model's.
        nonnegative: Whether no element can be below 0.
        shown: Whether NaN in it is bound to show in another one (`nan_flow`).
        padding_is_not_negative: Whether its padding is known to hold nothing below 0.
        counted: Whether elements for a histogram are taken.
    """

    name: str
    tensor: str
    rank: int
    last: int | None = None
    blocked: Blocked | None = None
    nonnegative: bool = False
    shown: bool = False
    padding_is_not_negative: bool = False
    counted: bool = True

    @property
    def is_image(self) -> bool:
        return self.rank >= _IMAGE_RANK

    @property
    def in_pieces(self) -> bool:
        """Whether extremes are of lanes of a few pieces of the tensor: there, reductions use vector registers best."""
        return self.blocked is None and not self.is_image and self.last is not None and self.last % LANES == 0

    @property
    def lows_are_of_channels(self) -> bool:
        """Whether the smallest elements have to be told apart by channel, because padding may hold smaller ones.

        A range holds 0, so padding that is not below 0 hides nothing.
        """
        return self.blocked is not None and self.blocked.padded and not self.padding_is_not_negative

    @property
    def sliced_axes(self) -> tuple[int, ...]:
        """Of samples, places and lanes, the axes of which a part is taken."""
        return (1,) if self.blocked is None or self.blocked.lanes == self.blocked.block else (1, 2)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What leaves the model of one tap.

    Attributes:
        tap: Of which.
        outputs: Names of the session's outputs by kind, of KINDS.
        sizes: Names of the session's inputs by what they say, int64: "start" and "stride" of the places that are taken,
            "view", the tensor's shape as samples, places and lanes, and "pieces", as pieces, places and lanes.
    """

    tap: Tap
    outputs: dict[str, str]
    sizes: dict[str, str]

    def shapes(self, shape: Sequence[int], choice: Choice) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs by kind, for a tap of this shape (in the model's layout)."""
        blocked = self.tap.blocked
        ends: tuple[int, ...]
        taken = (shape[0], choice.taken, choice.lanes)
        if blocked is not None:
            channels = blocked.in_memory(shape)[:2]
            ends = (*channels, 1, 1)
            low = ends if self.tap.lows_are_of_channels else channels
        else:
            pieces = _pieces(shape) if self.tap.in_pieces else (shape[0],)
            ends = low = tuple(shape[:2]) if self.tap.is_image else pieces
        known = {"high": ends, "low": low, "mean": ends, "taken": taken}
        return {kind: known[kind] for kind in self.outputs}

    def fed(self, shape: Sequence[int], choice: Choice) -> dict[str, NDArray[np.int64]]:
        """Values of the inputs by name, for a tap of this shape (in the model's layout)."""
        axes = len(self.tap.sliced_axes)
        start, stride = [choice.start, 0][:axes], [choice.stride, 1][:axes]
        known = {"start": start, "stride": stride, "view": [0, -1, choice.lanes]}
        if self.tap.in_pieces:
            known["pieces"] = [_pieces(shape)[0], -1, _pieces(shape)[1]]
        return {name: np.array(known[what], np.int64) for what, name in self.sizes.items()}


def _pieces(shape: Sequence[int]) -> tuple[int, int]:
    """Pieces of equal size, four or a few more if possible, and lanes of each, for a tensor whose rows fill lanes.

    One piece alone would be reduced element by element.

    >>> _pieces((1, 128, 384)), _pieces((1, 99, 64)), _pieces((1, 7, 16)), _pieces((1, 67, 16))
    ((4, 16), (4, 16), (7, 16), (2, 8))
    """
    places = math.prod(shape) // LANES
    found = next((n for n in (*range(4, 64), 3, 2) if places % n == 0), None)
    return (2, LANES // 2) if found is None else (found, LANES)


def summarised(graph: Graph, taps: Sequence[Tap], others: Sequence[str]) -> tuple[ModelProto, list[Summary]]:
    """A model whose outputs are summaries of tensors.

    Args:
        graph: Edited in place.
        taps: What to summarise; float32 tensors.
        others: Tensors that become outputs as they are.

    Returns:
        The model, each added node right behind the one whose output it reads, and a summary for each tap.
    """
    before = len(graph.nodes)
    builder = _Builder(graph)
    summaries = [builder.summary(tap) for tap in taps]
    outputs = [name for kind in KINDS for s in summaries for k, name in s.outputs.items() if k == kind]
    graph.outputs = {name: ValueInfoProto(name=name) for name in (*outputs, *others)}
    original = {node.name for node in graph.nodes[:before]}
    graph.prune()
    model = graph.to_model()
    _put_behind_sources(model, original)
    return model, summaries


class _Builder:
    """Adds nodes to a graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._constants: dict[tuple[int, ...], str] = {}

    def summary(self, tap: Tap) -> Summary:
        sizes: dict[str, str] = {}
        view = self._view(tap, sizes)
        if tap.blocked is not None:
            outputs = {
                "high": self._pooled("GlobalMaxPool", tap.tensor),
                "low": self._low_of_blocks(tap),
                "mean": self._pooled("GlobalAveragePool", tap.tensor),
            }
        else:
            whole, inner = self._reduced_whole(tap, view, sizes)
            reductions = {"high": "ReduceMax", "low": "ReduceMin", "mean": "ReduceMean"}
            outputs = {kind: self._reduced(op_type, whole, inner) for kind, op_type in reductions.items()}
        if tap.nonnegative:
            del outputs["low"]
        if tap.shown:
            del outputs["mean"]
        if tap.counted:
            outputs["taken"] = self._taken(tap, view, sizes)
        return Summary(tap=tap, outputs=outputs, sizes=sizes)

    def _reduced_whole(self, tap: Tap, view: str, sizes: dict[str, str]) -> tuple[str, list[int]]:
        """The tensor in pieces, of which each thread takes its share, and the axes within a piece."""
        if tap.is_image:
            return tap.tensor, list(range(2, tap.rank))
        if tap.in_pieces:
            sizes["pieces"] = self._input(f"{tap.tensor}_pieces", 3)
            return self._node("Reshape", [tap.tensor, sizes["pieces"]]), [1]
        return view, [1, 2]

    def _taken(self, tap: Tap, view: str, sizes: dict[str, str]) -> str:
        """The places that are taken, of a view of the tensor."""
        axes = tap.sliced_axes
        ends = [_TO_THE_END, tap.blocked.lanes if tap.blocked is not None else _TO_THE_END][: len(axes)]
        sizes |= {what: self._input(f"{tap.tensor}_{what}", len(axes)) for what in ("start", "stride")}
        slots = [view, sizes["start"], self._constant(*ends), self._constant(*axes), sizes["stride"]]
        return self._node("Slice", slots)

    def _view(self, tap: Tap, sizes: dict[str, str]) -> str:
        """The tensor as samples, places and lanes."""
        if tap.blocked is not None:
            shape = self._constant(0, -1, tap.blocked.block)
        elif tap.is_image or tap.rank == 1:
            shape = self._constant(0, -1, 1)
        elif tap.last is not None:
            shape = self._constant(0, -1, math.gcd(LANES, tap.last))
        else:
            shape = sizes["view"] = self._input(f"{tap.tensor}_view", 3)
        return self._node("Reshape", [tap.tensor, shape])

    def _low_of_blocks(self, tap: Tap) -> str:
        if tap.lows_are_of_channels:
            # ReduceMin is slow at that where channels are lanes of blocks.
            return self._node("Neg", [self._pooled("GlobalMaxPool", self._node("Neg", [tap.tensor]))])
        return self._reduced("ReduceMin", tap.tensor, [2, 3])

    def _pooled(self, op_type: str, tensor: str) -> str:
        return self._node(op_type, [tensor], domain=DOMAIN)

    def _reduced(self, op_type: str, tensor: str, axes: Sequence[int]) -> str:
        if self._graph.opset >= _AXES_ARE_INPUTS_SINCE:
            return self._node(op_type, [tensor, self._constant(*axes)], attributes={"keepdims": 0})
        return self._node(op_type, [tensor], attributes={"axes": list(axes), "keepdims": 0})

    def _node(
        self, op_type: str, inputs: Sequence[str], *, domain: str = "", attributes: dict[str, object] | None = None
    ) -> str:
        output = self._graph.unique_name(f"{inputs[0]}_{op_type}")
        self._graph.add_node(op_type, inputs, [output], name=output, domain=domain, attributes=attributes or {})
        return output

    def _constant(self, *values: int) -> str:
        if values not in self._constants:
            name = self._graph.unique_name("summary_sizes")
            self._constants[values] = self._graph.add_initializer(name, np.array(values, np.int64))
        return self._constants[values]

    def _input(self, stem: str, size: int) -> str:
        name = self._graph.unique_name(stem)
        self._graph.inputs[name] = helper.make_tensor_value_info(name, TensorProto.INT64, [size])
        return name


def _put_behind_sources(model: ModelProto, original: set[str]) -> None:
    """Move each added node right behind the node that it depends on, where its input is still in the cache."""
    place = {value.name: (0, 0) for value in model.graph.input}
    keyed = []
    for number, node in enumerate(model.graph.node):
        key = (number + 1, 0) if node.name in original else max(place.get(name, (0, 0)) for name in node.input)
        key = key if node.name in original else (key[0], number)
        place |= dict.fromkeys(node.output, key)
        keyed.append((key, node))
    nodes = [node for _, node in sorted(keyed, key=lambda pair: pair[0])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
