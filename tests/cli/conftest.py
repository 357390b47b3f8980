"""A small model, its data, and a way to run the command line on them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxq.cli.main import cli

Run = Callable[..., Result]

# click 8.1 mixes both streams unless told not to; 8.2 never does.
RUNNER = CliRunner(**({"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}))


def tiny_model(before: str | None = None, after: str | None = None, *, domain: str = "") -> ModelProto:
    """(`before`) Conv Relu (`after`) GlobalAveragePool on (n, 3, 8, 8)."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array((0.2 * rng.standard_normal((16, 3, 3, 3))).astype(np.float32), "w")
    nodes, last = [], "x"
    for name, op, out in (("before", before, "b"), ("conv", "Conv", "c"), ("relu", "Relu", "r"), ("after", after, "a")):
        if op is None:
            continue
        inputs = [last, "w"] if op == "Conv" else [last]
        of_domain = domain if name in ("before", "after") else ""
        extra = {"pads": [1, 1, 1, 1]} if op == "Conv" else {}
        nodes.append(helper.make_node(op, inputs, [out], name=name, domain=of_domain, **extra))
        last = out
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"], name="pool"))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, 1, 1])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def samples(count: int = 20) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: model.onnx and data.npz."""
    onnx.save(tiny_model(), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "data.npz", x=samples())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    """Runs `onnxq ARGUMENTS...` in `folder`."""

    def go(*arguments: object) -> Result:
        return RUNNER.invoke(cli, [str(a) for a in arguments], prog_name="onnxq")

    return go
