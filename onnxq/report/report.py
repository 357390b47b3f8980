"""The report of one quantization or verification: data only; `text` and `html` render it.

The JSON form (`to_json`) has the schema onnxq.report/1: docs/json.md explains it, and schemas/report-1.json of this
package states it. Keys are added within a version, never renamed or removed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxq.report.contents import DataFacts, LayerRow, NodeCounts, TensorRow
from onnxq.report.details import Latency
from onnxq.report.drawing import Drawing
from onnxq.verification.check import Check, gate_error
from onnxq.verification.compare import OutputError
from onnxq.verification.engines.result import EngineReport
from onnxq.verification.lint_tensorrt import Violation
from onnxq.version import VERSION
from onnxq.wording.brief import brief
from onnxq.wording.plural import counted

SCHEMA = "onnxq.report/1"


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of one run. Truthy if it passed.

    Attributes:
        target: Name of the target.
        checks: Every question asked, each with `name`, `passed` and `detail`; a report without checks has not passed.
        method: Calibration method; None where onnxq did not choose the ranges.
        recovery: Steps that won back accuracy, in their order; None where onnxq did not make the model, or the mode has
            no such steps.
        planned: Nodes by the plan; None without a plan.
        proven: Nodes as the engine runs them; None where it was not asked or tells nothing about nodes.
        asked: Nodes as their Q/DQ pairs ask for, where neither plan nor engine tells (TensorRT).
        violations: Broken rules of TensorRT.
        engine: The engine's account.
        int8_mac_share: Share of multiply-accumulates in int8 nodes, 0 to 1; None where shapes are unknown.
        proven_mac_share: That share as the engine runs them; None where it tells nothing of nodes or there is no plan.
        differences: Sentences on what makes the engine's counts others than the plan's.
        size_before_bytes: Size of the float model, external data included.
        size_after_bytes: Size of the quantized one.
        outputs: Distance of each output from the float model's.
        warnings: Plain sentences: what is wrong, and what to do.
        notes: Facts worth knowing (which target was picked, what of the data was left out).
        data: What was measured on; None where no data was used.
        seconds: Time taken, by step.
        output_path: Where the quantized model lies; None if it was not written.
        output_data_path: The file of its weights, where they do not fit into the model's own.
        layers: One row for each node.
        tensors: One row for each quantized tensor.
        model_name: What the quantized model is called.
        quantized_path: Where the quantized model was read; None where it was made in this run or came from memory.
        float_path: Where the float model lies; None where it came from memory.
        options: Keywords of `onnxq.quantize` that differ from their defaults, with JSON's values; under "data" what was
            said of the samples. None where onnxq did not make the model in this run.
        latency: How long runs take; None where it was not measured.
        drawing: The quantized model as a picture, where one was asked for.
        sensitivity: A ranking of layers, in the schema onnxq.sensitivity/1, if one was measured.
    """

    target: str
    checks: tuple[Check, ...]
    method: str | None = None
    recovery: tuple[str, ...] | None = None
    planned: NodeCounts | None = None
    proven: NodeCounts | None = None
    asked: NodeCounts | None = None
    violations: tuple[Violation, ...] = ()
    engine: EngineReport | None = None
    int8_mac_share: float | None = None
    proven_mac_share: float | None = None
    differences: tuple[str, ...] = ()
    size_before_bytes: int = 0
    size_after_bytes: int = 0
    outputs: tuple[OutputError, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    data: DataFacts | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    output_path: str | None = None
    output_data_path: str | None = None
    layers: tuple[LayerRow, ...] = ()
    tensors: tuple[TensorRow, ...] = ()
    model_name: str = ""
    quantized_path: str | None = None
    float_path: str | None = None
    options: Mapping[str, Any] | None = None
    latency: Latency | None = None
    drawing: Drawing | None = None
    sensitivity: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool:
        """Whether every check passed, gates of the user included; what was not checked at all has not passed."""
        return bool(self.checks) and all(c.passed for c in self.checks)

    def __bool__(self) -> bool:
        return self.passed

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        """The checks that did not pass, each with `name` and `detail`."""
        return tuple(c for c in self.checks if not c.passed)

    def raise_if_failed(self) -> None:
        """Raise GateError, which names the failed checks, unless the report passed."""
        if not self.passed:
            raise gate_error(self.failed_checks)

    @property
    def worst_sqnr_db(self) -> float | None:
        """Smallest SQNR of the float outputs in dB; None without float outputs."""
        return min((o.sqnr_db for o in self.outputs if o.sqnr_db is not None), default=None)

    def __repr__(self) -> str:
        return brief(self, *report_in_brief(self))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, in the schema of the module's docstring."""
        return {
            "schema": SCHEMA,
            "passed": self.passed,
            "target": self.target,
            "method": self.method,
            "recovery": None if self.recovery is None else list(self.recovery),
            "output_path": self.output_path,
            "output_data_path": self.output_data_path,
            "planned": _plain(self.planned),
            "proven": _plain(self.proven),
            "asked": _plain(self.asked),
            "violations": [_plain(v) for v in self.violations],
            "engine": _engine(self.engine),
            "int8_mac_share": self.int8_mac_share,
            "proven_mac_share": self.proven_mac_share,
            "differences": list(self.differences),
            "size_before_bytes": self.size_before_bytes,
            "size_after_bytes": self.size_after_bytes,
            "outputs": [{**_plain(o), "exact": o.is_sound and o.mismatch_share == 0.0} for o in self.outputs],
            "checks": [_plain(c) for c in self.checks],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "data": _plain(self.data),
            "seconds": dict(self.seconds),
            "layers": [_plain(row) for row in self.layers],
            "tensors": [_plain(row) for row in self.tensors],
            "model_name": self.model_name,
            "quantized_path": self.quantized_path,
            "float_path": self.float_path,
            "options": None if self.options is None else dict(self.options),
            "latency": _plain(self.latency),
            "graph": _plain(self.drawing),
            "sensitivity": None if self.sensitivity is None else dict(self.sensitivity),
            "version": VERSION,
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as JSON, in the schema of the module's docstring (strict JSON: no NaN, no Infinity)."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_html(self) -> str:
        """The report as one self-contained HTML page."""
        from onnxq.report.html import run_page  # noqa: PLC0415 - only where a page is wanted

        return run_page.render_run(self.to_dict())

    def to_junit(self) -> str:
        """The checks as JUnit XML, for CI servers."""
        from onnxq.report.junit import report_junit  # noqa: PLC0415 - only where it is wanted

        return report_junit(self)

    def to_text(self, *, width: int = 100) -> str:
        """The summary as plain text of at most `width` columns."""
        from onnxq.report import text  # noqa: PLC0415  # rich takes longer to import than the rest of the package

        return text.plain(text.summary(self), width=width)


def report_in_brief(report: Report) -> tuple[str | tuple[int, str] | None, ...]:
    """What matters most of a report, for `wording.brief`."""
    failed, counts, worst = report.failed_checks, report.proven or report.planned or report.asked, report.worst_sqnr_db
    verdict = (
        f"failed ({'; '.join(c.name for c in failed)})" if failed else "passed" if report.passed else "not checked"
    )
    return (
        report.target,
        verdict,
        None
        if counts is None
        else f"{counts.int8 + counts.fused + counts.weights} of {counted(counts.total, 'node')} quantized",
        None if worst is None else f"worst SQNR {worst:.1f} dB",
        (len(report.warnings), "warning"),
    )


def _plain(value: Any) -> Any:
    if value is None:
        return None
    return {key: _finite(item) for key, item in dataclasses.asdict(value).items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _engine(engine: EngineReport | None) -> dict[str, Any] | None:
    if engine is None:
        return None
    return {
        "name": engine.engine,
        "version": engine.version,
        "accepted": engine.accepted,
        "size_bytes": engine.size_bytes,
        "build_seconds": engine.build_seconds,
        "ops": dict(engine.engine_ops),
        "problems": list(engine.problems),
    }
