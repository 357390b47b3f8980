"""`tune="latency"` for OpenVINO: a real model that a wrong table of costs puts into int8 gets its float nodes back.

No time is measured: the race is won by the model with fewer int8 kernels for depthwise Convs, as OpenVINO lists them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

import onnxq
from onnxq.graph.model import load_graph
from onnxq.planning.plan import Action
from onnxq.targets import TARGETS
from onnxq.targets.costs import KernelCost
from onnxq.targets.schema import Target
from onnxq.tuning import search
from onnxq.tuning.race import Race
from onnxq.verification.engines.openvino import is_installed
from onnxq.verification.engines.openvino_model import OpenvinoModel
from tests.e2e.conftest import SAMPLES, present

pytestmark = pytest.mark.skipif(not is_installed(), reason="OpenVINO is not installed")

MODEL = "digits_resnet"


def wrong_costs() -> Target:
    """A table by which float never pays."""
    target = TARGETS["openvino"]
    assert target.costs is not None
    dear = dict.fromkeys(target.costs.float_kernels, KernelCost(node=1e9))
    return replace(target, costs=replace(target.costs, float_kernels=dear))


def int8_among(names: Collection[str], model: Any) -> int:
    """How many of these nodes OpenVINO runs in int8."""
    assert isinstance(model, OpenvinoModel)
    infos = [op.get_rt_info() for op in model.compiled.get_runtime_model().get_ordered_ops()]
    codes = [
        i for i in infos if str(i["runtimePrecision"].value) in ("i8", "u8") and "Conv" in str(i["layerType"].value)
    ]
    return sum(any(name in str(info["originalLayersNames"].value) for name in names) for info in codes)


def int8_nodes(plan: onnxq.QuantPlan) -> set[str]:
    return {d.node for d in plan.nodes if d.action is Action.INT8}


def test_a_placement_that_is_wrong_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    model, target = present(MODEL), wrong_costs()
    path = str(model.path())
    nodes = {node.name: node for node in load_graph(path).nodes}
    default = int8_nodes(onnxq.plan(path, target=target))
    depthwise = {n for n in default if any(a.name == "group" and a.i > 1 for a in nodes[n].attribute)}
    assert depthwise
    assert default == int8_nodes(onnxq.plan(path, target=target, placement="full"))

    def by_depthwise(champion: Any, challenger: Any, *_: Any, **__: Any) -> Race:
        times = [1.0 + int8_among(depthwise, model) for model in (champion, challenger)]
        ratio = times[1] / times[0]
        return Race(ratio=ratio, low_ratio=ratio, champion_ms=times[0], challenger_ms=times[1])

    monkeypatch.setattr(search, "race", by_depthwise)
    result = onnxq.quantize(path, model.calib(SAMPLES), target=target, tune="latency")
    assert result.tuning is not None
    assert not result.tuning.is_default
    assert int8_nodes(result.plan) == default - depthwise
    assert result.report.passed
    assert any("under OpenVINO with floats in " in note for note in result.report.notes)


def test_it_runs_with_the_clock() -> None:
    model = present(MODEL)
    result = onnxq.quantize(str(model.path()), model.calib(SAMPLES), target="openvino", tune="latency", tune_seconds=3)
    assert result.report.passed
    assert result.tuning is not None
    assert result.tuning.float_ms is not None
