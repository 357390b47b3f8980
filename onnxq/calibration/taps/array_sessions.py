"""Sessions that give tapped tensors as they are: one for all of them, or several where they do not fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from onnxq.calibration.statistics.blocked_layout import Blocked
from onnxq.data.batches import Batch
from onnxq.inference.session import Session


class ArraySessions:
    """Made when they are needed first, which is mostly never.

    Args:
        groups: The taps, in groups whose tensors fit into memory together.
        make: Makes the session for a group.
        layouts: By which the elements of some taps are chosen, where these sessions alone read them.
    """

    def __init__(
        self,
        groups: Callable[[], list[list[str]]],
        make: Callable[[Sequence[str]], Session],
        layouts: Mapping[str, Blocked],
    ) -> None:
        self._groups, self._make = groups, make
        self.layouts = layouts
        self._sessions: list[tuple[Sequence[str], Session]] = []

    def read(self, batch: Batch) -> Iterator[tuple[Sequence[str], list[NDArray[Any]]]]:
        """Names and tensors of each group.

        Raises:
            DataError: onnxruntime refuses the batch, or a node fails on it.
            ConfigError: a tensor does not fit even alone.
        """
        if not self._sessions:
            self._sessions = [(group, self._make(group)) for group in self._groups()]
        for names, session in self._sessions:
            yield names, session.run(batch.arrays, where=batch.label)
