"""Keyword arguments that several functions take, each declared once.

A group is a TypedDict (PEP 692) whose keys say type, default and meaning:

    class ReadingKeywords(TypedDict, total=False):
        batch_size: Annotated[int | None, Keyword(None, "Samples to feed at once.")]

    @takes(ReadingKeywords)
    def preview(model, data, **options: Unpack[ReadingKeywords]): ...

Groups are put together by inheritance. Where values are needed, `complete` gives those of one group, defaults included.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import os
import re
import reprlib
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from onnxq.errors import ConfigError

Function = TypeVar("Function", bound=Callable[..., Any])
Taker = TypeVar("Taker", bound=Callable[..., Any])
Group = TypeVar("Group", bound=Mapping[str, object])

_OPTIONS_ITEM = re.compile(r"^ {4}options: .*(\n {8}.*)*", re.MULTILINE)
_wrapped = functools.partial(
    textwrap.fill, width=116, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False
)


@dataclass(frozen=True)
class Keyword:
    """What is to be known of a keyword beside its type.

    Attributes:
        default: Its value unless given.
        meaning: What it says, as in the section Args of a docstring.
    """

    default: Any
    meaning: str


def keywords_of(group: type) -> dict[str, Keyword]:
    """The keywords of a group, inherited ones included."""
    return {name: hint.__metadata__[0] for name, hint in get_type_hints(group, include_extras=True).items()}


def defaults_of(group: type) -> dict[str, Any]:
    """The default of each keyword of a group."""
    return {name: keyword.default for name, keyword in keywords_of(group).items()}


def complete(group: type[Group], given: Group) -> Group:
    """The keywords of `group` among those that were given, and the defaults of the others."""
    return cast("Group", {name: given.get(name, default) for name, default in defaults_of(group).items()})


def takes(group: type) -> Callable[[Function], Function]:
    """A decorator for a function whose last parameter, `**options`, are the keywords of `group`.

    Other keywords are refused, as Python itself would, with the one that was meant, and values of a wrong type as
    ConfigError. The signature shows every keyword, and so does the docstring in place of its item `options`.
    """

    def decorate(function: Function) -> Function:
        signature = _signature(function, group)
        known = signature.parameters
        own = get_type_hints(function, localns={"Unpack": list})  # imported for type checkers only
        named = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        hints = {name: own[name] for name in named} | get_type_hints(group)

        @functools.wraps(function)
        def checked(*args: Any, **given: Any) -> Any:
            for name, value in given.items():
                if name not in known:
                    raise TypeError(_unknown(name, function.__name__, list(known)))
                if name in hints:
                    check_type(name, value, hints[name])
            return function(*args, **given)

        checked.__doc__ = _documented(function.__doc__, keywords_of(group))
        checked.__signature__ = signature  # type: ignore[attr-defined]  # where `inspect.signature` looks
        return cast("Function", checked)

    return decorate


def guesses(what: Taker) -> Taker:
    """A decorator for a function or class that takes no groups: an unknown keyword is refused with the one meant."""
    function: Any = what.__init__ if isinstance(what, type) else what  # type: ignore[misc]  # of this very class
    known = list(inspect.signature(what).parameters)

    @functools.wraps(function)
    def checked(*args: Any, **given: Any) -> Any:
        for name in given:
            if name not in known:
                raise TypeError(_unknown(name, what.__name__, known, f"it takes {', '.join(known)}"))
        return function(*args, **given)

    if not isinstance(what, type):
        return cast("Taker", checked)
    type.__setattr__(what, "__init__", checked)
    return what


def check_type(name: str, value: object, hint: Any) -> None:
    """See that the value of an argument has its type, as far as that can be seen at once: of items, only strings.

    Args:
        name: The argument.
        value: What was given. numpy's numbers are numbers; True and False are none.
        hint: The type: classes, literals, paths, sequences, mappings, functions, unions of them. Any other takes
            everything, and so does a union with one.

    Raises:
        ConfigError: it has another type.
    """
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [_kind(part) for part in parts]
    if all(kind is not None for kind in kinds) and not any(kind.takes(value) for kind in kinds if kind is not None):
        expected = " or ".join(kind.title for kind in kinds if kind is not None)
        raise ConfigError(
            f"{name} is {reprlib.repr(value)}, expected {expected}",
            hint=f"pass {name}= as {expected}, or leave it out",
        )


@dataclass(frozen=True)
class _Kind:
    """One part of a type: what it is called, and whether a value is of it."""

    title: str
    takes: Callable[[Any], bool]


def _kind(part: Any) -> _Kind | None:
    """The kind that a part of a type stands for; None where values cannot be told by it."""
    if part in _KINDS:
        return _KINDS[part]
    if get_origin(part) is Literal:
        return _Kind(" or ".join(map(repr, get_args(part))), lambda value: value in get_args(part))
    if part == Sequence[str]:
        return _Kind("a sequence of strings", _are_strings)
    if get_origin(part) in _GENERIC:
        return _GENERIC[get_origin(part)]
    # Python 3.10 takes tuple[int, int] for a type, which isinstance then refuses.
    if get_origin(part) is None and isinstance(part, type) and part is not Any:
        return _Kind(part.__name__, lambda value: isinstance(value, part))
    return None


def _are_strings(value: object) -> bool:
    """Whether `value` is a sequence of strings; what can be read only once is believed to be."""
    if isinstance(value, (bytes, bytearray, memoryview)) or not isinstance(value, Iterable):
        return False
    return not isinstance(value, Collection) or all(isinstance(one, str) for one in value)


_GENERIC: Mapping[Any, _Kind] = {
    os.PathLike: _Kind("a path", lambda value: isinstance(value, os.PathLike)),
    Sequence: _Kind("a sequence", lambda value: isinstance(value, Iterable)),
    Mapping: _Kind("a dict", lambda value: isinstance(value, Mapping)),
    Callable: _Kind("a function", callable),
}

_KINDS: Mapping[Any, _Kind] = {
    int: _Kind("a whole number", lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    float: _Kind("a number", lambda value: isinstance(value, Real) and not isinstance(value, bool)),
    bool: _Kind("True or False", lambda value: isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")),
    str: _Kind("a string", lambda value: isinstance(value, str)),
    type(None): _Kind("None", lambda value: value is None),
}


def _signature(function: Callable[..., Any], group: type) -> inspect.Signature:
    """That of a function, with the keywords of a group in place of `**options`."""
    own = inspect.signature(function)
    *named, _ = own.parameters.values()
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=keyword.default, annotation=_type(group.__annotations__[name])
        )
        for name, keyword in keywords_of(group).items()
    ]
    return own.replace(parameters=[*named, *added])


def _type(annotation: Any) -> str:
    """The type in `Annotated[type, Keyword(...)]` as it is written, which is how signatures have the others."""
    annotated = ast.parse(annotation.__forward_arg__, mode="eval").body
    return ast.unparse(cast("Any", annotated).slice.elts[0])


def _unknown(name: str, function: str, known: list[str], listed: str | None = None) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {close[0]!r}?" if close else listed or f"help(onnxq.{function}) lists those there are"
    return f"{function}() got an unexpected keyword argument {name!r}; {guess}"


def _documented(docstring: str | None, keywords: Mapping[str, Keyword]) -> str | None:
    """A docstring with an item for each keyword in place of the item `options`."""
    if docstring is None:  # python -OO
        return None
    items = "\n".join(_wrapped(f"{name}: {keyword.meaning}") for name, keyword in keywords.items())
    return _OPTIONS_ITEM.sub(lambda _: items, inspect.cleandoc(docstring))
