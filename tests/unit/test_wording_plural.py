"""Counts in sentences."""

from __future__ import annotations

import pytest

from onnxq.report.report import Report
from onnxq.verification.check import Check, check_all
from onnxq.wording.plural import counted


@pytest.mark.parametrize(("count", "text"), [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes")])
def test_regular_nouns(count: int, text: str) -> None:
    assert counted(count, "node") == text


def test_irregular_nouns() -> None:
    assert counted(1, "batch", "batches") == "1 batch"
    assert counted(3, "batch", "batches") == "3 batches"


def test_one_check() -> None:
    check = check_all("outputs are sound", [], 1, "outputs")
    assert check.detail == "1 of 1 outputs"
    assert (
        Report(target="t", checks=(check,)).to_text() == "PASSED  1 check for t, WITHOUT ASKING ITS ENGINE\ntarget  t\n"
    )
    failed = Report(target="t", checks=(Check(name="n", passed=False, detail="d"),))
    assert failed.to_text().startswith("FAILED  1 of 1 check\n")
    assert "Passed: 1 check for t" in Report(target="t", checks=(check,)).to_html()
