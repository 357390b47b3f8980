"""What int8 saves under OpenVINO against what its conversions cost (V12). The numbers are measured in benches/."""

from __future__ import annotations

import numpy as np
import pytest

from onnxq.planning.options import FAST, PlanOptions
from onnxq.planning.plan import QuantPlan
from onnxq.targets import TARGETS
from tests.graphs import normal
from tests.planned import actions, activations, planned, reason

FASTEST = PlanOptions(placement=FAST)
BLOCK = """(float[N,{c},{s},{s}] x) => (float[N,{c},{s},{s}] y) {{
[c1] a = Conv(x, w1)
[r1] ar = Relu(a)
[dw] b = Conv<pads=[2,2,2,2], group={e}>(ar, w2)
[r2] br = Relu(b)
[c2] y = Conv(br, w3)
}}"""


def block(channels: int, expanded: int, size: int, options: PlanOptions = FASTEST) -> QuantPlan:
    """Pointwise, depthwise, pointwise, as in MobileNetV2."""
    weights = {
        "w1": normal(expanded, channels, 1, 1),
        "w2": normal(expanded, 1, 5, 5),
        "w3": normal(channels, expanded, 1, 1),
    }
    return planned(BLOCK.format(c=channels, e=expanded, s=size), options=options, target="openvino", **weights)


def test_a_depthwise_conv_between_wide_ones_is_int8() -> None:
    """Its kernel takes longer in int8, and the conversions on its two sides more than that (measured)."""
    assert set(actions(block(64, 384, 14)).values()) == {"int8", "fused"}


@pytest.mark.parametrize(("outputs", "wanted"), [(1, "int8"), (2, "float")])
def test_a_depthwise_conv_of_two_outputs_for_each_channel_stays_float_without_vnni(outputs: int, wanted: str) -> None:
    """1.1 to 6 times the float kernel's time, as FastViT has them (measured)."""
    text = """(float[N,64,24,24] x) => (float[N,64,24,24] y) {
    [c1] a = Conv(x, w1)
    [dw] b = Conv<pads=[3,3,3,3], group=64>(a, w2)
    [c2] y = Conv(b, w3)
    }"""
    weights = {
        "w1": normal(64, 64, 1, 1),
        "w2": normal(64 * outputs, 1, 7, 7),
        "w3": normal(64, 64 * outputs, 1, 1),
    }
    assert actions(planned(text, options=FASTEST, target="openvino-avx2", **weights))["dw"] == wanted


@pytest.mark.parametrize(
    ("channels", "target", "wanted"),
    [
        (2, "openvino", "float"),  # 1.2 to 4.5 times the float kernel's time, with AMX and without
        (4, "openvino", "int8"),  # 0.5 to 2.2 times, and a ResNeXt-50 is faster so
        (6, "openvino", "float"),  # 1.2 to 1.4 times
        (8, "openvino", "int8"),  # 0.4 to 1.1 times
        (2, "openvino-avx2", "float"),  # 9 to 31 times
        (4, "openvino-avx2", "int8"),  # 0.55 times
        (10, "openvino-avx2", "float"),  # 4.8 times
        (12, "openvino-avx2", "int8"),  # 0.86 times
    ],
)
def test_a_filter_in_groups_of_few_channels_stays_float(channels: int, target: str, wanted: str) -> None:
    """What the kernels take is measured (`onnxq/targets/openvino_costs.py`); without VNNI it is a plain loop unless the
    channels of a group are a multiple of 4."""
    c = 32 * channels
    text = f"""(float[N,{c},28,28] x) => (float[N,{c},28,28] y) {{
    [c1] a = Conv(x, w1)
    [g] b = Conv<pads=[1,1,1,1], group=32>(a, w2)
    [c2] y = Conv(b, w3)
    }}"""
    weights = {"w1": normal(c, c, 1, 1), "w2": normal(c, channels, 3, 3), "w3": normal(c, c, 1, 1)}
    assert actions(planned(text, options=FASTEST, target=target, **weights))["g"] == wanted


def test_blocks_of_few_channels_stay_float() -> None:
    """8 to 32 channels and back on 24 x 24, as in text orientation classifiers: 24 us in float, 26 in int8 (measured).

    The Gemm alone keeps the plan from being empty.
    """
    text = """(float[N,8,24,24] x) => (float[N,256] y) {
    [c1] a = Conv(x, w1)
    [r1] ar = Relu(a)
    [dw] b = Conv<pads=[1,1,1,1], group=32>(ar, w2)
    [r2] br = Relu(b)
    [c2] c = Conv(br, w3)
    [f] d = Flatten(c)
    [fc] y = Gemm(d, w4)
    }"""
    weights = {"w1": normal(32, 8, 1, 1), "w2": normal(32, 1, 3, 3), "w3": normal(8, 32, 1, 1), "w4": normal(4608, 256)}
    plan = planned(text, options=FASTEST, target="openvino", **weights)
    found = actions(plan)
    assert {n: found[n] for n in ("c1", "dw", "c2", "fc")} == {
        "c1": "float",
        "dw": "float",
        "c2": "float",
        "fc": "int8",
    }
    assert reason(plan, "dw").startswith("int8 costs more here than it saves: about ")
    assert reason(plan, "dw").endswith(" in float [V12]")
    assert [line.split()[0] for line in activations(plan)] == ["d"]


def test_full_placement_leaves_costs_out() -> None:
    assert actions(block(8, 32, 24, PlanOptions(placement="full")))["dw"] == "int8"


def test_where_nothing_pays_the_plan_says_so_and_keeps_something() -> None:
    plan = planned(
        "(float[N,4] x) => (float[N,4] y) { [fc] y = Gemm<transB=1>(x, w) }",
        options=FASTEST,
        target="openvino",
        w=normal(4, 4),
    )
    assert actions(plan) == {"fc": "int8"}
    assert [note.partition(";")[0] for note in plan.notes] == [
        "int8 is not expected to be faster than float here: the layers are too small"
    ]
    assert "--tune latency" in plan.notes[0]
    assert not block(64, 384, 14).notes


@pytest.mark.parametrize(("between", "left"), [("Relu", "int8"), ("Softmax", "float")])
def test_codes_come_free_from_what_an_int8_kernel_computes(between: str, left: str) -> None:
    """64 features in and out on 98 rows save 2 us, less than a QuantizeLinear takes."""
    text = f"""(float[N,98,512] x) => (float[N,98,64] y) {{
    [big] a = MatMul(x, w1)
    [op] b = {between}(a)
    [small] y = MatMul(b, w2)
    }}"""
    found = actions(planned(text, options=FASTEST, target="openvino", w1=normal(512, 64), w2=normal(64, 64)))
    assert (found["big"], found["small"]) == ("int8", left)


def test_a_concat_of_codes_needs_no_conversion() -> None:
    """The squeeze layers of SqueezeNet: 64 channels to 16 pay behind int8 Convs, through a Concat or a MaxPool too."""
    text = """(float[N,64,56,56] x) => (float[N,16,56,56] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w1)
    [r1] ar = Relu(a)
    [c2] b = Conv<pads=[1,1,1,1]>(x, w1)
    [r2] br = Relu(b)
    [cat] c = Concat<axis=1>(ar, br)
    [s] y = Conv(c, w2)
    }"""
    found = actions(planned(text, options=FASTEST, target="openvino", w1=normal(32, 64, 3, 3), w2=normal(16, 64, 1, 1)))
    assert (found["c1"], found["c2"], found["s"]) == ("int8", "int8", "int8")


def test_a_gelu_counts_against_int8() -> None:
    costs = TARGETS["openvino"].costs
    assert costs is not None
    assert costs.absorbed["Gelu"].element > 0
    text = """(float[N,99,64] x) => (float[N,99,256] y) {
    [f] a = MatMul(x, w)
    [act] y = OP(a)
    }"""
    lone = {
        op: planned(text.replace("OP", op), options=FASTEST, target="openvino", w=normal(64, 256))
        for op in ("Relu", "Erf")
    }
    assert not lone["Relu"].notes
    assert lone["Erf"].notes  # nothing pays


def test_what_takes_as_long_in_int8_stays_float() -> None:
    """Query, key and value of kwt1: 25 us in float by the table, 25 in int8; the model is 5 % faster so (measured).

    The product with many features keeps the plan from being empty.
    """
    text = """(float[1,98,64] x) => (float[1,98,192] y, float[1,98,1024] z) {
    [s1] a = Softmax(x)
    [q] b = MatMul(a, w1)
    [k] c = MatMul(a, w2)
    [v] d = MatMul(a, w3)
    [j] y = Concat<axis=2>(b, c, d)
    [s2] e = Softmax<axis=1>(x)
    [up] z = MatMul(e, w4)
    }"""
    weights = {f"w{i}": normal(64, 64, seed=i) for i in (1, 2, 3)} | {"w4": normal(64, 1024)}
    found = actions(planned(text, options=FASTEST, target="openvino", **weights))
    assert [found[name] for name in ("q", "k", "v", "up")] == ["float", "float", "float", "int8"]


def test_the_numbers_are_sound() -> None:
    costs = TARGETS["openvino"].costs
    assert costs is not None
    assert costs.float_kernels.keys() == costs.int8_kernels.keys()
    assert costs.margin >= 1.0
    for law in (*costs.float_kernels.values(), *costs.int8_kernels.values(), costs.quantize, costs.dequantize):
        assert np.isfinite([law.node, law.position, law.tap, law.mac, law.tail, law.weight, law.element]).all()
