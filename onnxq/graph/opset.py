"""Other opsets: the model is converted, never merely relabelled.

The work is done by onnx's version converter (https://onnx.ai/onnx/api/version_converter.html) on the model without its
large weights, so that weights keep their bytes and the size of the model does not matter; what it is known to get wrong
is set right (`conversion_faults.py`). The converter leaves the bodies of If, Loop and Scan alone; where an operator in
one changed its form or meaning on the way, the body is converted as a model of its own, from the inside out.

The other way, from an opset newer than what engines have kernels for, only models go whose every operator is defined
alike in both.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import AttributeProto, ModelProto, NodeProto, helper

from onnxq.errors import UnsupportedModelError
from onnxq.graph.checking import check_graph
from onnxq.graph.conversion_faults import check_convertible, mend_conversion
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.subgraphs import own_graph, subgraphs, with_subgraph
from onnxq.graph.view import STANDARD_DOMAINS, Graph, bodies

# Version 21 of GroupNormalization gives scale and bias another length (C, not the number of groups) under the same
# signature; version 16 of RoiAlign shifts boxes by half an element unless a new attribute says otherwise.
_CHANGED_UNSEEN = frozenset({"GroupNormalization", "RoiAlign"})

NEWEST_PAIRS_OPSET = 27
"""onnxruntime 1.32 has no kernels for QuantizeLinear and DequantizeLinear as opset 28 defines them anew."""

_HINT = "export the model with a newer opset (for PyTorch: torch.onnx.export(..., opset_version={0}))"


def upgrade_opset(graph: Graph, minimum: int) -> Graph:
    """The same model in opset `minimum` or newer.

    The converter is known to have faults: compare the outputs before and after under a runtime.

    Args:
        graph: The model; it is not changed.
        minimum: Version of the standard operator set that is needed.

    Returns:
        `graph` itself where it is new enough, else a new graph; tensors keep their names.

    Raises:
        UnsupportedModelError: an operator has no conversion.
    """
    if graph.opset >= minimum:
        return graph
    if not any(entry.domain in STANDARD_DOMAINS for entry in graph.frame.opset_import):
        return _with_standard_set(graph, minimum)
    graph = _with_new_bodies(graph, minimum)
    check_convertible(graph, minimum)
    try:
        converted = onnx.version_converter.convert_version(graph.skeleton(), minimum)
    except (IndexError, RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise UnsupportedModelError(
            f"the model cannot be converted from opset {graph.opset} to {minimum}: {_reason(error)}",
            hint=_HINT.format(minimum),
        ) from error
    result = _transplanted(graph, converted, minimum)
    mend_conversion(result, graph.opset)
    try:
        check_graph(result)
    except onnx.checker.ValidationError as error:
        raise UnsupportedModelError(
            f"the conversion from opset {graph.opset} to {minimum} gave an invalid model: {error}",
            hint=_HINT.format(minimum),
        ) from error
    return result


def lower_opset(graph: Graph, maximum: int = NEWEST_PAIRS_OPSET) -> Graph:
    """The same model in opset `maximum` or older, where every operator means the same in it; else `graph` itself.

    Newer versions of most operators only add types, attributes or optional inputs. A model that uses none of these is
    the same model under the older version; attributes that say what holds without them are left out.

    Args:
        graph: The model; it is not changed.
        maximum: Version of the standard operator set that is wanted at most.

    Returns:
        A new graph, or `graph` where it is old enough or cannot go back.
    """
    if not maximum < graph.opset <= onnx.defs.onnx_opset_version():
        return graph
    if not all(_stands_in(node, graph.opset, maximum) for node in _standard_nodes(graph)):
        return graph
    result = graph.copy()
    for node in _standard_nodes(result):
        if needless := _needless(node, graph.opset, maximum):
            kept = [a for a in node.attribute if a.name not in needless]
            del node.attribute[:]
            node.attribute.extend(kept)
    for entry in result.frame.opset_import:
        if entry.domain in STANDARD_DOMAINS:
            entry.version = maximum
    try:
        check_graph(result)
    except onnx.checker.ValidationError:
        return graph
    return result


def _stands_in(node: NodeProto, opset: int, older: int) -> bool:
    """Whether `node` of `opset` uses nothing that is not in opset `older` too."""
    if not _same_meaning(node.op_type, older, opset):
        return False
    schema = onnx.defs.get_schema(node.op_type, older, "")
    known = schema.attributes.keys() | _needless(node, opset, older)
    return len(node.input) <= schema.max_input and all(a.name in known for a in node.attribute)


def _needless(node: NodeProto, opset: int, older: int) -> set[str]:
    """Attributes of `node` that opset `older` does not have, with the value that holds without them."""
    known = onnx.defs.get_schema(node.op_type, older, "").attributes
    added = {n: a for n, a in onnx.defs.get_schema(node.op_type, opset, "").attributes.items() if n not in known}
    return {a.name for a in node.attribute if a.name in added and _value(a) == _value(added[a.name].default_value)}


def _value(attribute: AttributeProto) -> object:
    return helper.get_attribute_value(attribute) if attribute.type else None


def _standard_nodes(graph: Graph) -> Iterator[NodeProto]:
    """The nodes of standard operators, those in bodies too."""
    for node in graph.nodes:
        yield from (inner for inner in (node, *_body_nodes(node)) if inner.domain in STANDARD_DOMAINS)


def _with_standard_set(graph: Graph, version: int) -> Graph:
    """A model without any operator of the standard set says nothing of its version, and can take any."""
    result = graph.copy()
    result.frame.opset_import.append(helper.make_opsetid("", version))
    result.frame.ir_version = max(result.frame.ir_version, _min_ir_version(version))
    return result


def _min_ir_version(opset: int) -> int:
    return int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)]))


def _reason(error: Exception) -> str:
    """What the converter says, without the place in its own source that it begins with."""
    return str(error).rpartition("failed: ")[2].strip() or type(error).__name__


def _transplanted(graph: Graph, converted: ModelProto, opset: int) -> Graph:
    """`graph` with the nodes of `converted`; everything else stays as it was, so nothing is lost to the converter."""
    model = ModelProto()
    model.CopyFrom(graph.frame)
    for entry in model.opset_import:
        if entry.domain in STANDARD_DOMAINS:
            entry.version = opset
    model.ir_version = max(model.ir_version, _min_ir_version(opset))
    kept = graph.initializers
    model.graph.node.extend(converted.graph.node)
    model.graph.initializer.extend(kept.values())
    model.graph.initializer.extend(t for t in converted.graph.initializer if t.name not in kept)
    model.graph.input.extend(graph.inputs.values())
    model.graph.output.extend(graph.outputs.values())
    model.graph.value_info.extend(graph.value_infos.values())
    result = Graph(model, graph.base_dir)
    result.prune()
    result.sort()
    return result


def _with_new_bodies(graph: Graph, minimum: int) -> Graph:
    """`graph` with every body that opset `minimum` would read otherwise converted to it."""
    stale = [node for node in graph.nodes if _changed_inside(node, graph.opset, minimum)]
    if not stale:
        return graph
    result = graph.copy()
    infer_shapes(result)  # a body as a model of its own has to say of which types and ranks its inputs are
    names, done = {node.name for node in stale}, set[str]()
    for subgraph in list(subgraphs(result)):
        if subgraph.node in names:
            with_subgraph(result, subgraph, upgrade_opset(own_graph(result, subgraph), minimum))
            done.add(subgraph.node)
    for node in stale:
        if node.name not in done:
            raise UnsupportedModelError(
                f"{_changed_inside(node, graph.opset, minimum)} in its body changed between opset {graph.opset} and "
                f"{minimum}, and bodies of {node.op_type} cannot be converted",
                where=f"node {node.name!r} ({node.op_type})",
                hint=_HINT.format(minimum),
            )
    result.sort()
    return result


def _changed_inside(node: NodeProto, old: int, new: int) -> str:
    """An operator in a body of `node` that changed between two opsets; empty where none did."""
    inside = (n.op_type for n in _body_nodes(node) if n.domain in STANDARD_DOMAINS)
    return next((op for op in inside if not _same_meaning(op, old, new)), "")


def _same_meaning(op_type: str, old: int, new: int) -> bool:
    """Whether a node of opset `old` may stand as it is in opset `new`: only types and optional parts were added."""
    try:
        before, after = onnx.defs.get_schema(op_type, old, ""), onnx.defs.get_schema(op_type, new, "")
    except onnx.defs.SchemaError:
        return False
    if before.since_version == after.since_version:
        return True
    if after.deprecated or op_type in _CHANGED_UNSEEN:
        return False
    kept_attributes = all(
        name in after.attributes
        and after.attributes[name].default_value.SerializeToString() == attr.default_value.SerializeToString()
        for name, attr in before.attributes.items()
    )
    new_attributes = [attr for name, attr in after.attributes.items() if name not in before.attributes]
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    return (
        kept_attributes
        and not any(attr.required for attr in new_attributes)
        and [p.name for p in before.inputs] == [p.name for p in after.inputs[: len(before.inputs)]]
        and all(p.option == optional for p in after.inputs[len(before.inputs) :])
    )


def _body_nodes(node: NodeProto) -> Iterator[NodeProto]:
    for body in bodies(node):
        for inner in body.node:
            yield inner
            yield from _body_nodes(inner)
