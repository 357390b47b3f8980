"""From the arguments of `onnxq.quantize` to the stages of a mode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxq.calibration.methods import method_from_name
from onnxq.calibration.runner import CollectOptions
from onnxq.calibration.tensorrt_cache import load_tensorrt_cache
from onnxq.graph.saving import check_output
from onnxq.modes.dynamic import quantize_dynamic
from onnxq.modes.finishing import Request
from onnxq.modes.result import QuantizeResult
from onnxq.modes.static import Choices, quantize_static
from onnxq.modes.weight_only import quantize_weights
from onnxq.pipeline.arguments import check_output_is_no_input
from onnxq.planning.modes import DYNAMIC, STATIC
from onnxq.planning.options import PLACEMENT_ARGUMENTS, PlanOptions
from onnxq.planning.weight_form import FORM_ARGUMENTS, WeightForm
from onnxq.recovery.registry import Recovery
from onnxq.report.gates import Gates
from onnxq.search.budget import Budget, budget_from
from onnxq.targets import resolve_target


def quantize_in_mode(mode: str, given: Mapping[str, Any], options: str) -> QuantizeResult:
    """Quantize a model in one of `modes.MODES`.

    Args:
        mode: Its name.
        given: The arguments of `onnxq.quantize`, checked for the mode.
        options: Those that shape the model, for its metadata.

    Raises:
        OnnxqError: as `onnxq.quantize`.
    """
    budget = _budget(given)
    choices = _choices(given, budget) if mode == STATIC else None
    request = _request(given, options, static=choices is not None)
    if choices is not None:
        return quantize_static(request, choices)
    if mode == DYNAMIC:
        return quantize_dynamic(request, budget)
    return quantize_weights(request, WeightForm.of(*(given[name] for name in FORM_ARGUMENTS)), budget)


def _request(given: Mapping[str, Any], options: str, *, static: bool) -> Request:
    """What is asked for in every mode.

    Raises:
        ConfigError: there is no such target, or the output cannot be written.
    """
    output = None if given["output"] is None else Path(given["output"])
    check_output_is_no_input(output, data=given["data"], tensorrt_cache=given["tensorrt_cache"])
    if output is not None:
        check_output(output, force=given["force"])
    target, note = resolve_target(given["target"])
    # What is searched for is a check of the search; a gate asks for it alone.
    gate = None if given["search"] else given["min_sqnr"]
    gates = Gates.of(gate, given["min_int8"], require_engine=given["require_engine"])
    gates.check_possible(target)
    # Types of activations and weights are part of the plan in static mode alone.
    types: dict[str, Any] = {name: given[name] for name in ("activations", "weights")} if static else {}
    wanted: dict[str, Any] = {name: given[name] for name in PLACEMENT_ARGUMENTS}
    return Request(
        model=given["model"],
        data=given["data"],
        target=target,
        target_note=note,
        wanted=PlanOptions.of(**wanted, **types),
        batch_size=given["batch_size"],
        limit=given["limit"],
        layout=given["layout"],
        images=given["images"],
        collecting=CollectOptions(
            threads=given["threads"],
            providers=given["providers"],
            nonfinite=given["nonfinite"],
            full_histogram=given["full_histogram"],
            memory_limit=given["memory_limit"],
        ),
        output=output,
        force=given["force"],
        options=options,
        progress=given["progress"],
        details=given["details"],
        gates=gates,
    )


def _budget(given: Mapping[str, Any]) -> Budget | None:
    """What accuracy is demanded of the model, other than by gates.

    Raises:
        ConfigError: there is no such metric, or the arguments do not go together.
        ArtifactError: the ranking cannot be read.
    """
    return budget_from(
        max_drop=given["max_drop"],
        min_sqnr=given["min_sqnr"],
        min_cosine=given["min_cosine"],
        metric=given["metric"],
        labels=given["labels"],
        data=given["eval_data"],
        output=given["output_name"],
        seconds=given["search_seconds"],
        ranking=given["ranking"],
        search=given["search"],
    )


def _choices(given: Mapping[str, Any], budget: Budget | None) -> Choices:
    """What is asked for in static mode alone.

    Raises:
        ConfigError: there is no such method, recovery or aim, or the arguments do not go together.
        ArtifactError: the calibration cache of TensorRT is damaged.
    """
    cache = given["tensorrt_cache"]
    recovery = Recovery.of(given["recover"])
    choices = Choices(
        method=method_from_name(given["method"], percentile=given["percentile"], momentum=given["momentum"]),
        cache=None if cache is None else load_tensorrt_cache(cache),
        stats=given["stats"],
        recovery=recovery.layer_by_layer() if budget is not None and budget.search else recovery,
        budget=budget,
        tune=given["tune"],
        tune_seconds=given["tune_seconds"],
        tune_progress=given["tune_progress"],
    )
    choices.check()
    return choices
