"""Ranges of a model that was trained with Q/DQ pairs (quantization-aware training)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from onnxq.calibration.methods import Method
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.solve import QParamsTable
from onnxq.calibration.tensorrt_cache import TensorRTCache
from onnxq.data.batches import Batches
from onnxq.errors import ConfigError, DataError, InternalError
from onnxq.graph.model import ModelSource, load_graph, quantized_nodes
from onnxq.passes.strip.strip_pairs import has_trained_pairs
from onnxq.pipeline.stages import Known, Prepared, ProgressCallback, no_stats, observe, read_through
from onnxq.planning.plan import Role
from onnxq.report.build import TRAINING
from onnxq.wording.plural import counted


def known_from_training(  # noqa: PLR0913, PLR0917 - the parts of one run
    prepared: Prepared,
    data: Any,
    batches: Batches,
    method: Method,
    options: CollectOptions,
    progress: ProgressCallback | None,
) -> Known:
    """The ranges of a model that was trained with pairs: only what no pair says is calibrated.

    Raises:
        DataError: something has to be calibrated, and there is no data.
    """
    if prepared.trained is None:
        raise InternalError("the model was not trained with pairs")
    missing = prepared.trained.missing
    if not missing:
        read_through(batches)
        return Known(no_stats(prepared), {}, TRAINING)
    if data is None:
        raise DataError(
            f"the training's pairs leave {counted(len(missing), 'tensor')} open that {prepared.plan.target} quantizes, "
            f"first {missing[0]!r}",
            hint="pass data= (--data) to calibrate them, or keep the nodes that read them in float: exclude=(...) "
            "(--exclude NAME)",
        )
    known = observe(prepared, batches, method, options, progress)
    return replace(known, label=f"{TRAINING}, {known.label}")


def brings_ranges(model: ModelSource) -> bool:
    """Whether a model has the pairs of a training.

    Raises:
        ModelError: it cannot be read.
    """
    graph = load_graph(model)
    return bool(quantized_nodes(graph)) and has_trained_pairs(graph)


def refuse_other_scales(prepared: Prepared, cache: TensorRTCache | None) -> None:
    """See that scales come from one place.

    Raises:
        ConfigError: the model brings its own, and a calibration cache is given.
    """
    if prepared.trained is not None and cache is not None:
        raise ConfigError(
            "the model was trained with Q/DQ pairs and brings its own scales, which a calibration cache would replace",
            hint="leave out tensorrt_cache= (--calibration-cache)",
        )


def widened(prepared: Prepared, qparams: QParamsTable) -> tuple[str, ...]:
    """A note where weights did not keep the training's scale, because the target's kernels would overflow with it."""
    if prepared.trained is None:
        return ()
    kept = prepared.trained.params
    names = [
        key
        for key, tensor in prepared.plan.tensors.items()
        if tensor.role is Role.WEIGHT and key in kept and not np.array_equal(qparams[key].scale, kept[key].scale)
    ]
    if not names:
        return ()
    return (
        f"{counted(len(names), 'weight')}, first {names[0]!r}, got larger scales than in training: with its codes the "
        f"kernels of {prepared.plan.target} would overflow",
    )
