"""Tensors of a model made its outputs.

numpy has no bfloat16: where such a tensor becomes an output, a Cast to float32 takes its place, which is exact.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import TensorProto, ValueInfoProto

from onnxq.graph.view import Graph

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
"""Types that statistics take for float32."""


def with_outputs(graph: Graph, outputs: Sequence[str]) -> Graph:
    """A copy of `graph` with exactly these outputs, without the nodes that none of them needs."""
    twin = graph.copy()
    # onnxruntime infers the types itself; a name alone keeps a wrong or missing shape from mattering.
    twin.outputs = {name: ValueInfoProto(name=name) for name in outputs}
    twin.prune()
    return twin


def with_readable_outputs(graph: Graph, outputs: Sequence[str], *, as_float32: bool = False) -> Graph:
    """As `with_outputs`, in the same order; an output of a type that numpy lacks is cast to float32.

    Args:
        graph: The model; it is not changed.
        outputs: Names of tensors.
        as_float32: Whether every float tensor becomes float32.
    """
    cast = FLOATS - {TensorProto.FLOAT} if as_float32 else {TensorProto.BFLOAT16}
    twin = with_outputs(graph, outputs)
    names = {}
    for name in outputs:
        if graph.dtype(name) in cast:
            names[name] = twin.unique_name(f"{name}_float32")
            twin.add_node("Cast", [name], [names[name]], name=names[name], attributes={"to": TensorProto.FLOAT})
    twin.outputs = {names.get(name, name): ValueInfoProto(name=names.get(name, name)) for name in outputs}
    return twin


def with_output_shapes(graph: Graph, outputs: Sequence[str]) -> Graph:
    """A copy of `graph` whose outputs are the shapes of `outputs`, in the same order."""
    twin = with_outputs(graph, outputs)
    shapes = [twin.unique_name(f"{name}_shape") for name in outputs]
    for name, shape in zip(outputs, shapes, strict=True):
        twin.add_node("Shape", [name], [shape], name=shape)
    twin.outputs = {name: ValueInfoProto(name=name) for name in shapes}
    return twin
