"""JUnit XML: what servers read of it, and what cannot stand in XML."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from onnxq.report.junit import junit, report_junit
from onnxq.report.report import Report
from onnxq.verification.check import Check

CHECKS = (
    Check(name="engine builds", passed=True, detail="built"),
    Check(name="SQNR at least 30 dB", passed=False, detail='the worst output has <3 dB & is "bad"'),
)


def test_checks_are_cases_and_counts_are_theirs() -> None:
    root = Xml.fromstring(
        junit("onnxq m", CHECKS, facts={"target": "tensorrt", "method": None}, output="", seconds=1.5)
    )
    (suite,) = root
    for element in (root, suite):
        counts = {key: element.get(key) for key in ("tests", "failures", "errors", "skipped", "time")}
        assert counts == {"tests": "2", "failures": "1", "errors": "0", "skipped": "0", "time": "1.500"}
    assert [(case.get("name"), case.get("classname")) for case in suite.iter("testcase")] == [
        ("engine builds", "onnxq m"),
        ("SQNR at least 30 dB", "onnxq m"),
    ]
    (failure,) = suite.iter("failure")
    assert failure.get("message") == 'the worst output has <3 dB & is "bad"'
    assert {p.get("name") for p in suite.iter("property")} == {"onnxq", "target"}


def test_characters_that_xml_forbids_are_replaced() -> None:
    odd = Check(name="a\x00b\x1b", passed=False, detail="\ufffe")
    (case,) = Xml.fromstring(junit("m", (odd,), facts={}, output="\x07")).iter("testcase")
    assert case.get("name") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


def test_a_report_that_checked_nothing_is_no_success() -> None:
    root = Xml.fromstring(report_junit(Report(target="tensorrt", checks=())))
    assert root.get("failures") == "1"
