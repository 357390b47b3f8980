"""What each target's engine says about one quantized model, as checks and as an account of its nodes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from onnxq.errors import EngineMissingError
from onnxq.graph.subgraphs import subgraphs
from onnxq.graph.view import Graph
from onnxq.passes.adapt.settle_types import runnable
from onnxq.passes.simplify.settle_parameters import settle_constants
from onnxq.verification.agreement import Stretch, fused_agreement
from onnxq.verification.check import Check, check_all
from onnxq.verification.compare import SLACK_DB, OutputComparison, OutputError, worse_than
from onnxq.verification.engines import onnxruntime as ort_engine
from onnxq.verification.engines import openvino as openvino_engine
from onnxq.verification.engines import tensorrt as tensorrt_engine
from onnxq.verification.engines.onnxruntime import OrtModel
from onnxq.verification.engines.ort_products import products_check, saturates
from onnxq.verification.engines.result import EngineReport, NodeExecution
from onnxq.verification.engines.tensorrt_run import no_device
from onnxq.verification.lint_tensorrt import Violation, lint_tensorrt
from onnxq.verification.reasons.tensorrt import account
from onnxq.verification.sizes import resized
from onnxq.verification.structure import is_qdq, meant_for_int8, quantizes_by_pairs
from onnxq.verification.subgraphs import Inside, quantized_subgraphs

Feed = Mapping[str, NDArray[Any]]
_NUMBER = re.compile(r"\d+")
"""Engines count what they add to a graph: `ONNXTRT_squeezeTensor_13` in one model is `..._10` in the other."""
_SOUND = "engine's outputs are sound"
_AS_ACCURATE = "engine as accurate as Q/DQ"
_OPENVINO_SLACK_DB = 20.0
"""OpenVINO's ties fall otherwise than Q/DQ's, and the few held-out samples of a saturated softmax then differ by 12 dB
(PP-OCR's angle classifier) where 256 samples differ by 0.3. Kernels that are wrong cost 30 dB (V14)."""
_OPENVINO_SATURATES = (
    "This CPU has no VNNI, and OpenVINO's int8 sums saturate on it (V15). target='openvino-avx2' (--target "
    "openvino-avx2) keeps weights small enough for them."
)

Shapes = Sequence[Mapping[str, tuple[int, ...]]]


@dataclass
class Answer:
    """What one engine said.

    Attributes:
        engine: Its account; None where it is not installed.
        checks: The questions put to it.
        account: How each node runs by the target's rules, where the engine tells nothing of nodes.
        violations: Broken rules of TensorRT.
        stretches: Fused against unfused computation (onnxruntime).
        warnings: Plain sentences about what was not checked.
        meant_inside: Nodes inside subgraphs that the graph shows to be meant for int8.
    """

    engine: EngineReport | None = None
    checks: list[Check] = field(default_factory=list)
    account: tuple[NodeExecution, ...] = ()
    violations: tuple[Violation, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    warnings: list[str] = field(default_factory=list)
    meant_inside: list[str] = field(default_factory=list)


def ask_onnxruntime(quantized: Graph, feeds: Sequence[Feed], *, unsaturated: bool = False) -> Answer:
    """Executed kernels, and fused against unfused computation on the first batch.

    Args:
        quantized: The quantized model.
        feeds: Batches; subgraphs are run on the first that reaches them.
        unsaturated: Whether kernels that do not saturate are taken on any CPU.
    """
    quantized = settle_constants(runnable(quantized.copy()))
    report = ort_engine.executed_precision(quantized.to_model(), base_dir=quantized.base_dir)
    answer = Answer(engine=report)
    answer.stretches = fused_agreement(quantized, feeds[0], unsaturated=unsaturated)
    for inside in quantized_subgraphs(quantized, feeds):
        _ask_inside(answer, inside, unsaturated=unsaturated)
    if (wrong_products := products_check(quantized, report, answer.stretches)) is not None:
        answer.checks.append(wrong_products)
    if not answer.stretches and not quantizes_by_pairs(quantized):
        return answer  # fused and unfused were compared at the outputs
    wrong = [str(s) for s in answer.stretches if not s.agrees]
    answer.checks.append(check_all("fused and unfused agree", wrong, len(answer.stretches), "quantized tensors"))
    return answer


def _ask_inside(answer: Answer, inside: Inside, *, unsaturated: bool) -> None:
    """What onnxruntime makes of a subgraph, asked on its own."""
    report = inside.named(ort_engine.executed_precision(inside.graph.to_model(), base_dir=inside.graph.base_dir))
    answer.meant_inside += [f"{inside.path}/{name}" for name in meant_for_int8(inside.graph)]
    if answer.engine is not None:
        ops = dict(Counter(answer.engine.engine_ops) + Counter(report.engine_ops))
        answer.engine = replace(answer.engine, nodes=(*answer.engine.nodes, *report.nodes), engine_ops=ops)
    if inside.feed is None:
        answer.warnings.append(
            f"{inside.path} was not run: no held-out input comes to it; give samples that do, data= (--data)."
        )
    else:
        answer.stretches += inside.placed(fused_agreement(inside.graph, inside.feed, unsaturated=unsaturated))


def ask_openvino(float_graph: Graph, quantized: Graph, feeds: Sequence[Feed], *, guarded: bool = False) -> Answer:
    """Executed precisions, and OpenVINO's own outputs.

    Args:
        float_graph: The float model.
        quantized: The quantized model.
        feeds: The batches to run it on.
        guarded: Whether its weights are known to be too small to saturate.
    """
    answer = Answer()
    try:
        settled = settle_constants(quantized.copy())
        answer.engine = openvino_engine.executed_precision(settled.to_model(), base_dir=settled.base_dir, feeds=feeds)
    except EngineMissingError as error:
        answer.warnings.append(f"The executed precision is unknown: {error.message}. {error.hint}.")
    else:
        if not answer.engine.accepted:
            refused = openvino_engine.executed_precision(float_graph.to_model(), base_dir=float_graph.base_dir)
            answer.checks.append(_refused(answer.engine, refused, "model compiles"))
            return answer
        answer.checks.append(_accepted(answer.engine, "model compiles"))
        slack_db = _OPENVINO_SLACK_DB if quantizes_by_pairs(quantized) else SLACK_DB
        outputs, blameless = _Outputs.of(float_graph, quantized, answer.engine, feeds), False
        less = "; ".join(outputs.worse(SLACK_DB))
        for check in outputs.checks(slack_db):
            if not check.passed and check.name == _SOUND:
                answer.checks.append(_with_float_model(check, float_graph, feeds))
                blameless = answer.checks[-1].detail != check.detail
            elif not check.passed and blameless:
                detail = f"it computes the float model wrong too, so quantization is not to blame; {check.detail}"
                answer.checks.append(Check(name=check.name, passed=False, detail=detail))
            elif not check.passed:
                answer.checks.append(_unless_float_too(check, outputs, feeds, slack_db))
            elif check.passed and check.name == _AS_ACCURATE and less:
                answer.warnings.append(f"OpenVINO computes some outputs less accurately than their Q/DQ: {less}.")
            else:
                answer.checks.append(check)
        hidden = [s.path for s in subgraphs(quantized)]
        if less and not guarded and saturates():
            answer.warnings.append(_OPENVINO_SATURATES)
        if hidden:
            answer.warnings.append(f"OpenVINO tells nothing of the nodes inside {', '.join(hidden)}.")
        if answer.engine.run_problem:
            answer.warnings.append(f"OpenVINO did not run the model: {answer.engine.run_problem}.")
    return answer


def ask_tensorrt(float_graph: Graph, quantized: Graph, shapes: Shapes, feeds: Sequence[Feed]) -> Answer:
    """The linter, a real build where TensorRT is installed, and the engine's outputs where there is a GPU.

    Args:
        float_graph: The float model, which is built too where the quantized one is refused.
        quantized: The quantized model.
        shapes: Input shapes of every batch, for the optimization profile.
        feeds: The batches to run the engine on.
    """
    settled = settle_constants(quantized.copy())  # TensorRT gets the model as it is, and folds the same
    violations = tuple(lint_tensorrt(settled))
    answer = Answer(violations=violations, account=account(settled, violations))
    answer.checks.append(_rules_check(violations, sum(is_qdq(n) for n in settled.nodes), float_graph))
    try:
        ranges = tensorrt_engine.shape_ranges(quantized, shapes)
        answer.engine = tensorrt_engine.build_engine(
            quantized.to_model(),
            ranges,
            base_dir=quantized.base_dir,
            feeds=() if no_device() else feeds,
        )
    except EngineMissingError as error:
        answer.warnings.append(f"No engine was built: {error.message}. {error.hint}.")
        return answer
    if answer.engine.accepted:
        answer.checks.append(_accepted(answer.engine, "engine builds"))
        answer.checks.extend(_Outputs.of(float_graph, quantized, answer.engine, feeds).checks(SLACK_DB))
        if answer.engine.run_problem:
            answer.warnings.append(
                f"The engine was built but not run: {answer.engine.run_problem}. "
                "Run `onnxq verify` on the machine that will use it."
            )
    else:
        float_ranges = tensorrt_engine.shape_ranges(float_graph, shapes)
        refused = tensorrt_engine.build_engine(float_graph.to_model(), float_ranges, base_dir=float_graph.base_dir)
        answer.checks.append(_refused(answer.engine, refused, "engine builds"))
    return answer


def _accepted(engine: EngineReport, name: str) -> Check:
    if engine.accepted:
        size = f", {engine.size_bytes / 1e6:.1f} MB" if engine.size_bytes else ""
        return Check(name=name, passed=True, detail=f"{engine.engine} {engine.version}{size}")
    return Check(name=name, passed=False, detail=f"{engine.engine} {engine.version}: " + "; ".join(engine.problems[:3]))


def _refused(engine: EngineReport, float_engine: EngineReport, name: str) -> Check:
    """A failed build, and whether the float model fails too: then quantization is not to blame."""
    said = f"{engine.engine} {engine.version}: " + "; ".join(engine.problems[:3])
    if float_engine.accepted:
        detail = f"{said} (the float model builds)"
    elif [_NUMBER.sub("", one) for one in float_engine.problems[:1]] == [
        _NUMBER.sub("", one) for one in engine.problems[:1]
    ]:
        detail = f"the float model is refused in the same way, so quantization is not to blame; {said}"
    else:
        detail = f"{said}; the float model is refused too: {'; '.join(float_engine.problems[:1])}"
    return Check(name=name, passed=False, detail=detail)


def _with_float_model(check: Check, float_graph: Graph, feeds: Sequence[Feed]) -> Check:
    """`check` of a quantized model's outputs, which failed, with word of what OpenVINO makes of the float model."""
    engine = openvino_engine.executed_precision(float_graph.to_model(), base_dir=float_graph.base_dir, feeds=feeds)
    alone = [one for one in _Outputs.of(float_graph, float_graph, engine, feeds).checks(SLACK_DB) if one.name == _SOUND]
    if not any(one.detail == check.detail for one in alone):
        return check
    detail = f"the float model's are not sound either, so quantization is not to blame; {check.detail}"
    return Check(name=check.name, passed=False, detail=detail)


def _unless_float_too(check: Check, outputs: _Outputs, feeds: Sequence[Feed], slack_db: float) -> Check:
    """`check` of a model's accuracy, which failed, with word of OpenVINO being as far off on the float model."""
    graph = outputs.float_graph
    engine = openvino_engine.executed_precision(graph.to_model(), base_dir=graph.base_dir, feeds=feeds)
    alone = _Outputs.of(graph, graph, engine, feeds)
    if outputs.ran is None or alone.ran is None or worse_than(outputs.ran, alone.ran, "", slack_db=slack_db):
        return check
    detail = f"it computes the float model as far off, so quantization is not to blame; {check.detail}"
    return Check(name=check.name, passed=False, detail=detail)


def _rules_check(violations: Sequence[Violation], pairs: int, float_graph: Graph) -> Check:
    """One sentence for each broken rule, however many nodes break it, and whether the float model breaks them too."""
    nodes = len({v.node for v in violations})
    counts = Counter(v.rule for v in violations)
    firsts = {v.rule: v for v in reversed(violations)}
    said = [f"{rule} in {counts[rule]} places, first {firsts[rule]}" for rule in sorted(counts)]
    if not violations or not pairs:
        return check_all("rules of TensorRT", said, pairs, "Q and DQ nodes")
    what = f"{nodes} {'node breaks' if nodes == 1 else 'nodes break'} {', '.join(sorted(counts))}"
    before = set(map(_where, lint_tensorrt(settle_constants(float_graph.copy()))))
    blame = (
        "the float model does so too, so quantization is not to blame; " if before >= {*map(_where, violations)} else ""
    )
    return Check(name="rules of TensorRT", passed=False, detail=f"{blame}{what}: {'; '.join(said)}")


def _where(violation: Violation) -> tuple[str, str]:
    return violation.rule, violation.node


@dataclass(frozen=True)
class _Outputs:
    """Is the engine as close to the float model as the Q/DQ graph is, computed as ONNX defines it?

    Attributes:
        float_graph: The float model.
        ran: Errors of the engine; None where it ran nothing.
        defined: Errors of Q and DQ as ONNX defines them.
    """

    float_graph: Graph
    ran: OutputComparison | None = None
    defined: OutputComparison | None = None

    @classmethod
    def of(cls, float_graph: Graph, quantized: Graph, engine: EngineReport, feeds: Sequence[Feed]) -> _Outputs:
        if not engine.outputs:
            return cls(float_graph)
        float_graph, quantized = runnable(float_graph), runnable(quantized)
        reference = OrtModel(float_graph.to_model(), base_dir=float_graph.base_dir)
        plain = OrtModel(quantized.to_model(), optimised=False, base_dir=quantized.base_dir)
        ran, defined = OutputComparison(), OutputComparison()
        for feed, outputs in zip(feeds, engine.outputs, strict=False):
            want = reference(feed)
            ran.add(want, outputs)
            defined.add(want, plain(feed))
        return cls(float_graph, ran, defined)

    def worse(self, slack_db: float) -> list[str]:
        """A sentence for each output that has so much more noise under the engine."""
        if self.ran is None or self.defined is None:
            return []
        return worse_than(self.ran, self.defined, "computed as ONNX defines it", slack_db=slack_db)

    def checks(self, slack_db: float) -> list[Check]:
        """Whether the engine's outputs are sound, and not worse by more than `slack_db`; none where it ran nothing."""
        if self.ran is None:
            return []
        errors: tuple[OutputError, ...] = self.ran.result()
        unsound = [
            f"output {e.name!r} is not sound as the engine computes it"
            for e in errors
            if not e.is_sound and not resized(self.float_graph, e)
        ]
        return [
            check_all(_SOUND, unsound, len(errors), "outputs"),
            check_all(_AS_ACCURATE, self.worse(slack_db), len(errors), "outputs"),
        ]
