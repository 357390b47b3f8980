"""How long the search for faults goes on: a moment in the ordinary tests, as long as one likes in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("ONNXQ_FUZZ", "1"))


def budget(examples: int) -> settings:
    """Settings for so many examples: the same ones in every ordinary run, many more and new ones under ONNXQ_FUZZ."""
    return settings(
        max_examples=examples * FACTOR,
        deadline=None,
        derandomize=FACTOR == 1,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
