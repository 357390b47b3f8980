"""Placement on inputs (TensorRT, OpenVINO). Every plan is spelled out in full."""

from __future__ import annotations

import numpy as np

from onnxq.planning.options import PlanOptions
from tests.graphs import normal
from tests.planned import actions, activations, planned, reason, tensors

W = normal(16, 16, 3, 3)
TRT = "tensorrt"


def test_conv_relu_conv_quantizes_inputs_only() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w, b)
        [r] ar = Relu(a)
        [c2] y = Conv<pads=[1,1,1,1]>(ar, v)
        }""",
        target=TRT,
        w=W,
        b=normal(16),
        v=W,
    )
    assert tensors(plan) == [
        "x s8 observed -> c1.0",
        "ar s8 observed[0,] -> c2.0",
        "w s8@0 values -> c1.1",
        "v s8@0 values -> c2.1",
    ]
    assert reason(plan, "r") == "fuses behind 'c1' [R21]"


def test_openvino_has_uint8_activations_and_small_layers_too() -> None:
    plan = planned(
        "(float[N,3,8,8] x) => (float[N,8,8,8] y) { [c] y = Conv<pads=[1,1,1,1]>(x, w) }",
        target="openvino",
        w=normal(8, 3, 3, 3),
    )
    assert tensors(plan) == ["x u8 observed -> c.0", "w s8@0 values -> c.1"]


RESIDUAL = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [stem] s = Conv<pads=[1,1,1,1]>(x, w)
    [sr] s2 = Relu(s)
    [c1] a = Conv<pads=[1,1,1,1]>(s2, w)
    [r1] ar = Relu(a)
    [c2] b = Conv<pads=[1,1,1,1]>(ar, w)
    [add] d = Add(b, s2)
    [dr] e = Relu(d)
    [c3] y = Conv<pads=[1,1,1,1]>(e, w)
    }"""


def test_r22_identity_skip_shares_the_pair_of_the_first_conv() -> None:
    plan = planned(RESIDUAL, target=TRT, w=W)
    assert activations(plan) == [
        "x s8 observed -> stem.0",
        "s2 s8 observed[0,] -> c1.0 add.1",
        "ar s8 observed[0,] -> c2.0",
        "e s8 observed[0,] -> c3.0",
    ]
    assert reason(plan, "add") == "fuses with its Conv; the skip branch 's2' is int8 [R22]"
    assert actions(plan)["dr"] == "fused"


def test_openvino_leaves_small_residual_adds_alone() -> None:
    plan = planned(RESIDUAL, target="openvino", w=W)
    assert activations(plan)[1] == "s2 u8 observed[0,] -> c1.0"
    assert actions(plan)["add"] == "float"


def test_v16_both_branches_of_a_large_residual_add_are_codes_for_openvino() -> None:
    """What the Conv writes and the Add reads is then a quarter of the bytes; 64 x 48 x 48 = 147,456 are too few."""
    for size, large in ((48, False), (49, True)):
        text = RESIDUAL.replace("16,8,8]", f"64,{size},{size}]")
        plan = planned(text, target="openvino", w=normal(64, 64, 3, 3))
        assert actions(plan)["add"] == ("int8" if large else "float")
        assert activations(plan)[1] == "s2 u8 observed[0,] -> " + ("c1.0 add.1" if large else "c1.0")
        assert ("b u8 observed -> add.0" in activations(plan)) == large
    assert reason(plan, "add") == "fuses with its Conv; both branches are int8 [V16]"
    assert actions(plan)["dr"] == "fused"


def test_v16_a_conv_transpose_keeps_the_add_behind_it_in_float() -> None:
    text = """(float[1,64,99,99] x) => (float[1,64,99,99] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w)
    [r1] ar = Relu(a)
    [t] b = ConvTranspose<pads=[1,1,1,1]>(ar, w)
    [add] d = Add(b, ar)
    [c2] y = Conv<pads=[1,1,1,1]>(d, w)
    }"""
    assert actions(planned(text, target="openvino", w=normal(64, 64, 3, 3)))["add"] == "float"


def test_r22_of_two_conv_branches_the_longer_stays_float() -> None:
    for first, second, slot in (("c", "b", 0), ("b", "c", 1)):
        plan = planned(
            f"""(float[N,16,8,8] x) => (float[N,16,8,8] y) {{
            [stem] s = Conv<pads=[1,1,1,1]>(x, w)
            [c1] a = Conv<pads=[1,1,1,1]>(s, w)
            [r1] ar = Relu(a)
            [c2] b = Conv<pads=[1,1,1,1]>(ar, w)
            [side] c = Conv<pads=[1,1,1,1]>(s, w)
            [add] d = Add({first}, {second})
            [c3] y = Conv<pads=[1,1,1,1]>(d, w)
            }}""",
            target=TRT,
            w=W,
        )
        assert activations(plan) == [
            "x s8 observed -> stem.0",
            "s s8 observed -> c1.0 side.0",
            "ar s8 observed[0,] -> c2.0",
            f"c s8 observed -> add.{slot}",
            "d s8 observed -> c3.0",
        ]


def test_r22_needs_a_conv_that_only_the_add_reads() -> None:
    cases = {
        "no Conv on either side": "p = Tanh(s) d = Add(p, s)",
        "both sides the same": "p = Conv<pads=[1,1,1,1]>(s, w) d = Add(p, p)",
        "the Conv is read elsewhere too": "p = Conv<pads=[1,1,1,1]>(s, w) q = Tanh(p) r = Add(p, s) d = Add(q, r)",
        "a constant": "p = Conv<pads=[1,1,1,1]>(s, w) d = Add(p, k)",
        "a Conv behind an activation": "p = Conv<pads=[1,1,1,1]>(s, w) q = Relu(p) d = Add(q, s)",
        "another rank": "p = Conv<pads=[1,1,1,1]>(s, w) q = Reshape(s, flat) d = Add(p, q)",
    }
    for what, body in cases.items():
        plan = planned(
            f"(float[1,16,8,8] x) => (float[1,16,8,8] d) {{ s = Relu(x) {body} }}",
            target=TRT,
            w=W,
            k=normal(1, 16, 1, 1),
            flat=np.array([16, 8, 8]),
        )
        assert not any("Add" in line for line in activations(plan)), what


def test_r22_excluded_add_keeps_its_skip_branch_float() -> None:
    plan = planned(RESIDUAL, target=TRT, options=PlanOptions(exclude=("add",)), w=W)
    assert activations(plan)[1] == "s2 s8 observed[0,] -> c1.0"
    assert reason(plan, "add") == "excluded by the user [user]"


def test_r25_concat_shares_one_range_that_holds_for_all() -> None:
    """The group's bounds hold for every member: with Relu's floor for `ar` alone, the two scales differed."""
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] z) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [r] ar = Relu(a)
        [c2] b = Conv<pads=[1,1,1,1]>(x, w)
        [cat] d = Concat<axis=1>(b, ar)
        [c3] y = Conv<pads=[1,1,1,1]>(d, v)
        [c4] z = Conv<pads=[1,1,1,1]>(ar, w)
        }""",
        target=TRT,
        w=W,
        v=normal(16, 32, 3, 3),
    )
    assert activations(plan) == [
        "x s8 observed -> c1.0 c2.0",
        "ar s8 observed group=d -> c4.0",
        "d s8 observed group=d -> c3.0",
    ]


def test_r24_a_pool_shares_the_range_of_what_it_reads() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y, float[N,16,4,4] z) {
        [r] xr = Relu(x)
        [pool] p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(xr)
        [c1] y = Conv<pads=[1,1,1,1]>(xr, w)
        [c2] z = Conv<pads=[1,1,1,1]>(p, w)
        }""",
        target=TRT,
        w=W,
    )
    assert activations(plan) == ["xr s8 observed[0,] group=xr -> c1.0", "p s8 observed[0,] group=xr -> c2.0"]


def test_output_and_bodies_keep_the_float_tensor() -> None:
    plan = planned(
        """(float[N,16,8,8] x, bool k) => (float[N,16,8,8] a, float[N,16,8,8] y, float[N,16,8,8] z) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [branch] y = If(k) <
            then_branch = t () => (float[N,16,8,8] u) { u = Identity(a) },
            else_branch = e () => (float[N,16,8,8] v) { v = Neg(a) }>
        [c2] z = Conv<pads=[1,1,1,1]>(a, w)
        }""",
        target=TRT,
        w=W,
    )
    assert activations(plan) == ["x s8 observed -> c1.0", "a s8 observed -> c2.0"]


def test_matmul_bias_and_activation_fuse() -> None:
    plan = planned(
        """(float[N,4,16] x) => (float[N,4,16] c) {
        [m] a = MatMul(x, w)
        [add] b = Add(a, bias)
        [r] c = Relu(b)
        }""",
        target=TRT,
        w=normal(16, 16),
        bias=normal(16),
    )
    assert tensors(plan) == ["x s8 observed -> m.0", "w s8@1 values -> m.1"]
    assert reason(plan, "add") == "is the bias of 'm' [R21]"
    assert reason(plan, "r") == "fuses behind 'm' [R21]"


def test_r30_convs_with_few_channels_stay_float() -> None:
    plan = planned(
        """(float[N,3,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, thin)
        [c2] b = Conv<pads=[1,1,1,1]>(a, w)
        [dw] y = Conv<pads=[1,1,1,1],group=16>(b, d)
        }""",
        target=TRT,
        thin=normal(16, 3, 3, 3),
        w=W,
        d=normal(16, 1, 3, 3),
    )
    assert actions(plan) == {"c1": "float", "c2": "int8", "dw": "int8"}
    assert reason(plan, "c1") == "3 input and 16 output channels; fewer than 16 do not pay in int8 [R30]"


def test_r29_small_matrices_stay_float() -> None:
    for rows, columns in ((15, 64), (64, 15)):
        plan = planned(
            f"(float[N,4,{rows}] x) => (float[N,4,{columns}] y) {{ [m] y = MatMul(x, w) }}",
            target=TRT,
            w=normal(rows, columns),
        )
        assert reason(plan, "m") == f"a {rows} x {columns} weight is too small to pay in int8 (at least 16) [R29]"


def test_conv_transpose_has_its_channels_second() -> None:
    plan = planned(
        "(float[N,32,8,8] x) => (float[N,16,16,16] y) { [d] y = ConvTranspose<strides=[2,2]>(x, w) }",
        target=TRT,
        w=normal(32, 16, 2, 2),
    )
    assert tensors(plan) == ["x s8 observed -> d.0", "w s8@1 values -> d.1"]


def test_conv_transpose_counts_its_channels_over_all_groups() -> None:
    plan = planned(
        "(float[N,32,8,8] x) => (float[N,8,16,16] y) { [d] y = ConvTranspose<strides=[2,2],group=2>(x, w) }",
        target=TRT,
        w=normal(32, 4, 2, 2),
    )
    assert reason(plan, "d") == "32 input and 8 output channels; fewer than 16 do not pay in int8 [R30]"
