"""Small graphs after quantization, as text, compared with the files in `expected/`.

A change of placement, names, axes, types or scales shows as a diff. If it is meant:
`pytest tests/golden --update-golden`, and a line in CHANGELOG.md where scales changed.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

import onnxq
from onnxq.targets import TARGETS
from tests.golden.graphs import GRAPHS
from tests.graphs import normal

EXPECTED = Path(__file__).parent / "expected"
CASES = [(graph, target) for graph in GRAPHS for target in ("ort-x64-vnni", "tensorrt", "openvino")]
CASES += [("conv_relu", "ort-x64-avx2"), ("conv_relu", "openvino-avx2")]


@pytest.mark.parametrize(("graph", "target"), CASES)
def test_quantized_graph(graph: str, target: str, request: pytest.FixtureRequest) -> None:
    model = GRAPHS[graph]()
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    data = [{"x": normal(*shape, seed=seed)} for seed in range(4)]
    # Graphs this small do not pay in int8: costs are left out, so that every rewrite shows.
    # As a table: the name "openvino" stands for another one where the CPU has no VNNI.
    made = onnxq.quantize(model, data, target=TARGETS[target], method="max", recover="none", placement="full")
    text = listing(made.model)
    path = EXPECTED / f"{graph}.{target}.txt"
    if request.config.getoption("--update-golden"):
        EXPECTED.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_file_has_its_case() -> None:
    assert {f"{graph}.{target}.txt" for graph, target in CASES} == {p.name for p in EXPECTED.iterdir()}


def listing(model: ModelProto) -> str:
    """Counts, constants and nodes of a model, a line each."""
    counts = Counter(node.op_type for node in model.graph.node)
    lines = [f"{op} {counts[op]}" for op in sorted(counts)]
    lines += ["", *(_constant(t.name, numpy_helper.to_array(t)) for t in model.graph.initializer), ""]
    lines += [_node(node) for node in model.graph.node]
    lines += ["", "inputs " + ", ".join(v.name for v in model.graph.input)]
    lines += ["outputs " + ", ".join(v.name for v in model.graph.output)]
    return "\n".join(lines) + "\n"


def _constant(name: str, value: NDArray[Any]) -> str:
    """Four digits: what a newer onnxruntime changes in the last bits of an activation does not show."""
    kind = f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if value.size <= 2:
        return f"{kind} {name} = {' '.join(f'{v:.4g}' for v in value.reshape(-1).tolist())}"
    return f"{kind} {name} in {np.min(value):.4g} .. {np.max(value):.4g}"


def _node(node: NodeProto) -> str:
    attributes = ", ".join(f"{a.name}={_attribute(a)}" for a in sorted(node.attribute, key=lambda a: a.name))
    inputs, outputs = ", ".join(node.input), ", ".join(node.output)
    return f"[{node.name}] {outputs} = {node.op_type}{f'<{attributes}>' if attributes else ''}({inputs})"


def _attribute(attribute: Any) -> str:
    value = helper.get_attribute_value(attribute)
    return f"{value:.4g}" if isinstance(value, float) else str(list(value) if hasattr(value, "__len__") else value)
