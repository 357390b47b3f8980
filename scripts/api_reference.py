"""Writes docs/api.md from the docstrings: `python scripts/api_reference.py`. A test checks for drift."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxq
from onnxq import compat

REFERENCE = Path(__file__).parents[1] / "docs" / "api.md"

_HEAD = """# Python

Made from the docstrings by `python scripts/api_reference.py`; do not edit.

Everything is in `onnxq`. `model` is a path, bytes or an `onnx.ModelProto`; `data` is what [Data](data.md) lists.
Nothing that is passed in is changed. Errors are `onnxq.OnnxqError` with `message`, `where` and `hint`.
"""

_SECTIONS = {
    "Do": (
        "quantize", "plan", "preview", "calibrate", "evaluate", "sensitivity", "verify", "build_engine", "strip",
        "channel_ranges", "load_stats", "register_custom_ops",
    ),
    "Say": ("Data", "ImageOptions", "Override"),
    "Get": (
        "QuantizeResult", "SearchResult", "Report", "QuantPlan", "StatsTable", "Evaluation", "Sensitivity", "Preview",
        "EngineResult", "StripResult",
    ),
    "Errors": (
        "OnnxqError", "ConfigError", "ModelError", "UnsupportedModelError", "DataError", "PlanError", "ArtifactError",
        "GateError", "EngineMissingError", "InterruptedRunError", "InternalError",
    ),
}  # fmt: skip


def reference() -> str:
    """The whole page."""
    listed = {name for names in _SECTIONS.values() for name in names}
    missing = set(onnxq.__all__) - listed - {"__version__"}
    if missing:
        raise LookupError(f"scripts/api_reference.py does not say where {', '.join(sorted(missing))} belong")
    parts = [_HEAD]
    for title, names in _SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [_entry(name, getattr(onnxq, name)) for name in names]
    parts.append("## onnxq.compat\n\nSee [From onnxruntime](from-onnxruntime.md).\n")
    parts += [
        _entry(name, getattr(compat, name), module="onnxq.compat")
        for name in ("quantize_static", "quantize_dynamic", "quant_pre_process")
    ]
    return "\n".join(parts)


def _entry(name: str, thing: Any, *, module: str = "onnxq") -> str:
    lines = [f"### {name}\n"]
    if inspect.isfunction(thing):
        lines.append(_signature(f"{module}.{name}", thing))
    lines.append(_markdown(inspect.getdoc(thing) or ""))
    if inspect.isclass(thing) and not issubclass(thing, BaseException):
        methods = [(n, m) for n, m in vars(thing).items() if not n.startswith("_") and _is_public_method(m)]
        for title, wanted in (("property", True), ("method", False)):
            rows = [f"| `{_call(n, m)}` | {_first_line(m)} |" for n, m in methods if isinstance(m, property) is wanted]
            if rows:
                lines += [f"\n| {title} | |\n| --- | --- |", *rows]
    return "\n".join(lines) + "\n"


def _is_public_method(thing: Any) -> bool:
    return inspect.isfunction(thing) or isinstance(thing, (property, classmethod))


def _call(name: str, method: Any) -> str:
    if isinstance(method, property):
        return name
    function = method.__func__ if isinstance(method, classmethod) else method
    parameters = [p for n, p in inspect.signature(function).parameters.items() if n not in ("self", "cls")]
    names: list[str] = []
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and "*" not in names and not any(n.startswith("*") for n in names):
            names.append("*")
        names.append({p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name)
    return f"{name}({', '.join(names)})"


def _first_line(method: Any) -> str:
    thing = method.__func__ if isinstance(method, classmethod) else method
    text = inspect.getdoc(thing) or ""
    return text.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _signature(name: str, function: Callable[..., Any]) -> str:
    """The call with types and defaults, folded where it is long."""
    parameters = inspect.signature(function).parameters.values()
    rendered: list[str] = []
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and "*" not in rendered and not any(r.startswith("*") for r in rendered):
            rendered.append("*")
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        kind = "" if p.annotation is p.empty else f": {p.annotation}"
        default = "" if p.default is p.empty else f" = {_default(p.default)}"
        rendered.append(f"{stars}{p.name}{kind}{default}")
    flat = f"{name}({', '.join(rendered)})"
    if len(flat) > 100:
        flat = f"{name}(\n    " + ",\n    ".join(rendered) + ",\n)"
    return f"<!-- not run: a signature -->\n```text\n{flat}\n```\n"


def _default(value: Any) -> str:
    return repr(value) if not hasattr(value, "name") else f"{type(value).__name__}.{value.name}"


def _markdown(docstring: str) -> str:
    """Google's sections as tables."""
    parts: list[str] = []
    for block in re.split(r"\n\n(?=(?:Args|Attributes|Returns|Raises):\n)", docstring):
        head, _, body = block.partition(":\n")
        if head in ("Args", "Attributes", "Raises") and body:
            title = {"Args": "argument", "Attributes": "attribute", "Raises": "raises"}[head]
            rows = [f"| `{name}` | {text} |" for name, text in _items(body)]
            parts.append("\n".join([f"| {title} | |", "| --- | --- |", *rows]))
        elif head == "Returns" and body:
            parts.append("Returns: " + " ".join(line.strip() for line in body.splitlines()))
        else:
            parts.append(block)
    return "\n\n".join(parts)


def _items(body: str) -> Iterator[tuple[str, str]]:
    body = inspect.cleandoc(body)
    for item in re.split(r"\n(?=\S)", body):
        name, _, text = item.partition(": ")
        yield name, " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
