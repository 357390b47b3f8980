"""Counts in sentences."""

from __future__ import annotations

import pytest

from onnxq.report.report import Report
from onnxq.verification.check import Check, check_all
from onnxq.verification.compare import OutputError
from onnxq.wording.plural import counted


@pytest.mark.parametrize(("count", "text"), [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes")])
def test_regular_nouns(count: int, text: str) -> None:
    assert counted(count, "node") == text


def test_irregular_nouns() -> None:
    assert counted(1, "batch", "batches") == "1 batch"
    assert counted(3, "batch", "batches") == "3 batches"


def test_one_of_one() -> None:
    said = {
        subject: check_all("c", [], 1, subject).detail
        for subject in ("quantized tensors", "Q and DQ nodes", "arithmetic nodes meant to run with int8 weights")
    }
    assert list(said.values()) == [
        "1 of 1 quantized tensor", "1 of 1 Q and DQ node", "1 of 1 arithmetic node meant to run with int8 weights",
    ]  # fmt: skip
    assert check_all("c", ["x"], 1, "outputs").detail == "1 of 1 output: x"
    assert check_all("c", ["x"], 2, "outputs").detail == "1 of 2 outputs: x"


def test_one_batch_on_a_page() -> None:
    """Of another shape in one batch, with one value of NaN."""
    output = OutputError(
        name="y", sqnr_db=20.0, cosine=0.99, max_abs=0.1, peak=1.0, mismatch_share=0.5, elements=4, nonfinite=1,
        shape_mismatches=1,
    )  # fmt: skip
    check = Check(name="c", passed=True, detail="d")
    page = Report(target="t", checks=(check,), outputs=(output,)).to_html()
    assert "1 value of NaN or Inf in one model only; another shape in 1 batch" in page
    assert "1 batches" not in page


def test_one_check() -> None:
    check = check_all("outputs are sound", [], 1, "outputs")
    assert check.detail == "1 of 1 output"
    assert (
        Report(target="t", checks=(check,)).to_text() == "PASSED  1 check for t, WITHOUT ASKING ITS ENGINE\ntarget  t\n"
    )
    failed = Report(target="t", checks=(Check(name="n", passed=False, detail="d"),))
    assert failed.to_text().startswith("FAILED  1 of 1 check\n")
    assert "Passed: 1 check for t" in Report(target="t", checks=(check,)).to_html()
