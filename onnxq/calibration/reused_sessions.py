"""Keeps sessions between calls of `collect`, for callers that collect piece by piece on one model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.taps.row_memory import Summarised
from onnxq.calibration.taps.selection import SampleAxis
from onnxq.graph.view import Graph
from onnxq.inference.session import Session


@dataclass(frozen=True, kw_only=True)
class ReusedSessions(CollectOptions):
    """`CollectOptions` that make each session once. For graphs cut out of one and the same model only.

    Under a memory limit nothing is kept: the sessions of all groups together would not fit.

    Attributes:
        sessions: By the outputs of the graph and whether it is optimised.
        tapped: Those of `tapped_session`, by its taps.
        summaries: Those of `summarised`, by its taps.
    """

    sessions: dict[tuple[tuple[str, ...], bool], Session] = field(default_factory=dict, compare=False, repr=False)
    tapped: dict[tuple[str, ...], Session] = field(default_factory=dict, compare=False, repr=False)
    summaries: dict[tuple[str, ...], Summarised | None] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, options: CollectOptions) -> ReusedSessions:
        """The same options, with sessions that are kept."""
        return cls(**{f.name: getattr(options, f.name) for f in fields(CollectOptions)})

    def session(self, graph: Graph, *, optimise: bool = True) -> Session:
        """A session for `graph`: the one of an earlier call with the same outputs, if there was one."""
        if self.memory_limit is not None:
            return super().session(graph, optimise=optimise)
        key = (tuple(graph.outputs), optimise)
        if key not in self.sessions:
            self.sessions[key] = super().session(graph, optimise=optimise)
        return self.sessions[key]

    def tapped_session(self, graph: Graph, taps: Sequence[str], group: Sequence[str]) -> Session:
        """As for CollectOptions; that of an earlier call with the same taps, if there was one."""
        if self.memory_limit is not None:
            return super().tapped_session(graph, taps, group)
        key = tuple(group)
        if key not in self.tapped:
            self.tapped[key] = super().tapped_session(graph, taps, group)
        return self.tapped[key]

    def summarised(
        self, graph: Graph, taps: Sequence[str], group: Sequence[str], axis: SampleAxis, histograms: Collection[str]
    ) -> Summarised | None:
        """As for CollectOptions; that of an earlier call with the same taps, if there was one."""
        if self.memory_limit is not None:
            return super().summarised(graph, taps, group, axis, histograms)
        key = tuple(group)
        if key not in self.summaries:
            self.summaries[key] = super().summarised(graph, taps, group, axis, histograms)
        return self.summaries[key]
