"""Errors that onnxq raises.

Every user error says what failed, where, and the way out. `InternalError` stands outside the tree on purpose:
a bug in onnxq is never mistaken for a fault of the model or the data.
"""

from __future__ import annotations

from typing import ClassVar


class OnnxqError(Exception):
    """Base of every error caused by input: a model, data, a configuration, an artifact, a gate.

    Args:
        message: What failed, with what was expected and what was found.
        where: The node, tensor, file or batch the failure belongs to.
        hint: The way out, naming the Python argument and the CLI flag.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\nHint: {self.hint}" if self.hint else text


class ConfigError(OnnxqError):
    """An argument, flag or configuration key is unknown or has an impossible value."""

    exit_code = 2


class ModelError(OnnxqError):
    """The model cannot be read, is not valid ONNX, or cannot be run."""


class UnsupportedModelError(ModelError):
    """The model is valid, but onnxq cannot quantize it for this target."""


class DataError(OnnxqError):
    """Calibration or verification data does not fit the model, is empty, or holds NaN/Inf."""


class PlanError(OnnxqError):
    """The requested placement cannot be carried out on this model."""


class ArtifactError(OnnxqError):
    """A statistics file, plan or report is damaged, of another version, or belongs to another model."""


class GateError(OnnxqError):
    """A check that the user asked for (accuracy, int8 coverage) was not met."""

    exit_code = 4


class EngineMissingError(OnnxqError):
    """The engine that should build or answer is not installed."""

    exit_code = 2


class InterruptedRunError(OnnxqError):
    """A signal ended a long run, and what it had done was saved.

    Args:
        signal_number: The signal; the process leaves with 128 + this, as shells count.
    """

    def __init__(self, message: str, *, signal_number: int, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where=where, hint=hint)
        self.signal_number = signal_number


class InternalError(Exception):
    """A broken promise inside onnxq: always a bug, never the user's fault."""

    exit_code: ClassVar[int] = 1
