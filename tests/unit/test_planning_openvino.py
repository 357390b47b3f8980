"""Placement for OpenVINO: the one operator whose activations have another form (V2), Convs that are wrong (V14)."""

from __future__ import annotations

import pytest

import onnxq
from onnxq.planning.options import FAST, PlanOptions
from onnxq.planning.plan import Action
from onnxq.verification.engines.openvino import is_installed
from tests.graphs import model_of, normal
from tests.planned import activations, planned

SIGNED = "(float[1,16,8,8] x) => (float[1,16,16,16] y) { [t] y = ConvTranspose<strides=[2,2]>(x, w) }"
POSITIVE = "(float[1,16,8,8] x) => (float[1,16,16,16] y) { r = Relu(x) [t] y = ConvTranspose<strides=[2,2]>(r, w) }"
CONV = "(float[1,16,8,8] x) => (float[1,16,6,6] y) { [c] y = Conv(x, w) }"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(SIGNED, "x s8 observed -> t.0"), (POSITIVE, "r u8 observed[0,] -> t.0"), (CONV, "x u8 observed -> c.0")],
    ids=["signed", "positive", "conv"],
)
def test_conv_transpose_takes_int8_where_values_are_negative(text: str, expected: str) -> None:
    shape = (16, 16, 3, 3) if text is CONV else (16, 16, 2, 2)
    assert activations(planned(text, target="openvino", w=normal(*shape))) == [expected]


@pytest.mark.skipif(not is_installed(), reason="OpenVINO is not installed")
@pytest.mark.parametrize("text", [SIGNED, POSITIVE], ids=["signed", "positive"])
def test_and_runs_in_int8(text: str) -> None:
    data = [{"x": normal(1, 16, 8, 8, seed=i)} for i in range(4)]
    report = onnxq.quantize(model_of(text, w=normal(16, 16, 2, 2)), data, target="openvino").report
    assert report.passed, report.failed_checks
    assert {r.node: r.executed for r in report.layers}["t"] == "int8"


BESIDE = """(float[1,16,8,8] x) => (float[1,8,8,8] y) {
[m] s, t = Split<axis=1>(x)
[c] c = Conv(s, v)
[d] d = OP
e = Add(c, d)
[h] h = Conv(x, u)
y = Add(e, h)
}"""
WEIGHTS = {"v": normal(8, 8, 1, 1), "u": normal(8, 16, 1, 1, seed=1)}


@pytest.mark.parametrize(("op", "read"), [("Conv(t, v)", True), ("Sigmoid(t)", False)], ids=["codes", "float"])
def test_v13_a_split_reads_the_pair_of_its_input_where_codes_are_wanted_behind_it(op: str, read: bool) -> None:
    plan = planned(BESIDE.replace("OP", op), target="openvino", **WEIGHTS)
    readers = {use.node for use in plan.tensors["x"].uses}
    assert readers == ({"h", "m"} if read else {"h"})
    assert (plan.tensors["s"].group == plan.tensors["x"].group is not None) == read


@pytest.mark.parametrize(
    ("channels", "groups", "filters", "stays_float"),
    [
        (24, 8, (3, 3), True),  # a row of 72 codes
        (16, 8, (3, 3), False),  # of 48
        (24, 8, (3, 1), False),  # of 24
        (32, 8, (3, 3), False),  # groups deep enough
        (1, 64, (7, 99), False),  # depthwise
        (16, 1, (8,), True),  # of 128, which 64 divides
        (24, 1, (3,), False),  # of 72
    ],
)
def test_convs_with_long_rows_of_few_channels_stay_float(
    channels: int, groups: int, filters: tuple[int, ...], stays_float: bool
) -> None:
    sizes = ",".join("100" for _ in filters)
    text = f"(float[1,{channels * groups},{sizes}] x) => (float[1,{16 * groups},{sizes.replace('100', 'M')}] y)"
    weight = normal(16 * groups, channels, *filters)
    plan = planned(f"{text} {{ [c] y = Conv<group = {groups}>(x, w) }}", target="openvino", w=weight)
    (found,) = plan.nodes
    assert (found.rule == "V14") is stays_float
    if stays_float:
        assert found.reason.startswith("OpenVINO computes it wrongly on CPUs with AMX: a row of its filter holds ")


PRODUCT = """(float[1,64,28,28] x) => (float[1,28,28,256] y) {
[c] c = Conv<pads=[1,1,1,1]>(x, w)
t = Transpose<perm=[0,2,3,1]>(c)
[m] y = MatMul(t, u)
}"""


@pytest.mark.parametrize(("target", "int8"), [("openvino", ["c", "m"]), ("openvino-avx2", ["c"])])
def test_v12_without_vnni_products_stay_float(target: str, int8: list[str]) -> None:
    """784 rows of 64 by 256: OpenVINO takes longer for such in int8 on AVX2, with VNNI a third of the time."""
    options = PlanOptions(placement=FAST)
    plan = planned(PRODUCT, target=target, options=options, w=normal(64, 64, 3, 3), u=normal(64, 256))
    assert [d.node for d in plan.nodes if d.action is Action.INT8] == int8
