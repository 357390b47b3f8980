"""What came of one model, and whether that is right.

int8        a quantized model came out: it is valid, onnxruntime loads it, its outputs have the types and shapes of the
            float model's; those that no int8 node reaches are equal to what the float passes give, the others as close
            as int8 is
nothing     nothing in it runs in int8: UnsupportedModelError
refused     another typed error, with its text
float fails onnxruntime, or the engine of the target, does not take the float model itself, and says so
wrong       anything else: another exception, an invalid model, values that are off
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

import onnxq
from onnxq.graph.messages import reads_of
from onnxq.graph.model import is_quantized, load_graph, quantized_nodes
from onnxq.graph.view import Graph
from onnxq.numerics.metrics import sqnr_db
from onnxq.passes.adapt.settle_types import runnable
from onnxq.targets import TARGETS
from onnxq.targets.schema import WeightGuard
from onnxq.verification.engines.unsigned_codes import unsaturated
from onnxq.verification.rounding_noise import noise_only
from tests.conformance.cases import Case

_LARGE_NUMBER = "10003 shares the scale of 0 to 3 (on qnn, which takes Exp and Softmax in int8)"
SHARED_SCALE = {
    "test_logsoftmax_large_number_expanded": _LARGE_NUMBER,
    "test_logsoftmax_large_number_expanded_ver18": _LARGE_NUMBER,
    "test_softmax_large_number": _LARGE_NUMBER,
    "test_softmax_large_number_expanded": _LARGE_NUMBER,
    "test_softmax_large_number_expanded_ver18": _LARGE_NUMBER,
    "test_attention_4d_softcap_neginf_mask_poison_expanded": "a masked row of 1000 shares the scale of the values",
}
"""Tests whose data leave int8 little: the rounding of the largest value is as large as the others, and why."""
FLOORS_DB = {"static": 15.0, "dynamic": 15.0, "weight-only": 10.0}
"""Networks of the tests are up to five layers deep on random data: 8 bits leave more than 15 dB, weights in 4 bits more
than 10; a wrong axis or scale leaves less."""
NOT_TO_BLAME = ("so quantization is not to blame", "the float model is refused too")
"""What a check says where an engine refuses the float model too, or computes it wrong."""
_FOLLOW = "outputs follow the float model's"
_OPTIONS: dict[str, dict[str, Any]] = {"static": {"method": "max", "recover": "none"}}
"""Of a mode, what makes it fast."""


@dataclass(frozen=True)
class Verdict:
    """The outcome for one case: one of the words above, and what there is to say."""

    name: str
    kind: str
    outcome: str
    detail: str = ""


def judge(
    case: Case, target: str = "ort-x64-vnni", mode: str = "static", *, floor_db: float | None = None, **more: Any
) -> Verdict:
    """Quantize `case`, with `more` options, and judge what came out, by FLOORS_DB or a floor of its own."""
    options = _OPTIONS.get(mode, {"mode": mode}) | more
    try:
        result = onnxq.quantize(case.model, list(case.feeds) * 2, target=target, **options)
    except onnxq.UnsupportedModelError as error:
        nothing = error.message.startswith("nothing in this model")
        return Verdict(case.name, case.kind, "nothing" if nothing else "refused", "" if nothing else error.message)
    except onnxq.OnnxqError as error:
        fails = not _float_runs(case)
        return Verdict(case.name, case.kind, "float fails" if fails else "refused", str(error.message))
    except Exception as error:  # finding these is the point
        return Verdict(case.name, case.kind, "wrong", f"{type(error).__name__}: {error}")
    failed = result.report.failed_checks
    if failed and all(any(one in check.detail for one in NOT_TO_BLAME) for check in failed):
        return Verdict(case.name, case.kind, "float fails", failed[0].detail)
    problem = _problem(case, result, FLOORS_DB[mode] if floor_db is None else floor_db, target)
    return Verdict(case.name, case.kind, "int8" if problem is None else "wrong", problem or "")


def _float_runs(case: Case) -> bool:
    try:
        _run(case.model, case.feeds[0])
    except Exception:  # whatever it is, the float model does not run
        return False
    return True


def _run(model: ModelProto, feed: Mapping[str, Any]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    outputs: list[Any] = session.run(None, {k: _value(v) for k, v in feed.items() if k in names})
    return outputs


def _run_or_twin(model: ModelProto, feed: Mapping[str, Any]) -> list[Any]:
    """What `model` gives; where onnxruntime lacks a kernel (Conv in float64), what it gives in float32."""
    try:
        return _run(model, feed)
    except Exception:
        twin = runnable(load_graph(model)).to_model()
        return _run(twin, feed)


def _value(value: Any) -> Any:
    return value if value is None or isinstance(value, list) else np.asarray(value)


def _problem(case: Case, result: onnxq.QuantizeResult, floor_db: float, target: str) -> str | None:
    try:
        onnx.checker.check_model(result.model, full_check=True)
    except Exception as error:
        if _is_valid(case.model):
            return f"not valid: {error}"
    shared = case.name.split(" ")[0] in SHARED_SCALE
    failed = [check for check in result.report.failed_checks if not shared or check.name != _FOLLOW]
    if failed:
        return "; ".join(f"{check.name}: {check.detail}" for check in failed)
    # Pairs of a training are placed anew: where no int8 node reads them they go.
    trained = is_quantized(load_graph(case.model))
    reached = {v.name for v in result.model.graph.output} if trained else _reached(result.model)
    # What is for CPUs with VNNI saturates on one without in mode "dynamic", and is meant to be right there alone.
    elsewhere = TARGETS[target].guard is WeightGuard.NONE
    made = unsaturated(load_graph(result.model)).to_model() if elsewhere else result.model
    for feed in case.feeds:
        try:
            want, got = _run_or_twin(case.model, feed), _run_or_twin(made, feed)
        except Exception as error:
            return f"one of the models does not run: {error}"
        for value, old, new in zip(result.model.graph.output, want, got, strict=True):
            if shared and value.name in reached:
                continue
            found = _difference(old, new, math.inf if value.name not in reached else floor_db)
            if found is not None and value.name not in noise_only(load_graph(case.model), [value.name], [feed]):
                return f"output {value.name!r}: {found}"
    return None


def _is_valid(model: ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:
        return False
    return True


def _reached(model: ModelProto) -> set[str]:
    """Tensors that depend on a quantized one."""
    graph = Graph(model)
    found: set[str] = set()
    quantized = {*quantized_nodes(graph)}
    for node in graph.nodes:
        if node.name in quantized or found.intersection(name for name, _ in reads_of(node)):
            found.update(node.output)
    return found


def _difference(old: Any, new: Any, floor_db: float) -> str | None:
    """What is wrong with `new`, at most; an infinite floor asks for equal values."""
    exact = math.isinf(floor_db)
    if isinstance(old, (list, tuple)):
        if len(old) != len(new):
            return f"{len(new)} elements, not {len(old)}"
        found = (_difference(a, b, floor_db) for a, b in zip(old, new, strict=True))
        return next((f for f in found if f is not None), None)
    if old is None or new is None:
        return None if old is new else f"{new!r}, not {old!r}"
    if old.dtype != new.dtype or old.shape != new.shape:
        return f"{new.dtype}{list(new.shape)}, not {old.dtype}{list(old.shape)}"
    if exact or old.dtype.kind != "f":
        if not exact and old.dtype.kind != "f":
            return None  # classes and counts may turn with int8 values
        same = (
            np.array_equal(old, new, equal_nan=old.dtype.kind in "fc") if old.dtype.kind != "O" else (old == new).all()
        )
        if same:
            return None
        # Float passes reorder products, and what was float16 computes in float32: every operator rounds once less.
        rtol, atol = (2e-2, 2e-2) if old.dtype == np.float16 else (1e-5, 1e-6)
        if old.dtype.kind == "f" and np.allclose(old, new, rtol=rtol, atol=atol, equal_nan=True):
            return None
        return "values differ, though nothing int8 is before them"
    if not old.size:
        return None
    noise = sqnr_db(old.astype(np.float64), new.astype(np.float64))
    return None if noise >= floor_db else f"{noise:.1f} dB"


def summary(verdicts: Sequence[Verdict]) -> dict[tuple[str, str], int]:
    """How many verdicts there are of each kind and outcome."""
    counts: dict[tuple[str, str], int] = {}
    for verdict in verdicts:
        key = (verdict.kind, verdict.outcome)
        counts[key] = counts.get(key, 0) + 1
    return counts
