"""The samples that recovery can learn from where NaN and Inf are left out of statistics: those that make none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.taps.selection import in_graph_order
from onnxq.data.batches import Batch, Batches
from onnxq.graph.view import Graph
from onnxq.inference.outputs import FLOATS, with_readable_outputs
from onnxq.planning.masks import hidden_tensors


def finite_batches(
    graph: Graph, taps: Collection[str], batches: Iterable[Batch], options: CollectOptions
) -> Iterator[Batch]:
    """Those of `batches` on which every tensor in question and every output is finite.

    Args:
        graph: The float model, in types that can be run.
        taps: Names of the tensors; -Inf that hides scores from a Softmax is none.
        batches: The data.
        options: How to run them; all of them are finite enough where these do not ignore NaN and Inf.
    """
    if options.nonfinite != "ignore":
        yield from batches
        return
    wanted = {name for name in (*taps, *graph.outputs) if graph.dtype(name) in FLOATS} - hidden_tensors(graph)
    fed = [name for name in wanted if graph.is_input(name)]
    inner = [name for name in in_graph_order(graph, wanted) if not graph.is_input(name)]
    session = options.session(with_readable_outputs(graph, inner)) if inner else None
    for batch in batches:
        values = [batch.arrays[name] for name in fed]
        values += [] if session is None else session.run(batch.arrays, where=batch.label)
        if all(np.isfinite(value).all() for value in values):
            yield batch


def finite_data(graph: Graph, taps: Collection[str], whole: Batches | None, options: CollectOptions) -> Batches | None:
    """All data without what `finite_batches` leaves out, each time that it is read."""
    if whole is None or options.nonfinite != "ignore":
        return whole
    return Batches(lambda: finite_batches(graph, taps, whole.stream(), options), inputs=whole.inputs, label=whole.label)
