"""Random small networks through the whole of quantization, for every target.

1. The result is valid, and onnxruntime's fused kernels compute what its Q/DQ graph says.
2. It is close to the float model.
3. Without its activation pairs it *is* the float model with rounded weights, bit for bit: nothing else was changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto

import onnxq
from onnxq.calibration.methods import method_from_name
from onnxq.calibration.solve import solve
from onnxq.graph.view import Graph
from onnxq.numerics.arrays import dequantize, quantize
from onnxq.numerics.metrics import sqnr_db
from onnxq.pipeline import stages
from onnxq.planning.options import PlanOptions
from onnxq.planning.plan import QuantPlan, Role
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.lint_tensorrt import lint_tensorrt
from tests.fuzzing import budget
from tests.graphs import model_of

FEEDS = 4
FLOOR_DB = 15.0
"""Up to 10 operators in a row, each rounding at about 30 to 40 dB on ranges that cover every sample. A wrong axis,
zero-point or bias scale leaves less than 10 dB."""

QUICK = budget(10)

STEPS = (
    "conv", "conv", "again", "point", "depthwise", "relu", "relu6", "add", "silu", "concat", "pool", "gate", "leaky",
    "average", "swap", "hard",
)  # fmt: skip
if tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 22):
    # 1.20 and 1.21 end the process while they load some float models with a Conv inside a branch.
    STEPS += ("body",)

WITHOUT_WEIGHTS = {
    "relu": "{out} = Relu({last})",
    "relu6": "{out} = Clip({last}, zero, six)",
    "add": "{out} = Add({last}, {other})",
    "silu": "s{out} = Sigmoid({last}) {out} = Mul({last}, s{out})",
    "leaky": "{out} = LeakyRelu<alpha=0.1>({last})",
    "average": "{out} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({last})",
    "swap": "{out} = Transpose<perm=[0,1,3,2]>({last})",
    "hard": "h{out} = HardSigmoid<alpha=0.1666667>({last}) {out} = Mul({last}, h{out})",
    "pool": "{out} = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({last})",
}


def _he(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Weights that keep the size of activations, channels of different ranges."""
    fan_in = int(np.prod(shape[1:]))
    ranges = rng.uniform(0.5, 1.5, (shape[0], *[1] * (len(shape) - 1)))
    return (rng.standard_normal(shape) * ranges / np.sqrt(fan_in)).astype(np.float32)


@st.composite
def conv_nets(draw: st.DrawFn) -> ModelProto:
    """Convolutions with branches, residuals, Concat, gates, shared weights; the last tensor is the output."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    constants: dict[str, Any] = {
        "shared": _he(rng, 16, 16, 3, 3), "bias": rng.standard_normal(16).astype(np.float32) * np.float32(0.1),
        "zero": np.float32(0), "six": np.float32(6),
    }  # fmt: skip
    body, tensors = [], ["x"]
    for index, step in enumerate(draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=8))):
        last, other, out = tensors[-1], draw(st.sampled_from(tensors)), f"t{index}"
        weight = f"w{index}"
        same = "pads=[1,1,1,1]"
        if step == "conv":
            constants[weight] = _he(rng, 16, 16, 3, 3)
            body.append(f"{out} = Conv<{same}>({last}, {weight}, bias)")
        elif step == "again":
            body.append(f"{out} = Conv<{same}>({other}, shared, bias)")
        elif step == "point":
            constants[weight] = _he(rng, 16, 16, 1, 1)
            body.append(f"{out} = Conv({last}, {weight})")
        elif step == "depthwise":
            constants[weight] = _he(rng, 16, 1, 3, 3)
            body.append(f"{out} = Conv<{same}, group=16>({last}, {weight})")
        elif step == "concat":
            constants[weight] = _he(rng, 16, 32, 1, 1)
            body.append(f"c{index} = Concat<axis=1>({other}, {last}) {out} = Conv(c{index}, {weight})")
        elif step == "body":
            body.append(_branches(out, last, other))
        elif step in WITHOUT_WEIGHTS:
            body.append(WITHOUT_WEIGHTS[step].format(out=out, last=last, other=other))
        else:
            constants[weight] = _he(rng, 16, 16, 1, 1)
            body.append(
                f"g{index} = GlobalAveragePool({last}) h{index} = Conv(g{index}, {weight}) "
                f"k{index} = Sigmoid(h{index}) {out} = Mul({other}, k{index})"
            )
        tensors.append(out)
    constants["last"] = _he(rng, 16, 16, 1, 1)
    outputs = {"y", *draw(st.sets(st.sampled_from(tensors[1:]), max_size=1))}
    declared = ", ".join(f"float[N,16,8,8] {name}" for name in sorted(outputs))
    text = f"(float[N,16,8,8] x) => ({declared}) {{ {' '.join(body)} y = Conv({tensors[-1]}, last) }}"
    return _pruned(text, constants)


def _branches(out: str, last: str, other: str) -> str:
    """An If whose bodies read tensors from outside, and a weight that is also read outside."""
    return f"""low{out} = ReduceMin<keepdims=0>({other}) if{out} = Greater(low{out}, zero) {out} = If (if{out}) <
        then_branch = a{out} () => (float[N,16,8,8] p{out}) {{ p{out} = Relu({last}) }},
        else_branch = b{out} () => (float[N,16,8,8] q{out}) {{ j{out} = Conv<pads=[1,1,1,1]>({other}, shared)
        q{out} = Add(j{out}, {last}) }} >"""


@st.composite
def matmul_nets(draw: st.DrawFn) -> ModelProto:
    """MatMul, Gemm, biases of every shape, residuals."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    constants: dict[str, Any] = {"shared": _he(rng, 24, 24).T.copy()}
    body, tensors = [], ["x"]
    for index in range(draw(st.integers(1, 5))):
        last, out, weight = tensors[-1], f"t{index}", f"w{index}"
        step = draw(st.sampled_from(("matmul", "bias", "batched", "again", "relu", "add", "tanh")))
        if step == "relu":
            body.append(f"{out} = Relu({last})")
        elif step == "tanh":
            body.append(f"{out} = Tanh({last})")
        elif step == "add":
            body.append(f"{out} = Add({draw(st.sampled_from(tensors))}, {last})")
        elif step == "again":
            body.append(f"{out} = MatMul({last}, shared)")
        elif step == "batched":
            constants[weight] = np.stack([_he(rng, 24, 24)] * 2)
            body.append(f"{out} = MatMul({last}, {weight})")
        else:
            constants[weight] = _he(rng, 24, 24)
            body.append(
                f"m{index} = MatMul({last}, {weight}) " if step == "bias" else f"{out} = MatMul({last}, {weight})"
            )
            if step == "bias":
                shape = draw(st.sampled_from([(24,), (1, 24), (1, 1, 24), (1,), ()]))
                constants[f"b{index}"] = rng.standard_normal(shape).astype(np.float32) * np.float32(0.1)
                pair = draw(st.permutations([f"m{index}", f"b{index}"]))
                body.append(f"{out} = Add({', '.join(pair)})")
        tensors.append(out)
    constants["last"] = _he(rng, 24, 24)
    text = f"(float[2,6,24] x) => (float[2,6,24] y) {{ {' '.join(body)} y = MatMul({tensors[-1]}, last) }}"
    return _pruned(text, constants)


def _pruned(text: str, constants: dict[str, Any]) -> ModelProto:
    graph = Graph(model_of(text, **constants))
    graph.prune()
    return graph.to_model()


def feeds(model: ModelProto) -> list[dict[str, NDArray[np.float32]]]:
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    return [{"x": np.random.default_rng(i).standard_normal(shape).astype(np.float32)} for i in range(FEEDS)]


NETS = st.one_of(conv_nets(), matmul_nets())


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2"])
@QUICK
@given(model=NETS)
def test_onnxruntime(target: str, model: ModelProto) -> None:
    data = feeds(model)
    result = onnxq.quantize(model, data, target=target, method="max", recover="none")
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report.failed_checks == ()
    # The last quarter of the data was held out, and may lie outside the ranges.
    _close(model, result.model, data[: FEEDS - FEEDS // 4])
    _is_float_model_with_rounded_weights(model, result.model, result.plan, result.qparams, target)


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
@QUICK
@given(model=NETS)
def test_inputs_placement(target: str, model: ModelProto) -> None:
    data = feeds(model)
    prepared = stages.prepare(model, target, PlanOptions())
    stats = onnxq.calibrate(model, data, target=target)
    qparams = solve(prepared.graph, prepared.plan, stats, method_from_name("max"), prepared.target)
    quantized = stages.rewrite(prepared.graph, prepared.plan, qparams)
    made = quantized.to_model()
    onnx.checker.check_model(made, full_check=True)
    if target == "tensorrt":
        assert list(lint_tensorrt(quantized)) == []
    _close(model, made, data)
    _is_float_model_with_rounded_weights(model, made, prepared.plan, qparams, target)


def _close(model: ModelProto, quantized: ModelProto, data: list[dict[str, NDArray[np.float32]]]) -> None:
    """Judged on the samples that gave the ranges: how far others go beyond them is not the point here."""
    before, after = OrtModel(model, optimised=False), OrtModel(quantized, optimised=False)
    want, got = [before(feed) for feed in data], [after(feed) for feed in data]
    for name in want[0]:
        noise = sqnr_db(np.stack([w[name] for w in want]), np.stack([g[name] for g in got]))
        assert noise >= FLOOR_DB, name


def _is_float_model_with_rounded_weights(
    model: ModelProto, quantized: ModelProto, plan: QuantPlan, qparams: Any, target: str
) -> None:
    prepared = stages.prepare(model, target, PlanOptions())
    if any(inside.plan.tensors for inside in prepared.nested):
        return  # what is inside a branch of If has no name in the graph around it
    bare = _without_activation_pairs(quantized)
    rounded = _with_rounded_constants(prepared.graph, plan, qparams)
    want, got = OrtModel(rounded, optimised=False), OrtModel(bare, optimised=False)
    for feed in feeds(model)[:1]:
        expected, found = want(feed), got(feed)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)


def _without_activation_pairs(model: ModelProto) -> ModelProto:
    graph = Graph(model)
    for node in graph.nodes:
        source = graph.producer(node.input[0])
        if node.op_type != "DequantizeLinear" or source is None or source.op_type != "QuantizeLinear":
            continue
        dequantized, real = node.output[0], source.input[0]
        graph.remove_node(node)
        graph.remove_node(source)
        writer = graph.producer(real)
        if graph.is_output(dequantized) and writer is not None:
            graph.set_output(writer, list(writer.output).index(real), dequantized)
        else:
            graph.replace_uses(dequantized, real)
    graph.prune()
    return graph.to_model()


def _with_rounded_constants(graph: Graph, plan: QuantPlan, qparams: Any) -> ModelProto:
    """The float graph, each quantized constant replaced by what its codes stand for, for each of its readers."""
    for key, tensor in plan.tensors.items():
        if tensor.role is Role.ACTIVATION:
            continue
        value = graph.constant(tensor.name)
        assert value is not None
        params = qparams[key]
        if tensor.role is Role.BIAS:
            value = np.broadcast_to(value.reshape(-1), params.scale.shape or (value.size,))
        name = graph.add_initializer(f"{key} rounded", dequantize(quantize(value, params), params))
        graph.replace_uses(tensor.name, name, tensor.uses)
    graph.prune()
    return graph.to_model()
