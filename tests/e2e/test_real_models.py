"""Real models on real engines: what the plan promises is what runs."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.graph.view import Graph
from onnxq.planning.plan import Action
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.result import EngineReport, Precision
from onnxq.verification.engines.tensorrt import installed_package
from onnxq.verification.structure import stranded
from tests.e2e.conftest import SAMPLES, present, quantized
from tests.zoo import ZooModel, evaluate
from tests.zoo.entry import Feed, Outputs

pytestmark = pytest.mark.slow

CONVOLUTIONAL = ("ppocrv4_det", "ppocrv4_rec", "ppocr_cls", "yolov8n_320")
TRAINED = ("digits_resnet", "wordlang_transformer")
MODELS = (*CONVOLUTIONAL, *TRAINED, "magika", "silero_vad_openvino")
EVAL_SETS = ("cifar10_resnet20", "kwt1_speech_commands", "mobilenetv1_0.75_224")
INT8_KERNELS = {"QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "QGemm"}
ORT = "ort-x64-vnni"


def engine_of(result: onnxq.QuantizeResult) -> EngineReport:
    engine = result.report.engine
    assert engine is not None
    return engine


# ---- onnxruntime ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "target"),
    [
        *((name, ORT) for name in (*MODELS, *EVAL_SETS)),
        *((name, "ort-x64-avx2") for name in ("yolov8n_320", "digits_resnet", "kwt1_speech_commands")),
    ],
)
def test_every_node_with_weights_runs_in_int8_as_planned(name: str, target: str) -> None:
    result = quantized(name, target)
    assert result.report.failed_checks == ()
    engine = engine_of(result)
    planned = [d for d in result.plan.nodes if d.action is Action.INT8 and d.op in ("Conv", "MatMul", "Gemm")]
    assert planned
    for decision in planned:
        ran = engine.node(decision.node)
        assert ran is not None, decision.node
        assert ran.engine_op in INT8_KERNELS, (decision.node, ran)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_every_conv_is_int8_or_does_not_pay(name: str) -> None:
    """Float only for cost (C17), and then really in float; ConvTranspose has no int8 kernel (C4)."""
    result = quantized(name, ORT)
    convs = {d.node: d for d in result.plan.nodes if d.op == "Conv"}
    assert all(d.action is Action.INT8 or d.rule == "C17" for d in convs.values())
    assert not any(d.op == "ConvTranspose" and d.action is Action.INT8 for d in result.plan.nodes)
    ran = Counter(n.precision for n in engine_of(result).nodes if n.op == "Conv")
    assert ran[Precision.INT8] == sum(d.action is Action.INT8 for d in convs.values()) > 0
    assert ran[Precision.FLOAT] == sum(d.action is Action.FLOAT for d in convs.values())


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_full_placement_has_every_conv_in_int8(name: str) -> None:
    plan = onnxq.plan(str(present(name).path()), target=ORT, placement="full")
    assert {d.action for d in plan.nodes if d.op == "Conv"} == {Action.INT8}


@pytest.mark.parametrize("name", MODELS)
def test_no_pair_is_stranded(name: str) -> None:
    """No Q or DQ of an activation is left to run on its own between two int8 kernels: such a pair only costs."""
    result = quantized(name, ORT)
    graph = Graph(result.model)
    # Allowed: codes that an int8 node wrote and a float node reads, and readers that the engine runs on codes though
    # they have another float input (the scales of a Resize).
    allowed = {d.node for d in result.plan.nodes if d.action is Action.FLOAT}
    allowed |= {n.node for n in engine_of(result).of(Precision.INT8)}
    for node in stranded(graph):
        readers = graph.consumers(graph.node(node).output[0])
        assert readers, node
        assert {r.name for r in readers} <= allowed, node


# ---- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov8n_320", "ppocr_cls", "wordlang_transformer"])
def test_second_run_writes_the_same_bytes(name: str) -> None:
    model = present(name)
    again = onnxq.quantize(str(model.path()), model.calib(SAMPLES), target=ORT)
    assert again.model.SerializeToString() == quantized(name, ORT).model.SerializeToString()


@pytest.mark.parametrize(
    ("name", "share"), [("ppocrv4_det", 0.34), ("ppocrv4_rec", 0.32), ("yolov8n_320", 0.3), ("ppocr_cls", 0.81)]
)
def test_file_is_smaller(name: str, share: float) -> None:
    """A quarter for the weights; the rest are parameters, and layers too small to pay (most of ppocr_cls)."""
    report = quantized(name, ORT).report
    assert report.size_after_bytes <= share * report.size_before_bytes


@pytest.mark.parametrize("name", MODELS)
def test_model_is_valid_and_keeps_its_interface(name: str) -> None:
    before = onnx.load(str(present(name).path()))
    after = quantized(name, ORT).model
    onnx.checker.check_model(after, full_check=True)
    constants = {t.name for t in before.graph.initializer}
    assert [v.name for v in after.graph.input] == [v.name for v in before.graph.input if v.name not in constants]
    assert [v.name for v in after.graph.output] == [v.name for v in before.graph.output]


# ---- accuracy ------------------------------------------------------------------------------------------------------


@functools.cache
def accuracies(name: str, target: str) -> tuple[float, float]:
    """Top-1 on the labelled test split, float and int8."""
    model = present(name)
    result = onnxq.quantize(str(model.path()), model.calib(), target=target)
    # Other engines than onnxruntime: by the definition of Q and DQ, that is, unoptimised.
    int8 = OrtModel(result.model, optimised=target.startswith("ort-"))
    return score(model, OrtModel(model.path() or "")), score(model, int8)


def score(model: ZooModel, session: OrtModel) -> float:
    def run(feed: Feed) -> Outputs:
        return [np.asarray(value) for value in session(feed).values()]

    return evaluate(model, run, model.load("eval", None))


@pytest.mark.parametrize("target", [ORT, "ort-x64-avx2", "tensorrt", "openvino"])
@pytest.mark.parametrize("name", TRAINED)
def test_top_1_is_within_one_point_of_float(name: str, target: str) -> None:
    before, after = accuracies(name, target)
    assert before > 0.75  # the model and its labels are what they should be
    assert after >= before - 0.01


# ---- TensorRT ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"ppocrv4_det"}))  # test_engine.py builds that one, twice
def test_tensorrt_builds_an_engine(name: str) -> None:
    """PP-OCR's angle classifier included, which TensorRT refuses in float for its dimensions called `?`."""
    if installed_package() is None:
        pytest.fail("TensorRT-RTX is missing: pip install -e '.[tensorrt]' (it builds without a GPU)")
    report = quantized(name, "tensorrt").report
    assert report.failed_checks == ()
    assert {"rules of TensorRT", "engine builds"} <= {c.name for c in report.checks}


# ---- OpenVINO ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov8n_320", "ppocr_cls", "digits_resnet"])
def test_openvino_runs_every_conv_in_int8(name: str) -> None:
    """But those that are faster in float (V12), and these really in float."""
    result = quantized(name, "openvino")
    assert {"model compiles", "int8 nodes run in int8"} <= {c.name for c in result.report.checks}, (
        "OpenVINO is missing: pip install -e '.[openvino]'"
    )
    assert result.report.failed_checks == ()
    floats = {n.node for n in engine_of(result).nodes if n.op == "Conv" and n.precision is Precision.FLOAT}
    assert floats == {d.node for d in result.plan.nodes if d.op == "Conv" and d.rule == "V12"}
