"""How far the float tensors of a model reach, which says where half precision would overflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx import TensorProto

from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.statistics.table import TensorStats
from onnxq.data.batches import Batch, Batches
from onnxq.data.inputs import InputSpecs
from onnxq.graph.view import Graph


def reach_of_tensors(
    graph: Graph, samples: Sequence[Batch], known: Mapping[str, TensorStats], options: CollectOptions
) -> dict[str, float]:
    """The largest finite magnitude of each float32 tensor outside of bodies, as far as it was seen.

    Args:
        graph: A graph that onnxruntime can run, its types known; it is not changed.
        samples: What to run.
        known: Statistics of some tensors, of more data.
        options: How to run it.

    Raises:
        DataError: onnxruntime fails on the samples.
        ModelError: onnxruntime cannot load the model.
        ConfigError: a tensor does not fit under the memory limit.
    """
    inner = (tensor for node in graph.nodes for tensor in node.output if tensor)
    names = [name for name in (*graph.inputs, *inner) if graph.dtype(name) == TensorProto.FLOAT]
    found = {}
    if samples and names:
        batches = Batches(lambda: iter(samples), inputs=InputSpecs.from_graph(graph), label="reach of tensors")
        only_ends = replace(options, range_only=True, nonfinite="ignore")
        found = {
            name: _reach(stats) for name, stats in collect(graph, names, batches, digest="", options=only_ends).items()
        }
    for name, stats in known.items():
        found[name] = max(found.get(name, 0.0), _reach(stats))
    return found


def _reach(stats: TensorStats) -> float:
    return max(-stats.rmin, stats.rmax) if stats.finite else 0.0
