"""The report as data, text and HTML."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from onnxq.graph.view import Graph, Use
from onnxq.numerics.qparams import QuantParams
from onnxq.numerics.qtypes import INT8, UINT8
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.plan import (
    Action,
    Derived,
    Fixed,
    FromValues,
    NodeDecision,
    Observed,
    QuantPlan,
    Role,
    SharedWith,
    TensorPlan,
)  # fmt: skip
from onnxq.report.build import RunFacts, build_report, int8_mac_share
from onnxq.report.contents import DataFacts, NodeCounts
from onnxq.report.report import SCHEMA, Report
from onnxq.report.wording import output_text
from onnxq.verification.check import Check
from onnxq.verification.compare import OutputError
from onnxq.verification.verify import verify_model
from onnxq.wording.sizes import size_text
from tests.json_schemas import problems
from tests.verify_models import conv_feeds, float_conv, int8_conv, tensorrt_conv

U8 = QuantSpec(qtype=UINT8, symmetric=False)
S8 = QuantSpec(qtype=INT8, symmetric=True, axis=0)
MADE_UP = DataFacts(source="synthetic", samples=0, held_out_samples=4, synthetic=False, synthetic_comparison=True)
EVIL = "<script>alert(1)</script>"


def _tensor(name, role, spec, source, group=None):
    return TensorPlan(name=name, role=role, spec=spec, source=source, uses=(Use("Conv_c", 0),), group=group)


def _plan() -> QuantPlan:
    tensors = [
        _tensor("x", Role.ACTIVATION, U8, Observed(lower=0.0), group="g"),
        _tensor("w", Role.WEIGHT, S8, FromValues()),
        _tensor("r", Role.ACTIVATION, U8, SharedWith("x"), group="g"),
        _tensor("p", Role.ACTIVATION, U8, Fixed(0.0, 1.0)),
        _tensor("b", Role.BIAS, S8, Derived("x", "w")),
    ]
    nodes = (
        NodeDecision(node="Conv_c", op="Conv", action=Action.INT8, reason="has an int8 kernel", rule="C4", macs=300),
        NodeDecision(node="Relu_r", op="Relu", action=Action.FUSED, reason="clips as the codes do", rule="C5"),
        NodeDecision(node=EVIL, op="Tanh", action=Action.FLOAT, reason="no int8 kernel", rule="C10", macs=100),
    )
    return QuantPlan(
        target="ort-x64-vnni", opset=17, tensors={t.name: t for t in tensors}, nodes=nodes, digest="d",
        notes=("picked for this machine",),
    )  # fmt: skip


def _qparams() -> dict[str, QuantParams]:
    per_tensor = QuantParams(scale=np.float32(0.5), zero_point=np.uint8(10), spec=U8)
    per_channel = QuantParams(scale=np.float32([0.5, 0.25, 1, 2, 3]), zero_point=np.zeros(5, np.int8), spec=S8)
    return {"x": per_tensor, "r": per_tensor, "p": per_tensor, "w": per_channel, "b": per_channel}


@pytest.fixture(scope="module")
def report() -> Report:
    found = verify_model(Graph(float_conv()), int8_conv(), conv_feeds(), "ort-x64-vnni")
    facts = RunFacts(
        method="entropy", size_before_bytes=4_000_000, size_after_bytes=1_000_000, output_path="out/m.int8.onnx",
        data=DataFacts(source="calib.npz", samples=64, held_out_samples=2, synthetic=True), warnings=("second",),
        seconds={"calibrate": 1.25},
    )  # fmt: skip
    return build_report(found, facts, plan=_plan(), qparams=_qparams())


def test_report_joins_plan_parameters_and_engine(report):
    assert report
    assert report.planned == NodeCounts(int8=1, fused=1, float=1)
    assert report.proven == NodeCounts(int8=1, fused=1, float=0)
    assert report.int8_mac_share == 0.75
    conv = report.layers[0]
    assert (conv.decision, conv.executed, conv.engine_op, conv.rule) == ("int8", "int8", "QLinearConv", "C4")
    assert report.layers[2].executed == ""
    x = report.tensors[0]
    assert (x.rmin, x.rmax, x.scale, x.zero_point) == (-5.0, 122.5, (0.5,), (10,))
    assert [t.source for t in report.tensors] == [
        "observed, cut at 0", "shared with 'x'", "fixed to [0, 1]", "its own values", "derived from 'x' and 'w'",
    ]  # fmt: skip
    assert report.tensors[3].rmin == -128 * 3.0


def test_int8_share_of_nodes():
    assert NodeCounts(int8=2, fused=1, float=1).int8_share == 0.75
    assert NodeCounts(int8=0, fused=0, float=0).int8_share == 0.0


def test_synthetic_data_is_the_first_warning(report):
    assert report.warnings[0].startswith("The ranges come from SYNTHETIC inputs")
    assert "(--data SRC)" in report.warnings[0]
    assert report.warnings[1] == "second"


@pytest.mark.parametrize(
    ("method", "data", "told"),
    [
        ("percentile 99.9 %", None, "More samples, another method=... (--method) or keeping the first and last layers"),
        (None, None, "More samples, another method=... (--method) or keeping the first and last layers"),
        ("training", None, "before deploying. Keeping the first and last layers in float"),
        ("training", MADE_UP, "Made-up inputs may"),
    ],
)
def test_the_way_to_nearer_outputs_is_one_that_there_is(method, data, told):
    # The ranges of a training are kept: neither samples nor a method change them.
    found = verify_model(Graph(float_conv()), int8_conv(), conv_feeds(), "ort-x64-vnni")
    far = replace(found, outputs=(replace(found.outputs[0], name="y", sqnr_db=4.1),))
    warnings = build_report(far, RunFacts(method=method, data=data)).warnings
    assert [told in w for w in warnings if w.startswith("Output 'y' is far from the float model's (4.1 dB")] == [True]


def test_a_report_without_a_plan_shows_what_the_engine_did():
    found = verify_model(Graph(float_conv()), tensorrt_conv(), conv_feeds(), "ort-x64-vnni")
    report = build_report(found, RunFacts())
    assert not report
    assert report.planned is None
    assert [(r.node, r.executed) for r in report.layers] == [("Conv_c", "float"), ("Relu_y", "float")]
    assert "left in float" in report.to_text()


def test_a_failed_gate_fails_the_report():
    found = verify_model(Graph(float_conv()), int8_conv(), conv_feeds(), "ort-x64-vnni")
    gate = Check(name="min-sqnr", passed=False, detail="30 dB asked for, 20 dB measured")
    report = build_report(found, RunFacts(), extra_checks=(gate,))
    assert report.failed_checks == (gate,)
    assert "failed: min-sqnr: 30 dB asked for, 20 dB measured" in report.to_text()


def test_a_report_without_checks_has_not_passed():
    report = Report(target="tensorrt", checks=())
    assert not report.passed
    assert "NOT PASSED  nothing was checked for tensorrt" in report.to_text()
    assert "Not passed: nothing was checked for tensorrt" in report.to_html()


def test_int8_mac_share_is_unknown_without_macs():
    plan = QuantPlan(target="t", opset=17, tensors={}, nodes=(), digest="d")
    assert int8_mac_share(plan) is None


def test_json_is_strict_and_has_the_documented_keys(report):
    data = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert data["schema"] == SCHEMA == "onnxq.report/1"
    assert data["passed"] is True
    assert problems(data) == []
    assert data["planned"] == {"int8": 1, "fused": 1, "float": 1, "weights": 0, "other": 0}
    assert data["engine"]["name"] == "onnxruntime"
    assert data["tensors"][0]["scale"] == [0.5]


def test_json_says_exact_where_sqnr_is_infinite():
    exact = OutputError(name="y", sqnr_db=math.inf, cosine=1.0, max_abs=0.0, peak=1.0, mismatch_share=0.0, elements=4)
    data = json.loads(Report(target="t", checks=(), outputs=(exact,)).to_json(indent=None))
    assert (data["outputs"][0]["sqnr_db"], data["outputs"][0]["exact"]) == (None, True)


def test_worst_sqnr():
    outputs = tuple(
        OutputError(name="y", sqnr_db=s, cosine=1.0, max_abs=0.0, peak=1.0, mismatch_share=0.0, elements=4)
        for s in (40.0, None, 30.0)
    )
    assert Report(target="t", checks=(), outputs=outputs).worst_sqnr_db == 30.0
    assert Report(target="t", checks=()).worst_sqnr_db is None


def test_summary_fits_a_screen_and_has_no_control_codes(report):
    text = report.to_text(width=80)
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text
    assert lines[0] == "PASSED  4 checks for ort-x64-vnni"
    for part in ("1 int8, 1 fused into them, 1 float", "75.0% of the arithmetic", "4.0 MB to 1.0 MB", "SQNR",
                 "64 samples from calib.npz", "calibrate 1.2 s", "out/m.int8.onnx", "1 x no int8 kernel"):  # fmt: skip
        assert part in " ".join(text.split())


def test_names_with_square_brackets_are_not_taken_for_markup():
    report = Report(target="t", checks=(), output_path="[red]/a[/red].onnx")
    assert "[red]/a[/red].onnx" in report.to_text()


def test_many_outputs_are_cut_off():
    one = OutputError(name="y", sqnr_db=30.0, cosine=1.0, max_abs=0.0, peak=1.0, mismatch_share=0.0, elements=4)
    assert "and 3 more outputs" in Report(target="t", checks=(), outputs=(one,) * 8).to_text()


class _Page(HTMLParser):
    """Collects tags, and complains about ones left open."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag not in ("meta", "input", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_is_self_contained_and_well_formed(report):
    html = report.to_html()
    page = _Page()
    page.feed(html)
    assert page.open == []
    assert [link for link in page.links if not link.startswith(("data:", "#"))] == []
    assert html.count("://") == html.count("http://www.w3.org/2000/svg")  # the name of SVG, which nobody fetches
    assert "default-src 'none'" in html
    for line in ("onnxruntime", "4.0 MB to 1.0 MB", "Calibrate on real data", "out/m.int8.onnx"):
        assert line in html


def test_what_comes_from_the_model_stays_text(report):
    html = report.to_html()
    assert EVIL not in html
    data = json.loads(html.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert data["runs"][0]["layers"][2]["node"] == EVIL
    named = Report(target="t", checks=(), model_name=EVIL, notes=(EVIL,), warnings=(EVIL,), output_path=EVIL)
    assert EVIL not in named.to_html()


def test_the_page_has_the_scales_of_all_channels_and_their_ends(report):
    html = report.to_html()
    data = json.loads(html.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    weight = next(t for t in data["runs"][0]["tensors"] if t["name"] == "w")
    assert (weight["channels"], weight["least_scale"], weight["largest_scale"]) == (5, 0.25, 3.0)
    assert weight["scale"] == [0.5, 0.25, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (1500, "1.5 kB"), (14_307_948, "14.3 MB"), (3.2e9, "3.2 GB")]
)
def test_size_text(size, text):
    assert size_text(size) == text


def test_output_text():
    base = {"name": "y", "peak": 1.0, "elements": 4}
    near = OutputError(sqnr_db=31.26, cosine=0.99912, max_abs=0.125, mismatch_share=1.0, **base)
    same = OutputError(sqnr_db=math.inf, cosine=1.0, max_abs=0.0, mismatch_share=0.0, **base)
    labels = OutputError(sqnr_db=None, cosine=None, max_abs=1.0, mismatch_share=0.25, **base)
    broken = OutputError(
        sqnr_db=1.0, cosine=0.5, max_abs=1.0, mismatch_share=1.0, nonfinite=2, shape_mismatches=1, **base
    )
    assert output_text(near) == "SQNR 31.3 dB, cosine 0.99912, largest error 0.125"
    spread = replace(near, worst_batch_sqnr_db=20.04, median_batch_sqnr_db=33.3)
    assert output_text(spread).startswith("SQNR 31.3 dB (of a batch: worst 20.0, median 33.3), cosine ")
    alone = replace(near, worst_batch_sqnr_db=31.26, median_batch_sqnr_db=31.26)
    assert output_text(alone) == output_text(near)
    assert output_text(same) == "equal to float"
    assert output_text(labels) == "25.00% of the values differ"
    assert output_text(broken).endswith("; 2 values of NaN or Inf in one model only; another shape in 1 batch")


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(4_000_000, 1_000_000, "4.0 MB to 1.0 MB (4.0 times smaller)"), (1_040_000, 1_000_000, "1.0 MB to 1.0 MB"),
     (1_000_000, 1_200_000, "1.0 MB to 1.2 MB")],
)  # fmt: skip
def test_sizes_that_hardly_differ_are_not_called_smaller(report, before, after, text):
    lines = replace(report, size_before_bytes=before, size_after_bytes=after).to_text().splitlines()
    (line,) = [line for line in lines if line.startswith("size")]
    assert line.split(maxsplit=1)[1].strip() == text
