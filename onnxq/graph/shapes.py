"""Types and shapes of tensors, as far as they can be known without running the model.

onnx's own inference (https://onnx.ai/onnx/api/shape_inference.html) runs with data propagation on the model without its
large weights, so the size of the model does not matter. What was known before is kept where inference finds nothing or
fails; sizes that have a name keep it. onnxruntime's own operators for models in few bits have stand-ins.
"""

from __future__ import annotations

import onnx
from onnx import ModelProto, TensorShapeProto, ValueInfoProto, helper

from onnxq.graph.stand_ins import with_stand_ins
from onnxq.graph.view import Graph

# onnx's inference invents a name of this form for each size it cannot tell.
_INVENTED = "unk__"
# Far above any shape; data propagation is for shapes.
_LONGEST_VECTOR = 2**16


def infer_shapes(graph: Graph) -> list[str]:
    """Complete, in place, what `graph` knows of the types and shapes of its tensors.

    Returns:
        Names of the tensors of which more is known than before.
    """
    learned = _infer_once(graph)
    # The length of a computed target shape tells the rank, and more may follow from that.
    if ranks := _ranks_of_reshapes(graph):
        graph.set_value_info([*graph.value_infos.values(), *ranks])
        learned += [value.name for value in ranks]
        learned += _infer_once(graph)
    return list(dict.fromkeys(learned))


def _ranks_of_reshapes(graph: Graph) -> list[ValueInfoProto]:
    found = []
    for node in graph.nodes:
        if node.op_type != "Reshape" or graph.opset < 5 or graph.is_output(node.output[0]):
            continue
        length, dtype = graph.shape(node.input[1]), graph.dtype(node.output[0])
        if graph.shape(node.output[0]) is None and dtype and length and isinstance(length[0], int):
            found.append(helper.make_tensor_value_info(node.output[0], dtype, [None] * length[0]))
    return found


def _infer_once(graph: Graph) -> list[str]:
    inferred = _inferred(
        with_stand_ins(graph.skeleton(), lambda name: graph.shape(name) if graph.is_constant(name) else None)
    )
    if inferred is None:
        return []
    learned: list[str] = []
    infos = dict(graph.value_infos)
    for found in (*inferred.graph.value_info, *inferred.graph.output):
        name = found.name
        if graph.is_input(name) or graph.is_constant(name) or graph.producer(name) is None:
            continue
        known = graph.outputs.get(name) or infos.get(name)
        merged = _merged(known, found)
        if merged is None:
            continue
        learned.append(name)
        if name in graph.outputs:
            graph.outputs[name] = merged
        else:
            infos[name] = merged
    graph.set_value_info(infos.values())
    return learned


def _inferred(skeleton: ModelProto, *, data_prop: bool = True) -> ModelProto | None:
    try:
        return onnx.shape_inference.infer_shapes(
            skeleton, strict_mode=False, data_prop=data_prop and not _has_long_vectors(skeleton)
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        # Without data propagation less is known, and fewer operators can fail.
        return _inferred(skeleton, data_prop=False) if data_prop else None


def _has_long_vectors(skeleton: ModelProto) -> bool:
    """Whether data propagation, which keeps a symbol for each element of a vector, would take memory without end."""
    shapes = (value.type.tensor_type.shape.dim for value in skeleton.graph.input)
    return any(len(sizes) == 1 and sizes[0].dim_value > _LONGEST_VECTOR for sizes in shapes)


def _merged(known: ValueInfoProto | None, found: ValueInfoProto) -> ValueInfoProto | None:
    """`known` completed by `found`, or None where that adds nothing."""
    merged = ValueInfoProto()
    merged.CopyFrom(found if known is None else known)
    if known is None:
        _drop_invented(merged)
        return merged
    kind = found.type.WhichOneof("value")
    if known.type.WhichOneof("value") is None and kind is not None:
        merged.type.CopyFrom(found.type)
        _drop_invented(merged)
        return merged
    if kind != "tensor_type" or known.type.WhichOneof("value") != "tensor_type":
        return None
    new = found.type.tensor_type
    own = merged.type.tensor_type
    if not own.elem_type:
        own.elem_type = new.elem_type
    if new.HasField("shape"):
        if not own.HasField("shape"):
            own.shape.CopyFrom(new.shape)
        elif len(own.shape.dim) == len(new.shape.dim):
            for mine, theirs in zip(own.shape.dim, new.shape.dim, strict=True):
                _learn_size(mine, theirs)
    _drop_invented(merged)
    return merged if merged != known else None


def _learn_size(known: TensorShapeProto.Dimension, found: TensorShapeProto.Dimension) -> None:
    if found.HasField("dim_value") and found.dim_value >= 0 and not known.HasField("dim_value"):
        # A declared name gives way to a number only: names are the caller's words for a size.
        known.dim_value = found.dim_value
    elif found.dim_param and known.WhichOneof("value") is None:
        known.dim_param = found.dim_param


def _drop_invented(value: ValueInfoProto) -> None:
    if value.type.WhichOneof("value") != "tensor_type":
        return
    for dim in value.type.tensor_type.shape.dim:
        if dim.dim_param.startswith(_INVENTED) or (dim.HasField("dim_value") and dim.dim_value < 0):
            dim.Clear()
