"""Who times models: the engine of a target, where it runs on this machine.

OpenVINO computes what is left in float in a type of its own choice, bfloat16 on CPUs with AMX and float32 on others. So
it does for whoever loads the model without options, and so models are timed, unless it refuses one of them (V11).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnxq.errors import ModelError
from onnxq.graph.view import Graph
from onnxq.passes.adapt.settle_types import runnable
from onnxq.targets import ORT_CPU, TARGETS, resolve_target
from onnxq.targets.schema import Engine, Target
from onnxq.tuning.race import Feed
from onnxq.verification.engines import openvino
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.openvino_model import FLOAT32, OpenvinoModel, own_precision

Model = Callable[[Feed], Mapping[str, NDArray[Any]]]
"""A model, ready to run: feed in, outputs by name out."""

_FLOATS = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Timer:
    """An engine on this machine.

    Attributes:
        title: What it is called in sentences, with what else matters for its times.
        load: The model of a graph on so many threads; None lets the engine choose. Raises a ModelError where the engine
            refuses it.
    """

    title: str
    load: Callable[[Graph, int | None], Model]


def timers_of(target: Target) -> tuple[Timer, ...]:
    """What times models for `target`: the first one is what its users have, the next ones take models that it refuses.

    Returns:
        Nothing where the target's engine does not run on this machine, or runs otherwise than on those it is for.
    """
    if target.engine is Engine.ONNXRUNTIME and _is_for_this_machine(target):
        return (ONNXRUNTIME,)
    if target.engine is Engine.OPENVINO and openvino.is_installed():
        return tuple(_openvino(precision) for precision in dict.fromkeys((own_precision(), FLOAT32)))
    return ()


def loaded(timers: Sequence[Timer], graphs: Sequence[Graph], threads: int | None) -> tuple[Timer, list[Model]]:
    """The first timer that takes all `graphs`, and their models.

    Raises:
        ModelError: there is none; what the last one says.
    """
    first, *others = timers
    try:
        return first, [first.load(graph, threads) for graph in graphs]
    except ModelError:
        if not others:
            raise
        return loaded(others, graphs, threads)


def _is_for_this_machine(target: Target) -> bool:
    """Whether a table of onnxruntime is for CPUs like this one; of a table of a user's own nobody else knows."""
    here = resolve_target(ORT_CPU)[0].name
    return target.name not in TARGETS or target.name.split("-")[:2] == here.split("-")[:2]


def _load_onnxruntime(graph: Graph, threads: int | None) -> OrtModel:
    graph = runnable(graph)
    return OrtModel(graph.to_model(), base_dir=graph.base_dir, threads=threads)


ONNXRUNTIME = Timer(title="onnxruntime", load=_load_onnxruntime)


def _openvino(precision: str) -> Timer:
    def load(graph: Graph, threads: int | None) -> OpenvinoModel:
        return OpenvinoModel(graph.to_model(), base_dir=graph.base_dir, threads=threads, precision=precision)

    return Timer(title=f"OpenVINO with floats in {_FLOATS.get(precision, precision)}", load=load)
