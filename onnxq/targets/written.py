"""Tables of targets written as the TOML files that `custom` reads."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from onnxq.numerics.specs import QuantSpec
from onnxq.targets.custom import FLAGS, joined
from onnxq.targets.schema import Target


def target_to_toml(target: Target) -> str:
    """A complete file that `load_target` turns into an equal target."""
    return "\n".join(_record_lines("", target)) + "\n"


def _record_lines(path: str, record: Any) -> Iterator[str]:
    """The keys of a dataclass, then the tables of those that hold tables; what is as by default is left out."""
    tables: list[str] = []
    for one in fields(record):
        value = getattr(record, one.name)
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        if (one.name == "op" and path) or value is None or value == default:
            continue
        name = joined(path, one.name)
        if isinstance(value, QuantSpec):
            tables += ["", f"[{name}]", *_spec_lines(value)]
        elif is_dataclass(value):
            tables += ["", f"[{name}]", *_record_lines(name, value)]
        elif isinstance(value, Mapping) and (not path or any(map(is_dataclass, value.values()))):
            tables += _mapping_lines(name, value)
        else:
            yield f"{one.name} = {_toml(value)}"
    yield from tables


def _mapping_lines(path: str, table: Mapping[str, Any]) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if not is_dataclass(value)}
    if plain:
        yield from ("", f"[{path}]", *(f"{_key(key)} = {_toml(value)}" for key, value in plain.items()))
    for key, record in table.items():
        if key not in plain:
            name = f"{path}.{_key(key)}"
            yield from ("", f"[{name}]", *_record_lines(name, record))


def _spec_lines(spec: QuantSpec) -> list[str]:
    lines = [f"dtype = {_toml(spec.qtype.name)}", *(f"{key} = {_toml(getattr(spec, key))}" for key in FLAGS[:2])]
    return [*lines, *(f"{key} = {_toml(value)}" for key, value in spec_extras(spec).items())]


def spec_extras(spec: QuantSpec) -> dict[str, Any]:
    """What a form says beyond its type and symmetry, where it says anything."""
    return {key: value for key in ("bits", "block_size", "power_of_two") if (value := getattr(spec, key))}


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _toml(value: Any) -> str:
    """A value as TOML writes it; strings of JSON are strings of TOML."""
    if isinstance(value, enum.Enum):
        return json.dumps(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (frozenset, set)):
        return _toml(sorted(value))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
