"""Graphs as quantization-aware training exports them, made from float graphs by hand.

torch    activations -> Q -> DQ (uint8 or int8, per tensor); weight (float) -> Q -> DQ (int8, per channel)
tf       activations -> Q -> DQ (int8, asymmetric); weight (int8 codes) -> DQ
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from onnxq.graph.view import Graph
from onnxq.numerics.arrays import quantize
from onnxq.numerics.blocks import range_of_values
from onnxq.numerics.qparams import QuantParams, qparams_from_range
from onnxq.numerics.qtypes import INT8, UINT8
from onnxq.numerics.specs import QuantSpec
from tests.graphs import computed

Form = Literal["uint8", "int8", "int8-symmetric"]

SPECS: Mapping[Form, QuantSpec] = {
    "uint8": QuantSpec(qtype=UINT8, symmetric=False),
    "int8": QuantSpec(qtype=INT8, symmetric=False),
    "int8-symmetric": QuantSpec(qtype=INT8, symmetric=True),
}


def fake_quantized(
    graph: Graph,
    activations: Sequence[str],
    weights: Mapping[str, int | None],
    feeds: Mapping[str, NDArray[Any]],
    *,
    form: Form = "uint8",
    stored: bool = False,
) -> dict[str, QuantParams]:
    """Put pairs behind `activations` and `weights` of `graph`, in place, and return their parameters.

    Args:
        graph: A float graph.
        activations: Tensors to get a pair, with the range that they have on `feeds`.
        weights: Channel axis by initializer.
        feeds: What the ranges are taken from.
        form: Form of the activations' codes.
        stored: Store weights as codes behind a DQ, not as floats in front of a pair.
    """
    probe = graph.copy()
    probe.outputs = {name: graph.outputs.get(name) or _value(graph, name) for name in activations}
    values = dict(zip(activations, computed(probe, feeds), strict=True))
    found: dict[str, QuantParams] = {}
    for name, value in values.items():
        found[name] = params_of(value, SPECS[form])
        _pair(graph, name, found[name])
    for name, axis in weights.items():
        weight = graph.constant(name)
        assert weight is not None
        found[name] = params_of(weight, QuantSpec(qtype=INT8, symmetric=True, axis=axis))
        _pair(graph, name, found[name], codes=quantize(weight, found[name]) if stored else None)
    graph.sort()
    return found


def params_of(value: NDArray[Any], spec: QuantSpec) -> QuantParams:
    """Parameters that cover `value`."""
    return qparams_from_range(range_of_values(value, spec), spec)


def _value(graph: Graph, name: str) -> Any:
    value = graph.inputs.get(name) or graph.value_infos.get(name)
    assert value is not None, f"shape of {name!r} is not known"
    return value


def _pair(graph: Graph, name: str, params: QuantParams, codes: NDArray[Any] | None = None) -> None:
    scale = graph.add_initializer(graph.unique_name(f"{name}_s"), params.scale)
    zero_point = graph.add_initializer(graph.unique_name(f"{name}_z"), params.zero_point)
    attributes = {} if params.spec.axis is None else {"axis": params.spec.axis}
    uses, result = graph.uses(name), graph.unique_name(f"{name}_dq")
    source = name
    if graph.is_output(name):
        node = graph.producer(name)
        assert node is not None
        source = graph.unique_name(f"{name}_inner")
        graph.set_output(node, 0, source)
        result = name
    else:
        graph.replace_uses(name, result, uses)
    if codes is None:
        stored = graph.unique_name(f"{name}_q")
        graph.add_node("QuantizeLinear", [source, scale, zero_point], [stored], name=stored, attributes=attributes)
    else:
        stored = graph.add_initializer(graph.unique_name(f"{name}_codes"), codes)
        graph.remove_initializer(name)
    graph.add_node("DequantizeLinear", [stored, scale, zero_point], [result], name=result, attributes=attributes)
