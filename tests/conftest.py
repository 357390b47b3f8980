"""Options of the whole test suite."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest
from hypothesis import settings

# The same examples in every run of CI; elsewhere new ones each time, so that the search goes on. No deadline: a busy
# machine is no fault of the code.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "search")

# Tests import onnxruntime themselves; as under onnxq it is to send nothing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A shell ignores Ctrl-C for what it puts in the background, and the processes that tests interrupt inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")
