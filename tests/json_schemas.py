"""Validates JSON documents against the schemas of the package, more strictly than they ask: no key they do not name."""

from __future__ import annotations

from typing import Any

import jsonschema

from onnxq.report.checked_document import schema


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
