"""What onnx's version converter leaves wrong, set right, in place: operators that it relabels though they mean another.

    Clip, Pad      since 11 limits and value are inputs; onnx 1.23 writes them in float32 whatever the data, and leaves
                   the attribute where a Pad has no use for it
    Resize,        before 11 the element i of the result lay at i / scale; since 11 it lies at (i + 0.5) / scale - 0.5
    Upsample       unless the node says otherwise
    Hardmax        before 13 it worked on a matrix, flattened at its axis; since 13 along its axis alone
    Scan, Dropout  refused where a Scan has a batch axis (before 9), or a mask of numbers is read (before 10)

Operators: https://onnx.ai/onnx/operators/onnx__Resize.html, onnx__Upsample.html, onnx__Hardmax.html, of each the older
versions. How the nearest element is chosen before version 11, the standard does not say: the greatest one that is not
behind the place, or where the tensor shrinks the least one that is not before it, as onnxruntime does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from onnxq.errors import UnsupportedModelError
from onnxq.graph.messages import attribute
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.view import STANDARD_DOMAINS, Graph

_VALUES_ARE_INPUTS_SINCE = _PLACES_ARE_CHOSEN_SINCE = 11
_ALONG_AN_AXIS_SINCE = 13
_SCAN_HAS_NO_BATCH_SINCE = 9
_MASKS_ARE_BOOLEAN_SINCE = 10
_VALUES = {"Clip": (1, 2), "Pad": (2,)}
"""The slots in which attributes of before are since."""
_SCALES = 2


def check_convertible(graph: Graph, minimum: int) -> None:
    """See that the converter does not relabel what it knows no conversion of.

    Raises:
        UnsupportedModelError: a node means something else in opset `minimum`, or gives another type.
    """
    for node in graph.nodes:
        reason = ""
        if node.domain not in STANDARD_DOMAINS:
            continue
        if node.op_type == "Scan" and graph.opset < _SCAN_HAS_NO_BATCH_SINCE <= minimum:
            reason = f"before opset {_SCAN_HAS_NO_BATCH_SINCE} Scan has a batch axis of its own"
        elif (
            node.op_type == "Dropout" and graph.opset < _MASKS_ARE_BOOLEAN_SINCE <= minimum and _gives_mask(graph, node)
        ):
            reason = f"before opset {_MASKS_ARE_BOOLEAN_SINCE} the mask of Dropout holds numbers"
        if reason:
            raise UnsupportedModelError(
                f"{reason}, which cannot be converted from opset {graph.opset} to {minimum}",
                where=f"node {node.name!r} ({node.op_type})",
                hint=f"export the model with opset {minimum} or newer",
            )


def _gives_mask(graph: Graph, node: NodeProto) -> bool:
    read = (graph.uses(name) or graph.is_output(name) for name in node.output[1:] if name)
    return node.op_type == "Dropout" and any(read)


def mend_conversion(graph: Graph, old: int) -> None:
    """Set right what the converter made of a model of opset `old`, in place.

    Raises:
        UnsupportedModelError: a node has no equal in the new opset.
    """
    if old < _VALUES_ARE_INPUTS_SINCE <= graph.opset:
        for node in _nodes(graph, "Pad"):
            kept = [entry for entry in node.attribute if entry.name != "value"]
            del node.attribute[:]
            node.attribute.extend(kept)
        _type_values(graph)
    if old < _PLACES_ARE_CHOSEN_SINCE <= graph.opset:
        for node in _nodes(graph, "Resize"):
            _place_as_before(graph, node)
    if old < _ALONG_AN_AXIS_SINCE <= graph.opset:
        for node in _nodes(graph, "Hardmax"):
            _flatten_as_before(graph, node)
        graph.sort()


def _nodes(graph: Graph, op_type: str) -> list[NodeProto]:
    return [node for node in graph.nodes if node.op_type == op_type and node.domain in STANDARD_DOMAINS]


def _type_values(graph: Graph) -> None:
    """Let the limits of a Clip and the value of a Pad have the type of the data."""
    nodes = [node for node in graph.nodes if node.op_type in _VALUES]
    if not nodes:
        return
    infer_shapes(graph)
    for node in nodes:
        dtype = graph.dtype(node.input[0])
        for slot in _VALUES[node.op_type]:
            name = node.input[slot] if slot < len(node.input) else ""
            made = graph.producer(name) if name else None
            if made is None or made.op_type != "Constant" or dtype in (None, attribute(made, "value").data_type):
                continue
            with np.errstate(over="ignore"):  # no limit at all is the largest float32
                value = numpy_helper.to_array(attribute(made, "value")).astype(helper.tensor_dtype_to_np_dtype(dtype))
            graph.set_input(node, slot, graph.add_initializer(graph.unique_name(f"{name}_typed"), value))
    graph.prune()


def _place_as_before(graph: Graph, node: NodeProto) -> None:
    places = {"coordinate_transformation_mode": "asymmetric"}
    if attribute(node, "mode", "nearest") == "nearest":
        places["nearest_mode"] = _nearest(graph, node)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in places.items())


def _nearest(graph: Graph, node: NodeProto) -> str:
    scales = _value(graph, node.input[_SCALES])
    if scales is None:
        return "floor"  # scales that are computed are of one that enlarges, as Upsample has to
    steps = 1.0 / scales.astype(np.float64)
    if np.all((steps <= 1.0) | (steps == np.round(steps))):  # at whole places there is nothing to choose
        return "floor"
    if np.all(steps >= 1.0):
        return "ceil"
    raise UnsupportedModelError(
        f"a Resize to the nearest that enlarges one axis and shrinks another (scales {scales.tolist()}) has no equal "
        f"in opset {graph.opset}",
        where=f"node {node.name!r} (Resize)",
        hint="export the model with opset 11 or newer, or with one Resize for each axis",
    )


def _value(graph: Graph, tensor: str) -> NDArray[Any] | None:
    made = graph.producer(tensor)
    value = attribute(made, "value") if made is not None and made.op_type == "Constant" else None
    return graph.constant(tensor) if value is None else numpy_helper.to_array(value)


def _flatten_as_before(graph: Graph, node: NodeProto) -> None:
    data, output = node.input[0], node.output[0]
    names = [graph.unique_name(f"{output}_{part}") for part in ("shape", "rows", "hardmax")]
    shape, rows, largest = names
    axis = attribute(node, "axis", 1)
    name = node.name
    graph.remove_node(node)
    graph.add_node("Shape", [data], [shape], name=shape)
    graph.add_node("Flatten", [data], [rows], name=rows, attributes={"axis": axis})
    graph.add_node("Hardmax", [rows], [largest], name=name, attributes={"axis": -1})
    graph.add_node("Reshape", [largest, shape], [output], name=graph.unique_name(f"{output}_reshaped"))
