"""Puts integer operators in the place of float ones, with activations quantized while the model runs.

    x -> DynamicQuantizeLinear -> MatMulInteger(codes of x, codes of W) -> Cast -> Mul by scale(x) * scale(W)

onnxruntime fuses the first to DynamicQuantizeMatMul, or to MatMulIntegerToFloat where several products read one input,
and takes an Add behind it along as bias. https://onnx.ai/onnx/operators/onnx__MatMulInteger.html
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md

Cases, by operator:
  1. MatMul: as above. The integer node keeps the float node's name, the result its tensor.
  2. Gemm: likewise; a transposed weight is stored the other way round, alpha goes into the scale, beta into the bias.
  3. LSTM: com.microsoft.DynamicQuantizeLSTM, weights transposed to (directions, K, rows).
  4. com.microsoft.Attention: com.microsoft.QAttention behind a DynamicQuantizeLinear.
  5. Gather: of the codes and of the rows' scales, Cast and Mul.
  6. GRU: its weights behind a DequantizeLinear.
  7. Conv: ConvInteger, Cast, Mul, and an Add for the bias.
  8. An input of several nodes is quantized once.
  9. A float weight that nobody reads any more leaves the graph.
  10. A node that has been replaced already: nothing happens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from onnxq.calibration.solve import constant_values
from onnxq.dynamic.planning import sites_of_plan
from onnxq.dynamic.weights import Params, codes_of, row_scales
from onnxq.graph.messages import MICROSOFT
from onnxq.graph.view import Graph, attribute
from onnxq.numerics.qparams import QuantParams
from onnxq.passes.base import Pass, PassLog, PassResult
from onnxq.planning.plan import QuantPlan


class UseDynamicKernels(Pass):
    """See the module's docstring.

    Args:
        plan: Which nodes.
        qparams: Parameters of their weights.
    """

    def __init__(self, plan: QuantPlan, qparams: Params) -> None:
        self._plan = plan
        self._qparams = qparams

    def run(self, graph: Graph) -> PassResult:
        log = PassLog()
        rewriter = _Rewriter(graph, self._plan, self._qparams)
        for name, keys in sites_of_plan(graph, self._plan).items():
            node = graph.node(name)
            if any(node.input[slot] != self._plan.tensors[key].name for slot, key in keys.items()):
                continue
            rewriter.replace(node, keys)
            log.edit("quantized dynamically", name)
        if log.result(graph).modified:
            use_domain(graph, MICROSOFT)
            graph.prune()
            graph.sort()
        return log.result(graph)


def use_domain(graph: Graph, domain: str) -> None:
    """Let the model import an operator set, where a node of it is there and no import."""
    used = any(node.domain == domain for node in graph.nodes)
    if used and all(entry.domain != domain for entry in graph.frame.opset_import):
        graph.frame.opset_import.append(helper.make_opsetid(domain, 1))


def import_domains_of(graph: Graph, other: Graph) -> None:
    """Let `graph` import the operator sets that `other`, which becomes part of it, imports."""
    known = {entry.domain for entry in graph.frame.opset_import}
    graph.frame.opset_import.extend(e for e in other.frame.opset_import if e.domain not in known)


class _Rewriter:
    def __init__(self, graph: Graph, plan: QuantPlan, qparams: Params) -> None:
        self._graph = graph
        self._plan = plan
        self._qparams = qparams
        self._quantized: dict[str, tuple[str, str, str]] = {}
        self._stored: dict[str, str] = {}

    def replace(self, node: NodeProto, keys: dict[int, str]) -> None:
        rewrite = {
            "MatMul": self._matmul,
            "Gemm": self._gemm,
            "LSTM": self._lstm,
            "Attention": self._attention,
            "Gather": self._gather,
            "GRU": self._gru,
            "Conv": self._conv,
        }[node.op_type]
        rewrite(node, keys)

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _dynamic(self, tensor: str) -> tuple[str, str, str]:
        """Codes, scale and zero-point of an activation."""
        if tensor not in self._quantized:
            parts = ("codes", "scale", "zero_point")
            names = tuple(self._graph.unique_name(f"{tensor}_{part}") for part in parts)
            self._graph.add_node("DynamicQuantizeLinear", [tensor], names, name=f"{tensor}_DynamicQuantizeLinear")
            self._quantized[tensor] = (names[0], names[1], names[2])
        return self._quantized[tensor]

    def _constant(self, key: str, stem: str, value: NDArray[Any]) -> str:
        """A constant made of the weight `key`, once for all nodes that want the same."""
        if key not in self._stored:
            self._stored[key] = self._graph.add_initializer(self._graph.unique_name(stem), np.ascontiguousarray(value))
        return self._stored[key]

    def _weight(self, key: str) -> tuple[str, NDArray[Any], QuantParams]:
        name = self._plan.tensors[key].name
        return name, constant_values(self._graph, name), self._qparams[key]

    def _scaled(self, node: NodeProto, accumulated: str, scales: tuple[str, str], output: str) -> None:
        """float(accumulated) * (scale of the input * scale of the weight)."""
        graph, stem = self._graph, node.name
        product, real = graph.unique_name(f"{stem}_scale"), graph.unique_name(f"{stem}_float")
        graph.add_node("Mul", scales, [product], name=f"{stem}_scales")
        graph.add_node("Cast", [accumulated], [real], name=f"{stem}_Cast", attributes={"to": TensorProto.FLOAT})
        graph.add_node("Mul", [real, product], [output], name=f"{stem}_scaled")

    # ---- cases ---------------------------------------------------------------------------------------------------

    def _matmul(self, node: NodeProto, keys: dict[int, str]) -> None:
        name, values, params = self._weight(keys[1])
        codes = self._constant(f"{keys[1]} codes", f"{name}_quantized", codes_of(values, params))
        scale = self._constant(f"{keys[1]} scale", f"{name}_scale", params.scale)
        self._product(node, keys[1], params, codes, scale, node.output[0])

    def _product(  # noqa: PLR0913, PLR0917 - the parts of a product
        self, node: NodeProto, key: str, params: QuantParams, codes: str, scale: str, output: str
    ) -> None:
        graph = self._graph
        data, data_scale, data_zero = self._dynamic(node.input[0])
        inputs = [data, codes, data_zero]
        if params.zero_point.any():
            inputs.append(
                self._constant(f"{key} zero point", f"{self._plan.tensors[key].name}_zero_point", params.zero_point)
            )
        name = node.name
        graph.remove_node(node)
        accumulated = graph.unique_name(f"{output}_accumulated")
        graph.add_node("MatMulInteger", inputs, [accumulated], name=name)
        self._scaled(node, accumulated, (data_scale, scale), output)

    def _gemm(self, node: NodeProto, keys: dict[int, str]) -> None:
        graph, key, output = self._graph, keys[1], node.output[0]
        name, values, params = self._weight(key)
        transposed, alpha = attribute(node, "transB", 0), attribute(node, "alpha", 1.0)
        codes = codes_of(values, params)
        stored = self._constant(
            f"{key} codes {'transposed' if transposed else ''}".strip(),
            f"{name}_quantized",
            codes.T if transposed else codes,
        )
        scale = self._constant(f"{key} scale {alpha}", f"{name}_scale", params.scale * np.float32(alpha))
        bias = node.input[2] if len(node.input) > 2 else ""
        beta = attribute(node, "beta", 1.0)
        before = graph.unique_name(f"{output}_without_bias") if bias else output
        self._product(node, key, params, stored, scale, before)
        if bias:
            if beta != 1.0:
                value = constant_values(graph, bias) * np.float32(beta)
                bias = graph.add_initializer(graph.unique_name(f"{bias}_{node.name}"), value)
            graph.add_node("Add", [before, bias], [output], name=f"{node.name}_bias")

    def _lstm(self, node: NodeProto, keys: dict[int, str]) -> None:
        graph = self._graph
        inputs = [*node.input, *[""] * (8 - len(node.input))]
        extra: list[str] = []
        for slot in (1, 2):
            name, values, params = self._weight(keys[slot])
            scales, zero_points = row_scales(values, params)
            codes = codes_of(values, params).transpose(0, 2, 1)
            inputs[slot] = self._constant(f"{keys[slot]} codes", f"{name}_quantized", codes)
            extra += [
                self._constant(f"{keys[slot]} scale", f"{name}_scale", scales),
                self._constant(f"{keys[slot]} zero point", f"{name}_zero_point", zero_points),
            ]
        outputs, attributes, name = list(node.output), list(node.attribute), node.name
        graph.remove_node(node)
        kept = [a for a in attributes if a.name != "layout"]
        graph.add_node("DynamicQuantizeLSTM", [*inputs, *extra], outputs, name=name, domain=MICROSOFT, attributes=kept)

    def _attention(self, node: NodeProto, keys: dict[int, str]) -> None:
        graph = self._graph
        name, values, params = self._weight(keys[1])
        data, data_scale, data_zero = self._dynamic(node.input[0])
        given = [*node.input, *[""] * (5 - len(node.input))]
        inputs = [
            data,
            self._constant(f"{keys[1]} codes", f"{name}_quantized", codes_of(values, params)),
            given[2],
            data_scale,
            self._constant(f"{keys[1]} scale", f"{name}_scale", params.scale),
            given[3],
            data_zero,
            self._constant(f"{keys[1]} zero point", f"{name}_zero_point", params.zero_point),
            given[4],
        ]
        while not inputs[-1]:
            inputs.pop()
        outputs, attributes, own = list(node.output), list(node.attribute), node.name
        graph.remove_node(node)
        graph.add_node("QAttention", inputs, outputs, name=own, domain=MICROSOFT, attributes=attributes)

    def _gather(self, node: NodeProto, keys: dict[int, str]) -> None:
        graph, key = self._graph, keys[0]
        name, values, params = self._weight(key)
        codes = self._constant(f"{key} codes", f"{name}_quantized", codes_of(values, params))
        per_row = params.spec.axis is not None
        shape = (-1, *[1] * (values.ndim - 1)) if per_row else ()
        scale = self._constant(f"{key} scale {shape}", f"{name}_scale", params.scale.reshape(shape))
        indices, output, own = node.input[1], node.output[0], node.name
        taken, real = graph.unique_name(f"{output}_codes"), graph.unique_name(f"{output}_float")
        graph.remove_node(node)
        graph.add_node("Gather", [codes, indices], [taken], name=own)
        graph.add_node("Cast", [taken], [real], name=f"{own}_Cast", attributes={"to": TensorProto.FLOAT})
        if per_row:
            rows = graph.unique_name(f"{output}_scale")
            graph.add_node("Gather", [scale, indices], [rows], name=f"{own}_scales")
            scale = rows
        graph.add_node("Mul", [real, scale], [output], name=f"{own}_scaled")

    def _gru(self, node: NodeProto, keys: dict[int, str]) -> None:
        graph = self._graph
        for slot in (1, 2):
            name, values, params = self._weight(keys[slot])
            codes = self._constant(f"{keys[slot]} codes", f"{name}_quantized", codes_of(values, params))
            scale = self._constant(f"{keys[slot]} scale", f"{name}_scale", params.scale)
            result = graph.unique_name(f"{name}_dequantized")
            axis = {} if params.spec.axis is None else {"axis": params.spec.axis}
            inputs = [codes, scale]
            if params.zero_point.any():
                inputs.append(self._constant(f"{keys[slot]} zero point", f"{name}_zero_point", params.zero_point))
            graph.add_node("DequantizeLinear", inputs, [result], name=f"{name}_DequantizeLinear", attributes=axis)
            graph.set_input(node, slot, result)

    def _conv(self, node: NodeProto, keys: dict[int, str]) -> None:
        graph, key, output = self._graph, keys[1], node.output[0]
        name, values, params = self._weight(key)
        data, data_scale, data_zero = self._dynamic(node.input[0])
        codes = self._constant(f"{key} codes", f"{name}_quantized", codes_of(values, params))
        column = (-1, *[1] * (values.ndim - 2)) if params.spec.axis is not None else ()
        scale = self._constant(f"{key} scale {column}", f"{name}_scale", params.scale.reshape(column))
        bias = node.input[2] if len(node.input) > 2 else ""
        inputs = [data, codes, data_zero]
        if params.zero_point.any():
            # That of a symmetric weight is the same in every channel, and onnxruntime takes one alone.
            middle = params.zero_point.reshape(-1)[0]
            inputs.append(self._constant(f"{key} middle", f"{name}_zero_point", np.asarray(middle)))
        own, attributes = node.name, list(node.attribute)
        graph.remove_node(node)
        accumulated = graph.unique_name(f"{output}_accumulated")
        graph.add_node("ConvInteger", inputs, [accumulated], name=own, attributes=attributes)
        before = graph.unique_name(f"{output}_without_bias") if bias else output
        self._scaled(node, accumulated, (data_scale, scale), before)
        if bias:
            shape = (-1, *[1] * (values.ndim - 2))
            value = graph.add_initializer(
                graph.unique_name(f"{bias}_{own}"), constant_values(graph, bias).reshape(shape)
            )
            graph.add_node("Add", [before, value], [output], name=f"{own}_bias")
