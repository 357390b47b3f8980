"""Asks the target's real engine about a quantized model, and measures the distance to the float one.

ort-*     The optimised graph is read back. Float outputs against those of the fused graph; fused against unfused
          computation, stretch by stretch. Where this CPU saturates and the target's does not, by kernels that do not.
tensorrt  Linter for R1 to R12; parsed and built where TensorRT is installed, and run where there is a GPU too. Float
          outputs against Q/DQ semantics (onnxruntime without optimisations).
none      (a target of a user's own) Float outputs against Q/DQ semantics, and nothing else.
openvino  The executed precision is read back where OpenVINO is installed. Float outputs against Q/DQ semantics.

Every question becomes a `Check`, and a check that found nothing to look at fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxq.errors import ConfigError, DataError
from onnxq.graph.model import get_metadata
from onnxq.graph.shapes import infer_shapes
from onnxq.graph.subgraphs import subgraphs
from onnxq.graph.view import Graph
from onnxq.passes.adapt.settle_types import runnable
from onnxq.targets import TARGETS, absent_machine
from onnxq.targets.schema import Engine, WeightGuard
from onnxq.verification.agreement import Stretch
from onnxq.verification.answers import Answer, ask_onnxruntime, ask_openvino, ask_tensorrt
from onnxq.verification.check import Check, check_all
from onnxq.verification.compare import OutputComparison, OutputError, worse_than
from onnxq.verification.engines.ort_products import saturates
from onnxq.verification.engines.result import EngineReport, NodeExecution, Precision
from onnxq.verification.engines.unsigned_codes import takes_unsigned_codes
from onnxq.verification.kernels import kernel_checks
from onnxq.verification.lint_tensorrt import Violation
from onnxq.verification.output_parts import OutputParts
from onnxq.verification.random_outputs import random_warnings
from onnxq.verification.rounding_noise import noise_only
from onnxq.verification.same_outputs import SameOutputs
from onnxq.verification.side_by_side import Loading, check_same_inputs, outputs_of
from onnxq.verification.sizes import resized, resized_warning
from onnxq.verification.structure import dequantizes_weights_alone, quantizes_by_pairs
from onnxq.wording.plural import counted

Feed = Mapping[str, NDArray[Any]]

_NO_ENGINE = (
    "No engine was asked: the table of target {target!r} says engine = 'none'. Outputs alone were compared. "
    "Look on the device what it makes of the model; a table of your own may name an engine, target= (--target "
    "FILE.toml)."
)
_SIMULATED = (
    "No engine was asked: {target} computes in float between pairs of such types, and could only say so. Outputs alone "
    "were compared, with the pairs as they are written."
)
_SATURATES = (
    "This CPU has no VNNI: onnxruntime's int8 kernels saturate on it, which those that {target} is for do not. "
    "{instead} A model to run on this CPU is made for ort-x64-avx2, target= (--target)."
)
_OTHER_MACHINE = (
    "This machine's onnxruntime stood in for that of {machine}: it fuses by the same rules, but {machine}'s kernels "
    "were not asked. `onnxq verify` on a machine of that kind asks them."
)
_STOOD_IN = "Kernels that do not saturate either answered in their place."
_STOOD_IN_OUTSIDE = (
    _STOOD_IN
    + " Inside If, Loop and Scan there are none, so what such nodes give, and whole outputs, were not compared "
    "with Q and DQ as written; their bodies were, alone."
)
_ANSWERED = "They answered all the same, so errors may be larger than there."
_KEPT_BATCHES = 4
_POOR_DB = 10.0
"""Outputs with less are looked at whether they are more than rounding noise in the float model."""
"""Batches that the engine itself is asked about."""
_KEPT_FOR_SUBGRAPHS = 32
"""Batches looked through for one that runs a subgraph (a branch of an If)."""


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What verification found. Truthy if every check passed.

    Attributes:
        target: Name of the target.
        checks: Every question asked; never empty.
        engine: The engine's account; None where it is not installed or not asked.
        account: How each node runs by the target's rules, where its engine tells nothing of nodes (TensorRT).
        violations: Broken rules of TensorRT.
        outputs: Distance of each output from the float model's.
        stretches: Fused against unfused computation (onnxruntime targets only).
        warnings: Plain sentences about what was not checked, and what to do.
        doubts: What is probably wrong with the feeds, if they are real data.
        batches: Number of batches compared.
        seconds: Time taken, by step.
        kept: The first batches, for whoever looks further.
        noise: Outputs that are nothing but rounding noise in the float model: they say nothing of the quantized one.
    """

    target: str
    checks: tuple[Check, ...]
    engine: EngineReport | None = None
    account: tuple[NodeExecution, ...] = ()
    violations: tuple[Violation, ...] = ()
    outputs: tuple[OutputError, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    batches: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    kept: tuple[Feed, ...] = field(default=(), repr=False)
    noise: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.checks) and all(c.passed for c in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if not c.passed)


def verify_model(  # noqa: PLR0913 - both models, the feeds, and who is asked for what
    float_graph: Graph,
    quantized_model: ModelProto | Graph,
    feeds: Iterable[Feed],
    target_name: str,
    *,
    expected_int8: Sequence[str] = (),
    expected_weights: Sequence[str] = (),
    engine: Engine | None = None,
    guard: WeightGuard | None = None,
) -> VerifyResult:
    """Verify a quantized model on the engine it was made for.

    Args:
        float_graph: The float model.
        quantized_model: The quantized model; any Q/DQ model, not only onnxq's own. As a message it may refer only to
            external data in the float model's folder; a graph knows its own folder.
        feeds: Held-out batches: an array for each input. Read once.
        target_name: Name of a target that has an engine; with `engine`, any name.
        expected_int8: Names of nodes that must run in int8 (of the plan); empty asks only for what the graph shows.
        expected_weights: Names of nodes whose weights the engine must read in few bits.
        engine: Who is asked; None leaves that to the target's name.
        guard: What the target's weights are guarded against: without a guard it is for CPUs that do not saturate. None
            leaves that to the target's name.

    Returns:
        The checks, the engine's account and the measured errors.

    Raises:
        ConfigError: no such target.
        DataError: there is no batch, or the models do not have the same outputs.
        ModelError: a model cannot be loaded or run by onnxruntime.
    """
    asked = _engine_of(target_name) if engine is None else engine
    if isinstance(quantized_model, ModelProto):
        quantized = _typed(Graph(quantized_model, float_graph.base_dir))
    else:
        quantized = _typed(quantized_model.copy())
    guarded = (_guard_of(target_name) if guard is None else guard) is not WeightGuard.NONE
    made_for = get_metadata(quantized.frame).get("onnxq.target")
    saturated = asked is Engine.ONNXRUNTIME and not guarded and saturates()
    pairs = quantizes_by_pairs(quantized)
    unsaturated = saturated and (pairs or takes_unsigned_codes(quantized))
    measured = _measure(float_graph, quantized, feeds, optimised=asked is Engine.ONNXRUNTIME, unsaturated=unsaturated)
    started = time.perf_counter()
    if asked is Engine.TENSORRT:
        answer = ask_tensorrt(float_graph, quantized, measured.shapes, measured.kept[:_KEPT_BATCHES])
    elif asked is Engine.OPENVINO:
        answer = ask_openvino(
            float_graph, quantized, measured.kept[:_KEPT_BATCHES], guarded=guarded and made_for == target_name
        )
    elif asked is Engine.ONNXRUNTIME:
        answer = ask_onnxruntime(quantized, measured.kept, unsaturated=unsaturated and pairs)
        if (machine := absent_machine(target_name)) is not None:
            answer.warnings.append(_OTHER_MACHINE.format(machine=machine))
        if saturated and answer.engine is not None and answer.engine.of(Precision.INT8):
            # Kernels of pairs are chosen in the model's own graph alone.
            stood_in = _STOOD_IN_OUTSIDE if pairs and any(True for _ in subgraphs(quantized)) else _STOOD_IN
            instead = stood_in if unsaturated else _ANSWERED
            answer.warnings.append(_SATURATES.format(target=target_name, instead=instead))
    else:
        table = TARGETS.get(target_name)
        said = _NO_ENGINE if table is None or table.engine is Engine.NONE else _SIMULATED
        answer = Answer(warnings=[said.format(target=target_name)])
    if answer.engine is not None and answer.engine.nodes:
        if asked is Engine.OPENVINO:
            hidden = tuple(f"{s.path}/" for s in subgraphs(quantized))
            expected_weights = [node for node in expected_weights if not node.startswith(hidden)]
        answer.checks.extend(
            kernel_checks(answer.engine, quantized, expected_int8, expected_weights, inside=answer.meant_inside)
        )
    return VerifyResult(
        target=target_name,
        checks=(*measured.checks, *answer.checks),
        engine=answer.engine,
        account=answer.account,
        violations=answer.violations,
        outputs=measured.outputs,
        stretches=answer.stretches,
        warnings=(*measured.warnings, *answer.warnings),
        doubts=measured.doubts,
        batches=measured.batches,
        seconds={"compare": measured.seconds, "engine": time.perf_counter() - started},
        kept=measured.kept[:_KEPT_BATCHES],
        noise=measured.noise,
    )


def _engine_of(target_name: str) -> Engine:
    """Who answers for a built-in target.

    Raises:
        ConfigError: there is no such target.
    """
    if target_name.startswith("ort-"):
        return Engine.ONNXRUNTIME
    if target_name in TARGETS and TARGETS[target_name].engine is not Engine.NONE:
        return TARGETS[target_name].engine
    known = ", ".join(name for name, target in TARGETS.items() if target.engine is not Engine.NONE)
    raise ConfigError(f"unknown target {target_name!r}", hint=f"targets are {known} (target=, --target)")


def _guard_of(target_name: str) -> WeightGuard:
    return TARGETS[target_name].guard if target_name in TARGETS else WeightGuard.NONE


@dataclass(frozen=True)
class _Measured:
    outputs: tuple[OutputError, ...]
    checks: tuple[Check, ...]
    kept: tuple[Feed, ...]
    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    batches: int
    warnings: tuple[str, ...]
    doubts: tuple[str, ...]
    seconds: float
    noise: frozenset[str]


def _typed(graph: Graph) -> Graph:
    infer_shapes(graph)
    return graph


def _measure(
    float_graph: Graph, quantized: Graph, feeds: Iterable[Feed], *, optimised: bool, unsaturated: bool
) -> _Measured:
    """Float model against the quantized one, in one pass over the batches."""
    started = time.perf_counter()
    check_same_inputs(float_graph, quantized)
    float_graph, quantized = runnable(float_graph), runnable(quantized)
    models = [Loading(float_graph), Loading(quantized, optimised, unsaturated=unsaturated)]
    if optimised:
        models.append(Loading(quantized, False, unsaturated=unsaturated and not quantizes_by_pairs(quantized)))
    if optimised and dequantizes_weights_alone(quantized):
        # onnxruntime multiplies such weights in int8 by default: not what is to be compared here.
        models.append(Loading(quantized, exact=True, unsaturated=unsaturated))
    nested = any(True for _ in subgraphs(quantized))
    comparison, twin, plain = OutputComparison(), OutputComparison(), OutputComparison()
    parts, faint, same = OutputParts(float_graph), OutputComparison(), SameOutputs(float_graph)
    kept: list[Feed] = []
    shapes: list[Mapping[str, tuple[int, ...]]] = []
    for feed, (want, got, *unfused) in outputs_of(models, feeds):
        if len(kept) < (_KEPT_FOR_SUBGRAPHS if nested else _KEPT_BATCHES):
            kept.append(feed)
        shapes.append({name: tuple(np.shape(value)) for name, value in feed.items()})
        comparison.add(want, got)
        same.add(want)
        faint.add(*parts.of(want, got))
        if unfused:
            twin.add(want, unfused[-1] if len(unfused) > 1 else got)
            plain.add(want, unfused[0])
    if not kept:
        raise DataError("there is no batch to verify with", hint="pass data with at least one sample (data=, --data)")
    outputs = comparison.result()
    poor = [e.name for e in outputs if e.sqnr_db is not None and e.sqnr_db < _POOR_DB and e.peak > 0.0]
    noise = noise_only(float_graph, poor, kept) if poor else frozenset()
    # An output without elements in both models is as it should be, beside others that have some.
    values = any(e.elements for e in outputs)
    unsound = [
        _unsound(e) for e in outputs if not e.is_sound and not (values and e.is_empty) and not resized(float_graph, e)
    ]
    checks = [check_all("outputs are sound", unsound, len(outputs), "outputs")]
    # In bodies onnxruntime saturates all the same on pairs.
    if optimised and not (unsaturated and nested and quantizes_by_pairs(quantized)):
        worse = worse_than(twin, plain, "unoptimised", noise=noise)
        checks.append(check_all("optimised as accurate as unoptimised", worse, len(outputs), "outputs"))
    return _Measured(
        outputs=(*outputs, *faint.errors()),
        checks=tuple(checks),
        kept=tuple(kept),
        shapes=tuple(shapes),
        batches=comparison.batches,
        warnings=(
            *random_warnings(float_graph),
            *(resized_warning(e) for e in outputs if resized(float_graph, e)),
            *(
                f"Output {name!r} of the float model is rounding noise of what it is computed from, or hangs on it: "
                "how far the quantized one is from it says nothing."
                for name in sorted(noise)
            ),
        ),
        doubts=tuple(same.doubts()),
        seconds=time.perf_counter() - started,
        noise=noise,
    )


def _unsound(error: OutputError) -> str:
    if error.nonfinite:
        return f"output {error.name!r} has {counted(error.nonfinite, 'value')} of NaN or Inf in one model only"
    if error.shape_mismatches:
        return f"output {error.name!r} has another shape in {counted(error.shape_mismatches, 'batch', 'batches')}"
    return f"output {error.name!r} has no values"
