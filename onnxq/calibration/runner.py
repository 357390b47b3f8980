"""Runs a model under onnxruntime and gathers statistics of its tensors while the next batch is running.

One forward pass for each batch; one session; at most three batches' tensors exist at any time (running, waiting, being
counted), whatever the number of samples. The model is cut down to what the tapped tensors need, so a detection head
behind the last tap costs nothing. Statistics are values, so counting them in another thread cannot change the result.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto

from onnxq.calibration.batches import Batch, Batches
from onnxq.calibration.session import Session, make_session
from onnxq.calibration.statistics import EMPTY_FINGERPRINT, StatsBuilder, StatsTable, combine_fingerprints
from onnxq.errors import DataError, InternalError, OnnxqError
from onnxq.graph.view import Graph

NonFinite = Literal["error", "ignore"]

# One batch may wait while another is counted: more would cost memory, none would stall on uneven batches.
_WAITING = 1


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far calibration has come.

    Attributes:
        batches: Batches run.
        samples: Samples run.
        expected_samples: Samples in all, None where unknown.
        elapsed_s: Seconds since the first batch began.
    """

    batches: int
    samples: int
    expected_samples: int | None
    elapsed_s: float


def collect(  # noqa: PLR0913 - one keyword for each choice of the user
    graph: Graph,
    taps: Sequence[str],
    batches: Batches,
    *,
    digest: str,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
    nonfinite: NonFinite = "error",
    progress: Callable[[Progress], None] | None = None,
) -> StatsTable:
    """Statistics of tensors over all of `batches`.

    Args:
        graph: The float model; it is not changed.
        taps: Names of the tensors: graph inputs or outputs of nodes, of a numeric type.
        batches: The data.
        digest: Digest of the float model, stamped on the result.
        threads: onnxruntime's threads within a node; None leaves the choice to it.
        providers: Execution providers in fall-back order; None means the CPU.
        nonfinite: Whether NaN and Inf in a tapped tensor stop the run or are counted and left out.
        progress: Called after each batch, in the calling thread.

    Raises:
        DataError: the data does not fit or is empty, onnxruntime fails on it, or a tensor holds NaN or Inf.
        ModelError: onnxruntime cannot load the model.
        ConfigError: a provider is not part of this onnxruntime.
    """
    names = _in_graph_order(graph, taps)
    inner = [name for name in names if not graph.is_input(name)]
    session = None
    if inner:
        tapped = with_outputs(graph, inner)
        # A thread of onnxruntime that spins takes its core from the statistics: on two cores, calibrating YOLOv8n with
        # 59 taps takes 1.5 times as long with spinning.
        session = make_session(
            tapped.to_model(), threads=threads, providers=providers, base_dir=graph.base_dir, spin=False
        )
        del tapped
    counter = _Counter(names, stop_at_nonfinite=nonfinite == "error")
    try:
        with counter:
            _feed(session, names, batches, counter, progress)
    except _NonFiniteError as found:
        raise _nonfinite_error(graph, found, providers) from None
    return counter.table(digest)


def _feed(
    session: Session | None,
    names: Sequence[str],
    batches: Batches,
    counter: _Counter,
    progress: Callable[[Progress], None] | None,
) -> None:
    start = time.perf_counter()
    runs = samples = 0
    for batch in batches.stream():
        values = dict(batch.arrays)
        if session is not None:
            values |= zip(session.output_names, session.run(batch.arrays, where=batch.label), strict=True)
        counter.put(batch, [values[name] for name in names])
        del values
        runs, samples = runs + 1, samples + batch.samples
        if progress is not None:
            elapsed_s = time.perf_counter() - start
            expected = batches.expected_samples
            progress(Progress(batches=runs, samples=samples, expected_samples=expected, elapsed_s=elapsed_s))


def with_outputs(graph: Graph, outputs: Sequence[str]) -> Graph:
    """A copy of `graph` with exactly these outputs, without the nodes that none of them needs."""
    twin = graph.copy()
    # onnxruntime infers the types itself; a name alone keeps a wrong or missing shape from mattering.
    twin.outputs = {name: ValueInfoProto(name=name) for name in outputs}
    twin.prune()
    return twin


def run_outputs(session: Session, batches: Batches) -> Iterator[tuple[Batch, Mapping[str, NDArray[Any]]]]:
    """Run a model over all batches, one at a time.

    To compare two models over data that can be read only once, run both sessions on each batch of `batches.stream()`.

    Args:
        session: The model, from `make_session` (which sets the optimisation level).
        batches: The data.

    Returns:
        Each batch with the model's outputs by name.

    Raises:
        DataError: the data does not fit or is empty, or onnxruntime fails on it.
    """
    for batch in batches.stream():
        outputs = session.run(batch.arrays, where=batch.label)
        yield batch, dict(zip(session.output_names, outputs, strict=True))


class _NonFiniteError(Exception):
    """A tapped tensor of a batch holds NaN or Inf."""

    def __init__(self, tensor: str, array: NDArray[Any], batch: Batch) -> None:
        super().__init__(tensor)
        self.tensor = tensor
        self.array = array
        self.batch = batch


class _Counter:
    """Counts arrays in a thread of its own; an error there comes out of the next `put` or at the end of `with`."""

    def __init__(self, names: Sequence[str], *, stop_at_nonfinite: bool) -> None:
        self._builders = {name: StatsBuilder() for name in names}
        self._stop_at_nonfinite = stop_at_nonfinite
        self._samples = 0
        self._fingerprint = EMPTY_FINGERPRINT
        self._work: queue.Queue[tuple[Batch, list[NDArray[Any]]] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="onnxq-statistics", daemon=True)

    def __enter__(self) -> _Counter:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._work.put(None)
        self._thread.join()
        if kind is None:
            self._check()

    def put(self, batch: Batch, arrays: list[NDArray[Any]]) -> None:
        self._check()
        self._work.put((batch, arrays))

    def table(self, digest: str) -> StatsTable:
        tensors = {name: builder.freeze() for name, builder in self._builders.items()}
        return StatsTable(tensors=tensors, digest=digest, samples=self._samples, data_fingerprint=self._fingerprint)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _loop(self) -> None:
        # After an error the queue is still emptied, so that `put` never waits for a thread that is gone.
        while (work := self._work.get()) is not None:
            if self._error is None:
                try:
                    self._count(*work)
                except BaseException as error:  # raised again in the calling thread
                    self._error = error
            del work

    def _count(self, batch: Batch, arrays: list[NDArray[Any]]) -> None:
        for (name, builder), array in zip(self._builders.items(), arrays, strict=True):
            before = builder.nonfinite
            builder.update(array)
            if self._stop_at_nonfinite and builder.nonfinite > before:
                raise _NonFiniteError(name, array, batch)
        self._samples += batch.samples
        self._fingerprint = combine_fingerprints(self._fingerprint, batch.fingerprint())


def _in_graph_order(graph: Graph, taps: Sequence[str]) -> list[str]:
    """Taps as the model computes them: inputs first, then by node; each once."""
    wanted = set(taps)
    order = [name for name in graph.inputs if name in wanted]
    order += [name for node in graph.nodes for name in node.output if name in wanted]
    unknown = wanted.difference(order)
    if unknown:
        raise InternalError(f"cannot tap {sorted(unknown)}: neither an input nor the output of a node")
    return order


def _nonfinite_error(graph: Graph, found: _NonFiniteError, providers: Sequence[str] | None) -> DataError:
    kind = "NaN" if np.isnan(found.array).any() else "Inf"
    tensor = _origin(graph, found, providers)
    node = graph.producer(tensor)
    maker = "" if node is None else f", computed by {node.op_type} node {node.name!r},"
    return DataError(
        f"tensor {tensor!r}{maker} holds {kind}",
        where=found.batch.label,
        hint="remove this sample or check the model on it; "
        "nonfinite='ignore' (--nonfinite ignore) leaves such values out.",
    )


def _origin(graph: Graph, found: _NonFiniteError, providers: Sequence[str] | None) -> str:
    """Where it went wrong: the first tensor on the way to the tapped one that holds NaN (or Inf), tapped or not.

    Of the same kind: a mask of -Inf ahead of a Softmax is no fault, and says nothing of a NaN behind it.
    """
    wrong = np.isnan if np.isnan(found.array).any() else np.isinf
    ancestors = with_outputs(graph, [found.tensor])
    every: list[str] = [name for node in ancestors.nodes for name in node.output if name and _maybe_float(graph, name)]
    try:
        session = make_session(
            with_outputs(ancestors, every).to_model(), optimise=False, providers=providers, base_dir=graph.base_dir
        )
        values = dict(zip(session.output_names, session.run(found.batch.arrays), strict=True))
    except OnnxqError:
        # Some tensors cannot be outputs (optional, sequence); then the tapped one has to do.
        return found.tensor
    for name in every:
        value = values[name]
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and wrong(value).any():
            return name
    return found.tensor


def _maybe_float(graph: Graph, tensor: str) -> bool:
    return graph.dtype(tensor) in (None, TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
