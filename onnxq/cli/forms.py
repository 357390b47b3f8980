"""The options that say what a model is turned into: mode, and form of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from onnxq.cli.parameters import MODES, WEIGHTS, Name


@dataclass(frozen=True, kw_only=True)
class FormOptions:
    """What a model is turned into. Attributes as the options of the same names."""

    mode: str
    weights: str | None

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of the Python API."""
        return {"mode": self.mode, "weights": self.weights}

    @property
    def needs_ranges(self) -> bool:
        """Whether data are calibrated on."""
        return self.mode == "static"

    def suffix(self, activations: str | None) -> str:
        """What the output is called after the model's own name, with activations of a type (None: the default)."""
        return f".{self.weights or activations or 'int8'}.onnx"


FORM_OPTIONS = (
    click.option(
        "--mode",
        type=Name(MODES),
        default="static",
        show_default=True,
        help="static: weights and activations, with ranges from data. dynamic: weights, and activations while the "
        "model runs (ONNX Runtime; needs no data). See docs/modes.md.",
    ),
    click.option("--weights", type=Name(WEIGHTS), help="Type of the weights; what there is depends on --mode."),
)
