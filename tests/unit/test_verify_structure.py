"""Facts about Q/DQ placement, read from small graphs."""

from __future__ import annotations

import numpy as np

from onnxq.graph.view import Graph
from onnxq.verification.check import check_all
from onnxq.verification.structure import meant_for_int8, output_problem, placement, placements, stranded
from tests.verify_models import ModelBuilder, int8_conv, tensorrt_conv


def test_placement_of_a_fully_quantized_conv_sees_both_operands_and_the_relu_behind():
    graph = Graph(int8_conv())
    conv = placement(graph, graph.node("Conv_c"))
    assert conv.dequantized == (0, 1)
    assert conv.plain == ()
    assert not conv.quantized_output
    assert conv.output_problem == "its output 'c' goes to Relu 'Relu_r' without QuantizeLinear"
    assert placement(graph, graph.node("Relu_r")).quantized_output


def test_placements_leave_out_q_and_dq():
    assert [p.op for p in placements(Graph(int8_conv()))] == ["Conv", "Relu"]


def test_output_problem_names_each_obstacle():
    graph = Graph(tensorrt_conv())
    assert output_problem(graph, "y") == "its output 'y' is an output of the model in float"
    b = ModelBuilder()
    x = b.input("x", [4])
    b.node("Relu", [x], "r")
    b.node("Relu", [x], "unread")
    b.pair("r", 0.1, np.uint8(0), "y")
    b.node("QuantizeLinear", ["r", "r_q_s", "r_q_z"], "again")
    b.output("y", [4])
    graph = Graph(b.model())
    assert output_problem(graph, "r") == "its output 'r' goes to 2 QuantizeLinear nodes"
    assert output_problem(graph, "unread") == "its output 'unread' is read by nothing"


def test_a_weight_and_its_data_may_be_moved_behind_their_pairs():
    """TensorFlow's exports hold the channels of weights and pictures last, and transpose both behind the pair."""
    b = ModelBuilder()
    x = b.node("Transpose", [b.pair(b.input("x", [1, 8, 8, 4]), 0.1, np.uint8(0))], "nchw", perm=[0, 3, 1, 2])
    w = b.node("Transpose", [b.weight("w", np.ones((3, 3, 4, 4), np.float32), 3)], "oihw", perm=[3, 2, 0, 1])
    b.output(b.node("Conv", [x, w], "y"), [1, 4, 6, 6])
    b.output(b.node("Conv", [x, b.constant("v", np.ones((4, 4, 3, 3), np.float32))], "z"), [1, 4, 6, 6])
    keys = b.node("Transpose", [b.pair(b.input("k", [1, 8, 8, 4]), 0.1, np.uint8(0))], "keys", perm=[0, 3, 1, 2])
    b.output(b.node("MatMul", [x, keys], "scores"), [1, 4, 8, 8])
    assert meant_for_int8(Graph(b.model())) == ("Conv_y",)


def test_stranded_finds_a_pair_before_an_op_with_a_float_operand():
    b = ModelBuilder()
    x = b.pair(b.input("x", [1, 4]), 0.1, np.uint8(0))
    b.node("Add", [x, b.input("z", [1, 4])], "y")
    b.output("y", [1, 4])
    assert stranded(Graph(b.model())) == ("DequantizeLinear_x_dq",)
    assert stranded(Graph(int8_conv())) == ()


def test_stranded_finds_a_q_that_nobody_reads():
    b = ModelBuilder()
    x = b.input("x", [1, 4])
    b.q(x, 0.1, np.uint8(0))
    b.node("Relu", [x], "y")
    b.output("y", [1, 4])
    assert stranded(Graph(b.model())) == ("QuantizeLinear_x_q",)


def test_a_check_that_looked_at_nothing_fails():
    check = check_all("agreement", [], 0, "tensors")
    assert not check.passed
    assert check.detail == "nothing was checked: there are no tensors"


def test_a_check_lists_three_failures_and_counts_the_rest():
    check = check_all("agreement", ["a", "b", "c", "d"], 9, "tensors")
    assert not check.passed
    assert check.detail == "4 of 9 tensors: a; b; c; and 1 more"
    assert check_all("agreement", [], 9, "tensors").passed
