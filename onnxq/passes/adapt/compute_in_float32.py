"""Nodes that compute in another float type compute in float32, with a Cast wherever a value goes in or out.

    x (float16) -> Conv -> Relu -> y (float16)      x -> Cast -> Conv -> Relu -> Cast -> y

onnxruntime's integer kernels on CPU exist for float32 alone: between a DequantizeLinear and a QuantizeLinear of another
type nothing fuses. It has no kernels for bfloat16 at all and none for a Conv in float64; float16 it computes in float32
itself, with a Cast around every node. float32 holds every float16 and bfloat16, so nothing is lost; from float64 the
lower bits go, which int8 leaves no trace of.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnxq.graph.float_types import TYPE_ATTRIBUTES, type_name
from onnxq.graph.view import STANDARD_DOMAINS, Graph, Use, attribute, bodies
from onnxq.passes.base import Pass, PassLog, PassResult

# One holds a tensor of its own (and is left only where its output is the model's), of the other the type is the point.
_KEPT_OPS = frozenset({"Constant", "BitCast"})
_LARGE_ELEMENTS = 1 << 14


class ComputeInFloat32(Pass):
    """See the module's docstring. Types must be inferred; tensors inside keep their names.

    1. A node of the standard set of which every tensor has a known type, and whose operator exists in float32, computes
       in float32; attributes that name the type follow.
    2. An initializer is converted once; where other nodes read it too, it is copied.
    3. A value that comes from or goes to anything else passes a Cast: inputs and outputs of the model keep their types.
    4. Left alone: control flow and what its bodies read, operators of other domains, sequences and optionals.
    5. Left alone: a Cast from or to float32 that leads to nothing of the above; it is such a border already.
    6. With `interface`, inputs and outputs of the model become float32 too.
    7. With `as_stored`, large initializers stay as they are, and a Cast follows.

    Args:
        types: The types to replace, as TensorProto.DataType.
        interface: Whether inputs and outputs of the model change their type.
        as_stored: Whether large initializers keep theirs.
    """

    def __init__(self, types: Collection[int], *, interface: bool = False, as_stored: bool = False) -> None:
        self._types = frozenset(types) - {TensorProto.FLOAT}
        self._interface = interface
        self._as_stored = as_stored

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        before = {t: d for t in _tensors(graph) if (d := graph.dtype(t)) in self._types and d is not None}
        nodes = [n for n in graph.nodes if self._touches(n, before) and _exists_in_float32(graph, n, before)]
        inside = _without_borders(graph, nodes)
        nodes = [n for n in nodes if n.name in inside]
        if self._interface:
            _retype_interface(graph, before, inside)
        for node in nodes:
            _retype_attributes(graph, node, self._types)
            log.edit("computes in float32", node.name)
        for tensor, elem_type in before.items():
            if self._as_stored and math.prod(_dims(graph, tensor)) >= _LARGE_ELEMENTS:
                _cast_initializer(graph, tensor, inside)
            elif graph.is_constant(tensor):
                _convert_initializer(graph, tensor, inside)
            elif (producer := graph.producer(tensor)) is not None and producer.name in inside:
                _leave(graph, producer, tensor, elem_type, inside)
            elif graph.dtype(tensor) == elem_type:
                _enter(graph, tensor, inside)
        return log.result(graph)

    def _touches(self, node: NodeProto, before: dict[str, int]) -> bool:
        return any(t in before for t in (*node.input, *node.output))


def _tensors(graph: Graph) -> Iterator[str]:
    yield from graph.inputs
    yield from graph.initializers
    for node in graph.nodes:
        yield from filter(None, node.output)


def _exists_in_float32(graph: Graph, node: NodeProto, before: dict[str, int]) -> bool:
    if node.domain not in STANDARD_DOMAINS or node.op_type in _KEPT_OPS or next(bodies(node), None) is not None:
        return False
    try:
        schema = onnx.defs.get_schema(node.op_type, graph.opset, "")
    except onnx.defs.SchemaError:
        return False
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    for names, parameters in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for slot, name in enumerate(names):
            if not name:
                continue
            formal = parameters[min(slot, len(parameters) - 1)]
            if graph.dtype(name) is None:
                return False
            if name in before and "tensor(float)" not in allowed.get(formal.type_str, [formal.type_str]):
                return False
    return True


def _without_borders(graph: Graph, nodes: Sequence[NodeProto]) -> set[str]:
    """Names of `nodes`, less the Casts between float32 and what stays in the old type (case 5)."""
    inside = {n.name for n in nodes}
    casts = [n for n in nodes if n.op_type == "Cast"]
    into = [n for n in casts if graph.dtype(n.input[0]) == TensorProto.FLOAT]
    out_of = [n for n in casts if graph.dtype(n.output[0]) == TensorProto.FLOAT]
    inside -= {n.name for n in (*into, *out_of)}
    kept = {n.name for n in into if any(use.node in inside for use in graph.uses(n.output[0]))}
    kept |= {n.name for n in out_of if (p := graph.producer(n.input[0])) is not None and p.name in inside}
    return inside | kept


def _retype_attributes(graph: Graph, node: NodeProto, types: frozenset[int]) -> None:
    for name in TYPE_ATTRIBUTES:
        if attribute(node, name) in types:
            graph.set_attributes(node, **{name: int(TensorProto.FLOAT)})
    value = attribute(node, "value")
    if isinstance(value, TensorProto) and value.data_type in types:
        graph.set_attributes(node, value=_in_float32(numpy_helper.to_array(value), value.name))


def _in_float32(values: np.ndarray, name: str) -> TensorProto:
    with np.errstate(over="ignore"):
        return numpy_helper.from_array(np.asarray(values).astype(np.float32), name)


def _convert_initializer(graph: Graph, name: str, inside: set[str]) -> None:  # case 2
    uses = [use for use in graph.uses(name) if use.node in inside]
    values = graph.constant(name)
    if not uses or values is None:
        return
    alone = len(uses) == len(graph.uses(name)) and not graph.is_output(name)
    converted = name if alone else graph.unique_name(f"{name}_float32")
    graph.add_initializer(converted, _in_float32(values, converted))
    graph.replace_uses(name, converted, uses)


def _dims(graph: Graph, tensor: str) -> Sequence[int]:
    """Of an initializer; of anything else those of a tensor without elements."""
    return graph.initializers[tensor].dims if graph.is_constant(tensor) else (0,)


def _cast_initializer(graph: Graph, name: str, inside: set[str]) -> None:  # case 7
    if uses := [use for use in graph.uses(name) if use.node in inside]:
        converted = graph.unique_name(f"{name}_float32")
        graph.replace_uses(name, converted, uses)
        _add_cast(graph, name, converted, TensorProto.FLOAT)


def _leave(graph: Graph, producer: NodeProto, tensor: str, elem_type: int, inside: set[str]) -> None:
    """`tensor` is now computed in float32: whoever needs the old type gets it by a Cast (case 3)."""
    outside = [use for use in graph.uses(tensor) if use.node not in inside]
    if graph.is_output(tensor) and graph.dtype(tensor) == elem_type:
        inner = graph.unique_name(f"{tensor}_float32")
        graph.copy_value_info(tensor, inner)
        _set_float32(graph.value_infos[inner])
        graph.set_output(producer, list(producer.output).index(tensor), inner)
        graph.replace_uses(tensor, inner, [use for use in graph.uses(tensor) if use.node in inside])
        _add_cast(graph, inner, tensor, elem_type)
        return
    graph.copy_value_info(tensor, tensor)
    if outside:
        back = graph.unique_name(f"{tensor}_{type_name(elem_type)}")
        graph.copy_value_info(tensor, back)
        graph.replace_uses(tensor, back, outside)
        _add_cast(graph, tensor, back, elem_type)
    if tensor in graph.value_infos:
        _set_float32(graph.value_infos[tensor])


def _enter(graph: Graph, tensor: str, inside: set[str]) -> None:
    """`tensor` comes in its old type from outside (case 3)."""
    uses: list[Use] = [use for use in graph.uses(tensor) if use.node in inside]
    if not uses:
        return
    converted = graph.unique_name(f"{tensor}_float32")
    graph.copy_value_info(tensor, converted)
    _set_float32(graph.value_infos[converted])
    graph.replace_uses(tensor, converted, uses)
    _add_cast(graph, tensor, converted, TensorProto.FLOAT)


def _add_cast(graph: Graph, source: str, result: str, elem_type: int) -> None:
    graph.add_node("Cast", [source], [result], name=f"{result}_Cast", attributes={"to": int(elem_type)})


def _set_float32(value: ValueInfoProto) -> None:
    value.type.tensor_type.elem_type = TensorProto.FLOAT


def _retype_interface(graph: Graph, before: dict[str, int], inside: set[str]) -> None:  # case 6
    for name, value in graph.inputs.items():
        if name not in before:
            continue
        _set_float32(value)
        if others := [use for use in graph.uses(name) if use.node not in inside]:
            back = graph.unique_name(f"{name}_{type_name(before[name])}")
            graph.replace_uses(name, back, others)
            _add_cast(graph, name, back, before[name])
    for name, value in graph.outputs.items():
        producer = graph.producer(name)
        if name not in before or producer is None:
            continue
        if producer.name not in inside:
            inner = graph.unique_name(f"{name}_{type_name(before[name])}")
            graph.copy_value_info(name, inner)
            graph.set_output(producer, list(producer.output).index(name), inner)
            graph.replace_uses(name, inner, [use for use in graph.uses(name) if use.node not in inside])
            _add_cast(graph, inner, name, TensorProto.FLOAT)
        _set_float32(value)
