"""What int8 saves against what its conversions cost (C17). The numbers themselves are measured in benches/."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxq.errors import ConfigError
from onnxq.planning.options import FAST, PlanOptions
from onnxq.planning.plan import QuantPlan
from onnxq.targets import TARGETS
from tests.graphs import normal
from tests.planned import actions, activations, planned, reason

FASTEST = PlanOptions(placement=FAST)
BLOCK = """(float[N,{c},{s},{s}] x) => (float[N,{c},{s},{s}] y) {{
[c1] a = Conv(x, w1)
[r1] ar = Relu(a)
[dw] b = Conv<pads=[2,2,2,2], group={c}>(ar, w2)
[r2] br = Relu(b)
[c2] y = Conv(br, w3)
}}"""


def block(channels: int, size: int, options: PlanOptions = FASTEST, target: str = "ort-x64-vnni") -> QuantPlan:
    """Pointwise, depthwise, pointwise."""
    weights = {
        "w1": normal(channels, channels, 1, 1),
        "w2": normal(channels, 1, 5, 5),
        "w3": normal(channels, channels, 1, 1),
    }
    return planned(BLOCK.format(c=channels, s=size), options=options, target=target, **weights)


def test_wide_layers_are_int8() -> None:
    assert set(actions(block(256, 28)).values()) == {"int8", "fused"}


def test_a_depthwise_conv_of_few_channels_stays_float() -> None:
    """16 channels: the int8 kernel takes six times as long (measured), more than the pairs around a float one."""
    plan = block(16, 112)
    assert actions(plan)["dw"] == "float"
    assert reason(plan, "dw").startswith("int8 costs more here than it saves: about ")
    assert reason(plan, "dw").endswith("in float [C17]")


def test_full_placement_leaves_costs_out() -> None:
    assert actions(block(16, 112, PlanOptions(placement="full")))["dw"] == "int8"


def test_a_target_that_was_not_measured_has_no_such_rule() -> None:
    assert TARGETS["ort-arm64"].costs is None
    assert actions(block(16, 112, target="ort-arm64"))["dw"] == "int8"


def test_a_tiny_model_keeps_something_in_int8() -> None:
    plan = planned(
        "(float[N,4] x) => (float[N,4] y) { [fc] y = Gemm<transB=1>(x, w) }", options=FASTEST, w=normal(4, 4)
    )
    assert actions(plan) == {"fc": "int8"}
    assert plan.notes[0].startswith("int8 is not expected to be faster than float here")
    assert not block(256, 28).notes


def test_a_float_island_between_convs_moves_the_border() -> None:
    """Nothing is quantized for the depthwise Conv that stays float: no pair goes in front of it."""
    plan = block(16, 112)
    assert not any(line.endswith("-> dw.0") and line.startswith("x ") for line in activations(plan))
    for decision in plan.nodes:
        assert decision.reason


def test_a_narrow_gate_is_not_multiplied_in_int8() -> None:
    """Squeeze-and-excite: the int8 Mul starts anew at each pixel, 15 ns of them for 8 channels."""
    text = """(float[N,8,112,112] x) => (float[N,64,112,112] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w1)
    [pool] p = GlobalAveragePool(a)
    [sig] s = Sigmoid(p)
    [mul] m = Mul(a, s)
    [c2] y = Conv<pads=[1,1,1,1]>(m, w2)
    }"""
    constants = {"w1": normal(8, 8, 3, 3), "w2": normal(64, 8, 3, 3)}
    assert actions(planned(text, options=FASTEST, **constants))["mul"] == "float"
    assert actions(planned(text, **constants))["mul"] == "int8"


def test_a_mul_by_a_scalar_is_no_gate() -> None:
    """Networks without normalization scale the output of each block by one number, a constant of rank 0."""
    text = """(float[N,64,28,28] x) => (float[N,64,28,28] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w)
    [pool] p = GlobalAveragePool(a)
    [sig] s = Sigmoid(p)
    [gate] g = Mul(a, s)
    [scale] m = Mul(g, two)
    [c2] y = Conv<pads=[1,1,1,1]>(m, w)
    }"""
    found = actions(planned(text, options=FASTEST, w=normal(64, 64, 3, 3), two=np.float32(2)))
    assert (found["gate"], found["scale"]) == ("int8", "int8")


def test_a_softmax_over_channels_keeps_its_conv_in_int8() -> None:
    """The box head of YOLOv8: behind a float Conv that Softmax is six times slower (measured)."""
    text = """(float[N,64,4,2100] x) => (float[N,16,4,2100] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w1)
    [soft] s = Softmax<axis=AXIS>(a)
    [c2] y = Conv<pads=[2,2,2,2], group=16>(s, w2)
    }"""
    weights = {"w1": normal(16, 64, 3, 3), "w2": normal(16, 1, 5, 5)}
    assert actions(planned(text.replace("AXIS", "1"), options=FASTEST, **weights))["c2"] == "int8"
    assert actions(planned(text.replace("AXIS", "2"), options=FASTEST, **weights))["c2"] == "float"


def test_open_sizes_are_taken_as_usual_ones() -> None:
    weights = {"w1": normal(16, 16, 1, 1), "w2": normal(16, 1, 5, 5), "w3": normal(16, 16, 1, 1)}
    text = BLOCK.format(c=16, s=112).replace("[N,16,112,112]", "[N,16,H,W]")
    assert actions(planned(text, options=FASTEST, **weights))["dw"] == "float"


def test_unknown_sizes_leave_nodes_in_int8() -> None:
    plan = planned(
        "(float[A,B,C,D] x, int64[4] shape) => (float[E,F,G,H] y) { [r] z = Reshape(x, shape) [c] y = Conv(z, w) }",
        options=FASTEST,
        w=normal(16, 16, 1, 1),
    )
    assert actions(plan)["c"] == "int8"


@pytest.mark.parametrize(("shape", "left"), [((7, 1), "float"), ((1, 7), "int8")], ids=["7x1", "1x7"])
@pytest.mark.parametrize("width", ["128", "T"], ids=["known", "open"])
def test_a_dense_filter_of_short_rows_stays_float(shape: tuple[int, int], left: str, width: str) -> None:
    """12 codes a row: the int8 kernel takes twice as long for 7 rows, two thirds as long for one of 84 (measured)."""
    pads = f"{shape[0] // 2},{shape[1] // 2}"
    text = f"""(float[N,12,128,W] x) => (float[N,12,128,W] y) {{
    [c1] a = Conv<pads=[{pads},{pads}]>(x, w)
    [r1] b = Relu(a)
    [c2] c = Conv<pads=[{pads},{pads}]>(b, w)
    [r2] d = Relu(c)
    [c3] e = Conv<pads=[1,1,1,1]>(d, w3)
    [r3] f = Relu(e)
    [c4] y = Conv<pads=[1,1,1,1]>(f, w4)
    }}""".replace("W", width)
    weights = {"w": normal(12, 12, *shape), "w3": normal(64, 12, 3, 3), "w4": normal(12, 64, 3, 3)}
    found = actions(planned(text, options=FASTEST, **weights))
    assert (found["c2"], found["c3"], found["c4"]) == (left, "int8", "int8")


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2"])
@pytest.mark.parametrize(
    ("groups", "features", "wanted"),
    [(8, 256, "int8"), (16, 256, "int8"), (32, 256, "float"), (256, 256, "int8"), (256, 512, "float")],
)
def test_a_filter_in_many_groups_stays_float(groups: int, features: int, wanted: str, target: str) -> None:
    """Each group's codes are gathered by themselves: 2.5 times the float kernel's time for 8 channels in a group, 25
    times for two outputs of each channel (measured), while a depthwise filter has a kernel of its own."""
    text = """(float[N,256,28,28] x) => (float[N,256,28,28] y) {
    [c1] a = Conv(x, w1)
    [g] b = Conv<pads=[1,1,1,1], group=GROUPS>(a, w2)
    [c2] y = Conv(b, w3)
    }""".replace("GROUPS", str(groups))
    weights = {
        "w1": normal(256, 256, 1, 1),
        "w2": normal(features, 256 // groups, 3, 3),
        "w3": normal(256, features, 1, 1),
    }
    plan = planned(text, options=FASTEST, target=target, **weights)
    assert actions(plan) == {"c1": "int8", "g": wanted, "c2": "int8"}


@pytest.mark.parametrize(
    ("channels", "group", "size", "with_avx512", "with_avx2"),
    [(104, 8, 28, "float", "float"), (208, 8, 14, "int8", "float"), (440, 8, 7, "int8", "float"),
     (512, 4, 14, "float", "float"), (160, 16, 28, "int8", "int8")],
)  # fmt: skip
def test_groups_that_fill_no_block_of_a_float_kernel(
    channels: int, group: int, size: int, with_avx512: str, with_avx2: str
) -> None:
    """With AVX512 blocks hold 16 channels: groups of 8 are multiplied one by one in float (measured)."""
    text = """(float[N,C,S,S] x) => (float[N,C,S,S] y) {
    [c1] a = Conv(x, w1)
    [r1] ar = Relu(a)
    [g] b = Conv<pads=[1,1,1,1], group=GROUPS>(ar, w2)
    [r2] br = Relu(b)
    [c2] y = Conv(br, w1)
    }""".replace("GROUPS", str(channels // group)).replace("C,S,S", f"{channels},{size},{size}")
    weights = {"w1": normal(channels, channels, 1, 1), "w2": normal(channels, group, 3, 3)}
    for target, wanted in (("ort-x64-vnni", with_avx512), ("ort-x64-avx2", with_avx2)):
        assert actions(planned(text, options=FASTEST, target=target, **weights))["g"] == wanted, target


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2"])
@pytest.mark.parametrize(("features", "side", "wanted"), [(32, 3, "float"), (32, 5, "float"), (64, 7, "int8")])
def test_a_stem_with_long_rows_is_int8(features: int, side: int, wanted: str, target: str) -> None:
    """The int8 kernel copies a row of the filter at once (measured)."""
    text = """(float[N,3,224,224] x) => (float[N,64,56,56] y) {
    [stem] a = Conv<pads=[P,P,P,P], strides=[2,2]>(x, w1)
    [r] b = Relu(a)
    [m] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
    [c] y = Conv(p, w2)
    }""".replace("=[P,P,P,P]", f"=[{side // 2},{side // 2},{side // 2},{side // 2}]")
    weights = {"w1": normal(features, 3, side, side), "w2": normal(64, features, 1, 1)}
    assert actions(planned(text, options=FASTEST, target=target, **weights))["stem"] == wanted


def test_an_unknown_placement_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown placement 'best'; known: fast, full") as error:
        PlanOptions.of({"placement": "best"})
    assert "--placement" in str(error.value.hint)


def test_a_node_that_was_measured_to_be_slower_says_so() -> None:
    plan = block(256, 28, replace(FASTEST, slower=frozenset({"dw"})))
    assert reason(plan, "dw") == "the tuned placement keeps it in float [tune]"


def test_an_add_takes_one_operand_from_float() -> None:
    """A residual from a padded (float) shortcut: one pair for it costs less than a DQ and a Q around a float Add."""
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [t] s = Tanh(x)
        [add] d = Add(a, s)
        [c2] y = Conv<pads=[1,1,1,1]>(d, w)
        }""",
        w=normal(16, 16, 3, 3),
    )
    assert actions(plan)["add"] == "int8"
    assert "s u8 observed[-1,1] -> add.1" in activations(plan)


def test_the_numbers_are_sound() -> None:
    costs = TARGETS["ort-x64-vnni"].costs
    assert costs is not None
    assert costs.float_kernels.keys() == costs.int8_kernels.keys()
    assert costs.margin >= 1.0
    for law in (*costs.float_kernels.values(), *costs.int8_kernels.values(), costs.quantize, costs.layout):
        assert np.isfinite([law.node, law.position, law.tap, law.mac, law.tail, law.weight, law.element]).all()


@pytest.mark.parametrize(
    ("activation", "left"),
    [
        ("[act] b = HardSwish(a)", "float"),
        ("[gate] g = HardSigmoid<alpha=0.16666667>(a) [act] b = Mul(a, g)", "float"),
        ("[act] b = Relu(a)", "int8"),
    ],
)
def test_an_activation_that_a_float_conv_computes_counts_against_int8(activation: str, left: str) -> None:
    """Behind a float Conv a HardSwish costs nothing, behind an int8 one two kernels, 25 us for 100,000."""
    text = f"""(float[N,16,80,80] x) => (float[N,16,80,80] y) {{
    [c1] a = Conv(x, w1)
    {activation}
    [c2] y = Conv(b, w2)
    }}"""
    weights = {"w1": normal(16, 16, 1, 1), "w2": normal(16, 16, 1, 1)}
    assert actions(planned(text, options=FASTEST, **weights))["c1"] == left


@pytest.mark.parametrize(("channels", "left"), [(3, "float"), (16, "int8")])
def test_a_float_conv_on_an_image_of_few_channels_is_cheap(channels: int, left: str) -> None:
    """Its int8 kernel fills the taps up to whole vectors: three times the time (measured)."""
    text = """(float[N,C,112,112] x) => (float[N,64,56,56] y) {
    [c1] a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w1)
    [r1] b = Relu(a)
    [c2] y = Conv<pads=[1,1,1,1]>(b, w2)
    }""".replace("C", str(channels), 1)
    weights = {"w1": normal(16, channels, 3, 3), "w2": normal(64, 16, 3, 3)}
    found = actions(planned(text, options=FASTEST, **weights))
    assert (found["c1"], found["c2"]) == (left, "int8")


def test_a_float_max_pool_is_held_in_front_of_codes() -> None:
    """onnxruntime would move the Q in front of it, where it pools codes at nine times the cost (C16)."""
    text = """(float[N,3,112,112] x) => (float[N,64,56,56] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w1)
    [r1] b = Relu(a)
    [pool] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
    [c2] y = Conv<pads=[1,1,1,1]>(p, w2)
    }"""
    plan = planned(text, options=FASTEST, w1=normal(16, 3, 3, 3), w2=normal(64, 16, 3, 3))
    assert (actions(plan)["pool"], plan.holds) == ("float", ("p",))


def test_many_float_readers_pay_for_one_dequantizer() -> None:
    """A DequantizeLinear for each of twelve readers would cost more than the Conv before them saves."""
    count = 12
    tails = " ".join(f"t{i} = Tanh(b)" for i in range(count))
    outputs = ", ".join(f"float[N,64,28,28] t{i}" for i in range(count))
    text = f"(float[N,64,28,28] x) => ({outputs}) {{ [c0] a = Conv(x, v) [c] b = Conv(a, v) {tails} }}"
    assert actions(planned(text, options=FASTEST, v=normal(64, 64, 1, 1)))["c"] == "int8"


@pytest.mark.parametrize(("classes", "left"), [(4, "float"), (64, "int8")])
def test_outputs_are_not_rounded_for_a_little_time(classes: int, left: str) -> None:
    """Four scores for each pixel cost 1 % of the time in float; 64 of them hold 2 % of the weights and stay int8."""
    plan = planned(
        """(float[N,64,56,56] x) => (float[N,C,56,56] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w1)
        [c2] b = Conv<pads=[1,1,1,1]>(a, w2)
        [c3] c = Conv<pads=[1,1,1,1]>(b, w3)
        [c4] d = Conv<pads=[1,1,1,1]>(c, w4)
        [c5] e = Conv<pads=[1,1,1,1]>(d, w5)
        [last] y = Conv(e, w) }""".replace("C,56", f"{classes},56"),
        options=FASTEST,
        **{f"w{i}": normal(64, 64, 3, 3) for i in range(1, 6)},
        w=normal(classes, 64, 1, 1),
    )
    assert actions(plan) == {f"c{i}": "int8" for i in range(1, 6)} | {"last": left}
    if left == "float":
        assert reason(plan, "last") == "its codes would round the model's outputs, and save little time [C17]"


@pytest.mark.parametrize(
    ("tail", "left"), [("[m] y = Flatten(p)", "float"), ("[m] f = Flatten(p) [fc] y = MatMul(f, h)", "int8")]
)
def test_a_mean_is_float_where_it_is_the_output(tail: str, left: str) -> None:
    plan = planned(
        f"""(float[N,64,56,56] x) => (float[N,512] y) {{
        [c1] a = Conv<pads=[1,1,1,1]>(x, w1)
        [c2] b = Conv<pads=[1,1,1,1], strides=[4,4]>(a, w2)
        [c3] c = Conv(b, w3)
        [mean] p = GlobalAveragePool(c)
        {tail} }}""",
        options=FASTEST, w1=normal(64, 64, 3, 3), w2=normal(64, 64, 3, 3), w3=normal(512, 64, 1, 1), h=normal(512, 512),
    )  # fmt: skip
    assert actions(plan)["mean"] == left
