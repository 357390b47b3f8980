"""Does onnxruntime's fused int8 kernel compute what the Q/DQ graph says, layer by layer?

Comparing whole-model outputs with optimisations on and off cannot answer that: where a value lies halfway between two
codes the last bit of a float sum decides, such ties flip differently in both runs, and the flips add up over the layers
to something as large as quantization noise itself. So the graph is cut at every quantized activation:

1. The graph runs once with optimisations off, and the codes of every QuantizeLinear are kept (the reference).
2. A copy in which every reader of those codes reads a new input instead runs with optimisations on, fed with them.

Each stretch between two quantizations then starts from the same codes, and its result may differ from the reference by
a flipped tie, one code, and no more. Saturating int16 sums, a scale on the wrong axis, a wrong bias scale show as
differences of many codes, at the very layer they occur in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from onnxq.graph.subgraphs import own_graph, subgraphs
from onnxq.graph.view import Graph, bodies
from onnxq.planning.bounds import known_bounds
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.own_codes import with_own_codes
from onnxq.verification.rounding_noise import noise_only
from onnxq.verification.structure import code_type, is_qdq

TIE_CODES = 1
"""A flipped tie moves a value to the neighbouring code."""
FLOAT_TOLERANCE = 1e-3
"""Largest difference of a float output, as a share of its peak: above float32 rounding, below one code (1/255). The
peak of what a Sigmoid or Softmax gives is 1: an answer of 1e-5 takes over the rounding of the logit behind it as a
factor."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """How fused and unfused computation of one tensor agree.

    Attributes:
        tensor: The quantized tensor, or float output, that the stretch of graph computes.
        node: The node in front of its QuantizeLinear.
        op: That node's operator type.
        elements: Number of values compared.
        differing: Share of the values that differ at all.
        wide: Share of the values that differ by more than one code (float outputs: by more than the tolerance).
        largest: Largest difference, in codes (float outputs: as a share of the peak).
        is_float: Whether the tensor is a float output.
    """

    tensor: str
    node: str
    op: str
    elements: int
    differing: float
    wide: float
    largest: float
    is_float: bool = False

    @property
    def agrees(self) -> bool:
        """Whether every difference can be rounding.

        Strict on purpose: saturation may strike one value in ten thousand. Over some 2,400 stretches of PP-OCRv4,
        YOLOv8n and Magika, in u8/s8 and s8/s8, tables for Sigmoid and Softmax included, no value was off by two codes.
        """
        return self.wide == 0.0

    def __str__(self) -> str:
        unit = " of the peak" if self.is_float else " codes"
        most = f"by up to {self.largest:.4g}{unit}"
        return f"{self.op} {self.node!r}: {self.wide:.2%} of its values differ beyond rounding, {most}"


def fused_agreement(
    graph: Graph, feed: Mapping[str, NDArray[Any]], *, unsaturated: bool = False
) -> tuple[Stretch, ...]:
    """Compare every stretch of a quantized graph between two quantizations, fused against unfused.

    Args:
        graph: A quantized model; it is not changed.
        feed: One batch: an array for each input.
        unsaturated: Whether kernels that do not saturate are taken on any CPU. onnxruntime takes none inside the body
            of a node, so what an If or a Loop gives is not compared then.

    Returns:
        One entry for each quantized activation and each float output that is not simply dequantized; empty where
        nothing is quantized.

    Raises:
        ModelError: onnxruntime cannot load or run the model.
    """
    cuts = [n for n in graph.nodes if n.op_type == "QuantizeLinear" and not _is_of_constant(graph, n)]
    if not cuts:
        return ()
    reference = OrtModel(_with_codes(graph, cuts).to_model(), optimised=False, base_dir=graph.base_dir)(feed)
    cut = _cut(graph, cuts).to_model()
    fused = OrtModel(with_own_codes(cut) if unsaturated else cut, base_dir=graph.base_dir, unsaturated=unsaturated)
    codes = {_cut_name(n): reference[n.output[0]] for n in cuts}
    given = {name: value for name, value in {**feed, **codes}.items() if name in fused.inputs}
    got = fused(given)
    if unsaturated:
        cuts = [n for n in cuts if not _has_body(graph, n.input[0])]
    stretches = [_code_stretch(graph, n, reference[n.output[0]], got[n.output[0]]) for n in cuts]
    floats = [name for name in graph.outputs if name in got and _computes(graph, name)]
    if unsaturated:
        floats = [name for name in floats if not _has_body(graph, name)]
    stretches += [_float_stretch(graph, name, reference[name], got[name]) for name in floats]
    apart = [one.tensor for one in stretches if not one.agrees]
    noise = noise_only(graph, apart, [feed]) if apart else ()
    return tuple(replace(one, wide=0.0) if one.tensor in noise else one for one in stretches)


def _is_of_constant(graph: Graph, node: NodeProto) -> bool:
    return graph.is_constant(node.input[0])


def _computes(graph: Graph, tensor: str) -> bool:
    producer = graph.producer(tensor)
    return producer is not None and not is_qdq(producer) and graph.is_float(tensor)


def _has_body(graph: Graph, tensor: str) -> bool:
    """Whether a node with graphs inside computes `tensor`."""
    producer = graph.producer(tensor)
    return producer is not None and any(True for _ in bodies(producer))


def _cut_name(node: NodeProto) -> str:
    return f"{node.output[0]}@codes"


def _with_codes(graph: Graph, cuts: list[NodeProto]) -> Graph:
    """`graph` with the codes of `cuts` among its outputs."""
    twin = graph.copy()
    for node in cuts:
        name = node.output[0]
        if name not in twin.outputs:
            twin.outputs[name] = helper.make_tensor_value_info(name, code_type(graph, node), None)
    return twin


def _cut(graph: Graph, cuts: list[NodeProto]) -> Graph:
    """`graph` where every reader of a quantized activation reads an input instead."""
    twin = _with_codes(graph, cuts)
    for node in cuts:
        name = _cut_name(node)
        value = helper.make_tensor_value_info(name, code_type(graph, node), graph.shape(node.input[0]))
        twin.inputs[name] = value
        twin.replace_uses(node.output[0], name)
    return twin


def _code_stretch(graph: Graph, node: NodeProto, want: NDArray[Any], got: NDArray[Any]) -> Stretch:
    before = graph.producer(node.input[0])
    far = np.abs(want.astype(np.int64) - got.astype(np.int64))
    return Stretch(
        tensor=node.input[0],
        node=before.name if before is not None else node.name,
        op=before.op_type if before is not None else node.op_type,
        elements=far.size,
        differing=float(np.mean(far > 0)) if far.size else 0.0,
        wide=float(np.mean(far > TIE_CODES)) if far.size else 0.0,
        largest=float(far.max(initial=0)),
    )


def _float_stretch(graph: Graph, name: str, want: NDArray[Any], got: NDArray[Any]) -> Stretch:
    producer = graph.producer(name)
    # Masked attention scores are -Inf on both sides: equal values do not differ, and Inf is no peak to measure by.
    peak = max(float(np.abs(want[np.isfinite(want)]).max(initial=0.0)), _reach(graph, name)) or 1.0
    same = (want == got) | (np.isnan(want) & np.isnan(got))
    with np.errstate(invalid="ignore"):
        far = np.abs(want.astype(np.float64) - got.astype(np.float64)) / peak
    far = np.where(same, 0.0, np.nan_to_num(far, nan=np.inf, posinf=np.inf))
    return Stretch(
        tensor=name,
        node=producer.name if producer is not None else name,
        op=producer.op_type if producer is not None else "",
        elements=far.size,
        differing=float(np.mean(far > 0)) if far.size else 0.0,
        wide=float(np.mean(far > FLOAT_TOLERANCE)) if far.size else 0.0,
        largest=float(far.max(initial=0.0)),
        is_float=True,
    )


def _reach(graph: Graph, tensor: str, around: Graph | None = None) -> float:
    """The largest magnitude that the operator behind `tensor` can give; 0 where that is not known.

    Args:
        graph: The graph that computes `tensor`.
        tensor: A tensor.
        around: The graph that `graph` is a branch of.
    """
    while (node := graph.producer(tensor)) is not None and node.op_type == "Identity":
        tensor = node.input[0]
    if node is None:
        return 0.0 if around is None else _reach(around, tensor)
    if node.op_type == "If":
        slot = list(node.output).index(tensor)
        branches = [own_graph(graph, one) for one in subgraphs(graph) if one.node == node.name]
        return min(_reach(branch, list(branch.outputs)[slot], graph) for branch in branches)
    bounds = known_bounds(graph, tensor)
    return 0.0 if bounds.lower is None or bounds.upper is None else max(abs(bounds.lower), abs(bounds.upper))
