"""Puts weights in few bits in the place of float ones.

Cases, by kind of weight and by the operators that were asked for:
  1. A product, "nbits": com.microsoft.MatMulNBits takes the place of MatMul or Gemm, under its name; alpha goes into
     the scales, the bias into an Add behind it. Where a channel has one scale, each of its blocks gets it, of a
     length that fits: the kernel reads a block that is longer than the channel filled up.
  2. A product, "qdq": a DequantizeLinear in front of it, blocks along axis 0 of a (K, N) matrix, the one form that
     onnxruntime fuses. A weight that lies the other way round is turned.
  3. A table, "nbits": com.microsoft.GatherBlockQuantized. Where a row has one scale, a block is as long as the row.
  4. A table, "qdq": a DequantizeLinear in front of the Gather.
  5. A stored weight: int8 behind a DequantizeLinear.
  6. A float weight that nobody reads any more leaves the graph.
  7. `wide`: products of float16 compute in float32 between Casts, with scales in float32. onnxruntime's CPU kernels do
     so anyway, by Casts of its own. But where its optimisations are not all on it casts the scales, too, as it runs,
     and the kernel that multiplies in int8 then reads wrong ones (onnxruntime 1.32: 2 dB of SQNR are left).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from onnxq.calibration.solve import constant_values
from onnxq.graph.messages import MICROSOFT
from onnxq.graph.view import Graph, attribute
from onnxq.numerics.qtypes import INT8, UINT8, QType
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.plan import TensorPlan
from onnxq.planning.weight_form import NBITS, WeightForm
from onnxq.weight_only.blocks import Rounded
from onnxq.weight_only.packing import in_blocks, nbits_weight, nbits_zero_points, scales_of, tensor_of_codes
from onnxq.weight_only.planning import WeightPlan
from onnxq.weight_only.sites import PRODUCT, STORED, WeightSite

Sink = Callable[[TensorProto], TensorProto]
"""Takes a finished initializer and gives back what stands for it in the graph: itself, or a reference to a file."""


class WeightRewriter:
    """Rewrites the nodes of a plan, one weight at a time.

    Args:
        graph: The graph of the plan, edited in place.
        planned: The plan.
        form: How weights are stored.
        sink: Where finished initializers go.
        explicit: Whether zero-points are written where they are zero (R3 of TensorRT).
        wide: Whether products of float16 compute in float32 (case 7).
    """

    def __init__(  # noqa: PLR0913 - what is rewritten, where it goes, and two demands of engines
        self,
        graph: Graph,
        planned: WeightPlan,
        form: WeightForm,
        sink: Sink,
        *,
        explicit: bool = False,
        wide: bool = False,
    ) -> None:
        self._graph = graph
        self._planned = planned
        self._form = form
        self._sink = sink
        self._explicit = explicit
        self._wide = wide
        self._casts: dict[str, str] = {}

    def replace(self, key: str, rounded: Rounded) -> None:
        """Let the readers of weight `key` read `rounded` instead."""
        tensor, sites = self._planned.plan.tensors[key], self._planned.sites[key]
        half = self._graph.dtype(tensor.name) == TensorProto.FLOAT16
        widened = half and self._wide and sites[0].kind == PRODUCT
        half = half and not widened
        nbits = self._planned.storage == NBITS
        if sites[0].kind == STORED:
            self._dequantized(tensor, sites, rounded, half, turned=False)
        elif nbits and sites[0].kind == PRODUCT:
            self._products(tensor, sites, rounded, half)
        elif nbits:
            self._tables(tensor, sites, rounded, half)
        else:
            # Rows are (N, K); a product wants (K, N), a table stays as it is.
            self._dequantized(tensor, sites, rounded, half, turned=sites[0].kind == PRODUCT)
        if widened:
            for site in sites:
                self._widen(self._graph.node(site.node))

    def _widen(self, node: NodeProto) -> None:  # case 7
        graph, output = self._graph, node.output[0]
        for slot, tensor in enumerate(node.input):
            if graph.dtype(tensor) == TensorProto.FLOAT16:
                if tensor not in self._casts:
                    self._casts[tensor] = graph.unique_name(f"{tensor}_float32")
                    self._cast(tensor, self._casts[tensor], TensorProto.FLOAT)
                graph.set_input(node, slot, self._casts[tensor])
        wide = graph.unique_name(f"{output}_float32")
        graph.set_output(node, 0, wide)
        self._cast(wide, output, TensorProto.FLOAT16)

    def _cast(self, tensor: str, output: str, elem_type: int) -> None:
        self._graph.add_node("Cast", [tensor], [output], name=f"{output}_Cast", attributes={"to": elem_type})

    # ---- parts ---------------------------------------------------------------------------------------------------

    def _add(self, stem: str, tensor: TensorProto) -> str:
        tensor.name = self._graph.unique_name(stem)
        return self._graph.add_initializer(tensor.name, self._sink(tensor))

    def _codes(self, stem: str, codes: NDArray[Any], qtype: QType) -> str:
        return self._add(stem, tensor_of_codes("", codes, qtype))

    def _scales(self, stem: str, scale: NDArray[np.float32], half: bool) -> str:
        return self._add(stem, scales_of("", scale, half=half))

    # ---- cases ---------------------------------------------------------------------------------------------------

    def _products(self, tensor: TensorPlan, sites: tuple[WeightSite, ...], rounded: Rounded, half: bool) -> None:
        name, qtype = tensor.name, tensor.spec.qtype
        if rounded.grid.scale.shape[1] == 1:
            rounded = in_blocks(rounded, qtype.bits)
        inputs = [
            self._codes(f"{name}_quantized", nbits_weight(rounded, qtype), UINT8),
            self._scales(f"{name}_scale", rounded.grid.scale, half),
        ]
        if (rounded.grid.zero_point - qtype.qmin != 2 ** (qtype.bits - 1)).any():
            inputs.append(self._codes(f"{name}_zero_point", nbits_zero_points(rounded, qtype), UINT8))
        rows, columns = rounded.codes.shape
        attributes = {
            "K": columns,
            "N": rows,
            "bits": qtype.bits,
            "block_size": rounded.size,
            "accuracy_level": self._form.level,
        }
        for site in sites:
            node = self._graph.node(site.node)
            alpha = float(attribute(node, "alpha", 1.0)) if node.op_type == "Gemm" else 1.0
            if alpha != 1.0:
                inputs[1] = self._scales(f"{name}_scale_{node.name}", rounded.grid.scale * np.float32(alpha), half)
            self._product(node, inputs, attributes)

    def _product(self, node: NodeProto, weight: list[str], attributes: dict[str, int]) -> None:
        graph, name, data, output = self._graph, node.name, node.input[0], node.output[0]
        bias = node.input[2] if len(node.input) > 2 else ""
        beta = float(attribute(node, "beta", 1.0)) if node.op_type == "Gemm" else 1.0
        before = graph.unique_name(f"{output}_without_bias") if bias else output
        graph.remove_node(node)
        graph.add_node("MatMulNBits", [data, *weight], [before], name=name, domain=MICROSOFT, attributes=attributes)
        if bias:
            graph.copy_value_info(output, before)
            if beta != 1.0:
                value = constant_values(graph, bias)
                bias = graph.add_initializer(graph.unique_name(f"{bias}_{name}"), value * value.dtype.type(beta))
            graph.add_node("Add", [before, bias], [output], name=f"{name}_bias")

    def _tables(self, tensor: TensorPlan, sites: tuple[WeightSite, ...], rounded: Rounded, half: bool) -> None:
        name, qtype = tensor.name, tensor.spec.qtype
        codes, zero_point = rounded.codes, rounded.grid.zero_point
        if qtype.bits == INT8.bits:
            # The kernel takes 8-bit codes unsigned.
            codes, zero_point = (codes.astype(np.int16) - qtype.qmin).astype(np.uint8), zero_point - qtype.qmin
            qtype = UINT8
        unsaid = 2 ** (qtype.bits - 1) if qtype is UINT8 else 0
        inputs = [
            self._codes(f"{name}_quantized", codes, qtype),
            self._scales(f"{name}_scale", rounded.grid.scale, half),
        ]
        if (zero_point != unsaid).any():
            inputs.append(self._codes(f"{name}_zero_point", zero_point, qtype))
        size = max(16, 1 << (rounded.size - 1).bit_length())
        attributes = {"bits": qtype.bits, "block_size": size, "gather_axis": 0, "quantize_axis": 1}
        for site in sites:
            node = self._graph.node(site.node)
            own, indices, output = node.name, node.input[1], node.output[0]
            self._graph.remove_node(node)
            self._graph.add_node(
                "GatherBlockQuantized",
                [inputs[0], indices, *inputs[1:]],
                [output],
                name=own,
                domain=MICROSOFT,
                attributes=attributes,
            )

    def _dequantized(
        self, tensor: TensorPlan, sites: tuple[WeightSite, ...], rounded: Rounded, half: bool, *, turned: bool
    ) -> None:
        graph, name, qtype = self._graph, tensor.name, tensor.spec.qtype
        blocked = tensor.spec.block_size is not None
        codes, scale, zero_point = rounded.codes, rounded.grid.scale, rounded.grid.zero_point
        if sites[0].kind == STORED:
            codes = from_rows(codes, tuple(graph.initializers[name].dims), sites[0].axis)
        elif turned:
            codes, scale, zero_point = codes.T, scale.T, zero_point.T
        axis = _written_axis(tensor.spec, sites[0], turned=turned)
        inputs = [
            self._codes(f"{name}_quantized", codes, qtype),
            self._scales(f"{name}_scale", scale if blocked else scale.reshape(-1), half),
        ]
        if zero_point.any() or self._explicit:
            points = zero_point if blocked else zero_point.reshape(-1)
            inputs.append(self._codes(f"{name}_zero_point", points, qtype))
        result = graph.unique_name(f"{name}_dequantized")
        attributes = {"axis": axis} | ({"block_size": tensor.spec.block_size} if blocked else {})
        graph.add_node("DequantizeLinear", inputs, [result], name=f"{name}_DequantizeLinear", attributes=attributes)
        for site in sites:
            node = graph.node(site.node)
            graph.set_input(node, site.slot, result)
            if node.op_type == "Gemm" and turned:
                graph.set_attributes(node, transB=None)


def _written_axis(spec: QuantSpec, site: WeightSite, *, turned: bool) -> int:
    """The axis of the stored codes that the scales run along."""
    if site.kind == STORED:
        return site.axis
    if turned:
        return 0 if spec.block_size else 1
    return 1 if spec.block_size else 0


def as_rows(values: NDArray[Any], site: WeightSite) -> NDArray[Any]:
    """A weight as rows (R, K): of a stored one, a row holds what shares a scale."""
    if site.kind == STORED:
        moved = np.moveaxis(values, site.axis, 0)
        return moved.reshape(moved.shape[0], -1)
    return values if site.axis == 1 else values.T


def from_rows(rows: NDArray[Any], shape: tuple[int, ...], axis: int) -> NDArray[Any]:
    """The inverse of `as_rows` for a stored weight of `shape`."""
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.moveaxis(rows.reshape(moved), 0, axis)
