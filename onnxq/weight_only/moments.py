"""What products multiply their weights with, for the methods that look at data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.graph.view import Graph
from onnxq.recovery.moments import gather_moments
from onnxq.weight_only.planning import WeightPlan
from onnxq.weight_only.sites import PRODUCT

Moments = Callable[[str], NDArray[np.float64] | None]
"""E[x x^T] of a product's input, (K, K), by the node's name; None where nothing was seen."""


def moments_in_order(graph: Graph, planned: WeightPlan, samples: Sequence[Batch], options: CollectOptions) -> Moments:
    """Moments gathered as they are asked for, in the order of the plan, so that those of a few nodes are kept at once.

    Args:
        graph: The float graph.
        planned: The plan.
        samples: What to run.
        options: How to run it.
    """
    nodes = [sites[0].node for sites in planned.sites.values() if sites[0].kind == PRODUCT and not sites[0].transpose]
    parts = gather_moments(graph, nodes, samples, options)
    known: dict[str, NDArray[np.float64] | None] = {}
    left = set(nodes)

    def find(node: str) -> NDArray[np.float64] | None:
        while node in left and node not in known:
            part = next(parts)
            left.difference_update(known)
            known.clear()
            for name, moments in part.items():
                matrix = moments.matrix(centred=False)
                known[name] = None if matrix is None else matrix[0]
        return known.get(node)

    return find
