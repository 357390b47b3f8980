"""Asks the target's real engine about a quantized model, and measures the distance to the float one.

ort-*     The optimised graph is read back. Float outputs against those of the fused graph; fused against unfused
          computation, stretch by stretch.
tensorrt  Linter for R1 to R12; parsed and built where TensorRT is installed. Float outputs against Q/DQ semantics
          (onnxruntime without optimisations).
openvino  The executed precision is read back where OpenVINO is installed. Float outputs against Q/DQ semantics.

Every question becomes a `Check`, and a check that found nothing to look at fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from onnxq.errors import ConfigError, DataError
from onnxq.graph.subgraphs import subgraphs
from onnxq.graph.view import Graph
from onnxq.passes.settle_types import runnable
from onnxq.plural import counted
from onnxq.verification.agreement import Stretch, fused_agreement
from onnxq.verification.check import Check, check_all
from onnxq.verification.compare import OutputComparison, OutputError
from onnxq.verification.engines import onnxruntime as ort_engine
from onnxq.verification.engines import openvino as openvino_engine
from onnxq.verification.engines import tensorrt as tensorrt_engine
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.result import EngineMissingError, EngineReport, Precision
from onnxq.verification.lint_tensorrt import Violation, lint_tensorrt
from onnxq.verification.structure import MATRIX_OPS, is_qdq, placements
from onnxq.verification.subgraphs import Inside, quantized_subgraphs

Feed = Mapping[str, NDArray[Any]]

_UNFUSED_BATCHES = 8
"""Batches that also run without optimisations: Q and DQ one by one are several times slower than fused."""
_FEEDS_KEPT = 32
"""Batches looked through for one that runs a subgraph (a branch of an If)."""
_SLACK_DB = 3.0
"""Twice the noise power."""
_CLEAN_DB = 60.0
"""Above this, single flipped ties decide the SQNR."""
_MISMATCH_SLACK = 0.02


@dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What verification found. Truthy if every check passed.

    Attributes:
        target: Name of the target.
        checks: Every question asked; never empty.
        engine: The engine's account; None where it is not installed or not asked.
        violations: Broken rules of TensorRT.
        outputs: Distance of each output from the float model's.
        stretches: Fused against unfused computation (onnxruntime targets only).
        warnings: Plain sentences about what was not checked, and what to do.
        batches: Number of batches compared.
        seconds: Time taken, by step.
    """

    target: str
    checks: tuple[Check, ...]
    engine: EngineReport | None = None
    violations: tuple[Violation, ...] = ()
    outputs: tuple[OutputError, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    warnings: tuple[str, ...] = ()
    batches: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.checks) and all(c.passed for c in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if not c.passed)


def verify_model(
    float_graph: Graph,
    quantized_model: ModelProto | Graph,
    feeds: Iterable[Feed],
    target_name: str,
    *,
    expected_int8: Sequence[str] = (),
) -> VerifyResult:
    """Verify a quantized model on the engine it was made for.

    Args:
        float_graph: The float model.
        quantized_model: The quantized model; any Q/DQ model, not only onnxq's own. As a message it may refer only to
            external data in the float model's folder; a graph knows its own folder.
        feeds: Held-out batches: an array for each input. Read once.
        target_name: "ort-...", "tensorrt" or "openvino".
        expected_int8: Names of nodes that must run in int8 (of the plan); empty asks only for what the graph shows.

    Returns:
        The checks, the engine's account and the measured errors.

    Raises:
        ConfigError: no such target.
        DataError: there is no batch, or the models do not have the same outputs.
        ModelError: a model cannot be loaded or run by onnxruntime.
    """
    if not target_name.startswith("ort-") and target_name not in ("tensorrt", "openvino"):
        raise ConfigError(
            f"unknown target {target_name!r}",
            hint="targets are ort-x64-avx2, ort-x64-vnni, ort-arm64, tensorrt and openvino (target=, --target)",
        )
    if isinstance(quantized_model, ModelProto):
        quantized = _typed(Graph(quantized_model, float_graph.base_dir))
    else:
        quantized = _typed(quantized_model.copy())
    measured = _measure(float_graph, quantized, feeds, optimised=target_name.startswith("ort-"))
    started = time.perf_counter()
    if target_name == "tensorrt":
        answer = _ask_tensorrt(quantized, measured.shapes)
    elif target_name == "openvino":
        answer = _ask_openvino(quantized)
    else:
        answer = _ask_onnxruntime(quantized, measured.feeds)
    if answer.engine is not None and answer.engine.nodes:
        answer.checks.append(_int8_check(answer.engine, quantized, expected_int8))
    return VerifyResult(
        target=target_name,
        checks=(*measured.checks, *answer.checks),
        engine=answer.engine,
        violations=answer.violations,
        outputs=measured.outputs,
        stretches=answer.stretches,
        warnings=tuple(answer.warnings),
        batches=measured.batches,
        seconds={"compare": measured.seconds, "engine": time.perf_counter() - started},
    )


@dataclass(frozen=True)
class _Measured:
    outputs: tuple[OutputError, ...]
    checks: tuple[Check, ...]
    feeds: tuple[Feed, ...]
    shapes: tuple[Mapping[str, tuple[int, ...]], ...]
    batches: int
    seconds: float


@dataclass
class _Answer:
    engine: EngineReport | None = None
    checks: list[Check] = field(default_factory=list)
    violations: tuple[Violation, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    warnings: list[str] = field(default_factory=list)


def _typed(graph: Graph) -> Graph:
    inferred = onnx.shape_inference.infer_shapes(graph.skeleton())
    graph.set_value_info(inferred.graph.value_info)
    return graph


def _measure(float_graph: Graph, quantized: Graph, feeds: Iterable[Feed], *, optimised: bool) -> _Measured:
    """Float model against the quantized one, in one pass over the batches."""
    started = time.perf_counter()
    float_graph, quantized = runnable(float_graph), runnable(quantized)
    reference = OrtModel(float_graph.to_model(), base_dir=float_graph.base_dir)
    candidate = OrtModel(quantized.to_model(), optimised=optimised, base_dir=quantized.base_dir)
    unfused = OrtModel(quantized.to_model(), optimised=False, base_dir=quantized.base_dir) if optimised else None
    nested = any(True for _ in subgraphs(quantized))
    comparison, twin, plain = OutputComparison(), OutputComparison(), OutputComparison()
    first: list[Feed] = []
    shapes: list[Mapping[str, tuple[int, ...]]] = []
    for feed in feeds:
        if len(first) < (_FEEDS_KEPT if nested else 1):
            first.append(feed)
        shapes.append({name: tuple(np.shape(value)) for name, value in feed.items()})
        want, got = reference(feed), candidate(feed)
        comparison.add(want, got)
        if unfused is not None and plain.batches < _UNFUSED_BATCHES:
            twin.add(want, got)
            plain.add(want, unfused(feed))
    if not first:
        raise DataError("there is no batch to verify with", hint="pass data with at least one sample (data=, --data)")
    outputs = comparison.result()
    # An output without elements in both models is as it should be, beside others that have some.
    values = any(e.elements for e in outputs)
    unsound = [_unsound(e) for e in outputs if not e.is_sound and not (values and e.is_empty)]
    checks = [check_all("outputs are sound", unsound, len(outputs), "outputs")]
    if unfused is not None:
        worse = _worse_than_unfused(twin.result(), plain.result())
        checks.append(check_all("optimised as accurate as unoptimised", worse, len(outputs), "outputs"))
    return _Measured(
        outputs=outputs,
        checks=tuple(checks),
        feeds=tuple(first),
        shapes=tuple(shapes),
        batches=comparison.batches,
        seconds=time.perf_counter() - started,
    )


def _worse_than_unfused(fused: Sequence[OutputError], unfused: Sequence[OutputError]) -> list[str]:
    """Outputs that onnxruntime's optimisations push away from the float model.

    Flipped ties only re-draw the quantization noise; doubled noise power means that a rewrite changed the function.
    """
    found = []
    for one, other in zip(fused, unfused, strict=True):
        if one.sqnr_db is None or other.sqnr_db is None:
            if one.mismatch_share > other.mismatch_share + _MISMATCH_SLACK:
                found.append(
                    f"{one.name!r} differs in {one.mismatch_share:.1%}, unoptimised in {other.mismatch_share:.1%}"
                )
        elif one.sqnr_db < min(other.sqnr_db, _CLEAN_DB) - _SLACK_DB:
            found.append(f"{one.name!r} has {one.sqnr_db:.1f} dB, unoptimised {other.sqnr_db:.1f} dB")
    return found


def _unsound(error: OutputError) -> str:
    if error.nonfinite:
        return f"output {error.name!r} has {error.nonfinite} values that are NaN or Inf in one model only"
    if error.shape_mismatches:
        return f"output {error.name!r} has another shape in {counted(error.shape_mismatches, 'batch', 'batches')}"
    return f"output {error.name!r} has no values"


def _ask_onnxruntime(quantized: Graph, feeds: Sequence[Feed]) -> _Answer:
    quantized = runnable(quantized)
    answer = _Answer(engine=ort_engine.executed_precision(quantized.to_model(), base_dir=quantized.base_dir))
    answer.stretches = fused_agreement(quantized, feeds[0])
    for inside in quantized_subgraphs(quantized, feeds):
        _ask_inside(answer, inside)
    wrong = [str(s) for s in answer.stretches if not s.agrees]
    answer.checks.append(check_all("fused and unfused agree", wrong, len(answer.stretches), "quantized tensors"))
    return answer


def _ask_inside(answer: _Answer, inside: Inside) -> None:
    """What onnxruntime makes of a subgraph, asked on its own."""
    report = inside.named(ort_engine.executed_precision(inside.graph.to_model(), base_dir=inside.graph.base_dir))
    if answer.engine is not None:
        answer.engine = replace(answer.engine, nodes=(*answer.engine.nodes, *report.nodes))
    if inside.feed is None:
        answer.warnings.append(f"{inside.path} was not run: no held-out input comes to it.")
    else:
        answer.stretches += inside.placed(fused_agreement(inside.graph, inside.feed))


def _ask_tensorrt(quantized: Graph, shapes: tuple[Mapping[str, tuple[int, ...]], ...]) -> _Answer:
    violations = tuple(lint_tensorrt(quantized))
    pairs = sum(is_qdq(n) for n in quantized.nodes)
    answer = _Answer(violations=violations)
    answer.checks.append(check_all("rules of TensorRT", [str(v) for v in violations], pairs, "Q and DQ nodes"))
    try:
        ranges = tensorrt_engine.shape_ranges(quantized, shapes)
        answer.engine = tensorrt_engine.build_engine(quantized.to_model(), ranges, base_dir=quantized.base_dir)
    except EngineMissingError as error:
        answer.warnings.append(f"No engine was built: {error.message}. {error.hint}.")
    else:
        answer.checks.append(_accepted(answer.engine, "engine builds"))
    return answer


def _ask_openvino(quantized: Graph) -> _Answer:
    answer = _Answer()
    try:
        answer.engine = openvino_engine.executed_precision(quantized.to_model(), base_dir=quantized.base_dir)
    except EngineMissingError as error:
        answer.warnings.append(f"The executed precision is unknown: {error.message}. {error.hint}.")
    else:
        answer.checks.append(_accepted(answer.engine, "model compiles"))
    return answer


def _accepted(engine: EngineReport, name: str) -> Check:
    if engine.accepted:
        size = f", {engine.size_bytes / 1e6:.1f} MB" if engine.size_bytes else ""
        return Check(name=name, passed=True, detail=f"{engine.engine} {engine.version}{size}")
    return Check(name=name, passed=False, detail=f"{engine.engine} {engine.version}: " + "; ".join(engine.problems[:3]))


def _int8_check(engine: EngineReport, quantized: Graph, expected: Sequence[str]) -> Check:
    """Do the nodes meant to run in int8 do so? Without a plan: matrix operators whose operands are dequantized."""
    meant = set(expected) or {
        p.node for p in placements(quantized) if p.op in MATRIX_OPS and {0, 1} <= set(p.dequantized)
    }
    ran = {n.node: n for n in engine.nodes}
    bad = [
        f"{ran[name].op} {name!r} runs in float: {ran[name].why}"
        if name in ran
        else f"node {name!r} is not in the model"
        for name in sorted(meant)
        if name not in ran or ran[name].precision is Precision.FLOAT
    ]
    return check_all("int8 nodes run in int8", bad, len(meant), "nodes meant to run in int8")
