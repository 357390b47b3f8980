"""What quantizing one layer alone does to the outputs, with only the nodes behind the layer run again.

    one pass of the float model      keeps what the layers read, and what the rest of the model reads besides them
    for each layer                   the layer with rounded inputs, weights and output, then the nodes that depend on it

A layer costs what lies behind it, so all of them together cost at most as many passes as there are layers, and half as
many where layers are alike; nothing is calibrated, planned or verified again. Kept tensors stay below a number of
bytes: where those of all layers exceed it, layers go in groups, with a pass of the float model for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable
from onnxq.calibration.taps.memory import tap_bytes
from onnxq.data.batches import Batch
from onnxq.graph.cut import descendants, outside_reads, subgraph
from onnxq.graph.view import Graph
from onnxq.inference.outputs import with_output_shapes, with_readable_outputs
from onnxq.inference.session import Session
from onnxq.passes.quantize.insert_qdq import add_params
from onnxq.search.distance import Arrays, Distance, Effect
from onnxq.search.layers import Layer

AS_IT_RUNS = "as it runs"
"""In place of a key of the plan: the range of an activation is found in every run (mode "dynamic")."""

CACHE_BYTES = 2**29
"""What kept tensors may take by default, 512 MiB."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What effects are measured with.

    Attributes:
        graph: The float graph.
        qparams: Parameters by key of the plan.
        samples: Batches to measure on.
        options: How to run them.
        optimise: Whether onnxruntime may optimise the float parts.
        cache_bytes: What kept tensors may take.
        deadline: Value of `time.perf_counter()` at which to stop; None never stops.
        outputs: The outputs to look at; None looks at all.
        constants: What the codes of a layer's constants stand for, by tensor; None computes it from `qparams`.
    """

    graph: Graph
    qparams: QParamsTable
    samples: Sequence[Batch]
    options: CollectOptions
    optimise: bool = True
    cache_bytes: int = CACHE_BYTES
    deadline: float | None = None
    outputs: frozenset[str] | None = None
    constants: Callable[[Layer], Mapping[str, NDArray[Any]]] | None = None

    def constants_of(self, layer: Layer) -> Mapping[str, NDArray[Any]]:
        """What the codes of the layer's weight and bias stand for, by tensor."""
        if self.constants is not None:
            return self.constants(layer)
        return layer.quantized_constants(self.graph, self.qparams)


def effects_alone(bench: Bench, layers: Sequence[Layer]) -> Iterator[tuple[str, Effect]]:
    """The effect of each layer with the name of its node, until the deadline.

    Args:
        bench: The model and data.
        layers: The layers, in the order in which they are measured; neighbours that lie together share a pass.

    Raises:
        DataError: the model fails on the samples.
    """
    for group in _groups(bench, [_Cut(bench.graph, layer, bench.outputs) for layer in layers]):
        kept = _kept(bench, group)
        for cut in group:
            if bench.deadline is not None and time.perf_counter() > bench.deadline:
                return
            yield cut.layer.node, _effect(bench, cut, kept)


class _Cut:
    """Where a layer, and what depends on it, is cut out of the model.

    Attributes:
        layer: The layer.
        rest: Names of the nodes that depend on it.
        reads: Tensors that the layer reads.
        rest_reads: Tensors that the rest reads besides the layer's end.
        outputs: Outputs of the model that depend on it.
    """

    def __init__(self, graph: Graph, layer: Layer, outputs: frozenset[str] | None) -> None:
        self.layer = layer
        self.rest = descendants(graph, [layer.end])
        computed = {t for name in self.rest for t in graph.node(name).output} | {layer.end}
        self.outputs = [name for name in graph.outputs if name in computed and (outputs is None or name in outputs)]
        self.reads = outside_reads(graph, layer.nodes)
        self.rest_reads = [t for t in outside_reads(graph, self.rest) if t != layer.end]

    @property
    def tensors(self) -> list[str]:
        """All tensors to keep."""
        return [*self.reads, *self.rest_reads]


def _groups(bench: Bench, cuts: Sequence[_Cut]) -> Iterator[list[_Cut]]:
    """Layers whose tensors fit together, in order; one that fits nowhere stands alone."""
    graph, first = bench.graph, bench.samples[0]
    inner = list(dict.fromkeys(t for cut in cuts for t in cut.tensors if not graph.is_input(t)))
    sizes: dict[str, int] = {}
    if inner:
        found = tap_bytes(graph, inner, bench.options.session(with_output_shapes(graph, inner)), first)
        sizes = {name: size.tensor for name, size in found.items()}
    scale = sum(batch.samples for batch in bench.samples) / first.samples
    group: list[_Cut] = []
    kept: set[str] = set()
    for cut in cuts:
        together = kept.union(cut.tensors)
        if group and sum(sizes.get(t, 0) for t in together) * scale > bench.cache_bytes:
            yield group
            group, together = [], set(cut.tensors)
        group.append(cut)
        kept = together
    if group:
        yield group


def _kept(bench: Bench, group: Sequence[_Cut]) -> list[Arrays]:
    """One pass of the float model: the tensors of `group` and the outputs, for each batch."""
    graph = bench.graph
    wanted = [t for cut in group for t in cut.tensors if not graph.is_input(t)]
    names = list(dict.fromkeys([*wanted, *graph.outputs]))
    session = bench.options.session(with_readable_outputs(graph, names), optimise=bench.optimise)
    kept: list[Arrays] = []
    for batch in bench.samples:
        values = dict(zip(names, session.run(batch.arrays, where=batch.label), strict=True))
        kept.append({**batch.arrays, **values})
    return kept


def _effect(bench: Bench, cut: _Cut, kept: Sequence[Arrays]) -> Effect:
    graph, layer = bench.graph, cut.layer
    types = {t: helper.np_dtype_to_tensor_dtype(kept[0][t].dtype) for t in cut.tensors}
    own = bench.options.session(_rounded(bench, cut, types), optimise=bench.optimise)
    rest: Session | None = None
    follow = [name for name in cut.outputs if name != layer.end]
    if follow:
        part = subgraph(graph, cut.rest, follow, types=types | {layer.end: graph.dtype(layer.end) or TensorProto.FLOAT})
        part.prune()
        rest = bench.options.session(part, optimise=bench.optimise)
        rest_inputs = list(part.inputs)
    total = Distance(graph)
    for tensors, batch in zip(kept, bench.samples, strict=True):
        (end,) = own.run({t: tensors[t] for t in cut.reads}, where=batch.label)
        got = {layer.end: end}
        if rest is not None:
            every = {**tensors, layer.end: end}
            values = rest.run({t: every[t] for t in rest_inputs}, where=batch.label)
            got.update(zip(rest.output_names, values, strict=True))
        total.add({n: tensors[n] for n in cut.outputs}, {n: got[n] for n in cut.outputs})
    return total.effect()


def _rounded(bench: Bench, cut: _Cut, types: Mapping[str, int]) -> Graph:
    """The layer with its pairs, and with float constants that its codes stand for."""
    layer, qparams = cut.layer, bench.qparams
    constants = bench.constants_of(layer)
    part = subgraph(bench.graph, layer.nodes, [layer.end], types=types, constants=constants)
    for key in dict.fromkeys(layer.rounded.values()):
        uses = [use for use, of in layer.rounded.items() if of == key]
        tensor = part.node(uses[0].node).input[uses[0].slot]
        result = _add_dynamic_pair(part, tensor) if key == AS_IT_RUNS else _add_pair(part, tensor, key, qparams)
        # Behind a Sum of one operand, which computes nothing, onnxruntime does not take the layer into int8 kernels.
        held = part.unique_name(f"{result}_held")
        part.add_node("Sum", [result], [held], name=held)
        part.replace_uses(tensor, held, uses)
    if layer.end_key is not None:
        result = _add_pair(part, layer.end, layer.end_key, qparams)
        part.outputs = {result: ValueInfoProto(name=result)}
    part.sort()
    return part


def _add_dynamic_pair(graph: Graph, tensor: str) -> str:
    parts = [graph.unique_name(f"{tensor}_{part}") for part in ("codes", "scale", "zero_point")]
    result = graph.unique_name(f"{tensor}_dequantized")
    graph.add_node("DynamicQuantizeLinear", [tensor], parts, name=parts[0])
    graph.add_node("DequantizeLinear", parts, [result], name=result)
    return result


def _add_pair(graph: Graph, tensor: str, key: str, qparams: QParamsTable) -> str:
    scale, zero_point = add_params(graph, tensor, qparams, key)
    codes, result = graph.unique_name(f"{tensor}_quantized"), graph.unique_name(f"{tensor}_dequantized")
    graph.add_node("QuantizeLinear", [tensor, scale, zero_point], [codes], name=codes)
    graph.add_node("DequantizeLinear", [codes, scale, zero_point], [result], name=result)
    return result
