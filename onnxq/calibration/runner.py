"""Runs a model under onnxruntime and gathers statistics of its tensors.

One forward pass for each batch; one session; one batch's tensors exist at any time, whatever the number of samples. The
model is cut down to what the tapped tensors need, so a detection head behind the last tap costs nothing. Statistics are
values, so counting them in several threads, or group by group in several passes, cannot change the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Annotated, Any, Literal, TypedDict

from onnxq.calibration.counting import Counter, CountOptions, NonFiniteError
from onnxq.calibration.nonfinite import nonfinite_error
from onnxq.calibration.progress import Progress, resident_bytes
from onnxq.calibration.statistics.blocked_layout import Blocked
from onnxq.calibration.statistics.following import FollowingStats
from onnxq.calibration.statistics.seen_samples import SeenSamples
from onnxq.calibration.statistics.table import StatsTable, TensorStats
from onnxq.calibration.taps.array_sessions import ArraySessions
from onnxq.calibration.taps.blocked import layouts_on_cpu, optimised_graph
from onnxq.calibration.taps.followers import followers_among
from onnxq.calibration.taps.memory import TapBytes, give_back_freed, grouped_taps, tap_bytes
from onnxq.calibration.taps.reader import TapReader
from onnxq.calibration.taps.row_memory import Summarised
from onnxq.calibration.taps.selection import SampleAxis, derived_taps, in_graph_order
from onnxq.calibration.taps.summarising_session import summarising_session
from onnxq.data.batches import Batch, Batches
from onnxq.errors import ConfigError, DataError
from onnxq.graph.view import Graph
from onnxq.inference.outputs import FLOATS, with_output_shapes, with_outputs, with_readable_outputs
from onnxq.inference.providers import DEFAULT_PROVIDERS, full_names
from onnxq.inference.session import Session, make_session
from onnxq.keywords import Keyword, complete
from onnxq.planning.masks import hidden_tensors
from onnxq.wording.sizes import bytes_from

NonFinite = Literal["error", "ignore"]


class RunningKeywords(TypedDict, total=False):
    """How onnxruntime runs the model."""

    threads: Annotated[int | None, Keyword(None, "Threads for inference; None leaves it to onnxruntime.")]
    providers: Annotated[
        Sequence[str] | str | None,
        Keyword(
            None,
            'onnxruntime\'s execution providers in fall-back order, such as ("cuda", "cpu"); None means the CPU.',
        ),
    ]


class CollectKeywords(RunningKeywords, total=False):
    """How statistics are collected."""

    nonfinite: Annotated[
        NonFinite,
        Keyword("error", 'NaN and Inf in a tensor are an "error", or "ignore" leaves them out of the statistics.'),
    ]
    full_histogram: Annotated[
        bool,
        Keyword(False, "Count every element of every tensor, not a share of each sample's (see docs/calibration.md)."),
    ]
    memory_limit: Annotated[
        int | str | None,
        Keyword(
            None,
            'Bytes that the tensors calibration looks at may take, also as "4GB"; where they do not fit, the data is '
            "read several times, with the same result.",
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class CollectOptions:
    """How statistics are collected. The defaults suit every method.

    Attributes:
        threads: onnxruntime's threads within a node; None leaves the choice to it.
        providers: Execution providers in fall-back order (see `session.PROVIDERS`); None means the CPU.
        nonfinite: Whether NaN and Inf in a tapped tensor stop the run or are counted and left out; -Inf that hides
            scores from a Softmax is left out in any case.
        full_histogram: Count every element, not about SAMPLE of each sample's tensor (see `sampling`).
        range_only: Keep extremes alone, which is all that the method `max` needs, for less time.
        memory_limit: Bytes that tapped tensors may take, by the sizes of the first batch; where they do not fit, the
            data is read several times. None: no limit.
    """

    threads: int | None = None
    providers: Sequence[str] | str | None = None
    nonfinite: NonFinite = "error"
    full_histogram: bool = False
    range_only: bool = False
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ConfigError(
                f"threads is {self.threads}, expected at least 1",
                hint="pass another threads= (--threads), or leave it out: onnxruntime decides",
            )

    @classmethod
    def from_keywords(cls, options: CollectKeywords, *, range_only: bool = False) -> CollectOptions:
        """What keywords say.

        Raises:
            ConfigError: a number is impossible.
        """
        given = complete(CollectKeywords, options)
        limit = given["memory_limit"]
        size = None if limit is None else bytes_from(str(limit))
        if limit is not None and size is None:
            raise ConfigError(
                f"memory_limit is {limit!r}, expected bytes, or a size such as '500MB' or '4GB'",
                hint="pass another memory_limit= (--memory-limit), or leave it out",
            )
        return cls(
            threads=given["threads"],
            providers=given["providers"],
            nonfinite=given["nonfinite"],
            full_histogram=given["full_histogram"],
            range_only=range_only,
            memory_limit=size,
        )

    def session(self, graph: Graph, *, optimise: bool = True) -> Session:
        """A session for `graph`.

        Raises:
            ModelError: onnxruntime cannot load it.
            ConfigError: a provider is not part of this onnxruntime.
        """
        # A thread of onnxruntime that spins takes its core from the statistics.
        return make_session(
            graph.to_model(),
            optimise=optimise,
            threads=self.threads,
            providers=self.providers,
            base_dir=graph.base_dir,
            stop_spinning=True,
        )

    def tapped_session(self, graph: Graph, taps: Sequence[str], group: Sequence[str]) -> Session:
        """A session that gives inner tensors of `graph` as they are. Raises as `session` does.

        Args:
            graph: The model.
            taps: All tensors that are tapped: none of them is fused away, so that a tensor is computed alike whatever
                it is tapped together with.
            group: Those that this session gives.
        """
        every = with_readable_outputs(graph, taps, as_float32=True)
        if len(group) < len(taps) and self.on_cpu and (optimised := optimised_graph(every, threads=self.threads)):
            names = dict(zip(taps, every.outputs, strict=True))
            model = with_outputs(optimised, [names[name] for name in group]).to_model()
            return make_session(model, optimise=False, threads=self.threads, stop_spinning=True)
        return self.session(with_readable_outputs(graph, group, as_float32=True))

    def summarised(
        self, graph: Graph, taps: Sequence[str], group: Sequence[str], axis: SampleAxis, histograms: Collection[str]
    ) -> Summarised | None:
        """A session that summarises inner tensors of `graph`; None where their arrays are needed.

        Args:
            graph: The model.
            taps: As for `tapped_session`.
            group: As for `tapped_session`.
            axis: Where samples lie.
            histograms: Names of the tensors that get a histogram.
        """
        if not group:
            return None
        chosen = [name for name in group if self.summarises(graph, name, axis=axis)]
        if not chosen:
            return None
        return summarising_session(
            graph,
            taps,
            chosen,
            [name for name in group if name not in chosen],
            histograms=histograms,
            threads=self.threads,
        )

    def summarises(self, graph: Graph, tap: str, *, axis: SampleAxis) -> bool:
        """Whether the model itself can summarise this tensor, so that it need not leave it."""
        return self.on_cpu and not self.full_histogram and _has_samples(graph, tap, axis)

    def layouts(self, graph: Graph, taps: Sequence[str], group: Sequence[str], axis: SampleAxis) -> dict[str, Blocked]:
        """How the CPU would lay out what another device computes: so the elements that count are the same."""
        if self.on_cpu or not self.samples_histograms:
            return {}
        chosen = [name for name in group if _has_samples(graph, name, axis)]
        return layouts_on_cpu(graph, taps, chosen, threads=self.threads) if chosen else {}

    @property
    def samples_histograms(self) -> bool:
        """Whether histograms hold a share of the elements."""
        return not (self.full_histogram or self.range_only)

    @property
    def on_cpu(self) -> bool:
        """Whether the model runs on the CPU alone."""
        return full_names(self.providers) == DEFAULT_PROVIDERS


def _has_samples(graph: Graph, tap: str, axis: SampleAxis) -> bool:
    return axis.summarised(tap) and graph.dtype(tap) in FLOATS


DEFAULT_OPTIONS = CollectOptions()


def collect(  # noqa: PLR0913 - the parts of one run
    graph: Graph,
    taps: Sequence[str],
    batches: Batches,
    *,
    digest: str,
    options: CollectOptions = DEFAULT_OPTIONS,
    progress: Callable[[Progress], None] | None = None,
) -> StatsTable:
    """Statistics of tensors over all of `batches`.

    Args:
        graph: The float model; it is not changed.
        taps: Names of the tensors: graph inputs or outputs of nodes, of a numeric type.
        batches: The data.
        digest: Digest of the float model, stamped on the result.
        options: How to collect.
        progress: Called after each batch, in the calling thread.

    Raises:
        DataError: the data does not fit or is empty, onnxruntime fails on it, a tensor holds NaN or Inf, or several
            passes are needed over data that can be read only once or changes between them.
        ModelError: onnxruntime cannot load the model.
        ConfigError: a provider is not part of this onnxruntime, or a tensor does not fit under the memory limit.
    """
    names = in_graph_order(graph, taps)
    followers = followers_among(graph, names) if options.samples_histograms else {}
    # Under "ignore", sigmoid(inf) would have to be told from sigmoid(NaN): then every tap is an output.
    known = {} if options.nonfinite == "ignore" else derived_taps(graph, names)
    derived = {name: rule for name, rule in known.items() if options.range_only or name in followers}
    stream = batches.stream()
    first = next(stream)
    outputs = [name for name in names if name not in derived]
    axis = SampleAxis(graph, first)
    inner = [name for name in outputs if not graph.is_input(name)]
    sizes = _tap_bytes(graph, inner, first, options)
    groups = _groups(graph, outputs, sizes, partial(options.summarises, graph, axis=axis), options.memory_limit)
    if len(groups) > 1 and batches.one_shot:
        raise DataError(
            f"the tapped tensors need {len(groups)} passes under the memory limit, but the data can be read only once",
            where=f"{batches.label} data",
            hint="pass a function that returns a new generator, or raise memory_limit= (--memory-limit).",
        )
    work = _Work(
        graph=graph,
        batches=batches,
        options=options,
        axis=axis,
        progress=progress,
        inner=inner,
        sizes=sizes,
        histograms=frozenset() if options.range_only else frozenset(names).difference(followers),
    )
    work.passes = len(groups)
    tables = []
    for number, group in enumerate(groups):
        following = {name: rule for name, rule in derived.items() if rule[0] in group}
        source = chain([first], stream) if number == 0 else batches.stream()
        tables.append(work.run(group, following, source))
    found = {name: stats for *_, tensors in tables for name, stats in tensors.items()}
    samples, fingerprint, seen, _ = tables[0]
    if any(table[:2] != (samples, fingerprint) for table in tables):
        raise DataError(
            "it was not the same in every pass over it",
            where=f"{batches.label} data",
            hint="make the data repeatable (a fixed seed, no shuffling), or raise memory_limit= (--memory-limit).",
        )
    tensors = {name: found[name] for name in names}
    for name, follower in followers.items():
        tensors[name] = FollowingStats(found[name], found[follower.source], follower.curve)
    return StatsTable(tensors=tensors, digest=digest, samples=samples, data_fingerprint=fingerprint, seen=seen)


def _tap_bytes(graph: Graph, inner: list[str], first: Batch, options: CollectOptions) -> Mapping[str, TapBytes]:
    """Sizes of tapped tensors, where there is a limit."""
    if options.memory_limit is None or not inner:
        return {}
    found = tap_bytes(graph, inner, options.session(with_output_shapes(graph, inner)), first)
    give_back_freed()
    return found


def _groups(
    graph: Graph,
    outputs: list[str],
    sizes: Mapping[str, TapBytes],
    summarises: Callable[[str], bool],
    limit: int | None,
) -> list[list[str]]:
    if limit is None or not sizes:
        return [outputs]
    kept = {name: size.kept if summarises(name) else size.whole for name, size in sizes.items()}
    groups = grouped_taps(kept, limit)
    # Inputs are in memory anyway.
    groups[0] = [name for name in outputs if graph.is_input(name)] + groups[0]
    return groups


@dataclass(kw_only=True)
class _Work:
    """What all passes over the data have in common."""

    graph: Graph
    batches: Batches
    options: CollectOptions
    axis: SampleAxis
    progress: Callable[[Progress], None] | None
    inner: Sequence[str]
    sizes: Mapping[str, TapBytes]
    histograms: frozenset[str]
    passes: int = 1
    pass_number: int = 0
    runs: int = 0
    earlier_samples: int = 0
    start: float = field(default_factory=time.perf_counter)

    def run(
        self, taps: list[str], derived: Mapping[str, Any], stream: Iterator[Batch]
    ) -> tuple[int, str, SeenSamples, dict[str, TensorStats]]:
        """Samples, their fingerprint and hashes, and the statistics of these taps and what follows from them."""
        self.pass_number += 1
        give_back_freed()
        inner = [name for name in taps if not self.graph.is_input(name)]
        reader = TapReader(
            inner,
            [name for name in taps if self.graph.is_input(name)],
            axis=self.axis,
            summarised=self.options.summarised(self.graph, self.inner, inner, self.axis, self.histograms),
            arrays=ArraySessions(
                lambda: self._fitting(inner),
                partial(self.options.tapped_session, self.graph, self.inner),
                self.options.layouts(self.graph, self.inner, inner, self.axis),
            ),
        )
        give_back_freed()
        counter = Counter(
            taps,
            derived,
            CountOptions(
                stop_at_nonfinite=self.options.nonfinite == "error",
                hidden=hidden_tensors(self.graph),
                full_histogram=self.options.full_histogram,
                histograms=self.histograms,
            ),
        )
        try:
            with reader:
                for batch in stream:
                    # While it is in the processor's cache.
                    counter.note(batch)
                    for found in reader.read(batch):
                        counter.count(found)
                    self._tell(counter.samples)
                for found in reader.rest():
                    counter.count(found)
        except NonFiniteError as bad:
            raise nonfinite_error(self.graph, bad, partial(self.options.session, optimise=False)) from None
        self.earlier_samples += counter.samples
        return counter.samples, counter.fingerprint, counter.seen.freeze(), counter.statistics()

    def _fitting(self, taps: list[str]) -> list[list[str]]:
        """Taps of one pass in groups whose whole tensors fit."""
        if self.options.memory_limit is None or not taps:
            return [taps]
        return grouped_taps({name: self.sizes[name].whole for name in taps}, self.options.memory_limit)

    def _tell(self, samples: int) -> None:
        self.runs += 1
        if self.progress is not None:
            self.progress(
                Progress(
                    batches=self.runs,
                    samples=samples,
                    expected_samples=self.batches.expected_samples,
                    elapsed_s=time.perf_counter() - self.start,
                    pass_number=self.pass_number,
                    passes=self.passes,
                    memory_bytes=resident_bytes(),
                    earlier_samples=self.earlier_samples,
                )
            )
