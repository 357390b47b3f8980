"""Validates JSON documents against the schemas of the package, more strictly than they ask: no key they do not name."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema


@cache
def schema(name: str) -> dict[str, Any]:
    """The schema of documents such as "onnxq.report/1"."""
    file = name.removeprefix("onnxq.").replace("/", "-") + ".json"
    return json.loads((files("onnxq") / "schemas" / file).read_text(encoding="utf-8"))


def problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with a document; the schema is the one that it names."""
    strict = _closed(schema(document["schema"]))
    jsonschema.Draft202012Validator.check_schema(strict)
    found = jsonschema.Draft202012Validator(strict).iter_errors(document)
    return [f"{error.json_path}: {error.message[:300]}" for error in found]


def _closed(part: Any) -> Any:
    """Objects whose keys are listed may have no others."""
    if isinstance(part, list):
        return [_closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    closed = {key: _closed(item) for key, item in part.items()}
    open_table = "placement" in closed.get("properties", {})  # tables of targets have all the fields of a Target
    if "properties" in closed and isinstance(closed["properties"], dict) and not open_table:
        closed.setdefault("additionalProperties", False)
    return closed
