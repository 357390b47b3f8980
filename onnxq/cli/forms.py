"""The options that say what a model is turned into: mode, and form of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from onnxq.cli.parameters import BLOCK_SIZES, MODES, NO_ACTIVATIONS, ROUNDINGS, WEIGHT_FORMATS, WEIGHTS, Name, Size

if TYPE_CHECKING:
    from onnxq.planning.weight_form import FormKeywords


@dataclass(frozen=True, kw_only=True)
class FormOptions:
    """What a model is turned into. Attributes as the options of the same names."""

    mode: str
    weights: str | None
    block_size: int | None
    symmetric: bool | None
    rounding: str | None
    weight_format: str | None
    accuracy_level: int | None

    def keywords(self) -> FormKeywords:
        """In which form the Python API is to store weights, beside their type."""
        return {
            "block_size": self.block_size,
            "symmetric": self.symmetric,
            "rounding": self.rounding,
            "weight_format": self.weight_format,
            "accuracy_level": self.accuracy_level,
        }

    @property
    def needs_ranges(self) -> bool:
        """Whether data are calibrated on."""
        return self.mode == "static"

    def suffix(self, activations: str | None) -> str:
        """What the output is called after the model's own name, with activations of a type (None: the default)."""
        default = "int4" if self.mode == "weight-only" else "int8"
        kind = None if activations == NO_ACTIVATIONS else activations
        return f".{self.weights or kind or default}.onnx"


FORM_OPTIONS = (
    click.option(
        "--mode",
        type=Name(MODES),
        default="static",
        show_default=True,
        help="static: weights and activations, with ranges from data. dynamic: weights, and activations while the "
        "model runs (ONNX Runtime; needs no data). weight-only: weights in few bits, arithmetic in float. "
        "See docs/modes.md.",
    ),
    click.option("--weights", type=Name(WEIGHTS), help="Type of the weights; what there is depends on --mode."),
    click.option(
        "--block-size",
        type=Size([str(size) for size in BLOCK_SIZES]),
        help="weight-only: how many weights share a scale; 0 for all of a channel.  [default: 32, int8: 0]",
    ),
    click.option(
        "--symmetric/--asymmetric",
        default=None,
        help="weight-only: weights without or with zero-points.  [default: symmetric, uint4: asymmetric]",
    ),
    click.option(
        "--rounding",
        type=Name(ROUNDINGS),
        help="weight-only: how codes are chosen; gptq and awq look at samples.  [default: mse]",
    ),
    click.option(
        "--weight-format",
        type=Name(WEIGHT_FORMATS),
        help="weight-only: nbits for onnxruntime's MatMulNBits, qdq for DequantizeLinear.  [default: auto]",
    ),
    click.option(
        "--accuracy-level",
        type=click.IntRange(0, 4),
        metavar="0-4",
        help="weight-only: of MatMulNBits; 4 multiplies in int8, 0 in float32.  [default: 4]",
    ),
)
