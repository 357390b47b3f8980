"""Second-order weight rounding: weights moved to the codes that keep the nodes' outputs (see `second_order`).

The codes are handed on as the float values they stand for, w' = q * scale, which FoldWeights turns into q again; that
it does is checked for each weight. No pair of codes exceeds what the target's kernels can add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from onnxq.calibration.progress import report_to
from onnxq.calibration.solve import QParamsTable, constant_values
from onnxq.errors import InternalError
from onnxq.graph.view import Graph, attribute
from onnxq.numerics.arrays import dequantize, fake_quantize, quantize
from onnxq.numerics.float8 import encode_float8, round_to_float8
from onnxq.numerics.qparams import QuantParams
from onnxq.recovery.moments import Moments, gather_moments
from onnxq.recovery.patches import has_patches, walked, weight_from_rows, weight_rows
from onnxq.recovery.second_order import CodeLimits, round_second_order
from onnxq.recovery.sites import Site, sites_of
from onnxq.recovery.solved import Solved
from onnxq.targets.schema import Target, WeightGuard

STAGE = "rounding weights"

NEEDED_GAIN = 0.1
"""Codes have to take away this share of the errors at a node's outputs, on samples that they were not chosen by: half a
decibel. Chosen codes move what they leave to where the samples of calibration hardly reach, so they are no gain by
themselves: where activations bring most of the error, unusual inputs come out worse and the others hardly better."""


def round_weights(solved: Solved, chosen: Graph, *, centred: bool = False) -> Graph:
    """A graph whose weights lie on codes of the parameters, chosen for the least error of the nodes' outputs.

    Left to rounding to nearest: a weight that several nodes read, those of ConvTranspose, products of stacks, and those
    in half precision.

    Args:
        solved: The model; its progress is told of each weight.
        chosen: The graph that gets the weights, which earlier steps may have changed; it is not changed.
        centred: Whether biases will be corrected behind it, so that the mean of an output is free.

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
            site = sites[name]
            inputs = InputMoments(
                moments, centred=centred and site.bias is not None, noise=_noise_of_input(graph, site, solved.qparams)
            )
            weight = constant_values(graph, site.weight)
            values = on_codes(graph.node(name), weight, inputs, solved.qparams[site.weight], solved.target)
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


def _noise_of_input(graph: Graph, site: Site, qparams: QParamsTable) -> float:
    """Variance of what rounding adds to the input of `site`."""
    data = qparams.get(graph.node(site.node).input[0])
    if data is None or data.scale.ndim or data.spec.qtype.is_float:
        return 0.0
    return float(data.scale) ** 2 / 12.0


@dataclass(frozen=True)
class InputMoments:
    """Second moments of what a weight is multiplied with.

    Attributes:
        seen: Of the patches.
        centred: Whether a bias takes the mean.
        noise: Variance that every entry has besides, from its own rounding.
        left: Variance at the outputs, summed over them, of errors that no choice of codes changes.
    """

    seen: Moments
    centred: bool
    noise: float = 0.0
    left: float = 0.0

    def whole(self) -> NDArray[np.float64] | None:
        """To choose codes by, shape (g, K, K); None where nothing was seen."""
        matrix = self.seen.shrunk(centred=self.centred)
        return None if matrix is None else self._with_noise(matrix)

    def folds(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """To choose by one half of the samples and judge by the other; by all of them where they have no halves."""
        whole = self.seen.matrix(centred=self.centred)
        found = self.seen.folds(centred=self.centred)
        if not found and whole is not None:
            found = [(whole, whole)]
        return [(self._with_noise(fit), self._with_noise(judge)) for fit, judge in found]

    def _with_noise(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(matrix + self.noise * np.eye(matrix.shape[-1]))


def on_codes(
    node: NodeProto,
    weight: NDArray[np.floating],
    inputs: InputMoments,
    params: QuantParams,
    target: Target,
) -> NDArray[np.float32] | None:
    """The values of the codes that keep the outputs of `node` nearest to what `weight` gives.

    Args:
        node: A node of which `has_patches` holds.
        weight: What to come close to, in the shape of its weight.
        inputs: Moments of its inputs.
        params: Parameters of the weight.
        target: The table whose guard holds for the codes.

    Returns:
        None where no input was seen, the codes are not symmetric, or codes chosen on one half of the samples do not
        serve the other half better than the nearest ones, by `NEEDED_GAIN` of all that is wrong with the outputs.
    """
    moments = inputs.whole()
    if moments is None or not np.isfinite(moments).all() or params.zero_point.any():
        return None
    rows = weight_rows(node, weight.astype(np.float64))
    scales = scales_of_rows(params, rows.shape)
    floats = params.spec.qtype.is_float
    limits = CodeLimits(
        params.spec.qmin,
        params.spec.qmax,
        partners_of(node, weight.shape, params, target),
        round_to_float8 if floats else np.rint,
    )
    nearest = weight_rows(node, fake_quantize(weight.astype(np.float32), params).astype(np.float64))
    folds = inputs.folds()
    before = sum(_output_error(rows - nearest, judge) + inputs.left for _, judge in folds)
    needed = (1.0 - NEEDED_GAIN) * before
    if not len(folds) * inputs.left <= needed:  # true for NaN
        return None
    chosen = [round_second_order(rows, fit, scales, limits) * scales[..., None] for fit, _ in folds]
    after = sum(_output_error(rows - c, judge) + inputs.left for c, (_, judge) in zip(chosen, folds, strict=True))
    if not after <= needed:
        return None
    found = round_second_order(rows, moments, scales, limits)
    steps = weight_from_rows(node, found, weight.shape)
    codes = encode_float8(steps) if floats else steps.astype(params.spec.qtype.dtype)
    return _checked(codes, params, node.input[1])


def scales_of_rows(params: QuantParams, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The scale of each row, (g, m), of a weight whose rows have the shape (g, m, K)."""
    # Scales run along the output channels, which are the rows of every group in their order.
    scales = np.broadcast_to(params.scale.astype(np.float64).reshape(-1), (shape[0] * shape[1],))
    return scales.reshape(shape[:2])


def _output_error(errors: NDArray[np.float64], moments: NDArray[np.float64]) -> float:
    """Squared error of the outputs, for errors of the weight of shape (g, m, K)."""
    return float(np.sum((errors @ moments) * errors))


def _checked(codes: NDArray[np.generic], params: QuantParams, weight: str) -> NDArray[np.float32]:
    values = dequantize(codes, params)
    if not np.array_equal(quantize(values, params), codes):
        raise InternalError(f"the codes of {weight!r} are not what their values are quantized to")
    return values


def partners_of(
    node: NodeProto, shape: tuple[int, ...], params: QuantParams, target: Target
) -> NDArray[np.intp] | None:
    """For each column the one that the kernel adds it to in 16 bits, -1 for none; None where that cannot overflow."""
    depthwise = node.op_type == "Conv" and shape[1] == 1 and attribute(node, "group", 1) == shape[0]
    if target.guard is WeightGuard.NONE or params.spec.qtype.name != "int8" or depthwise:
        return None
    order = walked(node, shape)
    in_taps = node.op_type == "Conv" and target.guard is WeightGuard.TAP_PAIR_SUM
    rows = order.reshape(-1, shape[1]) if in_taps else order[None]
    even = rows.shape[1] - rows.shape[1] % 2
    first, second = rows[:, 0:even:2], rows[:, 1:even:2]
    partner = np.full(order.size, -1, np.intp)
    partner[first], partner[second] = second, first
    return partner
