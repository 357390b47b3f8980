"""The tables: what their values promise to the rest, and the choice by name."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest

import onnxq
from onnxq.errors import ConfigError
from onnxq.targets import ORT_CPU, TARGET_NAMES, TARGETS, cpu_has_vnni, resolve_target
from onnxq.targets.schema import BiasForm, Placement, Target, WeightGuard
from onnxq.verification.reasons.ort import INT8_KERNEL_OPS
from tests.graphs import model_of, normal

ALL = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def test_names() -> None:
    known = (
        "ort-cpu", "ort-x64-avx2", "ort-x64-vnni", "ort-arm64", "tensorrt", "openvino", "openvino-avx2",
        "qnn", "xnnpack",
    )  # fmt: skip
    assert known == TARGET_NAMES
    assert all(name == target.name for name, target in TARGETS.items())


@ALL
def test_rules_are_filed_under_their_operator(target: Target) -> None:
    for table in (target.compute, target.elementwise, target.pass_through):
        assert all(op == rule.op and rule.rules for op, rule in table.items())
    assert not set(target.elementwise) & set(target.pass_through)
    assert not set(target.compute) & (set(target.elementwise) | set(target.pass_through))


@ALL
def test_weights_are_symmetric_and_narrow(target: Target) -> None:
    """Code -128 would break the symmetry that R1, C14 and bias scales rest on."""
    assert target.weight.symmetric
    assert target.weight.narrow_range
    assert target.weight.qtype.name == "int8"


@ALL
def test_placement_agrees_with_its_rules(target: Target) -> None:
    """Int32 biases and quantized outputs belong to kernels on codes; residual and Concat rules to the others."""
    regions = target.placement is Placement.REGIONS
    assert all((rule.bias is BiasForm.INT32) == regions for rule in target.compute.values())
    assert regions or not any(rule.output_quantized for rule in target.compute.values())
    assert regions or not target.elementwise
    assert not (regions and (target.residual_add or target.sum_pairs or target.concat_shares))


def test_tensorrt_is_symmetric_int8() -> None:
    spec = TARGETS["tensorrt"].activation
    assert (spec.qtype.name, spec.symmetric) == ("int8", True)


@pytest.mark.parametrize("name", [n for n in TARGETS if n not in ("tensorrt", "xnnpack")])
def test_others_have_asymmetric_uint8_activations(name: str) -> None:
    spec = TARGETS[name].activation
    assert (spec.qtype.name, spec.symmetric) == ("uint8", False)


def test_only_x64_without_vnni_guards_its_weights() -> None:
    assert [t.name for t in TARGETS.values() if t.guard is not WeightGuard.NONE] == [
        "ort-x64-avx2", "openvino-avx2",
    ]  # fmt: skip


@ALL
def test_operators_with_a_float_reason_have_no_rule(target: Target) -> None:
    assert not set(target.float_reasons) & (set(target.compute) | set(target.elementwise) | set(target.pass_through))


def test_onnxruntime_rules_are_known_to_its_verification() -> None:
    target = TARGETS["ort-x64-vnni"]
    assert {*target.compute, *target.elementwise, *target.pass_through} <= INT8_KERNEL_OPS


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_a_full_name_needs_no_note(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("onnxq.targets.cpu_has_vnni", lambda: True)
    assert resolve_target(name) == (TARGETS[name], None)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("tensor-rt", "\nHint: did you mean target='tensorrt' (--target tensorrt)?"),
        ("ort", "\nHint: did you mean target='ort-cpu' (--target ort-cpu)?"),
        ("onnxruntime", "\nHint: did you mean target='ort-cpu' (--target ort-cpu)?"),
        ("CPUExecutionProvider", "\nHint: did you mean target='ort-cpu' (--target ort-cpu)?"),
        ("trt", "\nHint: did you mean target='tensorrt' (--target tensorrt)?"),
        ("TensorrtExecutionProvider", "\nHint: did you mean target='tensorrt' (--target tensorrt)?"),
        ("openvino-cpu", "\nHint: did you mean target='openvino' (--target openvino)?"),
        ("ort_x64_vnni", "\nHint: did you mean target='ort-x64-vnni' (--target ort-x64-vnni)?"),
        ("avx2", "\nHint: did you mean target='ort-x64-avx2' (--target ort-x64-avx2)?"),
        ("zzz", ""),
    ],
)
def test_unknown_name(given: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_target(given)
    assert str(error.value) == (
        f"unknown target {given!r}; known: ort-cpu, ort-x64-avx2, ort-x64-vnni, ort-arm64, tensorrt, openvino, "
        f"openvino-avx2, qnn, xnnpack{hint}"
    )


@pytest.mark.parametrize(
    ("machine", "vnni", "name", "note"),
    [
        ("aarch64", False, "ort-arm64", "ort-cpu means ort-arm64 on this machine"),
        ("arm64", True, "ort-arm64", "ort-cpu means ort-arm64 on this machine"),
        (
            "x86_64",
            True,
            "ort-x64-vnni",
            "ort-cpu means ort-x64-vnni on this machine; for CPUs without VNNI quantize with target ort-x64-avx2",
        ),
        (
            "AMD64",
            False,
            "ort-x64-avx2",
            "ort-cpu means ort-x64-avx2 on this machine (no VNNI): weights that could saturate are guarded",
        ),
        (
            "AMD64",
            None,
            "ort-x64-avx2",
            "ort-cpu means ort-x64-avx2 on this machine, which does not tell of VNNI: weights that could saturate are "
            "guarded; for CPUs with VNNI quantize with target ort-x64-vnni",
        ),
    ],
)
def test_ort_cpu_follows_the_machine(
    monkeypatch: pytest.MonkeyPatch, machine: str, vnni: bool | None, name: str, note: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr("onnxq.targets.cpu_has_vnni", lambda: vnni)
    assert resolve_target(ORT_CPU) == (TARGETS[name], note)


@pytest.mark.parametrize(
    ("machine", "vnni", "name"),
    [
        ("x86_64", True, "openvino"),
        ("x86_64", False, "openvino-avx2"),
        ("AMD64", None, "openvino-avx2"),
        ("aarch64", False, "openvino"),
    ],
)
def test_openvino_follows_the_machine(
    monkeypatch: pytest.MonkeyPatch, machine: str, vnni: bool | None, name: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr("onnxq.targets.cpu_has_vnni", lambda: vnni)
    table, note = resolve_target("openvino")
    assert table is TARGETS[name]
    assert (note is None) is (name == "openvino")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_vnni", True),
        ("fpu avx2 avx_vnni", True),
        ("fpu avx2 avx512f", False),
        # A longer flag that contains the name is another flag.
        ("fpu avx_vnni_int8", False),
    ],
)
def test_vnni_is_read_from_the_flags(tmp_path: Path, flags: str, expected: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\nmodel name : X\nflags\t\t: {flags}\nbugs :\n")
    assert cpu_has_vnni(file) is expected


def test_vnni_is_unknown_without_cpuinfo(tmp_path: Path) -> None:
    assert cpu_has_vnni(tmp_path / "absent") is None
    (tmp_path / "empty").write_text("")
    assert cpu_has_vnni(tmp_path / "empty") is None


@pytest.mark.parametrize("target", [["tensorrt"], 3, None])
def test_a_target_is_a_name_or_a_path(target: Any) -> None:
    with pytest.raises(ConfigError, match=r"target is .*, expected a name or the path of a .toml file"):
        resolve_target(target)


def test_weights_alone_saturate_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr("onnxq.targets.cpu_has_vnni", lambda: False)
    assert resolve_target("openvino", weights_alone=True) == (TARGETS["openvino"], None)
    assert resolve_target("openvino")[0] is TARGETS["openvino-avx2"]
    note = "ort-cpu means ort-x64-avx2 on this machine"
    assert resolve_target(ORT_CPU, weights_alone=True) == (TARGETS["ort-x64-avx2"], note)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_plan_for_another_cpu_says_so(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    model = model_of("(float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", w=normal(64, 64))
    monkeypatch.setattr("onnxq.verification.engines.ort_products.saturates", lambda: True)
    options = {"mode": mode, "placement": "full"}
    (said,) = onnxq.plan(model, target="ort-x64-vnni", **options).notes
    assert said.startswith("this machine cannot run such a model exactly: its CPU has no VNNI")
    assert onnxq.plan(model, target="ort-x64-avx2", **options).notes == ()
    assert onnxq.plan(model, target="ort-x64-vnni", mode="weight-only").notes == ()
    monkeypatch.setattr("onnxq.verification.engines.ort_products.saturates", lambda: False)
    assert onnxq.plan(model, target="ort-x64-vnni", **options).notes == ()
