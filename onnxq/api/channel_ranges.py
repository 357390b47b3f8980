"""Per-channel ranges of a model's activations, for looking at it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from onnxq.calibration.observers import ChannelTable, observe_channels
from onnxq.calibration.runner import CollectOptions
from onnxq.data.images import ImageOptions
from onnxq.data.inputs import Layout
from onnxq.errors import ConfigError
from onnxq.graph.model import (
    ModelSource,
)
from onnxq.passes.settle_types import runnable
from onnxq.pipeline.stages import open_batches, prepare
from onnxq.planning.options import PlanOptions
from onnxq.targets import ORT_CPU, TargetSource


def channel_ranges(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    data: Any = None,
    *,
    target: TargetSource = ORT_CPU,
    axis: int = 1,
    tensors: Sequence[str] | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    layout: Layout | None = None,
    images: ImageOptions | str | None = None,
    threads: int | None = None,
) -> ChannelTable:
    """Smallest and largest value of each channel of activations, for looking at a model. Arguments as for `quantize`.

    Args:
        model: As for `quantize`, and so are all arguments that are not listed here.
        data: Calibration data, all of which is used.
        target: The activations that this target quantizes are looked at.
        axis: Channel axis, negative from the end.
        tensors: Names of those to look at; None looks at all.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        DataError: the data does not fit the model, is empty, or holds NaN/Inf.
        ConfigError: a tensor is not quantized, or has no such axis.
    """
    prepared = prepare(model, target, PlanOptions())
    known = prepared.plan.observed()
    for name in tensors or ():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ConfigError(
                f"tensor {name!r} is none of those that {prepared.plan.target} quantizes",
                hint="tensors= takes names of onnxq.plan(...).observed()"
                + "".join(f"; did you mean {other!r}?" for other in close),
            )
    batches = open_batches(prepared.source, data, batch_size=batch_size, limit=limit, layout=layout, images=images)
    return observe_channels(
        runnable(prepared.graph),
        known if tensors is None else tensors,
        batches,
        digest=prepared.plan.digest,
        axis=axis,
        options=CollectOptions(threads=threads),
    )
