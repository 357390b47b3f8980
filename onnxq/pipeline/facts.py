"""Facts of a run, for its report and for the metadata of its model."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onnxq.calibration.progress import Callback, report_to
from onnxq.calibration.statistics.table import StatsTable
from onnxq.calibration.tensorrt_cache import TensorRTCache
from onnxq.data.batches import Batch, Batches
from onnxq.data.description import bare, data_from
from onnxq.data.images import PRESETS, ImageOptions
from onnxq.data.inputs import Layout
from onnxq.graph.model import (
    get_metadata,
    model_digest,
)
from onnxq.graph.view import Graph
from onnxq.passes.adapt.compute_in_float16 import kept_in_float32
from onnxq.pipeline.stages import Known, Prepared
from onnxq.planning.plan import QuantPlan
from onnxq.recovery.registry import Recovery
from onnxq.report.build import POOR_SQNR_DB
from onnxq.report.contents import DataFacts
from onnxq.verification.check import Check
from onnxq.verification.compare import OutputError
from onnxq.verification.likeness import likeness_check
from onnxq.verification.verify import VerifyResult
from onnxq.version import VERSION
from onnxq.wording.plural import counted


def counted_share(stats: StatsTable) -> float:
    """Share of the finite elements that is in histograms; 1 where none was seen."""
    finite = sum(s.finite for s in stats.values())
    return sum(s.counted for s in stats.values()) / finite if finite else 1.0


def incomplete(stats: StatsTable) -> tuple[str, ...]:
    """What a report says of statistics that lack shards of the data."""
    if stats.shards is None:
        return ()
    return (
        f"the statistics are of {stats.shards} only, not of all calibration data; "
        "merge the rest: StatsTable.merge (onnxq merge)",
    )


def is_made_up(data: Any, stats: StatsTable | None, cache: TensorRTCache | None) -> bool:
    """Whether the ranges come from synthetic inputs."""
    return data is None and stats is None and cache is None


def unrecovered(recovery: Recovery, samples: Sequence[Batch]) -> tuple[str, ...]:
    """A note where recovery was wanted and had nothing to work on."""
    if samples or not recovery.needs_samples:
        return ()
    left_out = ", ".join(step.name for step in recovery.steps if step.adjust is not None)
    return (f"no recovery of accuracy ({left_out}): that takes a few samples, data= (--data)",)


def float16_note(prepared: Prepared, samples: Sequence[Batch]) -> tuple[str, ...]:
    """What a person is told of the types that what is not quantized computes in.

    Args:
        prepared: The model.
        samples: What its tensors were measured on.
    """
    if not prepared.plan.float16:
        return ()
    unseen = (
        "no samples were there to see which tensors leave the range of float16, beside those of the statistics: pass "
        "some, --data SRC (data=)"
    )
    return (*_computes_in_float16(prepared), *([] if samples else [unseen]))


def _computes_in_float16(prepared: Prepared) -> tuple[str, ...]:
    kept = kept_in_float32(prepared.graph, prepared.reach)
    if not kept:
        return ("what is float32 and not quantized computes in float16",)
    return (
        f"what is float32 and not quantized computes in float16, but for {counted(len(kept), 'node')} in float32: "
        f"{reasons_in_words(kept)}",
    )


def reasons_in_words(kept: Mapping[str, str], most: int = 3) -> str:
    """Reasons by node, each reason once.

    >>> reasons_in_words({"a": "too large", "b": "too large", "c": "an epsilon"})
    "too large ('a' and 1 more); an epsilon ('c')"

    Args:
        kept: The reasons.
        most: How many are told.
    """
    alike: dict[str, list[str]] = {}
    for node, reason in kept.items():
        alike.setdefault(reason, []).append(node)
    told = [
        f"{reason} ({first!r}{f' and {len(others)} more' if others else ''})"
        for reason, (first, *others) in list(alike.items())[:most]
    ]
    return "; ".join(told + ["..."] * (len(alike) > most))


def source_name(data: Any) -> str:
    """What the data is called in the report."""
    data = bare(data)
    if data is None:
        return "synthetic inputs"
    return str(data) if isinstance(data, (str, os.PathLike)) else type(data).__name__


def source_facts(data: Any, *, images: ImageOptions | str | None, layout: Layout | None) -> dict[str, Any]:
    """The fields of DataFacts that say where the data came from and how it was read."""
    return {
        "source": source_name(data),
        "options": reading_options(data, images=images, layout=layout),
        "is_path": path_of(bare(data)) is not None,
    }


def reading_options(data: Any, *, images: ImageOptions | str | None, layout: Layout | None) -> str:
    """How the data was read, as the options of a command: what a report's commands need beside `--data`.

    Args:
        data: The data as they were given.
        images: As the user gave it, and so is `layout`.
        layout: See there.
    """
    said = data_from(data)
    options: dict[str, Any] = {"layout": layout, **_image_flags(images)}
    if isinstance(said.preprocess, str):
        options["preprocess"] = said.preprocess
    options["tokenizer"] = said.tokenizer
    columns = said.text_column
    options["text-column"] = columns if columns is None or isinstance(columns, str) else ",".join(columns)
    options["max-length"] = said.max_length
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    words += [word for link in said.state.items() for word in ("--state", "=".join(link))]
    return shlex.join(words)


def _image_flags(images: ImageOptions | str | None) -> dict[str, str]:
    if images is None or isinstance(images, str):
        return {} if images is None else {"images": images}
    preset = next((name for name, options in PRESETS.items() if options == images), None)
    if preset is not None:
        return {"images": preset}
    usual = ImageOptions()
    numbers = {name: getattr(images, name) for name in ("mean", "std")}
    # At least one of them has to be there: they say that the files are pictures.
    flags = {name: ",".join(f"{v:.6g}" for v in values) for name, values in numbers.items()}
    flags |= {name: value for name in ("color", "resize") if (value := getattr(images, name)) != getattr(usual, name)}
    if images.crop_share != usual.crop_share:
        flags["crop-share"] = f"{images.crop_share:g}"
    if images.size is not None:
        flags["image-size"] = f"{images.size[0]}x{images.size[1]}"
    return flags


def path_of(model: Any) -> str | None:
    """Where a model lies, if it was given as a path."""
    return str(model) if isinstance(model, (str, os.PathLike)) else None


def metadata_of(plan: QuantPlan, known: Known, recovery: Recovery, *, synthetic: bool) -> dict[str, str]:
    """What the file says about how it was made; nothing that changes from run to run."""
    return {
        "onnxq.version": VERSION,
        "onnxq.target": plan.target,
        "onnxq.method": known.label,
        "onnxq.recover": ",".join(recovery.names) or "none",
        "onnxq.data": "synthetic" if synthetic else known.stats.data_fingerprint,
        "onnxq.samples": str(known.stats.samples),
        "onnxq.float_digest": plan.digest,
    }


def origin_check(source: Graph, quantized: Graph, outputs: Sequence[OutputError]) -> tuple[Check, ...]:
    """Whether a quantized model was made from `source`, where its metadata tells.

    Another digest alone proves little: the same model, saved again with other metadata, has one. Where the outputs have
    nothing in common either, it is another model.
    """
    made_from = get_metadata(quantized.frame).get("onnxq.float_digest")
    if made_from is None:
        return ()
    digest = model_digest(source)
    detail = f"the file names the same digest, {digest[:12]}"
    if made_from != digest:
        detail = f"the file says it was made from another float model: digest {made_from[:12]}, not {digest[:12]}"
    unlike = any(o.sqnr_db is not None and o.sqnr_db < POOR_SQNR_DB for o in outputs)
    return (Check(name="made from this float model", passed=made_from == digest or not unlike, detail=detail),)


def likeness_to_float(source: Graph, data: DataFacts, found: VerifyResult) -> tuple[Check, ...]:
    """Whether outputs follow those of `source`, where they were compared on real inputs; see `likeness_check`."""
    made_up = data.synthetic or data.synthetic_comparison
    return () if made_up else likeness_check(source, found.outputs, found.noise)


class Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        self.passed({step: 0.0})

    def passed(self, steps: Mapping[str, float]) -> None:
        """Take over the seconds of steps that were measured elsewhere; what is missing since then goes to the last."""
        now = time.perf_counter()
        last = list(steps)[-1]
        rest = now - self._last - sum(steps.values())
        self.seconds.update({**steps, last: steps[last] + max(0.0, rest)})
        self._last = now


class Counted:
    """Feeds of some batches; counts the samples that pass and keeps the shapes of the first feed.

    Args:
        batches: What is fed to both models.
        progress: Told how many samples have passed.
    """

    def __init__(self, batches: Batches, progress: Callback | None = None) -> None:
        self.samples = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._batches = batches
        self._progress = progress

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        expected = self._batches.expected_samples
        report_to(self._progress, "comparing outputs", 0, expected, unit="sample")
        for batch in self._batches.stream():
            report_to(self._progress, "comparing outputs", self.samples, expected, unit="sample")
            self.samples += batch.samples
            self.shapes = self.shapes or {name: array.shape for name, array in batch.arrays.items()}
            yield batch.arrays
        # The models have run; what follows is up to the engine.
        report_to(self._progress, "asking the engine", 0, None)
