"""Ray: the bytes of a run in one process, also when workers are killed. Needs the extra `ray` where marked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.calibration import ray_cluster as module
from onnxq.calibration.checkpoint import Checkpointing, load_checkpoint
from onnxq.calibration.progress import Progress
from onnxq.calibration.ray_cluster import RayCluster, check_versions, shares
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.statistics.file import encode_stats
from onnxq.data.batches import Batches
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import ConfigError, DataError, InterruptedRunError
from onnxq.graph.view import Graph
from tests.graphs import model_of, normal
from tests.planned import ORT

TEXT = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w)
    [r] ar = Exp(a)
    [c2] y = Conv<pads=[1,1,1,1]>(ar, v)
    }"""
MODEL = model_of(TEXT, w=0.1 * normal(16, 16, 3, 3), v=normal(16, 16, 3, 3, seed=1))
DATA = normal(96, 16, 8, 8)
TAPS = ("x", "a", "ar")


def opened(data: Any = DATA, **options: Any) -> Batches:
    return open_data(data, inputs=InputSpecs.from_graph(Graph(MODEL)), **options)


def whole(**options: Any) -> bytes:
    return encode_stats(collect(Graph(MODEL), TAPS, opened(), digest="d", options=CollectOptions(**options)))


# ---- without Ray -----------------------------------------------------------------------------------------------------


def test_shares_hold_every_batch_once() -> None:
    assert [len(s) for s in shares(opened().stream())] == [32, 32, 32]
    assert [len(s) for s in shares(opened(batch_size=7).stream())] == [5, 5, 4]
    assert [b.label for s in shares(opened().stream()) for b in s] == [b.label for b in opened().stream()]


def test_large_samples_make_small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARE_BYTES", 3 * DATA[0].nbytes)
    assert {len(s) for s in shares(opened().stream())} == {3}


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError) as error:
        onnxq.calibrate(MODEL, DATA, target=ORT, ray=True)
    assert str(error.value) == ("Ray is not installed\nHint: pip install 'onnxq[ray]', or leave ray= (--ray) out")


def test_workers_of_another_version_are_refused() -> None:
    here = module.versions()
    check_versions(here, dict(here))
    with pytest.raises(ConfigError) as error:
        check_versions({"onnxq": "1", "onnxruntime": "1.22.0"}, {"onnxq": "1", "onnxruntime": "1.18.0"})
    assert str(error.value) == (
        "a Ray worker has other versions, so statistics could differ: "
        "onnxq 1 (here 1), onnxruntime 1.18.0 (here 1.22.0)\n"
        "Hint: install the same versions on every node of the cluster that ray= (--ray) names"
    )


# ---- with Ray --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A local cluster with two CPUs."""
    package = pytest.importorskip("ray")
    package.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    yield package
    package.shutdown()


@pytest.fixture
def cluster(ray: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """Two workers that get four samples at a time."""
    monkeypatch.setattr(module, "SHARE_SAMPLES", 4)
    with RayCluster(Graph(MODEL), TAPS, digest="d", options=CollectOptions()) as workers:
        yield workers


def process_id(ray: Any, cluster: RayCluster, number: int) -> int:
    return int(ray.get(cluster._workers[number].__ray_call__.remote(lambda _: os.getpid())))


def killing(process: int, at: int) -> Iterator[dict[str, Any]]:
    """The samples; a worker dies while they are read."""
    for i, sample in enumerate(DATA):
        if i == at:
            os.kill(process, signal.SIGKILL)
        yield {"x": sample[None]}


@pytest.mark.ray
@pytest.mark.parametrize("threads", [None, 2])
def test_a_cluster_gives_the_bytes_of_one_process(ray: Any, threads: int | None) -> None:
    with RayCluster(Graph(MODEL), TAPS, digest="d", options=CollectOptions(threads=threads)) as cluster:
        assert len(cluster._workers) == (2 if threads is None else 1)
        assert encode_stats(cluster.collect(opened())) == whole()
    assert ray.is_initialized(), "a Ray that was there before is left alone"


@pytest.mark.ray
def test_progress(cluster: RayCluster) -> None:
    seen: list[Progress] = []
    cluster.collect(opened(batch_size=2), progress=seen.append)
    assert [p.samples for p in seen] == list(range(4, 97, 4))
    assert [p.batches for p in seen] == list(range(2, 49, 2))
    assert {p.expected_samples for p in seen} == {96}


@pytest.mark.ray
@pytest.mark.parametrize("at", [1, 17, 50, 95])
def test_a_killed_worker_costs_nothing_but_time(at: int, ray: Any, cluster: RayCluster) -> None:
    victim = process_id(ray, cluster, at % 2)
    data = opened(killing(victim, at))
    assert encode_stats(cluster.collect(data)) == whole()
    assert process_id(ray, cluster, at % 2) != victim


@pytest.mark.ray
def test_workers_that_die_again_and_again(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRIES", 0)
    monkeypatch.setattr(module, "SHARE_SAMPLES", 4)
    with RayCluster(Graph(MODEL), TAPS, digest="d", options=CollectOptions()) as cluster:
        data = opened(killing(process_id(ray, cluster, 0), 20))
        with pytest.raises(DataError) as error:
            cluster.collect(data)
    assert "Ray workers died 1 times on the same batches: " in str(error.value)
    assert "give each more CPUs, so that fewer share a node, with threads= (--threads)" in str(error.value)


@pytest.mark.ray
def test_errors_in_a_worker_are_those_of_one_process(cluster: RayCluster) -> None:
    bad = DATA.copy()
    bad[41] = 1000.0
    texts = []
    for run in (cluster.collect, lambda data: collect(Graph(MODEL), TAPS, data, digest="d")):
        with pytest.raises(DataError) as error:
            run(opened(bad))
        texts.append(str(error.value))
    assert texts[0] == texts[1]
    assert "calibration batch 42" in texts[0]


@pytest.mark.ray
def test_shards_and_checkpoints_on_a_cluster(ray: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARE_SAMPLES", 4)
    plain = onnxq.calibrate(MODEL, DATA, target=ORT, shard=(1, 2))
    asked = iter(range(1000))
    stop = Checkpointing(path=tmp_path / "c", stop=lambda: signal.SIGTERM if next(asked) > 20 else None)
    with pytest.raises(InterruptedRunError):
        onnxq.calibrate(MODEL, DATA, target=ORT, shard=(1, 2), checkpoint=stop, ray=True)
    assert load_checkpoint(tmp_path / "c").batches == 22
    again = onnxq.calibrate(MODEL, DATA, target=ORT, shard=(1, 2), checkpoint=tmp_path / "c", resume=True, ray=True)
    assert encode_stats(again) == encode_stats(plain)
    assert again.shards == plain.shards


@pytest.mark.ray
def test_empty_data_is_the_usual_error(cluster: RayCluster) -> None:
    with pytest.raises(DataError, match="no calibration data"):
        cluster.collect(opened([]))


@pytest.mark.ray
def test_a_running_cluster_is_found_and_left_running(ray: Any) -> None:
    address = ray.get_runtime_context().gcs_address
    program = (
        "import sys, signal, onnxq, numpy as np\n"
        "stats = onnxq.calibrate(sys.argv[1], np.load(sys.argv[2]), target=sys.argv[3], ray=sys.argv[4])\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
        "stats.save(sys.argv[5])"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(MODEL, folder / "m.onnx")
        np.save(folder / "d.npy", DATA)
        paths = [folder / "m.onnx", folder / "d.npy", ORT, address, folder / "m.stats"]
        subprocess.run([sys.executable, "-c", program, *map(str, paths)], check=True, timeout=120)
        stats = (folder / "m.stats").read_bytes()
    assert stats == encode_stats(onnxq.calibrate(MODEL, DATA, target=ORT))
    assert ray.get(ray.put(1)) == 1


@pytest.mark.ray
def test_cluster_that_is_not_there() -> None:
    package = pytest.importorskip("ray")
    package.shutdown()
    with pytest.raises(ConfigError) as error:
        onnxq.calibrate(MODEL, DATA[:4], target=ORT, ray="127.0.0.1:9")
    assert str(error.value).startswith("cannot connect to the Ray cluster '127.0.0.1:9': ")
    assert str(error.value).endswith(
        "Hint: check the address in ray= (--ray), and that the cluster runs the same version of Ray"
    )


@pytest.mark.ray
def test_a_local_cluster_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("ray")
    package.shutdown()

    def timed_out(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")  # noqa: TRY002 - what Ray raises

    monkeypatch.setattr(package, "init", timed_out)
    with pytest.raises(ConfigError) as error:
        onnxq.calibrate(MODEL, DATA[:4], target=ORT, ray=True)
    assert str(error.value) == (
        "cannot start a Ray cluster on this machine, nor connect to one that runs here: The current node timed out "
        "during startup.\nHint: leave ray= (--ray) out, or name the address of a running cluster in it"
    )


@pytest.mark.ray
def test_a_local_cluster_is_started_where_there_is_none() -> None:
    package = pytest.importorskip("ray")
    package.shutdown()
    done = onnxq.calibrate(MODEL, DATA[:8], target=ORT, ray=True)
    assert encode_stats(done) == encode_stats(onnxq.calibrate(MODEL, DATA[:8], target=ORT))
    assert not package.is_initialized()


SLOW = """import pathlib, time, numpy as np
def load_data():
    for i, sample in enumerate(np.load("d.npy")):
        pathlib.Path("reached").write_text(str(i))
        while i >= 13 and not pathlib.Path("go").exists():
            time.sleep(0.02)
        yield {"x": sample[None]}
"""


@pytest.mark.ray
def test_a_run_on_a_cluster_that_is_stopped_by_sigterm_can_be_resumed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    onnx.save(MODEL, tmp_path / "m.onnx")
    np.save(tmp_path / "d.npy", DATA[:24])
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-m", "onnxq", "calibrate", "m.onnx", "--data", "slow.py", "-o", "m.stats", "-t", ORT]
    process = subprocess.Popen([*command, "--ray"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (tmp_path / "reached").exists():
        time.sleep(0.05)
    while time.monotonic() < deadline and (tmp_path / "reached").read_text() != "13":
        time.sleep(0.05)
    process.terminate()
    (tmp_path / "go").touch()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143, stderr
    assert "interrupted by SIGTERM: 14 samples are done and saved in 'm.stats.checkpoint'" in stderr
    subprocess.run([*command, "--resume", "-q"], cwd=tmp_path, check=True, timeout=60)
    plain = onnxq.calibrate(MODEL, DATA[:24], target=ORT)
    assert (tmp_path / "m.stats").read_bytes() == encode_stats(plain)
