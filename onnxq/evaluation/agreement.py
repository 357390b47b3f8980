"""Agreement of results behind a pipeline's own last step: decoded texts, boxes after suppression, decisions.

postprocess(outputs) -> one result for each sample; `outputs` is {output name: array} of a batch. A sample counts where
its result equals its label, or, without labels, the float model's result. Results may be anything that can be compared:
texts, numbers, tuples, arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.errors import DataError
from onnxq.evaluation.metrics import Arrays, Metric
from onnxq.wording.plural import counted

Postprocess = Callable[[dict[str, NDArray[Any]]], Sequence[Any]]


class Agreement(Metric):
    """Share of samples with the right result.

    Args:
        postprocess: From outputs to results.
        name: What it is called.
        against_float: Whether results are compared with the float model's, not with labels.
    """

    name = "agreement"
    unit = "%"
    counts_right_answers = True

    def __init__(self, postprocess: Postprocess, name: str, *, against_float: bool) -> None:
        self.name = name
        self.against_float = against_float  # type: ignore[misc]  # of the class elsewhere, here of the object
        self._postprocess = postprocess

    def measure(self, outputs: Arrays, reference: Arrays, labels: Any, samples: int, where: str) -> NDArray[np.float64]:
        got = self._results(outputs, samples, where)
        wanted = self._results(reference, samples, where) if self.against_float else labels
        same = [_same(a, b) for a, b in zip(got, wanted, strict=True)]
        return np.asarray(same, np.float64)[:, None]

    def _results(self, outputs: Arrays, samples: int, where: str) -> Sequence[Any]:
        try:
            results = list(self._postprocess(dict(outputs)))
        except Exception as error:
            raise DataError(
                f"postprocess failed: {type(error).__name__}: {error}", where=f"{self.name}, {where}"
            ) from error
        if len(results) != samples:
            raise DataError(
                f"postprocess gave {counted(len(results), 'result')} for {counted(samples, 'sample')}",
                where=f"{self.name}, {where}",
                hint="postprocess= (--postprocess): function(outputs) returns one result for each sample.",
            )
        return results


def _same(result: Any, wanted: Any) -> bool:
    if isinstance(result, np.ndarray) or isinstance(wanted, np.ndarray):
        return bool(np.array_equal(result, wanted))
    return bool(str(result) == str(wanted)) if isinstance(wanted, str) else bool(result == wanted)
