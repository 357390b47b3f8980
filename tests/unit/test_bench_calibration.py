"""Which rounds of the bench of calibration count."""

from __future__ import annotations

import time

import pytest

from benches import calibration, machine
from benches.calibration import Taken, quartile


def test_rounds_that_others_disturbed_do_not_count_where_enough_are_left():
    quiet, disturbed = Taken(wall=1.0, cpu=2.0, others=0.05), Taken(wall=0.5, cpu=1.0, others=0.2)
    assert quartile([quiet] * 5 + [disturbed] * 9) == quiet
    assert quartile([quiet] * 4 + [disturbed] * 16) == disturbed
    assert quartile([quiet] * 2) == quiet
    assert (quiet.quiet, disturbed.quiet) == (True, False)


def test_the_lower_quartile_of_each_clock():
    rounds = [Taken(wall=float(n), cpu=float(10 - n), others=0.0) for n in range(1, 6)]
    assert quartile(rounds) == Taken(wall=2.0, cpu=6.0, others=0.0)


@pytest.mark.skipif(machine.busy_seconds() is None, reason="the system does not say what its processes take")
def test_own_time_is_not_that_of_others():
    def work():
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass

    before = machine.busy_seconds()
    taken = calibration.timed(work)
    spent = machine.busy_seconds() - before
    assert taken.cpu == pytest.approx(0.3, abs=0.1)
    # Clocks of the system tick a hundred times a second.
    assert spent == pytest.approx(taken.cpu + taken.others, abs=0.05)
