"""Spreads calibration over a Ray cluster (https://docs.ray.io/en/latest/ray-core/actors.html).

This process reads the data and cuts it into shares, some batches each; workers run them and send statistics back:

    statistics = merge of collect(share) over all shares        exact and commutative, so who did what does not show

A worker that dies is started again and its share is run again. A share counts when its statistics arrive here, once:
what a dead worker had counted of it is lost with the worker.
"""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxq.calibration.progress import Progress, resident_bytes
from onnxq.calibration.reused_sessions import ReusedSessions
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.statistics.file import decode_stats, encode_stats
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.batches import Batch, Batches
from onnxq.data.inputs import InputSpecs
from onnxq.errors import ConfigError, DataError
from onnxq.graph.saving import self_contained
from onnxq.graph.view import Graph
from onnxq.inference.custom_ops import custom_op_libraries, register_custom_ops
from onnxq.inference.session import runtime_version
from onnxq.version import VERSION

SHARE_SAMPLES = 32
"""Samples in a share: enough work to pay for its way, little enough to be done again."""

SHARE_BYTES = 1 << 26
"""Input bytes in a share, at which it is closed before it has SHARE_SAMPLES."""

_SHARES_AHEAD = 2
"""Shares given to a worker: one to run, one that waits with its data on the spot."""

_RETRIES = 3

_CONNECT_S = 10.0
_HOST_AND_PORT = re.compile(r"(?:ray://)?(?P<host>[^/]+):(?P<port>\d+)")

ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every worker has to know.

    Attributes:
        model: The float model, serialised. Its external data, if any, must lie under `base_dir` on every node.
        base_dir: Folder that external data is relative to.
        taps: Names of the tensors.
        digest: Digest of the float model.
        options: How to collect.
        libraries: Custom operators, at the same places on every node.
    """

    model: bytes
    base_dir: Path | None
    taps: tuple[str, ...]
    digest: str
    options: CollectOptions
    libraries: tuple[str, ...] = ()


class Worker:
    """Runs shares in a process of its own; the model is loaded once.

    Args:
        task: A reference to the Task, in a list: as an argument of its own Ray would hold it for this start alone, and
            a worker that is started again could not get it.
    """

    def __init__(self, task: list[Any]) -> None:
        self._task: Task = _imported().get(task[0])
        for library in self._task.libraries:
            register_custom_ops(library)
        self._graph = Graph(ModelProto.FromString(self._task.model), self._task.base_dir)
        self._options = ReusedSessions.of(self._task.options)

    def versions(self) -> dict[str, str]:
        """Versions on which the result may depend."""
        return versions()

    def collect(self, share: list[Batch]) -> bytes:
        """Statistics of a share, as in a statistics file: far smaller than the arrays in memory."""
        batches = Batches(lambda: iter(share), inputs=InputSpecs.from_graph(self._graph))
        table = collect(self._graph, self._task.taps, batches, digest=self._task.digest, options=self._options)
        return encode_stats(table)


class RayCluster:
    """Workers on a Ray cluster, for one model; a context manager.

    Each worker gets `options.threads` CPUs, 1 unless given; as many are started as the cluster has CPUs for.

    Args:
        graph: The float model.
        taps: Names of the tensors.
        digest: Digest of the float model.
        options: How to collect.
        address: Of the cluster; None takes RAY_ADDRESS or a running cluster of this machine, else starts a local one.
            A Ray that this process is connected to already is used as it is.
    """

    def __init__(
        self, graph: Graph, taps: Sequence[str], *, digest: str, options: CollectOptions, address: str | None = None
    ) -> None:
        self._ray = _imported()
        self._address = address
        self._threads = options.threads or 1
        self._task = Task(
            # Other machines see no temporary files of this one.
            model=self_contained(graph.to_model(), None).SerializeToString(),
            base_dir=graph.base_dir,
            taps=tuple(taps),
            digest=digest,
            options=replace(options, threads=self._threads),
            libraries=custom_op_libraries(),
        )
        self._workers: list[Any] = []
        self._shared: Any = None
        self._connected_here = False

    def __enter__(self) -> RayCluster:
        if not self._ray.is_initialized():
            _connect(self._ray, self._address)
            self._connected_here = True
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        self._workers = []
        if self._connected_here:
            self._ray.shutdown()

    def collect(self, batches: Batches, *, progress: ProgressCallback | None = None) -> StatsTable:
        """Statistics over all of `batches`, equal to those of `runner.collect` on one machine.

        Args:
            batches: The data, read by this process.
            progress: Called after each share.

        Raises:
            DataError: as `runner.collect`, or workers died on the same share again and again.
        """
        start = time.perf_counter()
        waiting: dict[Any, tuple[int, list[Batch]]] = {}
        tables: list[StatsTable] = []
        runs = 0

        def take_one() -> None:
            nonlocal runs
            (done, *_), _ = self._ray.wait(list(waiting), num_returns=1)
            _, share = waiting.pop(done)
            tables.append(self._result(done, share))
            tables[:] = [functools.reduce(StatsTable.merge, tables)]
            runs += len(share)
            if progress is not None:
                progress(
                    Progress(
                        batches=runs,
                        samples=tables[0].samples,
                        expected_samples=batches.expected_samples,
                        elapsed_s=time.perf_counter() - start,
                        memory_bytes=resident_bytes(),
                    )
                )

        for share in shares(batches.stream()):
            while len(waiting) >= _SHARES_AHEAD * len(self._workers):
                take_one()
            held = [number for number, _ in waiting.values()]
            number = min(range(len(self._workers)), key=held.count)
            waiting[self._workers[number].collect.remote(share)] = (number, share)
        while waiting:
            take_one()
        return tables[0]

    def _start(self) -> None:
        count = max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._threads)
        self._shared = self._ray.put(self._task)
        kind = self._ray.remote(Worker).options(num_cpus=self._threads, max_restarts=-1, max_task_retries=_RETRIES)
        self._workers = [kind.remote([self._shared]) for _ in range(count)]
        here = versions()
        for there in self._ray.get([worker.versions.remote() for worker in self._workers]):
            check_versions(here, there)

    def _result(self, reference: Any, share: list[Batch]) -> StatsTable:
        errors = self._ray.exceptions
        try:
            return decode_stats(self._ray.get(reference), "a Ray worker's result")
        except errors.RayTaskError as error:
            # What was raised in the worker: a user error keeps its class, text and hint.
            raise error.cause from None
        except errors.RayActorError as error:
            raise DataError(
                f"Ray workers died {_RETRIES + 1} times on the same batches: {str(error).splitlines()[0]}",
                where=f"{share[0].label} and the {len(share) - 1} after it",
                hint="workers may be short of memory: give each more CPUs, so that fewer share a node, with threads= "
                "(--threads), or set memory_limit= (--memory-limit)",
            ) from error


def shares(stream: Iterator[Batch]) -> Iterator[list[Batch]]:
    """Batches in lists of about SHARE_SAMPLES samples and at most about SHARE_BYTES."""
    share: list[Batch] = []
    samples = size_bytes = 0
    for batch in stream:
        share.append(batch)
        samples += batch.samples
        size_bytes += sum(array.nbytes for array in batch.arrays.values())
        if samples >= SHARE_SAMPLES or size_bytes >= SHARE_BYTES:
            yield share
            share, samples, size_bytes = [], 0, 0
    if share:
        yield share


def versions() -> dict[str, str]:
    """Versions of what computes the statistics."""
    return {"onnxq": VERSION, "onnxruntime": runtime_version()}


def check_versions(here: dict[str, str], there: dict[str, str]) -> None:
    """See that a worker computes what this process would.

    Raises:
        ConfigError: a version differs.
    """
    if here != there:
        listed = ", ".join(f"{name} {there.get(name)} (here {version})" for name, version in here.items())
        raise ConfigError(
            f"a Ray worker has other versions, so statistics could differ: {listed}",
            hint="install the same versions on every node of the cluster that ray= (--ray) names",
        )


def _imported() -> Any:
    try:
        import ray  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise ConfigError("Ray is not installed", hint="pip install 'onnxq[ray]', or leave ray= (--ray) out") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    try:
        if address is not None and (found := _HOST_AND_PORT.fullmatch(address)):
            # Ray itself waits minutes for an address at which nobody is.
            socket.create_connection((found["host"], int(found["port"])), _CONNECT_S).close()
        with _same_sigterm():
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # a cluster that does not start in time is a plain Exception to Ray
        if address is None:
            raise ConfigError(
                f"cannot start a Ray cluster on this machine, nor connect to one that runs here: {error}",
                hint="leave ray= (--ray) out, or name the address of a running cluster in it",
            ) from error
        raise ConfigError(
            f"cannot connect to the Ray cluster {address!r}: {error}",
            hint="check the address in ray= (--ray), and that the cluster runs the same version of Ray",
        ) from error


@contextlib.contextmanager
def _same_sigterm() -> Iterator[None]:
    """Undo that Ray takes SIGTERM for itself: it would end the process before a checkpoint is written."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
