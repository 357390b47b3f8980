"""Several models on the same batches: all loaded at once, or in turn where their weights are large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import DataError
from onnxq.graph.external_data import weights_are_large
from onnxq.graph.view import Graph
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.own_codes import with_own_codes
from onnxq.verification.engines.unsigned_codes import unsaturated
from onnxq.verification.structure import quantizes_by_pairs

Feed = Mapping[str, NDArray[Any]]
Outputs = Mapping[str, NDArray[Any]]

_UNFUSED_BATCHES = 8
"""Batches that also run without optimisations: Q and DQ one by one are several times slower than fused."""
_BATCHES_IN_TURN = 8
"""Batches whose outputs are kept while one large model makes room for the next."""


class Loading(NamedTuple):
    """How onnxruntime loads a model.

    Attributes:
        graph: The model.
        optimised: Whether it may optimise the graph.
        exact: Whether products with weights behind a DequantizeLinear alone stay in float32; otherwise it multiplies
            them in int8.
        unsaturated: Whether kernels that do not saturate are taken on any CPU.
    """

    graph: Graph
    optimised: bool = True
    exact: bool = False
    unsaturated: bool = False


def outputs_of(models: Sequence[Loading], feeds: Iterable[Feed]) -> Iterator[tuple[Feed, tuple[Outputs, ...]]]:
    """Each batch with what the models make of it.

    Args:
        models: From the third on they run for the first batches alone.
        feeds: The batches. Read once.

    Raises:
        ModelError: onnxruntime cannot load or run a model.
    """
    if any(weights_are_large(model.graph.initializers.values()) for model in models):
        yield from _in_turn(models, feeds)
        return
    loaded = [_load(model) for model in models]
    for count, feed in enumerate(feeds):
        yield feed, tuple(model(feed) for model in (loaded if count < _UNFUSED_BATCHES else loaded[:2]))


def _in_turn(models: Sequence[Loading], feeds: Iterable[Feed]) -> Iterator[tuple[Feed, tuple[Outputs, ...]]]:
    stream = iter(feeds)
    wanted = list(models)
    while some := list(islice(stream, _BATCHES_IN_TURN)):
        outputs = []
        for model in wanted:
            loaded = _load(model)
            outputs.append([{name: _copied(value) for name, value in loaded(feed).items()} for feed in some])
            del loaded  # before the next one comes
        yield from zip(some, zip(*outputs, strict=True), strict=True)
        wanted = wanted[:2]


def _copied(value: Any) -> Any:
    """An output in memory of its own: one of onnxruntime's keeps alive all that its session has taken."""
    return [_copied(one) for one in value] if isinstance(value, list) else np.array(value)


def _load(model: Loading) -> OrtModel:
    graph = unsaturated(model.graph) if model.unsaturated else model.graph
    made = graph.to_model()
    # onnxruntime 1.23 ends the process by that on weights alone in few bits, and no version minds LSTMs and Loops.
    by_pairs = model.unsaturated and quantizes_by_pairs(graph)
    return OrtModel(
        with_own_codes(made) if by_pairs else made,
        optimised=model.optimised,
        base_dir=graph.base_dir,
        exact=model.exact,
        unsaturated=by_pairs,
    )


def check_same_inputs(float_graph: Graph, quantized: Graph, name: str = "the quantized model") -> None:
    """See that both models can be fed alike.

    Raises:
        DataError: they cannot.
    """
    other = [one for one in quantized.inputs if one not in float_graph.inputs]
    if other:
        own = ", ".join(map(repr, float_graph.inputs))
        raise DataError(
            f"{name} has an input {other[0]!r}, the float model has {own}",
            hint="is it the float model that the quantized one was made from? The float model comes first: "
            "onnxq verify FLOAT QUANTIZED",
        )
