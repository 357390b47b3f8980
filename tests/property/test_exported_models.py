"""Models in the forms of exporters (tests/exported_models.py) come out right, whatever the target.

Valid, of the same types and shapes; what no int8 node reaches as it was, the rest near the float model. The only error
is that nothing in the model runs in int8.
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from onnx import ModelProto

from tests.conformance.cases import Case
from tests.conformance.judge import judge
from tests.exported_models import exported_models, feeds_of
from tests.fuzzing import budget
from tests.versions import RUNTIME

FLOOR_DB = 10.0
"""An InstanceNormalization over five values makes much of the noise of the layers before it: two Convs in front and one
behind were seen to have 12 dB. A wrong axis, zero-point or scale leaves less than 10."""


@pytest.mark.parametrize("target", ["ort-x64-vnni", "tensorrt", "openvino", "qnn", "xnnpack"])
@budget(8)
@given(model=exported_models())
def test_static(target: str, model: ModelProto) -> None:
    _check(model, target, "static")


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
@budget(8)
@given(model=exported_models())
def test_other_modes(mode: str, model: ModelProto) -> None:
    _check(model, "ort-x64-vnni", mode)


def _check(model: ModelProto, target: str, mode: str) -> None:
    case = Case("exported", "node", model, tuple(feeds_of(model)))
    verdict = judge(case, target, mode, floor_db=FLOOR_DB, placement="full")
    assume(verdict.outcome != "float fails")
    # onnxruntime 1.23 has no QuantizeLinear of opset 23, nor ConvInteger for int8 weights.
    assume(RUNTIME >= (1, 32) or "NOT_IMPLEMENTED" not in verdict.detail)
    if mode != "static" and "the model is quantized already" in verdict.detail:
        return  # they take no models with pairs
    assert verdict.outcome in ("int8", "nothing"), verdict.detail
