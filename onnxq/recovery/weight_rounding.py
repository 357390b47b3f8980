"""Second-order weight rounding: weights moved to the codes that keep the nodes' outputs (see `second_order`).

The codes are handed on as the float values they stand for, w' = q * scale, which FoldWeights turns into q again; that
it does is checked for each weight. No pair of codes exceeds what the target's kernels can add.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from onnxq.calibration.progress import report_to
from onnxq.calibration.solve import QParamsTable, constant_values
from onnxq.errors import InternalError
from onnxq.graph.view import Graph, attribute
from onnxq.numerics.arrays import dequantize, quantize
from onnxq.numerics.float8 import encode_float8, round_to_float8
from onnxq.numerics.qparams import QuantParams
from onnxq.recovery.moments import Moments, gather_moments
from onnxq.recovery.patches import has_patches, walked, weight_from_rows, weight_rows
from onnxq.recovery.second_order import CodeLimits, round_second_order
from onnxq.recovery.sites import Site, sites_of
from onnxq.recovery.solved import Solved
from onnxq.targets.schema import Target, WeightGuard

STAGE = "rounding weights"


def round_weights(solved: Solved, chosen: Graph) -> Graph:
    """A graph whose weights lie on codes of the parameters, chosen for the least error of the nodes' outputs.

    Left to rounding to nearest: a weight that several nodes read, those of ConvTranspose, products of stacks, and those
    in half precision.

    Args:
        solved: The model; its progress is told of each weight.
        chosen: The graph that gets the weights, which earlier steps may have changed; it is not changed.

    Raises:
        DataError: onnxruntime fails on the samples.
        ModelError: a weight holds NaN or Inf.
    """
    graph = solved.graph
    sites = {site.node: site for site in sites_of(graph, solved.plan) if can_be_rounded(graph, site)}
    if not sites or not solved.samples:
        return chosen
    rounded = chosen.copy()
    done = 0
    report_to(solved.progress, STAGE, done, len(sites), unit="weight")
    for part in gather_moments(graph, list(sites), solved.samples, solved.options):
        for name, moments in part.items():
            values = _rounded(graph, sites[name], moments, solved.qparams, solved.target)
            if values is not None:
                rounded.add_initializer(sites[name].weight, values)
            done += 1
            report_to(solved.progress, STAGE, done, len(sites), unit="weight")
    return rounded


def can_be_rounded(graph: Graph, site: Site) -> bool:
    """Whether the codes of a site's weight can be chosen one by one: a weight of its own, in float32, with patches."""
    weight = graph.initializers[site.weight]
    # Values on codes have to come through the weight's type unchanged, which half precision does not promise.
    exact = weight.data_type == TensorProto.FLOAT
    return exact and has_patches(graph.node(site.node), len(weight.dims)) and len(graph.uses(site.weight)) == 1


def _rounded(
    graph: Graph, site: Site, moments: Moments, qparams: QParamsTable, target: Target
) -> NDArray[np.float32] | None:
    """The weight of `site` on its codes; None where no input was seen or its codes are not symmetric."""
    node = graph.node(site.node)
    matrix = moments.shrunk(centred=site.bias is not None)
    data = qparams.get(node.input[0])
    if matrix is not None and data is not None and data.scale.ndim == 0 and not data.spec.qtype.is_float:
        matrix = matrix + float(data.scale) ** 2 / 12.0 * np.eye(matrix.shape[-1])
    return on_codes(node, constant_values(graph, site.weight), matrix, qparams[site.weight], target)


def on_codes(
    node: NodeProto,
    weight: NDArray[np.floating],
    moments: NDArray[np.float64] | None,
    params: QuantParams,
    target: Target,
) -> NDArray[np.float32] | None:
    """The values of the codes that keep the outputs of `node` nearest to what `weight` gives.

    Args:
        node: A node of which `has_patches` holds.
        weight: What to come close to, in the shape of its weight.
        moments: Second moments of its inputs, shape (g, K, K).
        params: Parameters of the weight.
        target: The table whose guard holds for the codes.

    Returns:
        None where no input was seen or the codes are not symmetric.
    """
    if moments is None or not np.isfinite(moments).all() or params.zero_point.any():
        return None
    rows = weight_rows(node, weight.astype(np.float64))
    # Scales run along the output channels, which are the rows of every group in their order.
    scales = np.broadcast_to(params.scale.astype(np.float64).reshape(-1), (rows.shape[0] * rows.shape[1],))
    floats = params.spec.qtype.is_float
    limits = CodeLimits(
        params.spec.qmin,
        params.spec.qmax,
        _partners(node, weight.shape, target) if params.spec.qtype.name == "int8" else None,
        round_to_float8 if floats else np.rint,
    )
    found = round_second_order(rows, moments, scales.reshape(rows.shape[:2]), limits)
    steps = weight_from_rows(node, found, weight.shape)
    codes = encode_float8(steps) if floats else steps.astype(params.spec.qtype.dtype)
    return _checked(codes, params, node.input[1])


def _checked(codes: NDArray[np.generic], params: QuantParams, weight: str) -> NDArray[np.float32]:
    values = dequantize(codes, params)
    if not np.array_equal(quantize(values, params), codes):
        raise InternalError(f"the codes of {weight!r} are not what their values are quantized to")
    return values


def _partners(node: NodeProto, shape: tuple[int, ...], target: Target) -> NDArray[np.intp] | None:
    """For each column the one that the kernel adds it to in 16 bits, -1 for none; None where that cannot overflow."""
    depthwise = node.op_type == "Conv" and shape[1] == 1 and attribute(node, "group", 1) == shape[0]
    if target.guard is not WeightGuard.PAIR_SUM or depthwise:
        return None
    order = walked(node, shape)
    partner = np.full(order.size, -1, np.intp)
    even = order.size - order.size % 2
    partner[order[0:even:2]], partner[order[1:even:2]] = order[1:even:2], order[0:even:2]
    return partner
