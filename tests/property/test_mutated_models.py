"""Models with one thing or another changed: an input left out, a name, a shape, a type, an attribute.

Most contradict themselves, some are merely odd, and onnx's checker sees few of it. What onnxruntime loads is planned;
everything else is refused with a typed error.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

import onnxq
from onnxq.errors import OnnxqError
from tests.fuzzing import budget
from tests.graphs import model_of, normal
from tests.versions import since

ONE = np.ones(4, np.float32)


def small_models() -> list[ModelProto]:
    """Between them, the operators that passes and rules look at."""
    conv = model_of(
        """(float[N,3,8,8] x) => (float[N,4,1,1] y, float[N,5] z) { xp = Pad(x, pads, zero)
        c = Conv(xp, w) b = BatchNormalization(c, s, o, m, v) r = Clip(b, zero, six)
        d = Conv<group=4, pads=[1,1,1,1]>(r, dw) a = Add(d, r) g0 = GlobalAveragePool(a) g1 = Conv(g0, p)
        g2 = Sigmoid(g1) g = Mul(a, g2) k = Concat<axis=1>(g, a) l = Conv(k, q) y = GlobalAveragePool(l)
        f = Flatten(y) e = Gemm<transB=1>(f, u, t) h = Softmax<axis=1>(e) z = Identity(h) }""",
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]), zero=np.float32(0), six=np.float32(6), w=normal(4, 3, 3, 3), s=ONE,
        o=0 * ONE, m=0 * ONE, v=ONE, dw=normal(4, 1, 3, 3), p=normal(4, 4, 1, 1), q=normal(4, 8, 1, 1), u=normal(5, 4),
        t=normal(5),
    )  # fmt: skip
    attention = model_of(
        """(int64[N,6] ids) => (float[N,6,16] y) { e = Gather(table, ids) n = LayerNormalization(e, g, b)
        q = MatMul(n, wq) qb = Add(q, bq) k = MatMul(n, wk) kt = Transpose<perm=[0,2,1]>(k) s = MatMul(qb, kt)
        sc = Div(s, four) p = Softmax(sc) v = MatMul(n, wv) c = MatMul(p, v) r = Reshape(c, shape) y = Add(r, e) }""",
        table=normal(20, 16), g=normal(16), b=normal(16), wq=normal(16, 16), wk=normal(16, 16), wv=normal(16, 16),
        bq=normal(16), four=np.float32(4), shape=np.array([0, 0, 16]),
    )  # fmt: skip
    branches = model_of(
        """(float[N,16] x, bool c) => (float[N,8] y) { m = MatMul(x, w) h = HardSigmoid(m) u = Mul(m, h)
        y = If (c) < then_branch = a () => (float[N,8] p) { p = Relu(u) },
        else_branch = b () => (float[N,8] q) { j = MatMul(u, v) q = Add(j, k) } > }""",
        w=normal(16, 8), k=normal(8), v=normal(8, 8),
    )  # fmt: skip
    return [conv, attention, branches]


MODELS = small_models()


def _graph(model: ModelProto, rng: random.Random) -> GraphProto:
    bodies = [a.g for node in model.graph.node for a in node.attribute if a.type == AttributeProto.GRAPH]
    return rng.choice(bodies) if bodies and rng.random() < 0.3 else model.graph


def _names(graph: GraphProto) -> list[str]:
    return ["", "nobody", *(v.name for v in graph.input), *(t.name for t in graph.initializer)] + [
        name for node in graph.node for name in node.output
    ]


def change_input(graph: GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(_names(graph))


def drop_input(graph: GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    if node.input:
        del node.input[rng.randrange(len(node.input))]


def add_input(graph: GraphProto, rng: random.Random) -> None:
    rng.choice(graph.node).input.append(rng.choice(_names(graph)))


def change_output(graph: GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    if node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(_names(graph))


def drop_node(graph: GraphProto, rng: random.Random) -> None:
    del graph.node[rng.randrange(len(graph.node))]


def change_operator(graph: GraphProto, rng: random.Random) -> None:
    node, other = rng.choice(graph.node), rng.choice(graph.node)
    node.op_type = rng.choice([other.op_type, "ConvTranspose", "Einsum", "Loop", "NonZero", "Split", "Expand", ""])


def change_attribute(graph: GraphProto, rng: random.Random) -> None:
    node = rng.choice([n for n in graph.node if n.attribute] or list(graph.node))
    if not node.attribute:
        return
    attr = rng.choice(node.attribute)
    if attr.type == AttributeProto.INT:
        attr.i = rng.choice([-(2**63), -1, 0, 1, 2, 7, 2**31, 2**63 - 1])
    elif attr.type == AttributeProto.INTS:
        attr.ints[:] = [rng.choice([-5, -1, 0, 1, 3, 2**40]) for _ in range(rng.randrange(6))]
    elif attr.type == AttributeProto.FLOAT:
        attr.f = rng.choice([float("nan"), float("inf"), -1.0, 0.0])
    else:
        attr.type = rng.choice([AttributeProto.INT, AttributeProto.STRING, AttributeProto.UNDEFINED])


def drop_attribute(graph: GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    if node.attribute:
        del node.attribute[rng.randrange(len(node.attribute))]


def change_shape(graph: GraphProto, rng: random.Random) -> None:
    if graph.initializer:
        tensor = rng.choice(graph.initializer)
        sizes = [*tensor.dims, 1]
        rng.shuffle(sizes)
        tensor.dims[:] = rng.choice([sizes, sizes[:-1], [], [0], [-1], [*tensor.dims, 2], [2**40]])


def other_values(graph: GraphProto, rng: random.Random) -> None:
    """Another array under the same name: of another size, rank or type, with odd values."""
    if graph.initializer:
        tensor = rng.choice(graph.initializer)
        shape = [rng.choice([0, 1, 2, 3, 4, 8]) for _ in range(rng.randrange(5))]
        value = np.full(shape, rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf")]))
        dtype = rng.choice([np.float32, np.float64, np.float16, np.int64, np.int8, np.bool_])
        with np.errstate(all="ignore"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(dtype), tensor.name))


def change_type(graph: GraphProto, rng: random.Random) -> None:
    tensors = [*graph.initializer, *(v.type.tensor_type for v in (*graph.input, *graph.output))]
    if tensors:
        tensor = rng.choice(tensors)
        kind = rng.choice([0, 1, 6, 7, 8, 9, 10, 11, 14, 99])
        if isinstance(tensor, TensorProto):
            tensor.data_type = kind
        else:
            tensor.elem_type = kind


def change_declared_shape(graph: GraphProto, rng: random.Random) -> None:
    values = [*graph.input, *graph.output]
    if values:
        shape = rng.choice(values).type.tensor_type.shape
        if shape.dim and rng.random() < 0.5:
            shape.dim[rng.randrange(len(shape.dim))].dim_value = rng.choice([-1, 0, 1, 5, 2**62])
        else:
            shape.dim.add().dim_value = 3


def drop_initializer(graph: GraphProto, rng: random.Random) -> None:
    if graph.initializer:
        del graph.initializer[rng.randrange(len(graph.initializer))]


CHANGES: list[Callable[[GraphProto, random.Random], None]] = [
    change_input, drop_input, add_input, change_output, drop_node, change_operator, change_attribute, drop_attribute,
    change_shape, other_values, change_type, change_declared_shape, drop_initializer,
]  # fmt: skip


def changed(which: int, seed: int) -> ModelProto:
    model = ModelProto()
    model.CopyFrom(MODELS[which])
    rng = random.Random(seed)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        graph = _graph(model, rng)
        if graph.node:
            rng.choice(CHANGES)(graph, rng)
    if rng.random() < 0.1:
        model.opset_import[0].version = rng.choice([0, 1, 7, 11, 13, 21, 99])
    return model


@since(1, 32, "ends the process on some models that contradict themselves")
@budget(60)
@given(which=st.integers(0, len(MODELS) - 1), seed=st.integers(0, 2**32))
def test_planning(which: int, seed: int) -> None:
    model = changed(which, seed)
    for target in ("ort-x64-avx2", "tensorrt", "openvino"):
        with contextlib.suppress(OnnxqError):
            onnxq.plan(model, target=target)


@budget(15)
@given(which=st.integers(0, len(MODELS) - 1), seed=st.integers(0, 2**32))
def test_quantizing(which: int, seed: int) -> None:
    with contextlib.suppress(OnnxqError):
        onnxq.quantize(changed(which, seed), target="ort-x64-avx2")
