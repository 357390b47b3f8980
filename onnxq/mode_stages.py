"""The modes other than "static": from the arguments of `onnxq.quantize` to the stages of a mode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxq.arguments import check_output_is_no_input
from onnxq.calibration.runner import CollectOptions
from onnxq.dynamic_stages import quantize_dynamic
from onnxq.finishing import Request
from onnxq.graph.saving import check_output
from onnxq.modes import DYNAMIC
from onnxq.planning.options import PlanOptions
from onnxq.planning.weight_form import WeightForm
from onnxq.result import QuantizeResult
from onnxq.targets import resolve_target
from onnxq.weight_stages import quantize_weights

_PLACEMENT = (
    "exclude", "exclude_ops", "exclude_between", "include", "include_ops", "include_between", "overrides", "placement",
)  # fmt: skip


def quantize_without_calibration(mode: str, given: Mapping[str, Any], options: str) -> QuantizeResult:
    """Quantize a model in a mode that needs no ranges of activations.

    Args:
        mode: One of `modes.MODES`, but for "static".
        given: The arguments of `onnxq.quantize`, checked.
        options: Those that shape the model, for its metadata.

    Raises:
        OnnxqError: as `onnxq.quantize`.
    """
    output = None if given["output"] is None else Path(given["output"])
    check_output_is_no_input(output, data=given["data"])
    if output is not None:
        check_output(output, force=given["force"])
    target, note = resolve_target(given["target"])
    wanted: dict[str, Any] = {name: given[name] for name in _PLACEMENT}
    request = Request(
        model=given["model"],
        data=given["data"],
        target=target,
        target_note=note,
        wanted=PlanOptions.of(**wanted),
        batch_size=given["batch_size"],
        limit=given["limit"],
        layout=given["layout"],
        images=given["images"],
        collecting=CollectOptions(threads=given["threads"], providers=given["providers"]),
        output=output,
        force=given["force"],
        options=options,
        progress=given["progress"],
        details=given["details"],
    )
    if mode == DYNAMIC:
        return quantize_dynamic(request)
    form = WeightForm.of(
        given["weights"],
        given["block_size"],
        given["symmetric"],
        given["rounding"],
        given["weight_format"],
        given["accuracy_level"],
    )
    return quantize_weights(request, form)
