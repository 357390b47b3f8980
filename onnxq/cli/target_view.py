"""Targets as tables for a person and as JSON. Imports numpy: only `onnxq targets` itself may import this module.

JSON (onnxq.targets/1): {schema, targets: [{name, title, placement, engine, ...}]}: the fields of
`targets.schema.Target`, with types by name.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from onnxq.numerics.qtypes import QType
from onnxq.numerics.specs import QuantSpec
from onnxq.targets import ORT_CPU, resolve_target
from onnxq.targets.schema import Target
from onnxq.targets.written import spec_extras

_SOURCES = (
    "Sources: run (seen on the engine), src (read in its source), doc (the vendor's documentation); docs/targets.md "
    "explains every rule of the built-in targets."
)


def list_table(targets: Iterable[Target]) -> RenderableType:
    """One line for each target."""
    table = _table("Targets", ("name", "engine", "Q/DQ on", "activations", "weights"))
    for one in targets:
        table.add_row(
            one.name, one.title, one.placement.value, _form(one.activation), f"{_form(one.weight)}, per channel"
        )
    means = resolve_target(ORT_CPU)[0].name
    return Group(
        table,
        Text(f"{ORT_CPU} means {means} on this machine. `onnxq targets NAME` shows a table, with --toml as a file."),
    )


def target_table(target: Target) -> RenderableType:
    """All that a table says."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in _facts(target):
        facts.add_row(name, escape(text))
    parts: list[RenderableType] = [Text(f"{target.name}: {target.title}", style="bold"), facts]
    for heading, rules in (
        ("Operators with weights", target.compute),
        ("Operators on codes", target.elementwise),
        ("Operators that keep parameters", target.pass_through),
        ("Activations of other types", target.types),
    ):
        if rules:
            parts += [Text(""), _rules(heading, rules, target)]
    if target.float_reasons:
        table = _table("Operators that stay float", ("op", "why"))
        for op, why in target.float_reasons.items():
            table.add_row(op, escape(why))
        parts += [Text(""), table]
    if target.sources:
        table = _table("Sources", ("rule", "source"))
        for rule, source in target.sources.items():
            table.add_row(escape(rule), escape(source))
        parts += [Text(""), table, Text(_SOURCES)]
    return Group(*parts)


def _facts(target: Target) -> Iterable[tuple[str, str]]:
    shown = {"name", "title", "compute", "elementwise", "pass_through", "types", "float_reasons", "sources"}
    for one in fields(target):
        value = getattr(target, one.name)
        if one.name in shown or value in (frozenset(), "", False, None):
            continue
        yield one.name, _form(value) if isinstance(value, QuantSpec) else _text(value)


def _rules(heading: str, rules: Mapping[str, Any], target: Target) -> Table:
    table = _table(heading, ("op", "conditions", "rule", "source"))
    for op, rule in rules.items():
        conditions = "; ".join(
            f"{one.name} {_text(getattr(rule, one.name))}"
            for one in fields(rule)
            if one.name not in ("op", "rules") and getattr(rule, one.name) not in ((), 0, None, False, {}, "")
        )
        sources = dict.fromkeys(target.sources.get(identifier, "?") for identifier in rule.rules.split())
        table.add_row(op, escape(conditions), escape(rule.rules), escape("; ".join(sources)))
    return table


def _form(spec: QuantSpec) -> str:
    parts = [spec.label, "symmetric" if spec.symmetric else "asymmetric"]
    parts += ["narrow range"] if spec.narrow_range else []
    parts += ["scales are powers of two"] if spec.power_of_two else []
    parts += [f"blocks of {spec.block_size}"] if spec.block_size is not None else []
    return ", ".join(parts)


def _text(value: Any) -> str:
    if is_dataclass(value):
        return f"{getattr(value, 'source', '')} (--toml prints it)".strip()
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_text(item)}" for key, item in value.items())
    if isinstance(value, (tuple, frozenset)):
        return ", ".join(map(str, sorted(value)))
    return str(value)


def target_document(target: Target) -> dict[str, Any]:
    """A table as plain values."""
    return {one.name: _plain(getattr(target, one.name)) for one in fields(target)}


def _plain(value: Any) -> Any:
    if isinstance(value, QType):
        return value.name
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, QuantSpec):
        form = {"dtype": value.qtype.name, "symmetric": value.symmetric, "narrow_range": value.narrow_range}
        return {**form, **spec_extras(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, frozenset)):
        return sorted(value)
    return value


def _table(title: str, headings: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
