"""The float graph and its rounded form in one graph, so that one run shows what rounding does to each node.

    x ---- float node 1 ---- y1 ---- float node 2 ---- y2
     \\                        \\                         (every rounded node starts from float values,
      Q/DQ - rounded node 1     Q/DQ - rounded node 2    so its error is its own and not its predecessors')

What the rounded nodes with weights compute is read by nobody: behind each of them the rounded form goes on with the
float value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx import NodeProto, TensorProto

from onnxq.calibration.solve import QParamsTable, constant_values
from onnxq.graph.float_types import float_tensor
from onnxq.graph.messages import rename_captured
from onnxq.graph.view import Graph, bodies
from onnxq.numerics.arrays import fake_quantize
from onnxq.passes.quantize.hold_float import HoldFloat
from onnxq.passes.quantize.insert_qdq import InsertQDQ
from onnxq.planning.plan import QuantPlan, Role
from onnxq.recovery.sites import Site


def rounded_form(graph: Graph, plan: QuantPlan, qparams: QParamsTable) -> Graph:
    """`graph` with weights, constants and activations rounded, in float; biases as they are.

    Activations are rounded to their grid without being clipped to their range. What ranges clip is rare and large (one
    token of a text in a channel of its own); a mean or a fit over all positions would spread its error over those that
    have none. Tensors of the plan that `qparams` lacks stay as they are.
    """
    rounded = graph.copy()
    known = {key: tensor for key, tensor in plan.tensors.items() if key in qparams}
    for key, tensor in known.items():
        if tensor.role in (Role.WEIGHT, Role.CONSTANT, Role.TABLE):
            values = fake_quantize(constant_values(graph, tensor.name, role=tensor.role), qparams[key])
            name = rounded.unique_name(f"{tensor.name}_rounded")
            elem_type = graph.dtype(tensor.name) or TensorProto.FLOAT
            rounded.add_initializer(name, float_tensor(values, elem_type, name))
            rounded.replace_uses(tensor.name, name, tensor.uses)
    InsertQDQ(replace(plan, tensors=known), qparams).run(rounded)
    HoldFloat(plan).run(rounded)
    _lift_limits(rounded)
    return rounded


def _lift_limits(graph: Graph) -> None:
    """Turn pairs of integer codes behind activations into round(x / scale) * scale, in place.

    Inside the range that is what the pair gives, for zero-points are whole numbers and both round ties to even.
    """
    for dequantize in [n for n in graph.nodes if n.op_type == "DequantizeLinear"]:
        quantize = graph.producer(dequantize.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear" or quantize.input[0] in graph.initializers:
            continue
        scale, zero_point = (graph.initializers[name] for name in quantize.input[1:])
        if len(scale.dims) or zero_point.data_type == TensorProto.FLOAT8E4M3FN:
            continue
        data, result = quantize.input[0], dequantize.output[0]
        graph.remove_node(dequantize)
        steps, whole = graph.unique_name(f"{data}_steps"), graph.unique_name(f"{data}_whole")
        graph.add_node("Div", [data, scale.name], [steps], name=f"{data}_Div")
        graph.add_node("Round", [steps], [whole], name=f"{data}_Round")
        graph.add_node("Mul", [whole, scale.name], [result], name=f"{data}_Mul")
    graph.prune()
    graph.sort()


def with_shadow(graph: Graph, rounded: Graph, sites: list[Site]) -> tuple[Graph, Mapping[str, str]]:
    """A copy of `graph` beside which the nodes of `rounded` run, each from float inputs.

    Args:
        graph: The float graph.
        rounded: Its rounded form, whose nodes have the same names.
        sites: Nodes with weights.

    Returns:
        The graph, to be given outputs and sorted, and by node the name of each site's rounded output in it.
    """
    both = graph.copy()
    outputs = {site.node: rounded.node(site.last).output[0] for site in sites}
    computed = {tensor for node in rounded.nodes for tensor in node.output if tensor}
    names = {tensor: both.unique_name(f"{tensor}_shadow") for tensor in computed}
    for tensor, proto in rounded.initializers.items():
        if graph.initializers.get(tensor) is not proto:
            names[tensor] = both.add_initializer(both.unique_name(tensor), proto)
    reads = dict(names)
    for site in sites:
        reads[outputs[site.node]] = graph.node(site.last).output[0]
    for node in rounded.nodes:
        _copy_node(both, node, reads, names)
    return both, {site.node: names[outputs[site.node]] for site in sites}


def _copy_node(graph: Graph, node: NodeProto, reads: Mapping[str, str], writes: Mapping[str, str]) -> None:
    own = NodeProto()
    own.CopyFrom(node)
    for body in bodies(own):
        for old, new in reads.items():
            rename_captured(body, old, new)
    graph.add_node(
        node.op_type,
        [reads.get(tensor, tensor) for tensor in node.input],
        [writes[tensor] if tensor else "" for tensor in node.output],
        name=f"{node.name}_shadow",
        domain=node.domain,
        attributes=own.attribute,
    )
