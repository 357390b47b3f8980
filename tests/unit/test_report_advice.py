"""What a report tells its reader to do."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from onnxq.api.quantize import QuantizeKeywords
from onnxq.cli.commands.quantize import quantize as quantize_command
from onnxq.keywords import defaults_of
from onnxq.report import run_options
from onnxq.report.advice import advice_for
from onnxq.report.gates import GateKeywords
from onnxq.report.html.verdict import verdict_of
from onnxq.report.run_options import command_options
from onnxq.search.budget import SearchKeywords
from onnxq.wording.flags import flag_of

GOOD: dict[str, Any] = {
    "passed": True,
    "target": "ort-x64-vnni",
    "checks": [{"name": "outputs are sound", "passed": True, "detail": ""}],
    "outputs": [{"name": "y", "sqnr_db": 35.0}],
    "data": {"source": "photos/", "samples": 300, "synthetic": False, "synthetic_comparison": False, "is_path": True},
    "float_path": "my model.onnx",
    "output_path": "q.onnx",
    "layers": [],
}


def commands(**changes: Any) -> str:
    return "\n".join(f"{a.kind}: {a.text} {a.command}" for a in advice_for({**GOOD, **changes}))


def test_a_good_model_goes_to_evaluation() -> None:
    (only,) = advice_for(GOOD)
    assert only.command == "onnxq evaluate 'my model.onnx' q.onnx --data TEST --labels LABELS"
    assert advice_for({**GOOD, "evaluation": {}, "passed": False}) == ()


def test_data_from_memory_has_no_name_to_give() -> None:
    found = commands(data={**GOOD["data"], "source": "list", "is_path": False}, outputs=[{"name": "y", "sqnr_db": 5.0}])
    assert "--data SRC " in found
    assert "--data list" not in found


def test_commands_read_the_data_as_the_run_did() -> None:
    read_as = {**GOOD["data"], "options": "--images yolo --image-size 320x320"}
    (only,) = advice_for({**GOOD, "data": read_as})
    assert only.command.endswith(" --data TEST --images yolo --image-size 320x320 --labels LABELS")
    poor = commands(data=read_as, outputs=[{"name": "y", "sqnr_db": 5.0}])
    assert poor.count("--data photos/ --images yolo --image-size 320x320 ") == 2


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"data": {**GOOD["data"], "synthetic": True}}, "warning: Calibrate on real data."),
        ({"data": {**GOOD["data"], "synthetic_comparison": True}}, "--data SRC"),
        ({"data": {**GOOD["data"], "samples": 9}}, "9 were used"),
        ({"outputs": [{"name": "y", "sqnr_db": 5.0}]}, "warning: Win accuracy back: output 'y' has 5.0 dB"),
        ({"outputs": [{"name": "y", "sqnr_db": 15.0}]}, "--recover best"),
        ({"outputs": [{"name": "y", "sqnr_db": 15.0}]}, "--search --min-sqnr 20"),
        ({"latency": {"float_ms": 10.0, "quantized_ms": 20.0}}, "--tune latency"),
        ({"checks": []}, "onnxq verify FLOAT.onnx q.onnx --target ort-x64-vnni --data photos/"),
        ({"checks": [{"name": "SQNR at least 40 dB", "passed": False, "detail": "35"}]}, "--recover best"),
        ({"checks": [{"name": "outputs are sound", "passed": False, "detail": "NaN"}]}, "onnxq sensitivity"),
        (
            {"target": "tensorrt", "checks": [{"name": "the engine was asked", "passed": False, "detail": "no"}]},
            "pip install 'onnxq[tensorrt]'",
        ),
        ({"checks": [{"name": "int8 nodes run in int8", "passed": False, "detail": "no"}]}, "--decision float"),
        (
            {"layers": [{"macs": 5, "reason": "excluded", "executed": "", "decision": "float"}]},
            "1 layer that does arithmetic stays in float: excluded",
        ),
    ],
)
def test_each_trouble_has_a_way_out(changes: dict[str, Any], part: str) -> None:
    assert part in commands(**changes)


def failed(name: str, detail: str = "35") -> list[dict[str, Any]]:
    return [{"name": name, "passed": False, "detail": detail}]


def test_commands_keep_the_demand_that_was_not_met() -> None:
    found = [a.command for a in advice_for({**GOOD, "passed": False, "checks": failed("SQNR at least 99 dB")})]
    again = "onnxq quantize 'my model.onnx' --data photos/ --target ort-x64-vnni -o q.onnx --force"
    assert found == [
        f"{again} --recover best --min-sqnr 99",
        f"{again} --search --min-sqnr 99 --report report.html",
    ]
    poor = {"outputs": [{"name": "y", "sqnr_db": 5.0}], "checks": failed("SQNR at least 99 dB")}
    assert commands(**poor).count("--search --min-sqnr 99") == 1
    assert "--min-sqnr 20" not in commands(**poor)


def test_a_search_is_repeated_with_its_demands() -> None:
    detail = (
        "top1 changes by -1.00 points (95 %: -3.0 to +1.0) and may fall by 0.5; SQNR 20.1 dB, at least 30; "
        "cosine 0.990000, at least 0.999; no layer left in float; 1 model judged on 20 samples"
    )
    found = commands(checks=failed("accuracy budget", detail))
    assert " --search --recover best --max-drop 0.5 --min-sqnr 30 --min-cosine 0.999" in found


MADE_UP = {**GOOD["data"], "source": "synthetic", "samples": 0, "synthetic_comparison": True, "is_path": False}


def test_made_up_inputs_tell_only_to_compare_on_real_ones() -> None:
    """8.8 dB on noise say nothing of the accuracy: no remedy is advised, and the verdict is no pass."""
    report = {**GOOD, "data": MADE_UP, "outputs": [{"name": "y", "sqnr_db": 8.8}], "engine": {"name": "ort"}}
    found = commands(**report)
    assert "Compare on real data" in found
    assert not any(word in found for word in ("Win accuracy back", "--recover", "--search"))
    assert verdict_of(report)[0] == "unsure"


def test_commands_keep_the_folder_of_the_model() -> None:
    read = {"output_path": None, "quantized_path": "c/q.onnx", "model_name": "q.onnx"}
    (only,) = advice_for({**GOOD, **read})
    assert only.command == "onnxq evaluate 'my model.onnx' c/q.onnx --data TEST --labels LABELS"
    assert " c/q.onnx --target" in commands(**read, data=MADE_UP)


@pytest.mark.parametrize("data", [GOOD["data"], {**GOOD["data"], "synthetic": True}])
def test_force_replaces_the_model_at_hand_and_no_other(data: dict[str, Any]) -> None:
    poor = {"outputs": [{"name": "y", "sqnr_db": 5.0}], "data": data}
    lines = [a.command for a in advice_for({**GOOD, **poor}) if a.command.startswith("onnxq quantize")]
    assert lines
    assert all(" -o q.onnx --force" in line for line in lines)
    unnamed = commands(**poor, output_path=None, model_name="q.onnx")
    assert "onnxq quantize" in unnamed
    assert "--force" not in unnamed


def test_layers_in_float_are_counted_whatever_their_reasons() -> None:
    row = {"macs": 5, "executed": "", "decision": "float"}
    reasons = ["few channels", "few channels", "C17"]
    assert "3 layers that do arithmetic stay in float: few channels (2 of them)." in commands(
        layers=[{**row, "reason": reason} for reason in reasons]
    )


def test_modes_without_calibration_are_searched_where_there_are_samples() -> None:
    poor = {"planned": {"weights": 3}, "outputs": [{"name": "y", "sqnr_db": 15.0}]}
    found = commands(**poor)
    assert "give as few of them 8 bits as the accuracy needs" in found
    assert "--mode weight-only --data photos/ --target ort-x64-vnni -o q.onnx --force --search --min-sqnr 20" in found
    assert "--search" not in commands(**poor, data={**GOOD["data"], "source": "list", "is_path": False})


OPTIONS: dict[str, Any] = {
    "mode": "static",
    "float_type": "float16",
    "exclude": ["/head/*", "a b"],
    "exclude_between": ["x:y", ["x", "z"]],
    "overrides": [{"tensors": ["images"], "range": [0.0, 1.0], "nodes": [], "symmetric": False, "method": None}],
    "recover": ["level", "bias"],
    "symmetric": False,
    "limit": 64,
    "data": {"shuffle": 0},
}


def test_commands_make_the_model_as_the_run_did() -> None:
    """They replace the run's model: one in float16 with nodes kept in float must not become another one."""
    found = advice_for({**GOOD, "outputs": [{"name": "y", "sqnr_db": 15.0}], "options": OPTIONS})
    rounded, searched = (a.command for a in found if a.command.startswith("onnxq quantize"))
    for command in (rounded, searched):
        given = quantize_command.make_context("quantize", shlex.split(command)[2:], resilient_parsing=True).params
        assert given["float_type"] == "float16"
        assert given["exclude"] == ("/head/*", "a b")
        assert given["exclude_between"] == ("x:y", "x:z")
        assert given["symmetric"] is False
        assert (given["limit"], given["shuffle"]) == (64, 0)
        assert "'tensors = [\"images\"], range = [0.0, 1.0], symmetric = false'" in command
    assert rounded.count("--recover") == 1
    assert "--recover level,bias" in searched


def test_a_change_stands_beside_repeatable_options() -> None:
    assert command_options({"exclude": ["a"], "method": "max"}, but="--exclude 'NODE' --method mse") == " --exclude a"


def test_a_demand_on_labels_goes_with_the_labels() -> None:
    options = {"labels": "labels", "eval_data": "from a file", "tensorrt_cache": "from a file"}
    assert command_options(options, but="--max-drop 0.5%") == (
        " --calibration-cache CALIBRATION-CACHE --labels labels --eval-data EVAL-DATA"
    )
    assert "labels" not in command_options(options, but="--min-sqnr 20")


def test_every_option_that_is_repeated_is_one_of_the_command() -> None:
    known = {flag for one in quantize_command.params for flag in (*one.opts, *one.secondary_opts)}
    assert {flag_of(name) for name in run_options.NAMES} | set(run_options.SWITCHES.values()) <= known
    said_elsewhere = {
        "stats",
        "layout",
        "images",
        "threads",
        "memory_limit",
        *defaults_of(SearchKeywords),
        *defaults_of(GateKeywords),
    }
    names = {*run_options.NAMES, *(name for name, _ in run_options.SWITCHES)} - {"shuffle"}
    assert names == defaults_of(QuantizeKeywords).keys() - said_elsewhere
