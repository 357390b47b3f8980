"""Plans to look at: what would be quantized, why not, and with which parameters as far as they are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxq.graph.model import ModelSource
from onnxq.planning.options import Ends, PlanOptions
from onnxq.planning.overrides import Override
from onnxq.planning.plan import QuantPlan
from onnxq.stages import prepare
from onnxq.targets import ORT_CPU, TargetSource


def plan(  # noqa: PLR0913 - one keyword for each choice of the user
    model: ModelSource,
    *,
    target: TargetSource = ORT_CPU,
    exclude: Sequence[str] = (),
    exclude_ops: Sequence[str] = (),
    exclude_between: Sequence[Ends] = (),
    include: Sequence[str] = (),
    include_ops: Sequence[str] = (),
    include_between: Sequence[Ends] = (),
    overrides: Sequence[Override | Mapping[str, Any]] = (),
) -> QuantPlan:
    """What would be quantized for `target`, and why not, without any data. Arguments as for `quantize`.

    Raises:
        ModelError: the model cannot be read, is not valid, or is quantized already.
        ConfigError: an argument has an impossible value, or names what the model does not have.
    """
    placement = (exclude, exclude_ops, exclude_between, include, include_ops, include_between, overrides)
    return prepare(model, target, PlanOptions.of(*placement)).plan
