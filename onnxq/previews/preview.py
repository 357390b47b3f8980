"""`onnxq.preview`: what data would feed a model, before anything is quantized with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.batches import Batch
from onnxq.data.images import image_options
from onnxq.data.inputs import InputSpecs
from onnxq.errors import ConfigError
from onnxq.graph.model import ModelSource, load_graph
from onnxq.graph.view import Graph
from onnxq.inference.session import Session, make_session
from onnxq.keywords import takes
from onnxq.passes.adapt.settle_types import runnable
from onnxq.pipeline.facts import source_name
from onnxq.pipeline.reading import Reading, ReadingKeywords
from onnxq.previews.doubts import doubts_of_input
from onnxq.previews.figures import Figures
from onnxq.previews.preparations import NOTE as PREPARATIONS_NOTE
from onnxq.previews.preparations import Preparation, compared_preparations, doubt_of_preparation
from onnxq.previews.thumbnails import thumbnail
from onnxq.previews.views import InputView, OutputView
from onnxq.previews.wording import preview_text
from onnxq.verification.random_outputs import random_warnings
from onnxq.verification.same_outputs import SameOutputs
from onnxq.wording.brief import brief

if TYPE_CHECKING:
    from typing_extensions import Unpack

SAMPLES = 100
"""So many are looked at unless a limit says otherwise."""
_RUNS = 8
"""The float model is run on so many batches."""
_PICTURES = 12

SCHEMA = "onnxq.data/1"


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What data would feed a model.

    Attributes:
        source: What the data is called.
        samples: Samples that were looked at.
        batches: The feeds they came in.
        inputs: What each input would get.
        outputs: What the float model makes of the first feeds.
        preparations: For a classifier of pictures, what it makes of them prepared in the usual ways.
        warnings: What is probably wrong.
        notes: What a person should know.
        pictures: PNG files of the first samples of pictures.
    """

    source: str
    samples: int
    batches: int
    inputs: tuple[InputView, ...]
    outputs: tuple[OutputView, ...]
    preparations: tuple[Preparation, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    pictures: tuple[bytes, ...]

    def __repr__(self) -> str:
        given = ((self.samples, "sample"), (len(self.inputs), "input"), (len(self.warnings), "warning"))
        return brief(self, self.source, *given)

    def to_text(self) -> str:
        """Tables for a person, and what is probably wrong."""
        return preview_text(self)

    def to_json(self) -> str:
        """The preview as a JSON document, schema onnxq.data/1, without pictures."""
        document = {"schema": SCHEMA, **{k: v for k, v in asdict(self).items() if k != "pictures"}}
        return json.dumps(_plain(document), indent=2, allow_nan=False)

    def to_html(self) -> str:
        """The preview as a page of its own, with pictures."""
        from onnxq.previews.page import render_preview  # noqa: PLC0415 - only where a page is asked for

        return render_preview(self)


@takes(ReadingKeywords)
def preview(
    model: ModelSource,
    data: Any,
    *,
    keep: Callable[[Batch], None] | None = None,
    **options: Unpack[ReadingKeywords],
) -> Preview:
    """Read data as `quantize` would, and say what the model would get: shapes, ranges, and what is probably wrong.

    The first 100 samples are looked at, unless `limit` says otherwise.

    Args:
        model: The float model: path, bytes or ModelProto.
        data: As for `quantize`.
        keep: Called with each batch.
        options: As for `quantize`: batch_size, limit, layout, images.

    Raises:
        ModelError: the model cannot be read or run.
        DataError: the data does not fit the model, is empty, or holds NaN.
        ConfigError: an argument has an impossible value, or there is no data.
    """
    if data is None:
        raise ConfigError("there is no data to look at", hint="pass data= (SRC of onnxq data)")
    graph = load_graph(model)
    readable = runnable(graph)
    reading = Reading.of(options)
    batches = replace(reading, limit=reading.limit or SAMPLES).open(graph, data)
    inputs = InputSpecs.from_graph(readable)
    session = make_session(readable.to_model(), base_dir=readable.base_dir)
    figures = {name: Figures(spec=spec) for name, spec in inputs.items()}
    looked = _Looked(session, readable)
    samples = count = 0
    pictures: list[bytes] = []
    for batch in batches.stream():
        samples, count = samples + batch.samples, count + 1
        for name, array in batch.arrays.items():
            figures[name].add(array)
            if figures[name].is_image and array.size and len(pictures) < _PICTURES:
                pictures += [thumbnail(one, inputs[name].layout) for one in array[: _PICTURES - len(pictures)]]
        looked.run(batch)
        if keep is not None:
            keep(batch)
    preparations, untried = compared_preparations(session, inputs, data, image_options(reading.images), reading.layout)
    said = doubt_of_preparation(preparations)
    notes = list(batches.notes)
    if preparations:
        notes.append(PREPARATIONS_NOTE)
    elif untried:
        notes.append(untried)
    if reading.limit is None and samples == SAMPLES:
        notes.append(f"the first {SAMPLES} samples were looked at; limit= (--limit) looks at more")
    return Preview(
        source=source_name(data),
        samples=samples,
        batches=count,
        inputs=tuple(_input_view(one) for one in figures.values()),
        outputs=looked.views(),
        preparations=preparations,
        warnings=(*batches.warnings, *_doubts(readable, figures, looked), *filter(None, [said])),
        notes=tuple(notes),
        pictures=tuple(pictures),
    )


class _Looked:
    """The first feeds, run through the float model."""

    def __init__(self, session: Session, graph: Graph) -> None:
        self._session = session
        self.same = SameOutputs(graph)
        self.values: dict[str, list[NDArray[Any]]] = {name: [] for name in session.output_names}
        self._runs = 0

    def run(self, batch: Batch) -> None:
        if self._runs < _RUNS:
            self._runs += 1
            outputs = self._session.run(batch.arrays, where=batch.label)
            for name, value in zip(self._session.output_names, outputs, strict=True):
                if isinstance(value, np.ndarray):
                    self.values[name].append(value)
            self.same.add(dict(zip(self._session.output_names, outputs, strict=True)))

    def views(self) -> tuple[OutputView, ...]:
        found = []
        for name, values in self.values.items():
            numbers = [v for v in values if v.size and v.dtype.kind in "fiub"]
            found.append(
                OutputView(
                    name=name,
                    shape=values[0].shape if values else (),
                    low=min((float(v.min()) for v in numbers), default=None),
                    high=max((float(v.max()) for v in numbers), default=None),
                )
            )
        return tuple(found)


def _doubts(graph: Graph, figures: dict[str, Figures], looked: _Looked) -> list[str]:
    found = [doubt for one in figures.values() for doubt in doubts_of_input(graph, one)]
    return [*found, *looked.same.doubts(), *random_warnings(graph)]


def _input_view(figures: Figures) -> InputView:
    total = figures.total
    return InputView(
        name=figures.name,
        dtype=str(figures.dtype),
        expected=figures.spec.describe(),
        shapes=tuple(figures.shapes),
        more_shapes=figures.more_shapes,
        low=figures.low,
        high=figures.high,
        mean=None if total is None else total.mean,
        std=None if total is None else total.std,
        zeros=figures.zeros / figures.count if figures.count else 0.0,
        channels=figures.channels,
    )


def _plain(value: Any) -> Any:
    """`value` for JSON, which knows no infinity."""
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
