"""From a model to a TensorRT engine file: `onnxq.build_engine` and `onnxq engine`.

The engine appears whole or not at all. TensorRT-RTX builds ahead of time on a machine without a GPU; TensorRT proper
builds for the GPU it runs on.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxq.data.images import noted_size
from onnxq.data.synthetic import synthetic_batches
from onnxq.errors import ConfigError, ModelError
from onnxq.graph.model import ModelSource, get_metadata, load_graph
from onnxq.graph.saving import check_output
from onnxq.graph.view import Graph
from onnxq.keywords import takes
from onnxq.modes.recorded_options import recorded_image_size
from onnxq.passes.adapt.settle_types import runnable
from onnxq.pipeline.arguments import check_output_is_no_input
from onnxq.pipeline.reading import Reading, ReadingKeywords
from onnxq.verification.engines import tensorrt
from onnxq.verification.engines.result import EngineReport
from onnxq.verification.engines.tensorrt_profiles import (
    Shape,
    ShapeRange,
    completed,
    dynamic_inputs,
    given_ranges,
    one_sided,
    shape_ranges,
    untold_inputs,
)
from onnxq.verification.lint_tensorrt import lint_tensorrt
from onnxq.wording.plural import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """An engine that was built.

    Attributes:
        path: Its file.
        engine: The package that built it: "tensorrt" or "tensorrt_rtx".
        version: That package's version.
        size_bytes: Size of the engine.
        seconds: Time that parsing and building took.
        profile: For each dynamic input the smallest, usual and largest shape that the engine takes.
        notes: What was decided for the user, in plain sentences.
    """

    path: Path
    engine: str
    version: str
    size_bytes: int
    seconds: float
    profile: Mapping[str, ShapeRange]
    notes: tuple[str, ...] = ()


@takes(ReadingKeywords)
def build_engine(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    output: str | os.PathLike[str],
    *,
    data: Any = None,
    min_shapes: Shapes | None = None,
    opt_shapes: Shapes | None = None,
    max_shapes: Shapes | None = None,
    fp16: bool = False,
    workspace_bytes: int | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    force: bool = False,
    **options: Unpack[ReadingKeywords],
) -> EngineResult:
    """Build a TensorRT engine with the TensorRT that is installed.

    Args:
        model: Path, bytes or ModelProto of a quantized (or float) model.
        output: Where to write the engine.
        data: Inputs whose shapes the engine has to take, as for `quantize`; only their shapes matter.
        min_shapes: Smallest shape of an input with open sizes, by name; before `data`.
        opt_shapes: The shape that the engine is tuned for.
        max_shapes: Largest shape.
        fp16: Let TensorRT compute in half precision what is not quantized. Only TensorRT up to version 10 takes this;
            later versions and TensorRT-RTX follow the types in the model.
        workspace_bytes: Most scratch memory that one layer may use on the GPU.
        timing_cache: File of kernel times to read, if it is there, and to write.
        force: Overwrite an existing output.
        options: As for `quantize`: batch_size, limit, layout, images.

    Raises:
        ModelError: the model cannot be read, or TensorRT refuses it.
        DataError: the data does not fit.
        ConfigError: shapes do not fit, TensorRT does not take an option, or the output exists.
        EngineMissingError: TensorRT is not installed.
    """
    path = Path(output)
    check_output_is_no_input(output, model=model, data=data, timing_cache=timing_cache)
    check_output(path, force=force, model=False)
    graph = load_graph(model)
    given = [
        _named(graph, shapes or {}, name)
        for name, shapes in (("min_shapes", min_shapes), ("opt_shapes", opt_shapes), ("max_shapes", max_shapes))
    ]
    asked = given_ranges(graph, *given)
    missing = [name for name in dynamic_inputs(graph) if name not in asked]
    profile: Mapping[str, ShapeRange] = asked
    notes: tuple[str, ...] = ()
    if missing:
        reading = Reading.of(options)
        known_size = None if data is not None or reading.images is not None else _image_size(graph)
        if known_size is None:
            batches = reading.open(graph, data)
        else:
            batches = synthetic_batches(runnable(graph), image_size=known_size)
        feeds = batches if data is not None else itertools.islice(batches, 1)
        seen = [{name: tuple(np.shape(value)) for name, value in feed.items()} for feed in feeds]
        profile = completed(graph, asked, shape_ranges(graph, seen))
        untold = untold_inputs(graph, asked)
        notes = batches.notes if data is not None else _untold_note(profile, untold, known_size) if untold else ()
    if single := one_sided(asked, *given):
        notes = (*notes, _one_sided_note(asked, single))
    building = tensorrt.BuildOptions(
        fp16=fp16,
        workspace_bytes=workspace_bytes,
        timing_cache=None if timing_cache is None else Path(timing_cache).absolute(),
    )
    draft = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        report = tensorrt.build_engine(
            graph.to_model(), profile, options=building, base_dir=graph.base_dir, engine_path=draft
        )
        if not report.accepted:
            raise _refusal(graph, report)
        _into_place(draft, path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return EngineResult(
        path=path,
        engine=report.engine,
        version=report.version,
        size_bytes=report.size_bytes,
        seconds=report.build_seconds,
        profile=profile,
        notes=notes,
    )


def _into_place(draft: Path, path: Path) -> None:
    try:
        draft.replace(path)
    except OSError as error:
        raise ConfigError(
            f"the engine cannot be written: {error.strerror or error}",
            where=f"output {str(path)!r}",
            hint="choose another place with output= (-o)",
        ) from error


def _image_size(graph: Graph) -> tuple[int, int] | None:
    """(height, width) that the model says of its images: those it was calibrated on, or was exported for."""
    metadata = get_metadata(graph.frame)
    return recorded_image_size(metadata) or noted_size(metadata)


def _named(graph: Graph, shapes: Shapes, argument: str) -> dict[str, Shape]:
    """Shapes by input name; the empty name stands for the only input."""
    try:
        named = {name: tuple(operator.index(size) for size in shape) for name, shape in shapes.items()}
    except (AttributeError, TypeError) as error:
        example = {next(iter(graph.inputs), "x"): [1, 3, 224, 224]}
        raise ConfigError(
            f"{argument} is {shapes!r}, expected a dict of shapes by the name of their input",
            hint=f"pass {argument}={example} (--{argument[:-1].replace('_', '-')})",
        ) from error
    if "" in named:
        if len(graph.inputs) != 1:
            raise ConfigError(
                f"a shape needs the name of its input: there are {', '.join(map(repr, graph.inputs))}",
                hint="name the input in min_shapes=, opt_shapes= and max_shapes= (--opt-shape NAME:1x3x224x224)",
            )
        named[next(iter(graph.inputs))] = named.pop("")
    return named


def _untold_note(
    profile: Mapping[str, ShapeRange], inputs: Sequence[str], known_size: tuple[int, int] | None
) -> tuple[str, ...]:
    """What was chosen for inputs that nothing was said of."""
    single = all(profile[name][0] == profile[name][2] for name in inputs)
    sizes = f"one size only, {_sizes(profile, inputs)}" if single else _sizes(profile, inputs)
    taken = known_size is not None and any(known_size in itertools.pairwise(usual) for _, usual, _ in profile.values())
    source = "; height and width are those that the model's metadata names" if taken else ""
    return (
        f"The engine takes {sizes}: the model leaves {'it' if single else 'sizes'} open, and nothing said what the "
        f"engine will see{source}."
        " Pass data=... (--data SRC), or min_shapes=, opt_shapes= and max_shapes= (--min-shape, --opt-shape and "
        "--max-shape).",
    )


def _one_sided_note(asked: Mapping[str, ShapeRange], inputs: Sequence[str]) -> str:
    return (
        f"The engine takes one size only, {_sizes(asked, inputs)}: the smallest or the largest shape alone was given. "
        "A range has both, min_shapes= and max_shapes= (--min-shape and --max-shape)."
    )


def _sizes(profile: Mapping[str, ShapeRange], inputs: Sequence[str]) -> str:
    ends = {name: ["x".join(map(str, shape)) for shape in profile[name][::2]] for name in inputs}
    return ", ".join(f"{name}:{' to '.join(dict.fromkeys(both))}" for name, both in ends.items())


def _refusal(graph: Graph, report: EngineReport) -> ModelError:
    broken = lint_tensorrt(graph)
    hint = "see whether the float model builds: onnxq.verify(float, model, target='tensorrt') (onnxq verify)"
    if dynamic_inputs(graph):
        hint += ", and whether the model takes these sizes: opt_shapes= and others (--opt-shape) give it other ones"
    if broken:
        first = broken[0]
        hint = (
            f"{first.hint}; {counted(len(broken), 'place breaks', 'places break')} TensorRT's rules, "
            f"first {first.node!r} ({first.rule}): {first.message}"
        )
    return ModelError(f"{report.engine} {report.version} refuses it: {'; '.join(report.problems[:3])}", hint=hint)
