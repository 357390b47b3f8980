"""One ONNX model, indexed by tensor name and editable in place.

Everything onnxq does to a model goes through `Graph`. It keeps nodes and initializers as the protobuf messages they
came as, so an attribute, type or annotation that onnxq does not know survives untouched. Look-ups by name are O(1);
nodes have unique names, given on the way in where the exporter gave none.

Node messages belong to the graph that holds them: change inputs through `set_input`, never directly. Initializer
messages are shared between copies of a graph and never changed: replace them instead.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from onnxq.errors import InternalError, ModelError
from onnxq.graph.external_data import is_external
from onnxq.graph.messages import (
    CAPTURED,
    STANDARD_DOMAINS,
    Dim,
    attribute,
    bodies,
    captured_names,
    dim_of,
    frame_of,
    free_name,
    reads_of,
    rename_captured,
    tensor_bytes,
    tensor_value,
)
from onnxq.graph.scratch_weights import ScratchWeights

__all__ = [
    "CAPTURED",
    "STANDARD_DOMAINS",
    "Dim",
    "Graph",
    "Use",
    "attribute",
    "bodies",
    "captured_names",
    "frame_of",
    "tensor_bytes",
    "tensor_value",
]

# Initializers up to this size take part in shape inference (Reshape targets, Slice bounds ...).
_SHAPE_DATA_LIMIT = 1024


@dataclass(frozen=True)
class Use:
    """One place where a tensor is read: an input slot of a node, or `CAPTURED` for a read from the node's body."""

    node: str
    slot: int


class Graph:
    """An ONNX model as nodes and tensors by name.

    Args:
        model: The model; it is not changed.
        base_dir: Folder that external data locations are relative to.

    Attributes:
        scratch: The temporary file that initializers which are added lie in, in large models; copies share it.
    """

    def __init__(self, model: ModelProto, base_dir: Path | None = None) -> None:
        self.base_dir = base_dir
        self.scratch: ScratchWeights | None = None
        # All of the model that onnxq does not edit: metadata, functions, opset imports, doc strings.
        self._frame = ModelProto()
        self._frame.CopyFrom(frame_of(model))
        # Version 4 is the first that lets initializers not be inputs, and changes nothing else.
        self._frame.ir_version = max(self._frame.ir_version, 4)
        self.inputs: dict[str, ValueInfoProto] = {}
        self.outputs: dict[str, ValueInfoProto] = {v.name: copy.deepcopy(v) for v in model.graph.output}
        self._initializers: dict[str, TensorProto] = {t.name: t for t in model.graph.initializer}
        self._value_info: dict[str, ValueInfoProto] = {v.name: v for v in model.graph.value_info}
        sparse = {t.values.name for t in model.graph.sparse_initializer}
        for value in model.graph.input:
            # Before IR version 4 every initializer had to be an input as well; it stays a constant.
            if value.name not in self._initializers and value.name not in sparse:
                self.inputs[value.name] = copy.deepcopy(value)
        self._outside = set(self.inputs) | sparse
        self._nodes: dict[str, NodeProto] = {}
        self._producer: dict[str, str] = {}
        self._uses: dict[str, list[Use]] = {}
        self._names = set(self._initializers) | self._outside | set(self.outputs)
        taken = {n.name for n in model.graph.node}
        for node in model.graph.node:
            self._names.update(node.input)
            self._names.update(node.output)
            own = NodeProto()
            own.CopyFrom(node)
            if not own.name or own.name in self._nodes:
                own.name = free_name(own.name or f"{own.op_type}_{next(iter(own.output), '')}", taken)
                taken.add(own.name)
            self._attach(own)

    # ---- reading -------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[NodeProto]:
        """All nodes of the main graph, in stored order (topological after `sort`)."""
        return list(self._nodes.values())

    def node(self, name: str) -> NodeProto:
        return self._nodes[name]

    def has_node(self, name: str) -> bool:
        return name in self._nodes

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        for entry in self._frame.opset_import:
            if entry.domain in STANDARD_DOMAINS:
                return int(entry.version)
        return 1

    @property
    def frame(self) -> ModelProto:
        """The model without its graph content: opset imports, IR version, metadata, functions. Editable."""
        return self._frame

    @property
    def initializers(self) -> Mapping[str, TensorProto]:
        return self._initializers

    @property
    def value_infos(self) -> Mapping[str, ValueInfoProto]:
        """What is known of the types and shapes of inner tensors; replace it through `set_value_info`."""
        return self._value_info

    def producer(self, tensor: str) -> NodeProto | None:
        """The node that computes `tensor`; None for inputs and initializers."""
        name = self._producer.get(tensor)
        return None if name is None else self._nodes[name]

    def uses(self, tensor: str) -> list[Use]:
        """Every read of `tensor`, in the order of the nodes' insertion; graph outputs are not listed."""
        return list(self._uses.get(tensor, ()))

    def consumers(self, tensor: str) -> list[NodeProto]:
        """Nodes that read `tensor`, each once."""
        return [self._nodes[name] for name in dict.fromkeys(use.node for use in self._uses.get(tensor, ()))]

    def is_output(self, tensor: str) -> bool:
        return tensor in self.outputs

    def is_input(self, tensor: str) -> bool:
        return tensor in self.inputs

    def is_constant(self, tensor: str) -> bool:
        """Whether `tensor` is an initializer."""
        return tensor in self._initializers

    def exists(self, tensor: str) -> bool:
        """Whether something defines `tensor`: an input, an initializer or a node."""
        return tensor in self._producer or tensor in self._initializers or tensor in self._outside

    def constant(self, tensor: str) -> NDArray[Any] | None:
        """The value of an initializer (read from external data where it lies there), else None.

        Raises:
            ModelError: the external data is missing, truncated, or lies outside the model's folder.
        """
        proto = self._initializers.get(tensor)
        return None if proto is None else tensor_value(proto, self.base_dir)

    def dtype(self, tensor: str) -> int | None:
        """TensorProto.DataType of `tensor`, or None where it is unknown or not a tensor."""
        if tensor in self._initializers:
            return self._initializers[tensor].data_type
        value = self._value(tensor)
        elem = value.type.tensor_type.elem_type if value is not None else 0
        return elem or None

    def is_float(self, tensor: str) -> bool:
        return self.dtype(tensor) == TensorProto.FLOAT

    def shape(self, tensor: str) -> tuple[Dim, ...] | None:
        """Dimensions of `tensor`, or None where even the rank is unknown."""
        if tensor in self._initializers:
            return tuple(self._initializers[tensor].dims)
        value = self._value(tensor)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return tuple(dim_of(d) for d in value.type.tensor_type.shape.dim)

    def rank(self, tensor: str) -> int | None:
        shape = self.shape(tensor)
        return None if shape is None else len(shape)

    def _value(self, tensor: str) -> ValueInfoProto | None:
        return self.inputs.get(tensor) or self.outputs.get(tensor) or self._value_info.get(tensor)

    # ---- editing -------------------------------------------------------------------------------------------------

    def unique_name(self, stem: str) -> str:
        """A tensor name not in use, as close to `stem` as possible; it is reserved from now on."""
        name = free_name(stem, self._names)
        self._names.add(name)
        return name

    def add_node(  # noqa: PLR0913 - the fields of a node
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        *,
        name: str,
        domain: str = "",
        attributes: Mapping[str, Any] | Sequence[AttributeProto] = (),
    ) -> NodeProto:
        """Append a node; its name is made unique. Call `sort` once all edits are done."""
        node = helper.make_node(
            op_type,
            list(inputs),
            list(outputs),
            name=free_name(name, self._nodes),
            domain=domain,
            **(attributes if isinstance(attributes, Mapping) else {}),
        )
        if not isinstance(attributes, Mapping):
            node.attribute.extend(attributes)
        self._names.update(node.output)
        self._attach(node)
        return node

    def remove_node(self, node: NodeProto) -> None:
        """Take a node out; whoever read its outputs must have been given another tensor."""
        del self._nodes[node.name]
        for tensor in node.output:
            if self._producer.get(tensor) == node.name:
                del self._producer[tensor]
        for use in reads_of(node):
            self._drop_use(use[0], Use(node.name, use[1]))

    def set_input(self, node: NodeProto, slot: int, tensor: str) -> None:
        """Let input `slot` of `node` read `tensor`; CAPTURED renames nothing and is refused."""
        if slot == CAPTURED:
            raise InternalError(f"node {node.name!r}: a captured tensor has no input slot")
        old = node.input[slot]
        if old == tensor:
            return
        node.input[slot] = tensor
        if old:
            self._drop_use(old, Use(node.name, slot))
        if tensor:
            self._uses.setdefault(tensor, []).append(Use(node.name, slot))

    def set_inputs(self, node: NodeProto, tensors: Sequence[str]) -> None:
        """Give `node` a new input list of any length."""
        for tensor, slot in reads_of(node):
            if slot != CAPTURED:
                self._drop_use(tensor, Use(node.name, slot))
        del node.input[:]
        node.input.extend(tensors)
        for slot, tensor in enumerate(tensors):
            if tensor:
                self._uses.setdefault(tensor, []).append(Use(node.name, slot))

    def set_output(self, node: NodeProto, slot: int, tensor: str) -> None:
        """Let output `slot` of `node` be called `tensor`; readers of the old name are left as they are."""
        old = node.output[slot]
        if self._producer.get(old) == node.name:
            del self._producer[old]
        node.output[slot] = tensor
        self._names.add(tensor)
        self._producer[tensor] = node.name

    def set_attributes(self, node: NodeProto, **values: Any) -> None:
        """Set attributes of `node`; None removes one."""
        kept = [copy.deepcopy(a) for a in node.attribute if a.name not in values]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in sorted(values.items()) if v is not None)

    def replace_uses(self, old: str, new: str, uses: Iterable[Use] | None = None) -> None:
        """Let `uses` of `old` (all by default, bodies included) read `new`."""
        for use in list(self._uses.get(old, ()) if uses is None else uses):
            node = self._nodes[use.node]
            if use.slot == CAPTURED:
                for body in bodies(node):
                    rename_captured(body, old, new)
                self._drop_use(old, use)
                if use not in self._uses.setdefault(new, []):
                    self._uses[new].append(use)
            else:
                self.set_input(node, use.slot, new)

    def add_initializer(self, name: str, value: NDArray[Any] | TensorProto) -> str:
        """Add or replace an initializer and return its name."""
        if isinstance(value, TensorProto):
            proto = TensorProto()
            proto.CopyFrom(value)
            proto.name = name
        else:
            proto = numpy_helper.from_array(np.asarray(value, order="C"), name)
        self._initializers[name] = proto if self.scratch is None else self.scratch.stored(proto)
        self._value_info.pop(name, None)
        self._names.add(name)
        return name

    def remove_initializer(self, name: str) -> None:
        del self._initializers[name]

    def set_value_info(self, values: Iterable[ValueInfoProto]) -> None:
        """Replace what is known of the tensors' types and shapes."""
        self._value_info = {v.name: v for v in values}

    def forget_shape(self, tensor: str) -> None:
        self._value_info.pop(tensor, None)

    def copy_value_info(self, source: str, target: str) -> None:
        """Let `target` have the type and shape known of `source`."""
        value = self._value(source)
        if value is None:
            return
        own = ValueInfoProto()
        own.CopyFrom(value)
        own.name = target
        self._value_info[target] = own

    def prune(self) -> list[str]:
        """Drop nodes that no output depends on and initializers nobody reads; return the dropped nodes' names."""
        needed = set(self.outputs)
        kept: set[str] = set()
        stack = [self._producer[t] for t in self.outputs if t in self._producer]
        while stack:
            name = stack.pop()
            if name in kept:
                continue
            kept.add(name)
            for tensor, _ in reads_of(self._nodes[name]):
                needed.add(tensor)
                if tensor in self._producer:
                    stack.append(self._producer[tensor])
        dropped = [name for name in self._nodes if name not in kept]
        for name in dropped:
            self.remove_node(self._nodes[name])
        for name in [n for n in self._initializers if n not in needed]:
            del self._initializers[name]
        self._value_info = {n: v for n, v in self._value_info.items() if self.exists(n)}
        return dropped

    def sort(self) -> None:
        """Put nodes in topological order, keeping the present order wherever it is free.

        Raises:
            ModelError: the graph has a cycle.
        """
        order = {name: i for i, name in enumerate(self._nodes)}
        done: dict[str, NodeProto] = {}
        for root in self._nodes:
            stack, path = [root], set[str]()
            while stack:
                name = stack[-1]
                if name in done:
                    stack.pop()
                    continue
                path.add(name)
                before = {self._producer[t] for t, _ in reads_of(self._nodes[name]) if t in self._producer}
                pending = sorted((n for n in before if n not in done), key=order.__getitem__, reverse=True)
                if path.intersection(pending):
                    raise ModelError("the graph has a cycle", where=f"node {name!r}")
                if pending:
                    stack += pending
                else:
                    done[stack.pop()] = self._nodes[name]
                    path.discard(name)
        self._nodes = done

    def copy(self) -> Graph:
        """An independent graph; the initializers' data is shared."""
        twin = Graph.__new__(Graph)
        twin.base_dir = self.base_dir
        twin.scratch = self.scratch
        twin._frame = copy.deepcopy(self._frame)
        twin.inputs = {k: copy.deepcopy(v) for k, v in self.inputs.items()}
        twin.outputs = {k: copy.deepcopy(v) for k, v in self.outputs.items()}
        twin._initializers = dict(self._initializers)
        twin._value_info = dict(self._value_info)
        twin._outside = set(self._outside)
        twin._nodes = {k: copy.deepcopy(v) for k, v in self._nodes.items()}
        twin._producer = dict(self._producer)
        twin._uses = {k: list(v) for k, v in self._uses.items()}
        twin._names = set(self._names)
        return twin

    # ---- writing -------------------------------------------------------------------------------------------------

    def to_model(self) -> ModelProto:
        """The whole model as a new message (initializers in external files stay references)."""
        return self._assemble(self._initializers.values(), list(self.inputs.values()))

    def skeleton(self) -> ModelProto:
        """The model with large initializers turned into inputs: enough for shape inference and the checker."""
        small, inputs = [], list(self.inputs.values())
        for name, proto in self._initializers.items():
            if int(np.prod(proto.dims, dtype=np.int64)) * 8 <= _SHAPE_DATA_LIMIT and not is_external(proto):
                small.append(proto)
            else:
                inputs.append(helper.make_tensor_value_info(name, proto.data_type, list(proto.dims)))
        return self._assemble(small, inputs)

    def _assemble(self, initializers: Iterable[TensorProto], inputs: Sequence[ValueInfoProto]) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(self._frame)
        model.graph.node.extend(self._nodes.values())
        model.graph.initializer.extend(initializers)
        model.graph.input.extend(inputs)
        model.graph.output.extend(self.outputs.values())
        known = set(self.inputs) | set(self.outputs)
        model.graph.value_info.extend(v for n, v in self._value_info.items() if n not in known and n in self._producer)
        return model

    # ---- index ---------------------------------------------------------------------------------------------------

    def _attach(self, node: NodeProto) -> None:
        if node.name in self._nodes:
            raise InternalError(f"two nodes are called {node.name!r}")
        self._nodes[node.name] = node
        for tensor in node.output:
            if tensor:
                self._producer[tensor] = node.name
        for tensor, slot in reads_of(node):
            self._uses.setdefault(tensor, []).append(Use(node.name, slot))

    def _drop_use(self, tensor: str, use: Use) -> None:
        uses = self._uses[tensor]
        uses.remove(use)
        if not uses:
            del self._uses[tensor]
