"""JSON documents as the schemas of this package have them: what is read from a file is compared before it is used.

The keywords of JSON Schema (https://json-schema.org/draft/2020-12) that the schemas use, and no others: type, const,
enum, properties, required, additionalProperties, items, oneOf and references inside the schema.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
_LARGEST_INTEGER = 2**64
"""Counts are far below; larger ones do not go into floats or arrays."""
_LONGEST_SHOWN = 60


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


def problem_of(document: Any, name: str) -> str | None:
    """The first place where `document` is not as the schema `name` ("onnxq.report/1") says; None where it is."""
    file = name.removeprefix("onnxq.").replace("/", "-") + ".json"
    schema = json.loads((files("onnxq") / "schemas" / file).read_text(encoding="utf-8"))
    return next(_problems(document, schema, schema, ""), None)


def _problems(value: Any, part: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
    if "$ref" in part:
        part = root["$defs"][part["$ref"].rpartition("/")[2]]
    if "oneOf" in part:
        if all(any(True for _ in _problems(value, one, root, path)) for one in part["oneOf"]):
            # What is wrong inside tells more than that no choice fits.
            fitting = [one for one in part["oneOf"] if not isinstance(value, dict) or one.get("type") != "null"]
            yield from _problems(value, fitting[0], root, path)
        return
    if "type" in part and not _is_of(value, part["type"]):
        kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
        yield f"{path or 'it'} is {_shown(value)}, expected {' or '.join(kinds)}"
        return
    allowed = [part["const"]] if "const" in part else part.get("enum")
    if allowed is not None and value not in allowed:
        yield f"{path or 'it'} is {_shown(value)}, expected {' or '.join(map(_shown, allowed))}"
    if isinstance(value, dict):
        yield from _problems_of_object(value, part, root, path)
    elif isinstance(value, list) and "items" in part:
        for number, item in enumerate(value):
            yield from _problems(item, part["items"], root, f"{path}[{number}]")


def _problems_of_object(value: dict[str, Any], part: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
    known, others = part.get("properties", {}), part.get("additionalProperties", True)
    for key in part.get("required", ()):
        if key not in value:
            yield f"{path or 'it'} lacks {key!r}"
    for key, item in value.items():
        inside = f"{path}.{key}" if path else key
        if key in known:
            yield from _problems(item, known[key], root, inside)
        elif isinstance(others, dict):
            yield from _problems(item, others, root, inside)


def _is_of(value: Any, kinds: str | list[str]) -> bool:
    if isinstance(kinds, list):
        return any(_is_of(value, one) for one in kinds)
    return isinstance(value, _TYPES[kinds]) and (kinds == "boolean" or not isinstance(value, bool))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
