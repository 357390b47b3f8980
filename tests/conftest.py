"""Options of the whole test suite."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The same examples in every run of CI; elsewhere new ones each time, so that the search goes on. No deadline: a busy
# machine is no fault of the code.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "search")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")
