"""Nodes that compute in some float types compute in another one, with a Cast wherever a value goes in or out.

    x (float16) -> Conv -> Relu -> y (float16)      x -> Cast -> Conv -> Relu -> Cast -> y

To float32: onnxruntime's integer kernels on CPU exist for float32 alone: between a DequantizeLinear and a
QuantizeLinear of another type nothing fuses. It has no kernels for bfloat16 at all and none for a Conv in float64;
float16 it computes in float32 itself, with a Cast around every node. float32 holds every float16 and bfloat16, so
nothing is lost; from float64 the lower bits go, which int8 leaves no trace of.

To float16: what TensorRT shall compute in half precision (`compute_in_float16.py` says which nodes may).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnxq.graph.float_types import TYPE_ATTRIBUTES, float_tensor, type_name
from onnxq.graph.view import STANDARD_DOMAINS, Graph, Use, attribute, bodies
from onnxq.passes.base import Pass, PassLog, PassResult

# One holds a tensor of its own (and is left only where its output is the model's), of the other the type is the point.
_KEPT_OPS = frozenset({"Constant", "BitCast"})
_LARGE_ELEMENTS = 1 << 14

_SCHEMA_NAMES: dict[int | None, str] = {
    TensorProto.FLOAT: "float",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "double",
}
"""Float types as operators' schemas call them."""


class ComputeInType(Pass):
    """See the module's docstring. Types must be inferred; tensors inside keep their names.

    1. A node of the standard set of which every tensor has a known type, and whose operator exists in the new type,
       computes in it; attributes that name the type follow.
    2. An initializer is converted once; where other nodes read it too, it is copied.
    3. A value that comes from or goes to anything else passes a Cast: inputs and outputs of the model keep their types.
    4. Left alone: control flow and what its bodies read, operators of other domains, sequences and optionals.
    5. Left alone: a Cast from or to the new type that leads to nothing of the above; it is such a border already.
    6. With `interface`, inputs and outputs of the model change their type too.
    7. With `as_stored`, large initializers stay as they are, and a Cast follows.

    Args:
        types: The types to replace, as TensorProto.DataType.
        new: The type in their place.
        kept: Names of nodes to leave alone.
        interface: Whether inputs and outputs of the model change their type.
        as_stored: Whether large initializers keep theirs.
    """

    def __init__(
        self,
        types: Collection[int],
        new: int = TensorProto.FLOAT,
        *,
        kept: Collection[str] = (),
        interface: bool = False,
        as_stored: bool = False,
    ) -> None:
        self._types = frozenset(types) - {new}
        self._new = new
        self._kept = frozenset(kept)
        self._interface = interface
        self._as_stored = as_stored

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        before = {t: d for t in _tensors(graph) if (d := graph.dtype(t)) in self._types and d is not None}
        nodes = [n for n in graph.nodes if self._touches(n, before) and _exists_in(self._new, graph, n, before)]
        names = _without_borders(graph, nodes, self._new)
        nodes = [n for n in nodes if n.name in names]
        moved = _Moved(graph, frozenset(names), self._new)
        if self._interface:
            moved.retype_interface(before)
        for node in nodes:
            moved.retype_attributes(node, self._types)
            log.edit(f"computes in {moved.type}", node.name)
        for tensor, elem_type in before.items():
            if self._as_stored and math.prod(_dims(graph, tensor)) >= _LARGE_ELEMENTS:
                moved.cast_initializer(tensor)
            elif graph.is_constant(tensor):
                moved.convert_initializer(tensor)
            elif (producer := graph.producer(tensor)) is not None and producer.name in names:
                moved.leave(producer, tensor, elem_type)
            elif graph.dtype(tensor) == elem_type:
                moved.enter(tensor)
        return log.result(graph)

    def _touches(self, node: NodeProto, before: dict[str, int]) -> bool:
        return node.name not in self._kept and any(t in before for t in (*node.input, *node.output))


def _tensors(graph: Graph) -> Iterator[str]:
    yield from graph.inputs
    yield from graph.initializers
    for node in graph.nodes:
        yield from filter(None, node.output)


def _dims(graph: Graph, tensor: str) -> Sequence[int]:
    """Of an initializer; of anything else those of a tensor without elements."""
    return graph.initializers[tensor].dims if graph.is_constant(tensor) else (0,)


def _exists_in(new: int, graph: Graph, node: NodeProto, before: dict[str, int]) -> bool:
    if node.domain not in STANDARD_DOMAINS or node.op_type in _KEPT_OPS or next(bodies(node), None) is not None:
        return False
    schema = _schema(graph, node)
    if schema is None:
        return False
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    for names, parameters in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for slot, name in enumerate(names):
            if not name:
                continue
            formal = parameters[min(slot, len(parameters) - 1)]
            if graph.dtype(name) is None:
                return False
            if parameters is schema.inputs and _is_settled(formal, before.get(name)):
                continue
            if name in before and f"tensor({_SCHEMA_NAMES[new]})" not in allowed.get(
                formal.type_str, [formal.type_str]
            ):
                return False
    return True


def _schema(graph: Graph, node: NodeProto) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op_type, graph.opset, "")
    except onnx.defs.SchemaError:
        return None


def _is_settled(formal: onnx.defs.OpSchema.FormalParameter, elem_type: int | None) -> bool:
    """Whether the operator takes this very type alone, whatever it computes in, as Resize does for its scales."""
    return elem_type in _SCHEMA_NAMES and formal.type_str == f"tensor({_SCHEMA_NAMES[elem_type]})"


def _without_borders(graph: Graph, nodes: Sequence[NodeProto], new: int) -> set[str]:
    """Names of `nodes`, less the Casts between the new type and what stays in the old one (case 5)."""
    inside = {n.name for n in nodes}
    casts = [n for n in nodes if n.op_type == "Cast"]
    into = [n for n in casts if graph.dtype(n.input[0]) == new]
    out_of = [n for n in casts if graph.dtype(n.output[0]) == new]
    inside -= {n.name for n in (*into, *out_of)}
    kept = {n.name for n in into if any(use.node in inside for use in graph.uses(n.output[0]))}
    kept |= {n.name for n in out_of if (p := graph.producer(n.input[0])) is not None and p.name in inside}
    return inside | kept


@dataclass(frozen=True)
class _Moved:
    """The nodes that get the new type, and what that means for tensors.

    Attributes:
        graph: It is changed.
        nodes: Their names.
        new: The type, as TensorProto.DataType.
    """

    graph: Graph
    nodes: frozenset[str]
    new: int

    @property
    def type(self) -> str:
        """The new type as numpy calls it."""
        return type_name(self.new)

    def _takes(self, use: Use, elem_type: int | None) -> bool:
        """Whether a read of a tensor of type `elem_type` wants the new type."""
        if use.node not in self.nodes:
            return False
        node = self.graph.node(use.node)
        schema = _schema(self.graph, node)
        return schema is None or not _is_settled(schema.inputs[min(use.slot, len(schema.inputs) - 1)], elem_type)

    def _uses(self, tensor: str, elem_type: int | None) -> tuple[list[Use], list[Use]]:
        """The reads of a tensor that want the new type, and the others."""
        uses = list(self.graph.uses(tensor))
        takes = [use for use in uses if self._takes(use, elem_type)]
        return takes, [use for use in uses if use not in takes]

    def _tensor(self, values: NDArray[Any], name: str) -> TensorProto:
        with np.errstate(over="ignore"):
            return float_tensor(values, self.new, name)

    def _name(self, tensor: str) -> str:
        return self.graph.unique_name(f"{tensor}_{self.type}")

    def _add_cast(self, source: str, result: str, elem_type: int) -> None:
        self.graph.add_node("Cast", [source], [result], name=f"{result}_Cast", attributes={"to": int(elem_type)})

    def _retype(self, value: ValueInfoProto) -> None:
        value.type.tensor_type.elem_type = self.new

    def retype_attributes(self, node: NodeProto, types: frozenset[int]) -> None:
        """Let attributes that name the type follow (case 1)."""
        for name in TYPE_ATTRIBUTES:
            if attribute(node, name) in types:
                self.graph.set_attributes(node, **{name: int(self.new)})
        value = attribute(node, "value")
        if isinstance(value, TensorProto) and value.data_type in types:
            self.graph.set_attributes(node, value=self._tensor(numpy_helper.to_array(value), value.name))

    def convert_initializer(self, name: str) -> None:
        """Case 2."""
        uses, others = self._uses(name, self.graph.dtype(name))
        values = self.graph.constant(name)
        if not uses or values is None:
            return
        alone = not others and not self.graph.is_output(name)
        converted = name if alone else self._name(name)
        self.graph.add_initializer(converted, self._tensor(values, converted))
        self.graph.replace_uses(name, converted, uses)

    def cast_initializer(self, name: str) -> None:
        """Case 7."""
        if uses := self._uses(name, self.graph.dtype(name))[0]:
            converted = self._name(name)
            self.graph.replace_uses(name, converted, uses)
            self._add_cast(name, converted, self.new)

    def leave(self, producer: NodeProto, tensor: str, elem_type: int) -> None:
        """`tensor` is now computed in the new type: whoever needs the old one gets it by a Cast (case 3)."""
        graph = self.graph
        inside, outside = self._uses(tensor, elem_type)
        if graph.is_output(tensor) and graph.dtype(tensor) == elem_type:
            inner = self._name(tensor)
            graph.copy_value_info(tensor, inner)
            self._retype(graph.value_infos[inner])
            graph.set_output(producer, list(producer.output).index(tensor), inner)
            graph.replace_uses(tensor, inner, inside)
            self._add_cast(inner, tensor, elem_type)
            return
        graph.copy_value_info(tensor, tensor)
        if outside:
            back = graph.unique_name(f"{tensor}_{type_name(elem_type)}")
            graph.copy_value_info(tensor, back)
            graph.replace_uses(tensor, back, outside)
            self._add_cast(tensor, back, elem_type)
        if tensor in graph.value_infos:
            self._retype(graph.value_infos[tensor])

    def enter(self, tensor: str) -> None:
        """`tensor` comes in its old type from outside (case 3)."""
        uses, _ = self._uses(tensor, self.graph.dtype(tensor))
        if not uses:
            return
        converted = self._name(tensor)
        self.graph.copy_value_info(tensor, converted)
        self._retype(self.graph.value_infos[converted])
        self.graph.replace_uses(tensor, converted, uses)
        self._add_cast(tensor, converted, self.new)

    def retype_interface(self, before: dict[str, int]) -> None:
        """Case 6."""
        graph = self.graph
        for name, value in graph.inputs.items():
            if name not in before:
                continue
            _, others = self._uses(name, before[name])
            self._retype(value)
            if others:
                back = graph.unique_name(f"{name}_{type_name(before[name])}")
                graph.replace_uses(name, back, others)
                self._add_cast(name, back, before[name])
        for name, value in graph.outputs.items():
            producer = graph.producer(name)
            if name not in before or producer is None:
                continue
            if producer.name not in self.nodes:
                inner = graph.unique_name(f"{name}_{type_name(before[name])}")
                _, others = self._uses(name, before[name])
                graph.copy_value_info(name, inner)
                graph.set_output(producer, list(producer.output).index(name), inner)
                graph.replace_uses(name, inner, others)
                self._add_cast(inner, name, self.new)
            self._retype(value)
