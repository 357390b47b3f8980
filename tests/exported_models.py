"""Random models in the forms that exporters write: hypothesis draws operators and how each is written down.

    operator set 7 to 23, IR version 3 on, float32, float16 or float64
    attributes, then inputs, as of the operator set that moved them (Clip, Squeeze, ReduceMean, Pad, Slice, Split)
    weights as initializers, as inputs with a default, in Constant nodes, behind Transpose, Reshape, Cast, Identity,
    Unsqueeze; the same weight read twice
    Convs over one, two and three dimensions, grouped, dilated, padded by name; MatMul, Gemm and Einsum
    bodies of If and Loop that read tensors and weights from outside; sequences and optionals
    pairs of a quantization-aware training; scalars, tensors without elements, outputs that something else reads,
    outputs that nobody reads, outputs of unknown rank, nodes without a name

Every model is one that onnxruntime should run; those that it does not are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

CHANNELS, SIDE, BATCH = 16, 5, 2
"""With fewer channels nothing pays on TensorRT."""
_IR_OF_OPSET = {9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
_FLOATS = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, np.float64: TensorProto.DOUBLE}


@dataclass
class _Shared:
    """What the graphs of one model have in common."""

    draw: st.DrawFn
    rng: np.random.Generator
    opset: int
    ir: int
    dtype: Any
    count: int = 0


class Writer:
    """One graph on its way.

    Args:
        shared: What all graphs of the model share.
        rank: Dimensions of a picture.
        outer: Tensors of the shape of the input that graphs around hold.
    """

    def __init__(self, shared: _Shared, rank: int, outer: Sequence[str] = ()) -> None:
        self.shared, self.rank, self.is_inside = shared, rank, bool(outer)
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.defaults: list[str] = []
        self.weights: dict[tuple[int, ...], list[str]] = {}
        self.tensors = list(outer)

    @property
    def opset(self) -> int:
        return self.shared.opset

    @property
    def shape(self) -> tuple[int, ...]:
        return (BATCH, CHANNELS, *[SIDE] * self.rank)

    def pick(self, *choices: Any) -> Any:
        return self.shared.draw(st.sampled_from(choices))

    def name(self, stem: str) -> str:
        self.shared.count += 1
        return f"{stem}{self.shared.count}"

    def random(self, *shape: int) -> NDArray[Any]:
        value: NDArray[Any] = self.shared.rng.standard_normal(shape)
        return value

    def last(self) -> str:
        return self.tensors[-1]

    def any(self) -> str:
        return str(self.pick(*self.tensors))

    # ---- nodes and constants -------------------------------------------------------------------------------------

    def node(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """Add a node; the name of its first output."""
        names = [self.name("t") for _ in range(outputs)]
        given = {key: value for key, value in attributes.items() if value is not None}
        called = self.pick("", self.name("node"))
        self.nodes.append(helper.make_node(op, list(inputs), names, name=called, **given))
        return names[0]

    def constant(self, value: Any, dtype: Any = None) -> str:
        """A small constant, in a form of its own."""
        array = np.asarray(value, self.shared.dtype if dtype is None else dtype)
        name = self.name("c")
        if self.pick(True, False) or (self.is_inside and self.shared.ir < 4):
            tensor = numpy_helper.from_array(array, name)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def weight(self, value: NDArray[Any]) -> str:
        """A weight, in one of the forms of exporters; sometimes one of that shape that is there already."""
        known = self.weights.setdefault(value.shape, [])
        if known and self.pick(True, False):
            return str(self.pick(*known))
        known.append(self._weight(value))
        return known[-1]

    def _weight(self, value: NDArray[Any]) -> str:
        forms = ("plain", "plain", "default", "Identity", "Cast")
        form = self.pick(*forms, "Transpose", "Reshape", "Unsqueeze") if value.ndim else self.pick(*forms)
        if form in ("plain", "default"):
            name = self.constant(value)
            if form == "default" and any(one.name == name for one in self.initializers):
                self.defaults.append(name)
            return name
        if form == "Identity":
            return self.node("Identity", [self.constant(value)])
        if form == "Transpose":
            back = list(self.shared.rng.permutation(value.ndim))
            stored = self.constant(value.transpose(np.argsort(back)))
            return self.node("Transpose", [stored], perm=back)
        if form == "Reshape":
            return self.node("Reshape", [self.constant(value.reshape(-1)), self.integers(*value.shape)])
        if form == "Cast":
            other = np.float32 if self.shared.dtype is np.float16 else np.float16
            return self.node("Cast", [self.constant(value, other)], to=_FLOATS[self.shared.dtype])
        squeezed = self.constant(value.reshape(value.shape[1:])) if value.shape[0] == 1 else self.constant(value[0])
        one = self.unsqueezed(squeezed, 0)
        rest = [one] if value.shape[0] == 1 else [one, self.constant(value[1:])]
        return self.node("Concat", rest, axis=0)

    # ---- operators that changed ----------------------------------------------------------------------------------

    def _moved(self, op: str, data: str, since: int, **parts: Sequence[int]) -> str:
        """An operator whose attributes became inputs."""
        if self.opset < since:
            return self.node(op, [data], **{key: list(value) for key, value in parts.items()})
        return self.node(op, [data, *(self.integers(*value) for value in parts.values())])

    def unsqueezed(self, data: str, *axes: int) -> str:
        return self._moved("Unsqueeze", data, 13, axes=axes)

    def squeezed(self, data: str, *axes: int) -> str:
        return self._moved("Squeeze", data, 13, axes=axes)

    def mean(self, data: str, axes: Sequence[int], keepdims: int) -> str:
        if self.opset < 18:
            return self.node("ReduceMean", [data], axes=list(axes), keepdims=keepdims)
        return self.node("ReduceMean", [data, self.integers(*axes)], keepdims=keepdims)

    def sliced(self, data: str, axis: int, start: int, end: int) -> str:
        if self.opset < 10:
            return self.node("Slice", [data], axes=[axis], starts=[start], ends=[end])
        return self.node("Slice", [data, self.integers(start), self.integers(end), self.integers(axis)])

    def clipped(self, data: str, low: float, high: float) -> str:
        if self.opset < 11:
            return self.node("Clip", [data], min=float(low), max=float(high))
        return self.node("Clip", [data, self.constant(low), self.constant(high)])

    def padded(self, data: str) -> str:
        pads = [0, 0, *[1] * self.rank] * 2
        if self.opset < 11:
            return self.node("Pad", [data], pads=pads)
        inputs = [data, self.integers(*pads)]
        return self.node("Pad", inputs if self.pick(True, False) else [*inputs, self.constant(0)])

    def halves(self, data: str) -> tuple[str, str]:
        """The channels in two halves."""
        half = CHANNELS // 2
        if self.opset < 13:
            first = self.node("Split", [data], 2, axis=1, split=[half, half])
        else:
            first = self.node("Split", [data, self.integers(half, half)], 2, axis=1)
        return first, self.nodes[-1].output[1]

    # ---- steps: each gives a tensor of the shape of the input ----------------------------------------------------

    def conv(self, data: str, inputs: int = CHANNELS) -> str:
        side = self.pick(1, 3, 3)
        group = self.pick(1, 1, 2, CHANNELS) if inputs == CHANNELS else 1
        gain = 1.0 / np.sqrt(inputs / group * side**self.rank)
        weight = self.weight(self.random(CHANNELS, inputs // group, *[side] * self.rank) * gain)
        dilation = self.pick(1, 1, 2) if side == 3 else 1
        same = (
            {"auto_pad": "SAME_UPPER"}
            if dilation == 1 and self.pick(True, False)
            else {"pads": [dilation * (side // 2)] * 2 * self.rank}
        )
        if self.pick(True, False):
            same["kernel_shape"] = [side] * self.rank
        bias = self.pick([], [self.weight(self.random(CHANNELS) * 0.1)], [""])
        dilations = None if dilation == 1 else [dilation] * self.rank
        return self.node(
            "Conv", [data, weight, *bias], group=None if group == 1 else group, dilations=dilations, **same
        )

    def convolved_twice_the_channels(self) -> str:
        return self.conv(self.node("Concat", [self.any(), self.last()], axis=1), 2 * CHANNELS)

    def transposed_conv(self) -> str:
        group = self.pick(1, 2)
        weight = self.weight(
            self.random(CHANNELS, CHANNELS // group, *[3] * self.rank) / np.sqrt(CHANNELS * 3**self.rank)
        )
        return self.node("ConvTranspose", [self.last(), weight], pads=[1] * 2 * self.rank, group=group)

    def normalised(self) -> str:
        parts = [self.constant(1 + 0.1 * self.random(CHANNELS)), self.constant(0.1 * self.random(CHANNELS))]
        parts += [self.constant(0.1 * self.random(CHANNELS)), self.constant(1 + 0.1 * np.abs(self.random(CHANNELS)))]
        source = self.conv(self.last()) if self.pick(True, False) else self.last()
        return self.node("BatchNormalization", [source, *parts], epsilon=1e-3)

    def instance_normalised(self) -> str:
        return self.node(
            "InstanceNormalization", [self.last(), self.constant(np.ones(CHANNELS)), self.constant(np.zeros(CHANNELS))]
        )

    def activated(self) -> str:
        op = self.pick("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "HardSigmoid", "Identity", "Softplus")
        return self.node(op, [self.last()])

    def relu6(self) -> str:
        return self.clipped(self.last(), 0, self.pick(6, 1))

    def prelu(self) -> str:
        slope = self.constant(np.abs(self.random(CHANNELS, *[1] * self.rank)) * 0.2)
        return self.node("PRelu", [self.last(), slope])

    def silu(self) -> str:
        return self.node("Mul", [self.last(), self.node("Sigmoid", [self.last()])])

    def hard_swish(self) -> str:
        if self.opset >= 14 and self.pick(True, False):
            return self.node("HardSwish", [self.last()])
        shifted = self.clipped(self.node("Add", [self.last(), self.constant(3)]), 0, 6)
        return self.node("Div", [self.node("Mul", [self.last(), shifted]), self.constant(6)])

    def added(self) -> str:
        other = self.any()
        op = self.pick("Add", "Add", "Sub", "Max")
        return self.node("Add" if other == self.last() else op, [other, self.last()])  # x - x is a constant

    def scaled(self) -> str:
        factor = self.pick(2.0, np.full((1,) * (self.rank + 2), 0.5), np.abs(self.random(CHANNELS, *[1] * self.rank)))
        order = self.shared.draw(st.permutations([self.last(), self.constant(factor)]))
        return self.node("Mul", order)

    def pooled(self) -> str:
        op = self.pick("MaxPool", "AveragePool")
        same = {"auto_pad": "SAME_UPPER"} if self.pick(True, False) else {"pads": [1] * 2 * self.rank}
        return self.node(op, [self.last()], kernel_shape=[3] * self.rank, **same)

    def gated(self) -> str:
        means = self.node("GlobalAveragePool", [self.last()])
        weight = self.weight(self.random(CHANNELS, CHANNELS, *[1] * self.rank) / np.sqrt(CHANNELS))
        return self.node("Mul", [self.any(), self.node("Sigmoid", [self.node("Conv", [means, weight])])])

    def padded_and_cut(self) -> str:
        return self.sliced(self.padded(self.last()), 2, 1, SIDE + 1) if self.rank == 1 else self._unpadded()

    def _unpadded(self) -> str:
        return self.node("AveragePool", [self.padded(self.last())], kernel_shape=[3] * self.rank)

    def swapped_halves(self) -> str:
        first, second = self.halves(self.last())
        return self.node("Concat", [second, first if self.pick(True, False) else second], axis=1)

    def multiplied_in_the_last_axis(self) -> str:
        """Channels last, a MatMul with a bias, and back: how TensorFlow's and JAX's exporters write it."""
        last = [0, *range(2, self.rank + 2), 1]
        moved = self.node("Transpose", [self.last()], perm=last)
        product = self.node("MatMul", [moved, self.weight(self.random(CHANNELS, CHANNELS) / np.sqrt(CHANNELS))])
        if self.pick(True, False):
            bias = self.random(*self.pick((CHANNELS,), (1, CHANNELS), (1, 1, CHANNELS), (1,), ())) * 0.1
            product = self.node("Add", self.shared.draw(st.permutations([product, self.weight(bias)])))
        return self.node("Transpose", [product], perm=[0, self.rank + 1, *range(1, self.rank + 1)])

    def multiplied_from_the_left(self) -> str:
        flat = self.node("Reshape", [self.last(), self.integers(0, CHANNELS, -1)])
        left = self.weight(self.random(*self.pick((CHANNELS, CHANNELS), (1, CHANNELS, CHANNELS))) / np.sqrt(CHANNELS))
        return self.node("Reshape", [self.node("MatMul", [left, flat]), self._shape_of(self.last())])

    def einsum(self) -> str:
        if self.opset < 12:
            return self.activated()
        rest = "hwd"[: self.rank]
        weight = self.weight(self.random(CHANNELS, CHANNELS) / np.sqrt(CHANNELS))
        return self.node("Einsum", [self.last(), weight], equation=f"nc{rest},ce->ne{rest}")

    def attended(self) -> str:
        flat = self.node("Reshape", [self.last(), self.integers(0, CHANNELS, -1)])
        scores = self.node("MatMul", [flat, self.node("Transpose", [flat], perm=[0, 2, 1])])
        shares = self.node("Softmax", [self.node("Div", [scores, self.constant(4)])], axis=2 if self.opset < 13 else -1)
        return self.node("Reshape", [self.node("MatMul", [shares, flat]), self._shape_of(self.last())])

    def _shape_of(self, data: str) -> str:
        """Computed from its parts, as PyTorch's exporter does."""
        shape = self.node("Shape", [data])
        index = self.constant(0, np.int64)
        first = self.unsqueezed(self.node("Gather", [shape, index], axis=0), 0)
        return self.node("Concat", [first, self.integers(*self.shape[1:])], axis=0)

    def with_nothing_added(self) -> str:
        """A tensor without elements in a Concat."""
        return self.node("Concat", [self.sliced(self.last(), 1, 0, 0), self.last()], axis=1)

    def times_a_scalar(self) -> str:
        mean = self.mean(self.any(), range(self.rank + 2), keepdims=0)
        return self.node("Mul", [self.last(), self.node("Sigmoid", [mean])])

    def dropped_out(self) -> str:
        return self.node("Dropout", [self.last()], self.pick(1, 2))

    def cast_there_and_back(self) -> str:
        other = self.pick(TensorProto.DOUBLE, TensorProto.FLOAT)
        data = self.node("Relu", [self.node("Cast", [self.last()], to=other)])
        return self.node("Cast", [data], to=_FLOATS[self.shared.dtype])

    def through_a_sequence(self) -> str:
        if self.opset < 11:
            return self.activated()
        if self.pick(True, False):
            parts = self.node("SplitToSequence", [self.last(), self.constant(CHANNELS // 2, np.int64)], axis=1)
            return self.node("ConcatFromSequence", [parts], axis=1)
        pair = self.node("SequenceConstruct", [self.any(), self.last()])
        return self.node("SequenceAt", [pair, self.constant(self.pick(0, 1), np.int64)])

    def optional(self) -> str:
        if self.opset < 15:
            return self.activated()
        return self.node("OptionalGetElement", [self.node("Optional", [self.last()])])

    def trained_pair(self) -> str:
        if self.opset < 13 or self.shared.dtype is not np.float32:
            return self.activated()
        kind = self.pick(np.uint8, np.int8)
        zero = self.constant(128 if kind is np.uint8 else 0, kind)
        scale = self.constant(self.pick(0.03, 0.05), np.float32)
        codes = self.node("QuantizeLinear", [self.last(), scale, zero])
        return self.node("DequantizeLinear", [codes, scale, zero])

    def branches(self) -> str:
        """An If: its branches read tensors and weights from outside."""
        if self.shared.dtype is not np.float32:
            return self.activated()  # onnxruntime lacks Casts inside
        mean = self.mean(self.any(), range(self.rank + 2), keepdims=0)
        condition = self.node("Greater", [mean, self.constant(0)])
        bodies = {}
        for branch in ("then_branch", "else_branch"):
            inside = Writer(self.shared, self.rank, self.tensors)
            inside.weights = {shape: list(names) for shape, names in self.weights.items()}
            for _ in range(self.pick(1, 2)):
                inside.step(INSIDE)
            bodies[branch] = inside.graph(branch, [])
        return self.node("If", [condition], **bodies)

    def loop(self) -> str:
        """A Loop that runs two or three times over what it carries."""
        if self.shared.dtype is not np.float32:
            return self.activated()
        carried, number, going = self.name("carried"), self.name("number"), self.name("going")
        inside = Writer(self.shared, self.rank, [*self.tensors, carried])
        inside.weights = {shape: list(names) for shape, names in self.weights.items()}
        inside.step(INSIDE)
        inside.tensors.append(inside.node("Tanh", [inside.last()]))
        goes_on = inside.node("Identity", [going])
        inputs = [
            helper.make_tensor_value_info(number, TensorProto.INT64, []),
            helper.make_tensor_value_info(going, TensorProto.BOOL, []),
            helper.make_tensor_value_info(carried, TensorProto.FLOAT, self.shape),
        ]
        body = inside.graph("body", inputs)
        body.output.insert(0, helper.make_tensor_value_info(goes_on, TensorProto.BOOL, []))
        trips, true = self.constant(self.pick(2, 3), np.int64), self.constant(True, np.bool_)
        return self.node("Loop", [trips, true, self.last()], body=body)

    # ---- graphs --------------------------------------------------------------------------------------------------

    def step(self, steps: Sequence[Callable[[Writer], str]]) -> None:
        self.tensors.append(self.pick(*steps)(self))

    def graph(self, name: str, inputs: Sequence[Any]) -> GraphProto:
        """The graph so far; its output is the last tensor."""
        kind = _FLOATS[self.shared.dtype]
        output = helper.make_tensor_value_info(self.last(), kind, self.shape)
        return helper.make_graph(self.nodes, name, list(inputs), [output], self.initializers)

    def classified(self) -> str:
        """A Gemm behind a pool."""
        pooled = self.node("GlobalAveragePool", [self.last()])
        flat = (
            self.node("Flatten", [pooled])
            if self.pick(True, False)
            else self.squeezed(pooled, *range(2, self.rank + 2))
        )
        weight = self.random(CHANNELS, 24) / np.sqrt(CHANNELS)
        if self.pick(True, False):
            inputs, how = [flat, self.weight(np.ascontiguousarray(weight.T))], {"transB": 1}
        else:
            inputs, how = [flat, self.weight(weight)], {}
        bias = self.weight(self.random(*self.pick((24,), (1, 24), (1,), (BATCH, 24))) * 0.1)
        bare = self.opset >= 11 and self.pick(True, False)
        return self.node("Gemm", inputs if bare else [*inputs, bias], alpha=self.pick(None, 0.5), **how)


def _conv(writer: Writer) -> str:
    return writer.conv(writer.last())


INSIDE: list[Callable[[Writer], str]] = [
    _conv, Writer.activated, Writer.added, Writer.multiplied_in_the_last_axis, Writer.scaled, Writer.silu,
    Writer.convolved_twice_the_channels,
]  # fmt: skip
STEPS: list[Callable[[Writer], str]] = [
    _conv, _conv, _conv, Writer.convolved_twice_the_channels, Writer.transposed_conv, Writer.normalised,
    Writer.instance_normalised, Writer.activated, Writer.activated, Writer.relu6, Writer.prelu, Writer.silu,
    Writer.hard_swish, Writer.added, Writer.scaled, Writer.pooled, Writer.gated, Writer.padded_and_cut,
    Writer.swapped_halves, Writer.multiplied_in_the_last_axis, Writer.multiplied_from_the_left, Writer.einsum,
    Writer.attended, Writer.with_nothing_added, Writer.times_a_scalar, Writer.dropped_out, Writer.cast_there_and_back,
    Writer.through_a_sequence, Writer.optional, Writer.trained_pair, Writer.branches, Writer.loop,
]  # fmt: skip


@st.composite
def exported_models(draw: st.DrawFn) -> ModelProto:
    """A model with an input `x`, pictures of one to three dimensions."""
    opset = draw(st.sampled_from([7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]))
    opset = min(opset, onnx.defs.onnx_opset_version())
    dtype = draw(st.sampled_from([np.float32, np.float32, np.float32, np.float16, np.float64]))
    ir = draw(st.sampled_from([3, 8])) if opset < 9 else _IR_OF_OPSET.get(opset, 10)
    shared = _Shared(draw=draw, ir=ir, rng=np.random.default_rng(draw(st.integers(0, 2**16))), opset=opset, dtype=dtype)
    writer = Writer(shared, draw(st.sampled_from([1, 2, 2, 2, 3])), ["x"])
    for _ in range(draw(st.integers(1, 6))):
        writer.step(STEPS)
    seen = draw(st.sampled_from(writer.tensors[1:]))
    writer.tensors.append(_conv(writer))
    if draw(st.booleans()):
        writer.tensors.append(writer.classified())
    kind = _FLOATS[dtype]
    batch = draw(st.sampled_from([BATCH, "N"]))
    outputs = [helper.make_tensor_value_info(writer.last(), kind, None)]
    if seen != writer.last() and draw(st.booleans()):
        outputs.append(helper.make_tensor_value_info(seen, kind, None))
    if ir == 3:
        writer.defaults = [tensor.name for tensor in writer.initializers]
    inputs = [helper.make_tensor_value_info("x", kind, [batch, *writer.shape[1:]])]
    known = {tensor.name: tensor for tensor in writer.initializers}
    inputs += [helper.make_tensor_value_info(n, known[n].data_type, known[n].dims) for n in writer.defaults]
    graph = helper.make_graph(writer.nodes, "exported", inputs, outputs, writer.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def feeds_of(model: ModelProto, count: int = 3) -> list[dict[str, NDArray[Any]]]:
    """Standard normal pictures."""
    value = model.graph.input[0].type.tensor_type
    shape = [dim.dim_value or BATCH for dim in value.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(value.elem_type)
    return [{"x": np.random.default_rng(seed).standard_normal(shape).astype(dtype)} for seed in range(count)]
