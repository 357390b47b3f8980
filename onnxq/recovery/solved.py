"""What the steps of recovery work on: a model whose parameters are known, and samples to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxq.calibration.progress import Callback
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable
from onnxq.data.batches import Batch
from onnxq.graph.view import Graph
from onnxq.planning.plan import QuantPlan
from onnxq.targets.schema import Target


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A model whose parameters are known.

    Attributes:
        graph: The float graph of the plan; no step changes it.
        plan: What will be quantized.
        qparams: The parameters; what has none counts as not rounded.
        samples: Some batches of calibration data; 32 samples are plenty.
        options: How to run them.
        target: The table the plan was made with: its guard against overflow holds for new weights too.
        progress: Told what is going on.
    """

    graph: Graph
    plan: QuantPlan
    qparams: QParamsTable
    samples: Sequence[Batch]
    options: CollectOptions
    target: Target
    progress: Callback | None = None
