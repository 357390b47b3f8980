"""In which float types a graph computes: what a target's int8 nodes can stand among, and what onnxruntime can run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from onnx import TensorProto

from onnxq.errors import UnsupportedModelError
from onnxq.graph.external_data import are_many
from onnxq.graph.float_types import (
    HALF_SCALE_OPSET,
    HALF_TYPES,
    mentions,
    type_name,
    weighted_nodes,
    weighted_types,
)
from onnxq.graph.opset import lower_opset, upgrade_opset
from onnxq.graph.scratch_weights import ScratchWeights, is_of_large_model
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import Graph
from onnxq.passes.adapt.compute_in_type import ComputeInType
from onnxq.passes.adapt.part_double_inputs import PartDoubleInputs
from onnxq.passes.simplify.lift_constants import LiftConstants
from onnxq.targets.schema import Engine, Target

_OTHER_TYPES = frozenset({TensorProto.DOUBLE, *HALF_TYPES})
_WITHOUT_KERNELS = frozenset({TensorProto.BFLOAT16, TensorProto.DOUBLE})


def settle_types(source: Graph, target: Target, *, float16: bool = False) -> tuple[Graph, frozenset[int]]:
    """The model in an opset and in float types that `target` can quantize, and the types that gave way to float32.

    Args:
        source: The model; it is not changed.
        target: The table.
        float16: Whether pairs in float16 will stand in what is float32 now.

    float16 and bfloat16 stay where the target takes scales in them and the model can be brought to the opset that does;
    elsewhere, and in float64, what belongs to a type that weights have computes in float32.

    What passes make of many weights lies in a temporary file.

    Raises:
        UnsupportedModelError: the model cannot be brought to the opset that the target needs.
    """
    source = lower_opset(source)
    types = _weighted_types(source)
    if float16:
        target = replace(target, min_opset=max(target.min_opset, HALF_SCALE_OPSET))
    if target.half_types and types & HALF_TYPES:
        try:
            graph = upgrade_opset(source.copy(), max(target.min_opset, HALF_SCALE_OPSET))
        except UnsupportedModelError:
            graph = upgrade_opset(source.copy(), target.min_opset)
        else:
            types -= HALF_TYPES
    else:
        graph = upgrade_opset(source.copy(), target.min_opset)
    _give_scratch(graph)
    types -= {TensorProto.FLOAT}
    if types:
        _in_float32(graph, types)
    if target.engine is Engine.OPENVINO and mentions(graph, {TensorProto.DOUBLE}):
        infer_shapes(graph)
        PartDoubleInputs().run(graph)
    return graph, types


def _give_scratch(graph: Graph) -> None:
    if graph.scratch is None and are_many(graph.initializers.values()):
        graph.scratch = ScratchWeights()


def note_of_types(types: Collection[int]) -> str | None:
    """What the user should know where `types` gave way to float32."""
    if not types:
        return None
    names = " and ".join(type_name(t) for t in sorted(types))
    return f"what computed in {names} computes in float32 in the quantized model"


def runnable(graph: Graph) -> Graph:
    """A graph that onnxruntime can run on the CPU: `graph` itself, or its twin in float32 with the same tensor names.

    The types it lacks kernels for are bfloat16, whose inputs and outputs become float32 too since numpy has no such
    type, and float64 where a Conv or product computes in it. What it computes in float16 it computes in float32, and of
    a large model holds all weights in both; in the twin of such a model the Casts are nodes that can be put in order.
    """
    halves = is_of_large_model(graph.initializers.values()) and TensorProto.FLOAT16 in _types_of_weights(graph)
    if not halves and not mentions(graph, _WITHOUT_KERNELS):
        return graph
    twin = graph.copy()
    infer_shapes(twin)
    types: set[int] = {TensorProto.BFLOAT16} if mentions(graph, {TensorProto.BFLOAT16}) else set()
    types |= weighted_types(twin) & {TensorProto.DOUBLE}
    if types:
        _give_scratch(twin)
    if halves:
        types.add(TensorProto.FLOAT16)
    if not types:
        return graph
    _in_float32(twin, types, interface=TensorProto.BFLOAT16 in types, as_stored=halves)
    return twin


def _types_of_weights(graph: Graph) -> set[int | None]:
    """Types in which nodes read constants, behind a DequantizeLinear too."""
    found = set[int | None]()
    for node in weighted_nodes(graph):
        for tensor in filter(None, node.input):
            source = graph.producer(tensor)
            if source is not None and source.op_type == "DequantizeLinear" and graph.is_constant(source.input[0]):
                found.add(graph.dtype(source.input[1]))
            elif graph.is_constant(tensor):
                found.add(graph.dtype(tensor))
    return found


def _weighted_types(source: Graph) -> frozenset[int]:
    if not mentions(source, _OTHER_TYPES):
        return frozenset()
    typed = source.copy()
    infer_shapes(typed)
    return weighted_types(typed)


def _in_float32(graph: Graph, types: Collection[int], *, interface: bool = False, as_stored: bool = False) -> None:
    LiftConstants().run(graph)
    infer_shapes(graph)
    ComputeInType(types, interface=interface, as_stored=as_stored).run(graph)
    graph.sort()
