"""Per-channel ranges of a model's activations, for looking at it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxq.calibration.observers import ChannelTable, observe_channels
from onnxq.calibration.runner import CollectOptions
from onnxq.errors import ConfigError
from onnxq.graph.model import (
    ModelSource,
)
from onnxq.keywords import takes
from onnxq.passes.adapt.settle_types import runnable
from onnxq.pipeline.reading import Reading, ReadingKeywords
from onnxq.pipeline.stages import prepare
from onnxq.planning.options import PlanOptions
from onnxq.targets import ORT_CPU, TargetSource

if TYPE_CHECKING:
    from typing_extensions import Unpack


@takes(ReadingKeywords)
def channel_ranges(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    data: Any = None,
    *,
    target: TargetSource = ORT_CPU,
    axis: int = 1,
    tensors: Sequence[str] | None = None,
    threads: int | None = None,
    **options: Unpack[ReadingKeywords],
) -> ChannelTable:
    """Smallest and largest value of each channel of activations, for looking at a model.

    Args:
        model: As for `quantize`.
        data: Calibration data, all of which is used.
        target: The activations that this target quantizes are looked at.
        axis: Channel axis, negative from the end.
        tensors: Names of those to look at; None looks at all.
        threads: Threads for inference; None leaves it to onnxruntime.
        options: As for `quantize`: batch_size, limit, layout, images.

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
    batches = Reading.of(options).open(prepared.source, data)
    return observe_channels(
        runnable(prepared.graph),
        known if tensors is None else tensors,
        batches,
        digest=prepared.plan.digest,
        axis=axis,
        options=CollectOptions(threads=threads),
    )
