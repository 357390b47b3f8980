"""The data of a page: a report's JSON form, with the places of the graph's nodes, without digits that nobody sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnxq.report.layered import NODE_HEIGHT, NODE_WIDTH, place
from onnxq.report.wording import codes_of_types, document_codes, stored_of_types

_DIGITS = 6
_SHOWN_CHANNELS = 256
"""Scales of one tensor that a chart can show; of more, so many spread over them."""
_MOST_NODES = 6000
"""Nodes of a graph that a browser draws without trouble."""

_LAYER_KEYS = (
    "node", "op", "decision", "reason", "rule", "macs", "executed", "engine_op", "why", "output", "sqnr_db", "exact",
)  # fmt: skip
_TENSOR_KEYS = (
    "name", "role", "dtype", "axis", "rmin", "rmax", "source", "group", "writer", "readers", "values", "block_size",
    "sqnr_db", "rounding",
)  # fmt: skip
_DEFAULTS: Mapping[str, Any] = {
    "sqnr_db": None,
    "axis": None,
    "group": None,
    "values": None,
    "block_size": None,
    "exact": False,
    "macs": 0,
}


def run_data(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the scripts need of one report.

    Args:
        report: A document of the schema onnxq.report/1, also one of an earlier version with fewer keys.
    """
    codes, stored = document_codes(report)
    labels = _labels(report)
    return {
        "method": report.get("method"),
        "codes": codes,
        "stored": stored,
        "layers": [
            {**_picked(row, _LAYER_KEYS), "codes": labels.get(row["node"], "")} for row in report.get("layers") or ()
        ],
        "tensors": [_tensor(row) for row in report.get("tensors") or ()],
        "graph": _graph(report.get("graph")),
        "sensitivity": report.get("sensitivity"),
    }


def _labels(report: Mapping[str, Any]) -> dict[str, str]:
    """What each node reads, where a model has codes of several types: "int8", "int4" (weights alone)."""
    found: dict[str, dict[str, set[str]]] = {}
    for row in report.get("tensors") or ():
        for node in row.get("readers") or ():
            found.setdefault(node, {}).setdefault(str(row.get("role")), set()).add(str(row["dtype"]))
    return {
        node: codes_of_types(roles["activation"]) if "activation" in roles else stored_of_types(roles["weight"])
        for node, roles in found.items()
        if roles.keys() & {"activation", "weight"}
    }


def _picked(row: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: _short(row.get(key, _DEFAULTS.get(key, ""))) for key in keys}


def _tensor(row: Mapping[str, Any]) -> dict[str, Any]:
    scales = [float(s) for s in row.get("scale") or ()]
    zero_points = list(dict.fromkeys(row.get("zero_point") or ()))
    step = max(1, -(-len(scales) // _SHOWN_CHANNELS))
    shown = scales if len(scales) == 1 else [float(f"{s:.4g}") for s in scales[::step]]
    return {
        **_picked(row, _TENSOR_KEYS),
        "readers": list(row.get("readers") or ()),
        "channels": len(scales),
        "least_scale": _short(min(scales, default=None)),
        "largest_scale": _short(max(scales, default=None)),
        "scale": shown,
        "zero_point": zero_points[:8],
    }


def _graph(graph: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not graph or not graph["nodes"] or len(graph["nodes"]) > _MOST_NODES:
        return None
    nodes, edges = graph["nodes"], graph["edges"]
    # Inputs come first and outputs last; a node inside a loop of names cannot be placed.
    flow = [e for e in edges if e["source"] < e["target"]]
    found = place(len(nodes), [(e["source"], e["target"]) for e in flow])
    return {
        "width": round(found.width),
        "height": round(found.height),
        "box": [NODE_WIDTH, NODE_HEIGHT],
        "nodes": [
            {"name": n["name"], "op": n["op"], "runs": n["runs"], "x": round(x), "y": round(y)}
            for n, (x, y) in zip(nodes, found.centers, strict=True)
        ],
        "edges": [
            {
                "source": e["source"],
                "target": e["target"],
                "tensor": e["tensor"],
                "kind": e["kind"],
                "bends": [[round(x), round(y)] for x, y in bends],
            }
            for e, bends in zip(flow, found.bends, strict=True)
        ],
    }


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, (list, tuple)) else value
