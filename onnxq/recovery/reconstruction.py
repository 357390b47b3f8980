"""Layer after layer, weights and biases fitted to the rounded inputs that the layer will see.

A layer computes y = W x + b. In the quantized model its input is x', with the errors of everything before it, and with
weights rounded to W' it computes W' x' + b'. Here the float graph and its rounded form are walked side by side, and at
each layer

    W' = round((W + A) / s),    A = the linear fit of W (x - x') on x'    (`least_squares`: what holds on other samples)
    b' = b - E[W' x' - y]                                           over every position of the samples

before the walk goes on with what the layer now gives. Where taking the mean away makes it worse behind the layer's
activation, the bias takes what counts there (`passed`). So each layer makes up for what went wrong before it, as far as
its inputs tell: large areas of one value, all rounded in one direction, are the plainest case. Means alone are the
empirical bias correction of arXiv 1906.04721, section 4.2; fitting to the inputs of the quantized network is that of
arXiv 2504.02692, there within second-order rounding.

In front of a mean over places s brings the layer's outputs back to the spread that they had (`spread`), else it is 1.

With `rounding`, round() is second-order rounding on the moments of x'. It has to come behind the fit: weights that lie
on codes already would be rounded back to them, and steps of less than half a code be lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxq.calibration.progress import report_to
from onnxq.calibration.solve import constant_values
from onnxq.graph.float_types import float_tensor
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import fake_quantize, quantize
from onnxq.numerics.pair_guard import within_pair_sums
from onnxq.passes.adapt.settle_types import runnable
from onnxq.recovery.bias_correction import correct_biases
from onnxq.recovery.least_squares import fitted
from onnxq.recovery.moments import Moments
from onnxq.recovery.odds import best_for_odds, softmax_behind
from onnxq.recovery.passed import activation_behind, best_shift
from onnxq.recovery.patches import has_patches, sampled_patches, weight_from_rows, weight_rows
from onnxq.recovery.shadow import rounded_form
from onnxq.recovery.sites import MOST_WEIGHTS_BYTES, Site, sites_of, weight_bytes
from onnxq.recovery.solved import Solved
from onnxq.recovery.spread import averaged_later, spread_left
from onnxq.recovery.walk import NotKeptError, Walk
from onnxq.recovery.weight_rounding import (
    InputMoments,
    can_be_rounded,
    on_codes,
    partners_of,
    round_weights,
    scales_of_rows,
)

STAGE = "reconstructing layers"

KEPT_BYTES = 2**29
"""What both walks may keep between two layers, 512 MiB; above it every other batch is let go, down to one."""
PEAK_BYTES = 2**30
"""What they may keep while a layer is looked at, its inputs and outputs; before it would be more, likewise."""

_MOST_ROWS, _LEAST_ROWS = 2048, 512
_ELEMENTS = 2**20
"""Elements of the patches that a layer is fitted on, between the least and the most rows."""

_QUIET = 1e-3
"""Layers whose inputs bring less noise than this share of their outputs' variance (30 dB) keep their weights."""

_MOST_COLUMNS = 256
"""Longer patches are fitted by the mean over the taps of the kernel, one unknown for each channel; layers with more
channels than this keep their weights: their errors average out, and the fit would cost more than it gives."""


def reconstruct(solved: Solved, chosen: Graph, *, rounding: bool = False) -> Graph:
    """A graph with other weights and biases, for the same parameters.

    Args:
        solved: The model; no two nodes of its graph share a bias.
        chosen: The graph whose weights will be quantized, which earlier steps may have changed; it is not changed.
        rounding: Whether the codes of the fitted weights are chosen by second-order rounding, on the rounded inputs.

    Raises:
        DataError: onnxruntime fails on the samples.
        ModelError: onnxruntime cannot load a part of a graph, or a weight holds NaN or Inf.
    """
    graph = solved.graph
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    sites = sorted(sites_of(graph, solved.plan), key=lambda site: order[site.node])
    if not solved.samples or not sites:
        return chosen
    if weight_bytes(graph, solved.plan) <= MOST_WEIGHTS_BYTES:
        with suppress(NotKeptError):
            return _Reconstruction(solved, chosen, rounding=rounding).run(sites)
    if rounding:
        chosen = round_weights(solved, chosen, centred=True)
    return correct_biases(graph, solved.plan, solved.qparams, solved.samples, solved.options, chosen=chosen)


class _Reconstruction:
    def __init__(self, solved: Solved, start: Graph, *, rounding: bool) -> None:
        self._rounding, self._progress = rounding, solved.progress
        self._graph, self._plan, self._qparams = solved.graph, solved.plan, solved.qparams
        self._target, self._options = solved.target, solved.options
        self._result, self._averaged = start.copy(), averaged_later(solved.graph)
        rounded = rounded_form(start, solved.plan, solved.qparams)
        rounded.sort()
        self._names = {node.name: list(node.input) for node in rounded.nodes}
        self._outputs = {node.name: list(node.output) for node in rounded.nodes}
        self._float = Walk(runnable(solved.graph), solved.samples, solved.options, self._make_room)
        self._rounded = Walk(runnable(rounded), solved.samples, solved.options, self._make_room)

    def run(self, sites: Sequence[Site]) -> Graph:
        with self._float, self._rounded:
            self._fit(sites)
        return self._result

    def _fit(self, sites: Sequence[Site]) -> None:
        for index, site in enumerate(sites):
            report_to(self._progress, STAGE, index, len(sites), unit="layer")
            self._choose_weight(site)
            if site.bias is not None:
                self._fit_bias(site, site.bias)
            if self._kept_bytes > KEPT_BYTES and len(self._float.samples) > 1:
                self._thin_out()

    @property
    def _kept_bytes(self) -> int:
        return self._float.size_bytes + self._rounded.size_bytes

    def _thin_out(self) -> None:
        self._float.thin_out()
        self._rounded.thin_out()

    def _make_room(self, batch_bytes: int) -> None:
        """Let both walks go of batches while each of them will soon keep so much more of every batch."""
        while len(self._float.samples) > 1:
            if self._kept_bytes + 2 * batch_bytes * len(self._float.samples) <= PEAK_BYTES:
                return
            self._thin_out()

    def _advanced(self, rounded: str, plain: str) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        """A tensor of the rounded graph and one of the float graph, on the same batches."""
        found = self._rounded.advance(rounded)
        before = self._rounded.halvings
        wanted = self._float.advance(plain)
        return found[:: 2 ** (self._rounded.halvings - before)], wanted

    def _choose_weight(self, site: Site) -> None:
        new = self._fitted_weight(site) if self._can_be_fitted(site) else None
        codes = self._on_codes(site, new) if self._rounding else None
        new = new if codes is None else codes
        if new is None:
            return
        self._result.add_initializer(site.weight, float_tensor(new, TensorProto.FLOAT, site.weight))
        name, values = self._names[site.node][1], fake_quantize(new, self._qparams[site.weight])
        self._rounded.graph.add_initializer(name, float_tensor(values, TensorProto.FLOAT, name))

    def _can_be_fitted(self, site: Site) -> bool:
        node, weight = self._graph.node(site.node), self._graph.initializers[site.weight]
        plain = weight.data_type == TensorProto.FLOAT and site.weight in self._qparams
        alone = len(self._graph.uses(site.weight)) == 1 and node.input[1] == site.weight
        if not (plain and alone and has_patches(node, len(weight.dims))):
            return False
        size = int(weight_rows(node, np.empty(tuple(weight.dims), np.bool_)).shape[-1])
        return size // _taps(node.op_type, size, weight.dims) <= _MOST_COLUMNS

    def _on_codes(self, site: Site, wanted: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """The codes, as values, that give on rounded inputs what `wanted` gives, or for None what the weight does."""
        node = self._graph.node(site.node)
        if site.weight not in self._qparams or node.input[1] != site.weight or not can_be_rounded(self._graph, site):
            return None
        weight = constant_values(self._result, site.weight) if wanted is None else wanted
        values = self._rounded.advance(self._names[site.node][0])
        total, moments = sum(batch.samples for batch in self._rounded.samples), Moments()
        for batch, value in zip(self._rounded.samples, values, strict=True):
            moments.add_sampled(node, value, weight.shape, batch.samples / total)
        inputs = InputMoments(moments, centred=site.bias is not None, left=self._left_by(site, weight))
        return on_codes(node, weight, inputs, self._qparams[site.weight], self._target)

    def _left_by(self, site: Site, weight: NDArray[np.floating]) -> float:
        """What `weight` leaves of the error at the outputs before it is rounded: a variance, summed over them."""
        node = self._graph.node(site.node)
        data, wanted = self._patches(site)
        rows, own = (
            weight_rows(node, w.astype(np.float64)).transpose(0, 2, 1)
            for w in (constant_values(self._graph, site.weight), weight)
        )
        errors = wanted @ rows - data @ own
        return _power(errors, centred=site.bias is not None)

    def _fitted_weight(self, site: Site) -> NDArray[np.float32] | None:
        """The weight with the fit of the errors in it; None where nothing is to be had."""
        node = self._graph.node(site.node)
        data, wanted = self._patches(site)
        if not (np.isfinite(data).all() and np.isfinite(wanted).all()):
            return None
        rows = weight_rows(node, constant_values(self._graph, site.weight).astype(np.float64))
        old = constant_values(self._result, site.weight)
        old_rows = weight_rows(node, old.astype(np.float64)).transpose(0, 2, 1)
        outputs = wanted @ rows.transpose(0, 2, 1)
        errors, centred = outputs - data @ old_rows, site.bias is not None
        if _power(errors, centred=centred) < _QUIET * _power(outputs, centred=True):
            return None
        step = _fitted_rows(node.op_type, data, errors, old.shape, centred=centred)
        if step is None:
            return None
        new_rows = old_rows + step.transpose(0, 2, 1)
        if site.node in self._averaged:
            new_rows /= spread_left(data @ new_rows, outputs, centred=centred)
        new = weight_from_rows(node, new_rows.transpose(0, 2, 1), old.shape).astype(np.float32)
        new = self._guarded(site, new)
        params = self._qparams[site.weight]
        codes = [weight_rows(node, fake_quantize(w, params).astype(np.float64)) for w in (old, new)]
        before, after = (_power(data @ w.transpose(0, 2, 1) - outputs, centred=centred) for w in codes)
        return new if after < before else None

    def _patches(self, site: Site) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Patches of the rounded and of the float input, at the same places; float64, shape (g, n, K)."""
        node = self._graph.node(site.node)
        shape = tuple(int(d) for d in self._graph.initializers[site.weight].dims)
        groups, _, size = weight_rows(node, np.empty(shape, np.bool_)).shape
        rows = min(_MOST_ROWS, max(_LEAST_ROWS, _ELEMENTS // (groups * size)))
        inputs = self._advanced(self._names[site.node][0], node.input[0])
        total = sum(batch.samples for batch in self._float.samples)
        found = []
        for of_batches in inputs:
            rng, parts = np.random.default_rng(0), []
            for batch, values in zip(self._float.samples, of_batches, strict=True):
                parts.append(sampled_patches(node, values, shape, -(-rows * batch.samples // total), rng))
            found.append(np.concatenate(parts, axis=1))
        return found[0], found[1]

    def _guarded(self, site: Site, new: NDArray[np.float32]) -> NDArray[np.float32]:
        """`new`, its pairs moved back to where the target's kernels do not overflow with them.

        Nearly every channel that the guard widened has a pair right at the limit: to refuse what goes beyond it would
        be to refuse the fit.
        """
        node, params = self._graph.node(site.node), self._qparams[site.weight]
        partner = partners_of(node, new.shape, params, self._target)
        if partner is None:
            return new
        rows = weight_rows(node, new.astype(np.float64))
        codes = weight_rows(node, quantize(new, params).astype(np.int16))
        scales = scales_of_rows(params, rows.shape)[..., None]
        held = within_pair_sums(rows / scales, codes, partner)
        return weight_from_rows(node, np.where(held == codes, rows, held * scales), new.shape).astype(np.float32)

    def _fit_bias(self, site: Site, bias: str) -> None:
        """Take the mean shift of the node's output off its bias, and off what the walk goes on with."""
        output = self._outputs[site.last][0]
        plain = self._graph.node(site.last).output[0]
        found, wanted = self._advanced(output, plain)
        channel = found[0].ndim - 1 if self._graph.node(site.node).op_type == "MatMul" else 1
        others = tuple(axis for axis in range(found[0].ndim) if axis != channel)
        total = sum(batch.samples for batch in self._float.samples)
        shift = np.zeros(found[0].shape[channel])
        for batch, got, want in zip(self._float.samples, found, wanted, strict=True):
            gap = np.subtract(got, want, dtype=np.float32)
            shift += gap.mean(axis=others, dtype=np.float64) * (batch.samples / total)
        if not np.isfinite(shift).all():
            return
        passed = activation_behind(self._graph, plain, self._options)
        if softmax_behind(self._graph, plain, channel, found[0].ndim):
            shift = best_for_odds(found, wanted, shift, channel)
        elif passed is not None:
            along = [-1 if axis == channel else 1 for axis in range(found[0].ndim)]
            shift = best_shift(passed, found, wanted, shift.reshape(along)).reshape(-1)
        old = site.stored(constant_values(self._result, bias), self._qparams)
        # One number for all columns becomes a number for each.
        shape = old.shape if old.size == shift.size else (*old.shape[:-1], shift.size)
        start = np.broadcast_to(old.astype(np.float64), shape)
        value = site.stored((start - shift.reshape(shape)).astype(np.float32), self._qparams)
        self._result.add_initializer(bias, float_tensor(value, self._result.initializers[bias].data_type, bias))
        along = [-1 if axis == channel else 1 for axis in range(found[0].ndim)]
        taken = (shift if site.codes is None else start - value).reshape(along)
        self._rounded.replace(output, [_shifted(got, taken) for got in found])


def _power(values: NDArray[np.float64], *, centred: bool) -> float:
    """Mean square over the rows of (g, n, m), or variance where a bias takes the mean; summed over all outputs."""
    return float((values.var(axis=1) if centred else np.square(values).mean(axis=1)).sum())


def _fitted_rows(
    op: str, data: NDArray[np.float64], errors: NDArray[np.float64], shape: tuple[int, ...], *, centred: bool
) -> NDArray[np.float64] | None:
    """What to add to the weight, (g, m, K)."""
    groups, rows, size = data.shape
    taps = _taps(op, size, shape)
    if taps == 1:
        return fitted(data, errors, centred=centred)
    found = fitted(data.reshape(groups, rows, size // taps, taps).mean(axis=-1), errors, centred=centred)
    return None if found is None else np.repeat(found / taps, taps, axis=-1)


def _taps(op: str, size: int, shape: Sequence[int]) -> int:
    """Columns of a patch that share an unknown."""
    return math.prod(shape[2:]) if op == "Conv" and size > _MOST_COLUMNS else 1


def _shifted(values: NDArray[Any], shift: NDArray[np.float64]) -> NDArray[Any]:
    """`values` less `shift`, in their own memory where they may be written to: those of all batches are many."""
    out = values if values.flags.writeable else np.empty_like(values)
    np.subtract(values, shift, out=out, casting="same_kind")
    return out
