"""JSON documents as the schemas of this package have them: what is read from a file is compared before it is used."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from typing import Any

_LARGEST_INTEGER = 2**64
"""Counts are far below; larger ones do not go into floats or arrays."""
_LONGEST_SHOWN = 120


def parse_document(text: str) -> Any:
    """What a text in JSON holds: strictly, where Python's reader also takes NaN, numbers beyond floats and half of a
    surrogate pair.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    document = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_integer)
    json.dumps(document, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return document


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number of JSON")
    return number


def _integer(text: str) -> int:
    number = int(text)
    if abs(number) >= _LARGEST_INTEGER:
        raise ValueError(f"a number of {len(text)} digits")
    return number


def schema(name: str) -> dict[str, Any]:
    """The schema of documents such as "onnxq.report/1"."""
    file = name.removeprefix("onnxq.").replace("/", "-") + ".json"
    found: dict[str, Any] = json.loads((files("onnxq") / "schemas" / file).read_text(encoding="utf-8"))
    return found


def problem_of(document: Any, name: str) -> str | None:
    """The place where `document` is least like what the schema `name` ("onnxq.report/1") says; None where it is so."""
    import jsonschema  # noqa: PLC0415 - takes a tenth of a second, which only reading a report should

    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema(name)).iter_errors(document))
    if error is None:
        return None
    # The message begins with the value, which may be all of a report.
    message = error.message if len(error.message) <= _LONGEST_SHOWN else f"...{error.message[-_LONGEST_SHOWN:]}"
    return f"{error.json_path.removeprefix('$').removeprefix('.') or 'it'}: {message}"
