"""Fitted layers in front of a mean over places: their outputs get back the spread that the fit takes.

A fit to inputs with errors gives too little of what it fits: the least square is that of an output drawn to its mean,

    y' = s y + noise,   s < 1        (attenuation, regression dilution: Fuller, Measurement Error Models, 1987, ch. 1)

Where a classifier takes the mean over all places of an image, noise averages out and s does not: a few percent of it
are then more than all noise. There the weight is divided by s, one number for the layer: one for each channel would
follow the noise of quiet channels. Where nothing is averaged, as on the way to the steps of a line or to boxes, the
least square is what counts and stays.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.graph.view import STANDARD_DOMAINS, Graph, attribute

_MEANS = frozenset({"GlobalAveragePool", "ReduceMean"})
_MANY_PLACES = 16
"""A pool over as many leaves a quarter of the noise."""
_MOST_DRAWN = 0.5
"""Outputs that a fit draws nearer to their mean than by this share are mostly noise and stay as the fit leaves them."""


def averaged_later(graph: Graph) -> frozenset[str]:
    """Names of the nodes from which every way to an output of the graph leads through a mean over places."""
    direct: set[str] = set()
    open_ = list(graph.outputs)
    while open_:
        node = graph.producer(open_.pop())
        if node is not None and node.name not in direct and not _is_mean(node):
            direct.add(node.name)
            open_ += [name for name in node.input if name]
    return frozenset(node.name for node in graph.nodes if node.name not in direct)


def _is_mean(node: NodeProto) -> bool:
    if node.domain not in STANDARD_DOMAINS:
        return False
    wide = node.op_type == "AveragePool" and math.prod(attribute(node, "kernel_shape", ())) >= _MANY_PLACES
    return wide or node.op_type in _MEANS


def spread_left(got: NDArray[np.float64], wanted: NDArray[np.float64], *, centred: bool) -> float:
    """s, the slope of what a layer gives on what it should.

    Args:
        got: float64, shape (g, n, m): outputs at n places, in each of g groups.
        wanted: The same without errors.
        centred: Whether a bias takes the means.

    Returns:
        One number for all outputs; 1 where it says nothing.
    """
    if centred:
        wanted = wanted - wanted.mean(axis=1, keepdims=True)
    power = float(np.square(wanted).sum())
    slope = float((got * wanted).sum()) / power if power > 0.0 else 1.0
    return slope if slope > 1.0 - _MOST_DRAWN else 1.0
