"""Whether the outputs still say what the float model's say: more signal than noise, by a factor of two."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnxq.graph.view import Graph
from onnxq.planning.bounds import known_bounds
from onnxq.verification.check import Check, check_all
from onnxq.verification.compare import OutputError

_LEAST_SQNR_DB = 3.0
"""Half of the signal's power is noise."""
_SMALL_SCORE_ERROR = 0.1
"""Of scores from 0 to 1: probabilities of 0.001 and 0.002 have -3 dB of each other, and mean the same."""


def likeness_check(graph: Graph, outputs: Sequence[OutputError], noise: Collection[str] = ()) -> tuple[Check, ...]:
    """Whether each float output has at least 3 dB SQNR: an error with less than half of the signal's power.

    Scores (an output of Sigmoid, Softmax and the like, and a faint part of an output that stays within 1) may have
    less, as long as none of them is off by more than 0.1: where a model detects nothing, all of them are near 0.

    Args:
        graph: The float model.
        outputs: The error of each of its outputs, and of faint parts of them (see `OutputParts`), on real inputs: on
            made-up ones it says little.
        noise: Outputs of which the float model gives rounding noise alone (see `rounding_noise`): nothing to follow.

    Returns:
        The check; none where no output is float and holds anything but zeros.
    """
    judged = [e for e in outputs if e.sqnr_db is not None and e.is_sound and e.peak > 0.0 and e.name not in noise]
    if not judged:
        return ()
    unlike = [
        f"{error.name!r} has {error.sqnr_db:.1f} dB SQNR, more noise than half of the signal"
        for error in judged
        if error.sqnr_db is not None
        and error.sqnr_db < _LEAST_SQNR_DB
        and not (_is_score(graph, error) and (error.max_abs or 0.0) <= _SMALL_SCORE_ERROR)
    ]
    return (check_all("outputs follow the float model's", unlike, len(judged), "outputs"),)


def _is_score(graph: Graph, error: OutputError) -> bool:
    if not graph.is_output(error.name):
        return error.peak <= 1.0
    bounds = known_bounds(graph, error.name)
    return bounds.lower == 0.0 and bounds.upper == 1.0
