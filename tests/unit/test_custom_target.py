"""Targets from TOML files: what they may say, what is refused, and tables written as such."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import onnxq
from onnxq.api.reproduce import reproduce
from onnxq.errors import ArtifactError, ConfigError
from onnxq.graph.model import load_graph
from onnxq.numerics.qtypes import INT8
from onnxq.report.standalone import report_of_model
from onnxq.targets import TARGETS, resolve_target
from onnxq.targets.schema import BiasForm, ChannelAxis, ComputeRule, Engine, Target
from onnxq.targets.written import target_to_toml
from tests.graphs import model_of, normal, ops

MINIMAL = """
name = "npu"
placement = "inputs"
[activation]
dtype = "uint8"
symmetric = false
[weight]
dtype = "int8"
symmetric = true
narrow_range = true
[compute.Conv]
axis = "first"
output_quantized = false
bias = "float"
"""


def load(folder: Path, text: str) -> Target:
    path = folder / "npu.toml"
    path.write_text(text)
    return resolve_target(path)[0]


# ---- what a file says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_a_printed_table_is_the_same_table_when_loaded(name: str, tmp_path: Path) -> None:
    assert load(tmp_path, target_to_toml(TARGETS[name])) == TARGETS[name]


@pytest.mark.parametrize("name", TARGETS)
def test_a_copy_under_another_name(name: str, tmp_path: Path) -> None:
    copied = load(tmp_path, f'name = "mine"\nbase = "{name}"')
    assert copied == replace(TARGETS[name], name="mine")
    assert load(tmp_path, target_to_toml(copied)) == copied


def test_a_minimal_table(tmp_path: Path) -> None:
    target = load(tmp_path, MINIMAL)
    assert (target.name, target.title, target.engine, target.min_opset) == ("npu", "npu", Engine.NONE, 13)
    assert target.compute == {
        "Conv": ComputeRule(op="Conv", axis=ChannelAxis.FIRST, output_quantized=False, bias=BiasForm.FLOAT, rules="npu")
    }


def test_a_base_is_changed_key_by_key(tmp_path: Path) -> None:
    base = TARGETS["tensorrt"]
    target = load(
        tmp_path,
        """
        name = "npu"
        base = "tensorrt"
        title = "My NPU"
        residual_add = false
        fused_activations = ["Relu"]
        [weight]
        narrow_range = false
        [compute]
        Gemm = false
        [compute.Conv]
        min_channels = 4
        [float_reasons]
        Tanh = "the NPU has no Tanh"
        Softmax = false
        [sources]
        N1 = "manual, page 12"
        """,
    )
    assert target.title == "My NPU"
    assert target.engine is Engine.TENSORRT
    assert not target.residual_add
    assert target.fused_activations == {"Relu"}
    assert not target.weight.narrow_range
    assert target.weight.symmetric
    assert set(target.compute) == set(base.compute) - {"Gemm"}
    assert target.compute["Conv"] == replace(base.compute["Conv"], min_channels=4)
    assert target.compute["MatMul"] == base.compute["MatMul"]
    assert target.float_reasons["Tanh"] == "the NPU has no Tanh"
    assert "Softmax" not in target.float_reasons
    assert target.sources["N1"] == "manual, page 12"
    assert target.sources["R20"] == base.sources["R20"]


def test_the_weight_of_a_file_reaches_operators_with_a_form_of_their_own(tmp_path: Path) -> None:
    head = 'name = "npu"\nbase = "qnn"\nmin_opset = 21\n[weight]\ndtype = "int16"\npower_of_two = true\n'
    base, compute = TARGETS["qnn"].compute, load(tmp_path, head).compute
    form = compute["MatMul"].weight
    assert form is not None
    assert (form.qtype.name, form.power_of_two) == ("int16", True)
    assert compute["Gemm"].weight == form
    assert compute["ConvTranspose"] == base["ConvTranspose"], "it keeps its weights"
    own = load(tmp_path, head + '[compute.Gemm.weight]\ndtype = "int8"\n').compute
    assert own["Gemm"].weight == replace(base["Gemm"].weight, qtype=INT8)
    assert own["MatMul"].weight == form


def test_a_node_too_small_for_the_table_has_the_rule_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "npu.toml").write_text(
        'name = "npu"\nbase = "openvino"\nengine = "none"\n[compute.Conv]\nmin_channels = 8\nrules = "N1"\n'
        '[sources]\nN1 = "manual"\n'
    )
    model = model_of("(float[1,3,8,8] x) => (float[1,16,6,6] y) { [c] y = Conv(x, w) }", w=normal(16, 3, 3, 3))
    decision = next(d for d in onnxq.plan(model, target=tmp_path / "npu.toml").nodes if d.node == "c")
    assert (decision.action.value, decision.rule) == ("float", "N1")


def test_costs_are_those_of_the_engine_they_were_measured_on(tmp_path: Path) -> None:
    head = 'name = "npu"\nbase = "openvino"\n'
    assert load(tmp_path, head).costs == TARGETS["openvino"].costs
    assert load(tmp_path, head + 'engine = "openvino"').costs == TARGETS["openvino"].costs
    assert load(tmp_path, head + 'engine = "none"').costs is None
    own = load(tmp_path, head + 'engine = "none"\n[costs]\nmargin = 2.0').costs
    assert own is not None
    assert own.margin == 2.0


def test_a_rule_takes_the_place_of_a_reason_for_float(tmp_path: Path) -> None:
    target = load(tmp_path, 'name = "n"\nbase = "ort-x64-vnni"\n[elementwise.Softmax]')
    assert target.elementwise["Softmax"].rules == "n"
    assert "Softmax" not in target.float_reasons
    assert "Softmax" in TARGETS["ort-x64-vnni"].float_reasons


# ---- what is refused -----------------------------------------------------------------------------------------------

HEAD = 'name = "npu"\nbase = "tensorrt"\n'
WRONG: dict[str, tuple[str, str, str | None]] = {
    "unknown key": (HEAD + "residul_add = true", "unknown key 'residul_add'", "did you mean 'residual_add'?"),
    "unknown key of a rule": (
        HEAD + "[compute.Conv]\nchannels = 3",
        "unknown key 'compute.Conv.channels'",
        "did you mean 'min_channels'?",
    ),
    "key far from all": (
        HEAD + "[pass_through.Flatten]\nzzz = 3",
        "unknown key 'pass_through.Flatten.zzz'",
        "known keys: attributes, rules",
    ),
    "unknown key of a form": (HEAD + "[weight]\ndtyp = 'int8'", "unknown key 'weight.dtyp'", "did you mean 'dtype'?"),
    "placement": (
        HEAD + "placement = 'input'",
        "placement is 'input', expected 'regions' or 'inputs'",
        "did you mean 'inputs'?",
    ),
    "engine": (
        HEAD + "engine = 'zzz'",
        "engine is 'zzz', expected 'onnxruntime' or 'tensorrt' or 'openvino' or 'none'",
        "known: onnxruntime, tensorrt, openvino, none",
    ),
    "type of a list": (
        HEAD + "[compute.Conv]\nranks = '4'",
        "compute.Conv.ranks is '4', expected a list of integers",
        None,
    ),
    "type of a number": (
        HEAD + "[compute.Conv]\nmin_channels = true",
        "compute.Conv.min_channels is True, expected an integer",
        None,
    ),
    "type of a switch": (HEAD + "residual_add = 1", "residual_add is 1, expected true or false", None),
    "operator put together": (
        HEAD + "whole_operators = ['Gelu']",
        "whole_operators is 'Gelu', expected an operator that onnxq can put together",
        "known: HardSwish",
    ),
    "type of a text": (HEAD + "title = 1", "title is 1, expected a string", None),
    "table": (HEAD + "compute = 1", "compute is 1, expected a table", None),
    "rule": (HEAD + "[compute]\nConv = 1", "compute.Conv is 1, expected a table", None),
    "taken out of nothing": (
        HEAD + "[compute]\nLSTM = false",
        "compute.LSTM = false takes an entry out that there is not",
        "there are Conv, ConvTranspose, MatMul, Gemm",
    ),
    "taken out under another name": (
        HEAD + "[compute]\nConvTransposed = false",
        "compute.ConvTransposed = false takes an entry out that there is not",
        "did you mean 'ConvTranspose'?",
    ),
    "rule without a source": (
        HEAD + "[compute.Conv]\nrules = 'R1 N1'",
        "compute.Conv.rules names 'N1', which has no source",
        'add it to [sources]: N1 = "where the rule comes from"',
    ),
    "form": (HEAD + "weight = 1", "weight is 1, expected a table with dtype, symmetric and narrow_range", None),
    "form's switch": (HEAD + "[weight]\nsymmetric = 1", "weight.symmetric is 1, expected true or false", None),
    "dtype": (
        HEAD + "[activation]\ndtype = 'int9'",
        "activation.dtype is 'int9', expected a type of codes",
        "did you mean 'int8'?",
    ),
    "dtype of weights": (
        HEAD + "[weight]\ndtype = 'uint16'",
        "weight.dtype is 'uint16', expected a type of weights",
        "did you mean 'int16'?",
    ),
    "asymmetric weights": (
        HEAD + "[weight]\nsymmetric = false",
        "weight.symmetric is False; onnxq writes symmetric weights alone, since the scale of a bias rests on them",
        "set it to true",
    ),
    "opset of a type": (
        HEAD + "[activation]\ndtype = 'uint16'",
        "min_opset is 13, but uint16 (activation.dtype) needs opset 21",
        "set min_opset = 21",
    ),
    "opset without channels": (
        HEAD + "min_opset = 9",
        "min_opset is 9, expected 13 to ",
        "13 is the first with per-channel scales",
    ),
    "guard": (
        HEAD + "guard = 'pair-sum'\n[weight]\ndtype = 'uint8'",
        "guard is 'pair-sum', expected 'none': only int8 weights can overflow in pairs",
        None,
    ),
    "operator with weights": (HEAD + "[compute.Cnv]", "compute: ONNX has no operator 'Cnv'", "did you mean 'Conv'?"),
    "operator": (HEAD + "[elementwise.Addd]", "elementwise: ONNX has no operator 'Addd'", "did you mean 'Add'?"),
    "operator without weights": (
        HEAD + "[compute.Add]\naxis = 'first'\noutput_quantized = false\nbias = 'float'",
        "compute: Add is no operator whose weights onnxq can quantize",
        "compute takes Conv, ConvTranspose, Gemm, MatMul; operators without weights belong to elementwise",
    ),
    "operator in two tables": (
        'name = "npu"\nbase = "ort-x64-vnni"\n[elementwise.MaxPool]',
        "MaxPool stands in elementwise and in pass_through",
        "leave it in one of them",
    ),
    "elementwise on inputs": (
        HEAD + "[elementwise.Add]",
        "elementwise: has a meaning only for placement = 'regions'",
        "drop elementwise, or change placement",
    ),
    "quantized output on inputs": (
        HEAD + "[compute.Conv]\noutput_quantized = true",
        "compute.Conv.output_quantized: has a meaning only for placement = 'regions'",
        "set it to false, or change placement",
    ),
    "residual add in regions": (
        'name = "npu"\nbase = "ort-x64-vnni"\nresidual_add = true',
        "residual_add: has a meaning only for placement = 'inputs'",
        "drop residual_add, or change placement",
    ),
    "nothing to run": (
        HEAD + "[compute]\nConv = false\nConvTranspose = false\nGemm = false\nMatMul = false",
        "compute: the table is empty, so nothing could run in int8",
        "add [compute.Conv]",
    ),
    "no name": ('base = "tensorrt"', "the key 'name' is missing", 'give the target a name: name = "my-npu"'),
    "name of another": (
        'name = "tensorrt"\nbase = "openvino"',
        "name 'tensorrt' is that of a built-in target, whose table is another",
        "choose a name of your own",
    ),
    "base": (
        'name = "npu"\nbase = "tensort"',
        "base is 'tensort', expected the name of a built-in target",
        "did you mean 'tensorrt'?",
    ),
    "no placement": (
        'name = "npu"',
        "the key 'placement' is missing",
        "it is 'regions' or 'inputs'; or start from a built-in table: base = ...",
    ),
    "no form": (
        MINIMAL.replace('dtype = "uint8"', ""),
        "the key 'activation.dtype' is missing",
        None,
    ),
    "half a rule": (
        MINIMAL.replace('axis = "first"', ""),
        "the key 'compute.Conv.axis' is missing",
        "it is 'first' or 'second' or 'last' or 'gemm'",
    ),
    "no TOML": ("name =", "this is not TOML: ", 'lines look like: base = "tensorrt"'),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_tables_that_are_refused(case: str, tmp_path: Path) -> None:
    text, message, hint = WRONG[case]
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert error.value.message.startswith(message)
    assert error.value.where == f"target {str(tmp_path / 'npu.toml')!r}"
    assert error.value.hint == hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the file cannot be read: No such file or directory"):
        resolve_target(str(tmp_path / "absent.toml"))


# ---- used ----------------------------------------------------------------------------------------------------------

MODEL = model_of(
    """(float[N,16,8,8] x) => (float[N,10] y) {
    [conv] a = Conv<pads=[1,1,1,1]>(x, w) [relu] r = Relu(a) [pool] p = GlobalAveragePool(r) [flat] f = Flatten(p)
    [head] y = Gemm(f, m, b) }""",
    w=normal(16, 16, 3, 3), m=normal(16, 10), b=normal(10),
)  # fmt: skip
DATA = [{"x": normal(1, 16, 8, 8, seed=seed)} for seed in range(8)]


def test_a_target_without_an_engine_is_compared_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "npu.toml"
    path.write_text(MINIMAL)
    result = onnxq.quantize(MODEL, DATA, target=path)
    assert result.plan.target == "npu"
    assert [d.node for d in result.plan.nodes if d.action.value == "int8"] == ["conv"]
    assert result.report
    assert result.report.engine is None
    said = "No engine was asked: the table of target 'npu' says engine = 'none'. Outputs alone were compared."
    assert any(warning.startswith(said) for warning in result.report.warnings)
    assert f"the target's table comes from {path}" in result.report.notes
    again = onnxq.verify(MODEL, result.model, DATA, target=str(path))
    assert again.engine is None
    assert [c.name for c in again.checks][:1] == ["outputs are sound"]


def test_a_model_for_a_table_of_the_users_own_asks_for_that_table(tmp_path: Path) -> None:
    path = tmp_path / "npu.toml"
    path.write_text(MINIMAL)
    made = onnxq.quantize(MODEL, DATA, target=path, output=tmp_path / "q.onnx").model
    asked = "pass the file of its table: target='FILE.toml' (--target FILE.toml)"
    unasked = onnxq.verify(MODEL, made, DATA)
    assert any("was made for 'npu'" in said and said.endswith(asked) for said in unasked.warnings)
    assert not any("was made for" in said for said in onnxq.verify(MODEL, made, DATA, target=path).warnings)
    with pytest.raises(ArtifactError, match="made for 'npu', which is no built-in target"):
        reproduce(MODEL, made, DATA)
    with pytest.raises(ArtifactError, match="made for 'npu', and the target given is 'qnn'"):
        reproduce(MODEL, made, DATA, target="qnn")
    assert reproduce(MODEL, made, DATA, target=path).passed
    path.write_text(MINIMAL.replace('"uint8"\nsymmetric = false', '"int8"\nsymmetric = true'))
    assert "another form of the target's table" in reproduce(MODEL, made, DATA, target=path).detail
    assert report_of_model(tmp_path / "q.onnx").target == "npu"


@pytest.mark.parametrize(("base", "engine"), [("ort-x64-vnni", "onnxruntime"), ("openvino-avx2", "openvino")])
def test_the_engine_key_names_who_answers(tmp_path: Path, base: str, engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    path = tmp_path / "npu.toml"
    path.write_text(f'name = "npu"\nbase = "{base}"\n[compute]\nGemm = false')
    result = onnxq.quantize(MODEL, DATA, target=path)
    assert result.report, result.report.to_text()
    assert result.report.engine is not None
    ran = {n.node: n.precision.value for n in result.report.engine.nodes}
    assert (ran["conv"], ran["head"]) == ("int8", "float")


def test_rules_of_tensorrt_are_linted_for_a_target_built_on_it(tmp_path: Path) -> None:
    path = tmp_path / "npu.toml"
    path.write_text(HEAD)
    result = onnxq.quantize(MODEL, DATA, target=path)
    assert "rules of TensorRT" in [c.name for c in result.report.checks]


def test_sixteen_bit_activations(tmp_path: Path) -> None:
    """What QNN's accelerators take: uint16 activations, uint8 weights."""
    path = tmp_path / "npu.toml"
    path.write_text(
        'name = "npu"\nbase = "openvino"\nengine = "none"\nmin_opset = 21\nactivation_types = []\n'
        '[activation]\ndtype = "uint16"\n[weight]\ndtype = "uint8"'
    )
    result = onnxq.quantize(MODEL, DATA, target=path)
    assert {p.spec.qtype.name for p in result.qparams.values()} == {"uint16", "uint8"}
    graph = load_graph(result.model)
    assert graph.opset >= 21
    assert ops(graph)["QuantizeLinear"] == 2
    # Weights alone are in 8 bits now: their error is that of a weight-only model, far above 8-bit activations'.
    assert min(o.sqnr_db or 0.0 for o in result.report.outputs) > 35


def test_a_table_may_be_given_itself() -> None:
    mine = replace(TARGETS["openvino"], name="mine", engine=Engine.NONE)
    assert resolve_target(mine) == (mine, None)
    assert onnxq.plan(MODEL, target=mine).target == "mine"


def test_statistics_serve_a_target_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "npu.toml"
    path.write_text(MINIMAL)
    stats = onnxq.calibrate(MODEL, DATA, target=path)
    one, other = onnxq.quantize(MODEL, DATA, target=path, stats=stats), onnxq.quantize(MODEL, DATA[:6], target=path)
    assert np.isfinite(float(one.qparams["x"].scale))
    assert set(one.qparams) == set(other.qparams)
