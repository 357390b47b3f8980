"""A graph run piece by piece over several batches: what later pieces read is kept, the rest let go.

So constants of nodes that have not run yet may be changed between two pieces, each node runs once, and memory holds a
cut through the graph rather than all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.taps.memory import give_back_freed
from onnxq.calibration.taps.summarising_session import shared_threads
from onnxq.data.batches import Batch
from onnxq.graph.cut import outside_reads, subgraph
from onnxq.graph.messages import reads_of
from onnxq.graph.view import Graph
from onnxq.passes.adapt.settle_types import runnable

_FREED_BYTES = 2**27
"""What is let go before the system gets it back: the C library keeps it for each thread on its own."""


class NotKeptError(Exception):
    """A piece gives something that is no array (a sequence, an optional)."""


class Walk:
    """One graph on its way from inputs to outputs; a context manager, which ends its threads and lets all go.

    Args:
        graph: The graph, in topological order. Its constants may change while it is walked, its nodes may not.
        samples: Batches to run.
        options: How to run them.
        make_room: Called before all but the first batch run through a piece, with the bytes that each of them will
            leave; it may thin out.

    Attributes:
        samples: The batches that are left.
        halvings: How often every other one was let go.
    """

    def __init__(
        self,
        graph: Graph,
        samples: Sequence[Batch],
        options: CollectOptions,
        make_room: Callable[[int], None] | None = None,
    ) -> None:
        self.graph = graph
        self.samples = list(samples)
        self.halvings = 0
        self._make_room = make_room or _nothing
        at_once, threads = shared_threads(options.threads) if options.on_cpu else (1, options.threads)
        # Pieces are small: threads within a node wait for each other longer than they work.
        self._threads, self._options = ThreadPoolExecutor(at_once), replace(options, threads=threads)
        self._kept: list[dict[str, NDArray[Any]]] = [dict(batch.arrays) for batch in samples]
        self._done: set[str] = set()
        self._freed_bytes = 0

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
        self._kept.clear()
        # Who makes room holds this walk: the two would keep the graph and its scratch files.
        self._make_room = _nothing

    @property
    def size_bytes(self) -> int:
        """Size of everything that is kept."""
        return sum(array.nbytes for one in self._kept for array in one.values())

    def thin_out(self) -> None:
        """Let go of every other batch."""
        self.samples, self._kept = self.samples[::2], self._kept[::2]
        self.halvings += 1

    def advance(self, tensor: str) -> list[NDArray[Any]]:
        """The values of `tensor`, one array for each batch; what it depends on runs, as far as it has not yet.

        Raises:
            NotKeptError: a tensor on the way cannot be kept.
            DataError: onnxruntime fails on the samples.
            ModelError: onnxruntime cannot load the piece.
        """
        piece = self._missing(tensor)
        if piece:
            self._run(piece, tensor)
        found = [one[tensor] for one in self._kept]
        for name in [name for name in self._kept[0] if not self._is_read_later(name)]:
            for one in self._kept:
                self._freed_bytes += one.pop(name).nbytes
        if self._freed_bytes > _FREED_BYTES:
            give_back_freed()
            self._freed_bytes = 0
        return found

    def replace(self, tensor: str, values: Sequence[NDArray[Any]]) -> None:
        """Go on with other values of a tensor that was computed."""
        for one, value in zip(self._kept, values, strict=True):
            if tensor in one:
                one[tensor] = value

    def _missing(self, tensor: str) -> list[str]:
        """Nodes that `tensor` depends on and that have not run, in topological order."""
        found: set[str] = set()
        stack = [tensor]
        while stack:
            node = self.graph.producer(stack.pop())
            if node is not None and node.name not in self._done and node.name not in found:
                found.add(node.name)
                stack += [name for name, _ in reads_of(node)]
        return [node.name for node in self.graph.nodes if node.name in found]

    def _run(self, piece: Sequence[str], tensor: str) -> None:
        inside = set(piece)
        made = [t for name in piece for t in self.graph.node(name).output if t]
        outputs = [t for t in made if t == tensor or any(use.node not in inside for use in self.graph.uses(t))]
        reads = outside_reads(self.graph, piece)
        types = {t: helper.np_dtype_to_tensor_dtype(self._kept[0][t].dtype) for t in reads}
        part = subgraph(self.graph, piece, outputs, types=types)
        part.prune()
        session = self._options.session(runnable(part))
        inputs = list(part.inputs)

        def run_one(one: dict[str, NDArray[Any]], batch: Batch) -> None:
            values = session.run({name: one[name] for name in inputs}, where=batch.label)
            if not all(isinstance(value, np.ndarray) for value in values):
                raise NotKeptError(tensor)
            one.update(zip(session.output_names, values, strict=True))

        run_one(self._kept[0], self.samples[0])
        self._make_room(sum(self._kept[0][name].nbytes for name in session.output_names))
        list(self._threads.map(run_one, self._kept[1:], self.samples[1:]))
        self._done |= inside

    def _is_read_later(self, tensor: str) -> bool:
        return any(use.node not in self._done for use in self.graph.uses(tensor))


def _nothing(_: int) -> None:
    """No room is needed."""
