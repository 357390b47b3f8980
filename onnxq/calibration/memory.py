"""Several passes over the data where the tapped tensors of one batch do not fit into memory together.

    bytes of a group's tensors for one batch * ALIVE <= limit        ALIVE: batches that exist at the same time

Taps are put into groups in the order of the model. Each pass counts one group; since a tensor's statistics do not
depend on what else was counted, the result is the same.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence

from onnx import helper

from onnxq.calibration.batches import Batch
from onnxq.calibration.session import Session
from onnxq.calibration.tap_reader import ALIVE
from onnxq.errors import ConfigError
from onnxq.graph.view import Graph
from onnxq.sizes import size_text

_UNKNOWN_ITEM_BYTES = 4


def give_back_freed() -> None:
    """Let the system have what was freed: the C library keeps as much as a model takes while it is loaded."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return  # not glibc: its own ways have to do


def tap_bytes(graph: Graph, taps: Sequence[str], shapes: Session, batch: Batch) -> dict[str, int]:
    """Bytes of each tap's tensor for one batch, found without keeping any of them.

    Args:
        graph: The model.
        taps: Names of inner tensors.
        shapes: The model of `taps.with_output_shapes` for them.
        batch: What to run.
    """
    found = shapes.run(batch.arrays, where=batch.label)
    return {
        name: math.prod(int(size) for size in shape) * _item_bytes(graph, name)
        for name, shape in zip(taps, found, strict=True)
    }


def _item_bytes(graph: Graph, name: str) -> int:
    dtype = graph.dtype(name)
    # Types below float32 are converted to it while they are counted.
    return max(helper.tensor_dtype_to_np_dtype(dtype).itemsize if dtype else 0, _UNKNOWN_ITEM_BYTES)


def grouped_taps(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Taps in groups that fit, in order.

    Args:
        sizes: Bytes of each tap's tensor for one batch.
        limit: Bytes that tapped tensors may take.

    Raises:
        ConfigError: a tensor does not fit even alone.
    """
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        needed = size * ALIVE
        if needed > limit:
            raise ConfigError(
                f"tensor {name!r} takes {size_text(needed)} for {ALIVE} batches, "
                f"more than the memory limit of {size_text(limit)}",
                hint="raise memory_limit= (--memory-limit), or feed fewer samples at once: batch_size= (--batch-size)",
            )
        if not groups or needed > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= needed
    return groups
