"""The session that summarises tensors: of the graph as onnxruntime optimised it, where that can be edited."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace

from onnxq.calibration.taps.blocked import in_blocks, optimised_graph, padding_is_not_negative
from onnxq.calibration.taps.memory import give_back_freed
from onnxq.calibration.taps.nan_flow import shown_behind
from onnxq.calibration.taps.row_memory import Summarised
from onnxq.calibration.taps.summaries import Tap, summarised
from onnxq.graph.view import Graph
from onnxq.inference.outputs import with_readable_outputs
from onnxq.inference.session import make_session
from onnxq.planning.bounds import known_bounds

_AT_ONCE = 2


def summarising_session(  # noqa: PLR0913 - the parts of one session
    graph: Graph,
    taps: Sequence[str],
    chosen: Sequence[str],
    others: Sequence[str],
    *,
    histograms: Collection[str],
    threads: int | None,
) -> Summarised:
    """A session on the CPU that summarises tensors.

    Args:
        graph: The model; it is not changed.
        taps: All tensors that are tapped: none of them is fused away, so that a tensor is computed alike whatever it is
            tapped together with.
        chosen: Those that are summarised.
        others: Those that the session gives as they are.
        histograms: Those of which elements for a histogram are taken.
        threads: onnxruntime's threads for all runs at the same time together; None leaves the choice to it.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """
    every = with_readable_outputs(graph, taps, as_float32=True)
    names = dict(zip(taps, every.outputs, strict=True))
    optimised = optimised_graph(every, threads=threads)
    shown = shown_behind(graph, chosen)
    forms = [
        replace(_tap(graph, name, names[name], optimised), shown=name in shown, counted=name in histograms)
        for name in chosen
    ]
    # In a list, to be handed over: nobody else keeps the message while onnxruntime makes its own copies.
    *made, summaries = summarised(optimised or every, forms, [names[n] for n in others])
    at_once, threads_each = shared_threads(threads)
    as_it_is = optimised is not None
    del every, optimised  # copies of the model, while onnxruntime makes more
    give_back_freed()
    session = make_session(
        made.pop(),
        optimise=not as_it_is,
        threads=threads_each,
        base_dir=graph.base_dir,
        stop_spinning=True,
        in_stored_order=True,
    )
    return Summarised(session=session, summaries=summaries, others=others, at_once=at_once)


def shared_threads(threads: int | None) -> tuple[int, int | None]:
    """Runs at the same time, and onnxruntime's threads for each, in place of one run with so many threads.

    >>> shared_threads(1), shared_threads(2), shared_threads(8)
    ((1, 1), (2, 1), (2, 7))
    """
    most = threads or _cores()
    if most == 1:
        return 1, threads
    # Each of the two calling threads works, too.
    return _AT_ONCE, most - 1 if threads or most == _AT_ONCE else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _tap(graph: Graph, name: str, output: str, optimised: Graph | None) -> Tap:
    """How a tensor is found in the graph that is edited, where it is called `output`."""
    tensor, blocked = (optimised and in_blocks(optimised, output)) or (output, None)
    shape = graph.shape(name) or ()
    last = shape[-1] if shape and isinstance(shape[-1], int) else None
    lower = known_bounds(graph, name).lower
    nonnegative = lower is not None and lower >= 0.0
    empty = optimised is not None and blocked is not None and padding_is_not_negative(optimised, tensor, blocked)
    return Tap(
        name=name,
        tensor=tensor,
        rank=len(shape),
        last=last,
        blocked=blocked,
        nonnegative=nonnegative,
        padding_is_not_negative=empty,
    )
