"""Small graphs as ONNX text with numpy weights, and what they compute."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, numpy_helper

from onnxq.graph.model import load_graph
from onnxq.graph.view import Graph
from onnxq.passes.base import Pass, PassManager, PassResult

_NODE_NAME = re.compile(r"\[([^\]\s]+)\]\s+([\w.]+)(?=[\w., ]*=)")
"""`[name] output` of `[name] output, ... = Op(...)`."""


def model_of(text: str, *, opset: int = 17, ir: int = 8, **constants: Any) -> ModelProto:
    """The model `g {text}`; `constants` become initializers."""
    # Node names in the text are newer than the oldest onnx that onnxq supports: each is set by the node's first output.
    names = {output: name for name, output in _NODE_NAME.findall(text)}
    text = _NODE_NAME.sub(r"\2", text)
    model = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}, "other" : 1]> g {text}')
    _set_names(model.graph, names)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return model


def _set_names(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.name = names.get(node.output[0], "") if node.output else ""
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _set_names(attribute.g, names)


def graph_of(text: str, *, opset: int = 17, **constants: Any) -> Graph:
    """`model_of`, loaded."""
    return load_graph(model_of(text, opset=opset, **constants))


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ops(graph: Graph) -> dict[str, int]:
    """How many nodes of each type there are."""
    return dict(Counter(node.op_type for node in graph.nodes))


def computed(graph: Graph, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The outputs of `graph` under onnxruntime without its optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        graph.to_model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(value) for value in session.run(None, dict(feeds))]


def random_feeds(graph: Graph, size: int = 2) -> dict[str, NDArray[Any]]:
    """Standard normal inputs; sizes that are not known are `size`."""
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal([d if isinstance(d, int) else size for d in graph.shape(name) or ()]).astype(
            np.float32
        )
        for name in graph.inputs
    }


def apply(graph: Graph, *passes: Pass, rtol: float = 1e-5) -> PassResult:
    """Run `passes`, and check what every pass promises: same function, sound graph, nothing to do on a second run.

    rtol: 1e-5 of the largest output: folding a factor into weights reorders float32 products (eps 6e-8) of at most a
    few hundred terms; a wrong axis, sign or group gives errors of order 1.
    """
    feeds = random_feeds(graph)
    before = computed(graph, feeds)
    manager = PassManager(passes, name="under test")
    result = manager.run(graph)
    for old, new in zip(before, computed(graph, feeds), strict=True):
        assert old.shape == new.shape
        np.testing.assert_allclose(new, old, rtol=0, atol=rtol * max(1e-6, float(np.abs(old).max(initial=0))))
    assert not manager.run(graph).modified
    return result


def reasons(result: PassResult) -> str:
    """All reasons for misses, in one text."""
    return "; ".join(miss.reason for miss in result.misses)
