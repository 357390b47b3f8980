"""BatchNormalization folds into the Conv, ConvTranspose, Gemm or MatMul before it.

In inference BatchNormalization is an affine map of each channel (axis 1):

    y = gamma * (x - mean) / sqrt(var + epsilon) + beta = s * x + t
    s = gamma / sqrt(var + epsilon)        t = beta - s * mean

and s and t fold into weights and bias as `onnxq.passes.simplify.linear` says. Operator:
https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute
from onnxq.passes.base import Pass, PassLog, PassResult, rewrite_each
from onnxq.passes.simplify.linear import (
    BIASED_OPS,
    fold_affine_map,
    mapped_constants,
    output_channels,
    sole_linear_producer,
    take_constants,
    take_over_output,
)

_DEFAULT_EPSILON = 1e-5
_MATRIX_RANK = 2
_MODE_IS_AN_ATTRIBUTE_SINCE = 14


class FoldBatchnorm(Pass):
    """Fold BatchNormalization into the linear operator before it, which then computes the tensor that it computed.

    1. Conv with or without bias, grouped or depthwise.
    2. ConvTranspose, grouped or not.
    3. Gemm, with transB or not, with beta.
    4. A weight or bias that other nodes read is copied; they keep the old one.
    5. Left alone: the linear operator's output has another reader or is an output of the graph.
    6. Left alone: weight, bias or a parameter of the normalization is not a constant.
    7. Left alone: training mode (before opset 14: outputs for statistics), statistics that are read, or statistics for
       each position (spatial=0).
    8. Left alone: the input comes from elsewhere. In front of a padded Conv the shift does not fold, because the
       padding is put in after it.
    9. Left alone: folded weights that would not be finite.
    10. MatMul, at once or behind a Flatten or Reshape that makes a matrix of its rows: the shift becomes an Add behind
        the MatMul, where a bias stands.
    11. Concat of channels: each Conv in front of it takes the part that belongs to its channels. Left alone where one
        of the inputs is not such a Conv, or has another reader.
    """

    def run(self, graph: Graph) -> PassResult:
        return rewrite_each(graph, "BatchNormalization", _fold)


def _fold(graph: Graph, node: NodeProto, log: PassLog) -> str | None:
    affine = constant_affine(graph, node)
    if isinstance(affine, str):  # cases 6, 7
        return affine
    scale, shift = affine
    before = graph.producer(node.input[0])
    if before is not None and before.op_type == "Concat" and before.domain in STANDARD_DOMAINS:
        if (reason := _fold_into_branches(graph, before, scale, shift)) is None:  # case 11
            take_over_output(graph, before, node)
            log.edit("folded into the nodes in front of a Concat", node.name, before.name)
        return reason
    rows = _rows_of_product(graph, node.input[0])
    linear = sole_linear_producer(graph, rows or node.input[0], BIASED_OPS if rows is None else ("MatMul",))
    if isinstance(linear, str):  # cases 5, 6, 8
        return linear
    if scale.shape != (output_channels(graph, linear),):
        return f"the normalization has parameters of shape {scale.shape} for {output_channels(graph, linear)} channels"
    bias = None if rows is None else _in_type_of(graph, linear.input[1], shift)
    if bias is not None and not np.isfinite(bias).all():
        return "the folded weights would not be finite"
    if (reason := fold_affine_map(graph, linear, scale, shift if bias is None else 0 * shift)) is not None:  # case 9
        return reason
    last = graph.producer(node.input[0])
    take_over_output(graph, linear if last is None else last, node)
    if bias is not None and bias.any():  # case 10
        _add_behind(graph, linear, bias)
    log.edit(f"folded into {linear.op_type}", node.name, linear.name)
    return None


def _fold_into_branches(graph: Graph, concat: NodeProto, scale: NDArray[Any], shift: NDArray[Any]) -> str | None:
    """Let the nodes in front of `concat` compute the map of its output; or the reason why they cannot."""
    tensor = concat.output[0]
    if len(graph.uses(tensor)) != 1 or graph.is_output(tensor):
        return f"the output of Concat {concat.name!r} has other readers"
    if attribute(concat, "axis", 0) not in (1, 1 - (graph.rank(tensor) or 0)):
        return f"Concat {concat.name!r} does not put channels together"
    made, start = [], 0
    for name in concat.input:
        linear = sole_linear_producer(graph, name, ("Conv", "ConvTranspose"))
        if isinstance(linear, str):
            return f"in front of Concat {concat.name!r}: {linear}"
        part = slice(start, start + (output_channels(graph, linear) or 0))
        if (start := part.stop) > scale.size:
            break
        constants = mapped_constants(graph, linear, scale[part], shift[part])
        if isinstance(constants, str):
            return constants
        made.append((linear, constants))
    if start != scale.size:
        return f"the normalization has parameters of shape {scale.shape} for other channels"
    for linear, constants in made:
        take_constants(graph, linear, *constants)
    return None


def _rows_of_product(graph: Graph, tensor: str) -> str | None:
    """The product of a MatMul whose rows `tensor`, a matrix, holds: itself, or what was made a matrix."""
    if graph.rank(tensor) != _MATRIX_RANK:
        return None
    node = graph.producer(tensor)
    if node is not None and node.op_type in ("Flatten", "Reshape") and node.domain in STANDARD_DOMAINS:
        columns, own = graph.shape(tensor), graph.shape(node.input[0])
        kept = columns and own and isinstance(own[-1], int) and columns[-1] == own[-1]
        alone = len(graph.uses(tensor)) == 1 and not graph.is_output(tensor)
        if not kept or not alone:
            return None
        tensor, node = node.input[0], graph.producer(node.input[0])
    return tensor if node is not None and node.op_type == "MatMul" else None


def _in_type_of(graph: Graph, weight: str, values: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # what comes out not finite is refused
        return values.astype(helper.tensor_dtype_to_np_dtype(graph.initializers[weight].data_type))


def _add_behind(graph: Graph, matmul: NodeProto, bias: NDArray[Any]) -> None:
    output = matmul.output[0]
    product = graph.unique_name(f"{output}_product")
    graph.copy_value_info(output, product)
    graph.set_output(matmul, 0, product)
    name = graph.add_initializer(graph.unique_name(f"{output}_bias"), bias)
    graph.add_node("Add", [product, name], [output], name=f"{matmul.name}_bias")


def constant_affine(graph: Graph, node: NodeProto) -> tuple[NDArray[Any], NDArray[Any]] | str:
    """Scale and shift, float64 of shape (C,), of a BatchNormalization, or the reason why it is not such a map."""
    if (reason := _mode_reason(graph, node)) is not None:
        return reason
    values = [graph.constant(name) for name in node.input[1:5]]
    parameters = [v.astype(np.float64) for v in values if v is not None]
    if len(parameters) != 4:
        return "a parameter of the normalization is not a constant"
    if len({v.shape for v in parameters}) > 1:
        return f"the normalization has parameters of shapes {' and '.join(str(v.shape) for v in parameters)}"
    return affine_of(*parameters, epsilon=float(attribute(node, "epsilon", _DEFAULT_EPSILON)))


def affine_of(
    gamma: NDArray[Any], beta: NDArray[Any], mean: NDArray[Any], var: NDArray[Any], *, epsilon: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale and shift, float64 of shape (C,), that a BatchNormalization applies.

    >>> one = np.ones(1)
    >>> [float(v[0]) for v in affine_of(2 * one, 3 * one, 5 * one, 4 * one, epsilon=0.0)]
    [1.0, -2.0]
    """
    with np.errstate(all="ignore"):  # what comes out not finite is refused where it is folded
        scale = gamma / np.sqrt(var + epsilon)
        return scale, beta - scale * mean


def in_training_mode(graph: Graph, node: NodeProto) -> bool:
    """Whether a BatchNormalization goes by statistics of what it is fed: before opset 14 if it has outputs for them."""
    if graph.opset < _MODE_IS_AN_ATTRIBUTE_SINCE:
        return any(node.output[1:]) or (graph.opset < 7 and not attribute(node, "is_test", 0))
    return bool(attribute(node, "training_mode", 0))


def _mode_reason(graph: Graph, node: NodeProto) -> str | None:
    if in_training_mode(graph, node):
        return "the normalization is in training mode"
    if any(graph.uses(name) or graph.is_output(name) for name in node.output[1:] if name):
        return "the statistics of the normalization are read"
    if not attribute(node, "spatial", 1):
        return "the normalization has statistics for each position"
    return None
