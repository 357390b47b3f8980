"""What a sensitivity analysis found: layers by how much each alone moves the outputs.

JSON, schema onnxq.sensitivity/1 (keys are added, never renamed or removed):
    {schema, target, mode, quantize, method, samples, seconds, by, missing, interrupted, digest,
     layers: [{rank, node, op, macs, weights, sqnr_db, equal, cosine, kl}],      the most sensitive layer first
     unmeasured: [{rank, node, op, macs, weights, expected}]}                    behind them: there was no time
An SQNR that is infinite is null: with `equal` no output changes, without it an output became NaN or Inf.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxq.planning.modes import DYNAMIC, STATIC
from onnxq.report.columns import columns
from onnxq.search.distance import Effect
from onnxq.wording.brief import brief
from onnxq.wording.plural import counted

SCHEMA = "onnxq.sensitivity/1"

Quantized = Literal["only", "all-but"]
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
class ExpectedLayer:
    """One layer that was not measured. Attributes as of LayerEffect, and what is expected of it.

    Attributes:
        expected: How much it is expected to hurt, from its own rounding and its place (`expected.py`).
    """

    node: str
    op: str
    macs: int | None
    weights: int
    expected: float


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Layers by what quantizing them does to the outputs.

    Attributes:
        target: Name of the target.
        method: How ranges were chosen; in mode "weight-only" type and rounding of the weights.
        by: What the layers are ranked by.
        samples: Samples measured on.
        layers: The layers that were measured, in graph order.
        mode: What the model is turned into, as for `onnxq.quantize`.
        quantize: "only": each layer alone is quantized; "all-but": all layers but this one are.
        unmeasured: Those that a time limit or an interrupt left out, those first that are expected to hurt most.
        digest: Digest of the float model.
        seconds: Time taken, by step.
        interrupted: Whether an interrupt ended the measurement.
    """

    target: str
    method: str
    by: By
    samples: int
    layers: tuple[LayerEffect, ...]
    mode: str = STATIC
    quantize: Quantized = "only"
    unmeasured: tuple[ExpectedLayer, ...] = ()
    digest: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    interrupted: bool = False

    def __repr__(self) -> str:
        hurts = [f"{self.ranked()[0].node!r} hurts most"] if self.layers else []
        return brief(self, self.target, (len(self.layers), "layer"), *hurts, (self.missing, "layer not measured"))

    def ranked(self) -> list[LayerEffect]:
        """The layers, those that hurt most first: for "all-but" those whose return to float helps most."""
        key = _KEYS[self.by]
        return sorted(self.layers, key=lambda row: key(row.effect), reverse=self.quantize == "all-but")

    @property
    def missing(self) -> int:
        """How many layers were not measured."""
        return len(self.unmeasured)

    def noise(self) -> dict[str, float]:
        """How much each measured layer hurts, by name: at least 0, comparable within this ranking."""
        found = {row.node: _NOISE[self.by](row.effect) for row in self.layers}
        if self.quantize == "only":
            return found
        # What is left without a layer: the less, the more the layer hurts.
        most = max(found.values(), default=0.0)
        return {name: most - left for name, left in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values in the schema of the module's docstring."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "mode": self.mode,
            "quantize": self.quantize,
            "method": self.method,
            "by": self.by,
            "samples": self.samples,
            "missing": self.missing,
            "interrupted": self.interrupted,
            "digest": self.digest,
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
            "unmeasured": [
                {
                    "rank": rank,
                    "node": row.node,
                    "op": row.op,
                    "macs": row.macs,
                    "weights": row.weights,
                    "expected": row.expected,
                }
                for rank, row in enumerate(self.unmeasured, start=len(self.layers) + 1)
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
                *_first_columns(rank, row),
                _db(row.effect.sqnr_db),
                f"{row.effect.cosine:.5f}",
                "" if row.effect.kl is None else f"{row.effect.kl:.2g}",
                "#" * round(_BAR_CHARACTERS * _length(row.effect.sqnr_db)),
            ]
            for rank, row in enumerate(shown, start=1)
        ]
        left = self.unmeasured[: None if top is None else top - len(shown)]
        rows += [[*_first_columns(rank, row), "?", "", "", ""] for rank, row in enumerate(left, start=len(shown) + 1)]
        headings = ["", "layer", "op", "MMACs", "SQNR dB", "cosine", "KL", "noise"]
        lines = [self._title(), "", columns(headings, rows, numbers=[0, 3, 4, 5, 6])]
        more = len(ranked) + self.missing - len(rows)
        if more:
            lines.append(f"and {counted(more, 'more layer')} that matter less")
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines) + "\n"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was not measured."""
        if not self.unmeasured:
            return ()
        why = "interrupted" if self.interrupted else "the time was over"
        return (
            f"{counted(self.missing, 'layer')} not measured: {why}. They come last, in the order "
            f"in which they are expected to hurt, first {self.unmeasured[0].node!r}",
        )

    def to_html(self) -> str:
        """The ranking as one self-contained page with a plot."""
        from onnxq.report.html.run_page import render_part  # noqa: PLC0415 - only where a page is wanted

        return render_part({**self.to_dict(), "warnings": list(self.warnings)}, title=self._title())

    def _title(self) -> str:
        which = "one layer" if self.quantize == "only" else "all layers but one"
        what = f"noise at the model's outputs with {which} quantized"
        how = {STATIC: f"method {self.method}", DYNAMIC: f"mode {DYNAMIC}"}
        form = how.get(self.mode, f"mode {self.mode} ({self.method})")
        return f"{self.target}, {form}: {what}, measured on {counted(self.samples, 'sample')}"


_KEYS: dict[str, Callable[[Effect], float]] = {
    "sqnr": lambda effect: effect.sqnr_db,
    "cosine": lambda effect: effect.cosine,
    # Without a classifier's output all are alike, and the SQNR decides.
    "kl": lambda effect: effect.sqnr_db if effect.kl is None else -effect.kl,
}


_LEAST_DB, _LARGEST_NOISE = -300.0, 1e30


def _power(effect: Effect) -> float:
    """Noise as a share of the signal's power; large where an output became NaN or Inf."""
    return min(math.pow(10.0, -max(effect.sqnr_db, _LEAST_DB) / 10.0), _LARGEST_NOISE)


_NOISE: dict[str, Callable[[Effect], float]] = {
    "sqnr": _power,
    "cosine": lambda effect: 1.0 - effect.cosine,
    "kl": lambda effect: _power(effect) if effect.kl is None else max(0.0, effect.kl),
}


def _first_columns(rank: int, row: LayerEffect | ExpectedLayer) -> list[str]:
    return [str(rank), row.node, row.op, "?" if row.macs is None else f"{row.macs / 1e6:.1f}"]


def _db(sqnr_db: float) -> str:
    return "equal" if sqnr_db == math.inf else f"{sqnr_db:.1f}"


def _length(sqnr_db: float) -> float:
    """Of a bar, 0..1: from no noise to speak of to as much noise as signal."""
    return min(1.0, max(0.0, 1.0 - sqnr_db / _LARGEST_DB))
