"""The part of a report that is about nodes: reasons of one kind together, and tables of nodes."""

from __future__ import annotations

from onnxq.report.contents import LayerRow, NodeCounts
from onnxq.report.report import Report
from onnxq.report.text import float_table, nodes_table, plain, summary
from onnxq.verification.check import Check
from onnxq.verification.lint_tensorrt import Violation

CHECK = Check(name="engine builds", passed=True, detail="built")


def row(node: str, op: str, why: str, *, executed: str = "float") -> LayerRow:
    return LayerRow(node=node, op=op, decision="", reason="", rule="C1", executed=executed, engine_op=op, why=why)


def report(*rows: LayerRow) -> Report:
    return Report(target="ort-x64-vnni", checks=(CHECK,), layers=rows)


def test_reasons_that_differ_in_names_and_values_are_told_once() -> None:
    rows = [row(f"c{i}", "Conv", f"its zero-point is {i}, and Relu 'r{i}' stays") for i in range(3)]
    text = " ".join(plain(summary(report(*rows, row("t", "Tanh", "no kernel")))).split())
    assert "3 x like Conv 'c0': its zero-point is 0, and Relu 'r0' stays 1 x no kernel" in text


def test_kinds_beyond_the_first_are_counted() -> None:
    kinds = [row(f"n{letter}", "Tanh", f"reason {letter}") for letter in "abcdefg"]
    assert "and 2 more" in plain(summary(report(*kinds)))


def test_nodes_with_weights_come_first_and_the_rest_are_counted() -> None:
    rows = [row(f"c{i}", "Conv", "why") for i in range(12)] + [row("t", "Tanh", "why")]
    table = float_table(report(*rows, row("ok", "Conv", "", executed="int8")))
    assert table is not None
    text = plain(table)
    assert "c9" in text
    assert "c10" not in text
    assert "3 more nodes in float; --nodes shows every node" in text
    assert "ok" not in text


def test_only_nodes_without_weights_or_none_at_all() -> None:
    table = float_table(report(row("t", "Tanh", "why")))
    assert table is not None
    assert plain(table) == "1 node in float; --nodes shows every node\n"
    assert float_table(report(row("ok", "Conv", "", executed="int8"))) is None


def test_a_table_escapes_what_looks_like_markup() -> None:
    assert "[red]x" in plain(nodes_table(report(), [row("[red]x", "Conv", "why [bold]")]))


def test_a_target_whose_engine_tells_nothing_of_nodes() -> None:
    found = Report(
        target="tensorrt",
        checks=(CHECK,),
        asked=NodeCounts(int8=3, fused=2, float=1),
        violations=(Violation(rule="R1", node="q", message="wrong", hint="mend"),),
    )
    assert "by its Q/DQ  6 nodes: 3 int8, 2 fused into them, 1 float (by the target's rules" in plain(summary(found))
    assert "by its Q/DQ" in found.to_html()
    assert found.to_dict()["violations"] == [{"rule": "R1", "node": "q", "message": "wrong", "hint": "mend"}]
