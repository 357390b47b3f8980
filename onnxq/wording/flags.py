"""Options as messages name them: each as Python argument and, in brackets behind it, as flag of the command line."""

from __future__ import annotations

import re

_OTHER_NAMES = {
    "tensorrt_cache": "calibration-cache",
    "exclude_ops": "exclude-op",
    "include_ops": "include-op",
    "overrides": "override",
    "providers": "ep",
}

_VALUE = r"(?:'[^']*'|\w*\([^()]*\)|[\w.%]+)"
_ARGUMENT = rf"[a-z]\w*={_VALUE}?"
_BOTH = re.compile(rf"({_ARGUMENT}(?:(?:, or |, | or | and )(?:{_ARGUMENT}|'[^']*'))*) \((--[^()]+)\)")


def flag_of(argument: str) -> str:
    """The flag of an argument of `onnxq.quantize`.

    >>> flag_of("min_int8"), flag_of("exclude_ops")
    ('--min-int8', '--exclude-op')
    """
    return f"--{_OTHER_NAMES.get(argument, argument.replace('_', '-'))}"


def flags_first(text: str) -> str:
    """A message for the command line, where the flag comes first and the argument stands in brackets.

    >>> flags_first("pass data=... (--data SRC), or mode='dynamic' (--mode dynamic)")
    "pass --data SRC (data=...), or --mode dynamic (mode='dynamic')"
    """
    return _BOTH.sub(r"\2 (\1)", text)
