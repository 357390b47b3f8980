"""Whatever an exporter writes: each form is built small, quantized for two targets, and compared with the float model.

Every model has at least one node that runs in int8 on both targets; what is unusual stands beside it or is it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxq
from onnxq.planning.plan import Action
from tests.graphs import model_of, normal
from tests.versions import RUNTIME

FLOOR_DB = 20.0
"""At most three int8 layers in a row, each 30 to 45 dB on ranges that cover all samples."""

Array = NDArray[Any]


def built(text: str, **options: Any) -> ModelProto:
    """`model_of`, with IMAGE for the type of an image and PAD for the padding that keeps its size."""
    return model_of(text.replace("IMAGE", "float[N,16,8,8]").replace("PAD", "pads=[1,1,1,1]"), **options)


def w(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Weights that keep the size of activations."""
    return normal(*shape, seed=seed) / np.float32(np.sqrt(np.prod(shape[1:]) or 1))


CONV = w(16, 16, 3, 3)
POINT = w(16, 16, 1, 1, seed=1)
SQUARE = w(32, 32)


def opset(version: int) -> ModelProto:
    """Conv and BatchNormalization, pooling, a linear layer, in the forms of old and new operator sets."""
    squeeze = "Squeeze(p, axes)" if version >= 13 else "Squeeze<axes=[2,3]>(p)"
    clip = "Clip(b, zero, six)" if version >= 11 else "Clip<min=0.0, max=6.0>(b)"
    text = f"""(IMAGE x) => (float[N,16] y) {{
        a = Conv<PAD>(x, w) b = BatchNormalization(a, s, t, m, v) c = {clip}
        p = GlobalAveragePool(c) q = {squeeze} y = Gemm<transB=1>(q, g, h) }}"""
    constants: dict[str, Any] = {
        "w": CONV, "s": np.abs(normal(16)) + 1, "t": normal(16), "m": normal(16), "v": np.abs(normal(16)) + 1,
        "g": w(16, 16), "h": normal(16),
    }  # fmt: skip
    if version >= 13:
        constants["axes"] = np.array([2, 3], np.int64)
    if version >= 11:
        constants |= {"zero": np.float32(0), "six": np.float32(6)}
    return built(text, opset=version, ir=3 if version < 9 else 8, **constants)


def initializers_that_are_inputs() -> ModelProto:
    model = built("(IMAGE x) => (IMAGE y) { y = Conv<PAD>(x, w, b) }", ir=3, opset=8, w=CONV, b=normal(16))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def constant_nodes() -> ModelProto:
    model = built("(IMAGE x) => (IMAGE y) { y = Conv<PAD>(x, w) }")
    node = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(CONV))
    model.graph.node.insert(0, node)
    return model


def weight_behind(chain: str, weight: Array, **constants: Any) -> ModelProto:
    return built(f"(float[N,32] x) => (float[N,32] y) {{ {chain} y = MatMul(x, u) }}", w=weight, **constants)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def unnamed_and_duplicate_names() -> ModelProto:
    model = built(
        "(IMAGE x) => (IMAGE y) { a = Conv<PAD>(x, w) b = Relu(a) c = Conv(b, p) y = Relu(c) }", w=CONV, p=POINT
    )
    for node, name in zip(model.graph.node, ("", "n", "n", ""), strict=True):
        node.name = name
    return model


def names_that_onnxq_would_take() -> ModelProto:
    return built(
        "(IMAGE x) => (IMAGE x_dequantized, IMAGE x_quantized) { x_scale = Conv<PAD>(x, w) "
        "x_dequantized = Relu(x_scale) x_quantized = Conv(x_dequantized, w_quantized) }",
        w=CONV, w_quantized=POINT,
    )  # fmt: skip


def empty_optional_inputs() -> ModelProto:
    model = image("a = Conv<PAD>(x, w) b = Clip(a, , six) y = Conv(b, p)", w=CONV, p=POINT, six=np.float32(6))
    model.graph.node[0].input.append("")
    return model


def custom_domain() -> ModelProto:
    """An operator nobody can run would end calibration: one of onnxruntime's own stands for it."""
    model = built("(IMAGE x) => (IMAGE y) { a = Conv<PAD>(x, w) b = other.Gelu(a) y = Conv(b, p) }", w=CONV, p=POINT)
    model.graph.node[1].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def strings_and_sequences() -> ModelProto:
    """A label for each row, and all columns as a sequence, beside an int8 layer."""
    text = """(float[N,32] x) => (float[N,32] y, seq(float[N,16]) parts, float[N,16] first) {
        y = MatMul(x, w) parts = SplitToSequence<axis=1>(y, half) first = SequenceAt(parts, zero) }"""
    return built(text, w=SQUARE, half=np.int64(16), zero=np.int64(0))


def labels() -> ModelProto:
    model = built(
        "(float[N,32] x) => (float[N,32] y, string[N] label) { y = MatMul(x, w) "
        "i = ArgMax<axis=1, keepdims=0>(y) label = Gather(names, i) }",
        w=SQUARE,
    )
    names = helper.make_tensor("names", TensorProto.STRING, [32], [f"class {i}".encode() for i in range(32)])
    model.graph.initializer.append(names)
    return model


def optional_type() -> ModelProto:
    text = (
        "(float[N,32] x) => (float[N,32] y) { o = Optional(x) a = OptionalGetElement(o) b = Relu(a) y = MatMul(x, w) }"
    )
    return built(text, w=SQUARE)


def local_function() -> ModelProto:
    model = built("(float[N,32] x) => (float[N,32] y) { a = other.Dense(x, w) y = other.Dense(a, w) }", w=SQUARE)
    function = helper.make_function(
        "other", "Dense", ["i", "k"], ["o"],
        [helper.make_node("MatMul", ["i", "k"], ["m"]), helper.make_node("Relu", ["m"], ["o"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    model.functions.append(function)
    return model


def control_flow() -> ModelProto:
    text = """(float[N,32] x, bool flag) => (float[N,32] y) {
        a = MatMul(x, w) r = Relu(a)
        b = If (flag) <then_branch = t () => (float[N,32] p) { p = Neg(r) },
                       else_branch = e () => (float[N,32] q) { q = MatMul(a, v) }>
        y = MatMul(b, w) }"""
    return built(text, w=SQUARE, v=w(32, 32, seed=2))


def image(body: str, **constants: Any) -> ModelProto:
    """From x to y, both [N, 16, 8, 8]."""
    return built(f"(IMAGE x) => (IMAGE y) {{ {body} }}", **constants)


def rows(body: str, **constants: Any) -> ModelProto:
    """From x to y, both [N, 32]."""
    return built(f"(float[N,32] x) => (float[N,32] y) {{ {body} }}", **constants)


MODELS: Mapping[str, Callable[[], ModelProto]] = {
    **{
        f"opset {n}": lambda n=n: opset(n)
        for n in (7, 8, 9, 10, 11, 12, 13, 15, 18, 19, 21, 22, 24, 26, 28)
        if n <= onnx.defs.onnx_opset_version() and (n <= 22 or RUNTIME >= (1, 32))
    },
    "initializers that are inputs": initializers_that_are_inputs,
    "Constant nodes": constant_nodes,
    "weight behind Transpose": lambda: weight_behind("u = Transpose(w)", w(32, 32)),
    "weight behind Reshape": lambda: weight_behind("u = Reshape(w, s)", w(64, 16), s=ints(32, 32)),
    "weight behind Cast": lambda: weight_behind("u = Cast<to=1>(w)", w(32, 32).astype(np.float16)),
    "weight behind a chain": lambda: weight_behind(
        "a = Identity(w) b = Unsqueeze(a, z) c = Cast<to=1>(b) d = Squeeze(c, z) u = Transpose(d)",
        w(32, 32).astype(np.float16),
        z=ints(0),
    ),
    "tied weights": lambda: built(
        "(int64[N,5] i) => (float[N,5,64] y) "
        "{ e = Gather(w, i) a = MatMul(e, k) t = Transpose<perm=[1,0]>(w) y = MatMul(a, t) }",
        w=w(64, 32),
        k=SQUARE,
    ),
    "shared weight": lambda: rows("a = MatMul(x, w) b = Relu(a) y = MatMul(b, w)", w=SQUARE),
    "weight with two axes": lambda: rows("a = MatMul(x, w) y = Gemm<transB=1>(a, w)", w=SQUARE),
    "rank-3 weight": lambda: built("(float[2,N,32] x) => (float[2,N,32] y) { y = MatMul(x, w) }", w=w(2, 32, 32) / 3),
    "rank-4 weight": lambda: built(
        "(float[N,2,6,32] x) => (float[N,2,6,32] y) { y = MatMul(x, w) }", w=w(1, 2, 32, 32) / 4
    ),
    "rank-5 data": lambda: built("(float[N,2,2,3,32] x) => (float[N,2,2,3,32] y) { y = MatMul(x, w) }", w=SQUARE),
    "vector data": lambda: built(
        "(float[32] x, float[N,32] z) => (float[32] y, float[N,32] u) { y = MatMul(x, w) u = MatMul(z, w) }", w=SQUARE
    ),
    "(1, N) Gemm bias": lambda: rows("y = Gemm(x, w, b)", w=SQUARE, b=normal(1, 32)),
    "scalar Gemm bias": lambda: rows("a = Gemm(x, w, b) y = MatMul(a, w)", w=SQUARE, b=normal()),
    "(1,) Gemm bias": lambda: rows("a = Gemm(x, w, b) y = MatMul(a, w)", w=SQUARE, b=normal(1)),
    "Gemm with factors": lambda: rows("y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, b)", w=SQUARE, b=normal(32)),
    "Gemm with transA": lambda: built(
        "(float[32,N] x) => (float[N,32] y) { a = Gemm<transA=1>(x, w) y = MatMul(a, w) }", w=SQUARE
    ),
    "data as second input": lambda: built(
        "(float[32,N] x) => (float[32,N] y, float[32,32] u) "
        "{ a = MatMul(w, x) y = Relu(a) u = MatMul(v, w) v = MatMul(x, t) t = Transpose(x) }",
        w=SQUARE,
    ),
    "grouped Conv": lambda: image("a = Conv<PAD, group=4>(x, w) y = Conv(a, p)", w=w(16, 4, 3, 3), p=POINT),
    "depthwise Conv": lambda: image("a = Conv<PAD, group=16>(x, w) y = Conv(a, p)", w=w(16, 1, 3, 3), p=POINT),
    "depthwise Conv with multiplier": lambda: built(
        "(IMAGE x) => (float[N,16,8,8] y) { a = Conv<PAD, group=16>(x, w) y = Conv(a, p) }",
        w=w(32, 1, 3, 3),
        p=w(16, 32, 1, 1),
    ),
    "dilated Conv": lambda: image("y = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w)", w=CONV),
    "Conv with auto_pad": lambda: built(
        '(IMAGE x) => (float[N,16,4,4] y) { y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w) }', w=CONV
    ),
    "1-D Conv": lambda: built(
        "(float[N,16,20] x) => (float[N,16,20] y) { y = Conv<pads=[1,1]>(x, w, b) }", w=w(16, 16, 3), b=normal(16)
    ),
    "3-D Conv": lambda: built(
        "(float[N,16,4,4,4] x) => (float[N,16,4,4,4] y) { y = Conv<pads=[1,1,1,1,1,1]>(x, w) }", w=w(16, 16, 3, 3, 3)
    ),
    "ConvTranspose": lambda: built(
        "(IMAGE x) => (float[N,16,16,16] y) { a = ConvTranspose<strides=[2,2]>(x, w, b) y = Conv(a, p) }",
        w=w(16, 16, 2, 2),
        b=normal(16),
        p=POINT,
    ),
    "grouped ConvTranspose": lambda: built(
        "(IMAGE x) => (float[N,16,16,16] y) { a = ConvTranspose<strides=[2,2], group=4>(x, w) y = Conv(a, p) }",
        w=w(16, 4, 2, 2),
        p=POINT,
    ),
    "grouped ConvTranspose and BatchNormalization": lambda: built(
        "(IMAGE x) => (float[N,16,16,16] y) "
        "{ a = ConvTranspose<strides=[2,2], group=4>(x, w) n = BatchNormalization(a, s, t, m, v) y = Conv(n, p) }",
        w=w(16, 4, 2, 2),
        p=POINT,
        s=np.abs(normal(16)) + 1,
        t=normal(16),
        m=normal(16),
        v=np.abs(normal(16)) + 1,
    ),
    "Einsum": lambda: built(
        '(float[N,6,32] x) => (float[N,6,32] y) { a = Einsum<equation="nid,de->nie">(x, w) y = MatMul(a, w) }', w=SQUARE
    ),
    "unnamed and duplicate node names": unnamed_and_duplicate_names,
    "names that onnxq would take": names_that_onnxq_would_take,
    "empty optional inputs": empty_optional_inputs,
    "zero-size constant": lambda: rows(
        "a = Concat<axis=1>(x, e) y = MatMul(a, w)", w=SQUARE, e=np.zeros((8, 0), np.float32)
    ),
    "scalar output": lambda: built(
        "(float[N,32] x) => (float[N,32] y, float s) { y = MatMul(x, w) s = ReduceMean<keepdims=0>(y) }", w=SQUARE
    ),
    "output that others read": lambda: built(
        "(IMAGE x) => (IMAGE a, IMAGE b, IMAGE y) { a = Conv<PAD>(x, w) b = Relu(a) y = Conv(b, p) }", w=CONV, p=POINT
    ),
    "input that is an output": lambda: built("(IMAGE x) => (IMAGE x, IMAGE y) { y = Conv<PAD>(x, w) }", w=CONV),
    "initializer that is an output": lambda: built(
        "(IMAGE x) => (IMAGE y, float[16,16,3,3] w) { y = Conv<PAD>(x, w) }", w=CONV
    ),
    "unused input": lambda: built("(IMAGE x, float[N,3] unused) => (IMAGE y) { y = Conv<PAD>(x, w) }", w=CONV),
    "everything dynamic": lambda: built(
        "(float[N,C,H,W] x) => (float[N,K,P,Q] y) { a = Conv<PAD>(x, w) b = Relu(a) y = Conv(b, p) }", w=CONV, p=POINT
    ),
    "unknown rank inside": lambda: built(
        "(float[N,32] x, int64[R] s) => (float[N,32] y) "
        "{ a = MatMul(x, w) b = Reshape(a, s) c = Relu(b) y = Reshape(c, t) }",
        w=SQUARE,
        t=ints(-1, 32),
    ),
    "integer input": lambda: built(
        "(int64[N,6] i) => (float[N,6,32] y) { e = Gather(t, i) y = MatMul(e, w) }", t=normal(50, 32), w=SQUARE
    ),
    "bias that is computed": lambda: built(
        "(float[N,32] x, float[32] b) => (float[N,32] y) { a = Gemm(x, w, b) y = MatMul(a, w) }", w=SQUARE
    ),
    "weight that is computed": lambda: built(
        "(float[N,32] x, float[32,32] v) => (float[N,32] y) { a = MatMul(x, v) y = MatMul(a, w) }", w=SQUARE
    ),
    "rank-2 product and sum": lambda: rows("a = MatMul(x, w) s = Add(a, x) t = Tanh(s) y = MatMul(t, w)", w=SQUARE),
    "custom domain": custom_domain,
    "sequence": strings_and_sequences,
    "strings": labels,
    "optional type": optional_type,
    "local function": local_function,
    "control flow": control_flow,
    "dead weight channel": lambda: image(
        "y = Conv<PAD>(x, w, b)", w=CONV * (np.arange(16) % 3 > 0).astype(np.float32).reshape(-1, 1, 1, 1), b=normal(16)
    ),
    "dead activation": lambda: image(
        "a = Conv<PAD>(x, w) z = Mul(a, o) c = Conv(z, p) y = Add(c, x)", w=CONV, p=POINT, o=np.float32(0)
    ),
    "tiny weights": lambda: image("y = Conv<PAD>(x, w)", w=CONV * np.float32(1e-30)),
    "LSTM beside": lambda: built(
        "(float[6,N,32] x) => (float[6,1,N,8] h, float[6,N,32] y) "
        "{ y = MatMul(x, w) h = LSTM<hidden_size=8>(y, k, r) }",
        w=SQUARE,
        k=normal(1, 32, 32) / 6,
        r=normal(1, 32, 8) / 3,
    ),
}


def feeds(model: ModelProto) -> list[dict[str, Array]]:
    rng, found = np.random.default_rng(7), []
    constants = {t.name for t in model.graph.initializer}
    sizes = {"N": 8, "C": 16, "H": 8, "W": 8}
    for _ in range(6):
        feed: dict[str, Array] = {}
        for value in model.graph.input:
            if value.name in constants:
                continue
            kind = value.type.tensor_type
            shape = [d.dim_value or sizes.get(d.dim_param, 3) for d in kind.shape.dim]
            if kind.elem_type == TensorProto.BOOL:
                feed[value.name] = np.array(rng.random() < 0.5)
            elif value.name == "s":
                feed[value.name] = ints(2, 4, 32)
            elif kind.elem_type == TensorProto.INT64:
                feed[value.name] = rng.integers(0, 50, shape)
            else:
                feed[value.name] = rng.standard_normal(shape).astype(np.float32)
        found.append(feed)
    return found


@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt"])
@pytest.mark.parametrize("name", MODELS)
def test_model_is_quantized(name: str, target: str) -> None:
    model = MODELS[name]()
    result = onnxq.quantize(model, feeds(model), target=target, method="max")
    onnx.checker.check_model(result.model, full_check=True)
    assert [d.name for d in result.report.failed_checks if d.name != "engine builds"] == []
    assert any(d.action is Action.INT8 for d in result.plan.nodes)
    assert [v.name for v in result.model.graph.output] == [v.name for v in model.graph.output]
    measured = [o for o in result.report.outputs if o.sqnr_db is not None]
    assert measured and all(o.sqnr_db > FLOOR_DB for o in measured if o.sqnr_db is not None)
