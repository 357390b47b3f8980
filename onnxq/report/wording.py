"""Numbers as people read them, the same in the terminal and in HTML."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from onnxq.numerics.qtypes import type_text
from onnxq.report.contents import DataFacts, NodeCounts, TensorRow
from onnxq.verification.compare import OutputError
from onnxq.wording.plural import counted

_SHOWN_REASONS = 5
_SHOWN_SECONDS = 0.05
_NAMED = re.compile(r"(?:\b[A-Z]\w* )?'[^']*'|(?<= is )-?\d+|[\d.]+(?= us\b)")
"""What differs between reasons of one kind: nodes, tensors, the values found and times."""


def codes_of_types(types: Iterable[str]) -> str:
    """Types of activations in a line: "int8", "fp8", "int8 and uint16"."""
    return " and ".join(sorted(set(map(type_text, types)))) or "int8"


def stored_of_types(types: Iterable[str]) -> str:
    """Types of weights in a line; "few-bit" where none is known."""
    return " and ".join(sorted(set(types))) or "few-bit"


def document_codes(report: Mapping[str, Any]) -> tuple[str, str]:
    """What nodes compute on, and what weights alone are stored in, by a document of onnxq.report/1."""
    rows = report.get("tensors") or ()
    return (
        codes_of_types(row["dtype"] for row in rows if row.get("role", "activation") in ("activation", "")),
        stored_of_types(row["dtype"] for row in rows if row.get("role") == "weight"),
    )


def data_text(data: DataFacts) -> str:
    """What was calibrated and compared on, in a line."""
    measured = f"errors measured on {counted(data.held_out_samples, 'sample')} from {data.source}"
    if not data.samples:
        return measured
    calibrated = counted(data.samples, "sample")
    if data.counted_share < 1.0:
        calibrated += f" ({data.counted_share:.1%} of the activations in histograms, all in extremes)"
    if data.providers != ("cpu",):
        calibrated += f" on {', '.join(data.providers)} (whose rounding differs from the CPU's)"
    if data.from_statistics:
        return f"{calibrated} in the given statistics, {measured}"
    if data.held_out_samples >= data.samples:
        return f"{calibrated} from {data.source}, errors measured on the same"
    return f"{calibrated} from {data.source}, errors measured on {data.held_out_samples} held out"


def codes_text(tensors: Iterable[TensorRow]) -> str:
    """What nodes compute on, by the types of their activations: "int8", "fp8", "int8 and uint16"."""
    return codes_of_types(row.dtype for row in tensors if row.role == "activation")


def weights_text(tensors: Iterable[TensorRow]) -> str:
    """What weights are stored in where activations are float: "int4", "int4 and uint4"."""
    return stored_of_types(row.dtype for row in tensors if row.role == "weight")


def counts_text(counts: NodeCounts, codes: str = "int8", stored: str = "few-bit") -> str:
    """How many nodes, and by the way they run, in a line; what there is none of is left out, but for int8 and float.

    Args:
        counts: The nodes.
        codes: What the quantized ones compute on, as `codes_text` says it.
        stored: What weights are stored in, as `weights_text` says it.
    """
    parts = [f"{counts.int8} {codes}", f"{counts.fused} fused into them"]
    if counts.weights:
        weights = f"{counts.weights} in float with {stored} weights"
        parts = [weights] if not counts.int8 and not counts.fused else [*parts, weights]
    others = [f"{counts.other} without float values"] if counts.other else []
    return f"{counted(counts.total, 'node')}: {', '.join([*parts, f'{counts.float} float', *others])}"


def files_text(model: str, data: str | None) -> str:
    """The files that a model was written to."""
    return model if data is None else f"{model} and {data}"


def time_text(seconds: Mapping[str, float]) -> str:
    """How long the steps of a run took, those left out that show no tenth of a second, and all together.

    >>> time_text({"plan": 1.25, "rewrite": 0.01, "compare": 2.0})
    'plan 1.2 s, compare 2.0 s; 3.3 s in all'
    """
    steps = [f"{name} {taken:.1f} s" for name, taken in seconds.items() if taken >= _SHOWN_SECONDS]
    whole = f"{sum(seconds.values()):.1f} s"
    return f"{', '.join(steps)}; {whole} in all" if len(steps) > 1 else ", ".join(steps) or whole


def spread_text(worst_db: float | None, median_db: float | None) -> str:
    """How much the SQNR of single batches differs, behind that of all; "" where they agree to a tenth of a dB.

    Args:
        worst_db: The smallest; None where it is not known.
        median_db: The median; None where it is infinite.
    """
    if worst_db is None or not math.isfinite(worst_db):
        return ""
    median = "exact" if median_db is None or not math.isfinite(median_db) else f"{median_db:.1f}"
    return "" if median == f"{worst_db:.1f}" else f" (of a batch: worst {worst_db:.1f}, median {median})"


def output_text(error: OutputError) -> str:
    """The error of one output in a line."""
    trouble = ""
    if error.nonfinite:
        trouble = f"; {counted(error.nonfinite, 'value')} of NaN or Inf in one model only"
    if error.shape_mismatches:
        trouble += f"; another shape in {counted(error.shape_mismatches, 'batch', 'batches')}"
    if error.sqnr_db is None:
        return f"{error.mismatch_share:.2%} of the values differ{trouble}"
    if math.isinf(error.sqnr_db) and error.sqnr_db > 0:
        return f"equal to float{trouble}"
    spread = spread_text(error.worst_batch_sqnr_db, error.median_batch_sqnr_db)
    return f"SQNR {error.sqnr_db:.1f} dB{spread}, cosine {error.cosine:.5f}, largest error {error.max_abs:.4g}{trouble}"


def recovery_text(report: Mapping[str, Any]) -> str:
    """The steps of recovery of a document of onnxq.report/1, in a line; "" where nothing is known of them."""
    steps = report.get("recovery")
    return "" if steps is None else ", ".join(steps) or "none"


def frequent_reasons(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """The reasons that most nodes share, a line for each, the most frequent first.

    Args:
        rows: Name, operator type and reason of each node.
    """
    first: dict[str, tuple[str, str, str]] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        kind = _NAMED.sub("", row[2])  # the same reason, whatever the neighbours are called
        first.setdefault(kind, row)
        counts[kind] += 1
    shown = []
    for kind, count in counts.most_common(_SHOWN_REASONS):
        node, op, reason = first[kind]
        like = f"like {op} {node!r}: " if kind != reason else ""
        shown.append(f"{count} x {like}{reason}")
    if len(counts) > _SHOWN_REASONS:
        shown.append(f"and {counts.total() - sum(n for _, n in counts.most_common(_SHOWN_REASONS))} more")
    return shown
