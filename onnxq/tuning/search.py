"""The search for the fastest placement.

A placement is the set of nodes that are kept in float. The search starts with the default one and
  1. races it against the placement with nothing in float;
  2. races the winner against each placement that differs in one block: an int8 region or a single int8 node taken to
     float, a single float node that could run in int8 taken to int8;
  3. puts together the changes that helped, and races that.
A challenger wins by a margin, and only if its outputs, as the engine that times it computes them, stay close enough to
those that the float model has under onnxruntime in float32. Time limit and interrupt leave the best one so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from onnxq.errors import InternalError, ModelError
from onnxq.graph.view import Graph
from onnxq.tuning.race import Feed, Race, race
from onnxq.tuning.timers import ONNXRUNTIME, Model, Timer, loaded
from onnxq.verification.compare import OutputComparison
from onnxq.wording.plural import counted

DEFAULT_SECONDS = 60.0
MARGIN = 0.03
"""Share by which a placement must be faster before it is preferred: less is noise."""
BUDGET_DB = 1.0
"""How much lower than the default placement's the SQNR may be, in dB."""
_FINAL_ROUNDS = 41
_HELPS = 0.995
"""A change with a ratio below this is put together with others."""

INTERRUPTED = "interrupted"

Floats = frozenset[str]
Build = Callable[[Floats], Graph | None]
"""The quantized model of a placement, None where it cannot be built from what is known."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One placement that was raced.

    Attributes:
        change: What it changes in the placement that was best so far, in words.
        ratio: Its latency divided by that one's.
        latency_ms: Its latency in ms.
        sqnr_db: SQNR of its worst output against the float model; None where its speed ruled it out already, inf for
            equal outputs.
        kept: Whether it became the best.
    """

    change: str
    ratio: float
    latency_ms: float
    sqnr_db: float | None = None
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What the search found.

    Attributes:
        engine: Who timed, in words.
        floats: Nodes to keep in float.
        is_default: Whether that is what the default placement does.
        trials: Every placement that was raced, in order.
        float_ms: Latency of the float model, raced against the best placement.
        default_ms: Latency of the default placement.
        best_ms: Latency of the best one.
        seconds: How long the search took.
        stopped: "" where it came to its end, else "time limit" or "interrupted".
    """

    engine: str
    floats: Floats
    is_default: bool
    trials: tuple[Trial, ...]
    float_ms: float | None
    default_ms: float
    best_ms: float
    seconds: float
    stopped: str = ""

    def summary(self) -> str:
        """One line for a report."""
        against = "" if self.float_ms is None else f", float model {self.float_ms:.3g} ms"
        cut = f", {self.stopped}" if self.stopped else ""
        found = (
            f"none is faster than the default one, {self.best_ms:.3g} ms"
            if self.is_default
            else f"{self.best_ms:.3g} ms, default placement {self.default_ms:.3g} ms"
        )
        raced = f"{counted(len(self.trials), 'placement')} in {self.seconds:.0f} s{cut}"
        if not self.trials and not cut:
            raced = "no other placement to race, for one node at least stays in int8"
        return f"tuned for latency on this machine, under {self.engine}, {raced}: {found}{against}"


@dataclass(frozen=True, kw_only=True)
class Racing:
    """How placements are raced.

    Attributes:
        seconds: Time limit.
        threads: Threads to time with; None means one.
        progress: Told how many placements were raced, and what was changed.
        timers: Who times, see `timers_of`.
    """

    seconds: float = DEFAULT_SECONDS
    threads: int | None = None
    progress: Callable[[int, str], None] | None = None
    timers: tuple[Timer, ...] = (ONNXRUNTIME,)


class _OutOfTimeError(Exception):
    """The time limit was reached."""


class Search:
    """See the module's docstring.

    Args:
        build: Gives the quantized model of a placement.
        float_model: The float model.
        feeds: Inputs to compare on, at least one.
        sample: Inputs to time with.
        racing: Time limit, threads, progress, engine.
    """

    def __init__(self, build: Build, float_model: Graph, feeds: Sequence[Feed], sample: Feed, racing: Racing) -> None:
        self._build = build
        self._float_model = float_model
        self._timers = racing.timers
        self._feeds = feeds
        self._feed = sample
        self._threads = 1 if racing.threads is None else racing.threads
        self._started = time.perf_counter()
        self._deadline = self._started + racing.seconds
        self._progress = racing.progress or (lambda count, what: None)
        self._trials: list[Trial] = []

    def run(self, start: Floats, full: Floats, blocks: Callable[[Floats], Iterable[tuple[str, Floats]]]) -> Tuning:
        """Search from the default placement.

        Args:
            start: What the default placement keeps in float.
            full: What has to stay in float.
            blocks: For a placement the sets of nodes to change over together, each with its name.

        Raises:
            ModelError: the engine takes the float model or the default placement not.
        """
        self._best = start
        self._timer, models = loaded(self._timers, (self._float_model, self._built(start)), self._threads)
        self._reference, self._model = models
        self._exact = self._reference if self._timer is ONNXRUNTIME else ONNXRUNTIME.load(self._float_model, None)
        self._floor_db = self._sqnr_db(self._model) - BUDGET_DB
        self._default_ms = self._best_ms = race(self._model, self._model, self._feed, one_thread=self._one).champion_ms
        stopped = ""
        try:
            if full != start:
                self._try("every node in int8 that can", full)
            self._change_blocks(full, blocks)
        except _OutOfTimeError:
            stopped = "time limit"
        except KeyboardInterrupt:
            stopped = INTERRUPTED
        return self._result(start, stopped)

    @property
    def _one(self) -> bool:
        return self._threads == 1

    def _result(self, start: Floats, stopped: str) -> Tuning:
        """The outcome; a winner of many races has to win once more, against the default placement itself."""
        best, default_ms, best_ms, float_ms = self._best, self._default_ms, self._best_ms, None
        if best != start:
            found = race(self._model, self._load(start), self._feed, one_thread=self._one, rounds=_FINAL_ROUNDS)
            default_ms, best_ms = found.challenger_ms, found.champion_ms
            if found.ratio * (1.0 - MARGIN) < 1.0:
                best, best_ms, self._model = start, default_ms, self._load(start)
        if stopped != INTERRUPTED:
            found = race(self._model, self._reference, self._feed, one_thread=self._one)
            float_ms, best_ms = found.challenger_ms, found.champion_ms
        return Tuning(
            engine=self._timer.title,
            floats=best,
            is_default=best == start,
            trials=tuple(self._trials),
            float_ms=float_ms,
            default_ms=best_ms if best == start else default_ms,
            best_ms=best_ms,
            seconds=time.perf_counter() - self._started,
            stopped=stopped,
        )

    def _change_blocks(self, full: Floats, blocks: Callable[[Floats], Iterable[tuple[str, Floats]]]) -> None:
        base = self._best
        helpful: list[tuple[float, str, Floats]] = []
        for name, block in _distinct(blocks(base)):
            candidate = _changed(base, block, full)
            model = self._load_or_none(candidate)
            if model is None:
                continue
            found = self._race(model)
            way = "int8" if block <= base else "float"
            self._trials.append(Trial(change=f"{name} in {way}", ratio=found.ratio, latency_ms=found.challenger_ms))
            self._progress(len(self._trials), name)
            if found.ratio < _HELPS:
                helpful.append((found.ratio, name, block))
        helpful.sort(key=lambda item: item[:2])
        count = len(helpful)
        while count:
            floats = base
            for _, _, block in helpful[:count]:
                floats = _changed(floats, block, full)
            if self._try(f"the {count} changes together that helped most", floats):
                return
            count //= 2

    def _try(self, change: str, floats: Floats) -> bool:
        """Race a placement against the best so far, and keep it if it wins."""
        model = self._load_or_none(floats)
        if model is None:
            return False
        found = self._race(model)
        sqnr_db = self._sqnr_db(model) if found.ratio <= 1.0 - MARGIN else None
        kept = sqnr_db is not None and sqnr_db >= self._floor_db
        self._trials.append(
            Trial(change=change, ratio=found.ratio, latency_ms=found.challenger_ms, sqnr_db=sqnr_db, kept=kept)
        )
        self._progress(len(self._trials), change)
        if kept:
            self._best, self._model, self._best_ms = floats, model, found.challenger_ms
        return kept

    def _race(self, model: Model) -> Race:
        if time.perf_counter() > self._deadline:
            raise _OutOfTimeError
        return race(self._model, model, self._feed, one_thread=self._one)

    def _built(self, floats: Floats) -> Graph:
        built = self._build(floats)
        if built is None:
            raise InternalError("the default placement cannot be built")
        return built

    def _load(self, floats: Floats) -> Model:
        return self._timer.load(self._built(floats), self._threads)

    def _load_or_none(self, floats: Floats) -> Model | None:
        """The model of a placement; None where there is none, or the engine refuses it, some only when run."""
        if time.perf_counter() > self._deadline:
            raise _OutOfTimeError
        built = self._build(floats)
        if built is None:
            return None
        try:
            model = self._timer.load(built, self._threads)
            model(self._feed)
        except ModelError:
            return None
        return model

    def _sqnr_db(self, model: Model) -> float:
        comparison = OutputComparison()
        for feed in self._feeds:
            comparison.add(self._exact(feed), model(feed))
        found = [output.sqnr_db for output in comparison.result() if output.sqnr_db is not None]
        return min(found, default=float("inf"))


def _changed(floats: Floats, block: Floats, full: Floats) -> Floats:
    """`floats` with `block` changed over: to int8 where all of it was in float, else to float."""
    return floats - block | full if block <= floats else floats | block


def _distinct(blocks: Iterable[tuple[str, Floats]]) -> Iterator[tuple[str, Floats]]:
    seen: set[Floats] = set()
    for name, block in blocks:
        if block not in seen:
            seen.add(block)
            yield name, block
