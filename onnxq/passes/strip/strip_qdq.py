"""Takes every QuantizeLinear and DequantizeLinear out of a graph, whoever put them there.

    x -> Q -> DQ -> Conv                       x -> Conv
    w_int8 -> DQ -> Conv                       w_int8 dequantized once -> Conv

Cases:
  1. A pair behind a float tensor, weight or activation, goes; its readers get the float tensor.
  2. Codes in the file behind a DQ (weights, int32 biases) become a float initializer: (codes - zero point) * scale, in
     the type of the scale. Where several DQs give the same values there is one.
  3. Operators that only move values, and a Clip of the codes, may stand between a Q and its DQ: the first then move the
     float values, the Clip goes with the pair.
  4. An output of the model that was dequantized keeps its name, and so does what it is computed from: the node before
     writes it.
  5. Codes that enter or leave the model (a DQ on an input, a Q on an output): the input or output becomes float.
  6. A Sum of one operand by which onnxq held a tensor in float (`hold_float`) goes.
  7. Refused: codes that anything else computes on (QLinearConv, ConvInteger, DynamicQuantizeLinear), scales that are
     computed, and pairs inside the bodies of control flow. The graph may then be changed in part.
  8. onnxruntime's tool takes out a Relu or Clip whose work the codes do: their lowest stands for 0. Where values could
     be negative before such a Q, a Relu is put back, or Clip(0, 6) where the codes end at 6. Not in graphs of onnxq,
     which keeps them.
  9. A DQ behind a Gather from codes in the file: the table becomes float, as in 2. Where a Mul by scales that are
     gathered alike follows (`fold_tables`), these are part of the table.
  10. A graph without any: nothing happens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, numpy_helper

from onnxq.errors import UnsupportedModelError
from onnxq.graph.model import quantized_nodes
from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute, bodies
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.passes.strip.strip_tables import float_tables
from onnxq.planning.bounds import known_bounds

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

_MOVERS = frozenset(
    {
        "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice",
        "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
# What the lower bounds of all inputs say of the output's; a product is looked at by itself.
_OF_ALL_INPUTS: dict[str, Callable[[list[float]], float]] = {
    "Add": sum, "Concat": min, "Max": max, "Mean": min, "Min": min, "Mul": min, "Sum": sum,
}  # fmt: skip
_SIGN_KEEPERS = _MOVERS | {
    "AveragePool",
    "Dropout",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Pad",
    "ReduceMean",
}
_DEEPEST = 64
"""Pairs stand much closer; this only keeps a graph without any from exhausting the stack."""
_RELU6 = 6.0
_HELD = re.compile(r"(_dequantized(_\d+)?)?_held(_\d+)?")
_HINT = "onnxq strips Q/DQ models; ask the tool that made this one for its QDQ format"


class StripQDQ(Pass):
    """See the module's docstring.

    Attributes:
        dequantized: After a run, the initializers whose float values were computed from codes.
        pairs: After a run, how many DequantizeLinear nodes behind activations or float weights went.
        holds: After a run, how many holds went.
        restored: After a run, the Relu and Clip nodes that were put back.

    Args:
        restores: Whether to put back what the codes did the work of (8).
    """

    def __init__(self, *, restores: bool = True) -> None:
        self._restores = restores
        self.restored: tuple[str, ...] = ()
        self.dequantized: tuple[str, ...] = ()
        self.pairs = 0
        self.holds = 0

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        work = _Stripping(graph, log)
        work.refuse_kernels()
        if self._restores:
            work.restore_activations()
        tables = float_tables(graph, log)
        work.dequantize_constants()
        work.bypass_pairs()
        work.remove_holds()
        self.dequantized, self.pairs, self.holds = (*tables, *work.floats.values()), work.pairs, work.holds
        self.restored = tuple(work.restored)
        if log.edits:
            graph.prune()
        return log.result(graph)


class _Stripping:
    """One run over one graph."""

    def __init__(self, graph: Graph, log: PassLog) -> None:
        self.graph = graph
        self.log = log
        self.floats: dict[tuple[str, bytes, bytes, int, int], str] = {}
        self.restored: list[str] = []
        self.pairs = 0
        self.holds = 0

    def refuse_kernels(self) -> None:
        """See that nothing computes on codes but Q and DQ (7).

        Raises:
            UnsupportedModelError: something does.
        """
        for name in quantized_nodes(self.graph):
            node = self.graph.node(name)
            if node.op_type not in (QUANTIZE, DEQUANTIZE):
                inside = " inside its body" if any(bodies(node)) else ""
                raise _refused(node, f"it computes on codes{inside}, which is more than a Q/DQ pair")

    # ---- activations that the codes do the work of (8) -----------------------------------------------------------

    def restore_activations(self) -> None:
        """Put a Relu or Clip before each Q that cuts off negative values."""
        for node in [n for n in self.graph.nodes if n.op_type == QUANTIZE]:
            tensor, largest = node.input[0], self._largest(node)
            if largest is None or self.graph.producer(tensor) is None or self._lower(tensor) >= 0:
                continue
            op = "Clip" if abs(largest - _RELU6) < _RELU6 * 1e-5 else "Relu"
            limits = [self._limit(0.0), self._limit(_RELU6)] if op == "Clip" else []
            output = self.graph.unique_name(f"{tensor}_{op}")
            added = self.graph.add_node(op, [tensor, *limits], [output], name=output)
            self.graph.set_input(node, 0, output)
            self.restored.append(added.name)
            self.log.edit(f"{op} before the codes of {tensor!r}", node.name)

    def _largest(self, node: NodeProto) -> float | None:
        """The largest value that a code of `node` stands for, if its smallest code stands for 0."""
        scale = self._constant(node.input[1])
        zero_name = node.input[2] if len(node.input) > 2 else ""
        zero_point = self._constant(zero_name) if zero_name else np.zeros((), np.uint8)
        if scale is None or zero_point is None or zero_point.dtype.kind not in "iu" or scale.size != 1:
            return None
        ends = np.iinfo(zero_point.dtype)
        if int(zero_point.reshape(-1)[0]) != ends.min:
            return None
        return float(scale.reshape(-1)[0]) * (ends.max - ends.min)

    def _lower(self, tensor: str, depth: int = 0) -> float:
        """A number that no value of `tensor` is below, as far as the graph before it tells."""
        value = self._constant(tensor)
        if value is not None:
            return float(value.min()) if value.size else 0.0
        node = self.graph.producer(tensor)
        if node is None or depth > _DEEPEST or node.domain not in STANDARD_DOMAINS:
            return -np.inf
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            own = -np.inf if self._largest(node) is None else 0.0
            in_file = node.op_type == DEQUANTIZE and self._constant(node.input[0]) is not None
            return own if in_file else max(own, self._lower(node.input[0], depth + 1))
        known = known_bounds(self.graph, tensor).lower
        if known is not None:
            return known
        if node.op_type == "Mul" and node.input[0] == node.input[1]:
            return 0.0
        if node.op_type in _OF_ALL_INPUTS:
            lowers = [self._lower(one, depth + 1) for one in node.input]
            if node.op_type == "Mul":
                return 0.0 if min(lowers) >= 0 else -np.inf
            return float(_OF_ALL_INPUTS[node.op_type](lowers))
        if node.op_type in _SIGN_KEEPERS:
            padding = (
                self._lower(node.input[2], depth + 1) if node.op_type == "Pad" and "".join(node.input[2:3]) else 0.0
            )
            return min(self._lower(node.input[0], depth + 1), padding, 0.0)
        return -np.inf

    def _limit(self, value: float) -> str:
        return self.graph.add_initializer(self.graph.unique_name("clip_limit"), np.float32(value))

    # ---- codes in the file (2) -----------------------------------------------------------------------------------

    def dequantize_constants(self) -> None:
        """Replace every DQ of constant codes by the float values."""
        for node in [n for n in self.graph.nodes if n.op_type == DEQUANTIZE]:
            codes = self._constant(node.input[0])
            if codes is not None:
                self._replace(node.output[0], self._float(node, codes))
                self.graph.remove_node(node)
                self.log.edit(f"{node.input[0]!r} dequantized", node.name)

    def _float(self, node: NodeProto, codes: NDArray[Any]) -> str:
        """The initializer with the values of `codes` as `node` gives them."""
        scale = self._constant(node.input[1])
        zero_name = node.input[2] if len(node.input) > 2 else ""
        zero_point = self._constant(zero_name) if zero_name else np.zeros((), np.int8)
        if scale is None or zero_point is None:
            raise _refused(node, "its scale or zero-point is computed")
        axis, block = int(attribute(node, "axis", 1)), int(attribute(node, "block_size", 0))
        key = (node.input[0], scale.tobytes(), zero_point.tobytes(), axis, block)
        if key not in self.floats:
            values = dequantized(codes, scale, zero_point if zero_name else None, axis=axis, block=block)
            name = self.graph.unique_name(node.input[0].removesuffix("_quantized"))
            self.floats[key] = self.graph.add_initializer(name, values)
        return self.floats[key]

    def _constant(self, tensor: str) -> NDArray[Any] | None:
        """The value of an initializer or a Constant node, also through Identity."""
        while (node := self.graph.producer(tensor)) is not None:
            if node.domain not in STANDARD_DOMAINS or node.op_type not in ("Identity", "Constant"):
                return None
            if node.op_type == "Constant":
                value = attribute(node, "value", None)
                return np.asarray(numpy_helper.to_array(value)) if isinstance(value, TensorProto) else None
            tensor = node.input[0]
        return self.graph.constant(tensor)

    # ---- pairs (1, 3, 4, 5) --------------------------------------------------------------------------------------

    def bypass_pairs(self) -> None:
        """Let the readers of every Q and DQ, and of a Clip between them, read what comes in."""
        pairs = [n for n in self.graph.nodes if n.op_type in (QUANTIZE, DEQUANTIZE)]
        moved: dict[str, NodeProto] = {}
        for node in pairs:
            if node.op_type == QUANTIZE:
                moved.update(self._between(node.output[0], node))
                continue
            for entry in self._origins(node.input[0], node):
                self._become_float(self.graph.inputs[entry], node)
                moved.update(self._between(entry, node))
        for node in [n for n in self.graph.nodes if n.name in moved or n.op_type in (QUANTIZE, DEQUANTIZE)]:
            if node.op_type in (QUANTIZE, DEQUANTIZE, "Clip"):
                self.pairs += node.op_type == DEQUANTIZE
                self._bypass(node)
            else:
                for output in node.output:
                    self.graph.forget_shape(output)  # and with it the type, which was that of codes

    def _between(self, codes: str, qdq: NodeProto) -> dict[str, NodeProto]:
        """Nodes through which `codes` pass on their way to a DQ; the outputs of the model they reach become float."""
        found: dict[str, NodeProto] = {}
        front = [codes]
        while front:
            tensor = front.pop()
            if self.graph.is_output(tensor):
                self._become_float(self.graph.outputs[tensor], qdq)
            for use in self.graph.uses(tensor):
                reader = self.graph.node(use.node)
                if reader.op_type == DEQUANTIZE and use.slot == 0:
                    continue
                if not _passes_codes(reader) or not (use.slot == 0 or reader.op_type == "Concat"):
                    raise _refused(reader, f"it reads the codes {tensor!r}, so the pair cannot go")
                if reader.name not in found:
                    found[reader.name] = reader
                    front += [output for output in reader.output if output]
        return found

    def _origins(self, codes: str, dq: NodeProto) -> list[str]:
        """Inputs of the model that `codes` come from; a Q they come from is not listed."""
        found, front = list[str](), [codes]
        while front:
            tensor = front.pop()
            node = self.graph.producer(tensor)
            if self.graph.is_input(tensor):
                found.append(tensor)
            elif node is None or (node.op_type != QUANTIZE and not _passes_codes(node)):
                what = "a constant that an operator moves" if node is None else f"{node.op_type} {node.name!r}"
                raise _refused(dq, f"its codes come from {what}")
            elif node.op_type != QUANTIZE:
                front += list(node.input) if node.op_type == "Concat" else [node.input[0]]
        return found

    def _become_float(self, value: ValueInfoProto, qdq: NodeProto) -> None:
        value.type.tensor_type.elem_type = self.graph.dtype(qdq.input[1]) or TensorProto.FLOAT
        self.log.edit(f"{value.name!r}, which held codes, is float", qdq.name)

    def _bypass(self, node: NodeProto) -> None:
        self._replace(node.output[0], node.input[0])
        self.graph.remove_node(node)
        self.log.edit(f"{node.op_type} behind {node.input[0]!r}", node.name)

    def _replace(self, old: str, new: str) -> None:
        """Let everything that reads `old` read `new`; an output of the model keeps its name."""
        graph = self.graph
        graph.replace_uses(old, new)
        if not graph.is_output(old):
            return
        writer, producer = graph.producer(old), graph.producer(new)
        if writer is not None:
            graph.set_output(writer, list(writer.output).index(old), graph.unique_name(f"{old}_stripped"))
        if producer is None or graph.is_output(new):
            graph.add_node("Identity", [new], [old], name=f"{old}_Identity")
            return
        graph.set_output(producer, list(producer.output).index(new), old)
        graph.replace_uses(new, old)

    # ---- holds (6) -----------------------------------------------------------------------------------------------

    def remove_holds(self) -> None:
        """Take out what `hold_float` put in."""
        for node in self.graph.nodes:
            if node.op_type == "Sum" and len(node.input) == 1 and _HELD.fullmatch(_rest(node)):
                self._bypass(node)
                self.holds += 1


def dequantized(
    codes: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any] | None, *, axis: int, block: int
) -> NDArray[Any]:
    """(codes - zero_point) * scale, computed in float32 as DequantizeLinear does, in the type of the scale.

    Args:
        codes: Any shape; integers of any width, or 8-bit floats.
        scale: One value; one for each slice along `axis`; or, with `block`, one for each block along it.
        zero_point: As many, or None for 0.
        axis: As the attribute.
        block: Codes in a block, as the attribute `block_size`; 0 for none.

    Raises:
        UnsupportedModelError: the scales do not fit the codes.
    """
    integer = codes.dtype.kind in "iub" or "int" in codes.dtype.name
    values = codes.astype(np.int64) if integer else codes.astype(np.float32)

    def spread(parameter: NDArray[Any]) -> NDArray[Any]:
        if parameter.size == 1 and not block:
            return parameter.reshape(())
        if block:
            return np.take(np.repeat(parameter, block, axis), range(codes.shape[axis]), axis)
        shape = [1] * codes.ndim
        shape[axis] = parameter.size
        return parameter.reshape(shape)

    try:
        if zero_point is not None:
            values = values - spread(zero_point.astype(values.dtype))
        product: NDArray[Any] = values.astype(np.float32) * spread(scale.astype(np.float32))
    except (ValueError, IndexError) as error:
        raise UnsupportedModelError(
            f"{scale.size} scales along axis {axis} do not fit codes of shape {codes.shape}"
        ) from error
    return np.asarray(product.astype(scale.dtype))


def _passes_codes(node: NodeProto) -> bool:
    return node.domain in STANDARD_DOMAINS and node.op_type in (*_MOVERS, "Clip")


def _rest(node: NodeProto) -> str:
    """What the output's name has behind the input's."""
    return node.output[0].removeprefix(node.input[0]) if node.output[0].startswith(node.input[0]) else ""


def _refused(node: NodeProto, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(why, where=f"{node.op_type} {node.name!r}", hint=_HINT)
