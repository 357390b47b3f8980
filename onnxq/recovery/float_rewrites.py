"""Rewrites of the float graph that make it easier to quantize, by name, in the order in which they run.

They run on the prepared graph, with its plan made and nothing calibrated: the plan holds for what they return, since
names and placement stay, and calibration then sees the new activations. Statistics of one graph do not fit another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.graph.view import Graph
from onnxq.planning.plan import QuantPlan
from onnxq.recovery.bias_absorption import absorb_biases
from onnxq.recovery.equalization import equalize
from onnxq.recovery.smoothing import smooth
from onnxq.targets.schema import Target
from onnxq.wording.plural import counted

FloatRewrite = Callable[
    [Graph, QuantPlan, Target, Sequence[Batch], CollectOptions],
    tuple[Graph, tuple[str, ...]],
]
"""From a float graph to one that computes the same, and what was done, in sentences."""


def _equalize(
    graph: Graph, plan: QuantPlan, target: Target, samples: Sequence[Batch], options: CollectOptions
) -> tuple[Graph, tuple[str, ...]]:
    del plan, target, samples, options
    result = equalize(graph)
    if not result.modified:
        return graph, ("equalization: no channels that can be rescaled",)
    where = counted(len(result.tensors), "tensor")
    return result.graph, (f"equalization: {counted(result.channels, 'channel')} of {where} rescaled",)


def _smooth(
    graph: Graph, plan: QuantPlan, target: Target, samples: Sequence[Batch], options: CollectOptions
) -> tuple[Graph, tuple[str, ...]]:
    result = smooth(graph, plan, target, samples, options)
    taken = [site for site in result.sites if site.strength is not None]
    fact = f"smoothing: {len(taken)} of {counted(len(result.sites), 'place')} rescaled"
    gained = f", which lowers the noise at the outputs by {result.gain_db:.1f} dB on the samples" if taken else ""
    return result.graph, (fact + gained,)


def _absorb(
    graph: Graph, plan: QuantPlan, target: Target, samples: Sequence[Batch], options: CollectOptions
) -> tuple[Graph, tuple[str, ...]]:
    result = absorb_biases(graph, plan, target, samples, options)
    taken = sum(tensor.taken for tensor in result.tensors)
    return result.graph, (
        f"bias absorption: offsets of {taken} of {counted(len(result.tensors), 'tensor')} moved into the next biases",
    )


FLOAT_REWRITES: Mapping[str, FloatRewrite] = {"equalize": _equalize, "smooth": _smooth, "absorb": _absorb}
