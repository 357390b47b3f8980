"""Runs on threads of their own: their order, what waits, what fails."""

import threading
import time

import pytest

from onnxq.calibration.taps import run_queue
from onnxq.calibration.taps.run_queue import RunQueue


def names():
    return [t.name for t in threading.enumerate() if t.name.startswith("onnxq-runs")]


@pytest.mark.parametrize("at_once", [1, 2, 3])
@pytest.mark.parametrize("task_seconds", [0.0, 1e-3, 10.0])
def test_outcomes_come_in_the_order_of_the_runs(monkeypatch, at_once, task_seconds):
    monkeypatch.setattr(run_queue, "TASK_SECONDS", task_seconds)

    def run(number):
        time.sleep(0.002 * (number % 3))
        return number

    with RunQueue(at_once) as queue:
        found = [o for i in range(40) for o in queue.begin(lambda i=i: run(i), 1)]
        assert len(found) < 40 or at_once == 1
        found += queue.rest()
    assert found == list(range(40))
    assert names() == []


@pytest.mark.parametrize(("limit", "most"), [(10**9, 2 + run_queue.WAITING_TASKS), (0, 3)])
def test_what_waits_is_bounded(monkeypatch, limit, most):
    """A run is begun only once no more are on their way than threads and those that may wait."""
    monkeypatch.setattr(run_queue, "WAITING_BYTES", limit)
    monkeypatch.setattr(run_queue, "MOST_RUNS", 1)
    begun = landed = 0
    with RunQueue(2) as queue:
        for _ in range(20):
            begun += 1
            landed += len(list(queue.begin(lambda: None, 100)))
            assert begun - landed <= most
        assert begun - landed == most
        landed += len(list(queue.rest()))
    assert begun == landed


def test_short_runs_go_together_long_ones_alone(monkeypatch):
    sizes = []
    timed = RunQueue._timed
    monkeypatch.setattr(RunQueue, "_timed", lambda self, runs: sizes.append(len(runs)) or timed(self, runs))
    for seconds in (0.0, 0.005):
        sizes.clear()
        with RunQueue(2) as queue:
            for _ in range(50):
                list(queue.begin(lambda s=seconds: time.sleep(s), 1))
            list(queue.rest())
        assert (max(sizes) > 1) == (seconds == 0.0)


@pytest.mark.parametrize("at_once", [1, 2])
def test_an_error_ends_everything(at_once):
    def fail():
        raise MemoryError

    queue = RunQueue(at_once)
    with pytest.raises(MemoryError), queue:
        for _ in range(20):
            list(queue.begin(fail, 1))
        list(queue.rest())
    assert names() == []
