"""Placement for onnxruntime: regions of kernels that read and write codes. Every plan is spelled out in full."""

from __future__ import annotations

import numpy as np

from onnxq.planning.plan import Observed, QuantPlan
from tests.graphs import normal
from tests.planned import actions, activations, planned, reason, tensors

W = normal(16, 16, 3, 3)
BIAS = normal(16)


def test_conv_relu_conv() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w, b)
        [r] ar = Relu(a)
        [c2] y = Conv<pads=[1,1,1,1]>(ar, v)
        }""",
        w=W,
        b=BIAS,
        v=W,
    )
    assert tensors(plan) == [
        "x u8 observed -> c1.0",
        "ar u8 observed[0,] -> c2.0",
        "y u8 observed ->  +output",
        "w s8@0 values -> c1.1",
        "v s8@0 values -> c2.1",
        "b s32@0 x*w -> c1.2",
    ]
    assert actions(plan) == {"c1": "int8", "r": "fused", "c2": "int8"}
    assert reason(plan, "r") == "becomes part of the rounding of 'c1' [C5]"
    assert plan.observed() == ("x", "ar", "y")
    assert (plan.target, plan.opset, plan.digest) == ("ort-x64-vnni", 13, "test")


def test_relu6_bounds_the_range_from_both_sides() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [clip] b = Clip(a, zero, six)
        [c2] y = Conv<pads=[1,1,1,1]>(b, w)
        }""",
        w=W,
        zero=np.float32(0),
        six=np.float32(6),
    )
    assert activations(plan) == ["x u8 observed -> c1.0", "b u8 observed[0,6] -> c2.0", "y u8 observed ->  +output"]
    assert actions(plan)["clip"] == "fused"


def test_clip_that_codes_cannot_express_stays_and_its_conv_still_writes_codes() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [clip] b = Clip(a, low, six)
        [c2] y = Conv<pads=[1,1,1,1]>(b, w)
        }""",
        w=W,
        low=np.float32(-1),
        six=np.float32(6),
    )
    assert activations(plan)[1:3] == ["a u8 observed[-1,6] -> clip.0", "b u8 observed[-1,6] -> c2.0"]
    assert actions(plan) == {"c1": "int8", "clip": "float", "c2": "int8"}


def test_residual_add_reads_codes_on_both_sides() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [stem] s = Conv<pads=[1,1,1,1]>(x, w)
        [sr] s2 = Relu(s)
        [c1] a = Conv<pads=[1,1,1,1]>(s2, w)
        [add] d = Add(a, s2)
        [dr] e = Relu(d)
        [c2] y = Conv<pads=[1,1,1,1]>(e, w)
        }""",
        w=W,
    )
    assert activations(plan) == [
        "x u8 observed -> stem.0",
        "s2 u8 observed[0,] -> c1.0 add.1",
        "a u8 observed -> add.0",
        "e u8 observed[0,] -> c2.0",
        "y u8 observed ->  +output",
    ]
    assert actions(plan) == {"stem": "int8", "sr": "fused", "c1": "int8", "add": "int8", "dr": "fused", "c2": "int8"}


def test_silu_is_one_int8_region() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [sig] s = Sigmoid(a)
        [mul] m = Mul(a, s)
        [c2] y = Conv<pads=[1,1,1,1]>(m, w)
        }""",
        w=W,
    )
    assert activations(plan) == [
        "x u8 observed -> c1.0",
        "a u8 observed[-8,] -> sig.0 mul.0",
        "s u8 observed[0,1] -> mul.1",
        "m u8 observed -> c2.0",
        "y u8 observed ->  +output",
    ]
    assert set(actions(plan).values()) == {"int8"}


def test_hard_swish_stays_a_float_island_between_two_pairs() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [hs] s = HardSigmoid<alpha=0.16666667>(a)
        [mul] m = Mul(a, s)
        [c2] y = Conv<pads=[1,1,1,1]>(m, w)
        }""",
        w=W,
    )
    assert activations(plan)[1:3] == ["a u8 observed[-3,] -> hs.0 mul.0", "m u8 observed -> c2.0"]
    assert actions(plan) == {"c1": "int8", "hs": "float", "mul": "float", "c2": "int8"}
    assert reason(plan, "hs") == "ONNX Runtime has no int8 kernel for HardSigmoid on CPU (C10) []"
    assert (
        reason(plan, "mul")
        == "no int8 neighbours on both sides: quantizing for it alone would cost more than it saves []"
    )


def test_hard_swish_written_out_is_int8_with_its_constants() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [add] p = Add(a, three)
        [clip] q = Clip(p, zero, six)
        [mul] m = Mul(a, q)
        [sixth] n = Mul(m, k)
        [c2] y = Conv<pads=[1,1,1,1]>(n, w)
        }""",
        w=W,
        zero=np.float32(0),
        six=np.float32(6),
        three=np.float32(3),
        k=np.float32(1 / 6),
    )
    assert tensors(plan) == [
        "x u8 observed -> c1.0",
        "a u8 observed -> add.0 mul.0",
        "q u8 observed[0,6] -> mul.1",
        "m u8 observed -> sixth.0",
        "n u8 observed -> c2.0",
        "y u8 observed ->  +output",
        "three u8 values -> add.1",
        "k u8 values -> sixth.1",
        "w s8@0 values -> c1.1 c2.1",
    ]
    assert actions(plan)["clip"] == "fused"


def squeeze_excite(size: str) -> str:
    return f"""(float[N,16,{size}] x) => (float[N,16,{size}] y) {{
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [gap] g = GlobalAveragePool(a)
        [f1] h = Conv(g, v)
        [gate] s = HardSigmoid(h)
        [mul] m = Mul(a, s)
        [c2] y = Conv<pads=[1,1,1,1]>(m, w)
        }}"""


def test_squeeze_excite_gate_is_small_enough_to_be_quantized_for_the_mul() -> None:
    for size in ("8,8", "H,W"):
        plan = planned(squeeze_excite(size), w=W, v=normal(16, 16, 1, 1))
        assert activations(plan) == [
            "x u8 observed -> c1.0",
            "a u8 observed -> gap.0 mul.0",
            "g u8 observed -> f1.0",
            "h u8 observed[-2.5,2.5] -> gate.0",
            "s u8 observed[0,1] -> mul.1",
            "m u8 observed -> c2.0",
            "y u8 observed ->  +output",
        ]
        assert actions(plan)["mul"] == "int8"


def test_gate_that_is_not_small_keeps_the_mul_float() -> None:
    """3 x 3 = 9 times smaller than the Mul's output: less than the 16 from which on a pair of its own pays."""
    plan = planned(squeeze_excite("3,3"), w=W, v=normal(16, 16, 1, 1))
    assert actions(plan)["mul"] == "float"
    assert "s" not in plan.tensors


def test_concat_inputs_keep_ranges_of_their_own() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [r] ar = Relu(a)
        [c2] b = Conv<pads=[1,1,1,1]>(x, w)
        [cat] d = Concat<axis=1>(b, ar)
        [c3] y = Conv<pads=[1,1,1,1]>(d, v)
        }""",
        w=W,
        v=normal(16, 32, 3, 3),
    )
    assert activations(plan) == [
        "x u8 observed -> c1.0 c2.0",
        "ar u8 observed[0,] -> cat.1",
        "b u8 observed -> cat.0",
        "d u8 observed -> c3.0",
        "y u8 observed ->  +output",
    ]


def concat_behind(*operators: str) -> QuantPlan:
    """The plan of a Concat of two Convs with an operator behind each, or none, in front of a third Conv."""
    behind = [f"o{i} = {op}(a{i})" if op else "" for i, op in enumerate(operators)]
    ends = [f"o{i}" if op else f"a{i}" for i, op in enumerate(operators)]
    return planned(
        f"""(float[N,16,8,8] x) => (float[N,16,8,8] y) {{
        a0 = Conv<pads=[1,1,1,1]>(x, w) {behind[0]}
        a1 = Conv<pads=[1,1,1,1]>(x, w) {behind[1]}
        [cat] d = Concat<axis=1>({ends[0]}, {ends[1]})
        [c3] y = Conv<pads=[1,1,1,1]>(d, v)
        }}""",
        w=W,
        v=normal(16, 32, 3, 3),
    )


def test_concat_reads_codes_where_one_input_has_them() -> None:
    """As behind the ConvTranspose of a U-Net: a Q for that input is less than one behind the Concat and a DQ."""
    plan = concat_behind("Tanh", "")
    assert actions(plan)["cat"] == "int8"
    assert [a for a in activations(plan) if "cat" in a] == ["o0 u8 observed[-1,1] -> cat.0", "a1 u8 observed -> cat.1"]


def test_concat_of_float_inputs_stays_float() -> None:
    plan = concat_behind("Tanh", "Tanh")
    assert actions(plan)["cat"] == "float"
    assert not {"o0", "o1"} & set(plan.tensors)


def test_max_pool_moves_codes_with_the_parameters_of_its_input() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,4,4] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [r] ar = Relu(a)
        [pool] p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(ar)
        [c2] y = Conv<pads=[1,1,1,1]>(p, w)
        }""",
        w=W,
    )
    assert activations(plan)[1:3] == ["ar u8 observed[0,] -> pool.0", "p u8 =ar -> c2.0"]
    assert reason(plan, "pool") == "moves codes between int8 neighbours [C12]"


def test_max_pool_with_indices_is_no_mover_of_codes() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,4,4] y, int64[N,16,4,4] i) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [pool] p, i = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)
        [c2] y = Conv<pads=[1,1,1,1]>(p, w)
        }""",
        w=W,
    )
    assert actions(plan)["pool"] == "float"
    assert activations(plan)[1:3] == ["a u8 observed -> pool.0", "p u8 observed -> c2.0"]


def test_nearest_resize_moves_codes_and_linear_does_not() -> None:
    for mode, action in (("nearest", "int8"), ("linear", "float")):
        plan = planned(
            f"""(float[N,16,8,8] x) => (float[N,16,16,16] y) {{
            [c1] a = Conv<pads=[1,1,1,1]>(x, w)
            [up] b = Resize<mode="{mode}">(a, , scales)
            [c2] y = Conv<pads=[1,1,1,1]>(b, w)
            }}""",
            w=W,
            scales=np.float32([1, 1, 2, 2]),
        )
        assert actions(plan)["up"] == action


def test_split_moves_codes_to_every_output() -> None:
    plan = planned(
        """(float[N,32,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] z) {
        [c0] a = Conv<pads=[1,1,1,1]>(x, v)
        [split] s, t = Split<axis=1>(a, sizes)
        [c1] y = Conv<pads=[1,1,1,1]>(s, w)
        [c2] z = Conv<pads=[1,1,1,1]>(t, w)
        }""",
        w=W,
        v=normal(32, 32, 3, 3),
        sizes=np.array([16, 16]),
    )
    assert activations(plan)[1:4] == ["a u8 observed -> split.0", "s u8 =a -> c1.0", "t u8 =a -> c2.0"]


def test_split_with_an_output_that_leaves_the_model_stays_float() -> None:
    plan = planned(
        """(float[N,32,8,8] x) => (float[N,16,8,8] y, float[N,16,8,8] t) {
        [c0] a = Conv<pads=[1,1,1,1]>(x, v)
        [split] s, t = Split<axis=1>(a, sizes)
        [c1] y = Conv<pads=[1,1,1,1]>(s, w)
        }""",
        w=W,
        v=normal(32, 32, 3, 3),
        sizes=np.array([16, 16]),
    )
    assert actions(plan)["split"] == "float"
    assert activations(plan)[1:3] == ["a u8 observed -> split.0", "s u8 observed -> c1.0"]


def test_flatten_before_gemm_gets_pairs_on_both_sides() -> None:
    plan = planned(
        """(float[N,16,4,4] x) => (float[N,16] y) {
        [c0] a = Conv<pads=[1,1,1,1]>(x, w)
        [flat] f = Flatten(a)
        [fc] y = Gemm<transB=1>(f, v, b)
        }""",
        w=W,
        v=normal(16, 256),
        b=BIAS,
    )
    assert tensors(plan) == [
        "x u8 observed -> c0.0",
        "a u8 observed -> flat.0",
        "f u8 =a -> fc.0",
        "w s8@0 values -> c0.1",
        "v s8@0 values -> fc.1",
        "b s32@0 f*v -> fc.2",
    ]


def plan_with_bias(sizes: str) -> QuantPlan:
    """Two products of data of these sizes, with a bias and a Relu between."""
    return planned(
        f"""(float[{sizes}] x) => (float[{sizes}] y) {{
        [m1] a = MatMul(x, w)
        [add] b = Add(bias, a)
        [r] c = Relu(b)
        [m2] y = MatMul(c, v)
        }}""",
        w=normal(16, 16),
        v=normal(16, 16),
        bias=BIAS,
    )


def test_matmul_of_rank_3_has_its_bias_added_in_float() -> None:
    plan = plan_with_bias("N,4,16")
    assert tensors(plan) == [
        "x u8 observed -> m1.0",
        "c u8 observed[0,] -> m2.0",
        "w s8@1 values -> m1.1",
        "v s8@1 values -> m2.1",
    ]
    assert actions(plan) == {"m1": "int8", "add": "float", "r": "fused", "m2": "int8"}
    assert reason(plan, "add") == "is the bias of a product of rank 3, which the engine adds in float [C8]"


def test_matmul_of_rank_2_takes_its_bias_in() -> None:
    plan = plan_with_bias("N,16")
    assert "bias s32@0 x*w -> add.0" in tensors(plan)
    assert actions(plan) == {"m1": "int8", "add": "fused", "r": "fused", "m2": "int8"}
    assert reason(plan, "add") == "is the bias of 'm1' [C8]"


def test_rank_3_weight_is_per_tensor() -> None:
    plan = planned("(float[2,4,16] x) => (float[2,4,16] y) { [m] y = MatMul(x, w) }", w=normal(2, 16, 16))
    assert tensors(plan) == ["x u8 observed -> m.0", "w s8 values -> m.1"]


def test_weight_shared_along_different_axes_is_per_tensor() -> None:
    plan = planned(
        """(float[N,16] x) => (float[N,16] y) {
        [g1] a = Gemm<transB=1>(x, w)
        [g2] y = Gemm(a, w)
        }""",
        w=normal(16, 16),
    )
    assert tensors(plan) == ["x u8 observed -> g1.0", "a u8 observed -> g2.0", "w s8 values -> g1.1 g2.1"]


def test_shared_bias_has_an_entry_for_each_node() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w, b)
        [c2] y = Conv<pads=[1,1,1,1]>(a, w, b)
        }""",
        w=W,
        b=BIAS,
    )
    assert tensors(plan)[3:] == ["w s8@0 values -> c1.1 c2.1", "b s32@0 x*w -> c1.2", "b@c2 s32@0 a*w -> c2.2"]
    assert plan.tensors["b@c2"].name == "b"


def test_weight_that_a_float_node_reads_too_lists_only_the_int8_read() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y, float[16,16,3,3] z) {
        [c1] y = Conv<pads=[1,1,1,1]>(x, w)
        [neg] z = Neg(w)
        }""",
        w=W,
    )
    assert tensors(plan)[-1] == "w s8@0 values -> c1.1"


def test_output_that_is_read_on_is_covered_by_its_pair() -> None:
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] a, float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [c2] y = Conv<pads=[1,1,1,1]>(a, w)
        }""",
        w=W,
    )
    assert activations(plan)[1:] == ["a u8 observed -> c2.0 +output", "y u8 observed ->  +output"]


def test_body_that_reads_a_conv_gets_the_dequantized_tensor() -> None:
    """C1: the Conv's output may go to one Q and nowhere else, bodies included."""
    plan = planned(
        """(float[N,16,8,8] x, bool k) => (float[N,16,8,8] y, float[N,16,8,8] z) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [branch] y = If(k) <
            then_branch = t () => (float[N,16,8,8] u) { u = Identity(a) },
            else_branch = e () => (float[N,16,8,8] v) { v = Neg(a) }>
        [c2] z = Conv<pads=[1,1,1,1]>(a, w)
        }""",
        w=W,
    )
    assert activations(plan)[1] == "a u8 observed -> branch.body c2.0"
    assert reason(plan, "branch") == "control flow; what is inside is planned on its own, and listed by its path []"


def test_body_that_reads_what_a_float_node_wrote_keeps_the_float_tensor() -> None:
    plan = planned(
        """(float[N,16,8,8] x, bool k) => (float[N,16,8,8] y, float[N,16,8,8] z) {
        [tanh] a = Tanh(x)
        [branch] y = If(k) <
            then_branch = t () => (float[N,16,8,8] u) { u = Identity(a) },
            else_branch = e () => (float[N,16,8,8] v) { v = Neg(a) }>
        [c2] z = Conv<pads=[1,1,1,1]>(a, w)
        }""",
        w=W,
    )
    assert activations(plan)[0] == "a u8 observed[-1,1] -> c2.0"


def test_operators_without_weights_are_not_quantized_for_their_own_sake() -> None:
    plan = planned("(float[N,16,8,8] x, float[N,16,8,8] z) => (float[N,16,8,8] y) { a = Add(x, z) y = Sigmoid(a) }")
    assert plan.tensors == {}
    assert set(actions(plan).values()) == {"float"}


def test_sources_are_values_of_the_plan() -> None:
    plan = planned("(float[N,16,8,8] x) => (float[N,16,8,8] y) { a = Relu(x) [c] y = Conv(a, w) }", w=W)
    assert plan.tensors["a"].source == Observed(lower=0.0, upper=None)


def test_matmul_that_feeds_a_matmul_and_another_node_goes_to_its_q_alone() -> None:
    """C1 for a kernel that may write float: with a Q among its readers it must have no other."""
    plan = planned(
        """(float[2,4,16] x) => (float[2,4,16] y, float[2,4,16] a) {
        [m1] a = MatMul(x, w)
        [m2] b = MatMul(a, v)
        [add] c = Add(a, b)
        [m3] y = MatMul(c, w)
        }""",
        w=normal(16, 16),
        v=normal(16, 16),
    )
    assert activations(plan) == [
        "x u8 observed -> m1.0",
        "a u8 observed -> m2.0 add.0 +output",
        "c u8 observed -> m3.0",
    ]


def test_at_most_two_activations_become_part_of_the_rounding() -> None:
    """onnxruntime drops two Relus in a row in front of a Q; with a third the Conv stays float."""
    plan = planned(
        """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
        [c1] a = Conv<pads=[1,1,1,1]>(x, w)
        [r1] b = Relu(a)
        [r2] c = Relu(b)
        [r3] d = Relu(c)
        [c2] y = Conv<pads=[1,1,1,1]>(d, w)
        }""",
        w=W,
    )
    assert actions(plan) == {"c1": "int8", "r1": "fused", "r2": "fused", "r3": "float", "c2": "int8"}
    assert activations(plan)[1:3] == ["c u8 observed[0,] -> r3.0", "d u8 observed[0,] -> c2.0"]
