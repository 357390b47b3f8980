"""Local functions of a model, put in place of their calls.

onnx's inliner sees some of what is wrong with them and ends with one exception or another, or, before a version that
looks, in endless recursion. So they are looked at first: each is there once, none calls itself, no call passes more
than the function takes, and what comes out is no more than can be worked with. n functions of two calls each are 2^n
nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

import onnx.inliner
from onnx import FunctionProto, ModelProto, NodeProto

from onnxq.errors import ModelError
from onnxq.graph.messages import nodes_within

MOST_NODES = 1_000_000
"""Of an inlined model: far above that of any model."""

_AGAIN = "export the model again, without functions if the exporter can"

Key = tuple[str, str, str]


def with_functions_inlined(model: ModelProto, where: str) -> ModelProto:
    """`model` without local functions; itself where it has none.

    Raises:
        ModelError: they cannot be put in place.
    """
    if not model.functions:
        return model
    functions: dict[Key, FunctionProto] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in functions:
            raise ModelError(f"function {_shown(key)} is there twice", where=where, hint=_AGAIN)
        functions[key] = function
    _check_calls([n for owner in (model.graph, *model.functions) for n in nodes_within(owner.node)], functions, where)
    sizes = _sizes(functions, where)
    count = sum(sizes.get(_key(node), 1) for node in nodes_within(model.graph.node))
    if count > MOST_NODES:
        raise ModelError(
            f"its functions call each other so often that it would have {count} nodes, expected at most {MOST_NODES}",
            where=where,
            hint=_AGAIN,
        )
    try:
        return onnx.inliner.inline_local_functions(model)
    except (RuntimeError, onnx.checker.ValidationError) as error:  # what the inliner itself asserts
        raise ModelError(f"its functions cannot be put in place: {error}", where=where, hint=_AGAIN) from error


def _check_calls(nodes: Iterable[NodeProto], functions: dict[Key, FunctionProto], where: str) -> None:
    for node in nodes:
        function = functions.get(_key(node))
        if function is None:
            continue
        for what, given, taken in (("input", node.input, function.input), ("output", node.output, function.output)):
            if len(given) > len(taken):
                raise ModelError(
                    f"node {node.name!r} has {len(given)} {what}s, its function {_shown(_key(node))} has {len(taken)}",
                    where=where,
                    hint=_AGAIN,
                )


def _sizes(functions: dict[Key, FunctionProto], where: str) -> dict[Key, int]:
    """Nodes that each function comes to, those that it calls included."""
    called = {key: [_key(node) for node in nodes_within(one.node)] for key, one in functions.items()}
    calls = {key: [call for call in inner if call in functions] for key, inner in called.items()}
    sizes: dict[Key, int] = {}
    try:
        for key in TopologicalSorter(calls).static_order():
            sizes[key] = sum(sizes.get(call, 1) for call in called[key])
    except CycleError as error:
        circle = " calls ".join(map(_shown, reversed(error.args[1])))
        raise ModelError(f"its functions call themselves: {circle}", where=where, hint=_AGAIN) from error
    return sizes


def _key(node: NodeProto) -> Key:
    return node.domain, node.op_type, node.overload


def _shown(key: Key) -> str:
    domain, name, overload = key
    return repr(f"{domain}.{name}" + (f":{overload}" if overload else ""))
