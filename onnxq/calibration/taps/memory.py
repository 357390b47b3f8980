"""Several passes over the data where the tapped tensors of one batch do not fit into memory together.

    what is kept of a group's tensors <= limit
    kept = min(bytes of the tensor for one batch * ALIVE, bytes of its summary * ROWS)

The second holds where the model summarises a tensor itself, so that it never leaves the model.

Taps are put into groups in the order of the model. Each pass counts one group; since a tensor's statistics do not
depend on what else was counted, the result is the same.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import helper

from onnxq.calibration.statistics.sampling import SAMPLE, SHARE
from onnxq.data.batches import Batch
from onnxq.errors import ConfigError
from onnxq.graph.view import Graph
from onnxq.inference.session import Session
from onnxq.wording.sizes import size_text

_UNKNOWN_ITEM_BYTES = 4

_ROW_ITEM_BYTES = 4

ALIVE = 2
"""Batches whose tensors exist at the same time."""

ROWS = 16
"""Summaries of a tensor that exist at the same time: those of runs on their way, and those that wait to be counted."""


@dataclass(frozen=True)
class TapBytes:
    """Memory that one tap takes.

    Attributes:
        tensor: Bytes of the tensor of one batch.
        summary: Bytes of the numbers that are left of it where the model summarises it.
    """

    tensor: int
    summary: int

    @property
    def whole(self) -> int:
        """Bytes where its tensors leave the model."""
        return self.tensor * ALIVE

    @property
    def kept(self) -> int:
        """Bytes where the model summarises it."""
        return min(self.whole, self.summary * ROWS)


def give_back_freed() -> None:
    """Let the system have what was freed: the C library keeps as much as a model takes while it is loaded."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # not glibc: its own ways have to do


def tap_bytes(graph: Graph, taps: Sequence[str], shapes: Session, batch: Batch) -> dict[str, TapBytes]:
    """Memory that each tap takes for such batches, found without keeping any of their tensors.

    Args:
        graph: The model.
        taps: Names of inner tensors.
        shapes: The model of `taps.with_output_shapes` for them.
        batch: What to run.
    """
    found = shapes.run(batch.arrays, where=batch.label)
    sizes: dict[str, TapBytes] = {}
    for name, shape in zip(taps, found, strict=True):
        elements = math.prod(int(size) for size in shape)
        counted = min(elements, max(SAMPLE * batch.samples, elements // SHARE))
        extremes = 3 * math.prod(int(size) for size in shape[:2])
        sizes[name] = TapBytes(elements * _item_bytes(graph, name), (counted + extremes) * _ROW_ITEM_BYTES)
    return sizes


def _item_bytes(graph: Graph, name: str) -> int:
    dtype = graph.dtype(name)
    # Types below float32 are converted to it while they are counted.
    return max(helper.tensor_dtype_to_np_dtype(dtype).itemsize if dtype else 0, _UNKNOWN_ITEM_BYTES)


def grouped_taps(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Taps in groups that fit, in order.

    Args:
        sizes: Bytes that each tap takes.
        limit: Bytes that tapped tensors may take.

    Raises:
        ConfigError: a tensor does not fit even alone.
    """
    groups: list[list[str]] = []
    room = 0
    for name, needed in sizes.items():
        if needed > limit:
            raise ConfigError(
                f"tensor {name!r} takes {size_text(needed)} while it is calibrated, "
                f"more than the memory limit of {size_text(limit)}",
                hint="raise memory_limit= (--memory-limit), or feed fewer samples at once: batch_size= (--batch-size)",
            )
        if not groups or needed > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= needed
    return groups
