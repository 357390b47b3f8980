"""A sample of onnx's backend tests; `make conformance` runs all of them."""

from __future__ import annotations

import pytest

from tests.conformance.__main__ import with_row
from tests.conformance.cases import cases
from tests.conformance.cases import tests as backend_tests
from tests.conformance.judge import Verdict, judge

EVERY = 61
"""About 33 tests, in up to three forms each, in some 10 seconds; a prime, so that no family of tests is favoured."""


@pytest.mark.parametrize("index", range(7, len(backend_tests()), EVERY))
def test_model_comes_out_right_or_with_a_typed_error(index: int) -> None:
    try:
        forms = cases(index)
    except ValueError as error:  # data of optional types, with onnx 1.19
        pytest.skip(f"this onnx does not read the data of its own test: {error}")
    verdicts = [judge(case) for case in forms]
    assert [v for v in verdicts if v.outcome == "wrong"] == []


def test_an_engine_that_computes_the_float_model_wrong_is_named() -> None:
    """OpenVINO 2026.4 gives the real DFT another shape, in the float model as well."""
    pytest.importorskip("openvino")
    index = next(i for i, (_, test) in enumerate(backend_tests()) if test.name == "test_dft_rfft")
    case = next(c for c in cases(index) if c.name.endswith("(beside)"))
    verdict = judge(case, "openvino")
    assert verdict.outcome == "float fails"
    assert verdict.detail.startswith("the float model's are not sound either, so quantization is not to blame; 1 of 2")


def test_the_page_has_a_row_for_each_target_and_mode() -> None:
    verdicts = [Verdict("a", "node", "int8"), Verdict("b", "node", "nothing"), Verdict("c", "simple", "int8")]
    page = with_row("# Conformance\n\nA table.\n", "xnnpack", "static", verdicts)
    page = with_row(page, "qnn", "static", verdicts[:1])
    page = with_row(page, "qnn", "static", verdicts[:2])
    assert page.startswith("# Conformance\n\nA table.\n\n## Other targets and modes\n")
    assert page.endswith(
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| qnn | static | 1 | 1 | 0 | 0 | 0 |\n| xnnpack | static | 2 | 1 | 0 | 0 | 0 |\n"
    )
