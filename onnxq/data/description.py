"""`onnxq.Data`: a source of samples together with what has to be said about how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxq.errors import ConfigError
from onnxq.keywords import guesses

Hook = Callable[[Any], Any]


@guesses
@dataclass(frozen=True)
class Data:
    """Samples, and how they are read. Goes wherever data goes: `onnxq.quantize(model, onnxq.Data("clips/", ...))`.

    Attributes:
        source: What `data` takes: a path, an iterable, a CalibrationDataReader, arrays.
        shuffle: Seed of a random order of the samples, in which a limit then takes the first; None keeps their order.
        state: For models that carry a state from step to step: the output that holds the new state, and the input that
            takes it in the next step, such as {"stateN": "state"}. Each sequence starts with the state that the data
            brings, or zeros. See `recurrence`.
        preprocess: What makes model input of a sample: a function, or "FILE.py:FUNCTION". It gets a PIL image, a Sound
            (of a .wav file), a row of a text file as a dict, the Path of any other file, or an item of an iterable. It
            returns an array, {input name: array}, or a list or generator of those: the steps of a sequence.
        tokenizer: For texts: a tokenizer.json of the package `tokenizers`.
        text_column: For texts: the column to take, or two of them for pairs; None takes the one called "text", or the
            only one.
        max_length: For texts: most tokens of a sample; None takes what tokenizer.json says, else 512.
    """

    source: Any
    shuffle: int | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    preprocess: Hook | str | None = None
    tokenizer: str | Path | None = None
    text_column: str | Sequence[str] | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.source, Data):
            raise ConfigError("data within data", hint="onnxq.Data takes a path or an iterable, not another Data.")
        if self.shuffle is not None and (not isinstance(self.shuffle, int) or self.shuffle < 0):
            raise ConfigError(
                f"shuffle is {self.shuffle!r}", hint="shuffle= (--shuffle) is the seed of the order, 0 or more."
            )
        for name in ("text_column", "max_length"):
            if getattr(self, name) is not None and self.tokenizer is None:
                raise ConfigError(
                    f"{name}= (--{name.replace('_', '-')}) serves a tokenizer, and none is given",
                    hint="leave it out, or pass tokenizer= (--tokenizer)",
                )
        if self.max_length is not None and self.max_length < 1:
            raise ConfigError(f"max_length is {self.max_length}", hint="max_length= (--max-length) is 1 token or more.")

    @property
    def recorded(self) -> dict[str, Any]:
        """What shapes the samples beside their source, as far as text can say it; for a model's metadata."""
        said = {name: getattr(self, name) for name in ("shuffle", "max_length", "text_column")}
        return {name: value for name, value in {**said, "state": dict(self.state)}.items() if value not in (None, {})}


def data_from(source: object) -> Data:
    """`source` with what was said about it; a bare source says nothing."""
    return source if isinstance(source, Data) else Data(source)


def bare(source: object) -> Any:
    """The source alone."""
    return source.source if isinstance(source, Data) else source
