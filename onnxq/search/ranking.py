"""What a sensitivity analysis found: layers by how much each alone moves the outputs.

JSON, schema onnxq.sensitivity/1 (keys are added, never renamed or removed):
    {schema, target, method, mode, samples, seconds, by, missing,
     layers: [{rank, node, op, macs, weights, sqnr_db, equal, cosine, kl}]}      the most sensitive layer first
An SQNR that is infinite is null: with `equal` no output changes, without it an output became NaN or Inf.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxq.plural import counted
from onnxq.report.columns import columns
from onnxq.search.distance import Effect

SCHEMA = "onnxq.sensitivity/1"

Mode = Literal["only", "all-but"]
By = Literal["sqnr", "cosine", "kl"]

_BAR_CHARACTERS = 24
_LARGEST_DB = 60.0
"""From here on noise is a thousandth of the signal: the end of the scale of bars."""


@dataclass(frozen=True, kw_only=True)
class LayerEffect:
    """One layer and what it does.

    Attributes:
        node: Name of the node with weights.
        op: Its operator type.
        macs: Multiply-accumulates for one sample; None where open dimensions leave it open.
        weights: Number of weights.
        effect: How far the outputs move.
    """

    node: str
    op: str
    macs: int | None
    weights: int
    effect: Effect


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Layers by what quantizing them does to the outputs.

    Attributes:
        target: Name of the target.
        method: How ranges were chosen.
        mode: "only": each layer alone is quantized; "all-but": all layers but this one are.
        by: What the layers are ranked by.
        samples: Samples measured on.
        layers: The layers in graph order.
        missing: Layers that a time limit or an interrupt left out.
        seconds: Time taken, by step.
    """

    target: str
    method: str
    mode: Mode
    by: By
    samples: int
    layers: tuple[LayerEffect, ...]
    missing: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    def ranked(self) -> list[LayerEffect]:
        """The layers, those that hurt most first: for "all-but" those whose return to float helps most."""
        key = _KEYS[self.by]
        return sorted(self.layers, key=lambda row: key(row.effect), reverse=self.mode == "all-but")

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the schema of the module's docstring."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "method": self.method,
            "mode": self.mode,
            "by": self.by,
            "samples": self.samples,
            "missing": self.missing,
            "seconds": dict(self.seconds),
            "layers": [
                {
                    "rank": rank,
                    "node": row.node,
                    "op": row.op,
                    "macs": row.macs,
                    "weights": row.weights,
                    "sqnr_db": row.effect.sqnr_db if math.isfinite(row.effect.sqnr_db) else None,
                    "equal": row.effect.sqnr_db == math.inf,
                    "cosine": row.effect.cosine,
                    "kl": row.effect.kl,
                }
                for rank, row in enumerate(self.ranked(), start=1)
            ],
        }

    def to_json(self, *, indent: int | None = 2) -> str:
        """The ranking as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_text(self, *, top: int | None = None) -> str:
        """A table with a bar for each layer: longer means that more noise reaches the outputs.

        Args:
            top: Show so many layers; None shows all.
        """
        ranked = self.ranked()
        shown = ranked[:top]
        rows = [
            [
                str(rank),
                row.node,
                row.op,
                "?" if row.macs is None else f"{row.macs / 1e6:.1f}",
                _db(row.effect.sqnr_db),
                f"{row.effect.cosine:.5f}",
                "" if row.effect.kl is None else f"{row.effect.kl:.2g}",
                "#" * round(_BAR_CHARACTERS * _length(row.effect.sqnr_db)),
            ]
            for rank, row in enumerate(shown, start=1)
        ]
        headings = ["", "layer", "op", "MMACs", "SQNR dB", "cosine", "KL", "noise"]
        lines = [self._title(), "", columns(headings, rows, numbers=[0, 3, 4, 5, 6])]
        if len(shown) < len(ranked):
            lines.append(f"and {counted(len(ranked) - len(shown), 'more layer')} that matter less")
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines) + "\n"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not in the ranking."""
        return (f"{counted(self.missing, 'layer')} not measured: the time was over",) if self.missing else ()

    def to_html(self) -> str:
        """The ranking as one self-contained page with a plot."""
        from onnxq.report.html.run_page import render_part  # noqa: PLC0415 - only where a page is wanted

        return render_part({**self.to_dict(), "warnings": list(self.warnings)}, title=self._title())

    def _title(self) -> str:
        what = "each layer alone quantized" if self.mode == "only" else "all layers quantized but one"
        return f"{self.target}, method {self.method}: {what}, measured on {counted(self.samples, 'sample')}"


_KEYS: dict[str, Callable[[Effect], float]] = {
    "sqnr": lambda effect: effect.sqnr_db,
    "cosine": lambda effect: effect.cosine,
    # Without a classifier's output all are alike, and the SQNR decides.
    "kl": lambda effect: effect.sqnr_db if effect.kl is None else -effect.kl,
}


def _db(sqnr_db: float) -> str:
    return "equal" if sqnr_db == math.inf else f"{sqnr_db:.1f}"


def _length(sqnr_db: float) -> float:
    """Of a bar, 0..1: from no noise to speak of to as much noise as signal."""
    return min(1.0, max(0.0, 1.0 - sqnr_db / _LARGEST_DB))
