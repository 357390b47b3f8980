"""Names as a user gives them: literally, as a shell-style pattern, or as a regular expression.

/head/conv1         the thing of exactly this name
/head/*             `*`, `?` and `[...]` as in a shell, matched against the whole name
re:/head/conv\\d+    a Python regular expression behind `re:`, matched against the whole name
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable

from onnxq.errors import ConfigError

REGEX = "re:"


def several(given: str | Iterable[str]) -> tuple[str, ...]:
    """What a user gives as one pattern or several: one string is one pattern and not its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def selected(pattern: str, names: Iterable[str], *, where: str = "") -> tuple[str, ...]:
    """Those of `names` that `pattern` means, in their order; a name that is exactly the pattern is the only one.

    Raises:
        ConfigError: the regular expression is none, or the pattern is no string.

    >>> selected("conv?", ["conv1", "conv2", "relu"]), selected("re:.*[12]", ["conv1", "relu"])
    (('conv1', 'conv2'), ('conv1',))
    """
    listed = tuple(names)
    if not isinstance(pattern, str):
        raise ConfigError(f"a name or pattern is a string, not {pattern!r}", where=where or None)
    if pattern in listed:
        return (pattern,)
    if not pattern.startswith(REGEX):
        return tuple(name for name in listed if fnmatch.fnmatchcase(name, pattern))
    try:
        compiled = re.compile(pattern.removeprefix(REGEX))
    except re.error as error:
        raise ConfigError(
            f"{pattern!r} is not a regular expression: {error}",
            where=where or None,
            hint="without `re:` in front, `*` and `?` are shell-style patterns",
        ) from error
    return tuple(name for name in listed if compiled.fullmatch(name))


def unmatched(kind: str, given: str, known: Collection[str], where: str, *, gone: Collection[str] = ()) -> ConfigError:
    """The error for a pattern that means nothing, with names that are close.

    Args:
        kind: What was looked for: "node", "operator", "tensor".
        given: The pattern.
        known: What there is.
        where: The argument and the option.
        gone: Names that were in the model before its constants, BatchNormalizations and so on were folded.
    """
    if selected(given, gone):
        return ConfigError(
            f"{kind} {given!r} is not there any more: it was folded into others before planning",
            where=where,
            hint="`onnxq plan MODEL` lists what is left; name the node that took it in",
        )
    plan = "`onnxq plan MODEL --tensors` lists them" if "tensor" in kind else "`onnxq plan MODEL` lists all names"
    return _no_match(kind, given, known, where, plan)


def unmatched_filter(kind: str, given: str, known: Collection[str], option: str) -> ConfigError:
    """The error for a pattern that picks none of the rows to show. Arguments as for `unmatched`."""
    return _no_match(kind, given, known, option, f"without {option} all are listed")


def _no_match(kind: str, given: str, known: Collection[str], where: str, otherwise: str) -> ConfigError:
    close = difflib.get_close_matches(given, list(known), n=3)
    hint = f"did you mean {', '.join(map(repr, close))}?" if close else otherwise
    return ConfigError(f"no {kind} of the model matches {given!r}", where=where, hint=hint)
