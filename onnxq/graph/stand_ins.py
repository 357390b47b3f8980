"""Standard operators that stand in where shapes are inferred for onnxruntime's own, and some of ai.onnx.ml: onnx infers
nothing for those.

    MatMulNBits(A, codes, ...)                  MatMul(A, W)             W: (K, N), of A's type
    DynamicQuantizeMatMul(A, codes, ...)        MatMul(A, W)
    MatMulIntegerToFloat(A codes, codes, ...)   MatMul(Cast(A), W)
    FusedMatMul(A, B)                           MatMul(A, B)             where it transposes nothing
    DynamicQuantizeLSTM(X, W, R, ...)           LSTM(X, W, R)
    Attention, QAttention(X, codes, ...)        MatMul(Cast(X), W)       W: (K, N / 3), the values' part
    GatherBlockQuantized(codes, indices, ...)   Gather(table, indices)
    Gelu, SkipLayerNormalization, ... (X, ...)  Identity(X)
    Scaler, Normalizer (X), of ai.onnx.ml       Cast(X)                  to float32
    Imputer (X), of ai.onnx.ml                  Identity(X)

Only shapes and types of outputs are those of the operator. Sources: onnxruntime's docs/ContribOperators.md,
onnx's docs/Operators-ml.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxq.graph.messages import MICROSOFT, Dim

_AS_INPUT = frozenset({
    "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
})  # fmt: skip
_ML = "ai.onnx.ml"
_LSTM_ATTRIBUTES = frozenset({"direction", "hidden_size", "layout"})

Sizes = tuple[int, ...]
SizesOf = Callable[[str], tuple[Dim, ...] | None]
"""The sizes of a constant, by name; None for what is no constant."""


def with_stand_ins(model: ModelProto, sizes_of: SizesOf) -> ModelProto:
    """`model` with standard operators where shapes would otherwise end; itself where there are none to replace.

    Args:
        model: A model for shape inference; it may be changed.
        sizes_of: Sizes of the constants of the whole model.
    """
    types = _types(model)
    nodes: list[NodeProto] = []
    stood_in = False
    for node in model.graph.node:
        found = _stand_in(node, sizes_of, types) if node.domain == MICROSOFT else _of_ml(node)
        if found is None:
            nodes.append(node)
            continue
        stood_in = True
        parts, inputs = found
        nodes += parts
        model.graph.input.extend(inputs)
    if stood_in:
        kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(kept)
    return model


_StandIn = tuple[list[NodeProto], list[ValueInfoProto]]


def _stand_in(node: NodeProto, sizes_of: SizesOf, types: Mapping[str, int]) -> _StandIn | None:
    """Nodes in place of `node`, and inputs of the model in place of its weight."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    op = node.op_type
    if op in _AS_INPUT:
        return [helper.make_node("Identity", node.input[:1], node.output[:1])], []
    if op == "FusedMatMul" and not any(value for name, value in attributes.items() if name.startswith("trans")):
        return [helper.make_node("MatMul", node.input[:2], node.output[:1])], []
    if op == "MatMulNBits":
        return _product(node, (attributes["K"], attributes["N"]), types.get(node.input[0]))
    weight = _sizes(sizes_of, node, 0 if op == "GatherBlockQuantized" else 1)
    if not weight:
        return None
    if op == "DynamicQuantizeLSTM":
        kept = {name: value for name, value in attributes.items() if name in _LSTM_ATTRIBUTES}
        return [helper.make_node("LSTM", node.input[:3], node.output, **kept)], []
    if op == "GatherBlockQuantized":
        table = _unpacked(weight, _sizes(sizes_of, node, 2), attributes)
        return _rows(node, table, attributes, types.get(node.input[2]))
    if op in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat"):
        return _product(node, weight, None)
    if op in ("Attention", "QAttention") and len(weight) == 2 and not attributes.get("qkv_hidden_sizes"):
        return _product(node, (weight[0], weight[1] // 3), None)
    return None


def _of_ml(node: NodeProto) -> _StandIn | None:
    """A node in place of one that prepares what scikit-learn's networks read: their Gemms need to know the rank."""
    if node.domain == _ML and node.op_type in ("Scaler", "Normalizer"):
        return [helper.make_node("Cast", node.input[:1], node.output[:1], to=TensorProto.FLOAT)], []
    if node.domain == _ML and node.op_type == "Imputer":
        return [helper.make_node("Identity", node.input[:1], node.output[:1])], []
    return None


def _sizes(sizes_of: SizesOf, node: NodeProto, slot: int) -> Sizes:
    found = sizes_of(node.input[slot]) if slot < len(node.input) else None
    return tuple(size for size in found or () if isinstance(size, int))


def _product(node: NodeProto, weight: Sizes, dtype: int | None) -> _StandIn:
    cast, values = f"{node.output[0]}__float", f"{node.output[0]}__weight"
    dtype = dtype or TensorProto.FLOAT
    return (
        [
            helper.make_node("Cast", node.input[:1], [cast], to=dtype),
            helper.make_node("MatMul", [cast, values], node.output[:1]),
        ],
        [helper.make_tensor_value_info(values, dtype, weight)],
    )


def _rows(node: NodeProto, table: Sizes, attributes: Mapping[str, int], dtype: int | None) -> _StandIn:
    values = f"{node.output[0]}__table"
    return (
        [helper.make_node("Gather", [values, node.input[1]], node.output[:1], axis=attributes.get("gather_axis", 0))],
        [helper.make_tensor_value_info(values, dtype or TensorProto.FLOAT, table)],
    )


def _unpacked(codes: Sizes, scales: Sizes, attributes: Mapping[str, int]) -> Sizes:
    """Sizes of a table in values: two codes of 4 bits lie in a byte where their type is uint8, along the last axis."""
    block, bits = attributes.get("block_size", 128), attributes.get("bits", 4)
    axis = attributes.get("quantize_axis", 1)
    packed = 8 // bits
    # Codes of a 4-bit type count as they are: then there are as many blocks as scales already.
    if not scales or packed == 1 or -(-codes[axis] // block) >= scales[axis]:
        return codes
    return (*codes[:-1], codes[-1] * packed)


def _types(model: ModelProto) -> dict[str, int]:
    values: Iterable[ValueInfoProto] = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    return {**known, **{tensor.name: tensor.data_type for tensor in model.graph.initializer}}
