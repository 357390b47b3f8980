"""Whether the arguments that a user gives go together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxq.calibration.checkpoint import Checkpointing
from onnxq.calibration.methods import AUTO, MOVING_AVERAGE, Method
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.statistics.table import StatsTable
from onnxq.calibration.tensorrt_cache import TensorRTCache
from onnxq.data.description import bare
from onnxq.errors import ConfigError
from onnxq.graph.external_data import is_external, locate
from onnxq.graph.model import ModelSource, is_quantized, load_graph
from onnxq.graph.saving import data_file
from onnxq.graph.view import Graph
from onnxq.planning.plan import QuantPlan
from onnxq.recovery.registry import Recovery
from onnxq.wording.flags import flag_of


def check_overrides(plan: QuantPlan, method: Method, cache: TensorRTCache | None) -> None:
    """See that overrides of the method are about ranges that a method finds.

    Raises:
        ConfigError: the ranges come from a cache or from a moving average.
    """
    named = [name for name, tensor in plan.tensors.items() if tensor.method is not None]
    if named and (cache is not None or method.name == MOVING_AVERAGE):
        source = "a TensorRT calibration cache" if cache is not None else "a moving average"
        raise ConfigError(
            f"tensor {named[0]!r} has a method of its own, but the ranges come from {source}",
            hint="drop method from overrides= (--override, [[override]]), or give a range there",
        )


def check_sources(method: Method, stats: StatsTable | None, cache: TensorRTCache | None) -> None:
    """See that ranges come from one place, and from one that the method can use.

    Raises:
        ConfigError: they do not.
    """
    if cache is not None and stats is not None:
        raise ConfigError(
            "ranges can come from statistics or from a TensorRT calibration cache, not from both",
            hint="leave out stats= (--stats) or tensorrt_cache= (--calibration-cache)",
        )
    if method.name == MOVING_AVERAGE and stats is not None:
        raise ConfigError(
            "a moving average follows the batches in their order, which statistics do not keep",
            hint="leave stats= (--stats) out and pass data= (--data), or choose another method= (--method)",
        )


def check_method_is_used(method: Method, cache: TensorRTCache | None) -> None:
    """See that no method was chosen for ranges that are given.

    Raises:
        ConfigError: the ranges come from a cache, and a method was named.
    """
    if cache is not None and method.name != AUTO:
        raise ConfigError(
            f"the ranges come from a TensorRT calibration cache, so method={method.name!r} (--method {method.name}) "
            "has nothing to choose",
            hint="leave out method= (--method) or tensorrt_cache= (--calibration-cache)",
        )


def check_collects(options: CollectOptions, stats: StatsTable | None) -> None:
    """See that nothing was said of collecting statistics where none are collected.

    Args:
        options: How statistics would be collected.
        stats: Those that are given; None where the ranges come from a cache.

    Raises:
        ConfigError: something was said.
    """
    plain = CollectOptions()
    for name in ("nonfinite", "full_histogram", "memory_limit"):
        if getattr(options, name) != getattr(plain, name):
            source = "tensorrt_cache= (--calibration-cache)" if stats is None else "stats= (--stats)"
            raise ConfigError(
                f"{name}= ({flag_of(name)}) serves a calibration, and the ranges come from {source}",
                hint="leave out one of both",
            )


def check_order(first: Graph, others: Iterable[Graph]) -> None:
    """See that the float model and its quantized forms did not change places.

    A model with pairs of a training may stand for the float one; then what is compared with it is quantized as well.

    Raises:
        ConfigError: the first one is quantized, and another is not.
    """
    if is_quantized(first) and not all(map(is_quantized, others)):
        raise ConfigError(
            "the float model is quantized, and the quantized one is not",
            hint="the float model comes first: verify(float, quantized) (onnxq verify FLOAT QUANTIZED); so in evaluate",
        )


def checkpointing_from(given: Checkpointing | str | os.PathLike[str] | None, resume: bool) -> Checkpointing | None:
    """The checkpointing that `checkpoint=` and `resume=` ask for.

    Raises:
        ConfigError: there is no place to resume from.
    """
    if isinstance(given, Checkpointing):
        return replace(given, resume=given.resume or resume)
    if given is not None:
        return Checkpointing(path=Path(given), resume=resume)
    if resume:
        raise ConfigError(
            "there is no checkpoint to resume from", hint="name it with checkpoint= (--checkpoint) beside resume=True"
        )
    return None


def check_output_is_no_input(output: str | os.PathLike[str] | None, **inputs: Any) -> None:
    """Refuse to write over what is read, whatever `force` says.

    Args:
        output: Where to write.
        inputs: What is read, by the name of its argument; only paths count.

    Raises:
        ConfigError: they are one file.
    """
    for name, value in inputs.items():
        given = bare(value)
        if output is None or not isinstance(given, (str, os.PathLike)):
            continue
        if Path(output).resolve() == Path(given).resolve():
            raise ConfigError(
                f"this is the file given as {name}=, which is read",
                where=f"output {os.fspath(output)!r}",
                hint="choose another place with output= (-o)",
            )


def check_weights_stay(output: str | os.PathLike[str] | None, model: ModelSource) -> None:
    """Refuse to write weights over those that `model` reads, whatever `force` says.

    Args:
        output: Where a model is to be written.
        model: The model that is read; only a path has weights beside it.

    Raises:
        ConfigError: the file for large weights beside `output` is one of them.
        ModelError: it is there, and the model cannot be read.
    """
    if output is None or not isinstance(model, (str, os.PathLike)) or not (own := data_file(Path(output))).is_file():
        return
    graph = load_graph(model)
    external = [tensor for tensor in graph.initializers.values() if is_external(tensor)]
    if any(locate(tensor, graph.base_dir).path.resolve() == own.resolve() for tensor in external):
        raise ConfigError(
            f"the file {own.name!r} beside it holds weights of the model that is read",
            where=f"output {os.fspath(output)!r}",
            hint="choose another place with output= (-o)",
        )


def check_rewrites(recovery: Recovery, stats: StatsTable | None, cache: TensorRTCache | None, *, trained: bool) -> None:
    """See that ranges are not of another graph than the one that `recovery` makes.

    Raises:
        ConfigError: they are.
    """
    if not recovery.rewrites or (stats is None and cache is None and not trained):
        return
    given = (
        "statistics are" if stats is not None else "TensorRT's scales are" if cache is not None else "its scales are"
    )
    raise ConfigError(
        f"{given} those of the model as it came, and recover={recovery.names!r} (--recover {','.join(recovery.names)}) "
        "rescales it before calibration",
        hint="leave equalize, smooth and absorb out of recover= (--recover), or pass data= (--data) alone",
    )
