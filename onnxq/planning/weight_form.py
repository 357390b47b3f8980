"""In which form weights are stored, and how their codes are chosen. Names and defaults, checked."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Annotated, TypedDict

from onnxq.errors import ConfigError
from onnxq.keywords import Keyword, complete
from onnxq.numerics.qtypes import qtype_from_name
from onnxq.numerics.specs import QuantSpec
from onnxq.planning.options import TypeKeywords
from onnxq.planning.plan import TensorPlan

NEAREST, MSE, HQQ, GPTQ, AWQ = "nearest", "mse", "hqq", "gptq", "awq"
ROUNDINGS = (NEAREST, MSE, HQQ, GPTQ, AWQ)
NEED_DATA = frozenset({GPTQ, AWQ})
"""Methods that look at what the weights are multiplied with."""

AUTO, QDQ, NBITS = "auto", "qdq", "nbits"
FORMATS = (AUTO, QDQ, NBITS)

TYPES = ("int4", "uint4", "int8")
SMALLEST_BLOCK = 16

DEFAULT_BLOCK = {"int4": 32, "uint4": 32, "int8": 0}
"""Weights that share a scale; 0 stands for a whole channel."""

FASTEST_LEVEL = 4
"""`accuracy_level` of MatMulNBits: 4 lets it multiply in int8, 1 and 0 in float32."""


class FormKeywords(TypedDict, total=False):
    """In which form mode "weight-only" stores weights, beside their type."""

    block_size: Annotated[
        int | None,
        Keyword(
            None,
            'For mode "weight-only", as are the following four: how many weights share a scale, 16 to 256, or 0 for '
            "all of a channel; 32 for 4 bits, 0 for int8.",
        ),
    ]
    symmetric: Annotated[
        bool | None, Keyword(None, "Whether weights have no zero-point; so for int4 and int8 unless given.")
    ]
    rounding: Annotated[
        str | None,
        Keyword(
            None,
            'How codes are chosen: "nearest", "mse" (the default), "hqq", or with some samples in `data` "gptq" or '
            '"awq".',
        ),
    ]
    weight_format: Annotated[
        str | None,
        Keyword(
            None,
            '"nbits" for onnxruntime\'s MatMulNBits and GatherBlockQuantized, "qdq" for DequantizeLinear; the target '
            "decides unless given.",
        ),
    ]
    accuracy_level: Annotated[
        int | None, Keyword(None, "Of MatMulNBits: 4 (the default) multiplies in int8, 0 in float32.")
    ]


class WeightKeywords(TypeKeywords, FormKeywords, total=False):
    """What says how weights are stored."""


@dataclass(frozen=True, kw_only=True)
class WeightForm:
    """How weights are stored.

    Attributes:
        weights: Type of the codes: "int4", "uint4" or "int8".
        block_size: How many weights in the direction of the sum share a scale; 0 for all of a channel.
        symmetric: Whether there is no zero-point.
        rounding: How codes are chosen: "nearest"; "mse", scales of least squared error; "hqq"; "gptq"; "awq".
        storage: "nbits", operators of onnxruntime; "qdq", DequantizeLinear of ONNX; "auto", as the target wants.
        accuracy_level: Of onnxruntime's MatMulNBits: 0 to 4; None where nothing was said.
    """

    weights: str = "int4"
    block_size: int = 32
    symmetric: bool = True
    rounding: str = MSE
    storage: str = AUTO
    accuracy_level: int | None = None

    @property
    def level(self) -> int:
        """The accuracy level that is written."""
        return FASTEST_LEVEL if self.accuracy_level is None else self.accuracy_level

    @classmethod
    def of(cls, options: WeightKeywords) -> WeightForm:
        """The form that a user means; None stands for the default of what else was said.

        Raises:
            ConfigError: a value is impossible, or they do not go together.
        """
        given = complete(WeightKeywords, options)
        weights = _known(given["weights"] or "int4", TYPES, "weights", "--weights")
        block_size, symmetric, level = given["block_size"], given["symmetric"], given["accuracy_level"]
        form = cls(
            weights=weights,
            block_size=DEFAULT_BLOCK[weights] if block_size is None else checked_block_size(block_size),
            symmetric=weights != "uint4" if symmetric is None else bool(symmetric),
            rounding=_known(given["rounding"] or MSE, ROUNDINGS, "rounding", "--rounding"),
            storage=_known(given["weight_format"] or AUTO, FORMATS, "weight_format", "--weight-format"),
            accuracy_level=level,
        )
        if form.level not in range(5):
            raise ConfigError(
                f"accuracy_level is {level!r}, expected 0 to 4",
                hint="4 multiplies in int8, 0 in float32: accuracy_level= (--accuracy-level)",
            )
        return form

    def spec(self, axis: int) -> QuantSpec:
        """The form of a weight whose sum runs along `axis`, of two."""
        qtype = qtype_from_name(self.weights)
        # A scale of a channel lies along the other axis.
        if not self.block_size:
            return QuantSpec(qtype=qtype, symmetric=self.symmetric, axis=1 - axis)
        return QuantSpec(qtype=qtype, symmetric=self.symmetric, axis=axis, block_size=self.block_size)


def checked_block_size(given: int) -> int:
    """A block size that engines take, or 0.

    Raises:
        ConfigError: it is another one.
    """
    sizes = [2**power for power in range(4, 9)]
    if isinstance(given, bool) or not isinstance(given, Integral) or given not in (0, *sizes):
        raise ConfigError(
            f"block_size is {given!r}, expected {', '.join(map(str, sizes))}, or 0 for a scale for each channel",
            hint="pass block_size=32 (--block-size 32)",
        )
    return int(given)


def _known(given: str, names: Sequence[str], argument: str, flag: str) -> str:
    if given in names:
        return given
    close = difflib.get_close_matches(str(given), names, n=1)
    raise ConfigError(
        f"unknown {argument} {given!r}; known: {', '.join(names)}",
        hint=f"did you mean {argument}={close[0]!r} ({flag} {close[0]})?" if close else f"pass {argument}= ({flag})",
    )


def with_form(
    tensor: TensorPlan,
    weight: str | None = None,
    block_size: int | None = None,
    symmetric: bool | None = None,
    rounding: str | None = None,
) -> TensorPlan:
    """`tensor`, a weight of mode "weight-only", with what is not None changed.

    Raises:
        ConfigError: a value is impossible, or the weight has no blocks.
    """
    spec = tensor.spec
    if weight is not None:
        spec = replace(spec, qtype=qtype_from_name(weight), symmetric=weight != "uint4")
    if symmetric is not None:
        spec = replace(spec, symmetric=symmetric)
    if block_size is not None:
        size = checked_block_size(block_size)
        if spec.axis is None or spec.axis > 1:
            raise ConfigError("it is dequantized in front of its node and has no blocks", hint="drop block_size")
        if bool(size) != (spec.block_size is not None):
            # Blocks run along the sum, scales of channels along the other axis.
            spec = replace(spec, axis=1 - spec.axis, block_size=size or None)
        elif size:
            spec = replace(spec, block_size=size)
    if rounding is not None:
        rounding = _known(rounding, ROUNDINGS, "rounding", "rounding")
    return replace(tensor, spec=spec, rounding=rounding or tensor.rounding)
