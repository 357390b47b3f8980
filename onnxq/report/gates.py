"""What a user demands of a report beyond its own checks."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated, TypedDict

from onnxq.errors import ConfigError, GateError
from onnxq.keywords import Keyword, complete
from onnxq.report.report import Report
from onnxq.targets import absent_machine
from onnxq.targets.schema import Engine, Target
from onnxq.verification.check import Check
from onnxq.verification.engines import openvino, tensorrt
from onnxq.verification.engines.result import EngineReport, Precision
from onnxq.wording.percent import percent_from

_TELLS_NOTHING = frozenset({Engine.TENSORRT, Engine.NONE})
"""Engines that do not say how they run single nodes."""


class GateKeywords(TypedDict, total=False):
    """What is demanded of the engine's answer."""

    min_int8: Annotated[
        float | str | None,
        Keyword(
            None,
            'A gate: share of the nodes, in percent (50 or "50%"), that the engine must run in int8 or fused into int8 '
            "nodes. A gate that is not met is a failed check of the report.",
        ),
    ]
    require_engine: Annotated[bool, Keyword(False, "A gate: the target's engine must have been asked.")]


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What the user demands; each demand becomes a check of the report.

    Attributes:
        min_sqnr: SQNR that every float output must have on the samples of the report, in dB; None demands nothing.
        min_int8: Share of the nodes that the engine must run in int8 or fused into int8 nodes, in percent; likewise.
        require_engine: Whether the target's engine must have been asked.
    """

    min_sqnr: float | None = None
    min_int8: float | None = None
    require_engine: bool = False

    @classmethod
    def of(cls, options: GateKeywords, *, min_sqnr: float | None) -> Gates:
        """The gates that keywords and an SQNR ask for.

        Raises:
            ConfigError: a value is impossible.
        """
        given = complete(GateKeywords, options)
        if min_sqnr is not None and not math.isfinite(min_sqnr):
            raise ConfigError(f"min_sqnr is {min_sqnr:g}", hint="min_sqnr= (--min-sqnr) is a number of dB.")
        share = None if given["min_int8"] is None else percent_from(given["min_int8"], "min_int8")
        return cls(min_sqnr=min_sqnr, min_int8=share, require_engine=given["require_engine"])

    def check_possible(self, target: Target) -> None:
        """See that the engine of `target` can answer, before any work is done for it.

        Raises:
            ConfigError: it never can.
            GateError: it is not installed.
        """
        if self.min_int8 is not None and target.engine in _TELLS_NOTHING:
            raise ConfigError(
                f"no engine tells how single nodes run for {target.name}, so min_int8= (--min-int8) could not be met",
                hint="leave out min_int8= (--min-int8); min_sqnr= (--min-sqnr) is measured for every target, and "
                "onnxq.plan (onnxq plan) says what is meant for int8",
            )
        if not self.require_engine and self.min_int8 is None:
            return
        if target.engine is Engine.NONE:
            raise ConfigError(
                f"the table of {target.name} names no engine, so none can be asked",
                hint="leave out require_engine= (--require-engine)",
            )
        if self.require_engine and (machine := absent_machine(target.name)) is not None:
            raise GateError(
                f"{target.title} of {machine} cannot be asked on this machine, where kernels of another kind would "
                "answer, and require_engine= (--require-engine) wants it to be asked",
                hint=f"run onnxq.verify (onnxq verify) with that gate on a machine of {machine}, and leave it out here",
            )
        if not _is_installed(target.engine):
            extra = target.engine.value
            gate = "require_engine= (--require-engine)" if self.require_engine else "min_int8= (--min-int8)"
            raise GateError(
                f"{target.title} is not installed here, and {gate} wants it to be asked",
                hint=f"pip install 'onnxq[{extra}]' (from a clone: pip install '.[{extra}]')",
            )

    def applied(self, report: Report, names: Collection[str] = ()) -> Report:
        """`report` with a check for each demand.

        Args:
            report: The report.
            names: Nodes of the float model, those inside If, Loop and Scan by their paths: what quantizing wrote beside
                them is no part of a share. Where the engine knows none of them, all nodes count.
        """
        checks: list[Check] = []
        if self.min_sqnr is not None:
            worst = report.worst_sqnr_db
            detail = "no output is float" if worst is None else f"the worst output has {worst:.1f} dB"
            passed = worst is not None and worst >= self.min_sqnr
            checks.append(Check(name=f"SQNR at least {self.min_sqnr:g} dB", passed=passed, detail=detail))
        if self.min_int8 is not None:
            share = None if report.engine is None else _int8_percent(report.engine, frozenset(names))
            detail = "the engine tells nothing of nodes" if share is None else f"{share:.1f} % of the nodes"
            if share is not None and report.proven_mac_share is not None:
                detail += f", {report.proven_mac_share:.1%} of the arithmetic"
            passed = share is not None and share >= self.min_int8
            checks.append(Check(name=f"int8 nodes at least {self.min_int8:g} %", passed=passed, detail=detail))
        if self.require_engine:
            asked = report.engine is not None
            detail = f"{report.target}'s engine was asked" if asked else f"{report.target}'s engine gave no answer"
            checks.append(Check(name="the engine was asked", passed=asked, detail=detail))
        return replace(report, checks=(*report.checks, *checks)) if checks else report


def _int8_percent(engine: EngineReport, names: Collection[str]) -> float | None:
    """Share of the nodes that run in int8 or fused into such, in percent; None where nothing is told of them."""
    told = [n for n in engine.nodes if n.precision is not Precision.OTHER]
    own = [n for n in told if n.node in names] or told
    if not engine.nodes:
        return None
    return 100 * sum(n.precision in (Precision.INT8, Precision.FUSED) for n in own) / max(1, len(own))


def _is_installed(engine: Engine) -> bool:
    if engine is Engine.OPENVINO:
        return openvino.is_installed()
    return engine is not Engine.TENSORRT or tensorrt.installed_package() is not None
