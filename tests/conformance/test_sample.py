"""A sample of onnx's backend tests; `make conformance` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import __main__ as conformance
from tests.conformance.__main__ import Found, with_row
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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test_dft_rfft", "the float model's are not sound either, so quantization is not to blame; 1 of 2"),
        (
            "test_top_k_same_values_largest",
            "it computes the float model as far off, so quantization is not to blame; 1 of 3 outputs: 'indices'",
        ),
    ],
)
def test_an_engine_that_computes_the_float_model_wrong_is_named(name: str, said: str) -> None:
    """OpenVINO 2026.4 gives the real DFT another shape, and equal values another order, in the float model as well."""
    pytest.importorskip("openvino")
    index = next(i for i, (_, test) in enumerate(backend_tests()) if test.name == name)
    case = next(c for c in cases(index) if c.name.endswith("(beside)"))
    verdict = judge(case, "openvino")
    assert verdict.outcome == "float fails"
    assert verdict.detail.startswith(said)


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


def test_a_run_that_is_cut_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path, one, other = (
        tmp_path / "state.jsonl",
        [Verdict("a", "node", "int8")],
        [Verdict("b", "node", "refused", "why")],
    )
    state = Found(path, {"onnx": "1"})
    state.keep(0, one, 1.5)
    state.keep(3, other, 2.5)
    with path.open("a") as file:
        file.write('[4, 1.0, [{"name": "c", "ki')  # killed while it wrote
    again = Found(path, {"onnx": "1"})
    assert again.verdicts == {0: one, 3: other}
    assert again.seconds == 4.0
    again.keep(4, one, 1.0)
    assert Found(path, {"onnx": "1"}).verdicts == {0: one, 3: other, 4: one}
    assert Found(path, {"onnx": "2"}).verdicts == {}
    assert Found(path, {"onnx": "1"}).verdicts == {}, "another version made the file anew"


def test_parts_of_a_run_are_those_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Conformance\n")
    monkeypatch.setattr(conformance, "PAGE", page)
    monkeypatch.setattr(conformance, "STATE", tmp_path / "state")
    monkeypatch.setattr(conformance, "tests", lambda: backend_tests()[:3])
    assert conformance.main(["--target", "qnn", "--minutes", "0"]) == 2
    assert page.read_text() == "# Conformance\n"
    assert conformance.main(["--target", "qnn"]) == 0
    forms = [judge(form, "qnn") for index in range(3) for form in cases(index)]
    assert with_row("# Conformance\n", "qnn", "static", forms) == page.read_text()
    assert list((tmp_path / "state").iterdir()) == []
