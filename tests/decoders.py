"""Small decoders in the forms that exporters write: with a key-value cache, and both steps of it merged in an If.

inputs   input_ids [batch, sequence], past_key_values.N.key / .value [batch, heads, past, head_width]
outputs  logits [batch, sequence, vocabulary], present.N.key / .value
merged   use_cache_branch [1] chooses between a branch that reads the past and one that does not
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

VOCABULARY, WIDTH, HEADS, LAYERS = 200, 64, 4, 2
HEAD = WIDTH // HEADS


def decoder() -> ModelProto:
    """A decoder whose past is an input, empty at first."""
    nodes, outputs = _nodes(cached=True)
    graph = helper.make_graph(nodes, "decoder", [_ids(), *_past()], outputs, _weights())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def merged_decoder() -> ModelProto:
    """Both steps in one model; the branches share the weights, which lie outside of them."""
    branches = {name: _branch(name, cached=name == "then_branch") for name in ("then_branch", "else_branch")}
    names = [output.name for output in branches["then_branch"].output]
    node = helper.make_node("If", ["chosen"], [n.removeprefix("then_") for n in names], name="cache", **branches)
    nodes = [helper.make_node("Squeeze", ["use_cache_branch"], ["chosen"], name="choose"), node]
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    outputs = [_renamed(output, output.name.removeprefix("then_")) for output in branches["then_branch"].output]
    graph = helper.make_graph(nodes, "merged", [_ids(), *_past(), flag], outputs, _weights())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feed(sequence: int, past: int, *, seed: int = 0, **more: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Inputs of a step: so many new tokens behind so many old ones."""
    rng = np.random.default_rng(seed)
    cache = {
        f"past_key_values.{layer}.{part}": rng.standard_normal((1, HEADS, past, HEAD)).astype(np.float32)
        for layer in range(LAYERS)
        for part in ("key", "value")
    }
    return {"input_ids": rng.integers(0, VOCABULARY, (1, sequence)), **cache, **more}


def _ids() -> ValueInfoProto:
    return helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])


def _past() -> list[ValueInfoProto]:
    shape = ["batch", HEADS, "past", HEAD]
    return [
        helper.make_tensor_value_info(f"past_key_values.{layer}.{part}", TensorProto.FLOAT, shape)
        for layer in range(LAYERS)
        for part in ("key", "value")
    ]


def _renamed(value: ValueInfoProto, name: str) -> ValueInfoProto:
    own = ValueInfoProto()
    own.CopyFrom(value)
    own.name = name
    return own


def _branch(name: str, *, cached: bool) -> GraphProto:
    prefix = name.removesuffix("branch")
    nodes, outputs = _nodes(cached=cached, prefix=prefix)
    return helper.make_graph(nodes, name, [], outputs)


def _weights() -> list[TensorProto]:
    rng = np.random.default_rng(1)

    def normal(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    found: dict[str, NDArray[Any]] = {"embed": rng.standard_normal((VOCABULARY, WIDTH)).astype(np.float32)}
    for layer in range(LAYERS):
        found |= {f"{layer}.{part}": normal(WIDTH, WIDTH) for part in ("q", "k", "v", "o")}
        found |= {f"{layer}.up": normal(WIDTH, 2 * WIDTH), f"{layer}.down": normal(2 * WIDTH, WIDTH)}
        found |= {f"{layer}.gain": np.ones(WIDTH, np.float32), f"{layer}.shift": np.zeros(WIDTH, np.float32)}
    found |= {
        "head": normal(WIDTH, VOCABULARY),
        "heads": np.array([0, 0, HEADS, HEAD]),
        "whole": np.array([0, 0, WIDTH]),
    }
    found["root"] = np.float32(HEAD**0.5)
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in found.items()]


def _nodes(*, cached: bool, prefix: str = "") -> tuple[list[NodeProto], list[ValueInfoProto]]:
    nodes: list[NodeProto] = []

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = f"{prefix}{output}"
        nodes.append(helper.make_node(op, inputs, [name], name=f"{name}/{op}", **attributes))
        return name

    hidden = add("Gather", ["embed", "input_ids"], "embedded")
    outputs = [helper.make_tensor_value_info(f"{prefix}logits", TensorProto.FLOAT, ["batch", "sequence", VOCABULARY])]
    for layer in range(LAYERS):
        normed = add("LayerNormalization", [hidden, f"{layer}.gain", f"{layer}.shift"], f"{layer}.norm")
        parts = {}
        for part in ("q", "k", "v"):
            flat = add("MatMul", [normed, f"{layer}.{part}"], f"{layer}.{part}_flat")
            split = add("Reshape", [flat, "heads"], f"{layer}.{part}_split")
            parts[part] = add("Transpose", [split], f"{layer}.{part}_heads", perm=[0, 2, 1, 3])
        for part, name in (("k", "key"), ("v", "value")):
            past = f"past_key_values.{layer}.{name}"
            kind, inputs = ("Concat", [past, parts[part]]) if cached else ("Identity", [parts[part]])
            parts[part] = add(kind, inputs, f"present.{layer}.{name}", **({"axis": 2} if cached else {}))
            shape = ["batch", HEADS, "total", HEAD]
            outputs.append(helper.make_tensor_value_info(parts[part], TensorProto.FLOAT, shape))
        turned = add("Transpose", [parts["k"]], f"{layer}.turned", perm=[0, 1, 3, 2])
        scores = add("MatMul", [parts["q"], turned], f"{layer}.scores")
        scaled = add("Div", [scores, "root"], f"{layer}.scaled")
        weights = add("Softmax", [scaled], f"{layer}.weights", axis=-1)
        mixed = add("MatMul", [weights, parts["v"]], f"{layer}.mixed")
        back = add("Transpose", [mixed], f"{layer}.back", perm=[0, 2, 1, 3])
        merged = add("Reshape", [back, "whole"], f"{layer}.merged")
        out = add("MatMul", [merged, f"{layer}.o"], f"{layer}.out")
        hidden = add("Add", [hidden, out], f"{layer}.residual")
        up = add("MatMul", [hidden, f"{layer}.up"], f"{layer}.upped")
        active = add("Relu", [up], f"{layer}.active")
        down = add("MatMul", [active, f"{layer}.down"], f"{layer}.downed")
        hidden = add("Add", [hidden, down], f"{layer}.hidden")
    add("MatMul", [hidden, "head"], "logits")
    return nodes, outputs
