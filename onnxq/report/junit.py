"""Checks as a JUnit XML file, which CI servers show as tests.

The form is the one that Jenkins, GitLab and GitHub's actions read: <testsuites><testsuite><testcase>; a check that
failed has a <failure>. There is no official schema; the attributes written here are those that all of them know
(https://github.com/testmoapp/junitxml). A command that ends with an error has one test case with an <error>, so that no
file of an earlier run is taken for its result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Xml

from onnxq.verification.check import Check
from onnxq.version import VERSION

if TYPE_CHECKING:
    from onnxq.report.report import Report

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML 1.0 document may hold (https://www.w3.org/TR/xml/#charsets)."""


def report_junit(report: Report) -> str:
    """The checks of a report as JUnit XML.

    Args:
        report: Of a quantization or verification, with the gates that were asked for.
    """
    name = report.model_name or "model"
    worst = report.worst_sqnr_db
    facts = {
        "target": report.target,
        "method": report.method,
        "worst_sqnr_db": None if worst is None else f"{worst:.2f}",
        "int8_share": None if report.proven is None else f"{report.proven.int8_share:.4f}",
        "size_bytes": str(report.size_after_bytes) if report.size_after_bytes else None,
    }
    checks = report.checks or (Check(name="something was checked", passed=False, detail="nothing was checked"),)
    seconds = sum(report.seconds.values())
    return junit(f"onnxq {name}", checks, facts=facts, output=report.to_text(), seconds=seconds)


def error_junit(suite: str, kind: str, message: str) -> str:
    """JUnit XML of a command that could not do what it was asked for.

    Args:
        suite: The command.
        kind: Name of the error's class.
        message: What was said of it.
    """
    counts = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0", "time": "0"}
    root, element = _suite(suite, counts, {})
    case = Xml.SubElement(element, "testcase", {"name": "ran to its end", "classname": _text(suite), "time": "0"})
    first = message.split("\n", 1)[0]
    Xml.SubElement(case, "error", {"message": _text(first), "type": kind}).text = _text(message)
    return _document(root)


def junit(
    suite: str, checks: Sequence[Check], *, facts: Mapping[str, str | None], output: str, seconds: float = 0.0
) -> str:
    """A JUnit XML document of one suite.

    Args:
        suite: What was checked; stands as class name of each case.
        checks: One test case for each.
        facts: Properties of the suite; those that are None are left out.
        output: What a person reads beside it.
        seconds: Time that all of it took.
    """
    failed = sum(not check.passed for check in checks)
    counts = {
        "tests": str(len(checks)),
        "failures": str(failed),
        "errors": "0",
        "skipped": "0",
        "time": f"{seconds:.3f}",
    }
    root, element = _suite(suite, counts, facts)
    for check in checks:
        case = Xml.SubElement(element, "testcase", {"name": _text(check.name), "classname": _text(suite), "time": "0"})
        if check.passed:
            Xml.SubElement(case, "system-out").text = _text(check.detail)
        else:
            failure = Xml.SubElement(case, "failure", {"message": _text(check.detail), "type": "check"})
            failure.text = _text(f"{check.name}: {check.detail}")
    Xml.SubElement(element, "system-out").text = _text(output)
    return _document(root)


def _suite(suite: str, counts: dict[str, str], facts: Mapping[str, str | None]) -> tuple[Xml.Element, Xml.Element]:
    """The root of a document and its only suite, which has its properties and no case yet."""
    root = Xml.Element("testsuites", {"name": "onnxq", **counts})
    element = Xml.SubElement(root, "testsuite", {"name": _text(suite), **counts})
    properties = Xml.SubElement(element, "properties")
    for key, value in {"onnxq": VERSION, **facts}.items():
        if value is not None:
            Xml.SubElement(properties, "property", {"name": key, "value": _text(value)})
    return root, element


def _document(root: Xml.Element) -> str:
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode", xml_declaration=False).join(
        ('<?xml version="1.0" encoding="UTF-8"?>\n', "\n")
    )


def _text(value: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", value)
