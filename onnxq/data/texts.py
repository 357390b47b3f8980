"""Texts as model input, tokenized by the package `tokenizers` (extra `text`) with the model's own tokenizer.json.

.jsonl    an object for each line          .csv, .tsv    the first line names the columns
.txt      a text for each line, column "text"

The model's inputs are filled by their names: input_ids, attention_mask, token_type_ids, position_ids and what exporters
call them. Batches are padded to their longest text; a model with a fixed length gets that length.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.inputs import InputSpecs
from onnxq.errors import ConfigError, DataError

TEXT_SUFFIXES = (".jsonl", ".csv", ".tsv", ".txt")

_ROLES: Mapping[str, str] = {
    "input_ids": "ids", "ids": "ids", "tokens": "ids", "token_ids": "ids", "input": "ids", "inputs": "ids",
    "attention_mask": "mask", "input_mask": "mask", "mask": "mask",
    "token_type_ids": "types", "segment_ids": "types", "input_type_ids": "types",
    "position_ids": "positions",
}  # fmt: skip

_DEFAULT_LENGTH = 512

Row = Mapping[str, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file of texts, one at a time; empty lines are passed over.

    Raises:
        DataError: a line is not what the suffix says.
    """
    csv.field_size_limit(1 << 24)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            suffix = path.suffix.lower()
            if suffix in (".csv", ".tsv"):
                yield from csv.DictReader(stream, delimiter="\t" if suffix == ".tsv" else ",")
                return
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield {"text": line.strip()} if suffix == ".txt" else _object(line, path, number)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not a readable text file: {error}", where=str(path), hint="save it as UTF-8.") from error


def _object(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"line {number} is no JSON: {error}", where=str(path)) from error
    if isinstance(row, str):
        return {"text": row}
    if not isinstance(row, dict):
        raise DataError(f"line {number} is no JSON object", where=str(path), hint='lines look like {"text": "..."}')
    return row


class Tokenizing:
    """Makes feeds of rows.

    Args:
        tokenizer: The tokenizer.json.
        columns: The columns to take: one, or two for pairs; None finds it in each row.
        max_length: Most tokens; None takes what the file says, else 512.
        inputs: What the model expects.

    Raises:
        ConfigError: the file is missing or is no tokenizer.json, or there are more than two columns.
        DataError: `tokenizers` is not installed, or the model has an input that no text can fill.
    """

    def __init__(
        self,
        tokenizer: str | Path,
        columns: str | Sequence[str] | None,
        max_length: int | None,
        inputs: InputSpecs,
    ) -> None:
        self._columns = (columns,) if isinstance(columns, str) else tuple(columns or ())
        if len(self._columns) > 2:
            raise ConfigError(
                f"{len(self._columns)} columns are named", hint="text_column= (--text-column) is one, or two for pairs."
            )
        self._inputs = inputs
        self._roles = {name: _role(name, len(inputs)) for name in inputs}
        self._tokenizer = _loaded(Path(tokenizer))
        self._length = _fixed_length(inputs)
        own = (self._tokenizer.truncation or {}).get("max_length")
        most = min(length for length in (max_length, self._length, None if max_length else own, 10**9) if length)
        self.most = most if most < 10**9 else _DEFAULT_LENGTH
        """Most tokens of a sample."""
        self.cut = 0
        """Texts so far that have more."""
        self._tokenizer.enable_truncation(self.most)
        self._pad = _padding_id(self._tokenizer)
        self._tokenizer.no_padding()

    def feed(self, rows: Sequence[Row], where: str) -> dict[str, NDArray[Any]]:
        """The model's inputs for some rows: int arrays of shape (rows, tokens)."""
        texts = [self._texts(row, where) for row in rows]
        found = self._tokenizer.encode_batch([t if len(t) > 1 else t[0] for t in texts])
        self.cut += sum(bool(one.overflowing) for one in found)
        width = self._length or max(len(one.ids) for one in found)
        parts = {
            "ids": _padded([one.ids for one in found], width, self._pad),
            "mask": _padded([one.attention_mask for one in found], width, 0),
            "types": _padded([one.type_ids for one in found], width, 0),
            "positions": np.broadcast_to(np.arange(width, dtype=np.int64), (len(rows), width)),
        }
        feed = {}
        for name, role in self._roles.items():
            spec = self._inputs[name]
            # Masks of float or bool are common; the values are 0 and 1, so nothing is lost.
            feed[name] = parts[role].astype(spec.dtype)
        return feed

    def _texts(self, row: Row, where: str) -> tuple[str, ...]:
        columns = self._columns or (_text_column(row, where),)
        missing = [name for name in columns if not isinstance(row.get(name), str)]
        if missing:
            raise DataError(
                f"a row has no text in column {missing[0]!r}; it has {', '.join(map(repr, row))}",
                where=where,
                hint="name the column with text_column= (--text-column).",
            )
        return tuple(row[name] for name in columns)


def _text_column(row: Row, where: str) -> str:
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if "text" in texts:
        return "text"
    if len(texts) == 1:
        return texts[0]
    raise DataError(
        f"a row has {'no text' if not texts else 'texts in ' + ', '.join(map(repr, texts))}",
        where=where,
        hint="name the column with text_column= (--text-column), or two of them for pairs: question,context.",
    )


def _role(name: str, inputs: int) -> str:
    role = _ROLES.get(name.lower().removesuffix(":0").rpartition("/")[2].rpartition(".")[2])
    if role is None and inputs == 1:
        return "ids"
    if role is None:
        raise DataError(
            f"a tokenizer does not fill input {name!r}",
            hint="make the inputs of a row yourself: preprocess= (--preprocess FILE.py:FUNCTION).",
        )
    return role


def _fixed_length(inputs: InputSpecs) -> int | None:
    sizes = {spec.shape[1] for spec in inputs.values() if spec.shape is not None and len(spec.shape) == 2}
    fixed = {size for size in sizes if isinstance(size, int)}
    return fixed.pop() if len(fixed) == 1 else None


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> NDArray[np.int64]:
    whole = np.full((len(rows), width), fill, np.int64)
    for line, row in zip(whole, rows, strict=True):
        line[: len(row)] = row
    return whole


def _padding_id(tokenizer: Any) -> int:
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    for token in ("[PAD]", "<pad>", "<|endoftext|>", "</s>"):
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    return 0


def _loaded(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - an optional dependency
    except ImportError as error:
        raise DataError(
            "reading texts needs the package tokenizers, which is not installed", hint="pip install 'onnxq[text]'."
        ) from error
    if not path.is_file():
        raise ConfigError("no such file", where=str(path), hint="check the path in tokenizer= (--tokenizer).")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises plain Exception
        raise ConfigError(
            f"not a tokenizer.json: {error}",
            where=str(path),
            hint="transformers writes one: AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)",
        ) from error
