"""Targets of a user's own, from TOML files.

    name = "my-npu"
    base = "tensorrt"             # start from a built-in table and say what differs

    [activation]
    dtype = "uint8"
    symmetric = false

    [compute.Conv]
    min_channels = 8

    [compute]
    Gemm = false                  # the engine has no int8 Gemm

Keys are the fields of `schema.Target`, and of the rules in its tables by operator type. Everything is checked: an
unknown key, a wrong type, an operator that ONNX does not have, and combinations that no plan could follow.
"""

from __future__ import annotations

import difflib
import enum
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnxq.config import read_toml
from onnxq.errors import ConfigError
from onnxq.numerics.qtypes import QTYPES, qtype_from_name
from onnxq.numerics.specs import QuantSpec
from onnxq.targets.schema import HARD_SWISH, BiasForm, ComputeRule, Placement, Target, WeightGuard

BASE = "base"

COMPUTE_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose weight and bias inputs planning knows."""

_SPEC_KEYS = ("dtype", "symmetric", "narrow_range", "bits", "block_size", "power_of_two")
FLAGS = ("symmetric", "narrow_range", "power_of_two")
_ACTIVATION_TYPES = ("int8", "uint8", "int16", "uint16", "float8e4m3fn")
_WEIGHT_TYPES = ("int8", "uint8", "int16", "int4", "uint4", "int2", "uint2", "float8e4m3fn")


def load_target(path: Path, known: Mapping[str, Target]) -> Target:
    """The target in a TOML file.

    Args:
        path: The file.
        known: The built-in targets, which `base` may name and whose names are taken.

    Raises:
        ConfigError: the file cannot be read, or says what it cannot say; the message names the key.
    """
    where = f"target {str(path)!r}"
    return target_from_table(read_toml(path, where=where, hint='lines look like: base = "tensorrt"'), known, where)


def target_from_table(table: Mapping[str, Any], known: Mapping[str, Target], where: str) -> Target:
    """The target that a parsed TOML file describes. Arguments and errors as for `load_target`."""
    reader = _Reader(where)
    given = dict(table)
    base = given.pop(BASE, None)
    if base is not None and base not in known:
        raise reader.wrong(BASE, base, "the name of a built-in target", known)
    start = None if base is None else known[base]
    if "name" not in given:
        raise ConfigError("the key 'name' is missing", where=where, hint='give the target a name: name = "my-npu"')
    given.setdefault("title", given["name"] if start is None else start.title)
    # A rule whose identifiers are not given is the file's own.
    reader = replace(reader, rules=str(given["name"]))
    made: Target = reader.record("", Target, given, start)
    if start is not None and "weight" in given:
        made = replace(made, compute=_with_weight(made.compute, given, reader))
    if start is not None and made.engine is not start.engine and "costs" not in given:
        made = replace(made, costs=None)  # they were measured on the engine of the base
    made = replace(made, float_reasons={op: why for op, why in made.float_reasons.items() if op not in _ruled(made)})
    _check(made, reader)
    if made.name in known and made != known[made.name]:
        raise ConfigError(
            f"name {made.name!r} is that of a built-in target, whose table is another",
            where=where,
            hint="choose a name of your own",
        )
    return made


def _with_weight(
    compute: Mapping[str, ComputeRule], given: Mapping[str, Any], reader: _Reader
) -> dict[str, ComputeRule]:
    """The operators with weights, where the file says something of all weights.

    Forms of their own that they have from the base follow, but for those that are kept whatever a user asks for.
    """

    def follows(op: str, rule: ComputeRule) -> bool:
        return (
            rule.weight is not None and not rule.keeps_weight and "weight" not in given.get("compute", {}).get(op, {})
        )

    return {
        op: replace(rule, weight=reader.spec("weight", given["weight"], rule.weight)) if follows(op, rule) else rule
        for op, rule in compute.items()
    }


# ---- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """Turns values of a TOML file into those of the schema.

    Attributes:
        where: The file, for messages.
        rules: Identifier of rules that have none.
    """

    where: str
    rules: str = ""

    def record(self, path: str, cls: type[Any], given: Any, base: Any, **fixed: Any) -> Any:
        """A dataclass of the schema, from a table; fields that are not given come from `base`, or their defaults."""
        if not isinstance(given, Mapping):
            raise self.wrong(path, given, "a table")
        hints = typing.get_type_hints(cls)
        known = [f.name for f in fields(cls) if f.name not in fixed]
        for key in given:
            if key not in known:
                raise self.wrong_key(joined(path, key), key, [*known, BASE] if cls is Target else known)
        values = {
            key: self.value(joined(path, key), hints[key], value, getattr(base, key, None))
            for key, value in given.items()
        }
        if base is not None:
            return replace(base, **values)
        values = {**fixed, **({"rules": self.rules} if "rules" in known else {}), **values}
        for one in fields(cls):
            if one.name not in values and one.default is MISSING and one.default_factory is MISSING:
                raise ConfigError(
                    f"the key {joined(path, one.name)!r} is missing",
                    where=self.where,
                    hint=f"it is {self.expected(hints[one.name])}"
                    + ("; or start from a built-in table: base = ..." if cls is Target else ""),
                )
        return cls(**values)

    def value(self, path: str, hint: Any, given: Any, base: Any) -> Any:
        """A value of the type that the schema wants."""
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if origin is not None and _is_below(origin, Mapping):
            return self.mapping(path, inner[1], given, base or {})
        if origin in (tuple, frozenset):
            if not isinstance(given, list) or not all(_is(inner[0], item) for item in given):
                raise self.wrong(path, given, self.expected(hint))
            return origin(given)
        if origin in (typing.Union, types.UnionType):
            if given is False and bool not in inner:
                return None
            hint = next(one for one in inner if one is not type(None))
        if hint is QuantSpec:
            return self.spec(path, given, base)
        if is_dataclass(hint):
            return self.record(path, typing.cast("type[Any]", hint), given, base)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            names = [member.value for member in hint]
            if given not in names:
                raise self.wrong(path, given, self.expected(hint), names)
            return hint(given)
        if not _is(hint, given):
            raise self.wrong(path, given, self.expected(hint))
        return float(given) if hint is float else given

    def mapping(self, path: str, hint: Any, given: Any, base: Mapping[str, Any]) -> dict[str, Any]:
        """A table by name, on top of that of `base`; `false` takes an entry out."""
        if not isinstance(given, Mapping):
            raise self.wrong(path, given, "a table")
        merged = dict(base)
        for key, value in given.items():
            if value is False and hint is not bool:
                if key not in base:
                    raise self.not_there(joined(path, key), key, base)
                del merged[key]
            elif is_dataclass(hint):
                cls = typing.cast("type[Any]", hint)
                named = {"op": key} if any(f.name == "op" for f in fields(cls)) else {}
                if named:
                    self.check_operator(path, key)
                merged[key] = self.record(joined(path, key), cls, value, base.get(key), **named)
            else:
                merged[key] = self.value(joined(path, key), hint, value, None)
        return merged

    def spec(self, path: str, given: Any, base: QuantSpec | None) -> QuantSpec:
        """A form of quantization: {dtype, symmetric, narrow_range, ...}."""
        if not isinstance(given, Mapping):
            raise self.wrong(path, given, "a table with dtype, symmetric and narrow_range")
        for key in given:
            if key not in _SPEC_KEYS:
                raise self.wrong_key(joined(path, key), key, _SPEC_KEYS)
        for key in ("dtype", "symmetric"):
            if key not in given and base is None:
                raise ConfigError(f"the key {joined(path, key)!r} is missing", where=self.where)
        values: dict[str, Any] = {key: given[key] for key in FLAGS if key in given}
        for key, value in values.items():
            if not isinstance(value, bool):
                raise self.wrong(joined(path, key), value, "true or false")
        # `false` takes back what the base says.
        values |= {key: None if given[key] is False else given[key] for key in ("bits", "block_size") if key in given}
        if values.get("block_size") is not None:
            values["axis"] = -1  # which one it is depends on the operator
        if "dtype" in given:
            known = (*QTYPES, "fp8")
            if given["dtype"] not in known:
                raise self.wrong(joined(path, "dtype"), given["dtype"], "a type of codes", known)
            values["qtype"] = qtype_from_name(given["dtype"])
        try:
            return replace(base, **values) if base is not None else QuantSpec(**values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error.message}", where=self.where, hint=error.hint) from error

    def expected(self, hint: Any) -> str:
        """What a field of this type holds, in words."""
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if origin in (tuple, frozenset):
            return "a list of integers" if inner[0] is int else "a list of strings"
        if origin in (typing.Union, types.UnionType):
            return self.expected(inner[0])
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return " or ".join(repr(member.value) for member in hint)
        return {str: "a string", bool: "true or false", int: "an integer", float: "a number"}.get(hint, "a table")

    def wrong(self, path: str, given: Any, expected: str, known: Collection[str] = ()) -> ConfigError:
        """The error for a value that the key cannot have."""
        hint = _meant(given, known, f"known: {', '.join(known)}") if known else None
        return ConfigError(f"{path} is {given!r}, expected {expected}", where=self.where, hint=hint)

    def not_there(self, path: str, key: str, known: Collection[str]) -> ConfigError:
        """The error for an entry that cannot be taken out."""
        hint = _meant(key, known, f"there are {', '.join(known) or 'none'}")
        return ConfigError(f"{path} = false takes an entry out that there is not", where=self.where, hint=hint)

    def check_operator(self, key: str, op: str) -> None:
        """See that ONNX has the operator."""
        standard = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
        if op not in standard:
            hint = _meant(op, standard, "operators are those of https://onnx.ai/onnx/operators")
            raise ConfigError(f"{key}: ONNX has no operator {op!r}", where=self.where, hint=hint)

    def wrong_key(self, path: str, key: str, known: Collection[str]) -> ConfigError:
        """The error for a key that there is not."""
        hint = _meant(key, known, f"known keys: {', '.join(known)}")
        return ConfigError(f"unknown key {path!r}", where=self.where, hint=hint)


def _meant(given: Any, known: Collection[str], otherwise: str) -> str:
    """The hint at the name that was probably meant, or what to say where none is near."""
    close = difflib.get_close_matches(str(given), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def _is_below(one: Any, other: type[Any]) -> bool:
    """Whether `one` is a class, and below `other`."""
    return isinstance(one, type) and issubclass(one, other)


def _is(hint: Any, given: Any) -> bool:
    """Whether a value of TOML is of the type; true and false are no integers."""
    return isinstance(given, (int, float) if hint is float else hint) and (hint is bool or not isinstance(given, bool))


def joined(path: str, key: str) -> str:
    """The name of a key inside a table."""
    return f"{path}.{key}" if path else str(key)


# ---- checking ----------------------------------------------------------------------------------------------------


def _ruled(target: Target) -> set[str]:
    """Operators that have a rule."""
    return {*target.compute, *target.elementwise, *target.pass_through}


def _check(target: Target, reader: _Reader) -> None:
    """See that a plan can follow the table.

    Raises:
        ConfigError: it cannot.
    """
    _check_operators(target, reader)
    _check_types(target, reader)
    _check_sources(target, reader)
    regions = target.placement is Placement.REGIONS

    def refuse(key: str, why: str, hint: str) -> None:
        raise ConfigError(f"{key}: {why}", where=reader.where, hint=hint)

    if not target.compute:
        refuse("compute", "the table is empty, so nothing could run in int8", "add [compute.Conv]")
    if regions:
        for key in ("residual_add", "sum_pairs", "concat_shares"):
            if getattr(target, key):
                refuse(key, "has a meaning only for placement = 'inputs'", f"drop {key}, or change placement")
    else:
        for op, rule in target.compute.items():
            if rule.output_quantized:
                key = f"compute.{op}.output_quantized"
                refuse(key, "has a meaning only for placement = 'regions'", "set it to false, or change placement")
        for key in ("elementwise", "taken"):
            if getattr(target, key):
                refuse(key, "has a meaning only for placement = 'regions'", f"drop {key}, or change placement")


def _check_operators(target: Target, reader: _Reader) -> None:
    for key in ("taken", "fused_activations", "float_reasons"):
        for op in sorted(getattr(target, key)):
            reader.check_operator(key, op)
    if other := sorted(target.whole_operators - {HARD_SWISH}):
        raise reader.wrong("whole_operators", other[0], "an operator that onnxq can put together", [HARD_SWISH])
    for op in target.compute:
        if op not in COMPUTE_OPS:
            raise ConfigError(
                f"compute: {op} is no operator whose weights onnxq can quantize",
                where=reader.where,
                hint=f"compute takes {', '.join(COMPUTE_OPS)}; operators without weights belong to elementwise",
            )
    for op in sorted(_ruled(target)):
        tables = [key for key in ("compute", "elementwise", "pass_through") if op in getattr(target, key)]
        if len(tables) > 1:
            raise ConfigError(
                f"{op} stands in {' and in '.join(tables)}", where=reader.where, hint="leave it in one of them"
            )


def _check_sources(target: Target, reader: _Reader) -> None:
    """See that every rule has a source; one without identifier has the target's name."""
    named = {"fusion_rule": target.fusion_rule, "tables": target.tables}
    for key in ("compute", "elementwise", "pass_through", "types"):
        named |= {f"{key}.{name}.rules": rule.rules for name, rule in getattr(target, key).items()}
    for key, rules in named.items():
        if missing := sorted(set(rules.split()) - {*target.sources, *target.name.split()}):
            raise ConfigError(
                f"{key} names {missing[0]!r}, which has no source",
                where=reader.where,
                hint=f'add it to [sources]: {missing[0]} = "where the rule comes from"',
            )


def _check_types(target: Target, reader: _Reader) -> None:
    newest = onnx.defs.onnx_opset_version()
    if not 13 <= target.min_opset <= newest:
        raise ConfigError(
            f"min_opset is {target.min_opset}, expected 13 to {newest}",
            where=reader.where,
            hint="13 is the first with per-channel scales",
        )
    if target.activation.block_size is not None:
        raise ConfigError(
            "activation.block_size: activations have one scale each", where=reader.where, hint="take it out"
        )
    blocks = target.blocks or target.weight.block_size is not None
    if blocks and any(r.bias is BiasForm.INT32 for r in target.compute.values()):
        raise ConfigError(
            "blocks, weight.block_size: an int32 bias needs one scale for each channel of the weight",
            where=reader.where,
            hint="set bias = 'float' in the rules of compute, or take it out",
        )
    if not target.weight.symmetric:
        raise ConfigError(
            "weight.symmetric is False; onnxq writes symmetric weights alone, since the scale of a bias rests on them",
            where=reader.where,
            hint="set it to true",
        )
    for key, spec, others, known in (
        ("activation", target.activation, target.activation_types, _ACTIVATION_TYPES),
        ("weight", target.weight, target.weight_types, _WEIGHT_TYPES),
    ):
        for field, name in ((f"{key}.dtype", spec.qtype.name), *((f"{key}_types", one) for one in sorted(others))):
            if name not in known:
                raise reader.wrong(field, name, f"a type of {key}s", known)
            needed = qtype_from_name(name).min_opset
            # Types that a user has to ask for raise the opset when they do.
            if field.endswith("dtype") and target.min_opset < needed:
                raise ConfigError(
                    f"min_opset is {target.min_opset}, but {name} ({field}) needs opset {needed}",
                    where=reader.where,
                    hint=f"set min_opset = {needed}",
                )
    for key, rule in target.types.items():
        for name in sorted(rule.weight_types - set(_WEIGHT_TYPES)):
            raise reader.wrong(f"types.{key}.weight_types", name, "a type of weights", _WEIGHT_TYPES)
    if target.guard is not WeightGuard.NONE and target.weight.qtype.name != "int8":
        raise reader.wrong("guard", target.guard.value, "'none': only int8 weights can overflow in pairs")
